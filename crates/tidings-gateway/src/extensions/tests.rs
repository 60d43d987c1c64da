//! Extensions on two replicas of which neither knows what the other does, and what a crash leaves.

use tidings_event::ExtensionId;

use tidings_plugin::{Handler, HandlerError, PlatformEvent, PlatformEventHandler};
use uuid::Uuid;

use super::*;
use crate::access::user;
use crate::subscriptions::{Change, verifying};
use crate::{Gateway, Limits, Parts, in_memory};

const NOW: i64 = 1_700_000_000_000;

/// Two gateways on one store, with a workspace; they hear nothing of each other.
async fn replicas() -> (Store, Gateway, Gateway) {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(in_memory::bus(&clock));
    let open = async || {
        let parts = in_memory::parts_on(bus.clone(), store.clone(), &clock).await;
        Gateway::open(parts).await.unwrap()
    };
    let one = open().await;
    let caller = admin();
    one.workspaces.admit(&caller).await.unwrap();
    make_without_chat(&one).await;
    let other = open().await;
    (store, one, other)
}

/// Makes the workspace, and takes away the chat that it comes with.
async fn make_without_chat(at: &Gateway) {
    assert!(make(at, "ws-1").await.unwrap());
    let chat = chat::ID.parse().unwrap();
    let removed = at.extensions.delete(&admin(), "ws-1", &chat).await;
    removed.unwrap();
}

async fn make(at: &Gateway, workspace: &str) -> Result<bool, Refusal> {
    let (caller, id) = (admin(), workspace.parse().unwrap());
    let tenant = caller.tenant().unwrap();
    at.extensions.make_workspace(&caller, tenant, &id).await
}

fn admin() -> Caller {
    user("acme", "ada", true)
}

fn id() -> ExtensionId {
    "crm".parse().unwrap()
}

async fn put(at: &Gateway, enabled: bool) {
    let new = NewExtension {
        kind: EXTERNAL.to_owned(),
        service_base_url: Some("http://127.0.0.1:9".to_owned()),
        installed: true,
        enabled,
        replay_from: None,
    };
    let (caller, id) = (admin(), id());
    let put = at.extensions.put(&caller, "ws-1", &id, new);
    put.await.unwrap();
}

/// The subscription that stands for one, and its secret.
async fn subscribed(at: &Gateway, event_key: &str) -> (Uuid, String) {
    let (caller, id, event_key) = (admin(), id(), event_key.parse().unwrap());
    let rooms = &at.extensions;
    let subscribed = rooms.subscribe(&caller, "ws-1", &id, &event_key, None);
    let subscribed = subscribed.await.unwrap();
    let secret = subscribed.secret.unwrap();
    (subscribed.row.subscription.unwrap(), secret.to_string())
}

/// The tenant's subscriptions and their states, as they are kept.
async fn kept(store: &Store) -> Vec<(Uuid, String)> {
    let tenant = "acme".parse().unwrap();
    let rows = store.subscriptions().list(&tenant, None, 9).await.unwrap();
    let mut rows: Vec<_> = rows.into_iter().map(|row| (row.id, row.state)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn a_replica_that_has_heard_nothing_yet_finds_what_another_has_made() {
    let (store, one, other) = replicas().await;
    put(&one, true).await;
    let first = subscribed(&one, "crm.deal.closed").await;
    assert_eq!(subscribed(&other, "crm.deal.closed").await, first);
    let second = subscribed(&other, "crm.deal.opened").await;
    assert_eq!(second.1, first.1, "an extension keeps one secret");
    let ids = std::collections::BTreeSet::from([first.0, second.0]);
    let stand = |state: &str| -> Vec<_> { ids.iter().map(|id| (*id, state.to_owned())).collect() };
    assert_eq!(kept(&store).await, stand("active"));
    put(&other, false).await;
    assert_eq!(kept(&store).await, stand("paused"));
    put(&one, true).await;
    assert_eq!(kept(&store).await, stand("active"));
    let gone = one.extensions.delete(&admin(), "ws-1", &id()).await;
    gone.unwrap();
    assert_eq!(kept(&store).await, []);
}

#[tokio::test]
async fn a_rotation_that_ended_half_way_is_finished_and_takes_no_secret_from_the_receiver() {
    let (_, one, _) = replicas().await;
    put(&one, true).await;
    let (first, old) = subscribed(&one, "crm.deal.closed").await;
    let second = subscribed(&one, "crm.deal.opened").await.0;
    let hour = std::time::Duration::from_hours(1);
    let change = Change::Rotate {
        secret: None,
        overlap: hour,
    };
    let (caller, tenant, crm) = (admin(), "acme".parse().unwrap(), id());
    let rooms = &one.subscriptions;
    let half = rooms.rotate_of(&caller, &tenant, first, &change).await;
    let half = half.unwrap().expect("it is there");
    let rotate =
        |secret: Option<String>| one.extensions.rotate(&caller, "ws-1", &crm, secret, hour);
    let good = |id: Uuid| -> Vec<String> {
        let standing = rooms.standing(id).expect("it stands");
        let secrets = verifying(&standing, NOW).into_iter();
        secrets.map(|(secret, _)| secret.to_string()).collect()
    };
    let newest = half[0].0.to_string();
    for secret in [None, Some(newest.clone())] {
        // The second time is a repeat of one whose answer was lost.
        let finished = rotate(secret).await.unwrap();
        assert_eq!(*finished[0].0, newest);
        for id in [first, second] {
            assert_eq!(good(id), [newest.clone(), old.clone()]);
        }
    }
    let another = rotate(None).await.unwrap()[0].0.to_string();
    assert_ne!(another, newest);
    for id in [first, second] {
        assert_eq!(good(id), [another.clone(), newest.clone()]);
    }
}

#[tokio::test]
async fn what_a_crash_left_without_a_row_goes_with_the_next_change() {
    let (store, one, _) = replicas().await;
    put(&one, true).await;
    let (workspace, key) = ("ws-1".parse().unwrap(), "crm.deal.closed".parse().unwrap());
    let lost = subscribed(&one, "crm.deal.closed").await.0;
    let rows = store.extensions();
    let crm = id();
    let crash = rows.delete_subscription(&workspace, &crm, &key);
    assert!(crash.await.unwrap());
    put(&one, false).await;
    assert_eq!(kept(&store).await, []);

    // The other way about: the row is there, and its subscription was never made.
    let row = ExtensionSubscriptionRow {
        workspace,
        extension: id(),
        event_key: key,
        subscription: Some(lost),
        created_at_ms: NOW,
    };
    rows.put_subscription(&row).await.unwrap();
    put(&one, true).await;
    let (made, _) = subscribed(&one, "crm.deal.closed").await;
    assert_eq!(kept(&store).await, [(made, "active".to_owned())]);
}

/// Handles three events.
struct Three;

impl PlatformEventHandler for Three {
    fn extension(&self) -> &'static str {
        "three"
    }

    fn handlers(&self) -> Vec<Handler> {
        let keys = ["crm.deal.closed", "crm.deal.lost", "crm.deal.opened"];
        keys.map(|key| Handler::new(key, true)).into()
    }

    fn handle(&self, _: &PlatformEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// A gateway whose tenants may have so many, with a workspace, and its store.
async fn with_room_for(most: usize) -> (Store, Gateway) {
    let clock = Clock::manual(NOW);
    let parts = Parts {
        limits: Limits::new(0, 0, 100, most),
        plugins: vec![Arc::new(Three)],
        ..in_memory::parts(&clock).await
    };
    let store = parts.store.clone();
    let gateway = Gateway::open(parts).await.unwrap();
    let caller = admin();
    gateway.workspaces.admit(&caller).await.unwrap();
    make_without_chat(&gateway).await;
    (store, gateway)
}

async fn put_three(at: &Gateway) -> Result<ExtensionRow, Refusal> {
    put_within(at, &"three".parse().unwrap()).await
}

/// Installs a plugin.
async fn put_within(at: &Gateway, id: &ExtensionId) -> Result<ExtensionRow, Refusal> {
    let new = NewExtension {
        kind: IN_PROCESS.to_owned(),
        service_base_url: None,
        installed: true,
        enabled: true,
        replay_from: None,
    };
    at.extensions.put(&admin(), "ws-1", id, new).await
}

#[tokio::test]
async fn a_plugin_for_which_there_is_no_room_leaves_nothing() {
    let (store, gateway) = with_room_for(2).await;
    let refused = put_three(&gateway).await.unwrap_err();
    assert_eq!(refused.code, tidings_event::Code::RateLimited);
    assert_eq!(kept(&store).await, []);
    let workspace = "ws-1".parse().unwrap();
    let rows = store.extensions().subscriptions(&workspace, None).await;
    assert_eq!(rows.unwrap(), []);

    let (store, gateway) = with_room_for(3).await;
    put_three(&gateway).await.unwrap();
    put_three(&gateway).await.unwrap();
    assert_eq!(kept(&store).await.len(), 3, "all fit, and count once");
}

#[tokio::test]
async fn an_event_for_which_there_is_no_room_leaves_no_row() {
    let (store, gateway) = with_room_for(1).await;
    put(&gateway, true).await;
    subscribed(&gateway, "crm.deal.closed").await;
    let (caller, id, key) = (admin(), id(), "crm.deal.opened".parse().unwrap());
    let rooms = &gateway.extensions;
    let refused = rooms.subscribe(&caller, "ws-1", &id, &key, None).await;
    assert_eq!(refused.unwrap_err().code, tidings_event::Code::RateLimited);
    let workspace = "ws-1".parse().unwrap();
    let rows = store.extensions().subscriptions(&workspace, None).await;
    assert_eq!(rows.unwrap().len(), 1);
    subscribed(&gateway, "crm.deal.closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_two_replicas_change_at_once_keeps_one_secret() {
    let (clock, url) = (Clock::system(), crate::replicas::tests::new_schema());
    let bus = Arc::new(in_memory::bus(&clock));
    let open = async || {
        let store = Store::connect(&url).await.unwrap();
        let parts = in_memory::parts_on(bus.clone(), store, &clock).await;
        Arc::new(Gateway::open(parts).await.unwrap())
    };
    let one = open().await;
    let caller = admin();
    one.workspaces.admit(&caller).await.unwrap();
    make_without_chat(&one).await;
    let both = [one, open().await];
    put(&both[0], true).await;
    let asking = (0..8).map(|index| {
        let at = both[index % 2].clone();
        // Each event is asked for at both.
        tokio::spawn(async move { subscribed(&at, &format!("crm.deal.n{}", index / 2)).await })
    });
    let mut ids = std::collections::BTreeSet::new();
    let mut secrets = std::collections::BTreeSet::new();
    for asked in asking.collect::<Vec<_>>() {
        let (id, secret) = asked.await.unwrap();
        ids.insert(id);
        secrets.insert(secret);
    }
    assert_eq!((ids.len(), secrets.len()), (4, 1));
    let store = Store::connect(&url).await.unwrap();
    assert_eq!(kept(&store).await.len(), 4);
}

#[tokio::test]
async fn a_workspace_has_so_many_extensions() {
    let (store, one, _other) = replicas().await;
    for number in 0..MAX_EXTENSIONS {
        let row = ExtensionRow {
            workspace: "ws-1".parse().unwrap(),
            id: format!("e{number}").parse().unwrap(),
            kind: EXTERNAL.to_owned(),
            service_base_url: Some("http://127.0.0.1:9".to_owned()),
            installed: true,
            enabled: true,
            updated_at_ms: NOW,
        };
        store.extensions().put(&row, &[]).await.unwrap();
    }
    let new = |enabled: bool| NewExtension {
        kind: EXTERNAL.to_owned(),
        service_base_url: Some("http://127.0.0.1:9".to_owned()),
        installed: true,
        enabled,
        replay_from: None,
    };
    let (caller, rooms) = (admin(), &one.extensions);
    let refusal = rooms.put(&caller, "ws-1", &id(), new(true)).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code, tidings_event::Code::RateLimited);
    assert_eq!(refusal.limit.as_deref(), Some(&(200, 201)));
    let first = "e0".parse().unwrap();
    let changed = rooms.put(&caller, "ws-1", &first, new(false)).await;
    assert!(!changed.unwrap().enabled);
    rooms.delete(&caller, "ws-1", &first).await.unwrap();
    put(&one, true).await;
}

/// A gateway whose tenants may have so many, with a tenant and no workspace.
async fn with_a_tenant(most: usize) -> (Store, Gateway) {
    let parts = Parts {
        limits: Limits::new(0, 0, 100, most),
        ..in_memory::parts(&Clock::manual(NOW)).await
    };
    let store = parts.store.clone();
    let gateway = Gateway::open(parts).await.unwrap();
    gateway.workspaces.admit(&admin()).await.unwrap();
    (store, gateway)
}

#[tokio::test]
async fn a_new_workspace_has_chat_as_if_it_was_put() {
    let (store, gateway) = with_a_tenant(9).await;
    assert!(make(&gateway, "ws-1").await.unwrap());
    let (workspace, id) = ("ws-1".parse().unwrap(), chat::ID.parse().unwrap());
    let by_itself = gateway.extensions.get(&admin(), "ws-1", &id).await.unwrap();
    let rows = async || {
        let rows = store.extensions();
        rows.subscriptions(&workspace, None).await.unwrap()
    };
    let gets = rows().await;
    let standing = gateway.extensions.standing(&gets[0]).unwrap();
    assert_eq!(gets.len(), 1);
    assert_eq!(gets[0].event_key.as_str(), "platform.notification");
    assert_eq!(kept(&store).await, [(standing.id, "active".to_owned())]);

    gateway
        .extensions
        .delete(&admin(), "ws-1", &id)
        .await
        .unwrap();
    let put = put_within(&gateway, &id).await.unwrap();
    assert_eq!(put, by_itself);
    let gets = rows().await;
    let as_put = gateway.extensions.standing(&gets[0]).unwrap();
    assert_eq!(
        (&as_put.document, &as_put.start.owner),
        (&standing.document, &standing.start.owner)
    );
    assert_eq!(kept(&store).await, [(as_put.id, "active".to_owned())]);
}

#[tokio::test]
async fn what_becomes_of_the_chat_of_a_workspace_stays_when_its_making_is_repeated() {
    let (store, gateway) = with_a_tenant(9).await;
    assert!(make(&gateway, "ws-1").await.unwrap());
    let id: ExtensionId = chat::ID.parse().unwrap();
    let off = NewExtension {
        kind: IN_PROCESS.to_owned(),
        service_base_url: None,
        installed: true,
        enabled: false,
        replay_from: None,
    };
    let put = gateway.extensions.put(&admin(), "ws-1", &id, off).await;
    put.unwrap();
    assert!(!make(&gateway, "ws-1").await.unwrap());
    let stands = gateway.extensions.get(&admin(), "ws-1", &id).await;
    assert!(!stands.unwrap().enabled);
    assert_eq!(kept(&store).await[0].1, "paused");
    gateway
        .extensions
        .delete(&admin(), "ws-1", &id)
        .await
        .unwrap();
    assert!(!make(&gateway, "ws-1").await.unwrap());
    let stands = gateway.extensions.get(&admin(), "ws-1", &id).await;
    assert_eq!(stands.unwrap_err().code, tidings_event::Code::NotFound);
    assert_eq!(kept(&store).await, []);
}

#[tokio::test]
async fn the_chat_of_its_workspaces_takes_no_room_from_a_tenants_extensions() {
    let (store, gateway) = with_a_tenant(1).await;
    assert!(make(&gateway, "ws-1").await.unwrap());
    put(&gateway, true).await;
    subscribed(&gateway, "crm.deal.closed").await;
    assert!(make(&gateway, "ws-2").await.unwrap());
    let chat = chat::ID.parse().unwrap();
    let removed = gateway.extensions.delete(&admin(), "ws-1", &chat).await;
    removed.unwrap();
    put_within(&gateway, &chat).await.unwrap();
    assert_eq!(kept(&store).await.len(), 3);
    let (caller, id, key) = (admin(), id(), "crm.deal.opened".parse().unwrap());
    let rooms = &gateway.extensions;
    let refused = rooms.subscribe(&caller, "ws-1", &id, &key, None).await;
    assert_eq!(refused.unwrap_err().code, tidings_event::Code::RateLimited);
}

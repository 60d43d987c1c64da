//! Extensions on two replicas of which neither knows what the other does, and what a crash leaves.

use tidings_event::ExtensionId;

use super::*;
use crate::access::user;
use crate::{Gateway, in_memory};

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
    let (tenant, id) = (caller.tenant().unwrap(), "ws-1".parse().unwrap());
    one.workspaces.put(&caller, tenant, &id).await.unwrap();
    let other = open().await;
    (store, one, other)
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

//! What the outbox goes through: a process that died, a bus that is away, and its return.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_event::{ModuleId, Service};
use tidings_store::{OutboxRow, Store};
use uuid::Uuid;

use crate::Gateway;
use crate::access::on_behalf_of;
use crate::clock::Clock;
use crate::events::Query;
use crate::in_memory::{self, Troubled};

const NOW: i64 = 1_700_000_000_000;
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A bus that a test can send away.
fn bus() -> Arc<Troubled> {
    Arc::new(Troubled::new(Arc::new(in_memory::bus(&Clock::manual(NOW)))))
}

async fn gateway(bus: &Arc<Troubled>, store: &Store) -> Gateway {
    let parts = in_memory::parts_on(bus.clone(), store.clone(), &Clock::manual(NOW)).await;
    Gateway::open(parts).await.unwrap()
}

/// Runs the relay until nothing waits.
async fn relayed(gateway: &Gateway, store: &Store) {
    let emptied = async {
        let deadline = Instant::now() + PATIENCE;
        while !store.outbox().waiting(0, 1).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the outbox was not worked off");
            tokio::task::yield_now().await;
        }
    };
    gateway.outbox.relay(emptied).await;
}

/// The types of the tenant's events, in their order.
async fn types(gateway: &Gateway, tenant: &str) -> Vec<String> {
    let caller = on_behalf_of(Service::Audit, tenant.parse().unwrap());
    let query = Query {
        limit: 100,
        ..Query::default()
    };
    let page = gateway.events.list(&caller, &query).await.unwrap();
    let types = page.items.iter();
    types
        .map(|placed| placed.event.event_type.as_str().to_owned())
        .collect()
}

fn manifest(version: &str) -> String {
    format!(r#"{{"id":"crm","version":"{version}","events":{{"publishes":["crm.a.b"]}}}}"#)
}

fn waiting(event_type: &str) -> OutboxRow {
    OutboxRow {
        id: Uuid::now_v7(),
        service: Service::Audit,
        tenant: "acme".parse().unwrap(),
        event_type: event_type.parse().unwrap(),
        data: r#"{"n":1}"#.into(),
        created_at_ms: NOW,
    }
}

#[tokio::test]
async fn what_a_dead_process_left_is_published_once_however_often_it_is_tried() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let crm: ModuleId = "crm".parse().unwrap();
    let (row, document) = (waiting("audit.manifest.written"), manifest("1.0.0"));
    // Twice: the second time as if the process had died between publishing and taking out.
    for round in 0..2 {
        let manifests = store.manifests();
        let events = [row.clone()];
        let kept = manifests.put(&crm, "1.0.0", &document, round, &events);
        kept.await.unwrap();
        let gateway = gateway(&bus, &store).await;
        relayed(&gateway, &store).await;
        assert_eq!(types(&gateway, "acme").await, ["audit.manifest.written"]);
    }
}

#[tokio::test]
async fn a_change_while_the_bus_is_away_is_made_and_told_of_later_in_order() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let gateway = gateway(&bus, &store).await;
    let crm: ModuleId = "crm".parse().unwrap();
    let install = async |version: &str| {
        let manifests = &gateway.manifests;
        manifests.install(&crm, &manifest(version)).await.unwrap()
    };
    assert!(install("1.0.0").await);
    let both = ["module.registry.manifest.updated", "audit.manifest.written"];
    assert_eq!(types(&gateway, "platform").await, both);
    assert!(!install("1.0.0").await, "the same again changes nothing");

    bus.is_away(true);
    assert!(install("1.0.1").await);
    assert!(install("1.0.2").await);
    assert_eq!(types(&gateway, "platform").await, both);
    assert_eq!(store.outbox().waiting(0, 9).await.unwrap().len(), 4);
    let listed = gateway.manifests.list().await.unwrap();
    assert_eq!(listed[0].version, "1.0.2");
    bus.is_away(false);
    relayed(&gateway, &store).await;
    assert_eq!(types(&gateway, "platform").await, both.repeat(3));
}

#[tokio::test]
async fn what_is_not_taken_of_one_tenant_holds_up_that_tenant_alone() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let gateway = gateway(&bus, &store).await;
    let of = |tenant: &str, event_type: &str| OutboxRow {
        tenant: tenant.parse().unwrap(),
        ..waiting(event_type)
    };
    let written = "audit.manifest.written";
    let events = [
        of("acme", written),
        of("globex", written),
        of("acme", "audit.manifest.removed"),
    ];
    store.outbox().add(&events).await.unwrap();
    bus.takes_nothing_of(Some("acme"));
    gateway.outbox.deliver().await;
    assert_eq!(types(&gateway, "globex").await, [written]);
    assert_eq!(types(&gateway, "acme").await, Vec::<String>::new());
    assert_eq!(bus.refused(), 1, "its second waits for its first");
    bus.takes_nothing_of(None);
    relayed(&gateway, &store).await;
    assert_eq!(
        types(&gateway, "acme").await,
        [written, "audit.manifest.removed"]
    );
}

#[tokio::test]
async fn a_change_is_answered_and_others_are_made_while_the_bus_answers_nothing() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let gateway = gateway(&bus, &store).await;
    store
        .outbox()
        .add(&[waiting("audit.manifest.written")])
        .await
        .unwrap();
    bus.hangs(true);
    let crm: ModuleId = "crm".parse().unwrap();
    let manifests = gateway.manifests.clone();
    let changed = tokio::spawn(async move { manifests.install(&crm, &manifest("1.0.0")).await });
    while gateway
        .manifests
        .in_force(&"crm".parse().unwrap())
        .is_none()
    {
        tokio::task::yield_now().await;
    }
    // What follows others' changes takes the same lock.
    gateway.manifests.reload().await.unwrap();
    assert!(!changed.is_finished(), "it still waits for the bus");
    assert!(changed.await.unwrap().unwrap());
    assert_eq!(store.outbox().waiting(0, 9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_relay_tries_again_while_the_bus_is_away_and_stops_when_asked() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let gateway = gateway(&bus, &store).await;
    let crm: ModuleId = "crm".parse().unwrap();
    bus.is_away(true);
    let document = manifest("1.0.0");
    gateway.manifests.install(&crm, &document).await.unwrap();
    let back = async {
        // Once for the change itself and once for the relay; a later round does not fail.
        let deadline = Instant::now() + PATIENCE;
        while bus.refused() < 2 {
            assert!(Instant::now() < deadline, "the relay did not try");
            tokio::task::yield_now().await;
        }
        bus.is_away(false);
    };
    tokio::join!(relayed(&gateway, &store), back);
    assert_eq!(types(&gateway, "platform").await.len(), 2);
    bus.is_away(true);
    gateway.outbox.relay(std::future::ready(())).await;
}

#[tokio::test]
async fn an_event_that_can_never_be_published_does_not_hold_up_the_others() {
    let (bus, store) = (bus(), Store::in_memory().await.unwrap());
    let crm: ModuleId = "crm".parse().unwrap();
    // Service audit may not publish another's event, and a text is no JSON.
    let foreign = waiting("auth.user.created");
    let torn = OutboxRow {
        data: "{".into(),
        ..waiting("audit.manifest.written")
    };
    let good = waiting("audit.manifest.removed");
    let events = [foreign, torn, good];
    let manifests = store.manifests();
    let document = manifest("1.0.0");
    let kept = manifests.put(&crm, "1.0.0", &document, NOW, &events);
    kept.await.unwrap();
    let gateway = gateway(&bus, &store).await;
    relayed(&gateway, &store).await;
    assert_eq!(types(&gateway, "acme").await, ["audit.manifest.removed"]);
}

//! Whom a tenant holds up whose emits the bus does not take, and what an emit that cannot be read does to others.

use tidings_event::Service;
use tidings_event::json::RawJson;
use tidings_store::{Admission, EmitQuery, Store};

use super::*;
use crate::Gateway;
use crate::access::on_behalf_of;
use crate::clock::Clock;
use crate::custom_events::EmitRequest;
use crate::in_memory::{self, Troubled};

const NOW: i64 = 1_764_547_199_000;

async fn emits_on(bus: Arc<Troubled>, store: &Store, clock: &Clock) -> Arc<Emits> {
    let parts = in_memory::parts_on(bus, store.clone(), clock).await;
    Gateway::open(parts).await.unwrap().emits
}

/// Emits that are accepted while the bus is away, in the order of their tenants.
async fn left_over(emits: &Arc<Emits>, clock: &Clock, tenants: &[&str]) {
    for tenant in tenants {
        let (payload, fingerprint) = RawJson::parse(r#"{"kind":"a"}"#).unwrap();
        let request = EmitRequest {
            name: "platformxe.generic".into(),
            version: None,
            payload,
            fingerprint,
            idempotency_key: None,
            causation_id: None,
            traceparent: None,
        };
        let caller = on_behalf_of(Service::Audit, tenant.parse().unwrap());
        let refused = emits.emit(&caller, request).await.unwrap_err();
        assert_eq!(refused.code, Code::BusRelayFailed);
        clock.set(clock.now_ms() + 1);
    }
}

async fn rows(store: &Store, tenant: &str) -> Vec<EmitRow> {
    let query = EmitQuery {
        limit: 99,
        ..EmitQuery::default()
    };
    let rows = store.emits().list(&tenant.parse().unwrap(), &query).await;
    rows.unwrap()
}

async fn are_delivered(store: &Store, tenant: &str) -> bool {
    let rows = rows(store, tenant).await;
    rows.iter().all(|row| row.state == EmitState::Delivered)
}

#[tokio::test]
async fn a_tenant_whose_emits_the_bus_does_not_take_holds_up_nobody_else() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let emits = emits_on(bus.clone(), &store, &clock).await;
    bus.is_away(true);
    left_over(&emits, &clock, &["acme", "acme", "globex", "acme"]).await;
    bus.is_away(false);
    bus.takes_nothing_of(Some("acme"));
    clock.set(NOW + 20_000);
    let before = bus.refused();
    assert!(!look(&emits, None, &mut Notes::default()).await.unwrap());
    assert!(are_delivered(&store, "globex").await);
    assert_eq!(bus.refused(), before + 1, "it is asked once for a tenant");
    for row in rows(&store, "acme").await {
        assert!(matches!(row.state, EmitState::Queued | EmitState::Failed));
        assert!(row.payload.is_some());
        assert!(row.next_at_ms > Some(clock.now_ms()));
    }
    bus.takes_nothing_of(None);
    clock.set(NOW + 90_000);
    look(&emits, None, &mut Notes::default()).await.unwrap();
    assert!(are_delivered(&store, "acme").await);
}

#[tokio::test]
async fn a_bus_that_is_away_is_asked_for_a_few_tenants_only() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let emits = emits_on(bus.clone(), &store, &clock).await;
    bus.is_away(true);
    let tenants: Vec<String> = (0..MOST_FAILED * 3).map(|it| format!("t-{it}")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    left_over(&emits, &clock, &names).await;
    clock.set(NOW + 20_000);
    let before = bus.refused();
    assert!(!look(&emits, None, &mut Notes::default()).await.unwrap());
    assert_eq!(bus.refused(), before + MOST_FAILED);
    bus.is_away(false);
    clock.set(NOW + 90_000);
    look(&emits, None, &mut Notes::default()).await.unwrap();
    for tenant in names {
        assert!(are_delivered(&store, tenant).await, "{tenant}");
    }
}

#[tokio::test]
async fn an_emit_that_cannot_be_read_holds_up_nobody() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let emits = emits_on(bus.clone(), &store, &clock).await;
    bus.is_away(true);
    left_over(&emits, &clock, &["acme", "globex"]).await;
    bus.is_away(false);
    let unreadable = EmitRow {
        event_id: clock.new_id(),
        idempotency_key: "unreadable".into(),
        payload: None,
        next_at_ms: Some(NOW - 1),
        ..rows(&store, "acme").await.remove(0)
    };
    let admission = Admission {
        row: unreadable.clone(),
        month: month(NOW),
        limit: None,
    };
    store.emits().admit(&[admission], &[]).await.unwrap();
    clock.set(NOW + 20_000);
    look(&emits, None, &mut Notes::default()).await.unwrap();
    assert!(are_delivered(&store, "globex").await);
    for row in rows(&store, "acme").await {
        let expected = if row.event_id == unreadable.event_id {
            EmitState::Failed
        } else {
            EmitState::Delivered
        };
        assert_eq!(row.state, expected);
    }
}

/// Whether of each emit that stands on the bus that is written down.
async fn are_noted(emits: &Emits, store: &Store, tenants: &[&str]) -> usize {
    let mut appended = 0;
    for tenant in tenants {
        for row in rows(store, tenant).await {
            let stands = emits.bus.find(row.tenant.clone(), row.event_id).await;
            if stands.unwrap().is_some() {
                appended += 1;
                let waits = matches!(row.state, EmitState::Queued | EmitState::Failed);
                assert!(!waits, "{row:?}");
            }
        }
    }
    appended
}

const TENANTS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[tokio::test]
async fn what_the_bus_has_taken_is_noted_when_the_relay_stops() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let emits = emits_on(bus.clone(), &store, &clock).await;
    bus.is_away(true);
    left_over(&emits, &clock, &TENANTS).await;
    bus.is_away(false);
    clock.set(NOW + 20_000);
    let mut tail = emits.bus.tail();
    tail.mark_unchanged();
    let stopped = async { tail.changed().await.unwrap() };
    relay(emits.clone(), Duration::from_hours(24), stopped).await;
    assert!(are_noted(&emits, &store, &TENANTS).await > 0);
}

#[tokio::test]
async fn what_the_bus_has_taken_is_noted_when_the_turn_goes_to_another() {
    let url = crate::replicas::tests::new_schema();
    let (clock, store) = (Clock::manual(NOW), Store::connect(&url).await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let emits = emits_on(bus.clone(), &store, &clock).await;
    bus.is_away(true);
    for _ in 0..3 {
        left_over(&emits, &clock, &TENANTS).await;
    }
    bus.is_away(false);
    clock.set(NOW + 20_000);
    let replicas = store.replicas().unwrap();
    let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut tail = emits.bus.tail();
    tail.mark_unchanged();
    let taken_over = async {
        tail.changed().await.unwrap();
        while !replicas.take_turn(TURN_NAME, other, TURN).await.unwrap() {
            replicas.end_turn(TURN_NAME, own).await.unwrap();
        }
    };
    let (turns, mut notes) = ((replicas.clone(), own), Notes::default());
    let (looked, ()) = tokio::join!(look(&emits, Some(&turns), &mut notes), taken_over);
    assert!(!looked.unwrap());
    assert!(are_noted(&emits, &store, &TENANTS).await > 0);
}

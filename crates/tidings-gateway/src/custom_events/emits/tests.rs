//! The month of an emit, with a clock that the test moves.

use serde_json::json;
use tidings_event::json::RawJson;

use super::*;
use crate::Gateway;
use crate::custom_events::{Fit, Schema};
use crate::in_memory::{self, Troubled};

/// A second before December.
const NOVEMBER: i64 = 1_764_547_199_000;

fn request(key: Option<&str>) -> EmitRequest {
    let (payload, fingerprint) = RawJson::parse(r#"{"kind":"a"}"#).unwrap();
    EmitRequest {
        name: "platformxe.generic".into(),
        version: None,
        payload,
        fingerprint,
        idempotency_key: key.map(str::to_owned),
        causation_id: None,
        traceparent: None,
    }
}

#[tokio::test]
async fn the_month_begins_anew_at_midnight_of_its_first_and_a_refused_emit_does_not_count() {
    let clock = Clock::manual(NOVEMBER);
    let emits = in_memory::gateway(&clock).await.emits;
    let caller = on_behalf_of(Service::Audit, "acme".parse().unwrap());
    for _ in 0..1_000 {
        emits.emit(&caller, request(None)).await.unwrap();
    }
    let refused = emits.emit(&caller, request(Some("k"))).await.unwrap_err();
    assert_eq!(refused.code, Code::MonthlyEmitQuotaExceeded);
    let used = async || emits.health(&caller, None).await.unwrap().emits;
    assert_eq!(used().await, 1_000);
    clock.set(NOVEMBER + 1_000);
    assert_eq!(used().await, 0);
    let first = emits.emit(&caller, request(Some("k"))).await.unwrap();
    assert!(!first.repeated, "what was refused has left no key behind");
    assert_eq!(used().await, 1);
    let again = emits.emit(&caller, request(Some("k"))).await.unwrap();
    assert_eq!((again.event_id, again.repeated), (first.event_id, true));
    assert_eq!(used().await, 1);
}

#[tokio::test]
async fn an_operator_sees_how_much_of_its_plan_a_tenant_uses() {
    let clock = Clock::manual(NOVEMBER);
    let gateway = in_memory::gateway(&clock).await;
    let acme = on_behalf_of(Service::Audit, "acme".parse().unwrap());
    gateway.workspaces.admit(&acme).await.unwrap();
    gateway.emits.emit(&acme, request(None)).await.unwrap();
    let id = "acme".parse().unwrap();
    let root = crate::access::operator("root");
    let seen = async |caller: &Caller, of| gateway.emits.health(caller, of).await;
    for (caller, of) in [(&root, Some(&id)), (&acme, Some(&id)), (&acme, None)] {
        assert_eq!(seen(caller, of).await.unwrap().emits, 1);
    }
    let unnamed = seen(&root, None).await.unwrap_err();
    assert_eq!(unnamed.field.as_deref(), Some("tenantId"));
    let nobody = "nobody".parse().unwrap();
    let other = crate::access::user("globex", "eve", true);
    for (caller, of) in [(&root, &nobody), (&other, &id), (&acme, &nobody)] {
        let refused = seen(caller, Some(of)).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound);
    }
}

#[tokio::test]
async fn payloads_are_tried_before_it_is_noted_where_they_stand() {
    let clock = Clock::manual(NOVEMBER);
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let parts = in_memory::parts_on(bus.clone(), Store::in_memory().await.unwrap(), &clock).await;
    let gateway = Gateway::open(parts).await.unwrap();
    let caller = on_behalf_of(Service::Audit, "acme".parse().unwrap());
    bus.is_away(true);
    let refused = gateway.emits.emit(&caller, request(None)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::BusRelayFailed);
    let accepted = refused.accepted.expect("what is to be asked after");
    let accepted = &accepted.events[0];
    assert_eq!(accepted.idempotency_key, accepted.event_id.to_string());
    for (kind, failing) in [("string", 0), ("integer", 1)] {
        let schema = json!({ "properties": { "kind": { "type": kind } } });
        let schema = Schema::new(schema).unwrap();
        let path = EventPath::generic();
        let fit = gateway.emits.fit(&caller, &path, &schema).await;
        assert_eq!(fit.unwrap(), Some(Fit { tried: 1, failing }));
    }
}

#[tokio::test]
async fn an_emit_that_the_bus_does_not_find_by_its_time_is_read_where_it_stands() {
    let (clock, store) = (Clock::manual(NOVEMBER), Store::in_memory().await.unwrap());
    let bus = Arc::new(Troubled::new(Arc::new(in_memory::bus(&clock))));
    let parts = in_memory::parts_on(bus.clone(), store.clone(), &clock).await;
    let gateway = Gateway::open(parts).await.unwrap();
    let tenant: TenantId = "acme".parse().unwrap();
    let caller = on_behalf_of(Service::Audit, tenant.clone());
    let emitted = gateway.emits.emit(&caller, request(None)).await.unwrap();
    let is_noted = async || {
        let row = store.emits().of_event(&tenant, emitted.event_id).await;
        row.unwrap().is_some_and(|row| row.place.is_some())
    };
    while !is_noted().await {
        tokio::task::yield_now().await;
    }
    let is_found = async || {
        let found = gateway.events.get(&caller, emitted.event_id).await.unwrap();
        assert_eq!(found.event.event_id, emitted.event_id);
        assert_eq!(found.topic.as_str(), "platform.custom.events");
    };
    bus.finds_nothing();
    is_found().await;
    let other = on_behalf_of(Service::Audit, "globex".parse().unwrap());
    for (caller, id) in [(&caller, Uuid::now_v7()), (&other, emitted.event_id)] {
        let refused = gateway.events.get(caller, id).await.unwrap_err();
        assert_eq!(refused.code, Code::NotFound);
    }
    bus.gives_up();
    is_found().await;
    let unknown = gateway
        .events
        .get(&caller, Uuid::now_v7())
        .await
        .unwrap_err();
    assert_eq!(unknown.code, Code::BrokerUnavailable);
}

#[tokio::test]
async fn a_tenant_is_told_of_its_event_before_its_first_emit() {
    let clock = Clock::manual(NOVEMBER);
    let bus = Arc::new(in_memory::bus(&clock));
    let parts = in_memory::parts_on(bus.clone(), Store::in_memory().await.unwrap(), &clock).await;
    let gateway = Gateway::open(parts).await.unwrap();
    let caller = on_behalf_of(Service::Audit, "acme".parse().unwrap());
    gateway.emits.emit(&caller, request(None)).await.unwrap();
    let records = in_memory::records(&*bus).await.into_iter();
    let types = records.filter_map(|record| Some(record.headers.get("ce_type")?.to_owned()));
    let mut told: Vec<_> = types.collect();
    told.retain(|told| told.starts_with("CUSTOM_EVENT_"));
    let life = [
        "GENERIC_SEEDED",
        "EMIT_REQUESTED",
        "EMIT_RELAYED",
        "EMIT_DELIVERED",
    ];
    assert_eq!(told, life.map(|name| format!("CUSTOM_EVENT_{name}")));
}

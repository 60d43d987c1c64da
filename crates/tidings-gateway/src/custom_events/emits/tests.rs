//! The month of an emit, with a clock that the test moves.

use tidings_event::json::RawJson;

use super::*;
use crate::in_memory;

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
    let used = async || emits.health(&caller).await.unwrap().emits;
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

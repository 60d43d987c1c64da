//! What the attributes write: an event finds its method, with its payload as the method wants it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tidings_plugin::{
    Handler, HandlerError, PlatformEvent, PlatformEventHandler, Publisher, Uuid, event_handlers,
};

#[derive(serde::Deserialize)]
struct Deal {
    amount: u64,
}

#[derive(Default)]
struct Crm {
    seen: Mutex<Vec<u64>>,
}

#[event_handlers(extension = "crm")]
impl Crm {
    #[event_handler(event_key = "crm.deal.closed", async = true)]
    fn closed(&self, deal: Deal, event: &PlatformEvent) -> Result<(), HandlerError> {
        self.note(deal.amount);
        event.publish("crm.deal.noted", &json!({ "of": event.event_id }))?;
        Ok(())
    }

    #[event_handler(event_key = "crm.deal.opened")]
    fn opened(&self, deal: Value, _: &PlatformEvent) -> Result<(), std::num::ParseIntError> {
        let text = deal["amount"].as_str().unwrap_or_default();
        self.note(text.parse()?);
        Ok(())
    }

    fn note(&self, amount: u64) {
        self.seen.lock().unwrap().push(amount);
    }
}

/// Keeps what is published.
#[derive(Default)]
struct Kept(Mutex<Vec<(String, Value)>>);

impl Publisher for Kept {
    fn publish(&self, event_key: &str, payload: Value) -> Result<Uuid, HandlerError> {
        self.0.lock().unwrap().push((event_key.to_owned(), payload));
        Ok(Uuid::nil())
    }
}

fn event(event_key: &str, payload: &Value) -> (PlatformEvent, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let event = PlatformEvent {
        event_id: Uuid::from_u128(1),
        event_key: event_key.parse().unwrap(),
        schema_version: "1.0.0".parse().unwrap(),
        workspace_id: "ws-1".parse().unwrap(),
        tenant_id: "acme".parse().unwrap(),
        actor: "ada".into(),
        occurred_at_ms: 0,
        payload: payload.to_string().into(),
        publisher: kept.clone(),
    };
    (event, kept)
}

#[test]
fn an_event_finds_its_method_and_its_payload_is_of_its_type() {
    let crm = Crm::default();
    assert_eq!(crm.extension(), "crm");
    let expected = [
        Handler::new("crm.deal.closed", true),
        Handler::new("crm.deal.opened", false),
    ];
    assert_eq!(crm.handlers(), expected);
    let (closed, kept) = event("crm.deal.closed", &json!({ "amount": 5 }));
    crm.handle(&closed).unwrap();
    let (opened, _) = event("crm.deal.opened", &json!({ "amount": "7" }));
    crm.handle(&opened).unwrap();
    assert_eq!(*crm.seen.lock().unwrap(), [5, 7]);
    let published = kept.0.lock().unwrap().clone();
    assert_eq!(published[0].0, "crm.deal.noted");
    assert_eq!(published[0].1["of"], json!(Uuid::from_u128(1)));
    let shown = closed.to_json().unwrap();
    assert_eq!(
        (&shown["payload"]["amount"], &shown["occurredAt"]),
        (&json!(5), &json!("1970-01-01T00:00:00.000Z"))
    );
}

#[test]
fn what_does_not_fit_says_so() {
    let crm = Crm::default();
    for (event_key, payload, says) in [
        ("crm.deal.closed", json!({}), "missing field `amount`"),
        ("crm.deal.opened", json!({ "amount": "x" }), "invalid digit"),
        ("crm.deal.lost", json!({}), "no handler for 'crm.deal.lost'"),
    ] {
        let (event, _) = event(event_key, &payload);
        let said = crm.handle(&event).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

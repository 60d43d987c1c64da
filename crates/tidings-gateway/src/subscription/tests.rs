//! What a tenant may write of a subscription, and what it may not.

use serde_json::json;

use super::*;

fn with(path: &str, value: Value) -> Value {
    let mut document =
        json!({ "name": "orders", "target": { "kind": "webhook", "url": "https://a.example/h" } });
    let (parent, member) = path.rsplit_once('/').unwrap();
    for part in parent.split('/').filter(|part| !part.is_empty()) {
        if document.pointer(&format!("/{part}")).is_none() {
            document[part] = json!({});
        }
    }
    document.pointer_mut(parent).unwrap()[member] = value;
    document
}

#[test]
fn a_document_is_read_with_its_defaults_and_without_its_secrets() {
    let mut document = with("/delivery/ordered", json!(true));
    document["delivery"]["key"] = json!("subject");
    document["delivery"]["retry"] = json!({ "maxAttempts": 4, "backoff": "2s", "maxAge": "1h" });
    document["target"]["auth"] = json!({ "kind": "bearer", "token": "s3cret" });
    let wanted = parse(document).unwrap();
    assert_eq!(wanted.delivery.key, Some(Key::Attribute("subject".into())));
    assert_eq!(wanted.delivery.on_exhausted, OnExhausted::Park);
    assert_eq!(wanted.delivery.max_in_flight, 16);
    assert_eq!(wanted.delivery.timeout, Duration::from_secs(15));
    let waits = wanted.delivery.schedule.as_deref().unwrap();
    assert_eq!(waits, [2, 4, 8].map(Duration::from_secs));
    let shown = Value::Object(wanted.document).to_string();
    assert!(
        !shown.contains("s3cret") && shown.contains(r#""auth":{"kind":"bearer"}"#),
        "{shown}"
    );
    assert!(!format!("{:?}", wanted.target).contains("s3cret"));
}

#[test]
fn what_cannot_be_delivered_to_is_refused_with_its_field() {
    for (path, value, field) in [
        ("/name", json!(" "), "name"),
        ("/other", json!(1), "other"),
        ("/filter", json!({ "types": ["A"] }), "filter.types[0]"),
        ("/target/kind", json!("pigeon"), "target.kind"),
        ("/target", json!({ "kind": "federation" }), "target.kind"),
        ("/target", json!({ "kind": "webhook" }), "target.url"),
        ("/replayFrom", json!("now"), "replayFrom"),
        ("/target/url", json!("ftp://a.example"), "target.url"),
        (
            "/target/headers",
            json!({ "a b": "1" }),
            "target.headers.a b",
        ),
        (
            "/target/headers",
            json!({ "x": "a\nb" }),
            "target.headers.x",
        ),
        ("/delivery/ordered", json!(true), "delivery.key"),
        ("/delivery/key", json!("subject"), "delivery.key"),
        (
            "/delivery/onExhausted",
            json!("park"),
            "delivery.onExhausted",
        ),
        ("/delivery/maxInFlight", json!(0), "delivery.maxInFlight"),
        (
            "/delivery/rateLimit",
            json!({ "perSecond": 0 }),
            "delivery.rateLimit.perSecond",
        ),
        ("/delivery/timeout", json!("2h"), "delivery.timeout"),
        ("/delivery/timeout", json!("5"), "delivery.timeout"),
        (
            "/delivery/retry",
            json!({ "schedule": ["0s"] }),
            "delivery.retry.schedule",
        ),
        (
            "/delivery/retry",
            json!({ "backoff": "500ms" }),
            "delivery.retry.backoff",
        ),
        (
            "/delivery/retry",
            json!({ "schedule": ["1s"], "backoff": "500ms" }),
            "delivery.retry.backoff",
        ),
        (
            "/delivery/retry",
            json!({ "schedule": [], "maxAttempts": 1 }),
            "delivery.retry",
        ),
        (
            "/delivery/retry",
            json!({ "maxAttempts": 101 }),
            "delivery.retry",
        ),
        (
            "/delivery/batch",
            json!({ "maxEvents": 0 }),
            "delivery.batch.maxEvents",
        ),
        (
            "/delivery/batch",
            json!({ "maxEvents": 1_001 }),
            "delivery.batch.maxEvents",
        ),
        (
            "/delivery/batch",
            json!({ "maxWait": "61s" }),
            "delivery.batch.maxWait",
        ),
        (
            "/delivery/batch",
            json!({ "maxBytes": 100 }),
            "delivery.batch.maxBytes",
        ),
        (
            "/delivery/batch",
            json!({ "other": 1 }),
            "delivery.batch.other",
        ),
    ] {
        let refusal = parse(with(path, value)).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some(field), "{refusal}");
    }
}

#[test]
fn headers_of_the_message_its_trace_and_the_connection_are_not_a_tenants() {
    let checked = |name: &str| {
        let wanted = parse(with("/target/headers", json!({ name: "1" }))).unwrap();
        let webhook = wanted.target.webhook().unwrap();
        let checked = webhook.check_headers();
        assert_eq!(webhook.own_headers().next().is_some(), checked.is_ok());
        checked
    };
    for name in [
        "webhook-id",
        "Traceparent",
        "Expect",
        "TE",
        "Keep-Alive",
        "upgrade",
    ] {
        let refusal = checked(name).unwrap_err();
        let field = format!("target.headers.{name}");
        assert_eq!(refusal.field.as_deref(), Some(&*field), "{refusal}");
    }
    assert!(checked("x-te").is_ok());
}

#[test]
fn a_member_that_cannot_be_read_is_named() {
    for (path, value, field) in [
        ("/delivery/ordered", json!(null), "delivery.ordered"),
        ("/delivery/maxInFlight", json!(-1), "delivery.maxInFlight"),
        ("/target/url", json!(1), "target.url"),
        (
            "/delivery/retry",
            json!({ "schedule": [1] }),
            "delivery.retry.schedule[0]",
        ),
        (
            "/target/auth",
            json!({ "kind": "pigeon" }),
            "target.auth.kind",
        ),
    ] {
        let refusal = parse(with(path, value)).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some(field), "{refusal}");
    }
}

#[test]
fn a_credential_that_cannot_be_sent_is_refused() {
    let check = |auth: Value| {
        // What is kept already is read all the same.
        let wanted = parse(with("/target/auth", auth)).unwrap();
        let auth = wanted.target.webhook().and_then(|it| it.auth.clone());
        auth.unwrap().check()
    };
    let bearer = |token: &str| json!({ "kind": "bearer", "token": token });
    let basic = |name: &str, password: &str| json!({ "kind": "basic", "username": name, "password": password });
    for (auth, field) in [
        (bearer("abc\n"), "target.auth.token"),
        (bearer("a\u{0}"), "target.auth.token"),
        (bearer("a b"), "target.auth.token"),
        (bearer(""), "target.auth.token"),
        (basic("a:b", "c"), "target.auth.username"),
        (basic("a\t", "c"), "target.auth.username"),
        (basic("a", "c\n"), "target.auth.password"),
    ] {
        let refusal = check(auth).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some(field), "{refusal}");
    }
    for auth in [bearer("a.b-c_d~e+f/g="), basic("ä", "p: ä")] {
        check(auth).unwrap();
    }
}

#[test]
fn batches_are_for_webhooks_whose_format_has_them() {
    let mut document = with("/delivery/batch", json!({ "maxWait": "2s" }));
    let batch = parse(document.clone()).unwrap().delivery.batch.unwrap();
    assert_eq!((batch.max_events, batch.max_bytes), (100, 1_048_576));
    assert_eq!(batch.max_wait, Duration::from_secs(2));
    document["target"]["format"] = json!("cloudevents-binary");
    let refusal = parse(document.clone()).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("target.format"));
    document["target"] = json!({ "kind": "topic", "topic": "copies" });
    let refusal = parse(document).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("delivery.batch"));
}

#[test]
fn durations_have_days_and_bounds_that_people_read() {
    let (day, month) = (Duration::from_hours(24), Duration::from_hours(720));
    assert_eq!(duration("overlap", "30d", month), Ok(month));
    assert_eq!(duration_or_none("overlap", "0s", month), Ok(Duration::ZERO));
    let detail = |text: &str, longest| duration("overlap", text, longest).unwrap_err().detail;
    assert!(detail("31d", month).ends_with("30 days at most."));
    assert!(detail("0s", day).ends_with("1 day at most."));
    assert!(detail("2m", Duration::from_mins(1)).ends_with("1 minute at most."));
    assert!(detail("2m", Duration::from_secs(90)).ends_with("90 seconds at most."));
}

#[test]
fn a_member_that_is_null_is_absent_and_one_that_is_missing_is_named() {
    let mut document = json!({ "name": "crm", "target": { "kind": "topic", "topic": "a.b" } });
    document["requireConformance"] = Value::Null;
    let wanted = parse(document.clone()).unwrap();
    assert!(!wanted.document.contains_key("requireConformance"));
    document.as_object_mut().unwrap().remove("name");
    let refusal = parse(document).unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("name"));
    assert_eq!(refusal.detail, "The field 'name' is missing.");
}

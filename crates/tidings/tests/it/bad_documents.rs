//! What could be guessed, and is refused instead: documents by position, keys that do not count, places that are hard to find.

use serde_json::{Value, json};

use crate::harness::{Answer, BATCH, PUBLISH, Server};
use crate::receiver::eventually;

fn written(server: &Server, method: &str, path: &str, token: &str, body: &Value) -> Answer {
    server.call(method, path).bearer(token).json(body).send()
}

/// What derives its reading would take the values of its members in their order.
#[test]
fn an_array_is_no_document() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let target = json!({ "kind": "webhook", "url": "https://example.com/hook" });
    let subscription = |change: &dyn Fn(&mut Value)| {
        let mut document = json!({ "name": "s", "filter": {}, "target": target, "delivery": {} });
        change(&mut document);
        document
    };
    let manifest = "/v1/modules/x9/manifest";
    let registrations = "/v1/events/custom/registrations";
    for (method, path, token, document) in [
        (
            "PUT",
            "/v1/tenants/acme",
            &operator,
            json!([null, "PRO", null]),
        ),
        (
            "PUT",
            manifest,
            &operator,
            json!(["x9", "1.0.0", [["x.b"], []]]),
        ),
        (
            "PUT",
            manifest,
            &operator,
            json!({ "id": "x9", "version": "1.0.0", "events": [["x.b"], []] }),
        ),
        (
            "POST",
            registrations,
            &admin,
            json!(["acme", "a.b", "1.0.0", null, null, { "type": "object" }, null]),
        ),
        (
            "POST",
            "/v1/api-keys",
            &admin,
            json!(["key", null, ["events:read"], null, null]),
        ),
        (
            "POST",
            "/v1/subscriptions",
            &admin,
            subscription(&|it| it["target"] = json!(["webhook", "https://example.com/hook"])),
        ),
        (
            "POST",
            "/v1/subscriptions",
            &admin,
            subscription(&|it| it["target"]["auth"] = json!(["bearer", "secret"])),
        ),
        (
            "POST",
            "/v1/subscriptions",
            &admin,
            subscription(&|it| it["delivery"] = json!([null])),
        ),
    ] {
        let refused = written(&server, method, path, token, &document);
        refused.problem(400, "INVALID_REQUEST");
    }
    server.get(manifest, &operator).problem(404, "NOT_FOUND");
    let tenant = server.get("/v1/tenants/acme", &operator);
    assert_ne!(tenant.json()["plan"], "PRO");
    written(
        &server,
        "POST",
        "/v1/subscriptions",
        &admin,
        &subscription(&|_| ()),
    )
    .expect(201);
}

#[test]
fn a_key_that_would_not_count_is_refused() {
    let server = Server::start();
    let token = server.crm("acme");
    let event = json!({ "type": "crm.contact.created", "data": {} });
    let call = |path: &str, body: &Value, keys: &[&str]| {
        let call = server.call("POST", path).bearer(&token).json(body);
        let add = |call: crate::harness::Request, key: &&str| call.header("Idempotency-Key", key);
        keys.iter().fold(call, add).send()
    };
    let batch = json!({ "events": [event] });
    let problem = call(BATCH, &batch, &["k"]).problem(400, "INVALID_IDEMPOTENCY_KEY");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("'idempotencyKey'"), "{detail}");
    call(PUBLISH, &event, &["a", "b"]).problem(400, "INVALID_IDEMPOTENCY_KEY");
    assert_eq!(server.count(&token), 0);
    let published = call(PUBLISH, &event, &["a", "a"]).expect(201);
    assert_eq!(published.header("idempotency-key"), Some("a"));
    call(BATCH, &batch, &[]).expect(201);
}

/// Beyond 64 bits numbers round to the same double; the second event would be lost.
#[test]
fn a_key_is_of_one_body_to_its_last_digit() {
    let server = Server::start();
    let token = server.crm("acme");
    let publish = |key: &str, number: &str| {
        let call = server.call("POST", PUBLISH).bearer(&token);
        let call = call.header("Content-Type", "application/json");
        let body = format!(r#"{{"type":"crm.contact.created","data":{{"n":{number}}}}}"#);
        call.header("Idempotency-Key", key).body(body).send()
    };
    for (key, one, other) in [
        ("long", "123456789012345678901", "123456789012345678902"),
        ("small", "1e-400", "0"),
    ] {
        publish(key, one).expect(201);
        publish(key, other).problem(422, "IDEMPOTENCY_KEY_REUSED");
        publish(key, one).expect(200);
    }
    publish("one", "1").expect(201);
    for same in ["1.0", "1e0", "10E-1"] {
        publish("one", same).expect(200);
    }
}

#[test]
fn a_fault_is_named_by_its_member_and_its_place_in_the_body() {
    let server = Server::start();
    let token = server.crm("acme");
    let send = |path: &str, body: &str| {
        let call = server.call("POST", path).bearer(&token);
        let call = call.header("Content-Type", "application/json");
        call.body(body).send()
    };
    for body in [
        r#"{"events":[{"type":"crm.contact.created","data":{}}],"colour":1}"#,
        r#"{"colour":1,"events":[{"type":"crm.contact.created","data":{}}]}"#,
        r#"{"colour":1}"#,
    ] {
        let problem = send(BATCH, body).problem(400, "INVALID_EVENT");
        assert_eq!(problem["field"], "colour", "{body}");
    }
    assert_eq!(
        send(BATCH, "{}").problem(400, "INVALID_EVENT")["field"],
        "events"
    );
    let one = r#"{"type":"crm.contact.created","data":{"a":1,"a":2}}"#;
    for (path, body, place) in [
        (PUBLISH, one.to_owned(), "\"a\" at line 1 column 47"),
        (
            PUBLISH,
            one.replace(",\"data\"", ",\n  \"data\""),
            "\"a\" at line 2 column 19",
        ),
        (
            PUBLISH,
            one.replace(",\"a\":2", ",\n\"a\":2"),
            "\"a\" at line 2 column 3",
        ),
        (
            BATCH,
            format!("{{\"events\":[\n {one}]}}"),
            "\"a\" at line 2 column 48",
        ),
        (
            BATCH,
            "{\"events\":[\n{\"type\":\"a.b\",\"type\":\"a.b\"}]}".to_owned(),
            "\"type\" at line 2 column 27",
        ),
    ] {
        let problem = send(path, &body).problem(400, "INVALID_JSON");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(place), "{body}: {detail}");
    }
}

/// Those who keep keys reserve what they are asked for, so an explanation must not be taken for their answer.
/// An operator who is told of a refused publish finds it in the log, by the trace that the publisher was told.
#[test]
fn every_refused_publish_has_its_line_of_the_log() {
    let server = Server::start_with_variables("", &[("TIDINGS_LOG__LEVEL", "info")]);
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let event = |event_type: &str| json!({ "type": event_type, "data": {} }).to_string();
    let good = event("demo.greeting.sent");
    let large = format!("{good}{}", " ".repeat(2 * 1024 * 1024));
    let emit = "/v1/events/custom/emit";
    for (path, token, content_type, body, step, code) in [
        (
            PUBLISH,
            &*token,
            "application/json",
            "{",
            "shape",
            "INVALID_JSON",
        ),
        (
            PUBLISH,
            "nonsense",
            "application/json",
            &*good,
            "authentication",
            "UNAUTHENTICATED",
        ),
        (
            PUBLISH,
            &*token,
            "application/json",
            &*large,
            "body-limits",
            "EVENT_PAYLOAD_TOO_LARGE",
        ),
        (
            PUBLISH,
            &*token,
            "application/json",
            &*event("shop.order.placed"),
            "manifest",
            "EVENT_PUBLISH_FORBIDDEN",
        ),
        (
            BATCH,
            &*token,
            "application/json",
            "{}",
            "shape",
            "INVALID_EVENT",
        ),
        (
            "/v1/cloudevents",
            &*token,
            "application/cloudevents+json",
            "{}",
            "shape",
            "INVALID_CLOUDEVENT",
        ),
        (
            emit,
            &*token,
            "application/json",
            "{}",
            "shape",
            "INVALID_EVENT",
        ),
        (
            emit,
            &*token,
            "application/json",
            r#"{"name":"nobody.named.it","payload":{}}"#,
            "",
            "",
        ),
    ] {
        let call = server.call("POST", path).bearer(token);
        let refused = call.header("Content-Type", content_type).body(body).send();
        let problem = refused.json();
        assert!(refused.status >= 400, "{path} {body}: {problem}");
        let trace = problem["traceId"].as_str().unwrap().to_owned();
        let lines = eventually("the log tells of it", || {
            let log = server.log();
            let lines = log.lines().filter(|line| line.contains(&trace));
            let lines: Vec<String> = lines.map(str::to_owned).collect();
            (!lines.is_empty()).then_some(lines)
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].contains("refused") && lines[0].contains(step),
            "{lines:?}"
        );
        assert!(lines[0].contains(code), "{lines:?}");
    }
}

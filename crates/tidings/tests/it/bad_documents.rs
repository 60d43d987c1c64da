//! What could be guessed, and is refused instead: documents by position, keys that do not count, places that are hard to find.

use serde_json::{Value, json};

use crate::harness::{Answer, PUBLISH, Server};

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

//! What could be guessed, and is refused instead: documents by position, keys that do not count, places that are hard to find.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};

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

//! The events by which administrative actions are told of.

use serde_json::{Value, json};

use crate::harness::{PUBLISH, Server};
use crate::receiver::eventually;

/// The data of the tenant's events of these types, oldest first.
fn told(server: &Server, token: &str, types: &str) -> Vec<Value> {
    let page = server.get(&format!("/v1/events?limit=1000&type={types}"), token);
    let page = page.expect(200).json();
    let items = page["items"].as_array().expect("items");
    for item in items {
        assert_eq!(item["source"], "/service/audit", "{item}");
    }
    items.iter().map(|item| item["data"].clone()).collect()
}

/// The same, of at least so many: what is told of an action may come after its answer.
fn told_of(count: usize, server: &Server, token: &str, types: &str) -> Vec<Value> {
    eventually("all of it is told", || {
        Some(told(server, token, types)).filter(|events| events.len() >= count)
    })
}

fn actions(told: &[Value]) -> Vec<&str> {
    let actions = told.iter().map(|data| data["action"].as_str());
    actions.map(|action| action.expect("an action")).collect()
}

#[test]
fn manifests_that_are_written_and_removed_are_told_to_the_platform_once() {
    let server = Server::start_in(crate::harness::Folder::new(), &["--no-demo"]);
    let operator = server.token(&["--role", "OPERATOR"]);
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    let path = "/v1/modules/shop/manifest";
    server.declare("shop", &["shop.order.placed"]);
    server.declare("shop", &["shop.order.placed"]);
    let removed = server.call("DELETE", path).bearer(&operator).send();
    removed.expect(204);
    let again = server.call("DELETE", path).bearer(&operator).send();
    again.problem(404, "NOT_FOUND");
    let body = json!({ "id": "shop", "version": "2.0.0" });
    let written = server
        .call("PUT", path)
        .bearer(&registry)
        .json(&body)
        .send();
    written.expect(200);

    let events = told_of(3, &server, &registry, "audit.manifest.*");
    let expected = ["manifest.written", "manifest.removed", "manifest.written"];
    assert_eq!(actions(&events), expected);
    let target = |version: Value| json!({ "kind": "manifest", "id": "shop", "version": version });
    assert_eq!(events[0]["target"], target("1.0.0".into()));
    assert_eq!(events[0]["actor"]["kind"], "operator");
    assert!(events[0]["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    assert_eq!(events[1]["target"], target(Value::Null));
    let service = json!({ "kind": "service", "name": "module-registry", "tenant": "platform" });
    assert_eq!(events[2]["actor"], service);

    let server = server.restart();
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    let after = told(&server, &registry, "audit.manifest.*");
    // The restart registers no sample module: it is not a first start.
    assert_eq!(after, events);
}

#[test]
fn api_keys_that_are_made_and_revoked_are_told_to_their_tenant_without_the_secret() {
    let server = Server::start();
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let operator = server.token(&["--role", "OPERATOR"]);
    let key = json!({ "name": "ci", "scopes": ["events:read"] });
    let made = server.post("/v1/api-keys", &admin, &key).expect(201).json();
    let secret = made["key"].as_str().expect("a secret");
    let path = format!(
        "/v1/api-keys/{}?tenantId=acme",
        made["id"].as_str().expect("an id")
    );
    let revoked = |path: &str| server.call("DELETE", path).bearer(&operator).send();
    revoked(&path).expect(204);
    revoked(&path).problem(404, "NOT_FOUND");
    let bad = json!({ "name": "", "scopes": ["events:read"] });
    let refused = server.post("/v1/api-keys", &admin, &bad);
    refused.problem(400, "INVALID_REQUEST");

    let events = told_of(2, &server, &server.crm("acme"), "audit.**");
    assert_eq!(actions(&events), ["api-key.created", "api-key.revoked"]);
    let actor = json!({ "kind": "user", "name": "ada", "tenant": "acme" });
    assert_eq!(events[0]["actor"], actor);
    assert_eq!(events[0]["target"]["name"], "ci");
    assert_eq!(events[0]["target"]["scopes"], json!(["events:read"]));
    assert_eq!(events[1]["actor"]["kind"], "operator");
    for event in &events {
        assert_eq!(event["target"]["id"], made["id"]);
        assert!(!event.to_string().contains(&secret[4..]), "{event}");
    }
    assert!(told(&server, &server.crm("umbrella"), "audit.**").is_empty());
    let registry = server.token(&["--tenant", "platform", "--service", "module-registry"]);
    assert!(told(&server, &registry, "audit.api-key.*").is_empty());
}

#[test]
fn nobody_else_writes_the_audit_trail() {
    let server = Server::start();
    let forged = json!({ "type": "audit.api-key.created", "data": {} });
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let operator = server.token(&["--role", "OPERATOR"]);
    for token in [server.crm("acme"), admin, operator] {
        let refused = server.post(PUBLISH, &token, &forged);
        refused.problem(403, "KERNEL_EVENT_PUBLISH_FORBIDDEN");
    }
}

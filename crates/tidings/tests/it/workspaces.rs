//! Tenants, workspaces, and source C's publish.

use serde_json::{Value, json};

use crate::harness::{Answer, PUBLISH, Server};
use crate::receiver::{Receiver, eventually};

pub(crate) const DEAL: &str = "/api/workspaces/ws-1/events/publish";

pub(crate) fn user(server: &Server, tenant: &str, sub: &str) -> String {
    server.token(&["--tenant", tenant, "--user", sub])
}

pub(crate) fn admin(server: &Server, tenant: &str) -> String {
    server.token(&["--tenant", tenant, "--user", "root", "--role", "ADMIN"])
}

pub(crate) fn put(server: &Server, path: &str, token: &str, body: &Value) -> Answer {
    server.call("PUT", path).bearer(token).json(body).send()
}

/// A workspace of acme, with `ada` as a member; her token and that of the tenant's ADMIN.
pub(crate) fn with_workspace(server: &Server) -> (String, String) {
    let root = admin(server, "acme");
    workspace(server, &root, "acme", "ws-1").expect(201);
    member(server, &root, "ws-1", "ada", "MEMBER").expect(200);
    (user(server, "acme", "ada"), root)
}

fn workspace(server: &Server, token: &str, tenant: &str, id: &str) -> Answer {
    let path = format!("/v1/tenants/{tenant}/workspaces/{id}");
    server.call("PUT", &path).bearer(token).send()
}

fn member(server: &Server, token: &str, workspace: &str, sub: &str, role: &str) -> Answer {
    let path = format!("/v1/tenants/acme/workspaces/{workspace}/members/{sub}");
    put(server, &path, token, &json!({ "role": role }))
}

fn event(server: &Server, token: &str, receipt: &Answer) -> Value {
    let id = receipt.json()["eventId"].clone();
    let path = format!("/v1/events/{}", id.as_str().expect("an id"));
    server.get(&path, token).expect(200).json()
}

#[test]
fn a_member_publishes_to_the_letter_of_source_c() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let body = json!({
        "eventKey": "crm.deal.closed", "schemaVersion": "1.0", "actor": "user-uuid",
        "payload": { "dealId": "deal-123", "amount": "5000.00", "currency": "USD" },
    });
    let receipt = server.post(DEAL, &ada, &body).expect(200);
    assert_eq!(receipt.json()["code"], "SUCCESS");
    let stands = event(&server, &ada, &receipt);
    for (name, value) in [
        ("type", "crm.deal.closed"),
        ("schemaversion", "1.0.0"),
        ("actor", "user-uuid"),
        ("workspaceid", "ws-1"),
        ("tenantid", "acme"),
        ("topic", "platform.workspace.events"),
    ] {
        assert_eq!(stands[name], value, "{stands}");
    }
    assert_eq!(stands["data"], body["payload"]);

    let least = json!({ "eventKey": "crm.deal.closed" });
    let stands = event(&server, &ada, &server.post(DEAL, &ada, &least).expect(200));
    assert_eq!(
        (&stands["actor"], &stands["data"]),
        (&json!("ada"), &json!({}))
    );
}

#[test]
fn a_key_publishes_once_and_for_one_body_and_workspace() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    workspace(&server, &root, "acme", "ws-2").expect(201);
    member(&server, &root, "ws-2", "ada", "MEMBER").expect(200);
    let body = json!({ "eventKey": "crm.deal.closed", "payload": { "n": 1 } });
    let keyed = |path: &str, body: &Value| {
        let call = server.call("POST", path).bearer(&ada);
        call.header("Idempotency-Key", "k-1").json(body).send()
    };
    let first = keyed(DEAL, &body).expect(200);
    let again = keyed(DEAL, &body).expect(200);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()["eventId"], again.json()["eventId"]);
    let elsewhere = keyed("/api/workspaces/ws-2/events/publish", &body);
    elsewhere.problem(422, "IDEMPOTENCY_KEY_REUSED");
    let mut by_another = body.clone();
    by_another["actor"] = json!("bob");
    keyed(DEAL, &by_another).problem(422, "IDEMPOTENCY_KEY_REUSED");
}

#[test]
fn a_workspace_that_is_not_open_is_refused_like_one_that_is_not_there() {
    let server = Server::start();
    let (_, _) = with_workspace(&server);
    let body = json!({ "eventKey": "crm.deal.closed", "payload": {} });
    for token in [
        user(&server, "acme", "bob"),
        user(&server, "globex", "ada"),
        admin(&server, "globex"),
        server.crm("acme"),
        server.token(&["--role", "OPERATOR"]),
    ] {
        let detail = |path: &str| {
            let refused = server.post(path, &token, &body);
            refused.problem(403, "WORKSPACE_FORBIDDEN")["detail"].clone()
        };
        let closed = detail(DEAL);
        for unknown in ["nowhere", "%20", "a%2Fb"] {
            let path = format!("/api/workspaces/{unknown}/events/publish");
            assert_eq!(detail(&path), closed);
        }
    }
    // The role ADMIN of the tenant opens it without membership.
    server
        .post(DEAL, &admin(&server, "acme"), &body)
        .expect(200);
}

#[test]
fn what_is_not_an_event_of_source_c_is_refused() {
    let server = Server::start();
    let (ada, _) = with_workspace(&server);
    let check = |body: Value, status: u16, code: &str| {
        server.post(DEAL, &ada, &body).problem(status, code);
    };
    check(json!({}), 400, "INVALID_EVENT");
    check(json!({ "eventKey": 1 }), 400, "INVALID_EVENT");
    check(json!({ "eventKey": "Crm" }), 400, "INVALID_EVENT_TYPE");
    check(
        json!({ "eventKey": "a.b", "type": "a.b" }),
        400,
        "INVALID_EVENT",
    );
    check(
        json!({ "eventKey": "a.b", "payload": [] }),
        400,
        "INVALID_EVENT",
    );
    check(
        json!({ "eventKey": "a.b", "actor": "a".repeat(129) }),
        400,
        "INVALID_EVENT",
    );
    check(
        json!({ "eventKey": "a.b", "actor": "a\nb" }),
        400,
        "INVALID_EVENT",
    );
    for (body, field) in [
        (json!({ "eventKey": "Crm" }), "eventKey"),
        (json!({ "eventKey": "auth.user.created" }), "eventKey"),
        (
            json!({ "eventKey": "a.b", "payload": { "text": "x".repeat(1024 * 1024) } }),
            "payload",
        ),
        (
            json!({ "eventKey": "a.b", "schemaVersion": "1" }),
            "schemaVersion",
        ),
    ] {
        let refused = server.post(DEAL, &ada, &body).json();
        assert_eq!(refused["field"], field, "{refused}");
    }
    for version in ["1", "1.0.0.0", "v1.0", ""] {
        let body = json!({ "eventKey": "a.b", "schemaVersion": version });
        check(body, 400, "INVALID_SCHEMA_VERSION");
    }
    let large = json!({ "text": "x".repeat(1024 * 1024) });
    check(
        json!({ "eventKey": "a.b", "payload": large }),
        400,
        "EVENT_PAYLOAD_TOO_LARGE",
    );
    for kernel in [
        "auth.user.created",
        "audit.a.b",
        "tidings.subscription.disabled",
    ] {
        check(
            json!({ "eventKey": kernel }),
            403,
            "KERNEL_EVENT_PUBLISH_FORBIDDEN",
        );
    }
    let call = server.call("POST", DEAL).bearer(&ada);
    let typed = call.header("Content-Type", "text/plain").body("{}").send();
    typed.problem(415, "UNSUPPORTED_MEDIA_TYPE");
}

#[test]
fn nobody_else_may_say_that_an_event_is_of_a_workspace() {
    let server = Server::start();
    let (_, _) = with_workspace(&server);
    let cloud = json!({
        "specversion": "1.0", "id": "1", "source": "/it", "type": "crm.contact.created",
        "workspaceid": "ws-1", "data": {},
    });
    let call = server
        .call("POST", "/v1/cloudevents")
        .bearer(&server.crm("acme"));
    let call = call.header("Content-Type", "application/cloudevents+json");
    let refused = call.body(cloud.to_string()).send();
    refused.problem(403, "WORKSPACE_FORBIDDEN");
}

#[test]
fn a_user_sees_of_workspace_events_those_of_its_own() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    let body = json!({ "eventKey": "crm.deal.closed", "payload": { "n": 1 } });
    let receipt = server.post(DEAL, &ada, &body).expect(200).json();
    let other = json!({ "type": "crm.contact.created", "data": {} });
    server
        .post(PUBLISH, &server.crm("acme"), &other)
        .expect(201);
    let path = format!("/v1/events/{}", receipt["eventId"].as_str().expect("an id"));
    let sees = |token: &str, expected: bool| {
        let list = server.get("/v1/events?type=crm.**", token).expect(200);
        let list = list.json()["items"].clone();
        let types: Vec<&str> = list
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["type"].as_str().expect("a type"))
            .collect();
        assert!(types.contains(&"crm.contact.created"), "{types:?}");
        assert_eq!(types.contains(&"crm.deal.closed"), expected, "{types:?}");
        let one = server.get(&path, token);
        assert_eq!(one.status, if expected { 200 } else { 404 });
        let trace = server.get(&format!("{path}/trace"), token);
        assert_eq!(trace.status, one.status);
    };
    sees(&ada, true);
    sees(&root, true);
    sees(&server.crm("acme"), true);
    let bob = user(&server, "acme", "bob");
    sees(&bob, false);
    member(&server, &root, "ws-1", "bob", "MEMBER").expect(200);
    sees(&bob, true);
}

#[test]
fn a_user_sees_of_the_audit_trail_what_is_about_workspaces_of_its_own() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    workspace(&server, &root, "acme", "ws-2").expect(201);
    member(&server, &root, "ws-2", "eve", "MEMBER").expect(200);
    let key = json!({ "name": "ci", "scopes": ["events:read"] });
    server.post("/v1/api-keys", &root, &key).expect(201);
    let sees = |token: &str| {
        let list = server.get("/v1/events?type=audit.**", token).expect(200);
        let items = list.json()["items"].clone();
        let items = items.as_array().expect("items").iter();
        let told = items.map(|item| {
            let target = &item["data"]["target"];
            let of = target["workspace"].as_str().or(target["id"].as_str());
            let kind = target["kind"].as_str().expect("a kind");
            let of = of.filter(|_| kind.starts_with("workspace") || kind == "extension");
            format!("{kind} {}", of.unwrap_or_default())
        });
        told.collect::<Vec<_>>()
    };
    // A change is answered before what tells of it is on the log, at times.
    eventually("the last change is told of", || {
        sees(&root).contains(&"api-key ".to_owned()).then_some(())
    });
    // A workspace is made with its chat.
    let of = |id: &str| {
        let kinds = ["workspace", "extension", "workspace-member"];
        kinds.map(|kind| format!("{kind} {id}"))
    };
    assert_eq!(sees(&ada), of("ws-1"));
    let eve = user(&server, "acme", "eve");
    assert_eq!(sees(&eve), of("ws-2"));
    assert_eq!(sees(&user(&server, "acme", "bob")), [""; 0]);
    let all = sees(&root);
    for each in ["workspace ws-1", "workspace ws-2", "api-key "] {
        assert!(all.iter().any(|told| told == each), "{each}: {all:?}");
    }
}

#[test]
fn a_user_sees_of_parked_keys_those_of_workspaces_of_its_own() {
    let server = Server::start_with("egress.allow_targets = ['127.0.0.1']\n");
    let (ada, root) = with_workspace(&server);
    let receiver = Receiver::start();
    receiver.answer(|_, _| 500);
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
        "delivery": { "ordered": true, "key": "/n", "retry": { "schedule": [] } },
    });
    let made = server.post("/v1/subscriptions", &root, &body);
    let made = made.expect(201).json();
    let path = format!(
        "/v1/subscriptions/{}/parked",
        made["id"].as_str().expect("an id")
    );
    let body = json!({ "eventKey": "crm.deal.closed", "payload": { "n": "k" } });
    server.post(DEAL, &ada, &body).expect(200);
    let keys = |token: &str| {
        let list = server.get(&path, token).expect(200).json();
        list["items"].as_array().expect("items").len()
    };
    eventually("it is parked", || (keys(&root) == 1).then_some(()));
    assert_eq!(keys(&ada), 1);
    assert_eq!(keys(&user(&server, "acme", "bob")), 0);
}

#[test]
fn members_are_written_by_admins_and_lose_what_they_had_when_removed() {
    let server = Server::start();
    let (ada, root) = with_workspace(&server);
    let body = json!({ "eventKey": "crm.deal.closed" });
    member(&server, &ada, "ws-1", "bob", "MEMBER").problem(403, "FORBIDDEN");
    member(&server, &root, "ws-1", "bob", "OWNER").problem(400, "INVALID_REQUEST");
    member(&server, &root, "ws-1", "ada", "ADMIN").expect(200);
    member(&server, &ada, "ws-1", "bob", "MEMBER").expect(200);
    let bob = user(&server, "acme", "bob");
    server.post(DEAL, &bob, &body).expect(200);
    let operator = server.token(&["--role", "OPERATOR"]);
    let path = "/v1/tenants/acme/workspaces/ws-1/members/bob";
    let remove = |token: &str| server.call("DELETE", path).bearer(token).send();
    remove(&operator).expect(204);
    remove(&operator).problem(404, "NOT_FOUND");
    server
        .post(DEAL, &bob, &body)
        .problem(403, "WORKSPACE_FORBIDDEN");

    let server = server.restart();
    let ada = user(&server, "acme", "ada");
    server.post(DEAL, &ada, &body).expect(200);
    let told = server
        .get("/v1/events?type=audit.**", &ada)
        .expect(200)
        .text();
    for action in [
        "workspace.created",
        "workspace-member.written",
        "workspace-member.removed",
    ] {
        assert!(told.contains(action), "{told}");
    }
}

#[test]
fn an_id_is_one_workspaces_in_the_installation() {
    let server = Server::start();
    let (_, root) = with_workspace(&server);
    workspace(&server, &root, "acme", "ws-1").expect(200);
    let other = admin(&server, "globex");
    workspace(&server, &other, "globex", "ws-1").problem(403, "WORKSPACE_FORBIDDEN");
    workspace(&server, &other, "acme", "ws-9").problem(403, "FORBIDDEN");
    let operator = server.token(&["--role", "OPERATOR"]);
    workspace(&server, &operator, "unheard-of", "ws-8").problem(404, "NOT_FOUND");
    workspace(&server, &operator, "globex", "ws-8").expect(201);
}

#[test]
fn a_tenant_is_made_by_its_first_credential_and_written_by_operators() {
    let server = Server::start();
    let ada = user(&server, "acme", "ada");
    let tenant = server.get("/v1/tenants/acme", &ada).expect(200).json();
    assert_eq!(
        (&tenant["slug"], &tenant["plan"]),
        (&json!("acme"), &json!("FREE"))
    );
    let operator = server.token(&["--role", "OPERATOR"]);
    let body = json!({ "slug": "acme-corp", "plan": "PRO", "namespaces": ["shop"] });
    let put = |token: &str, body: &Value| put(&server, "/v1/tenants/acme", token, body);
    put(&ada, &body).problem(403, "FORBIDDEN");
    for (name, bad) in [
        ("plan", json!("GOLD")),
        ("slug", json!("")),
        ("namespaces", json!(["a b"])),
    ] {
        let mut body = body.clone();
        body[name] = bad;
        assert_eq!(
            put(&operator, &body).problem(400, "INVALID_REQUEST")["field"],
            name
        );
    }
    put(&operator, &body).expect(200);
    let after = server.get("/v1/tenants/acme", &ada).expect(200).json();
    for name in ["slug", "plan"] {
        assert_eq!(after[name], body[name]);
    }
    assert_eq!(after["namespaces"], json!(["acme-corp", "shop"]));
    assert_eq!(after["createdAt"], tenant["createdAt"]);
    // What is not given stays.
    let given = json!({ "slug": "acme-inc" });
    let renamed = put(&operator, &given).expect(200).json();
    assert_eq!(renamed["slug"], "acme-inc");
    assert_eq!(renamed["plan"], body["plan"]);
    assert_eq!(renamed["namespaces"], json!(["acme-inc", "shop"]));
    let foreign = user(&server, "globex", "eve");
    server
        .get("/v1/tenants/acme", &foreign)
        .problem(404, "NOT_FOUND");
}

#[test]
fn a_tenant_written_without_a_slug_can_register_under_one_made_from_its_id() {
    let server = Server::start();
    let operator = server.token(&["--role", "OPERATOR"]);
    for (id, slug) in [
        ("Acme.Corp", "acme-corp"),
        ("events", "events-org"),
        ("9lives", "t-9lives"),
    ] {
        let path = format!("/v1/tenants/{id}");
        let body = json!({ "plan": "PRO" });
        let made = put(&server, &path, &operator, &body).expect(200).json();
        assert_eq!(
            (&made["slug"], &made["namespaces"]),
            (&json!(slug), &json!([slug]))
        );
        let named = json!({ "slug": format!("{slug}-too"), "plan": "PRO" });
        put(&server, &path, &operator, &named).expect(200);
        let again = put(&server, &path, &operator, &body).expect(200).json();
        assert_eq!(again["slug"], format!("{slug}-too"), "it stays");
    }
}

#[test]
fn without_auto_create_an_unknown_tenant_waits_for_an_operator() {
    let server = Server::start_with("tenants.auto_create = false\n");
    let ada = user(&server, "acme", "ada");
    server.get("/v1/events", &ada).problem(403, "FORBIDDEN");
    let operator = server.token(&["--role", "OPERATOR"]);
    let body = json!({ "slug": "acme", "plan": "FREE" });
    put(&server, "/v1/tenants/acme", &operator, &body).expect(200);
    server.get("/v1/events", &ada).expect(200);
}

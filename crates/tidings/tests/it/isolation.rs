//! Every operation there is, called by nobody, by an impostor, and by another tenant.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{PUBLISH, Request, Server};
use crate::receiver::eventually;

/// What another tenant's credential gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// Anybody may call it, even without a credential.
    Public,
    /// The thing is not there, said as of one that never was.
    NotFound,
    /// A custom event that its tenant has not registered, whoever else has.
    NotRegistered,
    /// Its own tenant's plan does not have it.
    Unpaid,
    /// A workspace that is not open to it, said as of one that never was.
    Closed,
    /// A list that holds nothing of the first tenant's.
    Nothing,
    /// Only what roles allow; no tenant's data is in it.
    Forbidden,
    /// It acts in the caller's own tenant.
    Own,
    /// It belongs to the installation: the same for all tenants.
    Shared,
}

use Foreign::{Closed, Forbidden, NotFound, NotRegistered, Nothing, Own, Public, Shared, Unpaid};

const TABLE: [(&str, &str, Foreign); 85] = [
    ("post", "/v1/events/publish", Own),
    ("post", "/v1/events/publish/batch", Own),
    ("post", "/v1/events/explain", Own),
    ("post", "/v1/cloudevents", Own),
    ("get", "/v1/events", Nothing),
    ("get", "/v1/events/stream", Nothing),
    ("get", "/v1/events/{eventId}", NotFound),
    ("get", "/v1/events/{eventId}/trace", NotFound),
    ("get", "/v1/events/custom/registrations", Nothing),
    ("post", "/v1/events/custom/registrations", Unpaid),
    (
        "get",
        "/v1/events/custom/registrations/{namespace}/{name}",
        NotRegistered,
    ),
    (
        "get",
        "/v1/events/custom/registrations/{namespace}/{name}/diff",
        NotRegistered,
    ),
    (
        "get",
        "/v1/events/custom/registrations/{namespace}/{name}/{version}",
        NotRegistered,
    ),
    (
        "patch",
        "/v1/events/custom/registrations/{namespace}/{name}/{version}",
        NotRegistered,
    ),
    ("post", "/v1/events/custom/dry-run", Own),
    ("post", "/v1/events/custom/emit", NotRegistered),
    ("get", "/v1/events/custom/emits", Nothing),
    ("get", "/v1/events/custom/health", Own),
    ("get", "/v1/subscriptions", Nothing),
    ("post", "/v1/subscriptions", Own),
    ("get", "/v1/subscriptions/{subscriptionId}", NotFound),
    ("patch", "/v1/subscriptions/{subscriptionId}", NotFound),
    ("post", "/v1/subscriptions/{subscriptionId}/pause", NotFound),
    (
        "post",
        "/v1/subscriptions/{subscriptionId}/resume",
        NotFound,
    ),
    ("post", "/v1/subscriptions/{subscriptionId}/seek", NotFound),
    (
        "post",
        "/v1/subscriptions/{subscriptionId}/skip-backlog",
        NotFound,
    ),
    ("get", "/v1/subscriptions/{subscriptionId}/secret", NotFound),
    (
        "post",
        "/v1/subscriptions/{subscriptionId}/rotate-secret",
        NotFound,
    ),
    ("delete", "/v1/subscriptions/{subscriptionId}", NotFound),
    ("get", "/v1/subscriptions/{subscriptionId}/events", NotFound),
    ("get", "/v1/subscriptions/{subscriptionId}/parked", NotFound),
    (
        "post",
        "/v1/subscriptions/{subscriptionId}/parked/release",
        NotFound,
    ),
    (
        "post",
        "/v1/subscriptions/{subscriptionId}/replay",
        NotFound,
    ),
    ("post", "/v1/subscriptions/{subscriptionId}/test", NotFound),
    ("get", "/v1/replays", Nothing),
    ("get", "/v1/replays/{replayId}", NotFound),
    ("post", "/v1/replays/{replayId}/cancel", NotFound),
    ("post", "/v1/replays/{replayId}/resume", NotFound),
    ("get", "/v1/events/{eventId}/explain", NotFound),
    ("get", "/v1/dead-letters", Nothing),
    ("get", "/v1/dead-letters/{deadLetterId}", NotFound),
    ("post", "/v1/dead-letters/{deadLetterId}/replay", NotFound),
    ("post", "/v1/dead-letters/replay", Own),
    ("delete", "/v1/dead-letters/{deadLetterId}", NotFound),
    ("get", "/v1/modules", Shared),
    ("get", "/v1/modules/{moduleId}/manifest", Shared),
    ("put", "/v1/modules/{moduleId}/manifest", Forbidden),
    ("delete", "/v1/modules/{moduleId}/manifest", Forbidden),
    ("get", "/v1/catalogs", Shared),
    ("get", "/v1/catalogs/{name}", Shared),
    ("put", "/v1/catalogs/{name}", Forbidden),
    ("delete", "/v1/catalogs/{name}", Forbidden),
    ("get", "/asyncapi.json", Shared),
    ("get", "/v1/api-keys", Nothing),
    ("post", "/v1/api-keys", Own),
    ("delete", "/v1/api-keys/{keyId}", NotFound),
    ("post", "/api/session", Own),
    ("delete", "/api/session", Own),
    ("get", "/v1/tenants", Forbidden),
    ("get", "/v1/tenants/{tenantId}", NotFound),
    ("put", "/v1/tenants/{tenantId}", Forbidden),
    (
        "put",
        "/v1/tenants/{tenantId}/workspaces/{workspaceId}",
        Forbidden,
    ),
    (
        "put",
        "/v1/tenants/{tenantId}/workspaces/{workspaceId}/members/{userId}",
        Closed,
    ),
    (
        "delete",
        "/v1/tenants/{tenantId}/workspaces/{workspaceId}/members/{userId}",
        Closed,
    ),
    (
        "post",
        "/api/workspaces/{workspaceId}/events/publish",
        Closed,
    ),
    (
        "get",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}",
        Closed,
    ),
    (
        "put",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}",
        Closed,
    ),
    (
        "post",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}/rotate-secret",
        Closed,
    ),
    (
        "get",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}/deliveries",
        Closed,
    ),
    (
        "get",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
        Closed,
    ),
    (
        "put",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
        Closed,
    ),
    (
        "delete",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
        Closed,
    ),
    (
        "delete",
        "/api/workspaces/{workspaceId}/extensions/{extensionId}",
        Closed,
    ),
    ("get", "/api/workspaces/{workspaceId}/dead-letters", Closed),
    (
        "get",
        "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}",
        Closed,
    ),
    (
        "post",
        "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}/replay",
        Closed,
    ),
    (
        "post",
        "/api/workspaces/{workspaceId}/dead-letters/replay",
        Closed,
    ),
    (
        "delete",
        "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}",
        Closed,
    ),
    (
        "get",
        "/api/workspaces/{workspaceId}/channels/{channel}/messages",
        Closed,
    ),
    ("get", "/healthz", Public),
    ("get", "/readyz", Public),
    ("get", "/metrics", Public),
    ("get", "/openapi.json", Public),
    ("get", "/docs", Public),
    ("get", "/problems/{slug}", Public),
];

/// What of the first tenant's the others try to reach.
struct Secrets {
    event: String,
    key: String,
    subscription: String,
    dead_letter: String,
    replay: String,
    tenant: &'static str,
    workspace: &'static str,
}

impl Secrets {
    fn call(&self, server: &Server, method: &str, path: &str) -> Request {
        let path = path
            .replace("{eventId}", &self.event)
            .replace("{keyId}", &self.key)
            .replace("{subscriptionId}", &self.subscription)
            .replace("{deadLetterId}", &self.dead_letter)
            .replace("{replayId}", &self.replay)
            .replace("{tenantId}", self.tenant)
            .replace("{workspaceId}", self.workspace)
            .replace("{extensionId}", "chat")
            .replace("{eventKey}", "crm.deal.closed")
            .replace("{channel}", "deals")
            .replace("{userId}", "eve")
            .replace("{moduleId}", "crm")
            .replace("{name}", "shop")
            .replace("{namespace}", "acme")
            .replace("{version}", "1.0.0")
            .replace("{slug}", "not-found");
        let path = match path.strip_suffix("/diff") {
            Some(_) => format!("{path}?from=1.0.0&to=1.0.0"),
            None => path,
        };
        server.call(&method.to_uppercase(), &path)
    }
}

fn body(path: &str) -> Value {
    let event =
        json!({ "type": "crm.contact.created", "tenantId": "acme", "data": { "of": "umbrella" } });
    match path {
        "/api/workspaces/{workspaceId}/dead-letters/replay" => json!({}),
        "/v1/events/publish/batch" => json!({ "events": [event] }),
        "/v1/subscriptions" | "/v1/subscriptions/{subscriptionId}" => json!({
            "name": "mine", "target": { "kind": "webhook", "url": "https://umbrella.example/h" },
        }),
        "/v1/events/custom/registrations" | "/v1/events/custom/dry-run" => json!({
            "namespace": "umbrella", "name": "made", "version": "1.0.0", "payloadSchema": {},
        }),
        "/v1/events/custom/emit" => json!({ "name": "acme.shop", "payload": {} }),
        path if path.ends_with("/{version}") => json!({ "description": "mine" }),
        path if path.ends_with("/release") => json!({ "key": "k" }),
        "/v1/tenants/{tenantId}" => json!({ "slug": "mine", "plan": "PRO" }),
        path if path.ends_with("/{userId}") => json!({ "role": "ADMIN" }),
        path if path.ends_with("/{extensionId}") => {
            json!({ "kind": "IN_PROCESS", "installed": true, "enabled": true })
        }
        path if path.ends_with("/{eventKey}") || path.ends_with("/rotate-secret") => json!({}),
        path if path.starts_with("/api/workspaces") => json!({ "eventKey": "crm.deal.closed" }),
        "/v1/subscriptions/{subscriptionId}/replay" => json!({ "from": "beginning" }),
        path if path.ends_with("/seek") => json!({ "to": "beginning" }),
        path if path.ends_with("/replay") || path.starts_with("/v1/replays") => json!({}),
        "/v1/api-keys" => json!({ "name": "mine", "scopes": ["events:read"] }),
        "/v1/cloudevents" => json!({
            "specversion": "1.0", "id": "1", "source": "/it", "type": "crm.contact.created",
            "tenantid": "acme", "data": { "of": "umbrella" },
        }),
        _ => event,
    }
}

fn sent(call: Request, method: &str, path: &str) -> Request {
    match (method, path) {
        ("post", "/v1/cloudevents") => {
            let call = call.header("Content-Type", "application/cloudevents+json");
            call.body(body(path).to_string())
        }
        ("post" | "put" | "patch", _) => call.json(&body(path)),
        _ => call,
    }
}

fn with_secrets(server: &Server) -> (String, Secrets) {
    let token = server.crm("acme");
    apply(server, "shop", &small("shop.order.placed").to_string());
    // What it is to get cannot be delivered, once, and is a dead letter.
    let subscription = json!({
        "name": "hunter2", "target": { "kind": "webhook", "url": "http://localhost:1/hunter2" },
        "filter": { "types": ["crm.**"] }, "delivery": { "retry": { "schedule": [] } },
    });
    let subscription = server.post("/v1/subscriptions", &token, &subscription);
    let subscription = subscription.expect(201).json();
    let event = json!({ "type": "crm.contact.created", "data": { "secret": "hunter2" } });
    let event = server.post(PUBLISH, &token, &event).expect(201).json();
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let key = json!({ "name": "hunter2", "scopes": ["events:read"] });
    let key = server.post("/v1/api-keys", &admin, &key).expect(201).json();
    let workspace = "/v1/tenants/acme/workspaces/ws-acme";
    let workspace = server.call("PUT", workspace).bearer(&admin).send();
    workspace.expect(201);
    let operator = server.token(&["--role", "OPERATOR"]);
    let tenant = json!({ "slug": "acme", "plan": "PRO" });
    let call = server.call("PUT", "/v1/tenants/acme").bearer(&operator);
    call.json(&tenant).send().expect(200);
    let custom = json!({
        "namespace": "acme", "name": "shop", "version": "1.0.0", "status": "published",
        "payloadSchema": { "title": "hunter2" },
    });
    let custom = server.post("/v1/events/custom/registrations", &admin, &custom);
    custom.expect(201);
    let emit = json!({ "name": "acme.shop", "payload": {}, "idempotencyKey": "hunter2" });
    server
        .post("/v1/events/custom/emit", &token, &emit)
        .expect(202);
    let dead_letter = eventually("a dead letter", || {
        let list = server.get("/v1/dead-letters", &token).expect(200).json();
        let id = &list["items"][0]["id"];
        (!id.is_null()).then(|| id.clone())
    });
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let path = format!("/v1/subscriptions/{}/replay", text(&subscription["id"]));
    let plan = json!({ "from": "beginning", "types": ["hunter2.**"] });
    let replay = server.post(&path, &token, &plan).expect(202).json();
    (
        token,
        Secrets {
            event: text(&event["eventId"]),
            key: text(&key["id"]),
            subscription: text(&subscription["id"]),
            dead_letter: text(&dead_letter),
            replay: text(&replay["id"]),
            tenant: "acme",
            workspace: "ws-acme",
        },
    )
}

/// The tenant's events but those of the life of custom events, which come when they come.
fn published(server: &Server, token: &str) -> usize {
    let page = server
        .get("/v1/events?limit=1000", token)
        .expect(200)
        .json();
    let items = page["items"].as_array().expect("items").iter();
    let of_life = |item: &&Value| {
        let name = item["type"].as_str();
        name.is_some_and(|name| name.starts_with("CUSTOM_EVENT_"))
    };
    items.filter(|item| !of_life(item)).count()
}

#[test]
fn the_table_holds_every_operation() {
    let server = Server::start();
    let document = server
        .call("GET", "/openapi.json")
        .send()
        .expect(200)
        .json();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.clone(), path.clone()));
        }
    }
    let listed = TABLE
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(described, listed.collect());
}

#[test]
fn without_a_credential_that_holds_nothing_but_the_public_answers() {
    let server = Server::start();
    let (token, secrets) = with_secrets(&server);
    let elsewhere = Server::start().crm("acme");
    let credentials = [
        None,
        Some("Bearer tdk_0123456789012345678901234567890123456789012".to_owned()),
        Some("Bearer x.y.z".to_owned()),
        Some("Basic YWNtZTphY21l".to_owned()),
        Some(format!("Bearer {elsewhere}")),
        Some(format!("Bearer {token}x")),
    ];
    for (method, path, foreign) in TABLE {
        for credential in &credentials {
            println!("{method} {path} with {credential:?}");
            let call = secrets.call(&server, method, path);
            let call = match credential {
                Some(credential) => call.header("Authorization", credential),
                None => call,
            };
            let answer = sent(call, method, path).send();
            if foreign == Public {
                assert!(!answer.expect(200).text().contains("hunter2"));
                continue;
            }
            answer.problem(401, "UNAUTHENTICATED");
            let challenge = answer.header("www-authenticate");
            let expected = match credential {
                Some(_) => "Bearer error=\"invalid_token\"",
                None => "Bearer",
            };
            assert_eq!(challenge, Some(expected));
        }
    }
    // Its own event, and the audit events of its subscription, its API key, its workspace, its extension and what
    // that gets, and its plan.
    assert_eq!(published(&server, &token), 8);
}

#[test]
fn another_tenant_reaches_nothing_of_the_first() {
    let server = Server::start();
    let (token, secrets) = with_secrets(&server);
    let unknown = Secrets {
        event: "01900000-0000-7000-8000-000000000000".to_owned(),
        key: "01900000-0000-7000-8000-000000000000".to_owned(),
        subscription: "01900000-0000-7000-8000-000000000000".to_owned(),
        dead_letter: "01900000-0000-7000-8000-000000000000".to_owned(),
        replay: "01900000-0000-7000-8000-000000000000".to_owned(),
        tenant: "nobody",
        workspace: "ws-nowhere",
    };
    let module = server.crm("umbrella");
    let admin = server.token(&["--tenant", "umbrella", "--user", "eve", "--role", "ADMIN"]);
    for (method, path, foreign) in TABLE {
        // A stream does not end: that it shows only the tenant's own is the list's rule, tested there.
        if path.ends_with("/stream") {
            continue;
        }
        println!("{method} {path}");
        let credential = if path.contains("api-keys") || path.starts_with("/api/") {
            &admin
        } else {
            &module
        };
        let ask = |secrets: &Secrets| {
            let call = secrets.call(&server, method, path).bearer(credential);
            sent(call, method, path).send()
        };
        let answer = ask(&secrets);
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
        match foreign {
            NotFound => {
                let detail = answer.problem(404, "NOT_FOUND")["detail"].clone();
                assert_eq!(ask(&unknown).problem(404, "NOT_FOUND")["detail"], detail);
            }
            NotRegistered => drop(answer.problem(404, "event_not_registered")),
            Unpaid => drop(answer.problem(402, "plan_upgrade_required")),
            Closed => {
                let detail = answer.problem(403, "WORKSPACE_FORBIDDEN")["detail"].clone();
                let unknown = ask(&unknown).problem(403, "WORKSPACE_FORBIDDEN");
                assert_eq!(unknown["detail"], detail);
            }
            Nothing => {
                let items = answer.expect(200).json()["items"].clone();
                let items = items.as_array().unwrap();
                assert!(
                    items
                        .iter()
                        .all(|item| item["tenantid"] != "acme" && item["namespace"] != "acme"),
                    "{items:?}"
                );
            }
            Forbidden => drop(answer.problem(403, "FORBIDDEN")),
            Own => assert!((200..300).contains(&answer.status), "{}", answer.text()),
            Public | Shared => drop(answer.expect(200)),
        }
    }
    assert_eq!(
        published(&server, &token),
        8,
        "nothing arrived at the first tenant"
    );
    // What it published in three ways, and the audit events of its API key and its subscription.
    assert_eq!(published(&server, &module), 5);
}

//! Extensions of a workspace get its events, and only those they asked for, while they are enabled.

use serde_json::{Value, json};
use tidings_egress::signing::verify;

use crate::harness::{PUBLISH, Server};
use crate::receiver::{Receiver, eventually};
use crate::workspaces::{DEAL, put, user, with_workspace};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";
const EXTENSION: &str = "/api/workspaces/ws-1/extensions/crm";
const DEALS: &str = "/api/workspaces/ws-1/extensions/crm/subscriptions/crm.deal.closed";

/// A server with a workspace, its member's token and its ADMIN's.
fn server() -> (Server, String, String) {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.deal.closed", "crm.deal.lost"]);
    let (ada, root) = with_workspace(&server);
    (server, ada, root)
}

fn external(receiver: &Receiver, enabled: bool) -> Value {
    json!({
        "kind": "EXTERNAL_SERVICE", "serviceBaseUrl": receiver.url, "installed": true,
        "enabled": enabled,
    })
}

fn publish(server: &Server, token: &str, n: u64) -> String {
    let body = json!({ "eventKey": "crm.deal.closed", "actor": "bot", "payload": { "n": n } });
    let receipt = server.post(DEAL, token, &body).expect(200).json();
    receipt["eventId"].as_str().expect("an id").to_owned()
}

/// What an explanation says of the extension.
fn of_crm(told: &Value) -> Value {
    let all = told["subscriptions"].as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == "crm");
    one.expect("what is said of the extension").clone()
}

fn numbers(receiver: &Receiver, count: usize) -> Vec<u64> {
    let hits = receiver.until_taken(count);
    hits.iter()
        .map(|hit| hit.json()["payload"]["n"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn an_external_service_gets_its_workspaces_events_as_platform_events_signed() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    let made = put(&server, DEALS, &root, &json!({})).expect(200).json();
    let again = put(&server, DEALS, &root, &json!({})).expect(200).json();
    assert_eq!(made, again);
    let secret = made["secret"].as_str().expect("a secret");

    // The same type outside of the workspace is nothing to it.
    let outside = json!({ "type": "crm.deal.closed", "data": { "n": 0 } });
    server
        .post(PUBLISH, &server.crm("acme"), &outside)
        .expect(201);
    let id = publish(&server, &ada, 1);
    let hits = receiver.until_taken(1);
    let hit = &hits[0];
    let mut body = hit.json();
    let at = body["occurredAt"].take();
    assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{at}");
    let expected = json!({
        "eventId": id, "eventKey": "crm.deal.closed", "schemaVersion": "1.0.0",
        "workspaceId": "ws-1", "tenantId": "acme", "actor": "bot", "payload": { "n": 1 },
        "occurredAt": null,
    });
    assert_eq!(body, expected);
    let timestamp = hit.header("webhook-timestamp").parse().expect("a number");
    let (webhook, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
    let verified = verify(secret, webhook, timestamp, &hit.body, signature);
    assert!(verified.expect("a secret"));

    // It is not among the tenant's own subscriptions, by list or by id.
    let own = server.get("/v1/subscriptions", &root).expect(200).json();
    assert_eq!(own["items"], json!([]));
    let path = format!(
        "/v1/subscriptions/{}",
        made["subscriptionId"].as_str().expect("an id")
    );
    server.get(&path, &root).problem(404, "NOT_FOUND");
    let deleted = server.call("DELETE", &path).bearer(&root).send();
    deleted.problem(404, "NOT_FOUND");

    let path = format!("{EXTENSION}/deliveries?limit=1");
    let first = eventually("an attempt", || {
        let page = server.get(&path, &ada).expect(200).json();
        page["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
            .then_some(page)
    });
    assert_eq!(first["items"][0]["eventId"], id.as_str());
    assert_eq!(
        (&first["items"][0]["status"], &first["items"][0]["number"]),
        (&json!(200), &json!(1))
    );
    let cursor = first["nextCursor"].as_str().expect("a cursor");
    let rest = server
        .get(&format!("{path}&cursor={cursor}"), &ada)
        .expect(200)
        .json();
    assert_eq!(rest["items"], json!([]));
}

#[test]
fn a_secret_is_rotated_for_all_that_an_extension_gets() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    let rotate = format!("{EXTENSION}/rotate-secret");
    let refused = |token: &str, body: Value| server.post(&rotate, token, &body);
    refused(&root, json!({})).problem(404, "NOT_FOUND");
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    refused(&root, json!({})).problem(400, "INVALID_REQUEST");
    let made = put(&server, DEALS, &root, &json!({})).expect(200).json();
    let old = made["secret"].as_str().expect("a secret");
    let leads = DEALS.replace("deal.closed", "lead.won");
    put(&server, &leads, &root, &json!({})).expect(200);
    refused(&ada, json!({})).problem(403, "FORBIDDEN");
    refused(&root, json!({ "secret": "mine" })).problem(400, "INVALID_REQUEST");
    refused(&root, json!({ "overlap": "400d" })).problem(400, "INVALID_REQUEST");

    let rotated = server.post(&rotate, &root, &json!({ "overlap": "1h" }));
    let rotated = rotated.expect(200).json();
    let new = rotated["secret"].as_str().expect("a secret");
    assert_ne!(new, old);
    let all = rotated["secrets"].as_array().expect("a list");
    assert_eq!((all.len(), &all[1]["secret"]), (2, &json!(old)));
    assert!(all[0]["endsAt"].is_null() && all[1]["endsAt"].is_string());

    publish(&server, &ada, 1);
    // What the extension subscribes to from now on is signed with both, too.
    let third = DEALS.replace("deal.closed", "deal.lost");
    for path in [DEALS, &leads, &third] {
        let shown = put(&server, path, &root, &json!({})).expect(200).json();
        assert_eq!(shown["secret"], new, "{path}");
    }
    let body = json!({ "eventKey": "crm.deal.lost", "actor": "bot", "payload": { "n": 2 } });
    server.post(DEAL, &ada, &body).expect(200);
    for hit in receiver.until_taken(2) {
        let timestamp = hit.header("webhook-timestamp").parse().expect("a number");
        let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
        for secret in [old, new] {
            let verified = verify(secret, id, timestamp, &hit.body, signature);
            assert!(verified.expect("a secret"));
        }
    }
}

#[test]
fn what_was_missed_while_disabled_comes_only_when_asked_for() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    put(&server, DEALS, &root, &json!({})).expect(200);
    publish(&server, &ada, 1);
    assert_eq!(numbers(&receiver, 1), [1]);

    put(&server, EXTENSION, &root, &external(&receiver, false)).expect(200);
    let missed = publish(&server, &ada, 2);
    let until = |reason: &str, said: &str| {
        let path = format!("/v1/events/{missed}/explain");
        let one = eventually(reason, || {
            let told = server.get(&path, &root).expect(200).json();
            let one = of_crm(&told);
            (one["reason"] == reason).then_some(one)
        });
        let detail = one["detail"].as_str().expect("a sentence");
        assert!(detail.contains(said) && !detail.contains("resume"), "{one}");
        assert!(!detail.contains("routing"), "{one}");
    };
    until("paused", "only where it is with a 'replayFrom' before it");
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    until("skipped", "a 'replayFrom' before it");
    publish(&server, &ada, 3);
    assert_eq!(numbers(&receiver, 2), [1, 3]);

    let mut uninstalled = external(&receiver, true);
    uninstalled["installed"] = json!(false);
    put(&server, EXTENSION, &root, &uninstalled).expect(200);
    publish(&server, &ada, 4);
    let mut from_the_beginning = external(&receiver, true);
    from_the_beginning["replayFrom"] = json!("beginning");
    put(&server, EXTENSION, &root, &from_the_beginning).expect(200);
    let mut all = numbers(&receiver, 6)[2..].to_vec();
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4]);
}

#[test]
fn what_is_unsubscribed_or_removed_gets_nothing_any_more() {
    let (server, ada, root) = server();
    let (receiver, other) = (Receiver::start(), Receiver::start());
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    put(&server, DEALS, &root, &json!({})).expect(200);
    let erp = "/api/workspaces/ws-1/extensions/erp";
    put(&server, erp, &root, &external(&other, true)).expect(200);
    let erps = format!("{erp}/subscriptions/crm.deal.closed");
    put(&server, &erps, &root, &json!({})).expect(200);
    publish(&server, &ada, 1);
    assert_eq!(
        (numbers(&receiver, 1), numbers(&other, 1)),
        (vec![1], vec![1])
    );

    let delete = |path: &str, token: &str| server.call("DELETE", path).bearer(token).send();
    delete(DEALS, &ada).problem(403, "FORBIDDEN");
    delete(DEALS, &root).expect(204);
    delete(DEALS, &root).problem(404, "NOT_FOUND");
    server.get(DEALS, &ada).problem(404, "NOT_FOUND");
    publish(&server, &ada, 2);
    assert_eq!(numbers(&other, 2), [1, 2]);
    // Made anew it begins anew.
    put(&server, DEALS, &root, &json!({})).expect(200);
    delete(erp, &root).expect(204);
    server.get(erp, &ada).problem(404, "NOT_FOUND");
    publish(&server, &ada, 3);
    assert_eq!(numbers(&receiver, 2), [1, 3]);
    assert_eq!(other.hits().len(), 2);
}

#[test]
fn what_cannot_be_delivered_is_a_dead_letter_of_its_workspace() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    receiver.answer(|_, _| 500);
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    put(&server, DEALS, &root, &json!({})).expect(200);
    let call = server.call("PUT", "/v1/tenants/acme/workspaces/ws-2");
    call.bearer(&root).send().expect(201);
    let id = publish(&server, &ada, 1);
    let path = "/api/workspaces/ws-1/dead-letters";
    let letter = eventually("a dead letter", || {
        let page = server.get(path, &ada).expect(200).json();
        let first = page["items"][0].clone();
        (!first.is_null()).then_some(first)
    });
    assert_eq!(
        (&letter["eventId"], &letter["attempts"]),
        (&json!(id), &json!(2))
    );
    let filtered = |query: &str| {
        let page = server
            .get(&format!("{path}?{query}"), &ada)
            .expect(200)
            .json();
        page["items"].as_array().expect("items").len()
    };
    assert_eq!(filtered("type=crm.deal.closed&error=500&state=open"), 1);
    assert_eq!(filtered("type=crm.deal.opened"), 0);
    assert_eq!(
        filtered("subscription=01900000-0000-7000-8000-000000000000"),
        0
    );
    let elsewhere = server.get("/api/workspaces/ws-2/dead-letters", &root);
    assert_eq!(elsewhere.expect(200).json()["items"], json!([]));
    let id = letter["id"].as_str().expect("an id");
    let one = format!("{path}/{id}");
    let whole = server.get(&one, &ada).expect(200).json();
    assert_eq!(whole["event"]["data"]["n"], 1);
    let elsewhere = format!("/api/workspaces/ws-2/dead-letters/{id}");
    server.get(&elsewhere, &root).problem(404, "NOT_FOUND");
    let again = format!("{one}/replay");
    server
        .post(&again, &ada, &json!({}))
        .problem(403, "FORBIDDEN");
    receiver.answer(|_, _| 200);
    server.post(&again, &root, &json!({})).expect(202);
    eventually("it is closed", || {
        (filtered("state=closed") == 1).then_some(())
    });
    receiver.answer(|_, _| 500);
    publish(&server, &ada, 2);
    eventually("another", || (filtered("state=open") == 1).then_some(()));
    receiver.answer(|_, _| 200);
    let bulk = server.post(&format!("{path}/replay"), &root, &json!({}));
    assert_eq!(bulk.expect(202).json()["total"], 1);
    eventually("both are closed", || {
        (filtered("state=closed") == 2).then_some(())
    });
    let removed = server.call("DELETE", &one).bearer(&root).send();
    removed.expect(204);
    server.get(&one, &ada).problem(404, "NOT_FOUND");
    receiver.answer(|_, _| 500);
    publish(&server, &ada, 3);
    let letter = eventually("a third", || {
        let page = server.get(&format!("{path}?state=open"), &ada);
        page.expect(200).json()["items"]
            .as_array()?
            .first()
            .cloned()
    });
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().expect("an id"));
    server.get(&path, &root).expect(200);
    server
        .get(&path, &user(&server, "acme", "bob"))
        .problem(404, "NOT_FOUND");
    // The list of the tenant's shows each what it may see.
    assert_eq!(server.dead_letters(&root, "open").len(), 1);
    assert_eq!(server.dead_letters(&ada, "open").len(), 1);
    let bob = user(&server, "acme", "bob");
    assert_eq!(server.dead_letters(&bob, "open"), Vec::<Value>::new());
}

#[test]
fn what_was_being_delivered_goes_on_when_an_extension_gets_events_again() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    put(&server, EXTENSION, &root, &external(&receiver, true)).expect(200);
    put(&server, DEALS, &root, &json!({})).expect(200);
    let standing = |state: &str| {
        eventually(state, || {
            let shown = server.get(DEALS, &root).expect(200).json();
            (shown["state"] == state).then_some(shown)
        })
    };
    standing("active");

    // Its receiver says that it is gone: that is shown, and writing the subscription again brings it back.
    receiver.answer(|_, _| 410);
    let first = publish(&server, &ada, 1);
    let shown = standing("disabled");
    assert!(
        shown["reason"]
            .as_str()
            .is_some_and(|it| it.contains("410")),
        "{shown}"
    );
    let second = publish(&server, &ada, 2);
    receiver.answer(|_, _| 200);
    put(&server, DEALS, &root, &json!({})).expect(200);
    receiver.until("both", |hits| {
        let taken = |id: &str| {
            let mut hits = hits.iter().filter(|hit| hit.status == 200);
            hits.any(|hit| hit.json()["eventId"] == id)
        };
        taken(&first) && taken(&second)
    });
    standing("active");
    let explained = server.get(&format!("/v1/events/{first}/explain"), &ada);
    let explained = explained.expect(200).json();
    assert_eq!(of_crm(&explained)["matches"], true, "{explained}");
}

#[test]
fn what_is_no_extension_is_refused_and_one_in_process_is_kept() {
    let (server, ada, root) = server();
    let receiver = Receiver::start();
    let good = external(&receiver, true);
    put(&server, EXTENSION, &ada, &good).problem(403, "FORBIDDEN");
    put(&server, DEALS, &root, &json!({})).problem(404, "NOT_FOUND");
    for (name, bad, code) in [
        ("kind", json!("ELSEWHERE"), "INVALID_REQUEST"),
        ("serviceBaseUrl", json!(null), "INVALID_REQUEST"),
        (
            "serviceBaseUrl",
            json!("http://127.0.0.1/?q"),
            "INVALID_REQUEST",
        ),
        (
            "serviceBaseUrl",
            json!("http://10.0.0.1"),
            "TARGET_NOT_ALLOWED",
        ),
    ] {
        let mut body = good.clone();
        body[name] = bad;
        let refused = put(&server, EXTENSION, &root, &body).problem(400, code);
        assert_eq!(refused["field"], name, "{refused}");
    }
    let mut within = json!({ "kind": "IN_PROCESS", "installed": true, "enabled": true });
    // This binary has no such plugin: it may be kept, and gets nothing.
    let refused = put(&server, EXTENSION, &root, &within).problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "extensionId", "{refused}");
    within["enabled"] = json!(false);
    put(&server, EXTENSION, &root, &within).expect(200);
    put(&server, EXTENSION, &root, &good).problem(400, "INVALID_REQUEST");
    let refused = put(&server, DEALS, &root, &json!({})).problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "eventKey", "{refused}");
    publish(&server, &ada, 1);
    let stands = server.get(EXTENSION, &ada).expect(200).json();
    assert_eq!(
        (&stands["kind"], &stands["enabled"]),
        (&json!("IN_PROCESS"), &json!(false))
    );
}

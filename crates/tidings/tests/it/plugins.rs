//! Handlers in process: what they cause, when they run, and that whatever they do is a delivery like any other.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};
use crate::receiver::eventually;
use crate::workspaces::{DEAL, put, with_workspace};

const CONFIG: &str = "delivery.retry_schedule = ['20ms']\n";
const EXTENSION: &str = "/api/workspaces/ws-1/extensions/misbehaving";
const DEAD: &str = "/api/workspaces/ws-1/dead-letters";

/// A server with the plugin that misbehaves installed in a workspace, its member's token and its ADMIN's.
fn server() -> (Server, String, String) {
    let server = Server::start_example("misbehaving", CONFIG);
    let (ada, root) = with_workspace(&server);
    put(&server, EXTENSION, &root, &installed(true)).expect(200);
    (server, ada, root)
}

pub(crate) fn installed(enabled: bool) -> Value {
    json!({ "kind": "IN_PROCESS", "installed": true, "enabled": enabled })
}

fn publish(server: &Server, token: &str, event_key: &str, deed: &str) -> String {
    let body = json!({ "eventKey": event_key, "payload": { "deed": deed } });
    id_of(&server.post(DEAL, token, &body).expect(200))
}

fn id_of(receipt: &Answer) -> String {
    let id = receipt.json()["eventId"].clone();
    id.as_str().expect("an id").to_owned()
}

fn trace(server: &Server, token: &str, id: &str) -> Value {
    let path = format!("/v1/events/{id}/trace");
    server.get(&path, token).expect(200).json()
}

/// What an event has caused, once it has.
fn caused(server: &Server, token: &str, id: &str) -> Vec<String> {
    let trace = trace(server, token, id);
    let caused = trace["caused"].as_array().expect("a list").iter();
    caused
        .map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

/// The dead letters of an event, as they are now.
fn letters(server: &Server, token: &str, id: &str) -> Vec<Value> {
    let page = server.get(DEAD, token).expect(200).json();
    let items = page["items"].as_array().expect("items").clone();
    items.into_iter().filter(|it| it["eventId"] == id).collect()
}

pub(crate) fn letter(server: &Server, token: &str, id: &str) -> Value {
    eventually("a dead letter", || letters(server, token, id).pop())
}

fn count(server: &Server, token: &str, event_type: &str) -> usize {
    let path = format!("/v1/events?limit=1000&type={event_type}");
    let page = server.get(&path, token).expect(200).json();
    page["items"].as_array().expect("items").len()
}

#[test]
fn what_a_handler_publishes_names_its_cause_and_the_trace_names_it() {
    let (server, ada, _) = server();
    let id = publish(&server, &ada, "mis.behave.later", "well");
    let next = eventually("what it caused", || caused(&server, &ada, &id).pop());
    let path = format!("/v1/events/{next}");
    let event = server.get(&path, &ada).expect(200).json();
    for (name, value) in [
        ("type", json!("mis.behave.noted")),
        ("causationid", json!(id)),
        ("chaindepth", json!(1)),
        ("workspaceid", json!("ws-1")),
        ("actor", json!("misbehaving")),
        ("source", json!("/extension/ws-1/misbehaving")),
    ] {
        assert_eq!(event[name], value, "{name}: {event}");
    }
    let delivery = eventually("an attempt", || {
        let trace = trace(&server, &ada, &id);
        let delivery = trace["deliveries"][0].clone();
        (!delivery.is_null()).then_some(delivery)
    });
    assert_eq!(delivery["state"], "delivered", "{delivery}");
}

#[test]
fn failures_panics_and_misfits_are_failed_deliveries_that_say_why() {
    let (server, ada, _) = server();
    for (deed, says) in [
        ("fail", "it was asked to fail"),
        ("panic", "the handler panicked: it was asked to panic"),
        (
            "reach",
            "not permitted to publish kernel event 'auth.user.created'",
        ),
    ] {
        let id = publish(&server, &ada, "mis.behave.later", deed);
        let letter = letter(&server, &ada, &id);
        let error = letter["lastError"].as_str().expect("a sentence");
        assert!(error.contains(says), "{error}");
        assert_eq!(letter["attempts"], 2, "{letter}");
    }
    let misfit = json!({ "eventKey": "mis.behave.later", "payload": { "deed": 5 } });
    let id = id_of(&server.post(DEAL, &ada, &misfit).expect(200));
    let letter = letter(&server, &ada, &id);
    let error = letter["lastError"].as_str().expect("a sentence");
    let says = "the payload of 'mis.behave.later' does not fit: invalid type: integer `5`";
    assert!(error.contains(says), "{error}");
    // It has survived all of that.
    publish(&server, &ada, "mis.behave.later", "well");
}

#[test]
fn what_is_published_before_a_failure_is_published_once() {
    let (server, ada, _) = server();
    let id = publish(&server, &ada, "mis.behave.later", "fail-after");
    assert_eq!(letter(&server, &ada, &id)["attempts"], 2);
    assert_eq!(caused(&server, &ada, &id).len(), 1);
    assert_eq!(count(&server, &ada, "mis.behave.noted"), 1);
}

#[test]
fn a_handler_that_is_not_async_has_run_when_the_publish_is_acknowledged() {
    let (server, ada, root) = server();
    let key = "idempotency-key";
    let body = json!({ "eventKey": "mis.behave.now", "payload": { "deed": "well" } });
    let send = || {
        let call = server.call("POST", DEAL).bearer(&ada).header(key, "once");
        call.json(&body).send().expect(200)
    };
    let id = id_of(&send());
    assert_eq!(caused(&server, &ada, &id).len(), 1);
    let state = &trace(&server, &ada, &id)["deliveries"][0]["state"];
    assert_eq!(*state, "delivered");
    // A repeat is not handled again.
    assert_eq!(id_of(&send()), id);
    assert_eq!(count(&server, &ada, "mis.behave.noted"), 1);

    for deed in ["fail", "panic"] {
        let id = publish(&server, &ada, "mis.behave.now", deed);
        let letter = letters(&server, &ada, &id)
            .pop()
            .expect("a dead letter, at once");
        let error = letter["lastError"].as_str().expect("a sentence");
        assert!(error.contains("it was asked to"), "{error}");
        // A replay goes the ordinary way, and fails as ordinarily.
        let path = format!("/v1/dead-letters/{}", letter["id"].as_str().expect("an id"));
        let replay = format!("{path}/replay");
        server.post(&replay, &root, &json!({})).expect(202);
        eventually("attempts of the replay", || {
            let trace = trace(&server, &ada, &id);
            let attempts = trace["deliveries"][0]["attempts"].as_array()?.len();
            let state = server.get(&path, &root).expect(200).json()["state"].clone();
            (attempts == 3 && state == "open").then_some(())
        });
    }
}

#[test]
fn a_handler_that_hangs_neither_fails_a_publish_nor_keeps_the_process() {
    let (server, ada, _) = server();
    let id = publish(&server, &ada, "mis.behave.now", "hang");
    let letter = letters(&server, &ada, &id).pop().expect("a dead letter");
    assert_eq!(letter["lastError"], "the handler did not end in time");
    // Others of the plugin go on meanwhile.
    let id = publish(&server, &ada, "mis.behave.now", "well");
    assert_eq!(caused(&server, &ada, &id).len(), 1);
    let server = server.restart();
    assert_eq!(letters(&server, &ada, &id).len(), 0);
}

#[test]
fn a_circle_of_causes_ends() {
    let (server, ada, _) = server();
    publish(&server, &ada, "mis.behave.circle", "");
    let error = eventually("an end", || {
        let page = server.get(DEAD, &ada).expect(200).json();
        page["items"][0]["lastError"].as_str().map(str::to_owned)
    });
    assert!(
        error.contains("50 events have caused one another"),
        "{error}"
    );
    assert_eq!(count(&server, &ada, "mis.behave.circle"), 51);
}

#[test]
fn only_where_it_is_installed_and_enabled_does_a_plugin_get_anything() {
    let (server, ada, root) = server();
    let elsewhere = "/v1/tenants/acme/workspaces/ws-2";
    server
        .call("PUT", elsewhere)
        .bearer(&root)
        .send()
        .expect(201);
    let deed = |event_key| json!({ "eventKey": event_key, "payload": { "deed": "well" } });
    let other = "/api/workspaces/ws-2/events/publish";
    put(&server, EXTENSION, &root, &installed(false)).expect(200);
    for event_key in ["mis.behave.now", "mis.behave.later"] {
        server.post(other, &root, &deed(event_key)).expect(200);
        publish(&server, &ada, event_key, "well");
    }
    put(&server, EXTENSION, &root, &installed(true)).expect(200);
    let path = format!("{EXTENSION}/subscriptions/mis.behave.now");
    let call = server.call("DELETE", &path).bearer(&root);
    call.send().expect(204);
    publish(&server, &ada, "mis.behave.now", "well");
    let id = publish(&server, &ada, "mis.behave.later", "well");
    eventually("what it caused", || caused(&server, &ada, &id).pop());
    assert_eq!(count(&server, &root, "mis.behave.noted"), 1);
    put(&server, &path, &root, &json!({})).expect(200);
    let id = publish(&server, &ada, "mis.behave.now", "well");
    assert_eq!(caused(&server, &ada, &id).len(), 1);
    // What was missed comes when it is asked for; what was not, is not published again.
    let mut again = installed(true);
    again["replayFrom"] = json!("beginning");
    put(&server, EXTENSION, &root, &again).expect(200);
    eventually("what was missed", || {
        (count(&server, &root, "mis.behave.noted") == 3).then_some(())
    });
}

#[test]
fn a_plugin_is_reached_through_its_extension_alone() {
    let (server, _, root) = server();
    let none = "/api/workspaces/ws-1/extensions/nobody";
    let refused = put(&server, none, &root, &installed(true)).problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "extensionId");
    let path = format!("{EXTENSION}/subscriptions/crm.deal.closed");
    let refused = put(&server, &path, &root, &json!({})).problem(400, "INVALID_REQUEST");
    let detail = refused["detail"].as_str().expect("a sentence");
    assert!(
        detail.contains("mis.behave.circle, mis.behave.later"),
        "{detail}"
    );

    let target = json!({ "kind": "in-process", "extension": "misbehaving" });
    let own = json!({ "name": "mine", "target": target });
    let refused = server.post("/v1/subscriptions", &root, &own);
    let refused = refused.problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "target.kind");
    let webhook = json!({ "kind": "webhook", "url": "https://a.example/h" });
    let own = json!({ "name": "mine", "target": webhook });
    let own = server
        .post("/v1/subscriptions", &root, &own)
        .expect(201)
        .json();
    let path = format!("/v1/subscriptions/{}", own["id"].as_str().expect("an id"));
    let change = json!({ "target": {
        "kind": "in-process", "extension": "misbehaving", "url": null, "format": null,
        "headers": null,
    } });
    let call = server.call("PATCH", &path).bearer(&root).json(&change);
    let refused = call.send().problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "target.kind");
}

#[test]
fn the_example_greets_in_the_channel_general() {
    let server = Server::start_example("greeter", CONFIG);
    let (ada, root) = with_workspace(&server);
    let path = "/api/workspaces/ws-1/extensions/greeter";
    put(&server, path, &root, &installed(true)).expect(200);
    let body = json!({ "eventKey": "team.member.joined", "payload": { "name": "Grace" } });
    server.post(DEAL, &ada, &body).expect(200);
    let path = "/api/workspaces/ws-1/channels/general/messages";
    let message = eventually("a greeting", || {
        let page = server.get(path, &ada).expect(200).json();
        page["items"].as_array()?.first().cloned()
    });
    assert_eq!(
        (&message["message"], &message["sender"]),
        (&json!("Welcome, Grace!"), &json!("greeter"))
    );
}

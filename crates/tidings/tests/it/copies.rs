//! A subscription to a topic: events stand there once more, marked, of their own tenant, and go no further.

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{PUBLISH, Server};
use crate::receiver::{Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.topics = ['acme.copies', 'shared.copies', 'demo.catalogued.made']\n\
     delivery.retry_schedule = ['20ms']\n";

fn server() -> (Server, String) {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
    let token = server.crm("acme");
    (server, token)
}

fn copy_to(server: &Server, token: &str, topic: &str) -> Value {
    let body = json!({
        "name": "copies",
        "filter": { "types": ["crm.contact.created"] },
        "target": { "kind": "topic", "topic": topic },
    });
    let made = server.post("/v1/subscriptions", token, &body);
    made.expect(201).json()
}

fn publish(server: &Server, token: &str, n: u64) -> String {
    let body = json!({ "type": "crm.contact.created", "data": { "n": n } });
    let answer = server.post(PUBLISH, token, &body).expect(201).json();
    answer["eventId"].as_str().expect("an id").to_owned()
}

fn held(server: &Server, token: &str, topic: &str) -> Vec<Value> {
    let path = format!("/v1/events?limit=1000&topic={topic}");
    let page = server.get(&path, token).expect(200).json();
    page["items"].as_array().expect("items").clone()
}

fn until_held(server: &Server, token: &str, topic: &str, count: usize) -> Vec<Value> {
    eventually("copies", || {
        let held = held(server, token, topic);
        (held.len() >= count).then_some(held)
    })
}

#[test]
fn copies_stand_in_the_topic_once_and_are_their_events() {
    let (server, token) = server();
    let subscription = copy_to(&server, &token, "acme.copies");
    assert_eq!(
        subscription["target"],
        json!({ "kind": "topic", "topic": "acme.copies" })
    );
    let ids: Vec<String> = (1..=5).map(|n| publish(&server, &token, n)).collect();
    let copies = until_held(&server, &token, "acme.copies", 5);
    for id in &ids {
        let copy = copies.iter().find(|copy| copy["copyof"] == id.as_str());
        let copy = copy.unwrap_or_else(|| panic!("no copy of {id}: {copies:?}"));
        let path = format!("/v1/events/{id}");
        let original = server.get(&path, &token).expect(200).json();
        assert_ne!(copy["eventId"], original["eventId"]);
        for same in [
            "id",
            "source",
            "type",
            "time",
            "data",
            "schemaversion",
            "tenantid",
        ] {
            assert_eq!(copy[same], original[same], "{same}");
        }
        eventually("the trace names the copy", || {
            let trace = server
                .get(&format!("{path}/trace"), &token)
                .expect(200)
                .json();
            (trace["caused"] == json!([copy["eventId"]])).then_some(())
        });
    }
    assert_eq!(copies.len(), 5);
}

#[test]
fn no_subscription_gets_a_copy_and_explain_says_so() {
    let (server, token) = server();
    let receiver = Receiver::start();
    for topic in ["acme.copies", "shared.copies"] {
        copy_to(&server, &token, topic);
    }
    let everything = json!({
        "name": "everything", "target": { "kind": "webhook", "url": receiver.url },
        "filter": { "types": ["crm.**"] },
    });
    server
        .post("/v1/subscriptions", &token, &everything)
        .expect(201);
    publish(&server, &token, 1);
    let copies = until_held(&server, &token, "acme.copies", 1);
    until_held(&server, &token, "shared.copies", 1);
    // What comes after the copies has come when nothing of them is still to come.
    publish(&server, &token, 2);
    until_held(&server, &token, "acme.copies", 2);
    until_held(&server, &token, "shared.copies", 2);
    publish(&server, &token, 3);
    let hits = receiver.until_taken(3);
    assert_eq!(hits.len(), 3);
    until_held(&server, &token, "acme.copies", 3);
    assert_eq!(held(&server, &token, "acme.copies").len(), 3);
    let id = copies[0]["eventId"].as_str().unwrap();
    let path = format!("/v1/events/{id}/explain");
    let told = server.get(&path, &token).expect(200).json();
    let told = told["subscriptions"].as_array().unwrap();
    assert_eq!(told.len(), 3);
    for one in told {
        assert_eq!(one["matches"], false, "{one}");
        assert_eq!(one["unmet"]["clause"], "copyof", "{one}");
    }
}

#[test]
fn a_copy_is_of_its_tenant_and_nobody_elses() {
    let (server, token) = server();
    let globex = server.crm("globex");
    copy_to(&server, &token, "shared.copies");
    publish(&server, &globex, 1);
    publish(&server, &token, 2);
    until_held(&server, &token, "shared.copies", 1);
    copy_to(&server, &globex, "shared.copies");
    publish(&server, &globex, 3);
    until_held(&server, &globex, "shared.copies", 1);
    let numbers = |token: &str| -> Vec<Value> {
        let held = held(&server, token, "shared.copies");
        held.iter().map(|copy| copy["data"]["n"].clone()).collect()
    };
    assert_eq!(
        (numbers(&token), numbers(&globex)),
        (vec![json!(2)], vec![json!(3)])
    );
}

#[test]
fn only_topics_that_the_operator_names_take_copies_and_none_that_is_published_to() {
    let (server, token) = server();
    let catalog = small("demo.catalogued.made").to_string();
    apply(&server, "small", &catalog);
    for topic in ["platform.data.events", "nobodys", "demo.catalogued.made"] {
        let target = json!({ "kind": "topic", "topic": topic });
        let body = json!({ "name": "copies", "target": target });
        let refused = server.post("/v1/subscriptions", &token, &body);
        let problem = refused.problem(400, "TARGET_NOT_ALLOWED");
        assert_eq!(problem["field"], "target.topic");
    }
    for bad in [
        json!({}),
        json!({ "topic": "a b" }),
        json!({ "topic": "a", "url": "b" }),
    ] {
        let mut target = bad;
        target["kind"] = json!("topic");
        let body = json!({ "name": "copies", "target": target });
        let refused = server.post("/v1/subscriptions", &token, &body);
        refused.problem(400, "INVALID_REQUEST");
    }
}

#[test]
fn what_is_sent_again_is_not_there_twice() {
    let (server, token) = server();
    let made = copy_to(&server, &token, "acme.copies");
    let id = made["id"].as_str().unwrap();
    for n in 1..=3 {
        publish(&server, &token, n);
    }
    until_held(&server, &token, "acme.copies", 3);
    let from = json!({ "from": "beginning" });
    let path = format!("/v1/subscriptions/{id}/replay");
    let replay = server.post(&path, &token, &from).expect(202).json();
    let path = format!("/v1/replays/{}", replay["id"].as_str().unwrap());
    let done = eventually("the replay ends", || {
        let replay = server.get(&path, &token).expect(200).json();
        (replay["state"] == "done").then_some(replay)
    });
    assert_eq!(
        (&done["delivered"], &done["failed"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(held(&server, &token, "acme.copies").len(), 3);
}

#[test]
fn nobody_marks_an_event_as_a_copy_but_tidings() {
    let (server, token) = server();
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/crm", "type": "crm.contact.created",
        "data": {}, "copyof": "0",
    });
    let call = server.call("POST", "/v1/cloudevents").bearer(&token);
    let call = call.header("Content-Type", "application/cloudevents+json");
    call.body(event.to_string())
        .send()
        .problem(400, "INVALID_CLOUDEVENT");
}

#[test]
fn copies_are_not_signed_and_a_webhook_that_takes_their_place_is() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let subscription = copy_to(&server, &token, "acme.copies");
    assert_eq!(subscription.get("secret"), None);
    let path = format!(
        "/v1/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let secret = || {
        let answer = server.get(&format!("{path}/secret"), &token);
        answer.expect(200).json()["secret"].clone()
    };
    assert_eq!(secret(), Value::Null);
    let shadow = json!({ "from": "beginning", "shadowUrl": receiver.url });
    let refused = server.post(&format!("{path}/replay"), &token, &shadow);
    assert_eq!(
        refused.problem(400, "INVALID_REQUEST")["field"],
        "shadowUrl"
    );
    let rotated = server.post(&format!("{path}/rotate-secret"), &token, &json!({}));
    let made = rotated.expect(200).json()["secret"].clone();
    assert_eq!(secret(), made);
    server
        .post(&format!("{path}/replay"), &token, &shadow)
        .expect(202);

    let other = copy_to(&server, &token, "shared.copies");
    let path = format!("/v1/subscriptions/{}", other["id"].as_str().expect("an id"));
    let tested = server.post(&format!("{path}/test"), &token, &json!({}));
    let refused = tested.problem(400, "INVALID_REQUEST");
    assert_eq!(refused["field"], "target.kind");
    let target = json!({ "kind": "webhook", "url": receiver.url });
    let change = server.call("PATCH", &path).bearer(&token);
    change.json(&json!({ "target": target })).send().expect(200);
    let secret = server
        .get(&format!("{path}/secret"), &token)
        .expect(200)
        .json();
    let secret = secret["secret"].as_str().expect("one was made").to_owned();
    publish(&server, &token, 1);
    let hit = receiver.until_taken(1).remove(0);
    let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
    let at = hit.header("webhook-timestamp").parse().expect("a number");
    let verified = tidings_egress::signing::verify(&secret, id, at, &hit.body, signature);
    assert!(verified.expect("a signature"));
}

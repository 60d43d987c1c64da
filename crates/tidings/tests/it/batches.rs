//! Several events in one message to a webhook: full by number or by time, tried again as it was, also over `kill -9`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidings_egress::signing::verify;

use crate::harness::{BATCH, Server};
use crate::receiver::{Hit, Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n";
/// Longer than any test takes: what goes is full.
const NEVER: &str = "60s";

fn server() -> (Server, String) {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
    let token = server.crm("acme");
    (server, token)
}

fn subscribe(
    server: &Server,
    token: &str,
    receiver: &Receiver,
    format: &str,
    delivery: &Value,
) -> Value {
    let body = json!({
        "name": "batches",
        "filter": { "types": ["crm.contact.created"], "data": [{ "pointer": "/n", "lt": 100 }] },
        "target": { "kind": "webhook", "url": receiver.url, "format": format },
        "delivery": delivery,
    });
    let answer = server.post("/v1/subscriptions", token, &body);
    answer.expect(201).json()
}

/// Publishes these in one request; answers the events' ids.
fn publish(server: &Server, token: &str, numbers: impl Iterator<Item = u64>) -> Vec<String> {
    let events = numbers.map(|n| json!({ "type": "crm.contact.created", "data": { "n": n } }));
    let body = json!({ "events": events.collect::<Vec<_>>() });
    let answer = server.post(BATCH, token, &body).expect(201).json();
    let results = answer["results"].as_array().expect("results").iter();
    let ids = results.map(|result| result["eventId"].as_str().expect("an id").to_owned());
    ids.collect()
}

fn events(hit: &Hit) -> Vec<Value> {
    hit.json().as_array().expect("an array").clone()
}

fn numbers(hit: &Hit) -> Vec<u64> {
    let events = events(hit);
    let numbers = events.iter().map(|event| event["data"]["n"].as_u64());
    numbers.collect::<Option<_>>().expect("numbers")
}

fn sequences(hit: &Hit) -> Vec<u64> {
    let events = events(hit);
    let numbers = events
        .iter()
        .map(|event| event["tidingssequence"].as_str()?.parse().ok());
    numbers.collect::<Option<_>>().expect("numbers in text")
}

#[test]
fn a_full_message_is_a_signed_batch_of_what_matches_and_the_rest_follows_in_time() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let delivery = json!({ "maxInFlight": 1, "batch": { "maxEvents": 4, "maxWait": "300ms" } });
    let format = "cloudevents-structured";
    let subscription = subscribe(&server, &token, &receiver, format, &delivery);
    let shown = &subscription["delivery"]["batch"];
    assert_eq!(shown, &json!({ "maxEvents": 4, "maxWait": "300ms" }));
    let ids = publish(&server, &token, (1..=6).chain(200..203));
    let hits = receiver.until_taken(2);
    assert_eq!(
        numbers(&hits[0]),
        [1, 2, 3, 4],
        "those that match, and no others"
    );
    assert_eq!(numbers(&hits[1]), [5, 6], "when the first has waited");
    assert_eq!(
        [sequences(&hits[0]), sequences(&hits[1])].concat(),
        [1, 2, 3, 4, 5, 6]
    );
    let secret = subscription["secret"].as_str().expect("a secret");
    for hit in &hits {
        assert_eq!(
            hit.header("content-type"),
            "application/cloudevents-batch+json"
        );
        let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
        assert!(id.starts_with("batch_"), "{id}");
        let timestamp = hit.header("webhook-timestamp").parse().expect("a number");
        assert!(verify(secret, id, timestamp, &hit.body, signature).expect("a signature"));
        assert!(
            !hit.headers
                .iter()
                .any(|(name, _)| name == "tidings-sequence")
        );
        for event in events(hit) {
            assert_eq!(
                (&event["specversion"], &event["tenantid"]),
                (&json!("1.0"), &json!("acme"))
            );
        }
    }
    assert_ne!(hits[0].header("webhook-id"), hits[1].header("webhook-id"));
    let trace = eventually("the attempts are written down", || {
        let trace = server.get(&format!("/v1/events/{}/trace", ids[1]), &token);
        let delivery = trace.expect(200).json()["deliveries"][0].clone();
        (delivery["state"] == "delivered").then_some(delivery)
    });
    let id = hits[0].header("webhook-id");
    assert_eq!(
        trace["attempts"][0]["batch"],
        json!({ "id": id, "events": 4 })
    );
    assert_eq!(trace["sequence"], 2);
}

#[test]
fn a_message_that_failed_comes_again_as_it_was_though_the_process_was_killed() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|_, _| 500);
    let delivery = json!({
        "batch": { "maxEvents": 3, "maxWait": NEVER }, "retry": { "schedule": ["3s", "1s", "1s"] },
    });
    subscribe(
        &server,
        &token,
        &receiver,
        "cloudevents-structured",
        &delivery,
    );
    let ids = publish(&server, &token, 1..=5);
    let first = receiver
        .until("a failure", |hits| !hits.is_empty())
        .remove(0);
    eventually("it is written down", || {
        let trace = server.get(&format!("/v1/events/{}/trace", ids[2]), &token);
        let state = trace.expect(200).json()["deliveries"][0]["state"].clone();
        (state == "waiting").then_some(())
    });
    receiver.answer(|_, _| 200);
    let server = server.killed_and_restarted();
    publish(&server, &token, 6..=6);
    let hits = receiver.until_taken(2);
    let good: Vec<&Hit> = hits.iter().filter(|hit| hit.status == 200).collect();
    let again = good.iter().find(|hit| numbers(hit)[0] == 1);
    let again = again.expect("the first message again");
    assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
    assert_eq!(again.body, first.body);
    let other = good.iter().find(|hit| numbers(hit)[0] == 4);
    assert_eq!(
        sequences(other.expect("what had waited for more")),
        [4, 5, 6]
    );
}

#[test]
fn each_event_that_is_given_up_is_a_dead_letter_that_is_replayed_alone_or_with_the_others() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|_, _| 503);
    let delivery = json!({
        "batch": { "maxEvents": 3, "maxWait": "2s" }, "retry": { "schedule": ["20ms"] },
    });
    let subscription = subscribe(
        &server,
        &token,
        &receiver,
        "cloudevents-structured",
        &delivery,
    );
    publish(&server, &token, 1..=3);
    let letters = |state: &str| server.dead_letters(&token, state);
    let open = eventually("three dead letters", || {
        Some(letters("open")).filter(|open| open.len() == 3)
    });
    assert!(
        open.iter().all(|letter| letter["attempts"] == 2),
        "{open:?}"
    );
    assert_eq!(receiver.hits().len(), 2);

    receiver.answer(|_, _| 200);
    let one = format!(
        "/v1/dead-letters/{}/replay",
        open[0]["id"].as_str().expect("an id")
    );
    server.post(&one, &token, &json!({})).expect(202);
    let alone = receiver.until_taken(1).pop().expect("one");
    assert_eq!(events(&alone).len(), 1);
    assert_eq!(events(&alone)[0]["replayed"], true);
    let (event, own) = (open[0]["eventId"].as_str(), subscription["id"].as_str());
    let id = format!("{}_{}", event.expect("an id"), own.expect("an id"));
    assert_eq!(alone.header("webhook-id"), id);
    let all = json!({ "subscription": subscription["id"] });
    server
        .post("/v1/dead-letters/replay", &token, &all)
        .expect(202);
    eventually("all are closed", || {
        (letters("closed").len() == 3).then_some(())
    });
    let hits = receiver.hits();
    let good = hits.iter().filter(|hit| hit.status == 200);
    let good: BTreeSet<u64> = good.flat_map(numbers).collect();
    assert_eq!(good, BTreeSet::from([1, 2, 3]));
}

#[test]
fn platform_events_come_in_an_array_and_binary_ones_are_refused() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let delivery = json!({ "batch": { "maxEvents": 2, "maxWait": NEVER } });
    subscribe(&server, &token, &receiver, "platform-event", &delivery);
    publish(&server, &token, 1..=2);
    let hit = receiver.until_taken(1).remove(0);
    assert_eq!(hit.header("content-type"), "application/json");
    let told = |event: &Value| (event["payload"]["n"].as_u64(), event["sequence"].as_u64());
    let told: Vec<_> = events(&hit).iter().map(told).collect();
    assert_eq!(told, [(Some(1), Some(1)), (Some(2), Some(2))]);

    let target = json!({ "kind": "webhook", "url": receiver.url, "format": "cloudevents-binary" });
    let body = json!({ "name": "binary", "target": target, "delivery": delivery });
    let problem = server.post("/v1/subscriptions", &token, &body);
    assert_eq!(
        problem.problem(400, "INVALID_REQUEST")["field"],
        "target.format"
    );
}

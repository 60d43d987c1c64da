//! What `/metrics` says of deliveries: how attempts ended, and what is in motion.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use serde_json::json;

use crate::harness::{BATCH, Server};
use crate::receiver::{Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";

/// The number of a metric, by its name and labels.
fn number(server: &Server, name: &str) -> u64 {
    let text = server.call("GET", "/metrics").send().expect(200).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {name}: {text}"));
    line.parse().expect("a number")
}

fn until(server: &Server, name: &str, wanted: u64) {
    eventually(&format!("{name} is {wanted}"), || {
        let now = number(server, name);
        (now == wanted).then_some(())
    });
}

#[test]
fn attempts_are_counted_by_outcome_and_what_is_in_motion_is_shown() {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let (receiver, bad) = (Receiver::start(), Receiver::start());
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    receiver.answer(move |_, _| {
        let gone = wait.lock().expect("not poisoned").recv();
        // The sender is dropped when everybody may go.
        assert!(gone.is_err());
        200
    });
    bad.answer(|_, _| 500);
    let attempts = |word: &str| format!("tidings_delivery_attempts_total{{outcome=\"{word}\"}}");
    // On Kafka there are as many as source A's topic has partitions.
    eventually("there is a share", || {
        (number(&server, "tidings_delivery_shares") > 0).then_some(())
    });
    for url in [&receiver.url, &bad.url] {
        let body = json!({
            "name": "orders", "filter": { "types": ["crm.**"] },
            "target": { "kind": "webhook", "url": url },
        });
        server.post("/v1/subscriptions", &token, &body).expect(201);
    }
    let event = json!({ "type": "crm.contact.created", "data": {} });
    let batch = json!({ "events": vec![event; 3] });
    server.post(BATCH, &token, &batch).expect(201);
    // The bad one's three have ended and the good one's have not.
    until(&server, &attempts("gave-up"), 3);
    until(&server, "tidings_delivery_attempts_in_flight", 3);
    until(&server, "tidings_delivery_unsettled_events", 3);
    assert_eq!(number(&server, &attempts("failed")), 3);
    assert_eq!(number(&server, &attempts("delivered")), 0);
    assert_eq!(number(&server, "tidings_dead_letters_total"), 3);
    assert_eq!(number(&server, "tidings_delivery_restarts_total"), 0);
    assert_eq!(number(&server, "tidings_loop_restarts_total"), 0);
    assert_eq!(number(&server, "tidings_delivery_damages_total"), 0);
    drop(go);
    until(&server, &attempts("delivered"), 3);
    until(&server, "tidings_delivery_attempts_in_flight", 0);
    until(&server, "tidings_delivery_unsettled_events", 0);
    until(&server, "tidings_delivery_pending_at_hand", 0);
}

#[test]
fn what_retention_takes_before_it_is_sent_is_counted_and_logged() {
    // A log of its own, whose retention is ours.
    let config = format!("{CONFIG}store.url = ''\n[bus]\nretention_bytes = 2000000\n");
    let server = Server::start_with(&config);
    server.declare("crm", &["crm.contact.created"]);
    let (token, receiver) = (server.crm("acme"), Receiver::start());
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
    });
    let made = server.post("/v1/subscriptions", &token, &body).expect(201);
    let path = format!(
        "/v1/subscriptions/{}",
        made.json()["id"].as_str().expect("an id")
    );
    let event = json!({ "type": "crm.contact.created", "data": { "note": "x".repeat(1_000) } });
    server
        .post(BATCH, &token, &json!({ "events": [event] }))
        .expect(201);
    receiver.until_taken(1);
    let act = |what: &str| {
        server
            .post(&format!("{path}/{what}"), &token, &json!({}))
            .expect(200)
    };
    act("pause");
    let removed = "tidings_delivery_removed_unread_total";
    assert_eq!(number(&server, removed), 0);
    let batch = json!({ "events": vec![event; 1_000] });
    for _ in 0..10 {
        server.post(BATCH, &token, &batch).expect(201);
    }
    act("resume");
    eventually("what was removed is counted", || {
        (number(&server, removed) > 1_000).then_some(())
    });
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    eventually("it is logged", || {
        let log = server.log();
        let told = |line: &str| line.contains("removed by retention") && line.contains(&id);
        log.lines().any(told).then_some(())
    });
}

//! Kafka, PostgreSQL or Valkey gone and back, under load: nothing acknowledged is missing, one key has one event id, answers come
//! in time, and nobody restarts the gateway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PUBLISH, Server};
use crate::servers::Servers;

/// How long a caller may wait for any answer: 2 s, and what a busy machine adds. A call that hangs takes longer by far.
const IN_TIME: Duration = Duration::from_secs(4);

/// Publishes one event after the other until told to stop; each is retried with its key until it is
/// acknowledged. Answers which id each key got.
fn write(
    server: &Server,
    token: &str,
    writer: usize,
    stop: &AtomicBool,
) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}-{number}");
        let body = json!({ "type": "demo.greeting.sent", "data": { "key": key } });
        loop {
            let begun = Instant::now();
            let call = server.call("POST", PUBLISH).bearer(token);
            let answer = call.header("Idempotency-Key", &key).json(&body).send();
            assert!(begun.elapsed() < IN_TIME, "{:?}", begun.elapsed());
            match answer.status {
                200 | 201 => {
                    let receipt: Value = serde_json::from_slice(&answer.body).expect("JSON");
                    let id = receipt["eventId"].as_str().expect("an id").to_owned();
                    acknowledged.insert(key, id);
                    break;
                }
                503 => std::thread::yield_now(),
                other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
    }
    acknowledged
}

/// Every event of the tenant: its key in the data, and its id.
fn everything(server: &Server, token: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = server.get(&format!("/v1/events?limit=1000{cursor}"), token);
        let page: Value = serde_json::from_slice(&answer.body).expect("JSON");
        for event in page["items"].as_array().expect("a list") {
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            events.push((text(&event["data"]["key"]), text(&event["eventId"])));
        }
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return events,
        }
    }
}

fn is_ready(server: &Server) -> bool {
    let answer = server.call("GET", "/readyz").send();
    let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
    said["status"] == "ready"
}

#[test]
fn a_broker_that_is_killed_loses_nothing_and_is_taken_up_again() {
    survives("kafka");
}

#[test]
fn a_valkey_that_is_killed_loses_nothing_and_is_taken_up_again() {
    survives("valkey");
}

#[test]
fn a_postgresql_that_is_killed_loses_nothing_and_is_taken_up_again() {
    survives("postgres");
}

fn survives(part: &str) {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let server = Server::start_with(&servers.configuration());
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let rounds = std::env::var("TIDINGS_CHAOS_ROUNDS").ok();
    let rounds: u32 = rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (server, token, stop) = (&server, &token, &stop);
                scope.spawn(move || write(server, token, writer, stop))
            })
            .collect();
        for _ in 0..rounds {
            servers.kill(part);
            while is_ready(&server) {
                std::thread::yield_now();
            }
            servers.restart(part);
            let back = Instant::now();
            while !is_ready(&server) {
                assert!(
                    back.elapsed() < Duration::from_secs(10),
                    "it does not come back"
                );
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for writer in writers {
            all.extend(writer.join().expect("a writer ends"));
        }
        all
    });
    let mut standing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, id) in everything(&server, &token) {
        let ids = standing.entry(key).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    println!(
        "{part}: rounds {rounds}, acknowledged {}",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 4, "too little was published to tell");
    for (key, id) in &acknowledged {
        assert_eq!(standing.get(key), Some(&vec![id.clone()]), "{key}");
    }
}

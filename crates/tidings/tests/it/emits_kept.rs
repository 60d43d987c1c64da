//! Emits under concurrency and failure: the month's limit, a bus that is away, processes that are killed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::custom_events::on_plan;
use crate::emits::{EMIT, EMITS, HEALTH, becomes, emit, generic, told};
use crate::harness::{Answer, PATIENCE, Server, on_kafka};
use crate::receiver::eventually;
use crate::servers::Servers;
use crate::workspaces::admin;

/// Emits at once from many, through these replicas; how many were accepted. All others must have been told why not.
pub(crate) fn accepted_of(replicas: &[(&Server, &str)], at_once: usize, each: usize) -> usize {
    let accepted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for emitter in 0..at_once {
            let (server, token) = replicas[emitter % replicas.len()];
            let accepted = &accepted;
            scope.spawn(move || {
                for n in 0..each {
                    let answer = until_known(server, token, &format!("{at_once}-{emitter}-{n}"));
                    if [200, 202].contains(&answer.status) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    } else {
                        answer.problem(402, "monthly_emit_quota_exceeded");
                    }
                }
            });
        }
    });
    accepted.into_inner()
}

/// What is unknown is asked again with its key, as by any client: a broker that has just begun, or a disk that stalls, may
/// take longer than an answer may.
fn until_known(server: &Server, token: &str, key: &str) -> Answer {
    let mut body = generic();
    body["idempotencyKey"] = json!(key);
    let mut asked = 0;
    eventually("it is known what became of an emit", || {
        asked += 1;
        let call = server.call("POST", EMIT).bearer(token).json(&body);
        let answer = call.send_once();
        assert!(
            answer.status != 200 || asked > 1,
            "its key is known at once"
        );
        Some(answer).filter(|it| ![502, 503].contains(&it.status))
    })
}

#[test]
fn a_month_s_limit_holds_exactly_whoever_emits_at_once() {
    let server = Server::start();
    let token = on_plan(&server, "org_x", "FREE");
    assert_eq!(accepted_of(&[(&server, &token)], 22, 44), 968);
    assert_eq!(accepted_of(&[(&server, &token)], 64, 1), 32);
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(
        health["emits"],
        json!({ "thisMonth": 1000, "monthlyLimit": 1000 })
    );
    let told = eventually("it is told", || {
        let told = told(&server, &token, "CUSTOM_EVENT_QUOTA_EXCEEDED");
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(told.len(), 1, "once, not for each that was refused");
    assert_eq!(
        (&told[0]["quota"], &told[0]["limit"]),
        (&json!("emits"), &json!(1000))
    );
    assert_eq!(
        (&told[0]["namespace"], &told[0]["name"]),
        (&json!("platformxe"), &json!("generic"))
    );
    // Another tenant has a limit of its own.
    let other = on_plan(&server, "org_y", "FREE");
    emit(&server, &other, &generic()).expect(202);
}

#[test]
fn the_limit_is_one_for_all_replicas() {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let replicas = [(); 2].map(|()| Server::start_with(&servers.configuration()));
    let token = on_plan(&replicas[0], "org_x", "FREE");
    let other = admin(&replicas[1], "org_x");
    let both = [(&replicas[0], &*token), (&replicas[1], &*other)];
    assert_eq!(accepted_of(&both, 32, 30), 960);
    assert_eq!(accepted_of(&both, 64, 1), 40);
    let health = replicas[1].get(HEALTH, &other).expect(200).json();
    assert_eq!(health["emits"]["thisMonth"], 1000);
}

#[test]
fn what_the_bus_did_not_take_is_a_failed_row_and_goes_out_when_it_is_back() {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let server = Server::start_with(&servers.configuration());
    let token = on_plan(&server, "org_x", "FREE");
    let first = until_known(&server, &token, "k-0").status;
    assert!([200, 202].contains(&first), "{first}");
    servers.kill("kafka");
    let mut body = generic();
    body["idempotencyKey"] = json!("k-1");
    let waits = server.post(EMIT, &token, &body);
    let waits = waits.problem(502, "bus_relay_failed");
    let failed = eventually("the row says so", || {
        let page = server
            .get(&format!("{EMITS}?status=FAILED"), &token)
            .expect(200)
            .json();
        page["items"].as_array().expect("a list").first().cloned()
    });
    let event_id = failed["eventId"].as_str().expect("an id");
    assert_eq!(failed["idempotencyKey"], "k-1");
    for member in ["eventId", "idempotencyKey"] {
        assert_eq!(waits[member], failed[member], "what to ask after");
    }
    servers.restart("kafka");
    let again = eventually("the key is answered", || {
        let answer = server.post(EMIT, &token, &body);
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(again.json()["eventId"], event_id);
    becomes(&server, &token, event_id, "DELIVERED");
    let found = server
        .get(&format!("/v1/events/{event_id}"), &token)
        .expect(200)
        .json();
    assert_eq!(found["data"], body["payload"]);
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(
        (&health["emits"]["thisMonth"], &health["recentFailures"]),
        (&json!(2), &json!([]))
    );
}

#[test]
fn a_key_has_one_row_and_one_event_though_the_process_is_killed_again_and_again() {
    let mut server = Server::start_with("");
    let token = on_plan(&server, "org_x", "PRO");
    let emitted = AtomicUsize::new(0);
    for round in 0..3_usize {
        let enough = round * 120 + 100;
        std::thread::scope(|scope| {
            for emitter in 0..4 {
                let (server, token, emitted) = (&server, &token, &emitted);
                scope.spawn(move || {
                    let mut n = 0;
                    loop {
                        let mut body = generic();
                        body["idempotencyKey"] = json!(format!("{round}-{emitter}-{n}"));
                        let call = server.call("POST", EMIT).bearer(token).json(&body);
                        // Killed meanwhile: what became of the key is seen below.
                        let Some(answer) = call.try_send() else {
                            return;
                        };
                        match answer.status {
                            200 | 202 => {
                                emitted.fetch_add(1, Ordering::Relaxed);
                                n += 1;
                            }
                            // A disk or a broker that stalled for a moment: the key is asked for again.
                            502 | 503 => {}
                            other => panic!("{other}: {}", answer.text()),
                        }
                    }
                });
            }
            let begun = Instant::now();
            while emitted.load(Ordering::Relaxed) < enough && begun.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            server.kill();
        });
        assert!(emitted.load(Ordering::Relaxed) >= enough, "too few in time");
        server = server.killed_and_restarted();
    }
    let emitted = emitted.into_inner();
    let rows = eventually("each row is on the bus", || {
        let page = server
            .get(&format!("{EMITS}?limit=1000"), &token)
            .expect(200)
            .json();
        let rows = page["items"].as_array().expect("a list").clone();
        rows.iter()
            .all(|row| row["deliveryStatus"] == "DELIVERED")
            .then_some(rows)
    });
    assert!(
        rows.len() >= emitted && rows.len() <= emitted + 12,
        "{} of {emitted}",
        rows.len()
    );
    let keys: BTreeSet<_> = rows
        .iter()
        .map(|row| row["idempotencyKey"].to_string())
        .collect();
    assert_eq!(keys.len(), rows.len());
    let ids: BTreeSet<_> = rows.iter().map(|row| row["eventId"].to_string()).collect();
    let page = server.get("/v1/events?topic=platform.custom.events&limit=1000", &token);
    let page = page.expect(200).json();
    let events = page["items"].as_array().expect("a list");
    // On Kafka one whose gateway died before it knew that it was appended stands there twice, under one id.
    assert!(events.len() == rows.len() || on_kafka(), "each once");
    let standing: BTreeSet<_> = events
        .iter()
        .map(|event| event["eventId"].to_string())
        .collect();
    assert_eq!(standing, ids);
    let health = server.get(HEALTH, &token).expect(200).json();
    assert_eq!(health["emits"]["thisMonth"], rows.len());
    let mut body = generic();
    let first = &rows[0];
    body["idempotencyKey"] = first["idempotencyKey"].clone();
    assert_eq!(
        emit(&server, &token, &body).expect(200).json()["eventId"],
        first["eventId"]
    );
}

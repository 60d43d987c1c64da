//! Kafka, PostgreSQL or Valkey killed under load and started again, with two replicas on them: 1 round each, or
//! `TIDINGS_CHAOS_ROUNDS`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::{Folder, LOG, Server};
use crate::servers::Servers;
use crate::under_load::{Replica, in_time, recovery, rounds, under_load};

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

#[test]
fn a_gateway_that_starts_before_its_postgresql_waits_for_it() {
    let servers = Servers::start(&["postgres"]);
    servers.kill("postgres");
    let folder = Folder::new();
    let log = folder.path().join(LOG);
    let server = std::thread::scope(|scope| {
        let configuration = servers.configuration();
        let starting = scope.spawn(move || Server::start_with_in(folder, &configuration));
        let deadline = Instant::now() + Duration::from_secs(20);
        let waits = || {
            let logged = std::fs::read_to_string(&log).unwrap_or_default();
            logged.contains("waiting for the PostgreSQL") && logged.contains("Connection refused")
        };
        while !waits() {
            assert!(Instant::now() < deadline, "it does not say so");
            assert!(!starting.is_finished(), "it does not wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        servers.restart("postgres");
        starting.join().expect("it starts")
    });
    server.call("GET", "/readyz").send().expect(200);
}

fn survives(part: &str) {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let configuration = servers.configuration();
    let replicas = [1, 2].map(|_| Replica::start(&configuration));
    for (number, replica) in replicas.iter().enumerate() {
        // A tenant's first request needs the store.
        replica.publish_at_last(&format!("first-{number}"));
    }
    let outcome = under_load(&[&replicas[0], &replicas[1]], part, |outcome| {
        for round in 0..rounds() {
            servers.kill(part);
            let meanwhile = |number: usize| format!("{part}-while-{number}-of-{round}-it-is-gone");
            for (number, replica) in replicas.iter().enumerate() {
                replica.await_ready(false);
                if part == "postgres" {
                    // The way in asks the store nothing.
                    let asked = Instant::now();
                    let answer = replica.publish(&meanwhile(number)).expect("it runs");
                    assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
                    assert_eq!(answer.0, 201);
                    outcome.acknowledge(meanwhile(number), answer);
                    refuses_strangers(replica, round);
                } else {
                    replica.refuses(&meanwhile(number));
                }
            }
            servers.restart(part);
            let back = Instant::now();
            for (number, replica) in replicas.iter().enumerate() {
                replica.await_ready(true);
                let answer = replica.publish_at_last(&meanwhile(number));
                outcome.acknowledge(meanwhile(number), answer);
            }
            assert!(back.elapsed() < recovery(), "{:?}", back.elapsed());
        }
    });
    outcome.check(&format!("{part} killed"), &servers, &BTreeSet::new());
}

/// Callers of a tenant that is not known yet do not wait for each other.
fn refuses_strangers(replica: &Replica, round: u32) {
    let stranger = replica.of(&format!("stranger-{round}"));
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (stranger, key) = (&stranger, format!("of-stranger-{round}-{caller}"));
            scope.spawn(move || stranger.refuses(&key));
        }
    });
}

//! Replays where two replicas share the tenants: seen, cancelled and resumed at either, carried on by the one that is left.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{BATCH, Server};
use crate::receiver::{Hit, Receiver, eventually};
use crate::servers::Servers;

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     secrets.key = 'c2VjcmV0cyBvZiB0ZXN0cyBhcmUgbm9uZSBhdCBhbGw='\n";
const EVENTS: usize = 60;

/// Attempts that a replica has made.
fn attempts(server: &Server) -> u64 {
    let metrics = server.call("GET", "/metrics").send().expect(200).text();
    let name = "tidings_delivery_attempts_total{outcome=\"delivered\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.expect("it is counted").parse().expect("a number")
}

fn ids(hits: &[Hit]) -> BTreeSet<String> {
    let ids = hits.iter().map(|hit| hit.header("webhook-id").to_owned());
    ids.collect()
}

fn of_replay(hits: &[Hit]) -> usize {
    let replayed = |hit: &&Hit| hit.headers.iter().any(|(name, _)| name == "tidings-replay");
    hits.iter().filter(replayed).count()
}

#[test]
fn a_replay_is_cancelled_at_the_other_replica_and_outlives_the_one_that_carries_it_out() {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let configuration = servers.configuration() + CONFIG;
    let [one, two] = [(); 2].map(|()| Server::start_with(&configuration));
    one.declare("crm", &["crm.contact.created"]);
    let receiver = Receiver::start();
    let token = one.crm("acme");
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
    });
    let made = one.post("/v1/subscriptions", &token, &body).expect(201);
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    let event = json!({ "type": "crm.contact.created", "data": {} });
    let batch = json!({ "events": vec![event; EVENTS] });
    one.post(BATCH, &token, &batch).expect(201);
    let sent = ids(&receiver.until_taken(EVENTS));
    assert_eq!(sent.len(), EVENTS);

    let survey = json!({ "from": "beginning", "dryRun": true });
    let path = format!("/v1/subscriptions/{id}/replay");
    eventually("the attempts are written down", || {
        let survey = one.post(&path, &token, &survey).expect(200).json();
        (survey["count"] == EVENTS).then_some(())
    });
    let before = attempts(&one);
    let plan = json!({ "from": "beginning", "rate": 10 });
    let replay = one.post(&path, &token, &plan).expect(202).json();
    let replay = format!("/v1/replays/{}", replay["id"].as_str().expect("an id"));
    receiver.until("it has begun", |hits| of_replay(hits) >= 5);
    // The tenant's share is with one of them, and that carries it out.
    let (carrier, other) = if attempts(&one) > before {
        (one, two)
    } else {
        (two, one)
    };
    let token = other.crm("acme");
    let progress = |server: &Server, token: &str| server.get(&replay, token).expect(200).json();
    let running = eventually("its progress is seen at the other", || {
        let running = progress(&other, &token);
        (running["delivered"].as_u64() >= Some(5)).then_some(running)
    });
    assert_eq!(
        (&running["state"], &running["total"]),
        (&json!("running"), &json!(EVENTS))
    );

    let go = |word: &str| -> Value {
        let answer = other.post(&format!("{replay}/{word}"), &token, &json!({}));
        answer.expect(200).json()
    };
    assert_eq!(go("cancel")["state"], "cancelled");
    let own = carrier.crm("acme");
    assert_eq!(progress(&carrier, &own)["state"], "cancelled");
    eventually("what was made ready is no more than was cancelled", || {
        let now = progress(&other, &token);
        (now["state"] == "cancelled" && now["delivered"].as_u64() < Some(EVENTS as u64))
            .then_some(())
    });
    assert_eq!(go("resume")["state"], "planned");
    let before = of_replay(&receiver.hits());
    receiver.until("it goes on", |hits| of_replay(hits) >= before + 5);
    assert!(
        of_replay(&receiver.hits()) < EVENTS,
        "it is not done before the kill"
    );
    carrier.kill();
    let done = eventually("the other carries it to its end", || {
        let now = progress(&other, &token);
        (now["state"] == "done").then_some(now)
    });
    let count = |name: &str| done[name].as_u64();
    assert_eq!(
        (count("delivered"), count("failed")),
        (Some(EVENTS as u64), Some(0)),
        "{done}"
    );
    let hits = receiver.hits();
    assert_eq!(ids(&hits), sent, "each under the id that it had");
    let again: Vec<Hit> = hits.into_iter().skip(EVENTS).collect();
    assert_eq!(ids(&again), sent, "each again");
}

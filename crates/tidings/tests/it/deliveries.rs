//! Events reach those who subscribed: signed, numbered, in order where asked, and again when the receiver
//! was not well.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use tidings_egress::signing::verify;

use crate::harness::{PUBLISH, Server};
use crate::receiver::{Hit, Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms', '20ms', '20ms']\n";

/// A server that may send to loopback, with the token of module `crm` of tenant `acme`.
fn server() -> (Server, String) {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
    let token = server.crm("acme");
    (server, token)
}

fn subscribe(server: &Server, token: &str, receiver: &Receiver, more: Value) -> Value {
    let mut body = json!({
        "name": "orders",
        "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
    });
    for (name, value) in more.as_object().expect("members") {
        body[name] = value.clone();
    }
    server
        .post("/v1/subscriptions", token, &body)
        .expect(201)
        .json()
}

fn publish(server: &Server, token: &str, data: &Value) -> String {
    let body = json!({ "type": "crm.contact.created", "data": data });
    let answer = server.post(PUBLISH, token, &body).expect(201).json();
    answer["eventId"].as_str().expect("an id").to_owned()
}

fn path(subscription: &Value, rest: &str) -> String {
    format!(
        "/v1/subscriptions/{}{rest}",
        subscription["id"].as_str().expect("an id")
    )
}

/// The numbers of events that were taken, each once.
fn numbers(hits: &[Hit]) -> BTreeSet<u64> {
    let taken = hits.iter().filter(|hit| hit.status == 200);
    taken
        .map(|hit| hit.json()["data"]["n"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn what_matches_arrives_signed_and_numbered_and_nothing_else_does() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let more = json!({ "filter": { "types": ["crm.contact.*"], "data": [{ "pointer": "/n", "lt": 10 }] } });
    let subscription = subscribe(&server, &token, &receiver, more);
    let globex = server.crm("globex");
    publish(&server, &globex, &json!({ "n": 1 }));
    publish(&server, &token, &json!({ "n": 10 }));
    let ids: Vec<String> = (1..=5)
        .map(|n| publish(&server, &token, &json!({ "n": n })))
        .collect();
    let hits = receiver.until_taken(5);
    assert_eq!(hits.len(), 5);
    let secret = subscription["secret"].as_str().unwrap();
    for hit in &hits {
        let id = hit.header("webhook-id");
        let event = hit.json();
        assert_eq!(event["tenantid"], "acme");
        let event_id = event["id"].as_str().unwrap();
        assert_eq!(
            id,
            format!("{event_id}_{}", subscription["id"].as_str().unwrap())
        );
        assert!(ids.iter().any(|known| known == event_id));
        let timestamp = hit.header("webhook-timestamp").parse().unwrap();
        let signature = hit.header("webhook-signature");
        assert!(verify(secret, id, timestamp, &hit.body, signature).unwrap());
        assert!(!verify(secret, id, timestamp + 1, &hit.body, signature).unwrap());
    }
    let sequences: BTreeSet<u64> = hits.iter().map(Hit::sequence).collect();
    assert_eq!(sequences, (1..=5).collect());
    assert_eq!(numbers(&hits), (1..=5).collect());
}

#[test]
fn what_fails_is_tried_again_under_its_id_and_the_trace_tells() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|_, before| if before.len() < 2 { 500 } else { 200 });
    subscribe(&server, &token, &receiver, json!({}));
    let id = publish(&server, &token, &json!({ "n": 1 }));
    let hits = receiver.until_taken(1);
    let of = |name: &str| {
        hits.iter()
            .map(|hit| hit.header(name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        (
            hits.len(),
            of("webhook-id").len(),
            of("tidings-sequence").len()
        ),
        (3, 1, 1)
    );
    let trace = eventually("the attempts are written down", || {
        let trace = server
            .get(&format!("/v1/events/{id}/trace"), &token)
            .expect(200)
            .json();
        (trace["deliveries"][0]["state"] == "delivered").then_some(trace)
    });
    assert_eq!(trace["event"]["eventId"], id.as_str());
    let attempts = trace["deliveries"][0]["attempts"].as_array().unwrap();
    let statuses: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt["status"].as_u64())
        .collect();
    assert_eq!(statuses, [Some(500), Some(500), Some(200)]);
    assert_eq!(attempts[0]["responseBody"], "ok");
    assert!(
        trace["deliveries"][0]["ledger"]["backOff"]
            .as_i64()
            .unwrap()
            >= 40,
        "{trace}"
    );
    let globex = server.crm("globex");
    server
        .get(&format!("/v1/events/{id}/trace"), &globex)
        .expect(404);
}

#[test]
fn what_is_given_up_is_a_dead_letter_until_a_replay_succeeds() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|_, _| 503);
    let subscription = subscribe(&server, &token, &receiver, json!({}));
    let id = publish(&server, &token, &json!({ "n": 1 }));
    let letters = |state: &str| server.dead_letters(&token, state);
    let letter = eventually("a dead letter", || letters("open").first().cloned());
    assert_eq!(
        (&letter["eventId"], &letter["attempts"]),
        (&json!(id), &json!(4))
    );
    assert_eq!(letter["subscriptionId"], subscription["id"]);
    assert_eq!(letter["lastError"], "it answered with status 503");
    assert_eq!(receiver.hits().len(), 4);
    let one = format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap());
    let whole = server.get(&one, &token).expect(200).json();
    assert_eq!(whole["event"]["data"]["n"], 1);

    // Still not well: it opens again, after the schedule from its beginning.
    server
        .post(&format!("{one}/replay"), &token, &json!({}))
        .expect(202);
    receiver.until("the schedule again", |hits| hits.len() == 8);
    let again = eventually("it is open again", || letters("open").first().cloned());
    assert_eq!(again["attempts"], 8);
    receiver.answer(|_, _| 500);
    let replaying = server.post(&format!("{one}/replay"), &token, &json!({}));
    assert_eq!(replaying.expect(202).json()["state"], "replaying");
    let again = eventually("it is open once more", || letters("open").first().cloned());
    assert_eq!(
        (&again["attempts"], &again["lastError"]),
        (&json!(12), &json!("it answered with status 500"))
    );
    receiver.answer(|_, _| 200);
    let all = json!({ "subscription": subscription["id"], "error": "500" });
    let answer = server
        .post("/v1/dead-letters/replay", &token, &all)
        .expect(202)
        .json();
    assert_eq!(answer["total"], 1);
    let hits = receiver.until_taken(1);
    let last = hits.last().unwrap();
    assert_eq!(last.header("webhook-id"), hits[0].header("webhook-id"));
    assert_eq!(
        (last.header("tidings-replayed"), &last.json()["replayed"]),
        ("true", &json!(true))
    );
    eventually("it is closed", || letters("closed").first().cloned());
    let trace = server.get(&format!("/v1/events/{id}/trace"), &token);
    let trace = trace.expect(200).json();
    assert_eq!(trace["deliveries"][0]["revision"], 1, "as it was routed");
    let closed = server.post(&format!("{one}/replay"), &token, &json!({}));
    assert_eq!(closed.expect(200).json()["state"], "closed");
    server
        .call("DELETE", &one)
        .bearer(&token)
        .send()
        .expect(204);
    server.get(&one, &token).problem(404, "NOT_FOUND");
}

#[test]
fn a_failing_event_parks_its_own_key_and_all_other_keys_flow() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|hit, _| {
        if hit.json()["data"]["key"] == "bad" {
            500
        } else {
            200
        }
    });
    let often = vec!["200ms"; 99];
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": often } });
    subscribe(&server, &token, &receiver, json!({ "delivery": delivery }));
    for n in 0..30 {
        let key = ["bad", "good", "fine"][n % 3];
        publish(&server, &token, &json!({ "key": key, "n": n }));
    }
    let hits = receiver.until_taken(20);
    let of_bad = hits.iter().filter(|hit| hit.json()["data"]["key"] == "bad");
    assert!(
        of_bad.clone().all(|hit| hit.json()["data"]["n"] == 0),
        "the others wait behind it"
    );
    receiver.answer(|_, _| 200);
    let sequences = |hits: &[Hit]| hits.iter().map(Hit::sequence).collect::<BTreeSet<_>>();
    let hits = receiver.until("all", |hits| {
        numbers(hits).contains(&27) && sequences(hits) == (1..=30).collect()
    });
    let mut in_order: HashMap<String, Vec<u64>> = HashMap::new();
    for hit in hits.iter().filter(|hit| hit.status == 200) {
        let data = hit.json()["data"].clone();
        let key = data["key"].as_str().unwrap().to_owned();
        in_order
            .entry(key)
            .or_default()
            .push(data["n"].as_u64().unwrap());
    }
    for (key, numbers) in &in_order {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[test]
fn a_parked_key_goes_on_when_it_is_released_with_or_without_its_head() {
    let (server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|hit, _| {
        if hit.json()["data"]["n"] == 1 {
            500
        } else {
            200
        }
    });
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": [] } });
    let subscription = subscribe(&server, &token, &receiver, json!({ "delivery": delivery }));
    let id = publish(&server, &token, &json!({ "key": "a", "n": 1 }));
    for n in 2..=4 {
        publish(&server, &token, &json!({ "key": "a", "n": n }));
    }
    let parked = || {
        let list = server
            .get(&path(&subscription, "/parked"), &token)
            .expect(200)
            .json();
        list["items"][0].clone()
    };
    let key = eventually("it is parked, with three behind", || {
        let key = parked();
        (key["behind"] == 3).then_some(key)
    });
    assert_eq!((&key["key"], &key["eventId"]), (&json!("a"), &json!(id)));
    let missed = server
        .get(&path(&subscription, "/events?after=2"), &token)
        .expect(200)
        .json();
    let missed = missed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["event"]["data"]["n"].clone());
    assert_eq!(missed.collect::<Vec<_>>(), [3, 4]);

    let release = |body: Value| {
        let answer = server.post(&path(&subscription, "/parked/release"), &token, &body);
        answer.status
    };
    assert_eq!(release(json!({ "key": "b" })), 404);
    assert_eq!(release(json!({ "key": "a" })), 202);
    receiver.until("it is tried again", |hits| hits.len() == 2);
    eventually("it is parked again", || {
        (parked()["attempts"] == 2).then_some(())
    });
    assert_eq!(release(json!({ "key": "a", "dropHead": true })), 202);
    let hits = receiver.until_taken(3);
    let arrived = hits.iter().filter(|hit| hit.status == 200);
    let numbers: Vec<u64> = arrived
        .map(|hit| hit.json()["data"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [2, 3, 4]);
    let letters = server.get("/v1/dead-letters", &token).expect(200).json();
    assert_eq!(letters["items"][0]["eventId"], id.as_str());
    publish(&server, &token, &json!({ "key": "a", "n": 5 }));
    receiver.until_taken(4);

    // With nothing behind it, too.
    publish(&server, &token, &json!({ "key": "a", "n": 1 }));
    eventually("it is parked", || (parked()["attempts"] == 1).then_some(()));
    assert_eq!(release(json!({ "key": "a", "dropHead": true })), 202);
    publish(&server, &token, &json!({ "key": "a", "n": 6 }));
    receiver.until_taken(5);
}

#[test]
fn an_explanation_names_the_first_clause_that_an_event_did_not_meet() {
    let (server, token) = server();
    let receiver = Receiver::start();
    subscribe(&server, &token, &receiver, json!({}));
    let more = json!({ "name": "large", "filter": { "types": ["crm.**"], "data": [{ "pointer": "/n", "gt": 5 }] } });
    subscribe(&server, &token, &receiver, more);
    let id = publish(&server, &token, &json!({ "n": 1 }));
    receiver.until_taken(1);
    let explained = eventually("the delivery is written down", || {
        let answer = server
            .get(&format!("/v1/events/{id}/explain"), &token)
            .expect(200)
            .json();
        (answer["subscriptions"][0]["delivered"] == true).then_some(answer)
    });
    let large = &explained["subscriptions"][1];
    assert_eq!(
        (&large["name"], &large["delivered"]),
        (&json!("large"), &json!(false))
    );
    assert_eq!(
        large["unmet"],
        json!({ "clause": "data[0].gt", "expected": "5", "got": "1" })
    );
}

#[test]
fn who_would_get_an_event_is_told_before_it_is_published_and_nobody_gets_it() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let all = subscribe(&server, &token, &receiver, json!({}));
    let large = json!({ "name": "large", "filter": { "data": [{ "pointer": "/n", "gt": 5 }] } });
    let large = subscribe(&server, &token, &receiver, large);
    let off = json!({ "name": "off", "enabled": false });
    subscribe(&server, &token, &receiver, off);
    subscribe(&server, &server.crm("globex"), &receiver, json!({}));
    let explain = |n: u64| {
        let body = json!({ "type": "crm.contact.created", "data": { "n": n } });
        let answer = server.post("/v1/events/explain", &token, &body);
        answer.expect(200).json()["subscriptions"].clone()
    };
    let (first, second) = (&all["id"], &large["id"]);
    let unmet = json!({ "clause": "data[0].gt", "expected": "5", "got": "1" });
    let wanted = json!([
        { "id": first, "name": "orders", "state": "active", "matched": true },
        { "id": second, "name": "large", "state": "active", "matched": false, "reason": unmet },
    ]);
    assert_eq!(explain(1), wanted);
    assert_eq!(explain(6)[1]["matched"], true);
    let refused = json!({ "type": "money.transfer.made", "data": {} });
    let refused = server.post("/v1/events/explain", &token, &refused);
    assert_eq!(refused.expect(200).json()["subscriptions"], json!([]));
    publish(&server, &token, &json!({ "n": 9 }));
    receiver.until_taken(2);
    assert_eq!(receiver.hits().len(), 2, "the event that was published");
}

#[test]
fn a_paused_subscription_keeps_its_place_and_goes_where_it_is_told() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let subscription = subscribe(&server, &token, &receiver, json!({}));
    let tell = |what: &str, body: &Value| {
        let answer = server.post(&path(&subscription, what), &token, body);
        answer.expect(200).json()["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    };
    publish(&server, &token, &json!({ "n": 1 }));
    receiver.until_taken(1);
    assert_eq!(tell("/pause", &json!({})), "paused");
    for n in 2..=400 {
        publish(&server, &token, &json!({ "n": n }));
    }
    assert_eq!(receiver.hits().len(), 1);
    let server = server.restart();
    let tell = |what: &str, body: &Value| {
        let answer = server.post(&path(&subscription, what), &token, body);
        answer.expect(200).json()["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    };
    assert_eq!(tell("/resume", &json!({})), "active");
    let hits = receiver.until("all", |hits| numbers(hits).len() == 400);
    assert_eq!(numbers(&hits), (1..=400).collect());
    assert_eq!(
        hits.iter().map(Hit::sequence).collect::<BTreeSet<_>>(),
        (1..=400).collect()
    );

    tell("/pause", &json!({}));
    publish(&server, &token, &json!({ "n": 401 }));
    tell("/skip-backlog", &json!({}));
    tell("/resume", &json!({}));
    publish(&server, &token, &json!({ "n": 402 }));
    let hits = receiver.until("the next", |hits| numbers(hits).contains(&402));
    assert!(!numbers(&hits).contains(&401));
    let seek = path(&subscription, "/seek");
    let ahead = server.post(&seek, &token, &json!({ "to": "2999-01-01T00:00:00Z" }));
    let refused = ahead.expect(400).json();
    assert_eq!(refused["field"], "to", "{refused}");
    tell("/seek", &json!({ "to": "beginning" }));
    receiver.until("all once more", |hits| {
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for hit in hits {
            *times
                .entry(hit.header("webhook-id").to_owned())
                .or_default() += 1;
        }
        times.len() == 402 && times.values().filter(|count| **count == 2).count() == 401
    });
}

#[test]
fn a_receiver_that_is_gone_disables_its_subscription_and_others_go_on() {
    let (server, token) = server();
    let (gone, good) = (Receiver::start(), Receiver::start());
    gone.answer(|_, _| 410);
    let subscription = subscribe(&server, &token, &gone, json!({}));
    let also = json!({ "filter": { "types": ["crm.**", "tidings.**"] } });
    subscribe(&server, &token, &good, also);
    publish(&server, &token, &json!({ "n": 1 }));
    let hits = good.until("the event that says so", |hits| {
        hits.iter()
            .any(|hit| hit.json()["type"] == "tidings.subscription.disabled")
    });
    let told = hits
        .iter()
        .find(|hit| hit.json()["type"] == "tidings.subscription.disabled")
        .unwrap();
    assert_eq!(told.json()["data"]["subscriptionId"], subscription["id"]);
    let now = server
        .get(&path(&subscription, ""), &token)
        .expect(200)
        .json();
    assert_eq!(
        (&now["state"], &now["reason"]),
        (
            &json!("disabled"),
            &json!("the receiver answered with status 410")
        )
    );
    // Resumed by its owner, it gets what it did not.
    gone.answer(|_, _| 200);
    server
        .post(&path(&subscription, "/resume"), &token, &json!({}))
        .expect(200);
    let hits = gone.until_taken(1);
    assert_eq!(hits[0].header("webhook-id"), hits[1].header("webhook-id"));
}

#[test]
fn after_kill_9_everything_arrives_under_the_same_ids_and_numbers() {
    let (mut server, token) = server();
    let receiver = Receiver::start();
    receiver.answer(|hit, before| {
        let id = hit.header("webhook-id");
        let tried = before
            .iter()
            .filter(|hit| hit.header("webhook-id") == id)
            .count();
        if tried == 0 && hit.sequence() % 3 == 0 {
            500
        } else {
            200
        }
    });
    subscribe(&server, &token, &receiver, json!({}));
    let mut n = 0;
    for round in 1..=5 {
        for _ in 0..40 {
            n += 1;
            publish(&server, &token, &json!({ "n": n }));
        }
        receiver.until_taken(round * 20);
        server = server.killed_and_restarted();
    }
    let hits = receiver.until("all", |hits| numbers(hits).len() == 200);
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for hit in &hits {
        ids.entry(hit.sequence())
            .or_default()
            .insert(hit.header("webhook-id").to_owned());
    }
    assert_eq!(
        ids.keys().copied().collect::<BTreeSet<_>>(),
        (1..=200).collect()
    );
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    let distinct: BTreeSet<_> = ids.values().flatten().collect();
    assert_eq!(distinct.len(), 200);
}

#[test]
fn a_rotated_secret_and_the_one_before_are_both_good_for_a_while() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let subscription = subscribe(&server, &token, &receiver, json!({}));
    let old = subscription["secret"].as_str().unwrap();
    let body = json!({ "overlap": "1h" });
    let rotated = server.post(&path(&subscription, "/rotate-secret"), &token, &body);
    let rotated = rotated.expect(200).json();
    let new = rotated["secret"].as_str().unwrap();
    assert_ne!(old, new);
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 2);
    publish(&server, &token, &json!({ "n": 1 }));
    let hit = receiver.until_taken(1).remove(0);
    let timestamp = hit.header("webhook-timestamp").parse().unwrap();
    let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
    for secret in [old, new] {
        assert!(verify(secret, id, timestamp, &hit.body, signature).unwrap());
    }
    // Secrets are the tenant's administrators' to see, and nowhere else.
    let shown = server
        .get(&path(&subscription, ""), &token)
        .expect(200)
        .text();
    assert!(!shown.contains("whsec_"), "{shown}");
    let user = server.token(&["--tenant", "acme", "--user", "u1"]);
    server
        .get(&path(&subscription, "/secret"), &user)
        .problem(403, "FORBIDDEN");
    let kept = std::fs::read(server.folder.path().join("store.db")).unwrap_or_default();
    let told = new.strip_prefix("whsec_").unwrap().as_bytes();
    assert!(!kept.windows(told.len()).any(|window| window == told));
}

#[test]
fn a_subscription_is_changed_by_merging_and_refused_with_the_field_that_is_wrong() {
    let (server, token) = server();
    let receiver = Receiver::start();
    let subscription = subscribe(&server, &token, &receiver, json!({}));
    let one = path(&subscription, "");
    let patch = |body: &Value| server.call("PATCH", &one).bearer(&token).json(body).send();
    let changed =
        patch(&json!({ "filter": { "types": ["crm.contact.updated"] }, "name": "other" }));
    let changed = changed.expect(200).json();
    assert_eq!(
        (&changed["revision"], &changed["name"]),
        (&json!(2), &json!("other"))
    );
    assert_eq!(changed["target"]["url"], receiver.url.as_str());
    let created = json!({ "type": "crm.contact.created", "data": {} });
    let explained = server.post("/v1/events/explain", &token, &created);
    let explained = explained.expect(200).json();
    assert_eq!(explained["subscriptions"][0]["matched"], false);
    let auth = json!({ "target": { "auth": { "kind": "bearer", "token": "s3cret" } } });
    let changed = patch(&auth).expect(200).json();
    assert_eq!(changed["target"]["auth"], json!({ "kind": "bearer" }));
    patch(&json!({ "filter": { "types": ["crm.**"] } })).expect(200);
    publish(&server, &token, &json!({ "n": 2 }));
    let hits = receiver.until_taken(1);
    assert_eq!(hits[0].json()["data"]["n"], 2);
    assert_eq!(hits[0].header("authorization"), "Bearer s3cret");

    let refused = patch(&json!({ "filter": { "dialects": [{ "sql": "a =" }] } }));
    assert_eq!(
        refused.problem(400, "INVALID_REQUEST")["field"],
        "filter.dialects[0].sql"
    );
    let refused = patch(&json!({ "target": { "url": "http://10.0.0.1/" } }));
    assert_eq!(
        refused.problem(400, "TARGET_NOT_ALLOWED")["field"],
        "target.url"
    );
    let list = server.get("/v1/subscriptions", &token).expect(200).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    server
        .call("DELETE", &one)
        .bearer(&token)
        .send()
        .expect(204);
    server.get(&one, &token).problem(404, "NOT_FOUND");
    publish(&server, &token, &json!({ "n": 3 }));
    let list = server.get("/v1/subscriptions", &token).expect(200).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 0);
}

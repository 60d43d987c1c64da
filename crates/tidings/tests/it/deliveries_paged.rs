//! What was delivered, and what was not, page by page: nothing is left out where one page ends and the next begins.

use serde_json::json;

use crate::harness::{PUBLISH, Server};
use crate::receiver::{Receiver, eventually};
use crate::workspaces::{DEAL, put, with_workspace};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['10ms', '10ms', '10ms', '10ms', '10ms', '10ms', '10ms']\n";

fn publish(server: &Server, token: &str, n: u64) {
    let body = json!({ "type": "crm.contact.created", "data": { "n": n, "key": "k" } });
    server.post(PUBLISH, token, &body).expect(201);
}

#[test]
fn a_receiver_that_asks_for_what_it_has_missed_gets_all_whatever_was_tried_how_often() {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let receiver = Receiver::start();
    receiver.answer(|_, _| 404);
    let body = json!({
        "name": "s", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
        "delivery": { "retry": { "maxAttempts": 8, "backoff": "1ms" } },
    });
    let made = server
        .post("/v1/subscriptions", &token, &body)
        .expect(201)
        .json();
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().unwrap());
    for n in 1..=20 {
        publish(&server, &token, n);
    }
    eventually("all of them are given up", || {
        (server.dead_letters(&token, "open").len() == 20).then_some(())
    });
    // Tried once, and waiting for long.
    let later = json!({ "delivery": { "retry": { "schedule": ["1h"], "maxAttempts": null, "backoff": null } } });
    let changed = server
        .call("PATCH", &path)
        .bearer(&token)
        .json(&later)
        .send();
    changed.expect(200);
    for n in 21..=30 {
        publish(&server, &token, n);
    }
    let all = || -> Vec<u64> {
        let (mut found, mut after) = (Vec::new(), Some(0));
        while let Some(from) = after {
            let page = server.get(&format!("{path}/events?after={from}&limit=5"), &token);
            let page = page.expect(200).json();
            let items = page["items"].as_array().expect("items").iter();
            found.extend(items.map(|item| item["sequence"].as_u64().expect("a number")));
            after = page["nextAfter"].as_u64();
        }
        found
    };
    eventually("all are there, each once", || {
        (all() == (1..=30).collect::<Vec<_>>()).then_some(())
    });
}

#[test]
fn each_attempt_to_deliver_to_an_extension_is_on_one_page() {
    let server = Server::start_with(CONFIG);
    let (ada, root) = with_workspace(&server);
    let receiver = Receiver::start();
    receiver.answer(|_, _| 404);
    let extension = "/api/workspaces/ws-1/extensions/crm";
    let external = json!({
        "kind": "EXTERNAL_SERVICE", "serviceBaseUrl": receiver.url, "installed": true, "enabled": true,
    });
    put(&server, extension, &root, &external).expect(200);
    let subscription = format!("{extension}/subscriptions/crm.deal.closed");
    put(&server, &subscription, &root, &json!({})).expect(200);
    let event = json!({ "eventKey": "crm.deal.closed", "payload": {} });
    for _ in 0..2 {
        server.post(DEAL, &ada, &event).expect(200);
    }
    let all = || -> Vec<(String, u64)> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("{extension}/deliveries?limit=3{cursor}"), &ada);
            let page = page.expect(200).json();
            for item in page["items"].as_array().expect("items") {
                let event = item["eventId"].as_str().expect("an id").to_owned();
                found.push((event, item["number"].as_u64().expect("a number")));
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    };
    let found = eventually("eight attempts of each", || {
        let found = all();
        (found.len() == 16).then_some(found)
    });
    for of_one in found.chunks(8) {
        assert!(
            of_one.iter().all(|(event, _)| *event == of_one[0].0),
            "{found:?}"
        );
        let numbers: Vec<u64> = of_one.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    }
}

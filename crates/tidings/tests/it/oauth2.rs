//! Receivers that want an access token: it is fetched once, kept, and fetched again when the receiver refuses it.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::harness::{PUBLISH, Server};
use crate::raw_receiver::RawReceiver;
use crate::receiver::{Receiver, eventually};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";

/// Grants token-1, token-2, … to who asks.
fn issuer() -> RawReceiver {
    let granted = Arc::new(AtomicU32::new(0));
    RawReceiver::at("127.0.0.1", move |stream, _| {
        let number = granted.fetch_add(1, Ordering::SeqCst) + 1;
        let body = json!({
            "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": 3600,
        });
        let body = body.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        // Whoever has gone meanwhile does not want the answer.
        let _ = stream.write_all((head + &body).as_bytes());
    })
}

fn body(receiver: &Receiver, token_url: &str) -> Value {
    json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url, "auth": {
            "kind": "oauth2", "tokenUrl": token_url, "clientId": "tidings:1",
            "clientSecret": "hunter2 &", "scope": "hooks events",
        } },
    })
}

#[test]
fn a_token_is_fetched_once_and_again_when_it_is_refused() {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let (token, receiver, issuer) = (server.crm("acme"), Receiver::start(), issuer());
    let made = server.post("/v1/subscriptions", &token, &body(&receiver, &issuer.url));
    let made = made.expect(201);
    assert!(!made.text().contains("hunter2"), "{}", made.text());
    assert_eq!(made.json()["target"]["auth"], json!({ "kind": "oauth2" }));

    let event = json!({ "type": "crm.contact.created", "data": {} });
    let batch = json!({ "events": vec![event.clone(); 20] });
    server
        .post("/v1/events/publish/batch", &token, &batch)
        .expect(201);
    let hits = receiver.until_taken(20);
    assert!(
        hits.iter()
            .all(|hit| hit.header("authorization") == "Bearer token-1")
    );
    let asked = issuer.messages(1);
    assert_eq!(asked.len(), 1, "twenty at once share one token");
    let form = "grant_type=client_credentials&scope=hooks+events";
    assert_eq!(String::from_utf8_lossy(&asked[0].body), form);
    // tidings%3A1:hunter2+%26
    let basic = "Basic dGlkaW5ncyUzQTE6aHVudGVyMislMjY=";
    assert_eq!(asked[0].header("authorization"), Some(basic));

    receiver.answer(|hit, _| {
        if hit.header("authorization") == "Bearer token-1" {
            401
        } else {
            200
        }
    });
    let id = server.post(PUBLISH, &token, &event).expect(201).json();
    let last = receiver.until_taken(21).pop().expect("one");
    assert_eq!(last.header("authorization"), "Bearer token-2");
    let path = format!(
        "/v1/events/{}/trace",
        id["eventId"].as_str().expect("an id")
    );
    let trace = eventually("the attempt is written down", || {
        let trace = server.get(&path, &token).expect(200);
        (trace.json()["deliveries"][0]["state"] == "delivered").then_some(trace)
    });
    let attempts = trace.json()["deliveries"][0]["attempts"].clone();
    assert_eq!(
        attempts.as_array().expect("attempts").len(),
        1,
        "one attempt"
    );
    let text = trace.text();
    assert!(
        !text.contains("token-") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn without_a_token_nothing_is_sent_and_an_inward_server_is_refused() {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let (token, receiver, issuer) = (server.crm("acme"), Receiver::start(), Receiver::start());
    let inward = body(&receiver, "http://10.0.0.1/token");
    let answer = server.post("/v1/subscriptions", &token, &inward);
    let problem = answer.problem(400, "TARGET_NOT_ALLOWED");
    assert_eq!(problem["field"], "target.auth.tokenUrl");

    issuer.answer(|_, _| 400);
    let made = body(&receiver, &issuer.url);
    server.post("/v1/subscriptions", &token, &made).expect(201);
    let event = json!({ "type": "crm.contact.created", "data": {} });
    server.post(PUBLISH, &token, &event).expect(201);
    let letter = eventually("a dead letter", || {
        let list = server.get("/v1/dead-letters", &token).expect(200).json();
        list["items"][0]["lastError"].as_str().map(str::to_owned)
    });
    assert!(
        letter.contains("no access token") && letter.contains("400"),
        "{letter}"
    );
    assert!(receiver.hits().is_empty());
}

#[test]
fn a_token_server_that_fails_holds_back_nobody_else_of_its_receivers_host() {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
    let (token, receiver, issuer) = (server.crm("acme"), Receiver::start(), Receiver::start());
    issuer.answer(|_, _| 500);
    let of_type = |mut body: Value, event_type: &str| {
        body["filter"]["types"] = json!([event_type]);
        server.post("/v1/subscriptions", &token, &body).expect(201);
    };
    of_type(body(&receiver, &issuer.url), "crm.contact.created");
    let target = json!({ "kind": "webhook", "url": receiver.url });
    let plain = json!({ "name": "plain", "filter": {}, "target": target });
    of_type(plain, "crm.contact.updated");

    let event = json!({ "type": "crm.contact.created", "data": {} });
    let batch = json!({ "events": vec![event; 20] });
    let published = server.post("/v1/events/publish/batch", &token, &batch);
    published.expect(201);
    eventually("all are given up", || {
        (server.dead_letters(&token, "open").len() == 20).then_some(())
    });
    let event = json!({ "type": "crm.contact.updated", "data": {} });
    let published = server.post(PUBLISH, &token, &event).expect(201).json();
    receiver.until_taken(1);
    let trace = format!(
        "/v1/events/{}/trace",
        published["eventId"].as_str().expect("an id")
    );
    let waited = eventually("its attempt", || {
        let trace = server.get(&trace, &token).expect(200).json();
        trace["deliveries"][0]["ledger"]["breaker"].as_i64()
    });
    assert_eq!(waited, 0, "the breaker of its host was open");
}

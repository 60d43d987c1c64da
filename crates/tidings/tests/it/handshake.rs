//! Receivers that are asked before anything is sent to them: nothing goes where it is not allowed, nor faster than it is.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{BATCH, PUBLISH, Server};
use crate::raw_receiver::{Message, RawReceiver};
use crate::receiver::eventually;

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";

/// Answers messages with 200, and OPTIONS with what is in the answer: a status line's rest and headers.
struct Asked {
    receiver: RawReceiver,
    answer: Arc<Mutex<&'static str>>,
}

const ALLOWED: &str = "200 OK\r\nWebHook-Allowed-Origin: 127.0.0.1\r\n";

impl Asked {
    fn start(answer: &'static str) -> Self {
        let answer = Arc::new(Mutex::new(answer));
        let shared = answer.clone();
        let receiver = RawReceiver::at("127.0.0.1", move |stream, message| {
            let options = message.head.starts_with("OPTIONS ");
            let answer = *shared.lock().expect("not poisoned");
            let answer = if options { answer } else { "200 OK\r\n" };
            let text = format!("HTTP/1.1 {answer}Content-Length: 0\r\n\r\n");
            // Whoever has gone meanwhile does not want the answer.
            let _ = stream.write_all(text.as_bytes());
        });
        Self { receiver, answer }
    }

    fn answer(&self, answer: &'static str) {
        *self.answer.lock().expect("not poisoned") = answer;
    }

    /// What has come, in the order of its coming, once it is so many.
    fn come(&self, count: usize) -> Vec<(bool, Message)> {
        let all = self.receiver.messages(count).into_iter();
        all.map(|message| (message.head.starts_with("OPTIONS "), message))
            .collect()
    }
}

fn server() -> (Server, String) {
    let server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    (server, token)
}

fn subscribe(server: &Server, token: &str, url: &str, delivery: &Value) -> Value {
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] }, "delivery": delivery,
        "target": { "kind": "webhook", "url": url, "handshake": true,
            "headers": { "x-tenant": "7" }, "auth": { "kind": "bearer", "token": "s3cret" } },
    });
    let made = server.post("/v1/subscriptions", token, &body);
    made.expect(201).json()
}

fn path(made: &Value, rest: &str) -> String {
    let id = made["id"].as_str().expect("an id");
    format!("/v1/subscriptions/{id}{rest}")
}

fn event() -> Value {
    json!({ "type": "crm.contact.created", "data": {} })
}

#[test]
fn no_header_of_the_connection_is_a_tenants() {
    let (server, token) = server();
    let target =
        json!({ "kind": "webhook", "url": "https://a.example/", "headers": { "Expect": "1" } });
    let refused = server.post(
        "/v1/subscriptions",
        &token,
        &json!({ "name": "a", "target": target }),
    );
    let problem = refused.problem(400, "INVALID_REQUEST");
    assert_eq!(problem["field"], "target.headers.Expect");
}

#[test]
fn nothing_is_sent_before_the_receiver_has_allowed_it() {
    let (server, token) = server();
    let asked = Asked::start("405 No\r\n");
    let delivery = json!({ "rateLimit": { "perSecond": 20 } });
    let made = subscribe(&server, &token, &asked.receiver.url, &delivery);
    assert_eq!(made["state"], "disabled", "{made}");
    let reason = made["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("OPTIONS") && reason.contains("405"),
        "{reason}"
    );
    server.post(PUBLISH, &token, &event()).expect(201);

    // It says no once more, and then yes.
    asked.answer("200 OK\r\nWebHook-Allowed-Origin: other.example\r\n");
    let resumed = server.post(&path(&made, "/resume"), &token, &json!({}));
    let resumed = resumed.expect(200).json();
    assert_eq!(resumed["state"], "disabled", "{resumed}");
    asked.answer(ALLOWED);
    let resumed = server.post(&path(&made, "/resume"), &token, &json!({}));
    let resumed = resumed.expect(200).json();
    assert_eq!(
        (&resumed["state"], &resumed["reason"]),
        (&json!("active"), &Value::Null)
    );

    // What has waited comes after the third question.
    let come = asked.come(4);
    let kinds: Vec<bool> = come.iter().map(|(options, _)| *options).collect();
    assert_eq!(kinds, [true, true, true, false]);
    for (_, question) in &come[..3] {
        let header = |name: &str| question.header(name);
        assert_eq!(header("webhook-request-origin"), Some("127.0.0.1"));
        assert_eq!(header("webhook-request-rate"), Some("1200"));
        assert_eq!(header("authorization"), Some("Bearer s3cret"));
        assert_eq!(header("x-tenant"), Some("7"));
        assert!(question.body.is_empty());
    }
    // It is not asked again for what it has allowed, but for another URL it is.
    let renamed = json!({ "name": "other" });
    let call = server.call("PATCH", &path(&made, "")).bearer(&token);
    assert_eq!(
        call.json(&renamed).send().expect(200).json()["state"],
        "active"
    );
    let other = Asked::start("200 OK\r\n");
    let moved = json!({ "target": { "url": other.receiver.url } });
    let call = server.call("PATCH", &path(&made, "")).bearer(&token);
    let moved = call.json(&moved).send().expect(200).json();
    assert_eq!(moved["state"], "disabled", "{moved}");
    let reason = moved["reason"].as_str().expect("a reason");
    assert!(reason.contains("no WebHook-Allowed-Origin"), "{reason}");
    assert_eq!((asked.come(0).len(), other.come(1).len()), (4, 1));
}

#[test]
fn a_rate_that_the_receiver_sets_is_kept() {
    let (server, token) = server();
    let asked =
        Asked::start("200 OK\r\nWebHook-Allowed-Origin: *\r\nWebHook-Allowed-Rate: 240\r\n");
    let delivery = json!({ "rateLimit": { "perSecond": 1000 } });
    let made = subscribe(&server, &token, &asked.receiver.url, &delivery);
    assert_eq!(
        (&made["state"], &made["target"]["allowedPerMinute"]),
        (&json!("active"), &json!(240)),
        "{made}"
    );
    // Four may go at once, the others a quarter of a second after each other.
    let batch = json!({ "events": vec![event(); 6] });
    let answer = server.post(BATCH, &token, &batch).expect(201).json();
    assert_eq!(asked.come(7).len(), 7);
    let last = answer["results"][5]["eventId"].as_str().expect("an id");
    let trace = format!("/v1/events/{last}/trace");
    let waited = eventually("the attempt is written down", || {
        let trace = server.get(&trace, &token).expect(200).json();
        trace["deliveries"][0]["ledger"]["rateLimit"].as_i64()
    });
    assert!(waited >= 400, "{waited}");
    // The word survives a restart, and is not asked for again.
    let server = server.restart();
    let shown = server.get(&path(&made, ""), &token).expect(200).json();
    assert_eq!(shown["target"], made["target"]);
    assert_eq!(asked.come(0).len(), 7);
}

#[test]
fn a_rate_that_no_receiver_could_be_asked_for_is_refused() {
    let (server, token) = server();
    let asked = Asked::start(ALLOWED);
    let body = |rate: u32| {
        json!({
            "name": "fast", "delivery": { "rateLimit": { "perSecond": rate } },
            "target": { "kind": "webhook", "url": asked.receiver.url, "handshake": true },
        })
    };
    let refused = server.post("/v1/subscriptions", &token, &body(2_000_000));
    let problem = refused.problem(400, "INVALID_REQUEST");
    assert_eq!(problem["field"], "delivery.rateLimit.perSecond");
    let made = server.post("/v1/subscriptions", &token, &body(100_000));
    made.expect(201);
}

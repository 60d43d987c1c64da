//! Receivers are sent what they must cope with: who does everything right passes, and each thing wrong is named.

use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};
use tidings_egress::signing::verify;

use crate::harness::{BINARY, PUBLISH, Server};
use crate::receiver::{Hit, Receiver};

fn subscribed(receiver: &Receiver, format: &str) -> (Server, String, Value) {
    let server = Server::start_with("egress.allow_targets = ['127.0.0.1']");
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] }, "requireConformance": true,
        "target": { "kind": "webhook", "url": receiver.url, "format": format },
    });
    let made = server.post("/v1/subscriptions", &token, &body);
    let made = made.expect(201).json();
    (server, token, made)
}

fn path(subscription: &Value, rest: &str) -> String {
    let id = subscription["id"].as_str().expect("an id");
    format!("/v1/subscriptions/{id}{rest}")
}

/// What a good receiver answers.
fn right(secret: &str, hit: &Hit) -> u16 {
    let at: i64 = hit.header("webhook-timestamp").parse().expect("a number");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.expect("after 1970").as_secs()).expect("small");
    let (id, signature) = (hit.header("webhook-id"), hit.header("webhook-signature"));
    let good = verify(secret, id, at, &hit.body, signature).expect("a secret");
    if good && (now - at).abs() < 300 {
        200
    } else {
        401
    }
}

fn failed(report: &Value) -> Vec<&str> {
    let cases = report["cases"].as_array().expect("cases").iter();
    let failed = cases.filter(|case| case["passed"] == false);
    failed
        .map(|case| case["case"].as_str().expect("a name"))
        .collect()
}

#[test]
fn a_subscription_that_requires_it_gets_nothing_until_its_receiver_passes() {
    for format in [
        "cloudevents-structured",
        "cloudevents-binary",
        "platform-event",
    ] {
        let mut receiver = Receiver::start();
        // A URL that is asked under another spelling than its owner's.
        receiver.url = receiver.url.replace("http://", "HTTP://");
        let (server, token, made) = subscribed(&receiver, format);
        assert_eq!(made["state"], "disabled", "{made}");
        assert!(
            made["reason"]
                .as_str()
                .expect("one")
                .contains("conformance")
        );
        let resume = path(&made, "/resume");
        let still = server.post(&resume, &token, &json!({})).expect(200).json();
        assert_eq!(still["state"], "disabled", "resuming does not go around it");
        let event = json!({ "type": "crm.contact.created", "data": { "n": 1 } });
        server.post(PUBLISH, &token, &event).expect(201);

        let test = path(&made, "/test");
        let report = server.post(&test, &token, &json!({})).expect(200).json();
        let wrong = ["tampered-body", "old-timestamp", "wrong-key"];
        assert_eq!(failed(&report), wrong, "it takes everything: {report}");
        assert_eq!(
            (&report["passed"], &report["state"]),
            (&json!(false), &json!("disabled"))
        );
        assert_eq!(receiver.hits().len(), 7);

        let secret = made["secret"].as_str().expect("a secret").to_owned();
        receiver.answer(move |hit, _| right(&secret, hit));
        let report = server.post(&test, &token, &json!({})).expect(200).json();
        assert_eq!(failed(&report), Vec::<&str>::new(), "{report}");
        assert_eq!(
            (&report["passed"], &report["state"]),
            (&json!(true), &json!("active"))
        );
        let hits = receiver.until("what has waited", |hits| hits.len() == 15);
        assert_eq!(hits[7].header("webhook-id"), hits[11].header("webhook-id"));
        assert_eq!(hits[14].sequence(), 1);

        let moved = json!({ "target": { "url": format!("{}/new", receiver.url) } });
        let patch = server.call("PATCH", &path(&made, ""));
        let patch = patch.bearer(&token).json(&moved).send().expect(200).json();
        assert_eq!(patch["state"], "disabled", "another URL has yet to pass");
        let waived = json!({ "requireConformance": false });
        let patch = server.call("PATCH", &path(&made, ""));
        let patch = patch.bearer(&token).json(&waived).send().expect(200).json();
        assert_eq!(patch["state"], "active");
    }
}

#[test]
fn passing_does_not_begin_what_its_owner_keeps_from_beginning() {
    let receiver = Receiver::start();
    let (server, token, made) = subscribed(&receiver, "cloudevents-structured");
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    receiver.answer(move |hit, _| right(&secret, hit));
    let post = |rest: &str| {
        let answer = server.post(&path(&made, rest), &token, &json!({}));
        answer.expect(200).json()
    };
    let patch = |change: Value| {
        let patch = server.call("PATCH", &path(&made, ""));
        let patch = patch.bearer(&token).json(&change);
        patch.send().expect(200).json()
    };
    let stands = |subscription: &Value, state: &str| {
        assert_eq!(subscription["state"], state, "{subscription}");
        assert_eq!(subscription["reason"], Value::Null, "{subscription}");
    };

    stands(&post("/pause"), "paused");
    let report = post("/test");
    assert_eq!(
        (&report["passed"], &report["state"]),
        (&json!(true), &json!("paused"))
    );
    stands(&post("/resume"), "active");

    let moved = json!({ "target": { "url": format!("{}/new", receiver.url) } });
    assert!(
        patch(moved)["reason"].is_string(),
        "another URL has yet to pass"
    );
    stands(&patch(json!({ "enabled": false })), "disabled");
    let report = post("/test");
    assert_eq!(
        (&report["passed"], &report["state"]),
        (&json!(true), &json!("disabled"))
    );
    stands(&patch(json!({ "enabled": true })), "active");
}

#[test]
fn the_command_line_shows_each_case_and_ends_with_1_when_one_fails() {
    let receiver = Receiver::start();
    let (server, token, made) = subscribed(&receiver, "cloudevents-structured");
    let run = || {
        let mut command = Command::new(BINARY);
        command
            .args(["subscriptions", "test", made["id"].as_str().expect("an id")])
            .args(["-o", "table"])
            .env("TIDINGS_URL", format!("http://{}", server.address))
            .env("TIDINGS_TOKEN", &token);
        let ran = command.output().expect("it runs");
        (
            ran.status.code(),
            String::from_utf8(ran.stdout).expect("text"),
        )
    };
    let (code, table) = run();
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains("tampered-body"), "{table}");
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    receiver.answer(move |hit, _| right(&secret, hit));
    let (code, table) = run();
    assert_eq!(code, Some(0), "{table}");
    receiver.answer(|_, _| 500);
    let (code, table) = run();
    assert_eq!((code, table.contains("500")), (Some(1), true), "{table}");
}

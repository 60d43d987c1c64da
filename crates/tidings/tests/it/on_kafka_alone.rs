//! A Kafka and nothing else: idempotency keys are in the data folder, and a restart forgets none.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{BINARY, ON_ITS_FOLDER, PUBLISH, Server};

fn publish(server: &Server, token: &str, text: &str) -> (u16, Value) {
    let body = json!({ "type": "demo.greeting.sent", "data": { "text": text } });
    let call = server.call("POST", PUBLISH).bearer(token);
    let answer = call.header("Idempotency-Key", "greeting-1").json(&body);
    let answer = answer.send();
    let receipt = serde_json::from_slice(&answer.body).expect("JSON");
    (answer.status, receipt)
}

#[test]
fn a_key_is_honoured_across_a_restart_without_valkey_or_postgresql() {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    let brokers = brokers.expect("`scripts/test` starts the servers that tests need");
    // The broker is shared with other tests, and a run by hand leaves topics behind.
    let prefix = format!("alone-{}.", std::process::id());
    let server = Server::start_with(&format!(
        "{ON_ITS_FOLDER}bus.kind = 'kafka'\nbus.kafka.brokers = '{brokers}'\n\
         bus.kafka.topic_prefix = '{prefix}'\n"
    ));
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let (status, first) = publish(&server, &token, "hello");
    assert_eq!(status, 201, "{first}");
    let server = server.restart();
    let (status, again) = publish(&server, &token, "hello");
    assert_eq!((status, &again), (200, &first));
    let (status, other) = publish(&server, &token, "good-bye");
    assert_eq!(
        (status, &other["code"]),
        (422, &json!("IDEMPOTENCY_KEY_REUSED"))
    );
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    // No broker needs to be there for that.
    let configuration =
        format!("{ON_ITS_FOLDER}bus.kind = 'kafka'\nbus.kafka.brokers = '127.0.0.1:9'\n");
    let first = Server::start_with(&configuration);
    let folder = first.folder.path();
    let run = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder)
        .arg("--config")
        .arg(folder.join("tidings.toml"))
        .output()
        .expect("it runs");
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("another process serves on the data folder"),
        "{said}"
    );
    assert!(said.contains("share a PostgreSQL (store.url)"), "{said}");
    // What the first one left is free, however it ended.
    let second = first.killed_and_restarted();
    assert_eq!(second.call("GET", "/healthz").send().status, 200);
}

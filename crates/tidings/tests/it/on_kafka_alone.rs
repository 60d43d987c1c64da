//! A Kafka and nothing else: idempotency keys are in the data folder, and a restart forgets none.

use serde_json::{Value, json};

use crate::harness::{ON_ITS_FOLDER, PUBLISH, Server};

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

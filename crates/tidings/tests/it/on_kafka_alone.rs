//! A Kafka and nothing else: idempotency keys are in the data folder, and a restart forgets none.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::events::Stream;
use crate::harness::{BINARY, ON_ITS_FOLDER, PUBLISH, Request, Server, UNAVAILABLE};
use crate::servers::kafka_tool;
use crate::under_load::in_time;

fn brokers() -> String {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    brokers.expect("`scripts/test` starts the servers that tests need")
}

/// With topics of its own: the broker is shared with other tests, and a run by hand leaves topics behind.
fn on_kafka(prefix: &str) -> String {
    let (brokers, run) = (brokers(), std::process::id());
    format!(
        "{ON_ITS_FOLDER}bus.kind = 'kafka'\nbus.kafka.brokers = '{brokers}'\n\
         bus.kafka.topic_prefix = '{prefix}-{run}.'\n"
    )
}

fn greeting(server: &Server, token: &str, text: &str) -> Request {
    let body = json!({ "type": "demo.greeting.sent", "data": { "text": text } });
    let call = server.call("POST", PUBLISH).bearer(token);
    call.header("Idempotency-Key", "greeting-1").json(&body)
}

fn publish(server: &Server, token: &str, text: &str) -> (u16, Value) {
    let answer = greeting(server, token, text).send();
    (answer.status, answer.json())
}

#[test]
fn a_key_is_honoured_across_a_restart_without_valkey_or_postgresql() {
    let server = Server::start_with(&on_kafka("alone"));
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
fn a_topic_that_gets_more_partitions_loses_nothing_of_any_tenant() {
    let server = Server::start_with(&on_kafka("grown"));
    let event = json!({ "type": "demo.greeting.sent", "data": { "text": "hello" } });
    // Among so many are some that more partitions would place elsewhere.
    let published = |server: &Server| -> Vec<Value> {
        let tenants = (0..8).map(|number| format!("tenant-{number}"));
        let receipts = tenants.map(|tenant| {
            let token = server.token(&["--tenant", &tenant, "--module", "demo"]);
            let receipt = server.post(PUBLISH, &token, &event).expect(201).json();
            json!([receipt["topic"], receipt["partition"], server.count(&token)])
        });
        receipts.collect()
    };
    let first = published(&server);
    let topic = first[0][0].as_str().expect("a topic");
    let topic = format!("grown-{}.{topic}", std::process::id());
    let jars = std::env::var("TIDINGS_KAFKA_LIBS").expect("`scripts/test` says where they are");
    let more = ["--alter", "--topic", &topic, "--partitions", "29"];
    kafka_tool(&jars, &brokers(), "TopicCommand", &more);
    let described = ["--describe", "--topic", &topic];
    let described = kafka_tool(&jars, &brokers(), "TopicCommand", &described);
    assert!(described.contains("PartitionCount: 29"), "{described}");

    let again = published(&server.restart());
    for (before, after) in first.iter().zip(&again) {
        assert_eq!(before[1], after[1], "another partition");
        assert_eq!((&before[2], &after[2]), (&json!(1), &json!(2)));
    }
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

/// The variables of source E, over whatever the file says.
#[test]
fn kafka_enabled_and_kafka_brokers_choose_the_bus() {
    let prefix = format!("variables-{}.", std::process::id());
    let configuration = format!("{ON_ITS_FOLDER}bus.kafka.topic_prefix = '{prefix}'\n");
    let brokers = brokers();
    for (enabled, skipped) in [("true", Value::Null), ("false", Value::Bool(true))] {
        let variables = [("KAFKA_ENABLED", enabled), ("KAFKA_BROKERS", &*brokers)];
        let server = Server::start_with_variables(&configuration, &variables);
        let token = server.token(&["--tenant", "acme", "--module", "demo"]);
        let (status, receipt) = publish(&server, &token, "hello");
        assert_eq!(&receipt["skipped"], &skipped, "{status} {receipt}");
        assert!(!server.folder.path().join("bus.db").exists());
    }
}

/// The broker would make the topic for whoever asks for it.
#[test]
fn no_topic_is_made_where_none_is_to_be() {
    let configuration = on_kafka("unmade") + "bus.kafka.create_topics = false\n";
    let server = Server::start_with(&configuration);
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    for _ in 0..3 {
        let begun = Instant::now();
        let refused = greeting(&server, &token, "hello").send_once();
        refused.problem(503, UNAVAILABLE);
        assert!(begun.elapsed() < in_time(), "{:?}", begun.elapsed());
        assert_eq!(server.count(&token), 0);
    }
}

#[test]
fn a_stream_shows_what_is_published_at_another_replica() {
    let configuration = on_kafka("streams");
    let [one, two] = [(); 2].map(|()| Server::start_with(&configuration));
    let token = |server: &Server| server.token(&["--tenant", "acme", "--module", "demo"]);
    let mut stream = Stream::open(&two, &token(&two), None);
    // The first makes the topic, which the other replica has to hear of.
    for text in ["first", "second"] {
        let body = json!({ "type": "demo.greeting.sent", "data": { "text": text } });
        one.post(PUBLISH, &token(&one), &body).expect(201);
        let (_, event) = stream.next();
        assert_eq!(event["data"]["text"], text, "{event}");
    }
}

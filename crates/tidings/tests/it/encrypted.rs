//! PostgreSQL and Redis over TLS, whose certificates a gateway verifies.

use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::harness::{BINARY, Folder, PATIENCE, PUBLISH, ROOTS, Server, UNAVAILABLE};
use crate::secured_kafka::Files;
use crate::servers::Servers;

/// On the Kafka of all tests, with topics of its own.
fn configuration(store: &str, receipts: &str) -> String {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    let brokers = brokers.expect("`scripts/test` starts the servers that tests need");
    let run = std::process::id();
    format!(
        "store.url = '{store}'\nreceipts.url = '{receipts}'\nbus.kind = 'kafka'\n\
         bus.kafka.brokers = '{brokers}'\nbus.kafka.topic_prefix = 'encrypted-{run}.'\n"
    )
}

/// A gateway that trusts an authority, and whose log is kept.
fn trusting(authority: &str, config: &str) -> Server {
    let folder = Folder::new();
    std::fs::copy(authority, folder.path().join(ROOTS)).expect("a file");
    Server::start_with_in(folder, config)
}

/// What the binary says that does not start with this store.
fn does_not_start(store: &str, receipts: &str) -> String {
    let folder = Folder::new();
    let file = folder.path().join("tidings.toml");
    std::fs::write(&file, configuration(store, receipts)).expect("a file");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(folder.path()).arg("--config").arg(&file);
    let begun = Instant::now();
    let run = command.output().expect("it runs");
    assert!(!run.status.success());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    String::from_utf8_lossy(&run.stderr).into_owned()
}

#[test]
fn postgresql_and_redis_are_verified_over_tls() {
    let files = Files::new();
    let servers = Servers::start_encrypted(&files.0, &["postgres", "valkey"]);
    let given = |name| servers.setting(name).expect("it was started");
    let (postgres, redis) = (given("TIDINGS_TEST_POSTGRES"), given("TIDINGS_TEST_VALKEY"));
    assert!(redis.starts_with("rediss://"), "{redis}");
    let (authority, stranger) = (files.path("authority.pem"), files.path("stranger.pem"));
    let verified =
        |authority: &str| format!("{postgres}?sslmode=verify-full&sslrootcert={authority}");

    let config = configuration(&verified(&authority), redis);
    let server = trusting(&authority, &config);
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let publish = |server: &Server, token: &str| {
        let body = json!({ "type": "demo.greeting.sent", "data": {} });
        let call = server.call("POST", PUBLISH).bearer(token);
        call.header("Idempotency-Key", "once").json(&body)
    };
    let first = publish(&server, &token).send().expect(201);
    let again = publish(&server, &token).send().expect(200);
    assert_eq!(first.json(), again.json());
    let ready = server.call("GET", "/readyz").send().json();
    assert_eq!(ready["status"], "ready", "{ready}");

    // Keys cannot be asked after where Redis shows a stranger's certificate, and none is published without.
    let server = trusting(&stranger, &config);
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let refused = publish(&server, &token).send_once();
    refused.problem(503, UNAVAILABLE);
    let ready = server.call("GET", "/readyz").send().expect(200).json();
    assert_eq!(ready["status"], "degraded", "{ready}");
    assert!(
        server.log().contains("invalid peer certificate"),
        "{}",
        server.log()
    );

    let said = does_not_start(&verified(&stranger), redis);
    assert!(
        said.contains("the store on PostgreSQL cannot be opened"),
        "{said}"
    );
    assert!(said.contains("invalid peer certificate"), "{said}");
    // A server without TLS is not spoken to in the clear.
    let plain = std::env::var("TIDINGS_TEST_POSTGRES").expect("as above");
    let said = does_not_start(&format!("{plain}?sslmode=verify-full"), redis);
    assert!(said.contains("server does not support TLS"), "{said}");
}

//! A key that a publish holds whose gateway has died, and how one with the same key fares until its lease is over.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{BINARY, PUBLISH, Server};
use crate::servers::Servers;
use crate::under_load::in_time;

const KEY: &str = "greeting-1";
const NAME: &[u8] = b"tidings:once:{acme}:11:module:demo:greeting-1";
/// Longer than a publish waits for another's key, shorter than the SDK goes on trying.
const LEASE: Duration = Duration::from_secs(4);

/// Runs a command of Valkey's; what it answers, if that is text.
fn valkey(address: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("Valkey answers");
    let mut command = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        command.extend(format!("${}\r\n", part.len()).bytes());
        command.extend([part, &b"\r\n"[..]].concat());
    }
    stream.write_all(&command).expect("it takes commands");
    let (mut answer, mut line) = (BufReader::new(stream), String::new());
    answer.read_line(&mut line).expect("a line");
    let Some(length) = line.strip_prefix('$') else {
        assert_eq!(line, "+OK\r\n");
        return Vec::new();
    };
    let length = length.trim_end().parse().expect("a length");
    let mut text = vec![0; length];
    answer.read_exact(&mut text).expect("a text");
    text
}

#[test]
fn a_key_in_use_is_told_apart_from_an_outage_and_tried_again() {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    let brokers = brokers.expect("`scripts/test` starts the servers that tests need");
    let servers = Servers::start(&["valkey"]);
    let (place, run) = (servers.address("TIDINGS_TEST_VALKEY"), std::process::id());
    let server = Server::start_with(&format!(
        "store.url = ''\nreceipts.url = 'redis://{place}'\nbus.kind = 'kafka'\n\
         bus.kafka.brokers = '{brokers}'\nbus.kafka.topic_prefix = 'in-use-{run}.'\n"
    ));
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let body = json!({ "type": "demo.greeting.sent", "data": { "text": "hello" } });
    let publish = || {
        let call = server.call("POST", PUBLISH).bearer(&token);
        call.header("Idempotency-Key", KEY).json(&body)
    };
    publish().send().expect(201);

    // As a publish of the same leaves it whose gateway died before it was produced (claim.lua).
    let completed = valkey(&place, &[b"GET", NAME]);
    let (event_id, ends) = (Uuid::now_v7(), SystemTime::now() + LEASE);
    let ends = ends.duration_since(UNIX_EPOCH).expect("after 1970");
    let (holder, ends) = (Uuid::now_v7(), ends.as_millis().to_string());
    let fingerprint = &completed[1..17];
    let ids = [holder.as_bytes(), event_id.as_bytes()];
    let reserved = [b"R", fingerprint, ids[0], ids[1], b"0", ends.as_bytes()];
    valkey(&place, &[b"SET", NAME, &reserved.concat()]);

    let asked = Instant::now();
    let refused = publish().send_once();
    assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
    refused.problem(503, "IDEMPOTENCY_KEY_IN_USE");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let ready = server.call("GET", "/readyz").send().json();
    assert_eq!(ready["status"], "ready", "{ready}");

    // The command line speaks through the Rust SDK.
    let run = Command::new(BINARY)
        .args(["publish", "demo.greeting.sent", r#"{"text": "hello"}"#])
        .args(["--key", KEY, "-o", "json"])
        .env("TIDINGS_URL", format!("http://{}", server.address))
        .env("TIDINGS_TOKEN", &token)
        .output()
        .expect("it runs");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let receipt: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(receipt["eventId"], event_id.to_string());
}

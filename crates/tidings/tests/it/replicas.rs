//! Replicas on one PostgreSQL, and what is said of the parts that are gone.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{BINARY, PATIENCE, PUBLISH, Server};
use crate::servers::{Servers, place};

/// What it says of itself, and that it said so in time.
fn ready(server: &Server) -> (u16, Value) {
    let begun = Instant::now();
    let answer = server.call("GET", "/readyz").send();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    (
        answer.status,
        serde_json::from_slice(&answer.body).expect("JSON"),
    )
}

fn await_ready(server: &Server) {
    let begun = Instant::now();
    while ready(server).1["status"] != "ready" {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            ready(server)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn doctor(server: &Server) -> (bool, String) {
    let config = server.folder.path().join("tidings.toml");
    let run = Command::new(BINARY)
        .args(["doctor", "--data", &place(&server.folder), "--config"])
        .arg(config)
        .output()
        .expect("it runs");
    (
        run.status.success(),
        String::from_utf8(run.stdout).expect("text"),
    )
}

#[test]
fn a_change_at_one_replica_is_in_force_at_the_other() {
    let servers = Servers::start(&["postgres", "valkey"]);
    let (one, two) = (
        Server::start_with(&servers.configuration()),
        Server::start_with(&servers.configuration()),
    );
    one.declare("crm", &["crm.contact.created"]);
    let token = two.crm("acme");
    let event = json!({ "type": "crm.contact.created", "data": { "id": "c-1" } });
    let begun = Instant::now();
    while two.post(PUBLISH, &token, &event).status != 201 {
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the manifest took too long"
        );
    }

    let admin = two.token(&["--tenant", "acme", "--role", "ADMIN"]);
    let wanted = json!({ "name": "ci", "scopes": ["events:read"] });
    let made = two.post("/v1/api-keys", &admin, &wanted).expect(201).json();
    let key = made["key"].as_str().expect("a key").to_owned();
    let begun = Instant::now();
    while one.get("/v1/events", &key).status != 200 {
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the key took too long"
        );
    }
    let path = format!("/v1/api-keys/{}", made["id"].as_str().expect("an id"));
    two.call("DELETE", &path).bearer(&admin).send().expect(204);
    let begun = Instant::now();
    while one.get("/v1/events", &key).status != 401 {
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the revocation took too long"
        );
    }
}

#[test]
fn a_catalogue_put_at_one_replica_gives_the_other_its_topics_on_kafka() {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let (one, two) = (
        Server::start_with(&servers.configuration()),
        Server::start_with(&servers.configuration()),
    );
    apply(&one, "crm", &small("crm.invoice.sent").to_string());
    let token = two.crm("acme");
    let event = json!({ "type": "crm.invoice.sent", "data": { "count": 1 } });
    let begun = Instant::now();
    let receipt = loop {
        let answer = two.post(PUBLISH, &token, &event);
        if answer.status == 201 {
            break answer.json();
        }
        answer.problem(403, "EVENT_PUBLISH_FORBIDDEN");
        assert!(begun.elapsed() < Duration::from_secs(1), "it took too long");
    };
    assert_eq!(receipt["topic"], "crm.invoice.sent");
    // Neither of these has written to the topic: they know it from the catalogue alone.
    let path = format!("/v1/events/{}", receipt["eventId"].as_str().expect("an id"));
    let later = Server::start_with(&servers.configuration());
    for replica in [&one, &later] {
        let token = replica.crm("acme");
        let found = replica.get(&path, &token).expect(200).json();
        assert_eq!(found["data"], event["data"]);
        assert_eq!(replica.count(&token), 1);
    }
}

#[test]
fn parts_that_are_gone_are_named_and_come_back() {
    let servers = Servers::start(&["postgres", "valkey"]);
    let server = Server::start_with(&servers.configuration());
    let (status, said) = ready(&server);
    assert_eq!((status, &said["status"]), (200, &json!("ready")), "{said}");
    assert_eq!(said["parts"]["receipts"]["status"], "ready", "{said}");
    let (sound, findings) = doctor(&server);
    assert!(sound && findings.contains("receipts"), "{findings}");

    servers.kill("valkey");
    let (status, said) = ready(&server);
    assert_eq!(
        (status, &said["status"]),
        (200, &json!("degraded")),
        "{said}"
    );
    assert_eq!(said["parts"]["receipts"]["status"], "gone", "{said}");
    let (sound, findings) = doctor(&server);
    assert!(
        !sound && findings.to_lowercase().contains("gone"),
        "{findings}"
    );
    servers.restart("valkey");
    await_ready(&server);

    servers.kill("postgres");
    let deadline = Instant::now() + PATIENCE;
    // Its backends end a moment after their parent.
    while ready(&server).0 != 503 {
        assert!(Instant::now() < deadline, "{:?}", ready(&server));
    }
    let (_, said) = ready(&server);
    assert_eq!(said["parts"]["store"]["status"], "gone", "{said}");
    servers.restart("postgres");
    await_ready(&server);
    server.declare("crm", &["crm.contact.created"]);
}

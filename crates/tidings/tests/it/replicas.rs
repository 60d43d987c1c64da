//! Replicas on one PostgreSQL, and what is said of the parts that are gone.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{BINARY, PATIENCE, PUBLISH, Server};
use crate::servers::{Servers, place};

/// What it says of itself, and that it says so in time: once of three times, as the machine may stand still.
fn ready(server: &Server) -> (u16, Value) {
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = server.call("GET", "/readyz").send();
        took = begun.elapsed();
        if took < Duration::from_secs(2) {
            let said = serde_json::from_slice(&answer.body).expect("JSON");
            return (answer.status, said);
        }
    }
    panic!("{took:?}");
}

/// That a change at one replica is in force at the other within a second. A machine that others use stands still now and
/// then: of a look that takes long only so much counts.
pub(crate) fn within_the_promise(what: &str, mut holds: impl FnMut() -> bool) {
    let (promised, most) = (Duration::from_secs(1), Duration::from_millis(50));
    let mut counted = Duration::ZERO;
    loop {
        let begun = Instant::now();
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
        counted += begun.elapsed().min(most);
        assert!(counted < promised, "{what} took too long");
    }
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
    within_the_promise("the manifest", || {
        two.post(PUBLISH, &token, &event).status == 201
    });

    let admin = two.token(&["--tenant", "acme", "--role", "ADMIN"]);
    let wanted = json!({ "name": "ci", "scopes": ["events:read"] });
    let made = two.post("/v1/api-keys", &admin, &wanted).expect(201).json();
    let key = made["key"].as_str().expect("a key").to_owned();
    within_the_promise("the key", || one.get("/v1/events", &key).status == 200);
    let path = format!("/v1/api-keys/{}", made["id"].as_str().expect("an id"));
    two.call("DELETE", &path).bearer(&admin).send().expect(204);
    let gone = || one.get("/v1/events", &key).status == 401;
    within_the_promise("the revocation", gone);
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
    let mut receipt = Value::Null;
    within_the_promise("the catalogue", || {
        let answer = two.post(PUBLISH, &token, &event);
        if answer.status == 201 {
            receipt = answer.json();
            return true;
        }
        answer.problem(403, "EVENT_PUBLISH_FORBIDDEN");
        false
    });
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

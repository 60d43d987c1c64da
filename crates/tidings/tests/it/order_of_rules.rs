//! Two faults in one request: the earlier rule answers, and nothing is appended.

use std::process::Command;

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{BINARY, PUBLISH, Server};

/// One fault for each rule that a request can break, in the order of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Credential,
    BodyLimit,
    Shape,
    Kernel,
    Manifest,
    SchemaVersion,
    DataSize,
    Contract,
    Key,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Credential,
        Self::BodyLimit,
        Self::Shape,
        Self::Kernel,
        Self::Manifest,
        Self::SchemaVersion,
        Self::DataSize,
        Self::Contract,
        Self::Key,
    ];

    const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::Credential => (401, "UNAUTHENTICATED"),
            Self::BodyLimit | Self::DataSize => (400, "EVENT_PAYLOAD_TOO_LARGE"),
            Self::Shape => (400, "INVALID_EVENT"),
            Self::Kernel => (403, "KERNEL_EVENT_PUBLISH_FORBIDDEN"),
            Self::Manifest => (403, "EVENT_PUBLISH_FORBIDDEN"),
            Self::SchemaVersion => (400, "INVALID_SCHEMA_VERSION"),
            Self::Contract => (422, "EVENT_SCHEMA_VIOLATION"),
            Self::Key => (400, "INVALID_IDEMPOTENCY_KEY"),
        }
    }

    /// The member that tells apart the two limits, which share a code.
    const fn limit(self) -> Option<u64> {
        match self {
            Self::BodyLimit => Some(2 * 1024 * 1024),
            Self::DataSize => Some(1024 * 1024),
            _ => None,
        }
    }
}

fn send(server: &Server, token: &str, faults: &[Fault]) -> crate::harness::Answer {
    let has = |fault| faults.contains(&fault);
    let event_type = if has(Fault::Kernel) {
        "auth.user.created"
    } else if has(Fault::Manifest) {
        "crm.contact.undeclared"
    } else {
        "crm.contact.created"
    };
    let version = if has(Fault::SchemaVersion) {
        "1.0"
    } else {
        "1.0.0"
    };
    let data = if has(Fault::DataSize) {
        "x".repeat(1024 * 1024)
    } else {
        "x".to_owned()
    };
    let count = if has(Fault::Contract) { -1 } else { 1 };
    let unknown = if has(Fault::Shape) {
        r#","colour":"red""#
    } else {
        ""
    };
    let padding = if has(Fault::BodyLimit) {
        " ".repeat(2 * 1024 * 1024)
    } else {
        String::new()
    };
    let body = format!(
        r#"{{"type":"{event_type}","schemaVersion":"{version}","data":{{"count":{count},"x":"{data}"}}{unknown}{padding}}}"#
    );
    let call = server
        .call("POST", PUBLISH)
        .header("Content-Type", "application/json");
    let call = if has(Fault::Credential) {
        call
    } else {
        call.bearer(token)
    };
    let call = if has(Fault::Key) {
        call.header("Idempotency-Key", "with space")
    } else {
        call
    };
    call.body(body).send()
}

#[test]
fn of_every_pair_of_faults_the_earlier_rule_answers() {
    let server = Server::start();
    let token = server.crm("acme");
    apply(&server, "crm", &small("crm.contact.created").to_string());
    for (index, earlier) in Fault::ALL.into_iter().enumerate() {
        for later in &Fault::ALL[index..] {
            let (status, code) = earlier.answer();
            println!("{earlier:?} and {later:?}");
            let problem = send(&server, &token, &[earlier, *later]).problem(status, code);
            assert_eq!(
                problem["limit"].as_u64(),
                earlier.limit(),
                "{earlier:?} and {later:?}"
            );
        }
    }
    assert_eq!(server.count(&token), 0);
    send(&server, &token, &[]).expect(201);
}

#[test]
fn a_key_for_a_whole_batch_is_refused_by_the_rule_of_keys() {
    let server = Server::start();
    let token = server.crm("acme");
    apply(&server, "crm", &small("crm.contact.created").to_string());
    let send = |event_type: &str, data: Value| {
        let body = json!({ "events": [{ "type": event_type, "data": data }] });
        let call = server.call("POST", "/v1/events/publish/batch");
        let call = call.bearer(&token).header("Idempotency-Key", "one");
        call.json(&body).send()
    };
    send("nonsense", json!({ "count": 1 })).problem(400, "INVALID_EVENT_TYPE");
    send("crm.contact.undeclared", json!({ "count": 1 })).problem(403, "EVENT_PUBLISH_FORBIDDEN");
    send("auth.user.created", json!({ "count": 1 })).problem(403, "KERNEL_EVENT_PUBLISH_FORBIDDEN");
    send("crm.contact.created", json!({ "count": "x" })).problem(422, "EVENT_SCHEMA_VIOLATION");
    let refused = send("crm.contact.created", json!({ "count": 1 }));
    let refused = refused.problem(400, "INVALID_IDEMPOTENCY_KEY");
    assert_eq!(refused["field"], "Idempotency-Key");
    assert_eq!(server.count(&token), 0);
}

/// A publish and its explanation may not disagree about a key.
#[test]
fn an_explanation_knows_a_key_that_was_used() {
    let server = Server::start();
    let token = server.crm("acme");
    let event = |n: u32| json!({ "type": "crm.contact.created", "data": { "n": n } });
    let keyed = |path: &str, body: &Value| {
        let call = server.call("POST", path).bearer(&token);
        call.header("Idempotency-Key", "once").json(body).send()
    };
    let explain = |body: &Value| {
        let explained = keyed("/v1/events/explain", body).expect(200).json();
        let steps = explained["steps"].as_array().expect("steps");
        let mut of_key = steps.iter().filter(|step| step["step"] == "idempotency");
        let step = of_key.next().expect("a step of keys").clone();
        assert_eq!(of_key.next(), None, "told once");
        (explained["verdict"].clone(), step)
    };
    let (verdict, step) = explain(&event(1));
    assert_eq!((verdict, &step["code"]), (json!("accepted"), &Value::Null));
    keyed(PUBLISH, &event(1)).expect(201);
    let (verdict, step) = explain(&event(1));
    assert_eq!(verdict, "accepted");
    let told = step["detail"].as_str().expect("a detail");
    assert!(told.contains("first receipt is answered again"), "{told}");
    keyed(PUBLISH, &event(1)).expect(200);
    let (verdict, step) = explain(&event(2));
    assert_eq!(verdict, "refused");
    assert_eq!(step["code"], "IDEMPOTENCY_KEY_REUSED");
    keyed(PUBLISH, &event(2)).problem(422, "IDEMPOTENCY_KEY_REUSED");
    let by_command = |data: &str| {
        let mut command = Command::new(BINARY);
        command.args(["explain", "crm.contact.created", data, "--key", "once"]);
        command.env("TIDINGS_URL", format!("http://{}", server.address));
        let ran = command.env("TIDINGS_TOKEN", &token).output();
        ran.expect("it runs").status.code()
    };
    assert_eq!(by_command(r#"{"n":1}"#), Some(0));
    assert_eq!(by_command(r#"{"n":2}"#), Some(1));
}

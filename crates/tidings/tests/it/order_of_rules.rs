//! Two faults in one request: the earlier rule answers, and nothing is appended.

use crate::catalogs::{apply, small};
use crate::harness::{PUBLISH, Server};

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

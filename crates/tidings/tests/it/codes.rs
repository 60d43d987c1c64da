//! No code without a test that provokes it through the front door.

use tidings_event::Code;

use crate::harness::{PUBLISH, Server};

/// What these tests cannot bring about: a fault of ours, or a part that is not there yet.
const ELSEWHERE: [Code; 4] = [
    Code::Internal,
    Code::EventSchemaViolation,
    Code::StorageFull,
    Code::BrokerUnavailable,
];

const TESTS: [&str; 11] = [
    include_str!("bad_input.rs"),
    include_str!("batch.rs"),
    include_str!("cloudevents.rs"),
    include_str!("codes.rs"),
    include_str!("compressed.rs"),
    include_str!("credentials.rs"),
    include_str!("events.rs"),
    include_str!("limits.rs"),
    include_str!("manifests.rs"),
    include_str!("order_of_rules.rs"),
    include_str!("publish.rs"),
];

#[test]
fn every_code_is_expected_by_some_test() {
    for code in Code::ALL.iter().filter(|code| !ELSEWHERE.contains(code)) {
        let quoted = format!("\"{}\"", code.as_str());
        assert!(
            TESTS.iter().any(|test| test.contains(&quoted)),
            "nothing provokes {quoted}"
        );
    }
}

#[test]
fn a_wrong_method_and_a_wrong_path_are_problems_too() {
    let server = Server::start();
    server
        .call("GET", PUBLISH)
        .send()
        .problem(405, "METHOD_NOT_ALLOWED");
    server
        .call("GET", "/nowhere")
        .send()
        .problem(404, "NOT_FOUND");
}

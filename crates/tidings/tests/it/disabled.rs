//! The disabled bus (source E): checked, answered, counted, and kept nowhere.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::custom_events::on_plan;
use crate::emits::{EMITS, HEALTH, emit, generic};
use crate::harness::{BATCH, BINARY, ON_ITS_FOLDER, PUBLISH, Server};
use crate::receiver::eventually;

#[test]
fn a_disabled_bus_checks_counts_and_skips() {
    let server = Server::start_with(&format!("{ON_ITS_FOLDER}bus.kind = 'disabled'\n"));
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let good = json!({ "type": "demo.greeting.sent", "data": {} });
    let said = |path: &str, body: &Value| {
        let answer = server.post(path, &token, body);
        assert_eq!(answer.status, 200);
        let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
        said
    };
    let one = said(PUBLISH, &good);
    assert_eq!(one["skipped"], true);
    assert_eq!(one["type"], "demo.greeting.sent");
    assert!(
        one.get("offset").is_none() && one["eventId"].is_string(),
        "{one}"
    );
    let batch = said(BATCH, &json!({ "events": [good, good] }));
    assert_eq!(batch["results"][1]["skipped"], true);
    server
        .post(
            PUBLISH,
            &token,
            &json!({ "type": "shop.order.placed", "data": {} }),
        )
        .problem(403, "EVENT_PUBLISH_FORBIDDEN");
    // An emit has no row, no key and no part in the month's limit; source C's answer says it too.
    let admin = on_plan(&server, "acme", "FREE");
    let mut generic = generic();
    generic["idempotencyKey"] = json!("once");
    for _ in 0..2 {
        let emitted = emit(&server, &admin, &generic).expect(200).json();
        assert_eq!(
            (&emitted["skipped"], &emitted["status"]),
            (&json!(true), &json!("skipped"))
        );
    }
    let emits = server.get(EMITS, &admin).expect(200).json();
    assert_eq!(emits["items"], json!([]));
    let health = server.get(HEALTH, &admin).expect(200).json();
    assert_eq!(health["emits"]["thisMonth"], 0);
    let workspace = server.call("PUT", "/v1/tenants/acme/workspaces/ws-1");
    workspace.bearer(&admin).send().expect(201);
    let event = json!({ "eventKey": "crm.deal.closed", "schemaVersion": "1.0", "payload": {} });
    let published = server.post("/api/workspaces/ws-1/events/publish", &admin, &event);
    assert_eq!(published.expect(200).json()["skipped"], true);
    let metrics = server.call("GET", "/metrics").send();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains("tidings_events_skipped_total 6"),
        "{metrics}"
    );
    let id = one["eventId"].as_str().expect("an id");
    server
        .get(&format!("/v1/events/{id}"), &token)
        .problem(404, "NOT_FOUND");
}

/// Nobody is told that what is kept nowhere was published, or emitted before.
#[test]
fn the_command_line_the_log_and_explain_say_that_it_was_skipped() {
    let server = Server::start_with_variables(
        &format!("{ON_ITS_FOLDER}bus.kind = 'disabled'\n"),
        &[("TIDINGS_LOG__LEVEL", "info")],
    );
    let token = server.token(&["--tenant", "acme", "--module", "demo"]);
    let run = |arguments: &[&str], token: &str, input: &str| -> Value {
        let mut running = Command::new(BINARY)
            .args(arguments)
            .args(["-o", "json", "--token", token, "--url"])
            .arg(format!("http://{}", server.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = running.stdin.take().expect("an input");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let ended = running.wait_with_output().expect("it ends");
        serde_json::from_slice(&ended.stdout).expect("JSON")
    };
    let line = "{\"type\":\"demo.greeting.sent\",\"data\":{}}\n";
    let said = run(&["publish"], &token, line);
    assert_eq!(
        (&said["published"], &said["skipped"]),
        (&json!(0), &json!(1))
    );
    let told = eventually("the log tells of it", || {
        let log = server.log();
        let mut lines = log.lines();
        let found = lines.find(|line| line.contains("event_type=\"demo.greeting.sent\""));
        found.map(str::to_owned)
    });
    assert!(told.contains("skipped=true"), "{told}");
    assert!(!told.contains("offset="), "{told}");
    let explained = run(&["explain", "demo.greeting.sent", "{}"], &token, "");
    let last = explained["steps"].as_array().expect("steps").last();
    let last = last.expect("a step");
    assert_eq!(last["step"], "append", "{explained}");
    assert!(
        last["detail"]
            .as_str()
            .expect("a detail")
            .contains("skipped"),
        "{last}"
    );
    let admin = on_plan(&server, "acme", "FREE");
    let emitted = run(
        &["emit", "platformxe.generic", r#"{"kind":"user.signed_up"}"#],
        &admin,
        "",
    );
    assert_eq!(
        (&emitted["skipped"], &emitted["duplicate"]),
        (&json!(true), &json!(false)),
        "{emitted}"
    );
}

/// Source E's switch decides over the file and over our own variable.
#[test]
fn the_switch_of_kafka_decides_where_it_is_set() {
    let configured = format!("{ON_ITS_FOLDER}bus.kind = 'embedded'\n");
    for (switch, skipped) in [("False", true), ("", false)] {
        let variables = [("KAFKA_ENABLED", switch), ("TIDINGS_BUS__KIND", "embedded")];
        let server = Server::start_with_variables(&configured, &variables);
        let token = server.token(&["--tenant", "acme", "--module", "demo"]);
        let event = json!({ "type": "demo.greeting.sent", "data": {} });
        let said = server.post(PUBLISH, &token, &event).json();
        assert_eq!(said["skipped"] == true, skipped, "{switch:?}: {said}");
    }
}

//! The disabled bus (source E): checked, answered, counted, and kept nowhere.

use serde_json::{Value, json};

use crate::harness::{BATCH, ON_ITS_FOLDER, PUBLISH, Server};

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
    let metrics = server.call("GET", "/metrics").send();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        metrics.contains("tidings_events_skipped_total 3"),
        "{metrics}"
    );
    let id = one["eventId"].as_str().expect("an id");
    server
        .get(&format!("/v1/events/{id}"), &token)
        .problem(404, "NOT_FOUND");
}

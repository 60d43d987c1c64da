//! Batches: in order, adjacent, all or nothing.

use serde_json::{Value, json};

use crate::harness::{BATCH, Server};

fn event(number: usize) -> Value {
    json!({ "type": "crm.contact.created", "data": { "number": number } })
}

#[test]
fn results_are_in_order_and_offsets_adjacent() {
    let server = Server::start();
    let token = server.crm("acme");
    let events: Vec<Value> = (0..1000).map(event).collect();
    let answer = server
        .post(BATCH, &token, &json!({ "events": events }))
        .expect(201)
        .json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 1000);
    let first = results[0]["offset"].as_u64().unwrap();
    for (result, number) in results.iter().zip(0..) {
        assert_eq!(result["offset"].as_u64(), Some(first + number));
        assert_eq!(result["partition"], results[0]["partition"]);
        assert_eq!(result["duplicate"], false);
    }
    let page = server
        .get("/v1/events?limit=1000", &token)
        .expect(200)
        .json();
    for (item, number) in page["items"].as_array().unwrap().iter().zip(0_u64..) {
        assert_eq!(item["data"]["number"].as_u64(), Some(number));
    }
}

#[test]
fn one_bad_event_and_nothing_is_published() {
    let server = Server::start();
    let token = server.crm("acme");
    let mut late = event(1);
    late["schemaVersion"] = json!("1");
    let kernel = json!({ "type": "auth.user.created", "data": {} });
    let body = json!({ "events": [event(0), late, kernel, event(3)] });
    let problem = server
        .post(BATCH, &token, &body)
        .problem(403, "KERNEL_EVENT_PUBLISH_FORBIDDEN");
    let errors = problem["errors"].as_array().unwrap();
    let named: Vec<_> = errors
        .iter()
        .map(|error| (error["index"].as_u64(), error["code"].as_str()))
        .collect();
    let expected = [
        (Some(1), Some("INVALID_SCHEMA_VERSION")),
        (Some(2), Some("KERNEL_EVENT_PUBLISH_FORBIDDEN")),
    ];
    assert_eq!(named, expected, "all are listed");
    assert_eq!(server.count(&token), 0);
}

#[test]
fn too_many_and_none_are_refused() {
    let server = Server::start();
    let token = server.crm("acme");
    server
        .post(BATCH, &token, &json!({ "events": [] }))
        .problem(400, "INVALID_EVENT");
    let events: Vec<Value> = (0..1001).map(event).collect();
    let problem = server.post(BATCH, &token, &json!({ "events": events }));
    let problem = problem.problem(400, "BATCH_TOO_LARGE");
    assert_eq!(
        (problem["limit"].as_u64(), problem["actual"].as_u64()),
        (Some(1000), Some(1001))
    );
    assert_eq!(server.count(&token), 0);
}

#[test]
fn a_key_twice_is_a_duplicate_or_a_conflict() {
    let server = Server::start();
    let token = server.crm("acme");
    let keyed = |number, key: &str| {
        let mut event = event(number);
        event["idempotencyKey"] = json!(key);
        event
    };
    let differing = json!({ "events": [keyed(0, "a"), keyed(1, "a")] });
    server
        .post(BATCH, &token, &differing)
        .problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(server.count(&token), 0);
    let body = json!({ "events": [keyed(0, "a"), keyed(1, "b"), keyed(0, "a")] });
    let flags = |answer: &Value| -> Vec<bool> {
        let results = answer["results"].as_array().unwrap();
        results
            .iter()
            .map(|result| result["duplicate"].as_bool().unwrap())
            .collect()
    };
    let first = server.post(BATCH, &token, &body).expect(201).json();
    assert_eq!(flags(&first), [false, false, true]);
    assert_eq!(
        first["results"][0]["eventId"],
        first["results"][2]["eventId"]
    );
    let again = server.post(BATCH, &token, &body).expect(201).json();
    assert_eq!(flags(&again), [true, true, true]);
    assert_eq!(
        again["results"][1]["eventId"],
        first["results"][1]["eventId"]
    );
    assert_eq!(server.count(&token), 2);
}

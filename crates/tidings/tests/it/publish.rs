//! One event: its receipt, its key, and what a repeat does.

use serde_json::json;

use crate::harness::{PUBLISH, Server};

#[test]
fn a_receipt_says_where_the_event_is_and_it_is_there() {
    let server = Server::start();
    let token = server.crm("acme");
    let data = json!({ "tenantId": "other", "name": "Ada" });
    let body = json!({ "type": "crm.contact.created", "data": data, "tenantId": "other" });
    let answer = server.post(PUBLISH, &token, &body).expect(201);
    let receipt = answer.json();
    let mut members: Vec<_> = receipt
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    members.sort_unstable();
    assert_eq!(members, ["eventId", "offset", "partition", "topic", "type"]);
    assert_eq!(receipt["topic"], "platform.data.events");
    let id = receipt["eventId"].as_str().unwrap();
    assert_eq!(id.as_bytes()[14], b'7', "UUID v7: {id}");
    let key = answer
        .header("idempotency-key")
        .expect("a key is made")
        .to_owned();
    assert_eq!(key.as_bytes()[14], b'7', "UUID v7: {key}");

    let event = server
        .get(&format!("/v1/events/{id}"), &token)
        .expect(200)
        .json();
    assert_eq!(event["tenantid"], "acme", "from the credential");
    assert_eq!(event["data"], data, "left as sent");
    assert_eq!(event["offset"], receipt["offset"]);
    let other = server.crm("other");
    server
        .get(&format!("/v1/events/{id}"), &other)
        .problem(404, "NOT_FOUND");

    let again = server
        .call("POST", PUBLISH)
        .bearer(&token)
        .header("Idempotency-Key", &key);
    assert_eq!(
        again.json(&body).send().expect(200).json(),
        receipt,
        "the key made can be used"
    );
}

#[test]
fn a_repeat_answers_the_first_receipt_and_appends_nothing() {
    let server = Server::start();
    let token = server.crm("acme");
    let send = |body: &str| {
        let call = server
            .call("POST", PUBLISH)
            .bearer(&token)
            .header("Idempotency-Key", "k-1");
        call.header("Content-Type", "application/json")
            .body(body)
            .send()
    };
    let first = send(r#"{"type":"crm.contact.created","data":{"a":1,"b":[1,2]}}"#).expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    for same in [
        r#"{"type":"crm.contact.created","data":{"a":1,"b":[1,2]}}"#,
        "{ \"data\" : { \"b\" : [ 1 , 2 ],\n \"a\" : 1 }, \"type\" : \"crm.contact.created\" }",
        r#"{"type":"crm.contact.created","schemaVersion":"1.0.0","data":{"a":1,"b":[1,2]}}"#,
    ] {
        let repeat = send(same).expect(200);
        assert_eq!(repeat.body, first.body);
        assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
        assert_eq!(repeat.header("idempotency-key"), Some("k-1"));
    }
    for different in [
        r#"{"type":"crm.contact.created","data":{"a":1,"b":[2,1]}}"#,
        r#"{"type":"crm.contact.updated","data":{"a":1,"b":[1,2]}}"#,
        r#"{"type":"crm.contact.created","schemaVersion":"1.0.1","data":{"a":1,"b":[1,2]}}"#,
    ] {
        send(different).problem(422, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(server.count(&token), 1);
}

#[test]
fn of_sixteen_at_once_with_one_key_one_appends() {
    let server = Server::start();
    let token = server.crm("acme");
    let body = json!({ "type": "crm.contact.created", "data": { "a": 1 } });
    let send = || {
        let call = server
            .call("POST", PUBLISH)
            .bearer(&token)
            .header("Idempotency-Key", "once");
        call.json(&body).send()
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(send)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [[200; 15].as_slice(), &[201]].concat());
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(server.count(&token), 1);
}

#[test]
fn keys_are_of_a_tenant_and_a_principal() {
    let server = Server::start();
    server.declare("shop", &["crm.contact.created"]);
    let callers = [
        server.crm("acme"),
        server.crm("umbrella"),
        server.token(&["--tenant", "acme", "--module", "shop"]),
    ];
    for (number, token) in callers.iter().enumerate() {
        let body = json!({ "type": "crm.contact.created", "data": { "number": number } });
        let call = server
            .call("POST", PUBLISH)
            .bearer(token)
            .header("Idempotency-Key", "same");
        call.json(&body).send().expect(201);
    }
    assert_eq!(
        (server.count(&callers[0]), server.count(&callers[1])),
        (2, 1)
    );
}

#[test]
fn events_and_keys_survive_a_restart() {
    let server = Server::start();
    let token = server.crm("acme");
    let body = json!({ "type": "crm.contact.created", "data": { "a": 1 } });
    let send = |server: &Server| {
        let call = server
            .call("POST", PUBLISH)
            .bearer(&token)
            .header("Idempotency-Key", "kept");
        call.json(&body).send()
    };
    let first = send(&server).expect(201);
    let server = server.restart();
    let path = format!("/v1/events/{}", first.json()["eventId"].as_str().unwrap());
    assert_eq!(
        server.get(&path, &token).expect(200).json()["data"],
        body["data"]
    );
    assert_eq!(send(&server).expect(200).body, first.body);
    assert_eq!(server.count(&token), 1);
}

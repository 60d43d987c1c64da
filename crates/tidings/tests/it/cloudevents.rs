//! CloudEvents over HTTP: three modes in, one JSON form out.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};

const PATH: &str = "/v1/cloudevents";

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/it", "type": "crm.contact.created",
        "subject": "ada", "time": "2026-01-31T12:00:00Z", "tenantid": "other",
        "text": "1", "number": 7, "flag": true, "data": { "name": "Ada" },
    })
}

fn send(server: &Server, token: &str, content_type: &str, body: &str) -> Answer {
    let call = server
        .call("POST", PATH)
        .bearer(token)
        .header("Content-Type", content_type);
    call.body(body).send()
}

#[test]
fn structured_keeps_every_attribute_but_the_tenant() {
    let server = Server::start();
    let token = server.crm("acme");
    let body = event("1").to_string();
    let answer = send(&server, &token, "application/cloudevents+json", &body)
        .expect(201)
        .json();
    assert_eq!(
        (&answer["id"], &answer["source"]),
        (&json!("1"), &json!("/it"))
    );
    let path = format!("/v1/events/{}", answer["eventId"].as_str().unwrap());
    let read = server.get(&path, &token).expect(200).json();
    for (name, value) in event("1").as_object().unwrap() {
        let expected = if name == "tenantid" {
            &json!("acme")
        } else {
            value
        };
        assert_eq!(&read[name], expected, "{name}");
    }
    let again = send(&server, &token, "application/cloudevents+json", &body).expect(200);
    assert_eq!(again.json(), answer, "source and id are the key");
    assert_eq!(server.count(&token), 1);
}

#[test]
fn binary_keeps_data_that_is_not_json() {
    let server = Server::start();
    let token = server.crm("acme");
    let call = server
        .call("POST", PATH)
        .bearer(&token)
        .header("ce-specversion", "1.0");
    let call = call.header("ce-id", "1").header("ce-source", "/it");
    let call = call
        .header("ce-type", "crm.contact.created")
        .header("ce-city", "\"K%C3%B6ln am \\\"Rhein\\\"\"");
    let call = call
        .header("Content-Type", "application/octet-stream")
        .body([0, 255, 1]);
    let answer = call.send().expect(201).json();
    let path = format!("/v1/events/{}", answer["eventId"].as_str().unwrap());
    let read = server.get(&path, &token).expect(200).json();
    assert_eq!(read["data_base64"], "AP8B");
    assert_eq!(read["datacontenttype"], "application/octet-stream");
    assert_eq!(read["city"], "Köln am \"Rhein\"");
}

#[test]
fn a_batch_answers_each_and_bad_ones_append_nothing() {
    const BATCHED: &str = "application/cloudevents-batch+json";
    let server = Server::start();
    let token = server.crm("acme");
    let body = json!([event("1"), event("2"), event("1")]).to_string();
    let answer = send(&server, &token, BATCHED, &body).expect(201).json();
    let flags: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["duplicate"])
        .collect();
    assert_eq!(flags, [false, false, true]);
    for without in ["specversion", "id", "source", "type"] {
        let mut bad = event("3");
        bad.as_object_mut().unwrap().remove(without);
        let bad = json!([event("4"), bad]).to_string();
        send(&server, &token, BATCHED, &bad).problem(400, "INVALID_CLOUDEVENT");
    }
    for content_type in ["text/plain", "application/cloudevents+avro"] {
        let answer = send(&server, &token, content_type, "{}");
        answer.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    assert_eq!(server.count(&token), 2);
}

#[test]
fn what_breaks_the_form_of_an_attribute_is_refused_by_its_name() {
    let server = Server::start();
    let token = server.crm("acme");
    for (name, value) in [
        ("time", "2026-01-31T12Z"),
        ("time", "2026-01-31T12:00:00Z[Europe/Berlin]"),
        ("source", "http://[bad"),
        ("dataschema", "no scheme"),
    ] {
        let mut bad = event("1");
        bad[name] = json!(value);
        let refused = send(
            &server,
            &token,
            "application/cloudevents+json",
            &bad.to_string(),
        );
        let problem = refused.problem(400, "INVALID_CLOUDEVENT");
        assert_eq!(problem["field"], name, "{value}");
    }
    let mut precise = event("2");
    precise["time"] = json!("2026-01-31T12:00:00.123456789012Z");
    precise["traceparent"] = json!("00-00000000000000000000000000000000-00f067aa0ba902b7-01");
    let receipt = send(
        &server,
        &token,
        "application/cloudevents+json",
        &precise.to_string(),
    );
    let receipt = receipt.expect(201).json();
    let path = format!("/v1/events/{}", receipt["eventId"].as_str().unwrap());
    let read = server.get(&path, &token).expect(200).json();
    assert_eq!(read["time"], precise["time"]);
    assert_eq!(read.get("traceparent"), None, "one that is none is ignored");
}

#[test]
fn what_marks_a_delivery_is_no_attribute_of_the_event_that_is_passed_on() {
    let server = Server::start();
    let token = server.crm("acme");
    let mut passed_on = event("1");
    for (name, value) in [
        ("replayed", json!(true)),
        ("replayid", json!("mine")),
        ("tidingssequence", json!("77")),
        ("kept", json!("it is")),
    ] {
        passed_on[name] = value;
    }
    let content_type = "application/cloudevents+json";
    let receipt = send(&server, &token, content_type, &passed_on.to_string());
    let receipt = receipt.expect(201).json();
    let path = format!("/v1/events/{}", receipt["eventId"].as_str().unwrap());
    let read = server.get(&path, &token).expect(200).json();
    assert_eq!(read["kept"], "it is");
    for name in ["replayed", "replayid", "tidingssequence"] {
        assert_eq!(read.get(name), None, "{read}");
    }
}

#[test]
fn one_attribute_makes_it_binary_mode() {
    let server = Server::start();
    let token = server.crm("acme");
    let call = server.call("POST", PATH).bearer(&token);
    let call = call.header("Content-Type", "application/json");
    let refused = call
        .header("ce-type", "crm.contact.created")
        .body("{}")
        .send();
    let problem = refused.problem(400, "INVALID_CLOUDEVENT");
    assert_eq!(problem["field"], "specversion");
}

//! Compressed bodies: they mean what their text means, and a bomb is a body over its limit.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::harness::{Answer, BATCH, PUBLISH, Server};

const MB: usize = 1024 * 1024;

pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

pub(crate) fn send(
    server: &Server,
    path: &str,
    token: &str,
    coding: &str,
    body: Vec<u8>,
) -> Answer {
    let call = server.call("POST", path).bearer(token);
    let call = call.header("Content-Type", "application/json");
    call.header("Content-Encoding", coding).body(body).send()
}

#[test]
fn a_compressed_body_means_what_its_text_means() {
    let server = Server::start();
    let token = server.crm("acme");
    let event = json!({ "type": "crm.contact.created", "data": { "name": "Ada" } });
    let text = event.to_string();
    let receipt = send(&server, PUBLISH, &token, "gzip", gzip(text.as_bytes()));
    let id = receipt.expect(201).json()["eventId"].clone();
    let path = format!("/v1/events/{}", id.as_str().expect("an id"));
    assert_eq!(server.get(&path, &token).json()["data"], event["data"]);
    let plain = send(&server, PUBLISH, &token, "identity", text.clone().into());
    plain.expect(201);

    let batch = json!({ "events": [event, event] }).to_string();
    send(&server, BATCH, &token, "gzip", gzip(batch.as_bytes())).expect(201);
    let explained = send(
        &server,
        "/v1/events/explain",
        &token,
        "x-gzip",
        gzip(text.as_bytes()),
    );
    assert_eq!(explained.expect(200).json()["verdict"], "accepted");
    let cloud =
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"crm.contact.created","data":{}}"#;
    let call = server.call("POST", "/v1/cloudevents").bearer(&token);
    let call = call.header("Content-Type", "application/cloudevents+json");
    let call = call.header("Content-Encoding", "gzip");
    call.body(gzip(cloud.as_bytes())).send().expect(201);
    let operator = server.token(&["--role", "OPERATOR"]);
    let manifest = json!({ "id": "shop", "version": "1.0.0", "events": { "publishes": [] } });
    let call = server
        .call("PUT", "/v1/modules/shop/manifest")
        .bearer(&operator);
    let call = call.header("Content-Encoding", "gzip");
    call.body(gzip(manifest.to_string().as_bytes()))
        .send()
        .expect(200);
    assert_eq!(server.count(&token), 5);
}

#[test]
fn limits_are_those_of_the_text() {
    let server = Server::start();
    let token = server.crm("acme");
    let sized = |bytes: usize| {
        let text = "x".repeat(bytes - r#"{"x":""}"#.len());
        gzip(format!(r#"{{"type":"crm.contact.created","data":{{"x":"{text}"}}}}"#).as_bytes())
    };
    send(&server, PUBLISH, &token, "gzip", sized(MB)).expect(201);
    let over = send(&server, PUBLISH, &token, "gzip", sized(MB + 1));
    let over = over.problem(400, "EVENT_PAYLOAD_TOO_LARGE");
    assert_eq!(over["actual"].as_u64(), Some(MB as u64 + 1));

    // A thousand times smaller on the wire than the text it stands for: 256 MiB in all.
    let bomb = gzip(&vec![b' '; 64 * MB]).repeat(4);
    assert!(bomb.len() < 2 * MB);
    let before = server.memory_kib();
    let refused = send(&server, PUBLISH, &token, "gzip", bomb.clone());
    let refused = refused.problem(400, "EVENT_PAYLOAD_TOO_LARGE");
    assert_eq!(refused["limit"].as_u64(), Some(2 * MB as u64));
    let refused = send(&server, BATCH, &token, "gzip", bomb);
    refused.problem(400, "BATCH_TOO_LARGE");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "the peak grew by {grown} KiB");
    assert_eq!(server.count(&token), 1);
}

#[test]
fn what_is_not_gzip_and_what_is_another_coding_is_refused() {
    let server = Server::start();
    let token = server.crm("acme");
    let event = br#"{"type":"crm.contact.created","data":{}}"#;
    let whole = gzip(event);
    let mut torn = whole.clone();
    let last = torn.len() - 6;
    torn[last] ^= 1;
    let cut = whole[..whole.len() - 1].to_vec();
    for bad in [event.to_vec(), Vec::new(), torn, cut] {
        let problem = send(&server, PUBLISH, &token, "gzip", bad);
        let problem = problem.problem(400, "INVALID_REQUEST");
        assert_eq!(problem["field"], "Content-Encoding");
    }
    for coding in ["br", "deflate", "zstd", "gzip, gzip", "nonsense"] {
        let answer = send(&server, PUBLISH, &token, coding, whole.clone());
        answer.problem(415, "UNSUPPORTED_MEDIA_TYPE");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, identity"));
    }
    assert_eq!(server.count(&token), 0);
}

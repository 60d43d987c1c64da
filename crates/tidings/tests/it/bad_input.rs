//! What is not an event: each gets its code and its sentence, and appends nothing.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::harness::{Answer, BATCH, PUBLISH, Server};

const MB: usize = 1024 * 1024;

/// What is sent, the status, the code, and the field that the problem names.
type Row = (String, u16, &'static str, Option<&'static str>);

fn row(body: &str, code: &'static str, field: Option<&'static str>) -> Row {
    (body.to_owned(), 400, code, field)
}

fn rows() -> Vec<Row> {
    const TYPE: &str = r#""type":"crm.contact.created""#;
    let data = |data: &str| format!("{{{TYPE},\"data\":{data}}}");
    let deep = |levels: usize| {
        format!(
            r#"{{"a":{}{}}}"#,
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        )
    };
    let long = format!(r#"{{"type":"crm.{}","data":{{}}}}"#, "a".repeat(125));
    vec![
        row("", "INVALID_JSON", None),
        row("{", "INVALID_JSON", None),
        row("{} x", "INVALID_JSON", None),
        row(
            &format!("{{{TYPE},\"data\":{{\"a\":01}}}}"),
            "INVALID_JSON",
            None,
        ),
        row(
            &format!("{{{TYPE},\"data\":{{\"a\":1,}}}}"),
            "INVALID_JSON",
            None,
        ),
        row(&data(&deep(65)), "INVALID_JSON", None),
        row(&data(&"[".repeat(100_000)), "INVALID_JSON", None),
        row(
            &format!("{{{TYPE},{TYPE},\"data\":{{}}}}"),
            "INVALID_JSON",
            None,
        ),
        row(&data(r#"{"a":1,"a":1}"#), "INVALID_JSON", None),
        row(
            &data(r#"{"a":[{"b":{"c":1,"\u0063":2}}]}"#),
            "INVALID_JSON",
            None,
        ),
        row("[]", "INVALID_EVENT", None),
        row("null", "INVALID_EVENT", None),
        row("{}", "INVALID_EVENT", Some("type")),
        row(&format!("{{{TYPE}}}"), "INVALID_EVENT", Some("data")),
        row(r#"{"type":1,"data":{}}"#, "INVALID_EVENT", Some("type")),
        row(r#"{"type":null,"data":{}}"#, "INVALID_EVENT", Some("type")),
        row(&data("[]"), "INVALID_EVENT", Some("data")),
        row(&data("\"text\""), "INVALID_EVENT", Some("data")),
        row(&data("null"), "INVALID_EVENT", Some("data")),
        row(
            &format!("{{{TYPE},\"data\":{{}},\"schemaVersion\":1}}"),
            "INVALID_EVENT",
            Some("schemaVersion"),
        ),
        row(
            &format!("{{{TYPE},\"data\":{{}},\"colour\":1}}"),
            "INVALID_EVENT",
            Some("colour"),
        ),
        row(
            &format!("{{{TYPE},\"data\":{{}},\"idempotencyKey\":\"k\"}}"),
            "INVALID_EVENT",
            Some("idempotencyKey"),
        ),
        row(
            r#"{"type":"","data":{}}"#,
            "INVALID_EVENT_TYPE",
            Some("type"),
        ),
        row(
            r#"{"type":"crm","data":{}}"#,
            "INVALID_EVENT_TYPE",
            Some("type"),
        ),
        row(
            r#"{"type":"Crm.a","data":{}}"#,
            "INVALID_EVENT_TYPE",
            Some("type"),
        ),
        row(
            r#"{"type":"crm..a","data":{}}"#,
            "INVALID_EVENT_TYPE",
            Some("type"),
        ),
        row(
            r#"{"type":"a.b.c.d.e.f.g.h.i","data":{}}"#,
            "INVALID_EVENT_TYPE",
            Some("type"),
        ),
        row(&long, "INVALID_EVENT_TYPE", Some("type")),
        row(
            &format!("{{{TYPE},\"data\":{{}},\"schemaVersion\":\"\"}}"),
            "INVALID_SCHEMA_VERSION",
            Some("schemaVersion"),
        ),
        row(
            &format!("{{{TYPE},\"data\":{{}},\"schemaVersion\":\"01.0.0\"}}"),
            "INVALID_SCHEMA_VERSION",
            Some("schemaVersion"),
        ),
    ]
}

fn json(server: &Server, path: &str, token: &str, body: impl Into<Vec<u8>>) -> Answer {
    let call = server.call("POST", path).bearer(token);
    call.header("Content-Type", "application/json")
        .body(body)
        .send()
}

#[test]
fn each_gets_its_code_and_field_and_a_page() {
    let server = Server::start();
    let token = server.crm("acme");
    for (body, status, code, field) in rows() {
        let shown: String = body.chars().take(80).collect();
        println!("{shown}");
        let problem = json(&server, PUBLISH, &token, body).problem(status, code);
        if field.is_some() {
            assert_eq!(problem["field"].as_str(), field, "{shown}: {problem}");
        }
        let page = problem["type"]
            .as_str()
            .unwrap()
            .split_once("/problems/")
            .unwrap()
            .1;
        let page = server
            .call("GET", &format!("/problems/{page}"))
            .send()
            .expect(200);
        assert!(page.text().contains(code));
    }
    let invalid = b"{\"type\":\"crm.contact.created\",\"data\":{\"a\":\"\xff\"}}".to_vec();
    json(&server, PUBLISH, &token, invalid).problem(400, "INVALID_JSON");
    let marked = "\u{feff}{\"type\":\"crm.contact.created\",\"data\":{}}";
    let problem = json(&server, PUBLISH, &token, marked.as_bytes().to_vec());
    let problem = problem.problem(400, "INVALID_JSON");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("byte order mark"), "{detail}");
    let call = server
        .call("POST", PUBLISH)
        .bearer(&token)
        .header("Content-Type", "text/plain");
    call.body("{}")
        .send()
        .problem(415, "UNSUPPORTED_MEDIA_TYPE");
    for key in ["", "with space", &"k".repeat(256)] {
        let call = server
            .call("POST", PUBLISH)
            .bearer(&token)
            .header("Idempotency-Key", key);
        let call = call.header("Content-Type", "application/json");
        let call = call.body(r#"{"type":"crm.contact.created","data":{}}"#);
        call.send().problem(400, "INVALID_IDEMPOTENCY_KEY");
    }
    assert_eq!(server.count(&token), 0);
}

#[test]
fn data_of_one_megabyte_is_taken_and_one_byte_more_is_not() {
    let server = Server::start();
    let token = server.crm("acme");
    let sized = |bytes: usize| {
        let text = "x".repeat(bytes - r#"{"x":""}"#.len());
        format!(r#"{{"type":"crm.contact.created","data":{{"x":"{text}"}}}}"#)
    };
    let problem = json(&server, PUBLISH, &token, sized(MB + 1));
    let problem = problem.problem(400, "EVENT_PAYLOAD_TOO_LARGE");
    assert_eq!(problem["actual"].as_u64(), Some(MB as u64 + 1));
    assert_eq!(server.count(&token), 0);
    json(&server, PUBLISH, &token, sized(MB)).expect(201);
}

#[test]
fn a_body_over_its_limit_is_refused_announced_or_not() {
    let server = Server::start();
    let token = server.crm("acme");
    let problem = json(&server, PUBLISH, &token, vec![b' '; 2 * MB + 1]);
    let problem = problem.problem(400, "EVENT_PAYLOAD_TOO_LARGE");
    assert_eq!(problem["limit"].as_u64(), Some(2 * MB as u64));
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        2 * MB + 1
    );
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(&vec![b' '; 2 * MB + 1]);
    Answer::read(stream).problem(400, "EVENT_PAYLOAD_TOO_LARGE");
    let batch = json(&server, BATCH, &token, vec![b' '; 16 * MB + 1]);
    batch.problem(400, "BATCH_TOO_LARGE");
    assert_eq!(server.count(&token), 0);
}

#[test]
fn half_a_request_and_a_smuggled_one_append_nothing() {
    let server = Server::start();
    let token = server.crm("acme");
    let body = r#"{"type":"crm.contact.created","data":{}}"#;
    let head = format!("POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let half = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len() + 1);
    stream.write_all(half.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(
        !rest.starts_with(b"HTTP/1.1 20"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert_eq!(server.count(&token), 0);
}

/// All that is answered on one connection to bytes that come in these pieces.
fn answered(server: &Server, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(&server.address).expect("it accepts");
    stream.set_nodelay(true).expect("an option");
    for piece in pieces {
        // A server that has refused already need not read the rest.
        let _ = stream.write_all(piece);
    }
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .expect("a timeout");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn two_lengths_are_refused_and_what_follows_them_is_no_request() {
    let server = Server::start();
    let token = server.crm("acme");
    let body = r#"{"type":"crm.contact.created","data":{}}"#;
    let head = format!("POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let inner = format!(
        "{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let length = format!("Content-Length: {}\r\n", 5 + inner.len());
    let chunks = "Transfer-Encoding: chunked\r\n";
    let before = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    for fields in [format!("{length}{chunks}"), format!("{chunks}{length}")] {
        let smuggled = format!("{head}{fields}\r\n0\r\n\r\n{inner}");
        for first in ["", before] {
            let all = format!("{first}{smuggled}");
            let bytes: Vec<&[u8]> = all.as_bytes().chunks(1).collect();
            for pieces in [vec![all.as_bytes()], bytes] {
                let answer = answered(&server, &pieces);
                let answer = answer.strip_prefix("HTTP/1.1 200").unwrap_or(&answer);
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
                let refused = answer.contains("HTTP/1.1 400") && answer.contains("INVALID_REQUEST");
                assert!(refused, "{answer}");
                assert!(answer.contains("connection: close"), "{answer}");
            }
        }
    }
    // Whoever undoes the coding sees another body.
    for coding in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked"] {
        let coded = format!(
            "{head}Transfer-Encoding: {coding}\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n{inner}",
            body.len()
        );
        let answer = answered(&server, &[coded.as_bytes()]);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let refused = answer.contains("HTTP/1.1 400") && answer.contains("Transfer-Encoding");
        assert!(refused && answer.contains("connection: close"), "{answer}");
    }
    let own = format!(
        "Authorization: Bearer {token}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (fields, named) in [
        ("", "Host"),
        ("Host: x\r\nHost: y\r\n", "Host"),
        (
            "Host: x\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\n",
            "Content-Type",
        ),
    ] {
        let request = format!("POST {PUBLISH} HTTP/1.1\r\n{fields}{own}\r\n{body}{inner}");
        let answer = answered(&server, &[request.as_bytes()]);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let field = format!("\"field\":\"{named}\"");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains(&field), "{answer}");
    }
    assert_eq!(server.count(&token), 0);
    let answer = answered(&server, &[b"GET /healthz HTTP/1.0\r\n\r\n"]);
    assert!(answer.contains(" 200 "), "{answer}");
    // The same words in a body are only words.
    let words = r#"{"type":"crm.contact.created","data":{
Transfer-Encoding: chunked
Content-Length: 3

"#;
    let legal = format!(
        "{head}{chunks}\r\n{:x}\r\n{words}\r\n1\r\n}}\r\n1\r\n}}\r\n0\r\n\r\n{inner}",
        words.len()
    );
    let answer = answered(&server, &[legal.as_bytes()]);
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("INVALID_JSON"),
        "{answer}"
    );
    assert!(
        answer.contains("HTTP/1.1 201"),
        "the next is its own: {answer}"
    );
    assert_eq!(server.count(&token), 1);
}

#[test]
fn a_path_that_is_no_text_is_refused_as_a_problem() {
    let server = Server::start();
    let token = server.crm("acme");
    for path in [
        "/v1/events/%ff",
        "/v1/subscriptions/%80/pause",
        "/v1/modules/%c3%28/manifest",
    ] {
        let refused = server.get(path, &token);
        let refused = if path.ends_with("pause") {
            server.post(path, &token, &serde_json::json!({}))
        } else {
            refused
        };
        assert_eq!(
            refused.problem(400, "INVALID_REQUEST")["field"],
            "path",
            "{path}"
        );
    }
}

#[test]
fn a_client_that_takes_nothing_of_its_answers_is_cut() {
    let server = Server::start_with("[server]\nheader_timeout = \"100ms\"\n");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    // Once nothing more fits into the buffers between the two, the server stops reading as well.
    let cut = loop {
        if let Err(error) = stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n") {
            break error;
        }
    };
    assert_ne!(
        cut.kind(),
        std::io::ErrorKind::WouldBlock,
        "it was never cut"
    );
}

#[test]
fn a_client_that_says_nothing_or_half_a_head_is_cut() {
    let server = Server::start_with("[server]\nheader_timeout = \"100ms\"\n");
    for beginning in ["", "PRI * HT", "GET /v1/ev", "GET / HTTP/1.1\r\nHost:"] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An error other than a timeout is a reset, which is cut too.
        if let Err(error) = stream.read_to_end(&mut answer) {
            let waited = error.kind() == std::io::ErrorKind::WouldBlock;
            assert!(!waited, "{beginning:?} was never cut");
        }
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{beginning:?}");
    }
}

//! Traces: what a collector gets of a publish, and where its address comes from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::{Value, json};

use crate::harness::{BINARY, PATIENCE, PUBLISH, Server};

/// Takes what is exported to it, as JSON.
struct Collector {
    address: String,
    exports: Receiver<(String, Value)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (taken, exports) = channel();
        // Ends with the process: nothing tells it that no more connections come.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let taken = taken.clone();
                std::thread::spawn(move || collect(stream.expect("a connection"), &taken));
            }
        });
        Self { address, exports }
    }
}

fn spans(export: &Value) -> impl Iterator<Item = &Value> {
    let resources = export["resourceSpans"].as_array().into_iter().flatten();
    let scopes = resources.flat_map(|one| one["scopeSpans"].as_array().into_iter().flatten());
    scopes.flat_map(|one| one["spans"].as_array().into_iter().flatten())
}

/// Answers every request of a connection, and hands its path and body on.
fn collect(stream: TcpStream, taken: &Sender<(String, Value)>) {
    let mut answers = stream.try_clone().expect("a second handle");
    let mut requests = BufReader::new(stream);
    loop {
        let (mut path, mut length, mut line) = (String::new(), 0, String::new());
        while requests.read_line(&mut line).unwrap_or_default() > 2 {
            if let Some(rest) = line.strip_prefix("POST ") {
                rest.split(' ')
                    .next()
                    .expect("a path")
                    .clone_into(&mut path);
            }
            if let Some(rest) = line.to_lowercase().strip_prefix("content-length:") {
                length = rest.trim().parse().expect("a number");
            }
            line.clear();
        }
        if path.is_empty() {
            return;
        }
        let mut body = vec![0; length];
        requests.read_exact(&mut body).expect("a whole body");
        let body = serde_json::from_slice(&body).expect("JSON");
        // Nobody listens any more once the test has seen enough.
        let _ = taken.send((path, body));
        let answer =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        answers.write_all(answer.as_bytes()).expect("it is taken");
    }
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|one| one["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("no {key}: {span}"))["value"];
    let (_, value) = value
        .as_object()
        .and_then(|value| value.iter().next())
        .expect("a value");
    value
}

#[test]
fn a_publish_is_a_span_of_its_caller_s_trace_and_leaves_before_the_process_does() {
    let collector = Collector::start();
    let config = format!(
        "[telemetry]\notlp_endpoint = \"http://{}\"\notlp_protocol = \"http/json\"\n",
        collector.address
    );
    let server = Server::start_with_variables(&config, &[("OTEL_SERVICE_NAME", "tidings-west")]);
    server.declare("crm", &["crm.contact.created"]);
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let call = server.call("POST", PUBLISH).bearer(&server.crm("acme"));
    let call = call.header("traceparent", &format!("00-{trace}-{parent}-01"));
    let event = json!({ "type": "crm.contact.created", "data": {} });
    let receipt = call.json(&event).send().expect(201).json();
    let bare = server.post(PUBLISH, &server.crm("acme"), &event);
    let bare = bare.expect(201).json();
    // What was not exported yet is exported when it is told to stop.
    let server = server.restart();

    let (path, export) = collector.exports.recv_timeout(PATIENCE).expect("an export");
    assert_eq!(path, "/v1/traces");
    let named = |name: &str| {
        let found = spans(&export).find(|span| span["name"] == name && span["traceId"] == trace);
        found.unwrap_or_else(|| panic!("no {name}: {export}"))
    };
    let publish = named("POST /v1/events/publish");
    assert_eq!(publish["parentSpanId"], parent);
    assert_eq!(publish["kind"], 2, "a server's");
    assert_eq!(attribute(publish, "http.request.method"), "POST");
    assert_eq!(attribute(publish, "http.route"), PUBLISH);
    assert_eq!(attribute(publish, "http.response.status_code"), "201");
    assert_eq!(attribute(publish, "tidings.tenant"), "acme");
    assert_eq!(attribute(publish, "tidings.event_id"), &receipt["eventId"]);
    let append = named("append");
    assert_eq!(append["parentSpanId"], publish["spanId"]);
    let text = export.to_string();
    assert!(
        text.contains("tidings-west") && !text.contains("Bearer"),
        "{text}"
    );

    // The event goes on from the span that published it, in the trace it came with or in one of its own.
    for receipt in [receipt, bare] {
        let id = &receipt["eventId"];
        let mut publishes = spans(&export).filter(|span| span["name"] == "POST /v1/events/publish");
        let publish = publishes.find(|span| attribute(span, "tidings.event_id") == id);
        let publish = publish.unwrap_or_else(|| panic!("no span of {id}: {export}"));
        let text = |name: &str| publish[name].as_str().expect("an id").to_owned();
        let path = format!("/v1/events/{}", id.as_str().expect("an id"));
        let event = server.get(&path, &server.crm("acme")).expect(200).json();
        let own = format!("00-{}-{}-01", text("traceId"), text("spanId"));
        assert_eq!(event["traceparent"], own, "{event}");
    }
}

#[test]
fn the_standard_variable_names_the_collector_too() {
    let shown = |own: Option<&str>| {
        let mut command = Command::new(BINARY);
        command
            .arg("config")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318");
        if let Some(own) = own {
            command.env("TIDINGS_TELEMETRY__OTLP_ENDPOINT", own);
        }
        String::from_utf8(command.output().expect("it runs").stdout).expect("text")
    };
    let line = r#"{"key":"telemetry.otlp_endpoint","value":"http://standard:4318","origin":"environment"}"#;
    assert!(shown(None).contains(line), "{}", shown(None));
    assert!(shown(Some("http://own:4318")).contains("\"http://own:4318\""));
}

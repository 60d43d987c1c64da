//! Reading back: filters, pages, and a stream that resumes.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{BATCH, PUBLISH, Server};

fn publish(server: &Server, token: &str, numbers: std::ops::Range<usize>) {
    let event = |number| {
        let name = if number % 2 == 0 {
            "created"
        } else {
            "updated"
        };
        json!({ "type": format!("crm.contact.{name}"), "data": { "number": number } })
    };
    let events: Vec<Value> = numbers.map(event).collect();
    server
        .post(BATCH, token, &json!({ "events": events }))
        .expect(201);
}

fn number(event: &Value) -> usize {
    usize::try_from(event["data"]["number"].as_u64().expect("a number")).expect("small")
}

#[test]
fn a_page_has_what_it_may_have_however_rare_that_is() {
    let server = Server::start();
    let token = server.crm("acme");
    for part in 0..3 {
        let other = json!({ "type": "crm.contact.updated", "data": { "number": part } });
        let rare = json!({ "type": "crm.contact.created", "data": { "number": part } });
        let events = [vec![other; 700], vec![rare]].concat();
        let batch = server.post(BATCH, &token, &json!({ "events": events }));
        batch.expect(201);
    }
    for limit in 1..=3 {
        let path = format!("/v1/events?type=crm.contact.created&limit={limit}");
        let page = server.get(&path, &token).expect(200).json();
        let found: Vec<usize> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        assert_eq!(found, (0..limit).collect::<Vec<_>>(), "on one page");
    }
}

#[test]
fn pages_walk_everything_once_and_filters_hold() {
    let server = Server::start();
    let token = server.crm("acme");
    publish(&server, &token, 0..50);
    let walk = |filter: &str| {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/v1/events?limit=7{filter}{cursor}"), &token);
            let page = page.expect(200).json();
            seen.extend(page["items"].as_array().unwrap().iter().map(number));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return seen,
            }
        }
    };
    let all: Vec<usize> = (0..50).collect();
    let even: Vec<usize> = (0..50).step_by(2).collect();
    assert_eq!(walk(""), all);
    assert_eq!(walk("&type=crm.**"), all);
    assert_eq!(walk("&type=crm.contact.created"), even);
    assert_eq!(walk("&topic=platform.data.events"), all);
    assert_eq!(walk("&since=2020-01-01T00:00:00Z"), all);
    for none in [
        "&type=shop.**",
        "&topic=other",
        "&until=2020-01-01T00:00:00Z",
    ] {
        assert!(walk(none).is_empty(), "{none}");
    }
    for bad in [
        "limit=0",
        "limit=1001",
        "since=yesterday",
        "cursor=%21",
        "colour=red",
        "type=A",
    ] {
        let answer = server.get(&format!("/v1/events?{bad}"), &token);
        answer.problem(400, "INVALID_REQUEST");
    }
}

/// A stream of events: the head was read, so what is published from now on arrives.
pub(crate) struct Stream(BufReader<TcpStream>);

impl Stream {
    pub(crate) fn open(server: &Server, token: &str, last: Option<&str>) -> Self {
        Self::ask(server, token, last).unwrap_or_else(|status| panic!("{status}"))
    }

    /// The stream, or the status line of a refusal.
    pub(crate) fn ask(server: &Server, token: &str, last: Option<&str>) -> Result<Self, String> {
        Self::ask_with(server, &format!("Authorization: Bearer {token}"), last)
    }

    /// The same with any credential: a header's line.
    pub(crate) fn ask_with(
        server: &Server,
        credential: &str,
        last: Option<&str>,
    ) -> Result<Self, String> {
        let mut stream = TcpStream::connect(&server.address).expect("it accepts");
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .expect("a timeout");
        let last = last
            .map(|id| format!("Last-Event-ID: {id}\r\n"))
            .unwrap_or_default();
        let head =
            format!("GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n{credential}\r\n{last}\r\n");
        stream
            .write_all(head.as_bytes())
            .expect("the head is taken");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("a status");
        if !line.contains("200") {
            return Err(line);
        }
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line).expect("a head");
        }
        Ok(Self(stream))
    }

    /// The next event of a type, whatever else comes before it.
    pub(crate) fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let (_, event) = self.next();
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// The events that still come before the stream ends.
    pub(crate) fn rest(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.0.read_line(&mut line).expect("a line or the end");
            // The last chunk of a body that ended, or the end of the connection.
            if read == 0 || line.trim() == "0" {
                return rest;
            }
            if let Some(text) = line.strip_prefix("data: ") {
                rest.push(serde_json::from_str(text).expect("an event"));
            }
        }
    }

    /// Where a stream says that it stands, at its beginning: an id, and no data.
    fn position(&mut self) -> String {
        let mut lines = (&mut self.0).lines().map(|line| line.expect("a line"));
        let position = lines.find_map(|line| Some(line.strip_prefix("id: ")?.to_owned()));
        assert_eq!(lines.next().as_deref(), Some(""));
        position.expect("a position")
    }

    /// The id and the event of the next frame.
    pub(crate) fn next(&mut self) -> (String, Value) {
        let mut id = String::new();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.0.read_line(&mut line).expect("a line") > 0,
                "the stream ended"
            );
            if let Some(text) = line.strip_prefix("id: ") {
                text.trim().clone_into(&mut id);
            }
            if let Some(text) = line.strip_prefix("data: ") {
                return (id, serde_json::from_str(text).expect("an event"));
            }
        }
    }
}

#[test]
fn a_stream_resumes_where_it_was_cut() {
    let server = Server::start();
    let token = server.crm("acme");
    publish(&server, &token, 0..3);
    let mut stream = Stream::open(&server, &token, None);
    publish(&server, &server.crm("other"), 90..95);
    publish(&server, &token, 3..13);
    let mut last = String::new();
    for expected in 3..8 {
        let (id, event) = stream.next();
        assert_eq!(number(&event), expected);
        last = id;
    }
    drop(stream);
    publish(&server, &token, 13..20);
    let mut stream = Stream::open(&server, &token, Some(&last));
    for expected in 8..20 {
        assert_eq!(number(&stream.next().1), expected);
    }
}

#[test]
fn a_stream_that_is_cut_before_its_first_event_misses_nothing() {
    let server = Server::start();
    let token = server.crm("acme");
    publish(&server, &token, 0..3);
    let mut stream = Stream::open(&server, &token, None);
    let start = stream.position();
    drop(stream);
    publish(&server, &token, 3..5);
    let mut stream = Stream::open(&server, &token, Some(&start));
    assert_eq!(stream.position(), start);
    for expected in 3..5 {
        assert_eq!(number(&stream.next().1), expected);
    }
}

#[test]
fn a_stream_ends_with_its_credential() {
    let server = Server::start();
    let token = server.crm("acme");
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let body = serde_json::json!({ "name": "reader", "scopes": ["events:read"] });
    let made = server
        .post("/v1/api-keys", &admin, &body)
        .expect(201)
        .json();
    let mut stream = Stream::open(&server, made["key"].as_str().expect("a key"), None);
    publish(&server, &token, 0..1);
    // Of changes of the tenant itself, such as this key, events may come late.
    assert_eq!(number(&stream.next_of("crm.contact.created")), 0);
    let path = format!("/v1/api-keys/{}", made["id"].as_str().expect("an id"));
    let revoked = server.call("DELETE", &path).bearer(&admin).send();
    revoked.expect(204);
    publish(&server, &token, 1..2);
    let rest = stream.rest();
    let told = rest
        .iter()
        .any(|event| event["type"] == "crm.contact.created");
    assert!(!told, "an event after the revocation");
}

#[test]
fn a_stream_without_events_ends_with_its_credential() {
    let server = Server::start();
    let token = server.token(&["--tenant", "quiet", "--module", "crm", "--ttl", "2s"]);
    let mut stream = Stream::open(&server, &token, None);
    assert_eq!(stream.rest(), Vec::<Value>::new());
}

#[test]
fn a_stop_ends_open_streams_without_waiting_for_the_drain() {
    let server = Server::start_with("[server]\ndrain = \"1h\"\n");
    server.declare("crm", &["crm.contact.created"]);
    let mut stream = Stream::open(&server, &server.crm("acme"), None);
    let stopping = std::thread::spawn(move || server.restart());
    assert_eq!(stream.rest(), Vec::<Value>::new());
    stopping.join().expect("it stops and starts");
}

#[test]
fn since_includes_its_moment_and_until_does_not() {
    let server = Server::start();
    let token = server.crm("acme");
    // One by one, until they were received in at least three different milliseconds.
    let received = |event: &Value| event["receivedAt"].as_str().expect("a time").to_owned();
    let all = || {
        let page = server.get("/v1/events?limit=1000", &token).expect(200);
        page.json()["items"].as_array().expect("items").clone()
    };
    let mut moments = BTreeSet::new();
    let mut count = 0;
    while moments.len() < 3 {
        publish(&server, &token, count..count + 1);
        count += 1;
        moments = all().iter().map(received).collect();
    }
    let events = all();
    for moment in &moments {
        let of = |filter: &str| -> Vec<usize> {
            let page = server.get(&format!("/v1/events?limit=1000&{filter}={moment}"), &token);
            let page = page.expect(200).json();
            page["items"]
                .as_array()
                .expect("items")
                .iter()
                .map(number)
                .collect()
        };
        let from = events.iter().filter(|event| received(event) >= *moment);
        let before = events.iter().filter(|event| received(event) < *moment);
        assert_eq!(
            of("since"),
            from.map(number).collect::<Vec<_>>(),
            "{moment}"
        );
        assert_eq!(
            of("until"),
            before.map(number).collect::<Vec<_>>(),
            "{moment}"
        );
        assert_eq!(of(&format!("since={moment}&until")), Vec::<usize>::new());
    }
}

#[test]
fn a_stream_shows_its_own_tenant_and_nobody_elses() {
    let server = Server::start();
    let (ours, theirs) = (server.crm("acme"), server.crm("other"));
    let mut stream = Stream::open(&server, &theirs, None);
    for round in 0..20 {
        // Theirs stands between ours: whatever leaked would come first.
        publish(&server, &ours, 100..110);
        publish(&server, &theirs, round..round + 1);
        publish(&server, &ours, 110..120);
        let (_, event) = stream.next();
        assert_eq!(
            (number(&event), &event["tenantid"]),
            (round, &json!("other")),
            "{event}"
        );
    }
    // Resuming from an id of another tenant's shows nothing of theirs either.
    let page = server.get("/v1/events?limit=1", &ours).expect(200).json();
    let foreign = page["items"][0]["eventId"].as_str().expect("an id");
    let head = server.call("GET", "/v1/events/stream").bearer(&theirs);
    let refused = head.header("Last-Event-ID", foreign).send();
    assert!((400..500).contains(&refused.status), "{}", refused.text());
}

#[test]
fn a_key_without_the_scope_reads_nothing_of_events_anywhere() {
    let server = Server::start();
    let token = server.crm("acme");
    server.declare("crm", &["crm.contact.created"]);
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let key = |scope: &str| {
        let body = json!({ "name": "key", "scopes": [scope] });
        let made = server.post("/v1/api-keys", &admin, &body).expect(201);
        made.json()["key"].as_str().expect("a key").to_owned()
    };
    let (reads, publishes) = (key("events:read"), key("publish:crm.**"));
    let body = json!({
        "name": "all", "target": { "kind": "webhook", "url": "https://example.com/h" }, "enabled": false,
    });
    let made = server.post("/v1/subscriptions", &token, &body);
    let made = made.expect(201).json();
    let one = format!("/v1/subscriptions/{}", made["id"].as_str().expect("an id"));
    let body = json!({ "type": "crm.contact.created", "data": {} });
    let event = server.post(PUBLISH, &token, &body).expect(201).json();
    let event = format!("/v1/events/{}", event["eventId"].as_str().expect("an id"));
    for path in [
        "/v1/events",
        &event,
        &format!("{event}/trace"),
        &format!("{event}/explain"),
        "/v1/subscriptions",
        &one,
        &format!("{one}/events"),
        &format!("{one}/parked"),
        "/v1/dead-letters",
        "/v1/replays",
        "/v1/events/custom/emits",
    ] {
        server.get(path, &reads).expect(200);
        server.get(path, &publishes).problem(403, "FORBIDDEN");
    }
    let explained = |key: &str| {
        server
            .post("/v1/events/explain", key, &body)
            .expect(200)
            .json()
    };
    assert_eq!(explained(&publishes)["verdict"], "accepted");
    assert_eq!(explained(&publishes)["subscriptions"], json!([]));
}

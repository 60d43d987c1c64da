//! Receivers that try to take the dispatcher with them. Each may cost its own subscription its deliveries, and nothing
//! else: not a neighbour's, not memory, not the time in which the process ends.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{BATCH, Server};
use crate::raw_receiver::{Message, RawReceiver, admin, delivery, publish, subscribe};

/// Events in each test.
const EVENTS: usize = 20;
/// What the server's memory may grow by at most, in KiB. Twenty bodies of 16 KiB are kept for each receiver; a body
/// that were kept whole would be a hundred times that.
const GROWTH_KIB: u64 = 96 * 1024;
/// What is written to whoever reads it.
const ENDLESS: usize = 256 << 20;
/// Less than what the drain time (5 s) and the writing of the rest may take.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

fn endless(stream: &mut TcpStream, head: &[u8]) {
    let piece = [b'a'; 16_384];
    let mut written = stream.write_all(head).map(|()| 0);
    while let Ok(bytes) = written
        && bytes < ENDLESS
    {
        written = stream.write_all(&piece).map(|()| bytes + piece.len());
    }
}

/// A byte now and then, far longer than anybody waits.
fn slow(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle().take(600) {
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// 64 MiB of nothing, packed to some 64 KiB.
fn bomb() -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        packer.write_all(&vec![0; 1 << 20]).expect("memory");
    }
    packer.finish().expect("memory")
}

/// The hostile ones, each at an address of its own so that no breaker of a host joins them. `inner` is a receiver that
/// only a followed redirect would come to.
fn hostile(inner: &str) -> Vec<(&'static str, RawReceiver)> {
    type Act = Box<dyn Fn(&mut TcpStream, &Message) + Send + Sync>;
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {inner}\r\nContent-Length: 0\r\n\r\n"
    );
    let packed = bomb();
    let act = |answer: fn(&mut TcpStream)| -> Act { Box::new(move |stream, _| answer(stream)) };
    let acts: Vec<(&str, Act)> = vec![
        ("never answers", act(|stream| slow(stream, b""))),
        (
            "a byte a second",
            act(|stream| slow(stream, b"HTTP/1.1 200 OK\r\n\r\n")),
        ),
        (
            "a byte of the body a second",
            act(|stream| {
                if stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
                    .is_ok()
                {
                    slow(stream, b"a");
                }
            }),
        ),
        (
            "an endless body",
            act(|stream| endless(stream, b"HTTP/1.1 500 No\r\n\r\n")),
        ),
        (
            "an endless head",
            act(|stream| endless(stream, b"HTTP/1.1 200 OK\r\nX-Long: ")),
        ),
        (
            "a hundred thousand headers",
            act(|stream| {
                let line = "X-Many: 1\r\n".repeat(100_000);
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{line}\r\n").as_bytes());
            }),
        ),
        (
            "a packed bomb",
            Box::new(move |stream, _| {
                let head = format!(
                    "HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                    packed.len()
                );
                let _ = stream
                    .write_all(head.as_bytes())
                    .and_then(|()| stream.write_all(&packed));
            }),
        ),
        (
            "a redirect inward",
            Box::new(move |stream, _| {
                let _ = stream.write_all(redirect.as_bytes());
            }),
        ),
        (
            "closes in the middle",
            act(|stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }),
        ),
        (
            "no HTTP",
            act(|stream| {
                let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }),
        ),
    ];
    let receivers = acts.into_iter().enumerate().map(|(number, (name, act))| {
        let address = format!("127.0.1.{}", number + 1);
        (
            name,
            RawReceiver::at(&address, move |stream, message| act(stream, message)),
        )
    });
    receivers.collect()
}

fn start() -> Server {
    let server = Server::start_with("egress.allow_targets = ['127.0.0.0/8']\n");
    server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
    server
}

#[test]
fn hostile_receivers_touch_nobody_elses_deliveries_and_no_memory() {
    let server = start();
    let token = admin(&server, "acme");
    let good = RawReceiver::good("127.0.2.1");
    let inner = RawReceiver::good("127.0.2.2");
    let beside = subscribe(&server, &token, &good.url, &json!({}));
    let quick = json!({ "timeout": "500ms", "retry": { "schedule": [] } });
    let hostile: Vec<(&str, RawReceiver, Value)> = hostile(&inner.url)
        .into_iter()
        .map(|(name, receiver)| {
            let made = subscribe(&server, &token, &receiver.url, &quick);
            (name, receiver, made)
        })
        .collect();
    // What the first event needs once, it needs once.
    let first = publish(&server, &token, 0);
    good.messages(1);
    for (name, receiver, _) in &hostile {
        assert!(!receiver.messages(1).is_empty(), "{name}");
    }
    let before = server.memory_kib();

    let begun = Instant::now();
    let published: Vec<String> = (1..EVENTS)
        .map(|number| publish(&server, &token, number))
        .collect();
    let messages = good.messages(EVENTS);
    // All hostile ones together would have held it up by many timeouts of half a second each.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let mut sequences: Vec<u64> = messages
        .iter()
        .map(|message| {
            message
                .header("tidings-sequence")
                .expect("a number")
                .parse()
                .expect("a number")
        })
        .collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=EVENTS as u64).collect::<Vec<_>>());

    let id = |subscription: &Value| subscription["id"].as_str().expect("an id").to_owned();
    for (name, _, made) in &hostile {
        let of = (first.as_str(), &*id(made));
        let ended = delivery(&server, &token, of, |one| {
            one["state"] == "gave-up" || one["state"] == "delivered"
        });
        let attempt = &ended["attempts"][0];
        assert_ne!(ended["state"], "delivered", "{name}: {ended}");
        let kept = attempt["responseBody"].as_str().unwrap_or_default();
        // Each byte that is no text takes three.
        assert!(
            kept.len() <= 3 * 16 * 1024,
            "{name}: {} bytes are kept",
            kept.len()
        );
        let latency = attempt["latencyMs"].as_u64().expect("a time");
        assert!(latency < 5_000, "{name}: {latency} ms");
    }
    let of = (published[0].as_str(), &*id(&beside));
    delivery(&server, &token, of, |one| one["state"] == "delivered");
    assert_eq!(inner.count(), 0, "a redirect is not followed");
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB");
}

#[test]
fn receivers_that_never_answer_do_not_keep_the_process_from_ending() {
    let server = start();
    let token = admin(&server, "acme");
    let silent = RawReceiver::at("127.0.3.1", |stream, _| slow(stream, b""));
    subscribe(&server, &token, &silent.url, &json!({ "timeout": "60s" }));
    publish(&server, &token, 1);
    silent.messages(1);
    let begun = Instant::now();
    let server = server.restart();
    assert!(begun.elapsed() < ENDED_WITHIN, "{:?}", begun.elapsed());
    // What was on its way is sent again, under the same id.
    let again = silent.messages(2);
    assert_eq!(again[0].header("webhook-id"), again[1].header("webhook-id"));
    assert!(again[0].body == again[1].body);
    drop(server);
}

#[test]
fn a_silent_receiver_with_all_that_may_be_in_flight_delays_no_neighbour() {
    let server = start();
    let token = admin(&server, "acme");
    let silent = RawReceiver::at("127.0.4.1", |stream, _| slow(stream, b""));
    let greedy = json!({ "timeout": "60s", "maxInFlight": 256 });
    subscribe(&server, &token, &silent.url, &greedy);
    let events: Vec<Value> = (0..300)
        .map(|number| json!({ "type": "crm.contact.created", "data": { "number": number } }))
        .collect();
    let batch = json!({ "events": events });
    server.post(BATCH, &token, &batch).expect(201);
    silent.messages(100);
    let good = RawReceiver::good("127.0.4.2");
    subscribe(&server, &token, &good.url, &json!({}));
    let begun = Instant::now();
    for number in 0..EVENTS {
        publish(&server, &token, number);
    }
    good.messages(EVENTS);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}

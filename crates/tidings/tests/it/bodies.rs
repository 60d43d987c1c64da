//! All request bodies together hold no more than they may, and small ones get in beside large ones.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::compressed::{gzip, send};
use crate::harness::{BATCH, PATIENCE, PUBLISH, Server};

const MB: usize = 1024 * 1024;

/// A batch of 15 MiB of which the last one never comes.
fn begin_a_batch(server: &Server, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).expect("it accepts");
    let length = 15 * MB;
    let head = format!(
        "POST {BATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    let head = stream.write_all(head.as_bytes());
    head.and_then(|()| stream.write_all(&vec![b' '; length - MB]))
        .expect("it is taken");
    stream
}

/// Whether something has come back, or the connection has ended.
fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("it can be asked");
    let peeked = stream.peek(&mut [0]);
    !peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn bodies_beyond_what_all_may_hold_are_refused_until_there_is_room() {
    let server = Server::start_with("[server]\nmax_bodies_bytes = 33554432\n");
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    // Read whole, it is no JSON.
    let large = gzip(&vec![b' '; 15 * MB]);
    let until = |status: u16, otherwise: &mut dyn FnMut()| {
        let began = Instant::now();
        loop {
            let answer = send(&server, BATCH, &token, "gzip", large.clone());
            if answer.status == status {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{} goes on", answer.status);
            otherwise();
        }
    };
    let mut held = begin_a_batch(&server, &token);
    let refused = until(503, &mut || {
        // The one that holds it may itself have found no room beside the other.
        if is_answered(&held) {
            held = begin_a_batch(&server, &token);
        }
    });
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.problem(503, "OVERLOADED");
    let small = json!({ "type": "crm.contact.created", "data": {} });
    server.post(PUBLISH, &token, &small).expect(201);
    drop(held);
    until(400, &mut || {}).problem(400, "INVALID_JSON");
}

/// The beginning of a compressed publish, which holds what inflating it takes.
fn begin_compressed(server: &Server, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).expect("it accepts");
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is taken");
    stream
}

#[test]
fn a_tenant_whose_bodies_never_end_leaves_another_its_part() {
    let server = Server::start_with("[server]\nmax_bodies_bytes = 33554432\n");
    server.declare("crm", &["crm.contact.created"]);
    let (loud, quiet) = (server.crm("loud"), server.crm("quiet"));
    let event = json!({ "type": "crm.contact.created", "data": {} }).to_string();
    let publish = |token: &str| send(&server, PUBLISH, token, "gzip", gzip(event.as_bytes()));
    // One more each time: what an answered publish held in between, the next of them takes.
    let mut held = Vec::new();
    let began = Instant::now();
    loop {
        held.push(begin_compressed(&server, &loud));
        let answer = publish(&loud);
        if answer.status == 503 {
            answer.problem(503, "OVERLOADED");
            break;
        }
        answer.expect(201);
        assert!(began.elapsed() < PATIENCE, "{} are held", held.len());
    }
    publish(&quiet).expect(201);
}

#[test]
fn a_client_that_sends_much_too_much_gets_the_answer() {
    let server = Server::start();
    let token = server.crm("acme");
    let mut stream = TcpStream::connect(&server.address).expect("it accepts");
    let length = 20 * MB;
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    let sent = stream.write_all(head.as_bytes());
    sent.and_then(|()| stream.write_all(&vec![b' '; length]))
        .expect("all of it is taken");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 400");
}

#[test]
fn a_client_that_sends_too_much_and_never_said_how_much_gets_the_answer() {
    let server = Server::start();
    let token = server.crm("acme");
    let mut stream = TcpStream::connect(&server.address).expect("it accepts");
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is taken");
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + MB, b' ');
    chunk.extend(b"\r\n");
    for _ in 0..20 {
        stream.write_all(&chunk).expect("all of it is taken");
    }
    stream.write_all(b"0\r\n\r\n").expect("the end is taken");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 400");
}

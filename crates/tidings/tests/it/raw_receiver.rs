//! Receivers that write whatever a test wants, at whatever address of loopback, and subscriptions to them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server};

/// A message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(this, value)| this.eq_ignore_ascii_case(name).then(|| value.trim()))
    }
}

/// Reads one request.
fn read(stream: &mut TcpStream) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8_192];
    loop {
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(split) = split {
            let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
            let body = bytes[split + 4..].to_vec();
            let message = Message { head, body };
            let length = message.header("content-length").unwrap_or("0");
            if message.body.len() >= length.parse().expect("a length") {
                return Some(message);
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// What is listening, and what has come to it.
pub(crate) struct RawReceiver {
    pub(crate) url: String,
    come: Arc<(Mutex<Vec<Message>>, Condvar)>,
}

impl RawReceiver {
    /// At an address of loopback, answering each request with what `answer` writes. A thread for each connection;
    /// all end with the process.
    pub(crate) fn at(
        address: &str,
        answer: impl Fn(&mut TcpStream, &Message) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
        let come = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let (answer, seen) = (Arc::new(answer), come.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), answer, seen) = (stream, answer.clone(), seen.clone()) else {
                    continue;
                };
                std::thread::spawn(move || {
                    while let Some(message) = read(&mut stream) {
                        let (list, changed) = &*seen;
                        list.lock().expect("no panic").push(message.clone());
                        changed.notify_all();
                        answer(&mut stream, &message);
                    }
                });
            }
        });
        Self { url, come }
    }

    /// One that takes all.
    pub(crate) fn good(address: &str) -> Self {
        Self::at(address, |stream, _| {
            // Whoever has gone meanwhile does not want the answer.
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        })
    }

    /// What has come, once it is so much.
    pub(crate) fn messages(&self, count: usize) -> Vec<Message> {
        let (list, changed) = &*self.come;
        let list = list.lock().expect("no panic");
        let (list, late) = changed
            .wait_timeout_while(list, PATIENCE, |list| list.len() < count)
            .expect("no panic");
        let come = list.len();
        assert!(
            !late.timed_out(),
            "{come} of {count} messages came to {}",
            self.url
        );
        list.clone()
    }

    /// How much has come until now.
    pub(crate) fn count(&self) -> usize {
        self.come.0.lock().expect("no panic").len()
    }
}

/// A token of module `crm` that may make subscriptions.
pub(crate) fn admin(server: &Server, tenant: &str) -> String {
    server.token(&["--tenant", tenant, "--module", "crm", "--role", "ADMIN"])
}

/// Makes a subscription to everything of `crm`, and answers it.
pub(crate) fn subscribe(server: &Server, token: &str, url: &str, delivery: &Value) -> Value {
    let document = json!({
        "name": url, "filter": { "types": ["crm.**"] }, "delivery": delivery,
        "target": { "kind": "webhook", "url": url },
    });
    let made = server.post("/v1/subscriptions", token, &document);
    made.expect(201).json()
}

/// Publishes, and answers the event's id.
pub(crate) fn publish(server: &Server, token: &str, number: usize) -> String {
    let event = json!({ "type": "crm.contact.created", "data": { "number": number } });
    let receipt = server.post(crate::harness::PUBLISH, token, &event);
    let receipt = receipt.expect(201).json();
    receipt["eventId"].as_str().expect("an id").to_owned()
}

/// The delivery of an event to a subscription, once `good` says that it has come so far.
pub(crate) fn delivery(
    server: &Server,
    token: &str,
    (event_id, subscription): (&str, &str),
    good: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("/v1/events/{event_id}/trace");
    let begun = std::time::Instant::now();
    loop {
        let trace = server.get(&path, token).expect(200).json();
        let all = trace["deliveries"].as_array().expect("a list");
        let found = all.iter().find(|one| one["subscriptionId"] == subscription);
        if let Some(found) = found.filter(|found| good(found)) {
            return found.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{trace}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

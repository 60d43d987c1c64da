//! A loud tenant and a quiet one: whoever has little to get does not wait for whoever has much.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{BATCH, Server};
use crate::raw_receiver::{RawReceiver, admin, subscribe};

/// What the quiet tenant gets.
const QUIET: usize = 20;
/// What the loud one publishes: as many batches as this, of 1,000.
const BATCHES: usize = 2;
/// The loud one's receivers, each slow; all get everything.
const SLOW: usize = 2;
/// How long one answer of theirs takes while the quiet one waits.
const ANSWER: Duration = Duration::from_millis(50);

fn batch(count: usize) -> serde_json::Value {
    let event = json!({ "type": "crm.contact.created", "data": {} });
    json!({ "events": vec![event; count] })
}

#[test]
fn a_quiet_tenant_gets_its_own_while_a_loud_one_s_backlog_is_still_there() {
    let server = Server::start_with("egress.allow_targets = ['127.0.0.0/8']\n");
    server.declare("crm", &["crm.contact.created"]);
    let (loud, quiet) = (admin(&server, "loud"), admin(&server, "quiet"));
    let hurry = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = (0..SLOW)
        .map(|number| {
            let hurry = hurry.clone();
            RawReceiver::at(&format!("127.0.0.{}", 2 + number), move |stream, _| {
                if !hurry.load(Ordering::Relaxed) {
                    std::thread::sleep(ANSWER);
                }
                // Whoever has gone meanwhile does not want the answer.
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            })
        })
        .collect();
    for receiver in &slow {
        subscribe(&server, &loud, &receiver.url, &json!({}));
    }
    let good = RawReceiver::good("127.0.0.1");
    subscribe(&server, &quiet, &good.url, &json!({}));

    for _ in 0..BATCHES {
        server.post(BATCH, &loud, &batch(1_000)).expect(201);
    }
    // Behind a hundred times as much, for each of the slow ones.
    server.post(BATCH, &quiet, &batch(QUIET)).expect(201);
    assert_eq!(good.messages(QUIET).len(), QUIET);
    let come: usize = slow.iter().map(RawReceiver::count).sum();
    let backlog = SLOW * BATCHES * 1_000 - come;
    assert!(backlog > 10 * QUIET, "it had to wait: {backlog} are left");

    // Nobody is starved for it.
    hurry.store(true, Ordering::Relaxed);
    for receiver in &slow {
        assert_eq!(receiver.messages(BATCHES * 1_000).len(), BATCHES * 1_000);
    }
}

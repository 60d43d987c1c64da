//! After the first failed fsync nothing more is acknowledged, in this process.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::load::{Attempt, Load};
use crate::server::{Connection, Server, start_faulty, token};

#[test]
fn nothing_is_acknowledged_after_a_failed_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut server, trigger) = start_faulty(folder.path(), "FAULT_SYNC");
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    load.until_acknowledged(200);
    std::fs::write(&trigger, "").unwrap();
    let mut attempts = Vec::new();
    while attempts.last().is_none_or(Attempt::is_acknowledged) {
        attempts.push(load.next());
    }
    // Storage that works again must not be believed.
    std::fs::remove_file(&trigger).unwrap();
    let refused = |attempts: &[Attempt]| attempts.iter().filter(|a| !a.is_acknowledged()).count();
    while refused(&attempts) < 500 {
        attempts.push(load.next());
    }
    attempts.extend(load.stop());
    let failed_at = failed_at(&trigger.with_extension("failed"));
    let after = attempts.iter().filter(|attempt| attempt.sent > failed_at);
    let (late, refusals): (Vec<_>, Vec<_>) = after.partition(|attempt| attempt.is_acknowledged());
    println!(
        "fsync: {} acknowledgements of what was sent after the failing call, {} refusals",
        late.len(),
        refusals.len()
    );
    assert_eq!(late.len(), 0);
    assert!(refusals.len() > 400, "{}", refusals.len());
    for refusal in refusals {
        let answer = refusal.answer.as_ref().expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert_eq!(answer.body["code"], "events.broker.unavailable");
    }

    let ready = Connection::open(&server.address, &token)
        .unwrap()
        .get("/readyz")
        .unwrap();
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert_eq!(
        ready.body["parts"]["bus"]["status"], "poisoned",
        "{}",
        ready.body
    );
    assert!(
        server.logs("the storage of the bus failed"),
        "{}",
        server.log()
    );
    server.kill();

    let server = Server::start(&data, &[]);
    let answer = Connection::open(&server.address, &token)
        .unwrap()
        .publish("afterwards")
        .unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    load.judge("fsync", 1, &server, &token);
}

/// When the first call failed, as the shim noted it just before the call returned.
fn failed_at(note: &Path) -> Instant {
    let nanos: u64 = std::fs::read_to_string(note).unwrap().parse().unwrap();
    let moment = UNIX_EPOCH + Duration::from_nanos(nanos);
    let ago = SystemTime::now().duration_since(moment).unwrap();
    Instant::now().checked_sub(ago).unwrap()
}

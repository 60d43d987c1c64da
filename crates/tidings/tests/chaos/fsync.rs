//! After the first failed fsync nothing more is acknowledged, in this process.

use crate::load::Load;
use crate::server::{Connection, Server, compile, token};

#[test]
fn nothing_is_acknowledged_after_a_failed_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let shim = compile(
        folder.path(),
        include_str!("faults.c"),
        &["-shared", "-fPIC"],
    );
    let trigger = folder.path().join("fail-syncs");
    let variables = [
        ("LD_PRELOAD", shim.as_os_str()),
        ("FAULT_SYNC", trigger.as_os_str()),
    ];
    let mut server = Server::start(&data, &variables);
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    load.until_acknowledged(200);
    std::fs::write(&trigger, "").unwrap();
    let failed = loop {
        let attempt = load.next();
        if !attempt.is_acknowledged() {
            break attempt;
        }
    };
    let status = failed.answer.map(|answer| (answer.status, answer.body));
    println!("fsync: the first refusal is {status:?}");
    // Storage that works again must not be believed.
    std::fs::remove_file(&trigger).unwrap();
    let refused_at = std::time::Instant::now();
    let mut refused = 0;
    let mut late = 0;
    while refused < 500 {
        let attempt = load.next();
        refused += u64::from(!attempt.is_acknowledged());
        late += u64::from(attempt.is_acknowledged() && attempt.sent > refused_at);
    }
    let rest = load.stop();
    late += rest
        .iter()
        .filter(|a| a.is_acknowledged() && a.sent > refused_at)
        .count() as u64;
    println!("fsync: {late} acknowledgements after the failure, {refused} refusals");
    assert_eq!(late, 0);

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
        server.log().contains("the storage of the bus failed"),
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

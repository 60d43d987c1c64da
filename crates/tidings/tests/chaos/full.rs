//! A full disk: publishes are refused, reads go on, and it recovers without a restart.

use crate::load::Load;
use crate::server::{Connection, Server, start_faulty, token};

#[test]
fn a_full_disk_refuses_publishes_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut server, trigger) = start_faulty(folder.path(), "FAULT_FULL");
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    load.until_acknowledged(200);
    let known = load.acknowledged.values().next().unwrap().clone();
    let mut connection = Connection::open(&server.address, &token).unwrap();
    for _ in 0..3 {
        std::fs::write(&trigger, "").unwrap();
        let mut refused = 0;
        while refused < 50 {
            let attempt = load.next();
            if attempt.is_acknowledged() {
                continue;
            }
            let answer = attempt.answer.expect("an answer");
            assert_eq!(answer.status, 507, "{}", answer.body);
            assert_eq!(answer.content_type, "application/problem+json");
            assert_eq!(answer.body["code"], "STORAGE_FULL");
            refused += 1;
        }
        let read = connection.get(&format!("/v1/events/{known}")).unwrap();
        assert_eq!(read.status, 200, "{}", read.body);
        std::fs::remove_file(&trigger).unwrap();
        load.until_acknowledged(100);
    }
    load.stop();
    load.judge("full", 3, &server, &token);
    server.kill();
    let server = Server::start(&data, &[]);
    load.judge("full, restarted", 3, &server, &token);
}

//! SIGTERM drains: each request that was sent gets its answer, and the process ends within 10 s.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::server::{Server, rounds, token};

#[test]
fn sigterm_answers_what_was_sent_and_ends_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = rounds(10);
    for round in 0..rounds {
        let data = folder.path().join(round.to_string());
        let mut server = Server::start(&data, &[]);
        let token = token(&data);
        let mut load = Load::start(&server, &token);
        load.until_acknowledged(200);
        let signalled = Instant::now();
        server.terminate();
        let status = server.wait();
        let took = signalled.elapsed();
        let rest = load.stop();
        let sent_before = rest.iter().filter(|attempt| attempt.sent < signalled);
        let dropped = sent_before
            .filter(|attempt| attempt.answer.is_none())
            .count();
        println!("shutdown: {took:?}, {status}, {dropped} requests without an answer");
        assert!(status.success(), "{}", server.log());
        assert!(took < Duration::from_secs(10));
        assert_eq!(dropped, 0);
        let server = Server::start(&data, &[]);
        load.judge("shutdown", round + 1, &server, &token);
    }
}

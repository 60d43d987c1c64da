//! An acknowledged event is never lost, and one idempotency key is one append: `kill -9` in a loop.

use crate::load::Load;
use crate::server::{Random, Server, rounds, token};

/// A round kills after at most so many acknowledgements.
const ROUND: u64 = 400;

#[test]
fn what_was_acknowledged_survives_kill_9_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut random = Random::seeded("kill");
    let rounds = rounds(10);
    let mut server = Server::start(&data, &[]);
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    for _ in 0..rounds {
        load.until_acknowledged(1 + random.below(ROUND));
        server.kill();
        load.pause();
        server = Server::start(&data, &[]);
        load.resume(&server);
    }
    load.until_acknowledged(100);
    load.stop();
    load.judge("kill", rounds, &server, &token);
}

//! Corruption is reported, never served: single flipped bits in `bus.db`.

use std::path::Path;

use serde_json::Value;
use tidings_bus::embedded::verify;

use crate::load::Load;
use crate::server::{Random, Server, list, token};

const FLIPS: usize = 40;

#[test]
fn a_flipped_bit_is_reported_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut random = Random::seeded("flips");
    let mut server = Server::start(&data, &[]);
    let token = token(&data);
    let mut load = Load::start(&server, &token);
    load.until_acknowledged(300);
    load.stop();
    let before = list(&server, &token);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());

    let copy = folder.path().join("copy");
    let (mut reported, mut harmless) = (0, 0);
    for _ in 0..FLIPS {
        copy_folder(&data, &copy);
        let file = copy.join("bus.db");
        let mut bytes = std::fs::read(&file).unwrap();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        std::fs::write(&file, bytes).unwrap();
        if verify(&copy).is_ok_and(|report| report.findings.is_empty()) {
            assert_eq!(
                served(&copy, &token),
                before,
                "bit {bit} of byte {at} went unnoticed"
            );
            harmless += 1;
        } else {
            reported += 1;
        }
    }
    println!("flips: {FLIPS} bits, reported {reported}, without effect {harmless}, served wrong 0");
}

fn served(data: &Path, token: &str) -> Vec<Value> {
    let server = Server::start(data, &[]);
    list(&server, token)
}

fn copy_folder(from: &Path, to: &Path) {
    // There is none before the first copy.
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

//! A backup is a folder to serve from: what it holds is delivered, and can be read.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::{BINARY, Folder, ON_ITS_FOLDER, PUBLISH, Server};
use crate::receiver::{Receiver, eventually};

const MAY_SEND: &str = "egress.allow_targets = ['127.0.0.1']\n";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).output().expect("it runs")
}

#[test]
fn a_gateway_on_a_backup_goes_on_where_the_copied_one_was() {
    let config = format!("{ON_ITS_FOLDER}{MAY_SEND}");
    let server = Server::start_with(&config);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    let receiver = Receiver::start();
    receiver.answer(|_, _| 503);
    let body = json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
        "delivery": { "retry": { "schedule": ["1s", "2s", "4s", "8s", "8s", "8s", "8s"] } },
    });
    let made = server
        .post("/v1/subscriptions", &token, &body)
        .expect(201)
        .json();
    let publish = |server: &Server, n: usize| {
        let body = json!({ "type": "crm.contact.created", "data": { "n": n } });
        server.post(PUBLISH, &token, &body).expect(201);
    };
    (0..20).for_each(|n| publish(&server, n));
    let copy = Folder::new();
    let (data, to) = (
        server.folder.path().to_string_lossy(),
        copy.path().to_string_lossy(),
    );
    let backup = run(&["backup", "--data", &data, "--to", &to]);
    assert!(backup.status.success(), "{backup:?}");
    let doctor = run(&["doctor", "--data", &to]);
    assert!(doctor.status.success(), "{doctor:?}");
    drop(server);

    let server = Server::start_with_in(copy, &config);
    receiver.answer(|_, _| 200);
    let secret = format!(
        "/v1/subscriptions/{}/secret",
        made["id"].as_str().expect("an id")
    );
    let admin = server.token(&["--tenant", "acme", "--user", "ada", "--role", "ADMIN"]);
    let secret = server.get(&secret, &admin).expect(200).json();
    assert_eq!(secret["secret"], made["secret"]);
    publish(&server, 20);
    eventually("all that was published, before the copy and after", || {
        let good = receiver.hits().into_iter().filter(|hit| hit.status == 200);
        let numbers: BTreeSet<u64> = good
            .filter_map(|hit| hit.json()["data"]["n"].as_u64())
            .collect();
        (numbers.len() == 21).then_some(())
    });
}

#[test]
fn a_folder_whose_key_of_secrets_is_lost_is_not_served_with_a_new_one() {
    let server = Server::start_with(ON_ITS_FOLDER);
    let folder = server.killed();
    let data = folder.path();
    std::fs::remove_file(data.join("secrets.key")).expect("it is there");
    let path = data.to_string_lossy();
    let config = data.join("tidings.toml");
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--data",
        &path,
        "--config",
        &config.to_string_lossy(),
    ];
    let refused = run(&serve);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("secrets.key is not beside store.db"),
        "{said}"
    );
    assert!(!data.join("secrets.key").exists());
}

#[test]
fn what_a_damaged_wal_still_holds_is_neither_copied_without_it_nor_lost_by_the_try() {
    for file in ["bus.db-wal", "store.db-wal"] {
        let config = format!("bus.kind = 'embedded'\n{ON_ITS_FOLDER}");
        let server = Server::start_with(&config);
        let token = server.crm("acme");
        for n in 0..3 {
            server.declare(
                "crm",
                &["crm.contact.created", &format!("crm.contact.n{n}")],
            );
            let body = json!({ "type": "crm.contact.created", "data": { "n": n } });
            server.post(PUBLISH, &token, &body).expect(201);
        }
        let folder = server.killed();
        let wal = folder.path().join(file);
        let mut bytes = std::fs::read(&wal).expect("it was killed");
        // In the page of the first frame: commits follow it.
        bytes[32 + 24 + 1_000] ^= 0xff;
        std::fs::write(&wal, &bytes).expect("it is written");
        let copy = Folder::new();
        let (data, to) = (
            folder.path().to_string_lossy(),
            copy.path().to_string_lossy(),
        );
        let backup = run(&["backup", "--data", &data, "--to", &to]);
        assert!(!backup.status.success(), "{file}: {backup:?}");
        let said = String::from_utf8_lossy(&backup.stderr);
        assert!(said.contains("damaged in frame 1"), "{file}: {said}");
        assert_eq!(std::fs::read(&wal).expect("it is there"), bytes, "{file}");
        let left = std::fs::read_dir(copy.path()).expect("a folder").count();
        assert_eq!(left, 0, "{file}: nothing was copied");
    }
}

#[test]
fn a_folder_without_a_log_is_copied_and_looked_at() {
    let config = format!("{ON_ITS_FOLDER}bus.kind = 'disabled'\n");
    let server = Server::start_with(&config);
    server.declare("crm", &["crm.contact.created"]);
    let copy = Folder::new();
    let file = server.folder.path().join("tidings.toml");
    let (data, to, file) = (
        server.folder.path().to_string_lossy(),
        copy.path().to_string_lossy(),
        file.to_string_lossy(),
    );
    let unnamed = run(&["backup", "--data", &data, "--to", &to]);
    let said = String::from_utf8_lossy(&unnamed.stderr);
    assert!(
        !unnamed.status.success() && said.contains("--config"),
        "{said}"
    );
    let backup = run(&["backup", "--data", &data, "--to", &to, "--config", &file]);
    assert!(backup.status.success(), "{backup:?}");
    let doctor = run(&["doctor", "--data", &data, "--config", &file]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success(), "{said}");
    assert!(said.contains("a process has the folder open"), "{said}");
    drop(server);

    let server = Server::start_with_in(copy, &config);
    let body = json!({ "type": "crm.contact.created", "data": {} });
    let answer = server.post(PUBLISH, &server.crm("acme"), &body);
    assert_eq!(answer.expect(200).json()["skipped"], true);
}

//! Forged tokens at the front door, and the rule about binding beyond loopback.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{BINARY, Folder, PUBLISH, Server};

#[test]
fn what_is_not_signed_by_the_key_in_force_is_refused() {
    let server = Server::start();
    let token = server.crm("acme");
    let parts: Vec<&str> = token.split('.').collect();
    let event = json!({ "type": "crm.contact.created", "data": {} });
    // {"alg":"none"} and {"alg":"HS256"}.
    let (none, confused) = ("eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9");
    let other = server.crm("other");
    let foreign_claims = other.split('.').nth(1).unwrap();
    for forged in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{confused}.{}.{}", parts[1], parts[2]),
        format!("{}.{foreign_claims}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
    ] {
        server
            .post(PUBLISH, &forged, &event)
            .problem(401, "UNAUTHENTICATED");
    }
    server.post(PUBLISH, &token, &event).expect(201);
}

#[test]
fn with_a_shared_secret_the_local_key_is_off() {
    let config = Folder::new();
    let file = config.path().join("tidings.toml");
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(&file, format!("[auth]\nshared_secret = \"{secret}\"\n")).unwrap();
    let server = Server::start_in(Folder::new(), &["--config", file.to_str().unwrap()]);
    server
        .get("/v1/events", &server.crm("acme"))
        .problem(401, "UNAUTHENTICATED");
    let data = server.folder.path().to_str().unwrap();
    let run = Command::new(BINARY)
        .args(["token", "--tenant", "acme", "--data", data, "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(!run.status.success(), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("auth.shared_secret"));
}

#[test]
fn a_first_start_that_finds_its_address_taken_is_still_to_come() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    let serve = |listen: &str| {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", listen, "--data"]);
        command.arg(folder.path());
        command
    };
    let run = serve(&address).output().unwrap();
    assert!(!run.status.success(), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("cannot listen on"));
    let mut second = serve("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    let greeting = lines.by_ref().map_while(Result::ok);
    let how = ["demo.greeting.sent", "tidings token"];
    let told = greeting
        .into_iter()
        .find(|line| how.iter().any(|how| line.contains(how)));
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(
        told.is_some_and(|line| line.contains(how[0])),
        "the sample module may publish"
    );
}

#[test]
fn beyond_loopback_it_does_not_start_without_keys() {
    let folder = Folder::new();
    let run = Command::new(BINARY)
        .args(["serve", "--listen", "0.0.0.0:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("auth.jwks_file"));
}

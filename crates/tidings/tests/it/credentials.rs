//! Forged tokens at the front door, and the rule about binding beyond loopback.

use std::process::Command;

use serde_json::json;

use crate::harness::{Folder, PUBLISH, Server};

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
}

#[test]
fn beyond_loopback_it_does_not_start_without_keys() {
    let folder = Folder::new();
    let run = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["serve", "--listen", "0.0.0.0:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("auth.jwks_file"));
}

//! Components: dropped into a folder while the gateway runs, in force at once, and whatever they do is a delivery
//! like any other.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Answer, BINARY, Folder, Server};
use crate::plugins::{installed, letter};
use crate::receiver::eventually;
use crate::workspaces::{DEAL, put, with_workspace};

const MISBEHAVING: &str = include_str!("../misbehaving/component.wat");
const EXTENSION: &str = "/api/workspaces/ws-1/extensions/misbehaving";

fn compiled(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a component")
}

/// What handles nothing before a publish is acknowledged, as all have to that come while the gateway runs.
fn all_later() -> String {
    let text = MISBEHAVING.replace("mis.behave.now", "mis.behave.too");
    text.replace(r"\0e\00\00\00\00\00\00\00", r"\0e\00\00\00\01\00\00\00")
}

/// The same with event keys of its own, so that it gets nothing that the first does.
fn others() -> String {
    all_later().replace("mis.behave", "mis.others")
}

/// A server whose folder of components holds these, with a workspace; its member's token and its ADMIN's.
fn server(files: &[(&str, &[u8])]) -> (Server, PathBuf, String, String) {
    let folder = Folder::new();
    let components = folder.path().join("components");
    std::fs::create_dir(&components).expect("a folder");
    for (name, bytes) in files {
        std::fs::write(components.join(name), bytes).expect("a file");
    }
    let config = format!(
        "delivery.retry_schedule = ['20ms']\nextensions.components = '{}'\n",
        components.display()
    );
    let server = Server::start_with_in(folder, &config);
    let (ada, root) = with_workspace(&server);
    (server, components, ada, root)
}

/// Written beside and moved there, as a deployment should.
fn drop_into(components: &Path, bytes: &[u8]) {
    let (new, file) = (components.join("new"), components.join("misbehaving.wasm"));
    std::fs::write(&new, bytes).expect("a file");
    std::fs::rename(new, file).expect("it moves");
}

fn publish(server: &Server, token: &str, event_key: &str, deed: &str) -> String {
    let body = json!({ "eventKey": event_key, "payload": { "deed": deed } });
    let answer = server.post(DEAL, token, &body).expect(200).json();
    answer["eventId"].as_str().expect("an id").to_owned()
}

/// What the delivery of an event to the extension came to, once it has come to something.
fn outcome(server: &Server, token: &str, id: &str) -> Value {
    let path = format!("/v1/events/{id}/trace");
    eventually("an attempt", || {
        let trace = server.get(&path, token).expect(200).json();
        let attempts = trace["deliveries"][0]["attempts"].clone();
        attempts.get(0).cloned()
    })
}

fn install(server: &Server, root: &str) -> Answer {
    put(server, EXTENSION, root, &installed(true))
}

fn until_installed(server: &Server, root: &str) {
    eventually("the component is in force", || {
        (install(server, root).status == 200).then_some(())
    });
}

#[test]
fn one_that_is_dropped_in_handles_events_and_its_misdeeds_are_dead_letters() {
    let (server, components, ada, root) = server(&[]);
    install(&server, &root).problem(400, "INVALID_REQUEST");
    drop_into(&components, &compiled(&all_later()));
    until_installed(&server, &root);
    let good = publish(&server, &ada, "mis.behave.later", "well");
    assert_eq!(outcome(&server, &ada, &good)["error"], Value::Null);
    let misdeeds = [
        ("!l", "fuel"),
        ("!m", "memory"),
        ("!t", "unreachable"),
        ("!f", "it was asked to fail"),
    ];
    let ids = misdeeds.map(|(deed, _)| publish(&server, &ada, "mis.behave.later", deed));
    // Others flow meanwhile.
    let notice = json!({ "channel": "general", "message": "hello" });
    let body = json!({ "eventKey": "platform.notification", "payload": notice });
    server.post(DEAL, &ada, &body).expect(200);
    eventually("the message", || {
        let path = "/api/workspaces/ws-1/channels/general/messages";
        let page = server.get(path, &ada).expect(200).json();
        (page["items"].as_array()?.len() == 1).then_some(())
    });
    for ((_, sentence), id) in misdeeds.iter().zip(&ids) {
        let letter = letter(&server, &ada, id);
        let error = letter["lastError"].as_str().expect("a sentence");
        assert!(error.contains(sentence), "{error}");
        assert_eq!(letter["attempts"], 2, "{letter}");
    }
    let good = publish(&server, &ada, "mis.behave.later", "well");
    assert_eq!(outcome(&server, &ada, &good)["error"], Value::Null);
}

#[test]
fn one_that_publishes_causes_an_event_of_its_workspace_once() {
    let bytes = compiled(&all_later());
    let (server, _components, ada, root) = server(&[("misbehaving.wasm", &bytes)]);
    install(&server, &root).expect(200);
    let cause = publish(&server, &ada, "mis.behave.later", "!p");
    assert_eq!(outcome(&server, &ada, &cause)["error"], Value::Null);
    let page = server.get("/v1/events?type=mis.behave.caused", &ada);
    let page = page.expect(200).json();
    let caused = page["items"].as_array().expect("items");
    assert_eq!(caused.len(), 1, "{page}");
    assert_eq!(caused[0]["causationid"], cause.as_str());
    assert_eq!(caused[0]["data"], json!({ "n": 1 }), "{page}");
    let trace = server.get(&format!("/v1/events/{cause}/trace"), &ada);
    assert_eq!(trace.expect(200).json()["caused"][0], caused[0]["eventId"]);
}

#[test]
fn a_changed_file_is_another_handler_a_broken_one_changes_nothing_and_a_removed_one_is_gone() {
    let first = compiled(&all_later());
    let (server, components, ada, root) = server(&[("misbehaving.wasm", &first)]);
    install(&server, &root).expect(200);
    let fails = |with: &str| {
        let id = publish(&server, &ada, "mis.behave.later", "!f");
        let error = outcome(&server, &ada, &id)["error"].clone();
        error.as_str().is_some_and(|error| error.contains(with))
    };
    assert!(fails("it was asked to fail"));
    let other = all_later().replace("it was asked to fail", "it was told to fail!");
    drop_into(&components, &compiled(&other));
    eventually("the other is in force", || {
        fails("it was told to fail!").then_some(())
    });
    drop_into(&components, b"this is no component");
    // Files are looked at by their names, so what is behind it is taken when it has been refused.
    std::fs::write(components.join("next.wasm"), compiled(&others())).expect("a file");
    let next = "/api/workspaces/ws-1/extensions/next";
    eventually("the one behind it is in force", || {
        (put(&server, next, &root, &installed(true)).status == 200).then_some(())
    });
    assert!(fails("it was told to fail!"));
    std::fs::remove_file(components.join("misbehaving.wasm")).expect("it goes");
    eventually("it is gone", || {
        fails("no plugin 'misbehaving'").then_some(())
    });
}

#[test]
fn what_a_publisher_waits_for_runs_before_the_answer_and_changes_with_a_restart_only() {
    let both = compiled(MISBEHAVING);
    let (server, components, ada, root) = server(&[("misbehaving.wasm", &both)]);
    install(&server, &root).expect(200);
    let id = publish(&server, &ada, "mis.behave.now", "!t");
    // It is there with the answer.
    let page = server.get("/api/workspaces/ws-1/dead-letters", &ada);
    let page = page.expect(200).json();
    assert_eq!(page["items"][0]["eventId"], id.as_str(), "{page}");
    drop_into(&components, &compiled(&all_later()));
    std::fs::write(components.join("next.wasm"), compiled(&others())).expect("a file");
    let next = "/api/workspaces/ws-1/extensions/next";
    eventually("the one behind it is in force", || {
        (put(&server, next, &root, &installed(true)).status == 200).then_some(())
    });
    let too = format!("{EXTENSION}/subscriptions/mis.behave.too");
    put(&server, &too, &root, &json!({})).problem(400, "INVALID_REQUEST");
    let server = server.restart();
    put(&server, &too, &root, &json!({})).expect(200);
}

#[test]
fn doctor_names_what_cannot_be_used() {
    let folder = Folder::new();
    let components = folder.path().join("components");
    std::fs::create_dir(&components).expect("a folder");
    std::fs::write(components.join("good.wasm"), compiled(&all_later())).expect("a file");
    std::fs::write(components.join("bad.wasm"), b"(component)").expect("a file");
    let config = folder.path().join("tidings.toml");
    let text = format!("extensions.components = '{}'\n", components.display());
    std::fs::write(&config, text).expect("a file");
    let run = Command::new(BINARY)
        .args(["--output", "json", "doctor", "--data"])
        .arg(folder.path())
        .arg("--config")
        .arg(&config)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    let line = |name: &str| {
        let mut lines = said.lines();
        let found = lines.find(|line| line.contains(name));
        found.unwrap_or_else(|| panic!("nothing of {name}: {said}"))
    };
    assert!(line("good.wasm").contains("2 event keys"), "{said}");
    assert!(line("bad.wasm").contains("component"), "{said}");
    assert_eq!(run.status.code(), Some(1), "{said}");
}

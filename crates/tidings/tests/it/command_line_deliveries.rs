//! The command line for deliveries: subscriptions, dead letters, traces, signatures, and events sent to a developer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::catalogs::{apply, small};
use crate::harness::{BINARY, Folder, Server};
use crate::raw_receiver::{Message, RawReceiver, admin, delivery, publish};
use crate::receiver::{Receiver, eventually};

/// The command line as an administrator of `acme` has it.
struct Shell {
    server: Server,
    token: String,
    folder: Folder,
}

impl Shell {
    fn start() -> Self {
        let server = Server::start_with("egress.allow_targets = ['127.0.0.0/8']\n");
        server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
        let token = admin(&server, "acme");
        Self {
            server,
            token,
            folder: Folder::new(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("TIDINGS_URL", format!("http://{}", self.server.address))
            .env("TIDINGS_TOKEN", &self.token);
        command
    }

    /// What it prints, when it ends with this code.
    fn run(&self, arguments: &[&str], code: i32) -> String {
        let ran = self.command(arguments).output().expect("it runs");
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.run(arguments, 0);
        serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{arguments:?}: {printed}"))
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let file = self.folder.path().join(name);
        std::fs::write(&file, content).expect("a file");
        file.to_string_lossy().into_owned()
    }

    /// Makes a subscription to everything of `crm` that tries once, and answers it.
    fn subscribe(&self, url: &str) -> Value {
        let document = json!({
            "name": "orders", "filter": { "types": ["crm.**"] },
            "target": { "kind": "webhook", "url": url }, "delivery": { "retry": { "schedule": [] } },
        });
        let file = self.file("subscription.json", document.to_string());
        self.json(&["subscriptions", "create", &file])
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not text: {value}"))
}

#[test]
fn a_subscription_is_made_changed_and_taken_away() {
    let shell = Shell::start();
    let receiver = RawReceiver::good("127.0.0.1");
    let made = shell.subscribe(&receiver.url);
    let id = text(&made["id"]);
    assert!(text(&made["secret"]).starts_with("whsec_"), "{made}");
    let of = |command: &str| shell.json(&["subscriptions", command, id]);
    assert_eq!(of("get")["name"], "orders");
    let patched = shell.json(&["subscriptions", "patch", id, r#"{"name":"all"}"#]);
    assert_eq!(
        (&patched["name"], &patched["revision"]),
        (&json!("all"), &json!(2))
    );
    assert_eq!(of("pause")["state"], "paused");
    let listed = shell.run(&["subscriptions", "list", "-o", "table"], 0);
    assert!(
        listed.contains("paused") && listed.contains(&receiver.url),
        "{listed}"
    );

    let first = publish(&shell.server, &shell.token, 1);
    publish(&shell.server, &shell.token, 2);
    assert_eq!(of("resume")["state"], "active");
    receiver.messages(2);
    shell.json(&["subscriptions", "seek", id, "--to", "beginning"]);
    let messages = receiver.messages(4);
    let sent_again = |message: &&Message| {
        let id = message.header("webhook-id");
        id.is_some_and(|id| id.starts_with(&first))
    };
    assert_eq!(messages.iter().filter(sent_again).count(), 2);

    let rotated = shell.json(&["subscriptions", "rotate-secret", id, "--overlap", "1h"]);
    assert_ne!(rotated["secret"], made["secret"]);
    let secrets = of("secret");
    assert_eq!(secrets["secret"], rotated["secret"]);
    assert_eq!(secrets["secrets"][1]["secret"], made["secret"]);
    // What the documentation has exported for 'verify' is no secret of a subscription.
    let known = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut rotate = shell.command(&["subscriptions", "rotate-secret", id]);
    let rotated = rotate.env("TIDINGS_WEBHOOK_SECRET", known).output();
    let rotated: Value = serde_json::from_slice(&rotated.expect("it runs").stdout).expect("JSON");
    assert!(text(&rotated["secret"]).starts_with("whsec_") && rotated["secret"] != known);
    assert_eq!(of("delete"), json!({ "id": id, "deleted": true }));
    shell.run(&["subscriptions", "get", id], 1);
    assert_eq!(shell.run(&["subscriptions", "list"], 0), "");
}

#[test]
fn a_parked_key_is_seen_and_goes_on() {
    let shell = Shell::start();
    let receiver = Receiver::start();
    receiver.answer(|_, _| 500);
    let document = json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
        "delivery": { "ordered": true, "key": "/number", "retry": { "schedule": [] } },
    });
    let file = shell.file("subscription.json", document.to_string());
    let made = shell.json(&["subscriptions", "create", &file]);
    let id = text(&made["id"]);
    let event = publish(&shell.server, &shell.token, 7);
    let printed = eventually("it is parked", || {
        let printed = shell.run(&["subscriptions", "parked", id], 0);
        (!printed.is_empty()).then_some(printed)
    });
    let parked: Value = serde_json::from_str(&printed).expect("one line");
    assert_eq!(
        (&parked["key"], &parked["eventId"]),
        (&json!("7"), &json!(event))
    );
    let release = ["subscriptions", "release", id, "--key", "7", "--drop-head"];
    let said = shell.json(&release);
    assert_eq!(
        (&said["released"], &said["headDropped"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(shell.run(&["subscriptions", "parked", id], 0), "");
    shell.run(&release, 1);
    let letter = shell.json(&["dlq", "list"]);
    assert_eq!(letter["eventId"], event.as_str());
    let neither = shell.command(&["dlq", "replay"]).output().expect("it runs");
    let says = String::from_utf8_lossy(&neither.stderr).into_owned();
    assert!(says.contains("--all"), "{says}");
}

#[test]
fn a_dead_letter_is_found_traced_and_sent_again() {
    let shell = Shell::start();
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let receiver = RawReceiver::at("127.0.0.1", move |stream, _| {
        let status = if is_well.load(Ordering::SeqCst) {
            "204 Fine"
        } else {
            "418 Teapot"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream
            .write_all(answer.as_bytes())
            .expect("the sender waits");
    });
    let made = shell.subscribe(&receiver.url);
    let subscription = text(&made["id"]);
    let given_up = |number| {
        let event = publish(&shell.server, &shell.token, number);
        let of = (event.as_str(), subscription);
        delivery(&shell.server, &shell.token, of, |one| {
            one["state"] == "gave-up"
        });
        event
    };
    let first = given_up(1);
    given_up(2);
    given_up(3);

    let trace = shell.run(&["events", "trace", &first, "-o", "table"], 0);
    assert!(
        trace.contains("418") && trace.contains("gave-up"),
        "{trace}"
    );
    assert_eq!(
        shell.json(&["events", "trace", &first])["event"]["eventId"],
        json!(first)
    );
    let list = |more: &[&str]| {
        let printed = shell.run(&[&["dlq", "list"], more].concat(), 0);
        let letters = printed
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        letters.collect::<Vec<Value>>()
    };
    let letters = list(&[
        "--type",
        "crm.contact.created",
        "--subscription",
        subscription,
    ]);
    assert_eq!(letters.len(), 3);
    assert_eq!(list(&["--error", "418", "--limit", "2"]).len(), 2);
    assert!(list(&["--type", "crm.contact.updated"]).is_empty());
    let letter = text(&letters[0]["id"]);
    assert_eq!(
        shell.json(&["dlq", "get", letter])["event"]["data"],
        json!({ "number": 1 })
    );
    shell.run(&["dlq", "replay"], 2);
    shell.run(
        &["dlq", "replay", letter, "--type", "crm.contact.created"],
        2,
    );
    shell.run(&["dlq", "replay", letter, "--rate", "5"], 2);
    assert_eq!(list(&["--type", "crm.**"]).len(), letters.len());
    assert!(list(&["--type", "crm.*"]).is_empty());
    shell.run(&["dlq", "list", "--type", "crm.**.created"], 1);
    assert_eq!(list(&["--state", "OPEN"]).len(), letters.len());
    assert_eq!(list(&["--limit", "1", "--all"]).len(), letters.len());

    well.store(true, Ordering::SeqCst);
    assert_eq!(shell.json(&["dlq", "replay", letter])["state"], "replaying");
    let messages = receiver.messages(4);
    assert_eq!(
        messages[3].header("webhook-id"),
        messages[0].header("webhook-id")
    );
    assert_eq!(messages[3].header("tidings-replayed"), Some("true"));
    let third = text(&letters[2]["id"]);
    assert_eq!(shell.json(&["dlq", "delete", third])["deleted"], true);
    let of_type = ["dlq", "replay", "--all", "--type", "crm.*.created"];
    assert_eq!(shell.json(&of_type)["delivered"], 1);
    receiver.messages(5);
    let of = (first.as_str(), subscription);
    delivery(&shell.server, &shell.token, of, |one| {
        one["state"] == "delivered"
    });
    let trace = shell.run(&["events", "trace", &first, "-o", "table"], 0);
    assert!(trace.contains("418") && trace.contains("204"), "{trace}");
}

#[test]
fn a_signature_is_made_and_verified_without_a_gateway() {
    let folder = Folder::new();
    let body = folder.path().join("body");
    std::fs::write(&body, br#"{"test": 2432232314}"#).expect("a file");
    let body = body.to_string_lossy().into_owned();
    let run = |arguments: &[&str], code: i32| {
        let ran = Command::new(BINARY)
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    };
    // The example of the specification.
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let named = ["--secret", secret, "--id", id, "--timestamp", "1614265330"];
    let with =
        |command: &'static str, more: &[&'static str]| [&[command], &named[..], more].concat();
    let body = &*Box::leak(body.into_boxed_str());
    let printed: Value = serde_json::from_str(&run(&with("sign", &[body]), 0)).expect("JSON");
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(printed["webhook-signature"], signature);
    let plain = run(&with("sign", &[body, "-o", "table"]), 0);
    assert!(
        plain.contains(&format!("webhook-signature: {signature}")),
        "{plain}"
    );

    let good = run(&with("verify", &["--signature", signature, body]), 0);
    assert!(good.contains("\"valid\":true"), "{good}");
    run(
        &with("verify", &["--signature", "v1,AAAA v1a,BBBB", body]),
        1,
    );
    let old = run(
        &with(
            "verify",
            &["--tolerance", "5m", "--signature", signature, body],
        ),
        1,
    );
    assert!(old.contains("time"), "{old}");
    run(
        &[
            "verify",
            "--secret",
            "x",
            "--id",
            id,
            "--timestamp",
            "1",
            "--signature",
            "v1,A",
            body,
        ],
        2,
    );
    run(&with("verify", &["--signature", signature, "/nowhere"]), 1);
}

#[test]
fn an_example_of_a_type_is_published() {
    let shell = Shell::start();
    let mut catalog = small("shop.order.placed");
    catalog["channels"]["one"]["messages"]["m"]["examples"] =
        json!([{ "payload": { "count": 7 } }]);
    apply(&shell.server, "small", &catalog.to_string());
    for (event_type, data, noted) in [
        ("shop.order.placed", json!({ "count": 7 }), false),
        ("crm.contact.created", json!({}), true),
    ] {
        let ran = shell
            .command(&["trigger", event_type])
            .output()
            .expect("it runs");
        assert!(ran.status.success(), "{ran:?}");
        let note = String::from_utf8_lossy(&ran.stderr).contains("no catalogue has an example");
        assert_eq!(note, noted, "{ran:?}");
        let receipt: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let event = shell.json(&["events", "get", text(&receipt["eventId"])]);
        assert_eq!(
            (&event["type"], &event["data"]),
            (&json!(event_type), &data)
        );
    }
    shell.run(&["trigger", "crm.contact.unknown"], 1);
}

/// Ends with the test.
struct Listening(Child);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn events_are_sent_to_the_machine_of_who_listens() {
    let shell = Shell::start();
    let receiver = RawReceiver::good("127.0.0.1");
    let beginning = publish(&shell.server, &shell.token, 0);
    let mut listening = shell.command(&["listen", "--forward-to", &receiver.url]);
    listening.args([
        "--types",
        "crm.contact.updated,crm.contact.cre*,crm.*.created",
    ]);
    shell.run(
        &["listen", "--forward-to", &receiver.url, "--types", "A"],
        2,
    );
    // A whole segment is what an asterisk stands for.
    let refused = listening.output().expect("it runs");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    let mut listening = shell.command(&["listen", "--forward-to", &receiver.url]);
    listening.args(["--types", "crm.contact.updated,crm.*.created"]);
    let child = listening.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut listening = Listening(child);
    let mut lines = BufReader::new(listening.0.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    let begun = next();
    assert_eq!(begun["forwardTo"], receiver.url);
    // It listens a little after it says so, and to what comes from then on.
    let mut number = 0;
    while receiver.count() == 0 {
        number += 1;
        publish(&shell.server, &shell.token, number);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let said = next();
    assert_eq!(
        (&said["status"], &said["type"]),
        (&json!(204), &json!("crm.contact.created"))
    );
    assert!(said["latencyMs"].is_u64(), "{said}");
    let message = &receiver.messages(1)[0];
    let header = |name: &str| message.header(name).expect(name);
    assert!(!header("webhook-id").starts_with(&beginning));
    assert_eq!(header("tidings-sequence"), "1");
    let event: Value = serde_json::from_slice(&message.body).expect("JSON");
    assert_eq!(event["specversion"], "1.0");
    assert!(
        event["data"]["number"].is_u64() && event["offset"].is_null(),
        "{event}"
    );
    // Every digit goes on.
    let data = r#"{"number":12345678901234567890.123456789}"#;
    shell.run(&["publish", "crm.contact.updated", data], 0);
    let written = |message: &Message| String::from_utf8_lossy(&message.body).contains(data);
    eventually("it is sent as it was written", || {
        let come = receiver.messages(receiver.count());
        come.iter().any(written).then_some(())
    });
    let file = shell.file("body", &message.body);
    let verify = [
        "verify",
        "--secret",
        text(&begun["secret"]),
        "--id",
        header("webhook-id"),
        "--timestamp",
        header("webhook-timestamp"),
        "--signature",
        header("webhook-signature"),
        "--tolerance",
        "5m",
        &file,
    ];
    shell.run(&verify, 0);
    assert_eq!(shell.run(&["subscriptions", "list"], 0), "", "none is made");
}

#[test]
fn what_a_quiet_tenant_feels_of_a_loud_one_is_measured() {
    let folder = Folder::new();
    let place = folder.path().to_string_lossy().into_owned();
    let ran = Command::new(BINARY)
        .args([
            "bench",
            "deliver",
            "--fairness",
            "--rate",
            "5",
            "--seconds",
            "1",
        ])
        .args(["--dir", &place])
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{error}");
    let text = String::from_utf8(ran.stdout).expect("text");
    let rows = text.lines().map(serde_json::from_str::<Value>);
    let rows: Vec<Value> = rows.collect::<Result<_, _>>().expect("a line of JSON each");
    let [alone, beside] = &rows[..] else {
        panic!("two rows: {text}");
    };
    for row in [alone, beside] {
        assert_eq!(row["events"], 5, "{text}");
        assert!(row["p99Ms"].as_f64() > Some(0.0), "{text}");
    }
    assert!(beside["ratio"].as_f64() > Some(0.0), "{text}");
    assert!(
        beside["loudDeliveriesPerSecond"].as_f64() > Some(0.0),
        "{text}"
    );
}

//! The command line: whom it speaks to, and what it leaves alone.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::catalogs::small;
use crate::events::Stream;
use crate::harness::{BINARY, Folder, ON_ITS_FOLDER, Server};
use crate::raw_receiver::{admin, subscribe};
use crate::receiver::eventually;

/// Lists modules, with these variables and flags and none of the caller's own.
fn modules(variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["modules", "list", "-o", "json"]).args(flags);
    for own in [
        "TIDINGS_URL",
        "TIDINGS_TOKEN",
        "TIDINGS_PROFILE",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(own);
    }
    command
        .envs(variables.iter().copied())
        .output()
        .expect("it runs")
}

#[test]
fn a_profile_names_address_and_credential_and_what_is_typed_wins() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let token = server.crm("acme");
    let home = Folder::new();
    let folder = home.path().join(".config/tidings");
    std::fs::create_dir_all(&folder).expect("a folder");
    let profiles = format!(
        "[here]\nurl = \"{url}\"\ntoken = \"{token}\"\n\n[elsewhere]\nurl = \"http://127.0.0.1:1\"\n\n\
         [address]\nurl = \"{url}\"\n"
    );
    std::fs::write(folder.join("profiles.toml"), profiles).expect("a file");
    let home = home.path().to_string_lossy().into_owned();

    let check = |variables: &[(&str, &str)], flags: &[&str], good: bool| {
        let variables = [&[("HOME", home.as_str())], variables].concat();
        let ran = modules(&variables, flags);
        let (out, err) = (
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr),
        );
        assert_eq!(ran.status.success(), good, "{variables:?} {flags:?}: {err}");
        assert_eq!(out.contains("\"crm\""), good, "{out}");
        err.into_owned()
    };
    check(&[], &["--profile", "here"], true);
    check(&[("TIDINGS_PROFILE", "here")], &[], true);
    check(
        &[("TIDINGS_TOKEN", &token)],
        &["--profile", "address"],
        true,
    );
    // A flag wins over a variable, the address over a profile, and a variable over a profile in a variable.
    let elsewhere = ("TIDINGS_URL", "http://127.0.0.1:1");
    check(&[elsewhere], &["--profile", "here"], true);
    check(&[("TIDINGS_PROFILE", "here"), elsewhere], &[], false);
    check(
        &[("TIDINGS_PROFILE", "elsewhere")],
        &["--profile", "here"],
        true,
    );
    check(
        &[],
        &["--profile", "elsewhere", "--url", &url, "--token", &token],
        true,
    );
    let unknown = check(&[], &["--profile", "nowhere"], false);
    assert!(unknown.contains("address, elsewhere, here"), "{unknown}");
    let absent = modules(&[("HOME", "/nonexistent")], &["--profile", "here"]);
    assert!(!absent.status.success());
    assert!(String::from_utf8_lossy(&absent.stderr).contains("profiles.toml"));
}

#[test]
fn a_catalogue_is_checked_applied_compared_and_written_down() {
    let server = Server::start();
    let folder = Folder::new();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file.to_string_lossy().into_owned()
    };
    let url = format!("http://{}", server.address);
    let operator = server.token(&["--role", "OPERATOR"]);
    let catalog = |arguments: &[&str], code: i32| {
        let mut command = Command::new(BINARY);
        command.arg("catalog").args(arguments).args(["-o", "json"]);
        command.env("TIDINGS_URL", &url);
        let ran = command.env("TIDINGS_TOKEN", &operator).output();
        let ran = ran.expect("it runs");
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    };
    let old = small("shop.order.placed").to_string();
    let good = write("good.json", &old);
    let wrong = write(
        "wrong.yaml",
        "asyncapi: 2.6.0\ninfo: {title: x}\nchannels: {}\n",
    );
    let mut new = small("shop.order.placed");
    new["channels"]["one"]["messages"]["m"]["payload"]["properties"]["count"]["type"] =
        "number".into();
    let new = write("new.json", &new.to_string());

    assert!(catalog(&["validate", &good], 0).contains("\"valid\":true"));
    let faults = catalog(&["validate", &wrong], 1);
    assert!(
        faults.contains("/asyncapi") && faults.contains("/info/version"),
        "{faults}"
    );
    assert!(catalog(&["apply", &good], 0).contains("\"name\":\"small\""));
    let loose = catalog(&["apply", &good, "--name", "loose", "--no-enforce"], 0);
    assert!(loose.contains("\"enforce\":false"), "{loose}");
    assert_eq!(catalog(&["list"], 0).lines().count(), 2);
    assert_eq!(catalog(&["get", "small"], 0).trim_end(), old);
    assert_eq!(catalog(&["diff", &good], 0), "");
    let broken = catalog(&["diff", &new], 1);
    assert!(
        broken.contains("\"path\":\"/count\"") && broken.contains("receivers"),
        "{broken}"
    );
    assert_eq!(catalog(&["diff", &new, "--against", &good], 1), broken);
    let written = catalog(&["docs", "small"], 0);
    assert!(
        written.contains("## shop.order.placed") && written.contains("`count`"),
        "{written}"
    );
    let out = folder.path().join("out.md");
    catalog(&["docs", &good, "--out", &out.to_string_lossy()], 0);
    assert_eq!(
        std::fs::read_to_string(out).expect("a file").trim_end(),
        written.trim_end()
    );
    catalog(&["delete", "loose"], 0);
    assert_eq!(catalog(&["list"], 0).lines().count(), 1);
    catalog(&["apply", &wrong], 1);
}

#[test]
fn a_doctor_takes_no_lock_where_there_is_none() {
    let server = Server::start_with(ON_ITS_FOLDER);
    let to = Folder::new();
    let copy = to.path().join("copy");
    let run = |arguments: &[&str], folder: &std::path::Path| {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .arg(folder)
            .output()
            .expect("it runs")
    };
    let data = server.folder.path().to_string_lossy().into_owned();
    let backup = run(&["backup", "--data", &data, "--to"], &copy);
    assert!(backup.status.success(), "{backup:?}");
    let doctor = run(&["doctor", "--data"], &copy);
    assert!(doctor.status.success(), "{doctor:?}");
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("bus.lock is not there"), "{said}");
    assert!(!copy.join("bus.lock").exists());
}

#[test]
fn a_configuration_is_shown_and_refused_if_serve_would_refuse_it() {
    let folder = Folder::new();
    let file = folder.path().join("tidings.toml");
    let config = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(BINARY);
        command.arg("config").arg("--config").arg(&file);
        command.output().expect("it runs")
    };
    let good = config("server.drain = '3s'\n");
    assert!(good.status.success(), "{good:?}");
    let bad = config("server.drain = '3s'\nserver.lissten = '127.0.0.1:0'\n");
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let open = config("server.drain = '3s'\nserver.listen = '0.0.0.0:8080'\n");
    assert_eq!(open.status.code(), Some(1), "{open:?}");
    let why = String::from_utf8_lossy(&open.stderr);
    assert!(why.contains("refusing to listen on 0.0.0.0:8080"), "{why}");
    for shown in [&good, &bad, &open] {
        let said = String::from_utf8_lossy(&shown.stdout);
        let mut keys = said
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let drain = json!({ "key": "server.drain", "value": "3s", "origin": "file" });
        assert!(keys.any(|one| one == drain), "{said}");
    }
    let why = String::from_utf8_lossy(&bad.stderr);
    assert!(why.contains("lissten"), "{why}");
}

/// Nothing was tried, so a script must not try again: its author has to look.
#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_is_wrong() {
    let folder = Folder::new();
    let data = folder.path().to_string_lossy().into_owned();
    for (arguments, said) in [
        (&["token"][..], "--tenant"),
        (
            &["token", "--tenant", "acme", "--service", "foo"],
            "--service",
        ),
        (
            &["token", "--tenant", "acme", "--service", "tidings"],
            "claim service",
        ),
        (
            &["token", "--role", "OPERATOR", "--module", "crm"],
            "more than one",
        ),
        (&["token", "--tenant", "acme", "--user", ""], "claim sub"),
        (&["token", "--tenant", "acme", "--ttl", "0s"], "--ttl"),
        (&["token", "--tenant", "acme", "--ttl", "1y"], "365d"),
        (&["serve", "--listen", "nonsense"], "--listen"),
        (&["serve", "--bus", "nonsense"], "--bus"),
        (&["serve", "--allow-target", "http://a"], "--allow-target"),
    ] {
        let mut command = Command::new(BINARY);
        let ran = command.args(arguments).args(["--data", &data]).output();
        let ran = ran.expect("it runs");
        let why = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}: {why}");
        assert!(why.contains(said) && !why.contains(".rs"), "{why}");
    }
    let made = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(made, 0, "no key is made for what is refused");
}

/// Where the streams of a command lead to a full disk, it ends as any other failure does.
#[test]
fn what_cannot_be_printed_is_no_panic() {
    let server = Server::start_with(ON_ITS_FOLDER);
    let data = server.folder.path().to_string_lossy().into_owned();
    let full = || std::fs::File::create("/dev/full").expect("it opens");
    let token = |data: &str| {
        let mut command = Command::new(BINARY);
        command.args(["token", "--tenant", "acme", "--data", data]);
        command
    };
    let printed = token(&data).args(["-o", "json"]).output().expect("it runs");
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert!(printed["token"].is_string(), "{printed}");
    let unprinted = token(&data).stdout(full()).status().expect("it runs");
    assert_eq!(unprinted.code(), Some(1));
    let untold = token("/does/not/exist").stderr(full()).status();
    assert_eq!(untold.expect("it runs").code(), Some(1));
}

#[test]
fn events_are_shown_with_every_digit_and_in_their_order() {
    let server = Server::start_with("egress.allow_targets = ['127.0.0.1']\n");
    server.declare("crm", &["crm.contact.created"]);
    let token = admin(&server, "acme");
    let url = format!("http://{}", server.address);
    let tidings = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        command
            .env("TIDINGS_URL", &url)
            .env("TIDINGS_TOKEN", &token);
        command
    };
    let run = |arguments: &[&str]| {
        let ran = tidings(arguments).output().expect("it runs");
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    };
    let once = json!({ "retry": { "schedule": [] } });
    subscribe(&server, &token, "http://127.0.0.1:9/", &once);
    let mut stream = Stream::open(&server, &token, None);
    run(&["publish", "crm.contact.created", "{}"]);
    let (before, _) = stream.next();

    let number = "12345678901234567890.123456789";
    let data = format!("{{\"zebra\": {number},\n \"ant\": [1.10, 18446744073709551616]}}");
    let line = format!(r#"{{"zebra":{number},"ant":[1.10,18446744073709551616]}}"#);
    let published = run(&["publish", "crm.contact.created", &data, "-o", "json"]);
    let receipt: Value = serde_json::from_str(&published).expect("JSON");
    let id = receipt["eventId"].as_str().expect("an id");

    let list = ["events", "list", "--cursor", &before];
    let trace = ["events", "trace", id];
    let explain = ["explain", "crm.contact.created", &data];
    for arguments in [&trace[..], &explain] {
        let json = run(&[arguments, &["-o", "json"]].concat());
        assert!(json.contains(&format!("\"data\":{line}")), "{json}");
        run(&[arguments, &["-o", "table"]].concat());
    }
    for arguments in [&["events", "get", id][..], &list] {
        let json = run(&[arguments, &["-o", "json"]].concat());
        assert!(json.contains(&format!("\"data\":{line}")), "{json}");
        assert_eq!(json.lines().count(), 1, "{json}");
        let table = run(&[arguments, &["-o", "table"]].concat());
        assert!(table.contains(&line), "{table}");
        let yaml = run(&[arguments, &["-o", "yaml"]].concat());
        let block = format!("zebra: {number}\n  ant:\n  - 1.10\n  - 18446744073709551616\n");
        assert!(yaml.contains(&block), "{yaml}");
    }

    eventually("a dead letter has it", || {
        let letters = server.dead_letters(&token, "open");
        let shown = |letter: &Value| run(&["dlq", "get", letter["id"].as_str().expect("an id")]);
        let mut shown = letters.iter().map(shown);
        shown.any(|letter| letter.contains(&line)).then_some(())
    });

    let trace = server.get(&format!("/v1/events/{id}/trace"), &token);
    let written = trace.expect(200).text();
    assert!(written.contains(&data), "{written}");
    let call = server.call("POST", "/v1/events/explain").bearer(&token);
    let call = call.header("Content-Type", "application/json");
    let explained = call.body(format!(r#"{{"type":"crm.contact.created","data":{data}}}"#));
    let explained = explained.send().expect(200).text();
    assert!(explained.contains(&data), "{explained}");

    let mut tail = tidings(&["tail", "-o", "json", "--since", &before]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut shown = String::new();
    let read = BufReader::new(tail.stdout.take().expect("piped")).read_line(&mut shown);
    tail.kill().expect("it runs until it is stopped");
    tail.wait().expect("it ends");
    assert!(read.is_ok() && shown.contains(&line), "{shown}");
}

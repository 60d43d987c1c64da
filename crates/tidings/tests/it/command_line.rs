//! The command line: whom it speaks to, and what it leaves alone.

use std::process::{Command, Output};

use crate::catalogs::small;
use crate::harness::{BINARY, Folder, ON_ITS_FOLDER, Server};

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

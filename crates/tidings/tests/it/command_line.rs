//! The command line: whom it speaks to, and what it leaves alone.

use std::process::{Command, Output};

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

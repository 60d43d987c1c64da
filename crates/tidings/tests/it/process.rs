//! The process as its supervisor sees it: what it may open, and that it ends when it is told to, at any time.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use crate::harness::{BINARY, Folder};

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 200 && exec \"$0\" \"$@\"", BINARY]);
    command.args(["serve", "--no-demo", "--listen", "127.0.0.1:0", "--data"]);
    let command = command.arg(folder.path()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    output.read_line(&mut String::new()).expect("a first line");
    let limits = format!("/proc/{}/limits", child.id());
    let limits = std::fs::read_to_string(limits).expect("they are told");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = line.expect("a line").split_whitespace().collect();
    let [.., soft, hard, _files] = numbers[..] else {
        panic!("{numbers:?}");
    };
    assert_eq!(soft, hard);
    terminate(&child);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn it_ends_cleanly_while_it_still_waits_for_its_database() {
    let folder = Folder::new();
    // It accepts, and never says a word.
    let database = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = database.local_addr().expect("its own");
    let mut command = Command::new(BINARY);
    command.args(["serve", "--no-demo", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(folder.path());
    command.env("TIDINGS_STORE__URL", format!("postgres://a@{address}/a"));
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let log = BufReader::new(child.stderr.take().expect("piped"));
    let mut lines = log.lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("waiting for the PostgreSQL")));
    terminate(&child);
    assert!(lines.any(|line| line.contains("stopped before it served")));
    assert!(child.wait().expect("it ends").success());
}

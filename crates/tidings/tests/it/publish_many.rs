//! Many events from standard input, through an outage of what takes them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::BINARY;

const TAKEN: &str = r#"{"eventId":"e","type":"a.b","topic":"t","partition":0,"offset":1}"#;

/// Answers a request, and gives its idempotency key and body.
fn answer(stream: TcpStream, status: &str, body: &str) -> (String, String) {
    let mut stream = BufReader::new(stream);
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a head");
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("idempotency-key: ") {
            value.clone_into(&mut key);
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut sent = vec![0; length];
    stream.read_exact(&mut sent).expect("a body");
    let answer = format!(
        "HTTP/1.1 {status}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answered = stream.get_mut().write_all(answer.as_bytes());
    answered.expect("it reads the answer");
    (key, String::from_utf8(sent).expect("text"))
}

#[test]
fn lines_wait_for_an_outage_to_pass_and_go_again_under_their_key() {
    let gateway = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", gateway.local_addr().expect("an address"));
    let serving = thread::spawn(move || {
        let away = r#"{"type":"t","title":"Away","status":503,"code":"events.broker.unavailable"}"#;
        let full = r#"{"type":"t","title":"Full","status":507,"code":"STORAGE_FULL"}"#;
        let answers = [
            ("503 Service Unavailable", away),
            ("507 Insufficient Storage", full),
            ("201 Created", TAKEN),
            ("201 Created", TAKEN),
        ];
        answers.map(|(status, body)| {
            let (stream, _) = gateway.accept().expect("a connection");
            answer(stream, status, body)
        })
    });
    let mut publishing = Command::new(BINARY)
        .args(["publish", "--concurrency", "1", "-o", "json", "--url", &url])
        .args(["--token", "tdk_any"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = "{\"type\":\"a.b\",\"data\":{\"n\":1}}\n{\"type\":\"a.b\",\"data\":{\"n\":2}}\n";
    let mut input = publishing.stdin.take().expect("an input");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let ended = publishing.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains(r#""published":2"#), "{said}");
    let asked = serving.join().expect("it has answered");
    assert_eq!(asked[0], asked[1]);
    assert_eq!(asked[1], asked[2]);
    assert!(
        asked[2].0 != asked[3].0 && asked[3].1.contains("\"n\":2"),
        "{asked:?}"
    );
}

#[test]
fn asked_to_stop_it_says_how_far_it_came() {
    let gateway = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", gateway.local_addr().expect("an address"));
    let mut publishing = Command::new(BINARY)
        .args(["publish", "--concurrency", "1", "-o", "json", "--url", &url])
        .args(["--token", "tdk_any"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = publishing.stdin.take().expect("an input");
    for n in 1..=3 {
        writeln!(input, r#"{{"type":"a.b","data":{{"n":{n}}}}}"#).expect("it reads");
    }
    let (first, _) = gateway.accept().expect("a connection");
    answer(first, "201 Created", TAKEN);
    let (second, _) = gateway.accept().expect("a connection");
    let pid = publishing.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill runs").success());
    let mut said = BufReader::new(publishing.stderr.take().expect("an output"));
    let mut line = String::new();
    said.read_line(&mut line).expect("text");
    assert!(line.contains("stopping"), "{line}");
    answer(second, "201 Created", TAKEN);
    // There may be more input at any time: it is not waited for.
    let ended = publishing.wait_with_output().expect("it ends");
    drop(input);
    said.read_line(&mut line).expect("text");
    assert!(line.contains("no line after 2 was sent"), "{line}");
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(told.contains(r#""published":2"#), "{told}");
}

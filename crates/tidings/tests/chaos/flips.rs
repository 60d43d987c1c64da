//! Corruption is reported, never served and never skipped: single flipped bits in every file of a
//! data folder, after a clean stop and after `kill -9`.
//!
//! One thing cannot be told: whether the last transactions of a WAL were damaged or torn by a crash
//! before they were whole. There, and only there, the newest changes may be missing.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::load::Load;
use crate::server::{Connection, Random, Server, rounds, token, token_of};

/// In each file of each folder, unless more rounds are asked for.
const FLIPS: u64 = 15;
const JSON: &str = "Content-Type: application/json\r\n";
const KEY: &str = "local-signing-key.pem";

/// Who asks for what.
struct Tokens {
    module: String,
    admin: String,
    operator: String,
    key: String,
    revoked: String,
}

/// Every answer to the questions that show what is kept, in order.
type Answers = Vec<(String, u16, Value)>;

#[test]
fn a_flipped_bit_after_a_clean_stop_is_reported_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut server, tokens) = filled(&data);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    in_an_event(folder.path(), &tokens);
    let flips = rounds(FLIPS);
    let files = [("bus.db", 3 * flips), ("store.db", 3 * flips), (KEY, flips)];
    flip(folder.path(), &tokens, &files);
}

#[test]
fn a_flipped_bit_after_kill_9_is_reported_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut server, tokens) = filled(&data);
    server.kill();
    let files = ["bus.db", "bus.db-wal", "store.db", "store.db-wal"];
    flip(
        folder.path(),
        &tokens,
        &files.map(|file| (file, rounds(FLIPS))),
    );
}

/// Where a bit is bound to matter: whoever reads that event is told, and the others are read.
fn in_an_event(folder: &Path, tokens: &Tokens) {
    let copy = folder.join("copy");
    copy_folder(&folder.join("data"), &copy);
    let file = copy.join("bus.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let value = br#"{"key":"w0-3"}"#;
    let mut places = bytes.windows(value.len());
    let at = places.position(|place| place == value).unwrap();
    bytes[at + 8] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let server = Server::start(&copy, &[]);
    let answers = answers(&server, tokens);
    let errors = answers.iter().filter(|(_, status, _)| *status == 500);
    let codes: Vec<&str> = errors.filter_map(|(_, _, code)| code.as_str()).collect();
    assert_eq!(codes, ["INTERNAL"], "{answers:?}");
    assert!(server.logs("offset"), "{}", server.log());
}

/// A server with manifests, API keys and events.
fn filled(data: &Path) -> (Server, Tokens) {
    let server = Server::start(data, &[]);
    let [operator, admin] = [
        ["--role", "OPERATOR"].as_slice(),
        &["--tenant", "acme", "--role", "ADMIN", "--user", "ada"],
    ]
    .map(|arguments| token_of(data, arguments));
    for module in ["crm", "shop", "billing-desk"] {
        let (path, body) = (
            manifest(module),
            json!({ "id": module, "version": "1.0.0" }),
        );
        let put = |body: &Value| ask(&server, &operator, "PUT", &path, &body.to_string());
        assert_eq!(put(&body).0, 200);
    }
    let made = ["ci", "old"].map(|name| {
        let body = json!({ "name": name, "scopes": ["events:read"] }).to_string();
        let (status, key) = ask(&server, &admin, "POST", "/v1/api-keys", &body);
        assert_eq!(status, 201, "{key}");
        key
    });
    let path = format!("/v1/api-keys/{}", made[1]["id"].as_str().unwrap());
    assert_eq!(ask(&server, &admin, "DELETE", &path, "").0, 204);
    let module = token(data);
    let mut load = Load::start(&server, &module);
    load.until_acknowledged(300);
    load.stop();
    let [key, revoked] = made.map(|key| key["key"].as_str().unwrap().to_owned());
    let tokens = Tokens {
        module,
        admin,
        operator,
        key,
        revoked,
    };
    (server, tokens)
}

fn manifest(module: &str) -> String {
    format!("/v1/modules/{module}/manifest")
}

fn ask(server: &Server, token: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut connection = Connection::open(&server.address, token).unwrap();
    let answer = connection.send(method, path, JSON, body).unwrap();
    (answer.status, answer.body)
}

/// Flips one bit after the other, each in a copy of the folder, and judges what becomes of it.
fn flip(folder: &Path, tokens: &Tokens, files: &[(&str, u64)]) {
    let (data, copy) = (folder.join("data"), folder.join("copy"));
    let mut random = Random::seeded("flips");
    copy_folder(&data, &copy);
    let before = answers(&Server::start(&copy, &[]), tokens);
    let good = |(_, status, _): &&(String, u16, Value)| *status == 200;
    assert_eq!(before.iter().filter(good).count(), before.len() - 1);
    for (file, flips) in files {
        let (mut reported, mut harmless, mut torn) = (0, 0, 0);
        for _ in 0..*flips {
            copy_folder(&data, &copy);
            let path = copy.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let tail = tail_of(file, &bytes);
            let at = place(&bytes, &mut random);
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, bytes).unwrap();
            let flip = format!("bit {bit} of byte {at} of {file}");
            let findings = doctor(&copy);
            let after = Server::try_start(&copy, &[]).map(|server| answers(&server, tokens));
            match after {
                Err(log) => {
                    let name = file.trim_end_matches("-wal");
                    let is_named = log.contains(name) || log.contains("the log is damaged: ");
                    let is_named = is_named || log.contains("the store");
                    assert!(is_named && findings.is_some(), "{flip}: {log} {findings:?}");
                    reported += 1;
                }
                Ok(after) if after == before => match findings {
                    Some(_) => reported += 1,
                    None => harmless += 1,
                },
                Ok(after) if at >= tail => {
                    assert!(is_older(&after, &before), "{flip}: {after:?}");
                    torn += 1;
                }
                Ok(after) => {
                    let wrong = wrong(&before, &after);
                    assert!(
                        wrong.is_empty() && findings.is_some(),
                        "{flip}: {wrong} {findings:?}"
                    );
                    reported += 1;
                }
            }
        }
        println!(
            "flips: {file}: {flips} bits, reported {reported}, without effect {harmless}, \
             like a torn end {torn}, served wrong 0"
        );
    }
}

/// Mostly where something is: a small database is zeros for the greater part.
fn place(bytes: &[u8], random: &mut Random) -> usize {
    let mut any = || usize::try_from(random.below(bytes.len() as u64)).unwrap();
    let places = [any(), any(), any(), any()];
    let filled = places.iter().find(|at| bytes[**at] != 0);
    *filled.unwrap_or(&places[0])
}

/// Where the last two transactions of a WAL begin; of any other file, its end.
fn tail_of(file: &str, bytes: &[u8]) -> usize {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    if !file.ends_with("-wal") {
        return bytes.len();
    }
    let frames = bytes[HEADER..].chunks_exact(FRAME).enumerate();
    let ours = frames.take_while(|(_, frame)| frame[8..16] == bytes[16..24]);
    let ends = ours.filter(|(_, frame)| frame[4..8] != [0; 4]);
    let ends: Vec<usize> = ends
        .map(|(index, _)| HEADER + (index + 1) * FRAME)
        .collect();
    assert!(ends.len() > 2, "{file} has {} transactions", ends.len());
    ends[ends.len() - 3]
}

fn answers(server: &Server, tokens: &Tokens) -> Answers {
    let mut answers = Answers::new();
    let mut note = |token: &str, path: &str| {
        let (status, body) = ask(server, token, "GET", path, "");
        let next = body["nextCursor"].as_str().map(str::to_owned);
        answers.push((path.to_owned(), status, body));
        next
    };
    note(&tokens.operator, "/v1/modules");
    for module in ["crm", "shop", "billing-desk", "demo"] {
        note(&tokens.operator, &manifest(module));
    }
    note(&tokens.admin, "/v1/api-keys");
    note(&tokens.key, "/v1/events?limit=1");
    note(&tokens.revoked, "/v1/events?limit=1");
    let mut path = "/v1/events?limit=100".to_owned();
    for _ in 0..20 {
        match note(&tokens.module, &path) {
            Some(cursor) => path = format!("/v1/events?limit=100&cursor={cursor}"),
            None => break,
        }
    }
    for (_, status, body) in &mut answers {
        // The rest of a refusal differs from one server to the next.
        if *status != 200 {
            *body = body["code"].take();
        }
    }
    answers
}

/// The answers that are neither right nor an error of ours.
fn wrong(before: &Answers, after: &Answers) -> String {
    let mut wrong = String::new();
    for (index, (path, status, body)) in after.iter().enumerate() {
        let mut known = before.iter().filter(|(known, ..)| known == path);
        let is_right = known
            .clone()
            .any(|(_, code, right)| (code, right) == (status, body));
        let is_begun = known.any(|(_, _, right)| begins(right, body));
        let is_named = after.get(index + 1).is_some_and(is_ours);
        let is_without = path == "/v1/modules" && known_items(before, path, body);
        let is_known = is_right || (is_begun && is_named) || is_without;
        if !is_known && !is_ours(&after[index]) {
            writeln!(wrong, "{path}: {status} {body}").unwrap();
        }
    }
    wrong
}

/// Whether a list holds nothing but what it held: what is damaged is left out, and `doctor` names it.
fn known_items(before: &Answers, list: &str, body: &Value) -> bool {
    let whole = before.iter().find(|(path, ..)| path == list);
    let whole = whole.and_then(|(_, _, body)| body["items"].as_array());
    let (Some(whole), Some(items)) = (whole, body["items"].as_array()) else {
        return false;
    };
    items.iter().all(|item| whole.contains(item))
}

fn is_ours((_, status, body): &(String, u16, Value)) -> bool {
    (*status, body.as_str()) == (500, Some("INTERNAL"))
}

/// Whether a page holds what a whole one begins with: it ends where something is damaged, which the next one says.
fn begins(whole: &Value, page: &Value) -> bool {
    let (Some(whole), Some(page)) = (whole["items"].as_array(), page["items"].as_array()) else {
        return false;
    };
    page.len() < whole.len() && whole.starts_with(page)
}

/// Whether nothing is told but what was told before: a few of the newest things may be missing.
fn is_older(after: &Answers, before: &Answers) -> bool {
    let items = |answers: &Answers, key: &str| -> Vec<Value> {
        let bodies = answers
            .iter()
            .filter_map(|(_, _, body)| body["items"].as_array());
        let items = bodies.flatten().filter(|item| item.get(key).is_some());
        items.cloned().collect()
    };
    let (old, new) = (items(after, "eventId"), items(before, "eventId"));
    old.iter().all(|event| new.contains(event))
}

/// What `doctor` says, if anything is damaged.
fn doctor(data: &Path) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["doctor", "--listen", "127.0.0.1:1", "--data"]);
    let output = command.arg(data).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let damaged = text.to_lowercase().contains("damaged");
    assert_eq!(output.status.success(), !damaged, "{text}");
    damaged.then_some(text)
}

fn copy_folder(from: &Path, to: &Path) {
    // There is none before the first copy.
    let _ = std::fs::remove_dir_all(to);
    let _ = std::fs::remove_file(to.with_extension("log"));
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

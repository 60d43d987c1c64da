//! Tidiness is a test: sizes, module docs, names, and which crate may use which.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The arrows of ARCHITECTURE.md: a crate and the own crates it may depend on.
const ARROWS: [(&str, &[&str]); 15] = [
    ("tidings-event", &[]),
    ("tidings-bus", &["tidings-event"]),
    ("tidings-store", &["tidings-event"]),
    (
        "tidings-receipts",
        &["tidings-bus", "tidings-event", "tidings-store"],
    ),
    ("tidings-client", &["tidings-event"]),
    ("tidings-egress", &[]),
    ("tidings-msk", &["tidings-egress"]),
    ("tidings-contract", &["tidings-event"]),
    ("tidings-filter", &["tidings-event"]),
    (
        "tidings-plugin",
        &["tidings-event", "tidings-plugin-macros"],
    ),
    ("tidings-plugin-macros", &[]),
    ("tidings-wasm", &["tidings-event", "tidings-plugin"]),
    (
        "tidings-gateway",
        &[
            "tidings-bus",
            "tidings-contract",
            "tidings-egress",
            "tidings-event",
            "tidings-filter",
            "tidings-plugin",
            "tidings-receipts",
            "tidings-store",
        ],
    ),
    (
        "tidings-http",
        &["tidings-bus", "tidings-event", "tidings-gateway"],
    ),
    (
        "tidings",
        &[
            "tidings-bus",
            "tidings-client",
            "tidings-contract",
            "tidings-egress",
            "tidings-event",
            "tidings-gateway",
            "tidings-http",
            "tidings-msk",
            "tidings-plugin",
            "tidings-receipts",
            "tidings-store",
            "tidings-wasm",
        ],
    ),
];

/// Outside crates that may be used in these crates only.
const CONFINED: [(&str, &[&str]); 12] = [
    ("rdkafka", &["tidings-bus"]),
    ("reqsign-aws-core", &["tidings-msk"]),
    ("jsonschema", &["tidings-contract"]),
    ("axum", &["tidings-http", "tidings"]),
    ("rusqlite", &["tidings-bus"]),
    ("sqlx", &["tidings-store"]),
    ("redis", &["tidings-receipts"]),
    ("jsonwebtoken", &["tidings-gateway"]),
    ("reqwest", &["tidings-client", "tidings-egress"]),
    ("figment", &["tidings"]),
    ("opentelemetry", &["tidings"]),
    ("wasmtime", &["tidings-wasm"]),
];

/// Longest file, in lines.
const MAX_LINES: usize = 600;

/// Names that say nothing about what is inside.
const DRAWERS: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "base",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn sources() -> Vec<PathBuf> {
    let (mut todo, mut found) = (vec![root().join("crates")], Vec::new());
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 30, "{} files", found.len());
    found
}

/// The names under `[dependencies]` of each crate.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let mut crates = BTreeMap::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let mut sections = manifest.split("\n[");
        let section = sections.find(|part| part.starts_with("dependencies]"));
        let lines = section.unwrap_or_default().lines().skip(1);
        let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
        let names: Vec<String> = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        crates.insert(name, names);
    }
    crates
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    let mut faults = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            faults.push(format!(
                "{}: {lines} lines, {MAX_LINES} is the limit",
                file.display()
            ));
        }
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            faults.push(format!("{}: begins without a module doc", file.display()));
        }
        if DRAWERS.contains(&&*file.file_stem().unwrap().to_string_lossy()) {
            faults.push(format!("{}: a drawer's name", file.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn crates_point_only_where_the_architecture_says() {
    let crates = dependencies();
    for (name, used) in &crates {
        let row = ARROWS.iter().find(|(from, _)| from == name);
        let (_, allowed) = row.unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        for own in used.iter().filter(|used| used.starts_with("tidings")) {
            assert!(
                allowed.contains(&own.as_str()),
                "{name} must not depend on {own}"
            );
        }
        for (confined, users) in CONFINED {
            let fine = users.contains(&name.as_str()) || !used.iter().any(|used| used == confined);
            assert!(fine, "{name} must not use {confined}; {users:?} may");
        }
    }
    assert_eq!(crates.len(), ARROWS.len());
}

#[test]
fn nothing_is_ignored_and_nothing_is_allowed_without_a_reason() {
    for file in sources().iter().filter(|file| !file.ends_with("tidy.rs")) {
        let text = fs::read_to_string(file).unwrap();
        for banned in ["#[ignore", "#[allow(", "todo!(", "unimplemented!("] {
            assert!(!text.contains(banned), "{} has {banned}", file.display());
        }
    }
}

//! The official JSON-Schema-Test-Suite, draft 2020-12, against the schemas of custom events.
//!
//! A schema that registration refuses is left out with the reason. All others must decide as the suite says; of the
//! optional cases, those that do not are listed too. The list is a file, so that a change of it is seen.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidings_contract::custom::Schema;

/// Formats are annotations to the suite, unless it is asked otherwise; here they are asserted.
const ASSERTED: &str = "format.json";

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/json-schema-test-suite")
}

fn files() -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![suite().join("draft2020-12")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                &mut folders
            } else {
                &mut files
            }
            .push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn every_case_within_the_caps_is_decided_as_the_suite_says() {
    let (mut list, mut wrong) = (String::new(), Vec::new());
    let (mut right, mut different, mut refused) = (0, 0, 0);
    for file in files() {
        let name = file.strip_prefix(suite().join("draft2020-12")).unwrap();
        let name = name.to_str().unwrap();
        let groups: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for group in &groups {
            let (title, tests) = (&group["description"], group["tests"].as_array().unwrap());
            let schema = match Schema::new(group["schema"].clone()) {
                Ok(schema) => schema,
                Err(refusal) => {
                    refused += tests.len();
                    let (code, count) = (refusal.code.as_str(), tests.len());
                    writeln!(list, "{name}: {title}: {count} left out: {code}: {refusal}").unwrap();
                    continue;
                }
            };
            for test in tests {
                let valid = schema.accepts(&test["data"]);
                let case = format!("{name}: {title}: {}", test["description"]);
                if Value::Bool(valid) == test["valid"] {
                    right += 1;
                } else if name == ASSERTED || name.starts_with("optional/") {
                    different += 1;
                    writeln!(list, "{case}: decided differently: valid is {valid} here").unwrap();
                } else {
                    wrong.push(case);
                }
            }
        }
    }
    writeln!(
        list,
        "{right} as the suite says, {different} differently, {refused} left out"
    )
    .unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let file = suite().join("left-out.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &list).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(list, known, "run with UPDATE=1 and look at the change");
}

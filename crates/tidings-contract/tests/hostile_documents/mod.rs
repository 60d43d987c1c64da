//! Schemas made to do harm, as texts: each is to be refused or handled within 50 ms and 10 MB.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What each is called, and its text.
pub(crate) fn documents() -> Vec<(&'static str, String)> {
    let nested = |times| format!("{}{{}}{}", "{\"allOf\":[".repeat(times), "]}".repeat(times));
    let values: Vec<String> = (0..100_000).map(|index| format!("value{index}")).collect();
    let within: &[String] = &values[..15_000];
    let properties: serde_json::Map<String, Value> = (0..10_000)
        .map(|index| (format!("p{index}"), json!({ "type": "string" })))
        .collect();
    vec![
        (
            "an exponential pattern",
            json!({ "pattern": "^(a+)+$" }).to_string(),
        ),
        (
            "a pattern of huge counts",
            json!({ "pattern": "a{1000}{1000}{1000}" }).to_string(),
        ),
        (
            "a pattern of large classes",
            json!({ "pattern": r"(\p{L}{100}){100}" }).to_string(),
        ),
        ("a pattern of a huge table", json!({ "pattern": "a[ab]{200}$" }).to_string()),
        (
            "a hundred patterns of large tables",
            json!({ "anyOf": (1..=100).map(|n| json!({ "pattern": format!(r"(\w|\p{{L}}){{{n}}}x") })).collect::<Vec<_>>() })
                .to_string(),
        ),
        (
            "100,000 open groups",
            json!({ "pattern": "(".repeat(100_000) }).to_string(),
        ),
        ("10,000 nested allOf", nested(10_000)),
        ("a reference to itself", json!({ "$ref": "#" }).to_string()),
        ("a ring of references", ring()),
        (
            "a reference to a file",
            json!({ "$ref": "file:///etc/passwd" }).to_string(),
        ),
        (
            "a reference to the network",
            json!({ "$ref": "http://127.0.0.1:1/x" }).to_string(),
        ),
        ("2^30 ways to evaluate", chain(30)),
        ("2^9 ways to evaluate", chain(9)),
        (
            "an enumeration of 1.2 MB",
            json!({ "enum": values }).to_string(),
        ),
        (
            "the largest enumeration",
            json!({ "enum": within }).to_string(),
        ),
        (
            "10,000 properties",
            json!({ "properties": properties }).to_string(),
        ),
        (
            "a prototype",
            r#"{"properties":{"__proto__":{},"":{}},"required":["__proto__",""]}"#.into(),
        ),
        (
            "duplicate members",
            r#"{"type":"string","type":"integer"}"#.into(),
        ),
    ]
}

fn ring() -> String {
    let own = |target: &str| json!({ "$ref": format!("#/$defs/{target}") });
    json!({ "$defs": { "a": own("b"), "b": { "items": own("a") } }, "$ref": "#/$defs/a" })
        .to_string()
}

/// Each definition asks for the next one twice.
fn chain(length: usize) -> String {
    let mut links = String::new();
    for index in 0..length {
        let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, index + 1);
        let written = write!(links, r#""d{index}":{{"anyOf":[{next},{next}]}},"#);
        written.expect("a text takes what is written");
    }
    format!(r##"{{"$defs":{{{links}"d{length}":{{"type":"string"}}}},"$ref":"#/$defs/d0"}}"##)
}

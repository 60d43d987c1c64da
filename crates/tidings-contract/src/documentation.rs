//! A catalogue as people read it: Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::catalog::{Catalog, Channel};
use crate::reference::resolve;

/// Members of members are listed so deep.
const DEPTH: usize = 4;
/// So many members of a topic are listed.
const MAX_ROWS: usize = 1_000;

/// The catalogue's topics: who sends them, who receives them, what their data holds, and examples.
pub fn documentation(catalog: &Catalog) -> String {
    let mut out = String::new();
    line(&mut out, &format!("# {}\n", plain(&catalog.title)));
    if let Some(text) = catalog.document.pointer("/info/description") {
        line(&mut out, &format!("{}\n", plain(&said(text))));
    }
    line(&mut out, &format!("Version {}.\n", plain(&catalog.version)));
    line(&mut out, "| topic | sender | receivers | |");
    line(&mut out, "| --- | --- | --- | --- |");
    for (event_type, channel) in &catalog.channels {
        let receivers = channel.receivers.join(", ");
        let row: [&str; 4] = [
            &format!("`{event_type}`"),
            channel.sender.as_deref().unwrap_or("any"),
            if receivers.is_empty() {
                "any"
            } else {
                &receivers
            },
            &channel.description,
        ];
        line(&mut out, &format!("| {} |", row.map(cell).join(" | ")));
    }
    for channel in catalog.channels.values() {
        topic(&mut out, catalog, channel);
    }
    out
}

fn topic(out: &mut String, catalog: &Catalog, channel: &Channel) {
    line(out, &format!("\n## {}\n", channel.event_type));
    if !channel.description.is_empty() {
        line(out, &format!("{}\n", plain(&channel.description)));
    }
    let mode = if channel.binary {
        "binary (`application/json`, attributes in headers)"
    } else {
        "structured (`application/cloudevents+json`)"
    };
    line(
        out,
        &format!("CloudEvents 1.0, {mode}; the key is the tenant.\n"),
    );
    let mut members = Members {
        schema: &channel.schema,
        rows: Vec::new(),
    };
    members.add(&channel.schema["allOf"][0], "", 0);
    if !members.rows.is_empty() {
        line(out, "| member of `data` | type | required | |");
        line(out, "| --- | --- | --- | --- |");
        for row in &members.rows {
            let required = if row.required { "yes" } else { "no" };
            let path = format!("`{}`", row.path);
            let cells: [&str; 4] = [&path, &row.kind, required, &row.description];
            line(out, &format!("| {} |", cells.map(cell).join(" | ")));
        }
    }
    for example in examples(&catalog.document, channel) {
        let text = serde_json::to_string_pretty(example).unwrap_or_default();
        line(out, &format!("\n```json\n{text}\n```"));
    }
}

struct Row {
    path: String,
    kind: String,
    required: bool,
    description: String,
}

struct Members<'s> {
    schema: &'s Value,
    rows: Vec<Row>,
}

impl Members<'_> {
    fn add(&mut self, value: &Value, prefix: &str, depth: usize) {
        let Some(value) = resolve(self.schema, value).filter(|_| !self.full(depth)) else {
            return;
        };
        for part in value["allOf"].as_array().into_iter().flatten() {
            self.add(part, prefix, depth + 1);
        }
        for (name, member) in value["properties"].as_object().into_iter().flatten() {
            let Some(member) = resolve(self.schema, member) else {
                continue;
            };
            let path = format!("{prefix}{name}");
            self.note(&path, member);
            self.add(member, &format!("{path}."), depth + 1);
            self.add(&member["items"], &format!("{path}[]."), depth + 1);
        }
        let required = value["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            let path = format!("{prefix}{name}");
            let mut rows = self.rows.iter_mut();
            if let Some(row) = rows.find(|row| row.path == path) {
                row.required = true;
            }
        }
    }

    fn full(&self, depth: usize) -> bool {
        depth == DEPTH || self.rows.len() == MAX_ROWS
    }

    /// What a later part says of a member goes before what an earlier one does.
    fn note(&mut self, path: &str, member: &Value) {
        let (kind, description) = (kind(member), said(&member["description"]));
        let mut rows = self.rows.iter_mut();
        if let Some(row) = rows.find(|row| row.path == path) {
            row.kind = kind;
            if !description.is_empty() {
                row.description = description;
            }
        } else if self.rows.len() < MAX_ROWS {
            self.rows.push(Row {
                path: path.to_owned(),
                kind,
                required: false,
                description,
            });
        }
    }
}

fn kind(schema: &Value) -> String {
    for keyword in ["enum", "const"] {
        match &schema[keyword] {
            Value::Null => {}
            Value::Array(values) => {
                let values: Vec<String> = values.iter().map(said).collect();
                return values.join(", ");
            }
            one => return said(one),
        }
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(said).collect::<Vec<_>>().join(" or "),
        Value::String(kind) => kind.clone(),
        _ => "any".to_owned(),
    };
    match schema["format"].as_str() {
        Some(format) => format!("{kind} ({format})"),
        None => kind,
    }
}

/// The payloads of the topic's examples.
fn examples<'d>(document: &'d Value, channel: &Channel) -> Vec<&'d Value> {
    let channels = document["channels"].as_object().into_iter().flatten();
    let mut address = channels.map(|(_, one)| one);
    let found = address.find(|one| one["address"] == channel.event_type.as_str());
    let messages = found.and_then(|one| one["messages"].as_object());
    let messages = messages.into_iter().flatten();
    let messages = messages.filter_map(|(_, message)| resolve(document, message));
    messages
        .flat_map(|message| message["examples"].as_array().into_iter().flatten())
        .filter_map(|example| example.get("payload"))
        .collect()
}

fn line(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Text that stays text: Markdown lets HTML through.
fn plain(text: &str) -> String {
    text.replace('<', "&lt;")
}

fn cell(text: &str) -> String {
    plain(text).replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_its_members_and_an_example() {
        for text in [
            include_str!("../../../examples/catalogs/cpaas.asyncapi.yaml"),
            include_str!("../../../examples/catalogs/marketplace.asyncapi.yaml"),
        ] {
            let catalog = Catalog::parse(text).unwrap();
            let written = documentation(&catalog);
            for (event_type, channel) in &catalog.channels {
                let section = written
                    .split("\n## ")
                    .find(|one| one.starts_with(&format!("{event_type}\n")));
                let section = section.unwrap();
                assert!(section.contains("| yes |"), "{section}");
                assert!(section.contains("```json"), "{section}");
                assert!(section.contains(&channel.description), "{section}");
            }
        }
    }

    #[test]
    fn text_of_a_document_stays_text() {
        assert_eq!(cell("a|b\n<script>"), "a\\|b &lt;script>");
    }
}

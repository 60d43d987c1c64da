//! What commands print: tables for people on a terminal, JSON lines for a pipe, YAML when asked for.
//! Results go to standard output and nothing else does; progress and faults go to standard error.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::config::colours_wanted;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line
    Json,
    /// YAML documents
    Yaml,
    /// Columns for people
    Table,
}

/// A list shows no more characters of a member; JSON and YAML have all of it.
const MAX_CELL: usize = 120;

/// A column: its heading, and the path of the member it shows, `data/name` for a nested one.
pub(crate) type Column = (&'static str, &'static str);

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    colours: bool,
}

impl Output {
    /// As asked for; otherwise a table on a terminal and JSON lines elsewhere.
    pub(crate) fn new(asked: Option<Format>) -> Self {
        let terminal = io::stdout().is_terminal();
        let otherwise = if terminal {
            Format::Table
        } else {
            Format::Json
        };
        Self {
            format: asked.unwrap_or(otherwise),
            colours: terminal && colours_wanted(),
        }
    }

    /// One thing.
    pub(crate) fn one(self, value: &Value) -> Result<()> {
        let text = match (self.format, value) {
            (Format::Table, Value::Object(members)) => {
                let mut table = columns();
                for (name, member) in members {
                    table.add_row([plain(name), cell(member)]);
                }
                table.trim_fmt()
            }
            _ => self.document(value),
        };
        print_line(&text)
    }

    /// A list of things; as a table with these columns.
    pub(crate) fn list(self, items: &[Value], shown: &[Column]) -> Result<()> {
        if self.format != Format::Table {
            return items.iter().try_for_each(|item| self.one(item));
        }
        if items.is_empty() {
            return print_line("none");
        }
        let mut table = columns();
        table.set_header(shown.iter().map(|(heading, _)| *heading));
        for item in items {
            table.add_row(shown.iter().map(|(_, path)| at(item, path)));
        }
        print_line(&table.trim_fmt())
    }

    /// The next thing of a list without end; in table form a line of these members.
    pub(crate) fn next(self, item: &Value, shown: &[Column]) -> Result<()> {
        match self.format {
            Format::Table => {
                let cells: Vec<String> = shown.iter().map(|(_, path)| at(item, path)).collect();
                print_line(&cells.join("  "))
            }
            _ => self.one(item),
        }
    }

    /// Text that says the same as the value; the value where a program reads.
    pub(crate) fn either(self, value: &Value, text: &str) -> Result<()> {
        match self.format {
            Format::Table => print_line(text),
            _ => self.one(value),
        }
    }

    fn document(self, value: &Value) -> String {
        match self.format {
            Format::Yaml => format!("---\n{}", yaml(value)),
            _ => value.to_string(),
        }
    }

    /// Green for what went well, red for what did not.
    pub(crate) fn verdict(self, good: bool, text: &str) -> String {
        paint(self.colours, if good { "32" } else { "31" }, text)
    }
}

/// With this SGR code where colours are on.
pub(crate) fn paint(colours: bool, code: &str, text: &str) -> String {
    if colours {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Without what could steer a terminal: the text may come from a publisher.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Not `println!`, which panics when the reader of the pipe has gone.
pub(crate) fn print_line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn columns() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        // An id that is broken over two lines cannot be copied.
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn at(item: &Value, path: &str) -> String {
    let found = path
        .split('/')
        .try_fold(item, |value, name| value.get(name));
    let text = found.map_or_else(String::new, cell);
    match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(items)
            if items
                .iter()
                .all(|item| !item.is_object() && !item.is_array()) =>
        {
            let cells: Vec<String> = items.iter().map(cell).collect();
            cells.join(", ")
        }
        other => plain(&other.to_string()),
    }
}

/// Block style; strings that could be taken for something else are quoted as in JSON, which YAML reads.
fn yaml(value: &Value) -> String {
    let mut lines = Vec::new();
    block(value, 0, &mut lines);
    lines.join("\n")
}

fn block(value: &Value, indent: usize, lines: &mut Vec<String>) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                let name = scalar(name);
                if is_block(member) {
                    lines.push(format!("{pad}{name}:"));
                    block(member, indent + 2, lines);
                } else {
                    lines.push(format!("{pad}{name}: {}", inline(member)));
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let first = lines.len();
                block(item, indent + 2, lines);
                lines[first].replace_range(indent..=indent, "-");
            }
        }
        other => lines.push(format!("{pad}{}", inline(other))),
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(harmless)
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if bare {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_says_what_json_says() {
        let check = |value: Value, expect: &str| assert_eq!(yaml(&value), expect);
        check(
            json!({"a": "b.c", "k": 1, "e": {}, "l": [], "n": true}),
            "a: b.c\ne: {}\nk: 1\nl: []\n\"n\": true",
        );
        check(
            json!({"a": {"b": [1, {"c": "x", "d": null}]}}),
            "a:\n  b:\n    - 1\n    - c: x\n      d: null",
        );
        check(json!([[1, 2]]), "- - 1\n  - 2");
        check(
            json!(["no", "1", "", "a: b", "#"]),
            "- \"no\"\n- \"1\"\n- \"\"\n- \"a: b\"\n- \"#\"",
        );
        check(
            json!({"two\nlines": "\u{1b}"}),
            "\"two\\nlines\": \"\\u001b\"",
        );
    }

    #[test]
    fn cells_show_nested_members_and_no_control_characters() {
        let item = json!({"data": {"name": "a\u{1b}[2Jb"}, "scopes": ["x", "y"], "none": null});
        let check = |path: &str, expect: &str| assert_eq!(at(&item, path), expect);
        check("data/name", "a\u{fffd}[2Jb");
        check("scopes", "x, y");
        check("none", "-");
        check("absent/deeper", "");
        let long = json!({ "data": "é".repeat(121) });
        assert_eq!(at(&long, "data"), "é".repeat(120) + "…");
        check("data", "{\"name\":\"a\\u001b[2Jb\"}");
    }

    #[test]
    fn colours_are_only_added_where_they_are_on() {
        assert_eq!(paint(false, "31", "x"), "x");
        assert_eq!(paint(true, "31", "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}

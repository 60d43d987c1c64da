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
            _ => self.document(value)?,
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

    fn document(self, value: &Value) -> Result<String> {
        match self.format {
            Format::Yaml => Ok(format!("---\n{}", yaml(value)?)),
            _ => Ok(value.to_string()),
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

/// Strings on one line each, escaped where they could steer a terminal.
fn yaml(value: &Value) -> Result<String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::json;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "(true|no|null|~|1e3|0x1|1_000|- a|a: b|#|2026-11-21|<<|\u{1b}\\[2J)"
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn yaml_says_what_json_says(value in any_value()) {
            let text = yaml(&value).unwrap();
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(read, value, "{}", text);
            let steers = |c: char| c.is_control() && c != '\n';
            prop_assert!(!text.contains(steers), "{:?}", text);
        }
    }

    #[test]
    fn yaml_is_in_block_style() {
        let text = yaml(&json!({"a": {"b": [1, {"c": "x", "d": null}]}, "l": []})).unwrap();
        assert_eq!(text, "a:\n  b:\n  - 1\n  - c: x\n    d: null\nl: []\n");
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

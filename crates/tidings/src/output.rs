//! What commands print: tables for people on a terminal, JSON lines for a pipe, YAML when asked for.
//! Results go to standard output and nothing else does; progress and faults go to standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::colours_wanted;
use crate::written::{Part, one_line, yaml};

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
    /// What was asked for with `-o`: some results are text unless somebody does.
    pub(crate) asked: Option<Format>,
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
            asked,
            colours: terminal && colours_wanted(),
        }
    }

    /// A list goes on behind what was shown of it: where. A program is told too, where it does not disturb the lines.
    pub(crate) fn more(self, cursor: &str) {
        if self.format == Format::Table {
            note(&format!("there may be more: --cursor {cursor}, or --all"));
        } else {
            note(&format!("next cursor: {cursor}"));
        }
    }

    /// One thing.
    pub(crate) fn one(self, value: &impl Serialize) -> Result<()> {
        let written = written(value)?;
        let text = match (self.format, Part::read(&written)?) {
            (Format::Table, Part::Members(members)) => {
                let mut table = columns();
                for (name, member) in members {
                    table.add_row([plain(&name), cell(member)?]);
                }
                table.trim_fmt()
            }
            (Format::Yaml, _) => format!("---\n{}", yaml(&written)?),
            _ => one_line(written.get()),
        };
        print_line(&text)
    }

    /// A list of things; as a table with these columns.
    pub(crate) fn list(self, items: &[impl Serialize], shown: &[Column]) -> Result<()> {
        if self.format != Format::Table {
            return items.iter().try_for_each(|item| self.one(item));
        }
        if items.is_empty() {
            return print_line("none");
        }
        let mut table = columns();
        table.set_header(shown.iter().map(|(heading, _)| *heading));
        for item in items {
            table.add_row(cells(&written(item)?, shown)?);
        }
        print_line(&table.trim_fmt())
    }

    /// The next thing of a list without end; in table form a line of these members.
    pub(crate) fn next(self, item: &impl Serialize, shown: &[Column]) -> Result<()> {
        match self.format {
            Format::Table => print_line(&cells(&written(item)?, shown)?.join("  ")),
            _ => self.one(item),
        }
    }

    /// Text that says the same as the value; the value where a program reads.
    pub(crate) fn either(self, value: &impl Serialize, text: &str) -> Result<()> {
        match self.format {
            Format::Table => print_line(text),
            _ => self.one(value),
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

/// A member as plain text; nothing if it is not there.
pub(crate) fn member(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// A line for the person, on standard error. Not `eprintln!`, which panics when nobody can be told: what a command does and
/// its exit code do not hang on that.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
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

/// The same bar, drawn by this template where standard error is a terminal. Of its keys, `rate` is what goes by in a second.
pub(crate) fn progress_bar(bar: ProgressBar, template: &str) -> ProgressBar {
    let rate = |state: &ProgressState, to: &mut dyn std::fmt::Write| {
        // What cannot be written here is not shown.
        let _ = write!(to, "{}", per_second(state.per_sec()));
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("rate", rate));
    }
    if io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// A rate as people read it.
fn per_second(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}/s")
    } else {
        format!("{rate:.0}/s")
    }
}

fn columns() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        // An id that is broken over two lines cannot be copied.
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn written(value: &impl Serialize) -> Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(value)?)
}

fn cells(item: &RawValue, shown: &[Column]) -> Result<Vec<String>> {
    shown.iter().map(|(_, path)| at(item, path)).collect()
}

fn at(item: &RawValue, path: &str) -> Result<String> {
    let mut found = item;
    for name in path.split('/') {
        let Part::Members(members) = Part::read(found)? else {
            return Ok(String::new());
        };
        let Some((_, value)) = members.into_iter().rev().find(|(other, _)| other == name) else {
            return Ok(String::new());
        };
        found = value;
    }
    let text = cell(found)?;
    Ok(match text.char_indices().nth(MAX_CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    })
}

fn cell(value: &RawValue) -> Result<String> {
    Ok(match Part::read(value)? {
        Part::Null => "-".to_owned(),
        Part::Text(text) => plain(&text),
        Part::Items(items) => {
            let simple = |item: &&RawValue| !item.get().starts_with(['{', '[']);
            if !items.iter().all(simple) {
                return Ok(plain(&one_line(value.get())));
            }
            let cells: Result<Vec<String>> = items.into_iter().map(cell).collect();
            cells?.join(", ")
        }
        _ => plain(&one_line(value.get())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn cells_show_nested_members_and_no_control_characters() {
        let item = json!({"data": {"name": "a\u{1b}[2Jb"}, "scopes": ["x", "y"], "none": null});
        let at = |item: &Value, path: &str| super::at(&written(item).unwrap(), path).unwrap();
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
    fn a_rate_is_rounded_for_people() {
        assert_eq!(per_second(0.993_7), "1.0/s");
        assert_eq!(per_second(0.26), "0.3/s");
        assert_eq!(per_second(1_203.444), "1203/s");
    }

    #[test]
    fn colours_are_only_added_where_they_are_on() {
        assert_eq!(paint(false, "31", "x"), "x");
        assert_eq!(paint(true, "31", "x"), "\u{1b}[31mx\u{1b}[0m");
    }
}

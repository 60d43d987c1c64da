//! What a person gives to publish: JSON on the command line, in a file, or a line of standard input each.

use std::io::{BufRead, Read as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use tidings_client::NewEvent;
use tidings_event::json;

use crate::failure::Usage;

/// Longer lines are refused unread; the gateway takes no larger event.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// An event as a line of input has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
struct Line {
    r#type: String,
    data: Box<RawValue>,
    schema_version: Option<String>,
    idempotency_key: Option<String>,
    /// As over the API: whose an event is, the credential says.
    #[serde(rename = "tenantId")]
    _tenant: Option<IgnoredAny>,
}

/// Reads the argument of this name: JSON itself, `@FILE`, or `-` for standard input.
pub(crate) fn data(argument: &str, name: &str) -> Result<Value> {
    read(argument, name)
}

/// The same, kept as it is written.
pub(crate) fn written(argument: &str, name: &str) -> Result<Box<RawValue>> {
    read(argument, name)
}

/// The text of a file, or of standard input if it is called `-`, with what it is to be called.
pub(crate) fn text(path: &Path) -> Result<(String, String)> {
    if path == Path::new("-") {
        standard_input()
    } else {
        file(path)
    }
}

fn standard_input() -> Result<(String, String)> {
    let text = std::io::read_to_string(std::io::stdin());
    let text = text.context("standard input cannot be read")?;
    Ok((text, "standard input".to_owned()))
}

fn file(path: &Path) -> Result<(String, String)> {
    if path.as_os_str().is_empty() {
        return Err(Usage("the name of a file follows '@'".to_owned()).into());
    }
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path);
    Ok((
        text.with_context(|| format!("{place} cannot be read"))?,
        place,
    ))
}

fn read<T: serde::de::DeserializeOwned>(argument: &str, name: &str) -> Result<T> {
    let mut advice = "";
    let (text, place) = if argument == "-" {
        standard_input()?
    } else if let Some(path) = argument.strip_prefix('@') {
        file(Path::new(path))?
    } else {
        advice = "; put it in single quotes, or name a file as @FILE";
        (argument.to_owned(), name.to_owned())
    };
    let parsed = serde_json::from_str(&text);
    let parsed = parsed.map_err(|error| Usage(format!("{place} is not JSON: {error}{advice}")))?;
    // The gateway would say so of a place in what the text is sent within.
    json::check(&text).map_err(|error| Usage(format!("{place} cannot be taken: {error}")))?;
    Ok(parsed)
}

/// Reads JSON from `FILE`, which may be written `@FILE` as elsewhere, or from standard input if it is called `-`.
pub(crate) fn document(file: &str) -> Result<Value> {
    if file == "-" || file.starts_with('@') {
        return data(file, "FILE");
    }
    data(&format!("@{file}"), "FILE")
}

/// Reads one line of bulk input.
pub(crate) fn event(line: &str) -> Result<NewEvent, String> {
    let wrong = |fault: String| {
        format!("it is not {{type, data, schemaVersion?, idempotencyKey?}}: {fault}")
    };
    // An array of the values in this order would be read as well.
    if line.trim_start().starts_with('[') {
        return Err(wrong("it is an array".to_owned()));
    }
    let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
    Ok(NewEvent {
        event_type: line.r#type,
        data: line.data,
        schema_version: line.schema_version,
        idempotency_key: line.idempotency_key,
    })
}

/// Hands each line with its number on, from 1, without empty ones, until the reader or the taker ends.
pub(crate) fn lines(
    mut from: impl BufRead,
    mut take: impl FnMut(u64, Result<String, String>) -> bool,
) {
    for number in 1.. {
        let mut line = Vec::new();
        let read = from
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line);
        let outcome = match read {
            Ok(0) => return,
            Ok(_) if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") => {
                let rest = from.skip_until(b'\n');
                rest.map_err(|error| format!("it cannot be read: {error}"))
                    .and_then(|_| Err(format!("it is longer than {MAX_LINE_BYTES} bytes")))
            }
            Ok(_) => String::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned()),
            Err(error) => {
                take(number, Err(format!("it cannot be read: {error}")));
                return;
            }
        };
        let empty = outcome.as_ref().is_ok_and(|line| line.trim().is_empty());
        if !empty && !take(number, outcome) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn data_comes_from_the_argument_or_a_file() {
        let data = |argument: &str| super::data(argument, "SCHEMA");
        assert_eq!(data(r#"{"a":1}"#).unwrap(), json!({"a": 1}));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.json");
        std::fs::write(&file, "[2]").unwrap();
        assert_eq!(data(&format!("@{}", file.display())).unwrap(), json!([2]));
        let error = data("{a}").unwrap_err();
        assert!(
            error.is::<Usage>() && error.to_string().contains("single quotes"),
            "{error}"
        );
        assert!(error.to_string().starts_with("SCHEMA is"), "{error}");
        for name in [file.display().to_string(), format!("@{}", file.display())] {
            assert_eq!(document(&name).unwrap(), json!([2]), "{name}");
        }
        assert!(data("@/does/not/exist").is_err());
        assert!(data("@").unwrap_err().is::<Usage>());
        let twice = written(r#"{"a":1,"a":2}"#, "DATA").unwrap_err();
        let place = format!("{twice}");
        assert!(
            twice.is::<Usage>() && place.starts_with("DATA ") && place.contains("called \"a\""),
            "{place}"
        );
    }

    #[test]
    fn a_line_is_an_event_and_nothing_else() {
        let data = r#"{"n":12345678901234567890123, "n":1.10}"#;
        let line = format!(
            r#"{{"type":"a.b","data":{data},"schemaVersion":"1.2.0","idempotencyKey":"k","tenantId":"a"}}"#
        );
        let one = event(&line).unwrap();
        assert_eq!(
            (one.event_type.as_str(), one.data.get()),
            ("a.b", data),
            "as it was written"
        );
        assert_eq!(one.schema_version.as_deref(), Some("1.2.0"));
        assert_eq!(one.idempotency_key.as_deref(), Some("k"));
        for bad in [
            "",
            "{}",
            r#"{"type":"a.b"}"#,
            r#"{"type":"a.b","data":{},"tenant":"x"}"#,
            r#"["a.b",{},"1.0.0","k"]"#,
        ] {
            assert!(event(bad).unwrap_err().contains("type, data"), "{bad}");
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_empty_ones_are_left_out() {
        let mut seen = Vec::new();
        lines(&b"a\n\n \r\nb"[..], |number, line| {
            seen.push((number, line.unwrap().trim().to_owned()));
            true
        });
        assert_eq!(seen, [(1, "a".to_owned()), (4, "b".to_owned())]);

        let long = vec![b'x'; usize::try_from(MAX_LINE_BYTES).unwrap() + 1];
        let mut faults = Vec::new();
        let input = [&long[..], b"\nb\n", &long].concat();
        lines(&input[..], |number, line| {
            faults.push((number, line.is_err()));
            true
        });
        assert_eq!(faults, [(1, true), (2, false), (3, true)]);
    }
}

//! The functions of the language (CESQL 1.0, section 3.5), by their names in upper case.

use std::borrow::Cow;

use super::value::{Evaluated, Fault, Kind, Value};

/// Whether there is a function of this name for so many arguments.
pub(super) fn exists(name: &str, arguments: usize) -> bool {
    match name {
        "INT" | "BOOL" | "STRING" | "IS_INT" | "IS_BOOL" | "ABS" | "LENGTH" | "LOWER" | "UPPER"
        | "TRIM" => arguments == 1,
        "LEFT" | "RIGHT" => arguments == 2,
        "SUBSTRING" => matches!(arguments, 2 | 3),
        "CONCAT" => true,
        "CONCAT_WS" => arguments > 0,
        _ => false,
    }
}

/// How many bytes of text a call looks at and makes, about.
pub(super) fn length(name: &str, arguments: &[Value<'_>]) -> usize {
    let all: usize = arguments.iter().map(Value::text_length).sum();
    match (name, arguments) {
        ("CONCAT_WS", [separator, values @ ..]) => {
            all + separator.text_length() * values.len().saturating_sub(1)
        }
        _ => all,
    }
}

pub(super) fn call<'a>(name: &str, arguments: &[Value<'a>]) -> Evaluated<'a> {
    match (name, arguments) {
        ("INT", [value]) => value.like(&Value::Integer(0)),
        ("BOOL", [value]) => value.like(&Value::Boolean(false)),
        ("STRING", [value]) => Ok(Value::Text(value.to_text())),
        ("IS_INT", [value]) => Ok(Value::Boolean(value.to_integer().is_ok())),
        ("IS_BOOL", [value]) => Ok(Value::Boolean(value.to_boolean().is_ok())),
        ("ABS", [value]) => absolute(integer(value)?),
        ("LENGTH", [value]) => {
            let length = i32::try_from(value.to_text().chars().count());
            Ok(Value::Integer(length.unwrap_or(i32::MAX)))
        }
        ("LOWER", [value]) => Ok(owned(value.to_text().to_lowercase())),
        ("UPPER", [value]) => Ok(owned(value.to_text().to_uppercase())),
        ("TRIM", [value]) => Ok(owned(value.to_text().trim().to_owned())),
        ("LEFT", [value, length]) => part(value, length, |text, length| {
            text.chars().take(length).collect()
        }),
        ("RIGHT", [value, length]) => part(value, length, |text, length| {
            let skipped = text.chars().count().saturating_sub(length);
            text.chars().skip(skipped).collect()
        }),
        ("SUBSTRING", [value, from]) => substring(&value.to_text(), integer(from)?, None),
        ("SUBSTRING", [value, from, length]) => {
            substring(&value.to_text(), integer(from)?, Some(integer(length)?))
        }
        ("CONCAT", values) => Ok(owned(joined(values, ""))),
        ("CONCAT_WS", [separator, values @ ..]) => Ok(owned(joined(values, &separator.to_text()))),
        _ => {
            let sentence = format!("there is no function {name}/{}", arguments.len());
            Err((
                Value::Boolean(false),
                Fault::new(Kind::MissingFunction, sentence),
            ))
        }
    }
}

fn owned<'a>(text: String) -> Value<'a> {
    Value::Text(Cow::Owned(text))
}

fn integer<'a>(value: &Value<'_>) -> Result<i32, (Value<'a>, Fault)> {
    let cast = value.to_integer();
    cast.map_err(|(number, fault)| (Value::Integer(number), fault))
}

fn absolute<'a>(number: i32) -> Evaluated<'a> {
    number.checked_abs().map(Value::Integer).ok_or_else(|| {
        let fault = Fault::new(Kind::Math, "the result does not fit into 32 bits");
        (Value::Integer(i32::MAX), fault)
    })
}

fn joined(values: &[Value<'_>], separator: &str) -> String {
    let texts: Vec<_> = values.iter().map(Value::to_text).collect();
    texts.join(separator)
}

fn part<'a>(
    value: &Value<'a>,
    length: &Value<'a>,
    take: impl FnOnce(&str, usize) -> String,
) -> Evaluated<'a> {
    let text = value.to_text();
    if let Ok(length) = usize::try_from(integer(length)?) {
        return Ok(owned(take(&text, length)));
    }
    let fault = Fault::new(Kind::FunctionEvaluation, "a length must not be negative");
    Err((Value::Text(text), fault))
}

/// Positions count from 1, negative ones from the end; 0 is no position and gives nothing.
fn substring<'a>(text: &str, from: i32, length: Option<i32>) -> Evaluated<'a> {
    let refused = |sentence: &str| {
        let fault = Fault::new(Kind::FunctionEvaluation, sentence);
        Err((owned(String::new()), fault))
    };
    let characters = text.chars().count();
    let distance = usize::try_from(from.unsigned_abs()).unwrap_or(usize::MAX);
    if distance > characters {
        return refused("the position lies outside the text");
    }
    let Ok(length) = usize::try_from(length.unwrap_or(i32::MAX)) else {
        return refused("a length must not be negative");
    };
    let skipped = match from {
        0 => return Ok(owned(String::new())),
        1.. => distance - 1,
        _ => characters - distance,
    };
    Ok(owned(text.chars().skip(skipped).take(length).collect()))
}

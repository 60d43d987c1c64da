//! JSON as it is written: no number is rounded and no member moves between a publisher's data and what is
//! printed of it.

use std::borrow::Cow;
use std::cell::RefCell;

use anyhow::Result;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A JSON value, read one level deep.
pub(crate) enum Part<'a> {
    Null,
    Bool(bool),
    /// As it is spelled.
    Number(&'a str),
    Text(Cow<'a, str>),
    Items(Vec<&'a RawValue>),
    /// In the order they are written in.
    Members(Vec<(Cow<'a, str>, &'a RawValue)>),
}

impl<'a> Part<'a> {
    pub(crate) fn read(value: &'a RawValue) -> serde_json::Result<Self> {
        let text = value.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't' | b'f') => Self::Bool(serde_json::from_str(text)?),
            Some(b'"') => Self::Text(serde_json::from_str::<Name<'_>>(text)?.0),
            Some(b'[') => Self::Items(serde_json::from_str(text)?),
            Some(b'{') => {
                Self::Members(serde_json::Deserializer::from_str(text).deserialize_map(InOrder)?)
            }
            _ => Self::Number(text),
        })
    }
}

/// Borrowed from the text unless it holds escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct InOrder;

impl<'a> Visitor<'a> for InOrder {
    type Value = Vec<(Cow<'a, str>, &'a RawValue)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            members.push((name, value));
        }
        Ok(members)
    }
}

/// The same text without the white space between its parts, which may hold line breaks.
pub(crate) fn one_line(json: &str) -> String {
    let (mut within, mut escaped) = (false, false);
    json.chars()
        .filter(|&c| {
            let kept = within || !c.is_ascii_whitespace();
            if c == '"' && !escaped {
                within = !within;
            }
            escaped = within && c == '\\' && !escaped;
            kept
        })
        .collect()
}

/// As YAML in block style: strings on one line each, escaped where they could steer a terminal, and numbers
/// with all their digits.
pub(crate) fn yaml(value: &RawValue) -> Result<String> {
    let numbers = Numbers {
        mark: format!("n{}n", Uuid::new_v4().simple()),
        spelled: RefCell::default(),
    };
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let marked = serde_saphyr::to_string_with_options(
        &Marked {
            value,
            to: &numbers,
        },
        options,
    )?;
    let mut parts = marked.split(&numbers.mark);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for (number, rest) in numbers.spelled.borrow().iter().zip(parts) {
        text.push_str(number);
        text.push_str(rest);
    }
    Ok(text)
}

/// The numbers that a serializer would round. It writes a mark in place of each, which nobody can write who
/// does not know it.
struct Numbers {
    mark: String,
    spelled: RefCell<Vec<String>>,
}

struct Marked<'a> {
    value: &'a RawValue,
    to: &'a Numbers,
}

impl Serialize for Marked<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let deeper = |value| Self { value, to: self.to };
        match Part::read(self.value).map_err(S::Error::custom)? {
            Part::Null => serializer.serialize_unit(),
            Part::Bool(value) => serializer.serialize_bool(value),
            Part::Text(text) => serializer.serialize_str(&text),
            Part::Items(items) => serializer.collect_seq(items.into_iter().map(deeper)),
            Part::Members(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(&*name, &deeper(value))?;
                }
                map.end()
            }
            Part::Number(number) => {
                self.to.spelled.borrow_mut().push(spelled(number));
                serializer.serialize_str(&self.to.mark)
            }
        }
    }
}

/// A JSON number as every YAML takes it for one: version 1.1 wants a point and a sign where there is an
/// exponent.
fn spelled(number: &str) -> String {
    let Some((digits, exponent)) = number.split_once(['e', 'E']) else {
        return number.to_owned();
    };
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) {
        ""
    } else {
        "+"
    };
    format!("{digits}{point}e{sign}{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn raw(text: &str) -> Box<RawValue> {
        serde_json::from_str(text).unwrap()
    }

    fn yaml(value: &Value) -> Result<String> {
        super::yaml(&raw(&value.to_string()))
    }

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

        #[test]
        fn a_line_says_what_its_text_says(value in any_value()) {
            let spread = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(one_line(&spread), value.to_string());
        }
    }

    #[test]
    fn yaml_is_in_block_style() {
        let text = yaml(&json!({"a": {"b": [1, {"c": "x", "d": null}]}, "l": []})).unwrap();
        assert_eq!(text, "a:\n  b:\n  - 1\n  - c: x\n    d: null\nl: []\n");
    }

    #[test]
    fn numbers_keep_their_digits_and_members_their_order() {
        let text =
            "{\"z\": [12345678901234567890.123456789, 1e400, -0.10],\n \"a\": {\"m\": 1E-7}}";
        let line = r#"{"z":[12345678901234567890.123456789,1e400,-0.10],"a":{"m":1E-7}}"#;
        assert_eq!(one_line(text), line);
        let expect = "z:\n- 12345678901234567890.123456789\n- 1.0e+400\n- -0.10\na:\n  m: 1.0e-7\n";
        assert_eq!(super::yaml(&raw(text)).unwrap(), expect);
    }
}

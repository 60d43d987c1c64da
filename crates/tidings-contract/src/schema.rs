//! A JSON Schema, compiled: draft 2020-12, with a regular-expression engine of linear time and without any
//! reference that leaves the document.

use std::sync::{Arc, OnceLock};

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{Draft, PatternOptions, Regex, ValidationError, ValidationOptions, Validator};
use serde_json::{Map, Value};

use crate::custom::effort::{Back, Effort, TooMuch, address, effort_of};
use crate::custom::patterns::{Patterns, wild};
use crate::ways::Places;

/// So many violations are reported; the rest would not help anybody.
const REPORTED: usize = 20;
/// So many bytes of what a schema or a name brings into a sentence are shown.
const SHOWN: usize = 500;

/// Ways through a schema times the parts of a value: what takes no more is held to it without a look at the effort before.
const FEW: usize = 1 << 20;
/// A regular expression may take as much as so many ways.
const WAYS_OF_PATTERN: usize = 1_000;
/// Beyond so many steps only the first violation is looked for: all are found before one is named, and each takes some 300
/// bytes.
const MOST_STEPS_FOR_ALL: usize = 20_000;
/// Where a validator would copy more bytes than this of the data, it is not asked what is wrong with it.
const MOST_COPIED: usize = 4 << 20;
/// A part of a value is so much of a text, in bytes.
const PART_BYTES: usize = 16;
/// A regular expression counts as if it took so much, compiled, where it takes more. In bytes.
const MOST_PATTERN: usize = 1 << 20;

/// A schema that data can be held to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Contract {
    compiled: Compiled,
    watched: Arc<Watched>,
}

/// A schema that data can be held to by whoever knows the effort.
#[derive(Debug, Clone)]
pub(crate) struct Compiled(Arc<Validator>);

/// What is needed to find the effort out.
#[derive(Debug)]
struct Watched {
    document: Arc<Value>,
    /// Made when they are first needed.
    patterns: OnceLock<Patterns>,
    /// The steps of its recursion.
    back: Back,
    /// A value of more parts than this may take long.
    parts: usize,
}

/// What is wrong with data, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where in the data, as a JSON Pointer (RFC 6901); empty for the whole.
    pub path: String,
    /// What the schema wants there.
    pub expected: String,
    /// What is there instead: its kind or its size, never the value.
    pub got: String,
    /// The same as a sentence.
    pub detail: String,
}

/// The schema cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} (at '{path}')")]
pub struct InvalidContract {
    /// Where in the schema, as a JSON Pointer.
    pub path: String,
    /// What is wrong there.
    pub detail: String,
}

impl Contract {
    /// Compiles a schema. Unknown formats are let through; known ones are checked.
    pub fn compile(schema: impl Into<Arc<Value>>) -> Result<Self, InvalidContract> {
        let schema = schema.into();
        Ok(Self {
            compiled: Compiled::new(&schema, PatternOptions::regex())?,
            watched: Arc::new(Watched::of(schema)),
        })
    }

    /// Whether the data fits. What would take too long to be held to the schema does not.
    pub fn accepts(&self, data: &Value) -> bool {
        self.watched.is_done_soon(data) && self.compiled.accepts(data)
    }

    /// What speaks against the data, 20 violations at most; nothing if it fits. The more there is to look at, the fewer
    /// violations are named.
    pub fn check(&self, data: &Value) -> Vec<Violation> {
        if !self.watched.is_done_soon(data) {
            return vec![too_much()];
        }
        if self.compiled.accepts(data) {
            return Vec::new();
        }
        match self.watched.effort(None, data) {
            Ok(effort) => self.compiled.violations(data, &effort),
            Err(TooMuch) => vec![too_large_to_say()],
        }
    }

    /// How many steps it takes to hold data to it, where that is not too much.
    pub(crate) fn steps(&self, data: &Value) -> Option<usize> {
        let effort = self.watched.effort(Some(&self.watched.back), data);
        effort.ok().map(|it| it.steps)
    }
}

impl Compiled {
    /// With each compiled regular expression held to a size.
    pub(crate) fn new(
        schema: &Value,
        patterns: PatternOptions<Regex>,
    ) -> Result<Self, InvalidContract> {
        let validator = options(patterns)
            .build(schema)
            .map_err(|error| InvalidContract {
                path: error.instance_path().to_string(),
                detail: clipped(error.to_string()),
            })?;
        Ok(Self(Arc::new(validator)))
    }

    pub(crate) fn accepts(&self, data: &Value) -> bool {
        self.0.is_valid(data)
    }

    /// What speaks against data that does not fit, as far as can be said with little more effort and memory than it took to
    /// find that out.
    pub(crate) fn violations(&self, data: &Value, effort: &Effort) -> Vec<Violation> {
        if effort.copied > MOST_COPIED {
            return vec![too_large_to_say()];
        }
        if effort.steps > MOST_STEPS_FOR_ALL {
            let first = self.0.validate(data).err();
            return first.iter().map(violation).collect();
        }
        let all = self.0.iter_errors(data).take(REPORTED);
        all.map(|error| violation(&error)).collect()
    }
}

impl Watched {
    fn of(document: Arc<Value>) -> Self {
        let places = Places::of(&document);
        let ways = places.ways();
        let step = |&(from, to): &(usize, usize)| {
            (address(places.schema(from)), address(places.schema(to)))
        };
        let back: Back = ways.back.iter().map(step).collect();
        let of_patterns = if patterns_in(&document).is_empty() {
            0
        } else {
            WAYS_OF_PATTERN
        };
        let parts = if back.is_empty() {
            FEW / ways.count.saturating_add(of_patterns)
        } else {
            0
        };
        Self {
            document,
            patterns: OnceLock::new(),
            back,
            parts,
        }
    }

    fn is_done_soon(&self, data: &Value) -> bool {
        !has_more_parts(data, self.parts) || self.effort(Some(&self.back), data).is_ok()
    }

    fn effort(&self, remembered: Option<&Back>, data: &Value) -> Result<Effort, TooMuch> {
        let patterns = self
            .patterns
            .get_or_init(|| wild(patterns_in(&self.document), MOST_PATTERN));
        effort_of(&self.document, patterns, remembered, data)
    }
}

/// Whatever may be a regular expression of a schema.
fn patterns_in(schema: &Value) -> Vec<&str> {
    let mut patterns = Vec::new();
    let mut waiting = vec![schema];
    while let Some(value) = waiting.pop() {
        if let Value::Object(members) = value {
            patterns.extend(members.get("pattern").and_then(Value::as_str));
            let named = members.get("patternProperties").and_then(Value::as_object);
            patterns.extend(named.into_iter().flat_map(Map::keys).map(String::as_str));
            waiting.extend(members.values());
        } else if let Value::Array(items) = value {
            waiting.extend(items);
        }
    }
    patterns
}

/// Whether a value has more parts than this: members, items and stretches of text.
fn has_more_parts(value: &Value, most: usize) -> bool {
    let mut parts = 0;
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        parts += 1;
        match value {
            Value::String(text) => parts += text.len() / PART_BYTES,
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => waiting.extend(members.values()),
            _ => {}
        }
        if parts > most {
            return true;
        }
    }
    false
}

/// What is said of data that nobody is to be kept waiting for.
pub(crate) fn too_much() -> Violation {
    Violation {
        path: String::new(),
        expected: "four million steps or fewer, and no more than 512 schemas within each other"
            .to_owned(),
        got: "more".to_owned(),
        detail: "it takes too many steps to hold this data to the schema: make one of them smaller"
            .to_owned(),
    }
}

fn too_large_to_say() -> Violation {
    Violation {
        path: String::new(),
        expected: "what the schema says".to_owned(),
        got: "something else".to_owned(),
        detail: "it does not fit the schema, and is too large to say where".to_owned(),
    }
}

/// How every schema is compiled.
pub(crate) fn options(patterns: PatternOptions<Regex>) -> ValidationOptions<'static> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        .offline()
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        path: error.instance_path().to_string(),
        expected: clipped(expected(error.kind())),
        got: got(error),
        // The value itself stays out: it may be secret, and it may be long.
        detail: clipped(error.masked_with("the value").to_string()),
    }
}

/// A constant or a list of choices may have any length.
fn clipped(mut text: String) -> String {
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push('…');
    }
    text
}

fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Type { kind } => match kind {
            TypeKind::Single(one) => one.to_string(),
            TypeKind::Multiple(types) => {
                let types: Vec<String> = types.iter().map(|one| one.to_string()).collect();
                types.join(" or ")
            }
        },
        Kind::Required { property } => format!("the member {property}"),
        Kind::Enum { options } => format!("one of {options}"),
        Kind::Constant { expected_value } => expected_value.to_string(),
        Kind::Minimum { limit } => format!("at least {limit}"),
        Kind::Maximum { limit } => format!("at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("less than {limit}"),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::MinItems { limit } => format!("at least {limit} items"),
        Kind::MaxItems { limit } => format!("at most {limit} items"),
        Kind::MinProperties { limit } => format!("at least {limit} members"),
        Kind::MaxProperties { limit } => format!("at most {limit} members"),
        Kind::Format { format } => format!("the format {format}"),
        Kind::Pattern { pattern } => format!("the pattern {pattern}"),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => {
            "no other members".to_owned()
        }
        Kind::FalseSchema => "nothing".to_owned(),
        Kind::UniqueItems => "distinct items".to_owned(),
        other => format!("what '{}' says", other.keyword()),
    }
}

fn got(error: &ValidationError<'_>) -> String {
    let value: &Value = error.instance();
    match (error.kind(), value) {
        (Kind::Required { .. }, _) => "nothing".to_owned(),
        (Kind::MinLength { .. } | Kind::MaxLength { .. }, Value::String(text)) => {
            format!("{} characters", text.chars().count())
        }
        (Kind::MinItems { .. } | Kind::MaxItems { .. }, Value::Array(items)) => {
            format!("{} items", items.len())
        }
        (Kind::MinProperties { .. } | Kind::MaxProperties { .. }, Value::Object(members)) => {
            format!("{} members", members.len())
        }
        _ => kind_of(value).to_owned(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_name_their_places_and_no_values() {
        let contract = Contract::compile(json!({
            "type": "object",
            "properties": { "card": { "type": "object", "properties": { "pin": { "type": "integer" } } } },
        }))
        .unwrap();
        let found = contract.check(&json!({ "card": { "pin": "s3cret" } }));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "/card/pin");
        assert!(!found[0].detail.contains("s3cret"), "{}", found[0].detail);
    }

    #[test]
    fn violations_say_what_was_expected_and_what_came() {
        let check = |schema: Value, data: Value, path: &str, expected: &str, got: &str| {
            let found = Contract::compile(schema).unwrap().check(&data);
            let one = &found[0];
            assert_eq!(
                (one.path.as_str(), one.expected.as_str(), one.got.as_str()),
                (path, expected, got)
            );
        };
        let member = |schema: Value| json!({ "properties": { "a/b": schema }, "required": ["id"] });
        let data = |value: Value| json!({ "id": 1, "a/b": value });
        let text = member(json!({ "type": "string", "maxLength": 2 }));
        check(text.clone(), data(json!(7)), "/a~1b", "string", "integer");
        let long = data(json!("abc"));
        check(
            text.clone(),
            long,
            "/a~1b",
            "at most 2 characters",
            "3 characters",
        );
        check(text, json!({}), "", "the member \"id\"", "nothing");
        let one_of = member(json!({ "enum": ["x", 1] }));
        check(
            one_of,
            data(json!(1.5)),
            "/a~1b",
            "one of [\"x\",1]",
            "number",
        );
        let few = json!({ "maxItems": 1, "type": ["array", "null"] });
        check(few.clone(), json!([1, 2]), "", "at most 1 items", "2 items");
        check(few, json!({}), "", "null or array", "object");
        let closed = json!({ "properties": { "a": {} }, "additionalProperties": false });
        check(
            closed,
            json!({ "secret": 1 }),
            "",
            "no other members",
            "object",
        );
        check(json!(false), json!(true), "", "nothing", "boolean");
    }

    #[test]
    fn no_sentence_repeats_a_long_constant_whole() {
        let contract = Contract::compile(json!({ "const": "ä".repeat(10_000) })).unwrap();
        let found = &contract.check(&json!(1))[0];
        assert!(
            found.expected.len() + found.detail.len() < 1_100,
            "{found:?}"
        );
        assert!(found.expected.ends_with('…'));
    }

    #[test]
    fn nothing_is_fetched() {
        for schema in [
            json!({ "$ref": "http://127.0.0.1:1/x.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "type": "nonsense" }),
            json!({ "pattern": "(" }),
        ] {
            assert!(Contract::compile(schema.clone()).is_err(), "{schema}");
        }
    }
}

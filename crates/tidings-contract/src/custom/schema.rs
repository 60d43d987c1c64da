//! A payload schema that holds the caps: its document, its hash, its dialect and its compiled validator.

use jsonschema::{PatternOptions, Regex, ValidatorMap};
use serde_json::Value;

use super::canonical::{canonical, schema_hash};
use super::effort::{TooMuch, effort};
use super::outline::outline;
use super::patterns::{Patterns, why_not, wild};
use super::refusal::quoted;
use super::{Code, Refusal};
use crate::Violation;
use crate::schema::{Compiled, options, too_much};

/// The largest schema, in bytes of its canonical form.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// The largest payload, in bytes as it was sent (source D).
pub const MAX_PAYLOAD_BYTES: usize = 256 << 10;
/// What all regular expressions of a schema may take together when compiled, in bytes.
const PATTERN_BYTES: usize = 8 << 20;
/// What a single one may take, in bytes.
const LARGEST_PATTERN: usize = 1 << 20;
/// Schemas with more places than this are judged without trying payloads on their parts.
const MOST_PARTS: usize = 500;
/// The same for schemas of more bytes than this.
const MOST_BYTES: usize = 64 << 10;

/// Which dialect a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// JSON Schema, draft 2020-12.
    JsonSchema202012,
    /// A component schema of OpenAPI 3.1: the same, with keywords of its own.
    OpenApi31,
}

impl Flavour {
    /// The word for it on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JsonSchema202012 => "json-schema-2020-12",
            Self::OpenApi31 => "openapi-3.1",
        }
    }
}

/// A schema that payloads can be held to. Cheap to clone, made to be shared between threads and kept in a cache:
/// what it takes is bounded by [`MAX_SCHEMA_BYTES`] and 8 MiB for its regular expressions.
#[derive(Debug, Clone)]
pub struct Schema {
    document: std::sync::Arc<Value>,
    compiled: Compiled,
    hash: String,
    flavour: Flavour,
    pattern_bytes: usize,
    /// Regular expressions that are not cheap.
    patterns: std::sync::Arc<Patterns>,
    schemas: usize,
    size: usize,
}

impl Schema {
    /// Reads a schema from its text: strict JSON, so without duplicate members.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let fault = |error: serde_json::Error| {
            let detail = format!("the schema is not JSON: {error}");
            Refusal::new(Code::InvalidJsonSchema, "", detail)
        };
        tidings_event::json::check(text).map_err(fault)?;
        Self::new(serde_json::from_str(text).map_err(fault)?)
    }

    /// Holds a schema to the caps and compiles it.
    pub fn new(document: Value) -> Result<Self, Refusal> {
        let outline = outline(&document)?;
        let size = canonical(&document).len();
        if size > MAX_SCHEMA_BYTES {
            let detail = format!("the schema has {size} bytes; {MAX_SCHEMA_BYTES} is the limit");
            let refusal = Refusal::new(Code::SchemaTooWide, "", detail);
            return Err(refusal.wanting(
                format!("at most {MAX_SCHEMA_BYTES} bytes"),
                format!("{size} bytes"),
            ));
        }
        let pattern_bytes = (PATTERN_BYTES / outline.patterns.len().max(1)).min(LARGEST_PATTERN);
        let compiled = Compiled::new(&bare(&document), engine(pattern_bytes));
        let compiled = compiled.map_err(|fault| {
            let pattern = outline
                .patterns
                .iter()
                .find(|(_, pattern)| !compiles(pattern, pattern_bytes));
            let Some((place, pattern)) = pattern else {
                let detail = format!("the schema is not valid: {}", fault.detail);
                return Refusal::new(Code::InvalidJsonSchema, fault.path, detail);
            };
            let (pattern, why) = (quoted(pattern), why_not(pattern, pattern_bytes));
            let detail = format!("the regular expression {pattern} cannot be used: {why}");
            Refusal::new(Code::InvalidJsonSchema, place.clone(), detail)
        })?;
        let patterns = outline.patterns.iter().map(|(_, it)| it.as_str());
        Ok(Self {
            patterns: std::sync::Arc::new(wild(patterns, pattern_bytes)),
            hash: schema_hash(&document),
            document: std::sync::Arc::new(document),
            compiled,
            flavour: outline.flavour,
            pattern_bytes,
            schemas: outline.schemas,
            size,
        })
    }

    /// The schema as it was given.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// The SHA-256 of its canonical form, as 64 lower-case hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Which dialect it is written in.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Whether a payload fits. One that it would take too long to find that out of does not.
    pub fn accepts(&self, payload: &Value) -> bool {
        self.tried(payload).0
    }

    /// The same, with the [`effort`](Self::effort) that it took.
    pub fn tried(&self, payload: &Value) -> (bool, Option<usize>) {
        let effort = self.effort(payload);
        (effort.is_some() && self.compiled.accepts(payload), effort)
    }

    /// Whether a payload of so many bytes may take more than a millisecond to be held to it.
    pub fn may_take_long(&self, bytes: usize) -> bool {
        let heavy = if self.patterns.is_empty() { 0 } else { 1_000 };
        (self.schemas + self.size / 64 + heavy).saturating_mul(bytes) > 1 << 20
    }

    /// About how many steps it takes to hold a payload to it, some 10 ns each; `None` where it is not done for anybody:
    /// beyond four million.
    pub fn effort(&self, payload: &Value) -> Option<usize> {
        let effort = effort(&self.document, &self.patterns, payload);
        effort.ok().map(|it| it.steps)
    }

    /// What speaks against a payload, 20 violations at most; nothing if it fits. Takes some milliseconds and megabytes at
    /// most, whatever the schema: the more there is to look at, the fewer violations are named.
    pub fn check(&self, payload: &Value) -> Vec<Violation> {
        match effort(&self.document, &self.patterns, payload) {
            Ok(_) if self.compiled.accepts(payload) => Vec::new(),
            Ok(effort) => self.compiled.violations(payload, &effort),
            Err(TooMuch) => vec![too_much()],
        }
    }

    /// The same as refusals, for a payload that is to be emitted.
    pub fn refusals(&self, payload: &Value) -> Vec<Refusal> {
        self.violations(payload, Code::PayloadInvalid)
    }

    pub(super) fn violations(&self, payload: &Value, code: Code) -> Vec<Refusal> {
        let refusal =
            |it: Violation| Refusal::new(code, it.path, it.detail).wanting(it.expected, it.got);
        self.check(payload).into_iter().map(refusal).collect()
    }

    /// A validator for each place where a schema stands, by its pointer; `None` where there would be too many.
    pub(super) fn parts(&self) -> Option<ValidatorMap> {
        if self.schemas > MOST_PARTS || self.size > MOST_BYTES {
            return None;
        }
        options(engine(self.pattern_bytes))
            .build_map(&bare(&self.document))
            .ok()
    }
}

fn engine(bytes: usize) -> PatternOptions<Regex> {
    PatternOptions::regex()
        .size_limit(bytes)
        .dfa_size_limit(bytes)
}

fn compiles(pattern: &str, bytes: usize) -> bool {
    Compiled::new(&serde_json::json!({ "pattern": pattern }), engine(bytes)).is_ok()
}

/// The schema as it is compiled: nothing in it leads to another document.
fn bare(document: &Value) -> Value {
    let mut bare = document.clone();
    if let Some(members) = bare.as_object_mut() {
        members.remove("$id");
        members.remove("$schema");
    }
    bare
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn openapi_is_known_by_its_own_keywords_where_a_schema_stands() {
        let flavour = |schema: Value| Schema::new(schema).unwrap().flavour().as_str();
        for (keyword, value) in [
            ("discriminator", json!({ "propertyName": "kind" })),
            ("example", json!(1)),
            ("externalDocs", json!({ "url": "https://a.example" })),
            ("xml", json!({ "name": "a" })),
        ] {
            assert_eq!(
                flavour(json!({ "items": { keyword: value.clone() } })),
                "openapi-3.1"
            );
            let property = json!({ "properties": { keyword: {} }, "const": { keyword: value } });
            assert_eq!(flavour(property), "json-schema-2020-12");
        }
        let dialect = "https://spec.openapis.org/oas/3.1/dialect/base";
        assert_eq!(flavour(json!({ "$schema": dialect })), "openapi-3.1");
        let dialect = "https://json-schema.org/draft/2020-12/schema";
        assert_eq!(
            flavour(json!({ "$schema": dialect, "$id": "https://a.example/b" })),
            "json-schema-2020-12"
        );
        let nullable = Schema::new(json!({ "type": "string", "nullable": true })).unwrap_err();
        assert!(
            nullable.detail.contains("type: [.., \"null\"]"),
            "{nullable}"
        );
    }

    #[test]
    fn what_names_the_schema_is_a_uri_without_a_fragment() {
        for id in ["https://a.example/b", "urn:b", "b#", ""] {
            Schema::new(json!({ "$id": id })).unwrap();
        }
        for id in [
            json!(5),
            json!(null),
            json!("#b"),
            json!("https://a.example/b#c"),
        ] {
            let refused = Schema::new(json!({ "$id": id })).unwrap_err();
            assert_eq!(refused.pointer, "/$id", "{refused}");
        }
        let refused = Schema::new(json!({ "$schema": 5 })).unwrap_err();
        assert_eq!(refused.pointer, "/$schema");
    }

    #[test]
    fn a_regular_expression_is_refused_for_what_is_wrong_with_it() {
        for (pattern, why) in [
            ("(", "unclosed group"),
            ("[a-", "unclosed character class"),
            ("a{3,1}", "invalid repetition count range"),
            ("(?=a)", "look-around"),
            ("(a)\\1", "backreferences are not supported"),
            ("(?:a{1000}){1000}", "it becomes too large"),
        ] {
            let refused = Schema::new(json!({ "pattern": pattern })).unwrap_err();
            let detail = &refused.detail;
            assert!(detail.contains(why), "{pattern}: {detail}");
        }
    }

    #[test]
    fn a_schema_is_shared_between_threads_and_says_what_is_wrong_with_a_payload() {
        fn shared<T: Send + Sync + Clone>(it: T) -> T {
            it
        }
        let items = json!({ "items": { "type": "string", "format": "date-time" } });
        let schema = shared(Schema::new(items).unwrap());
        let wrong: Vec<Value> = (0..100).map(Value::from).collect();
        let refusals = schema.refusals(&json!(wrong));
        assert_eq!(refusals.len(), 20);
        let first = &refusals[0];
        assert_eq!(
            (first.code, first.pointer.as_str()),
            (Code::PayloadInvalid, "/0")
        );
        assert_eq!(first.expected.as_deref(), Some("string"));
        assert_eq!(first.got.as_deref(), Some("integer"));
        assert!(!schema.accepts(&json!(["yesterday"])));
        assert_eq!(schema.refusals(&json!(["2026-05-04T10:00:00Z"])), []);
    }
}

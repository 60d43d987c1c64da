//! A JSON Schema, compiled: draft 2020-12, with a regular-expression engine of linear time and without any
//! reference that leaves the document.

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

/// So many violations are reported; the rest would not help anybody.
const REPORTED: usize = 20;

/// A schema that data can be held to.
#[derive(Debug, Clone)]
pub struct Contract(std::sync::Arc<Validator>);

/// What is wrong with data, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where in the data, as a JSON Pointer (RFC 6901); empty for the whole.
    pub path: String,
    /// What is wrong there.
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
    pub fn compile(schema: &Value) -> Result<Self, InvalidContract> {
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .should_ignore_unknown_formats(true)
            .offline();
        let validator = options.build(schema).map_err(|error| InvalidContract {
            path: error.instance_path().to_string(),
            detail: error.to_string(),
        })?;
        Ok(Self(std::sync::Arc::new(validator)))
    }

    /// Everything that speaks against the data; nothing if it fits.
    pub fn check(&self, data: &Value) -> Vec<Violation> {
        if self.0.is_valid(data) {
            return Vec::new();
        }
        let violations = self.0.iter_errors(data).take(REPORTED);
        violations.map(|error| violation(&error)).collect()
    }
}

fn violation(error: &ValidationError<'_>) -> Violation {
    Violation {
        path: error.instance_path().to_string(),
        // The value itself stays out: it may be secret, and it may be long.
        detail: error.masked_with("the value").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn violations_name_their_places_and_no_values() {
        let contract = Contract::compile(&json!({
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
    fn nothing_is_fetched() {
        for schema in [
            json!({ "$ref": "http://127.0.0.1:1/x.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "type": "nonsense" }),
            json!({ "pattern": "(" }),
        ] {
            assert!(Contract::compile(&schema).is_err(), "{schema}");
        }
    }
}

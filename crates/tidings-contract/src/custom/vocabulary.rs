//! The keywords of draft 2020-12: which hold schemas, and which say something about what is valid.

use serde_json::{Map, Value};

use crate::reference::escaped;

/// What a keyword's value is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// One schema.
    Schema,
    /// An array of schemas.
    Schemas,
    /// An object of schemas by name.
    Named,
    /// Something else.
    Values,
}

/// What a keyword holds.
pub(super) fn holds(keyword: &str) -> Holds {
    match keyword {
        "additionalProperties"
        | "contains"
        | "contentSchema"
        | "else"
        | "if"
        | "items"
        | "not"
        | "propertyNames"
        | "then"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Holds::Schema,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Holds::Schemas,
        "$defs" | "definitions" | "dependencies" | "dependentSchemas" | "patternProperties"
        | "properties" => Holds::Named,
        _ => Holds::Values,
    }
}

/// Whether a keyword decides what is valid. All others, unknown ones too, are annotations.
pub(crate) fn asserts(keyword: &str) -> bool {
    let holder = holds(keyword) != Holds::Values;
    let elsewhere = ["$defs", "contentSchema", "definitions"];
    (holder && !elsewhere.contains(&keyword)) || ASSERTING.contains(&keyword)
}

const ASSERTING: [&str; 22] = [
    "$ref",
    "const",
    "dependentRequired",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "type",
    "uniqueItems",
];

/// Whether a format decides what is valid. All others are annotations.
pub(super) fn asserts_format(format: &Value) -> bool {
    format.as_str().is_some_and(|name| FORMATS.contains(&name))
}

const FORMATS: [&str; 19] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "idn-email",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
];

/// The keywords whose schemas apply to the same value, and so can evaluate its members and items.
pub(crate) const IN_PLACE: [&str; 10] = [
    "$ref",
    "allOf",
    "anyOf",
    "dependencies",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "oneOf",
    "then",
];

/// The schemas directly inside a schema, each with its place relative to it.
pub(crate) fn subschemas(schema: &Map<String, Value>) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (keyword, value) in schema {
        match (holds(keyword), value) {
            (Holds::Schema, _) => found.push((format!("/{keyword}"), value)),
            (Holds::Schemas, Value::Array(parts)) => {
                let places = parts.iter().enumerate();
                found.extend(places.map(|(index, part)| (format!("/{keyword}/{index}"), part)));
            }
            (Holds::Named, Value::Object(parts)) => {
                let place = |name| format!("/{keyword}/{}", escaped(name));
                found.extend(parts.iter().map(|(name, part)| (place(name), part)));
            }
            _ => {}
        }
    }
    found
}

/// A copy of a schema without the annotations called so, wherever a schema stands; what merely looks like one (a
/// property of that name, a member of an enumeration) stays. The caller has bounded the depth.
pub(super) fn without(annotation: &str, schema: &Value) -> Value {
    let Value::Object(members) = schema else {
        return schema.clone();
    };
    let kept = members.iter().filter(|(keyword, _)| *keyword != annotation);
    let part = |part: &Value| without(annotation, part);
    let kept = kept.map(|(keyword, value)| {
        let value = match (holds(keyword), value) {
            (Holds::Schema, _) => part(value),
            (Holds::Schemas, Value::Array(parts)) => parts.iter().map(part).collect(),
            (Holds::Named, Value::Object(parts)) => Value::Object(
                parts
                    .iter()
                    .map(|(name, it)| (name.clone(), part(it)))
                    .collect(),
            ),
            _ => value.clone(),
        };
        (keyword.clone(), value)
    });
    Value::Object(kept.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::custom::Schema;

    #[test]
    fn formats_are_those_that_a_validator_knows() {
        let refuses = |format: &str| {
            let schema = Schema::new(json!({ "format": format })).unwrap();
            !schema.accepts(&json!("(% {"))
        };
        for format in FORMATS {
            assert!(refuses(format), "{format}");
        }
        for format in ["int32", "int64", "password", "byte", "phone", "color"] {
            assert!(!refuses(format), "{format}");
        }
    }
}

//! The kinds of JSON values a schema allows.

use std::fmt;

use serde_json::Value;

use super::equal;

/// A set of kinds. Whole numbers and others are two kinds, since `integer` is a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const NULL: Self = Self(1);
    pub(crate) const BOOLEAN: Self = Self(2);
    pub(crate) const INTEGER: Self = Self(4);
    pub(crate) const FRACTION: Self = Self(8);
    pub(crate) const NUMBER: Self = Self(4 | 8);
    pub(crate) const STRING: Self = Self(16);
    pub(crate) const ARRAY: Self = Self(32);
    pub(crate) const OBJECT: Self = Self(64);
    pub(crate) const ALL: Self = Self(127);
    const NONE: Self = Self(0);

    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::NULL,
            Value::Bool(_) => Self::BOOLEAN,
            Value::Number(number) => match number.as_f64() {
                Some(number) if number.fract() != 0.0 => Self::FRACTION,
                _ => Self::INTEGER,
            },
            Value::String(_) => Self::STRING,
            Value::Array(_) => Self::ARRAY,
            Value::Object(_) => Self::OBJECT,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "null" => Self::NULL,
            "boolean" => Self::BOOLEAN,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "string" => Self::STRING,
            "array" => Self::ARRAY,
            "object" => Self::OBJECT,
            _ => Self::NONE,
        }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(crate) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::NULL, "null"),
            (Self::BOOLEAN, "a boolean"),
            (Self::INTEGER, "a whole number"),
            (Self::FRACTION, "a number with a fraction"),
            (Self::STRING, "a string"),
            (Self::ARRAY, "an array"),
            (Self::OBJECT, "an object"),
        ];
        let names: Vec<&str> = names
            .iter()
            .filter(|(kind, _)| self.meets(*kind))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(" or "))
    }
}

/// The kinds that `type` allows.
pub(super) fn typed(schema: &Value) -> Kinds {
    match schema.get("type") {
        None if schema == &Value::Bool(false) => Kinds::NONE,
        Some(Value::String(name)) => Kinds::named(name),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str);
            names.fold(Kinds::NONE, |all, name| all.or(Kinds::named(name)))
        }
        _ => Kinds::ALL,
    }
}

/// The kinds that a schema allows, as far as its own `type`, `const` and `enum` say.
pub(crate) fn kinds(schema: &Value) -> Kinds {
    let mut all = typed(schema);
    if let Some(value) = schema.get("const") {
        all = all.and(Kinds::of(value));
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        let values = values.iter().map(Kinds::of);
        all = all.and(values.fold(Kinds::NONE, Kinds::or));
    }
    all
}

/// Whether the schema's own `type`, `const` and `enum` allow a value.
pub(super) fn allows(schema: &Value, value: &Value) -> bool {
    let is_const = schema.get("const").is_none_or(|only| equal(only, value));
    let values = schema.get("enum").and_then(Value::as_array);
    let is_listed = values.is_none_or(|values| values.iter().any(|one| equal(one, value)));
    typed(schema).contains(Kinds::of(value)) && is_const && is_listed
}

//! Matches on a member of the data: a JSON pointer (RFC 6901) and what must hold for the value there.

use std::cmp::Ordering;

use serde_json::Value;

use crate::filter::{InvalidFilter, MAX_CLAUSES, Unmet};
use crate::subject::Subject;

/// Operators on one pointer. All must hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DataMatch {
    pointer: String,
    operators: Vec<Operator>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operator {
    Eq(Value),
    Ne(Value),
    /// `gt`, `gte`, `lt`, `lte`: numbers with numbers, texts with texts.
    Ordered(Order, Value),
    In(Vec<Value>),
    Exists(bool),
    Prefix(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl DataMatch {
    pub(crate) fn parse(document: &Value, path: &str) -> Result<Self, InvalidFilter> {
        let members = document
            .as_object()
            .ok_or_else(|| InvalidFilter::at(path, "it must be an object"))?;
        let pointer = members.get("pointer").and_then(Value::as_str);
        let pointer = pointer.filter(|text| is_pointer(text)).ok_or_else(|| {
            let reason = "it must be a JSON pointer such as /order/amount";
            InvalidFilter::at(format!("{path}.pointer"), reason)
        })?;
        let operators = members.iter().filter(|(name, _)| *name != "pointer");
        let operators = operators.map(|(name, value)| Operator::parse(name, value, path));
        let operators: Vec<_> = operators.collect::<Result<_, _>>()?;
        if operators.is_empty() {
            let reason = "an operator is missing: eq, ne, gt, gte, lt, lte, in, exists or prefix";
            return Err(InvalidFilter::at(path, reason));
        }
        Ok(Self {
            pointer: pointer.to_owned(),
            operators,
        })
    }

    pub(crate) fn holds(&self, subject: &Subject<'_>) -> bool {
        let value = self.value(subject);
        self.operators.iter().all(|operator| operator.holds(value))
    }

    pub(crate) fn judge(&self, subject: &Subject<'_>, path: &str) -> Result<(), Unmet> {
        let value = self.value(subject);
        match self
            .operators
            .iter()
            .find(|operator| !operator.holds(value))
        {
            None => Ok(()),
            Some(operator) => {
                let got = value.map_or_else(|| "nothing there".to_owned(), clipped);
                let path = format!("{path}.{}", operator.name());
                Err(Unmet::at(path, operator.wanted(), got))
            }
        }
    }

    fn value<'a>(&self, subject: &'a Subject<'_>) -> Option<&'a Value> {
        subject.data()?.pointer(&self.pointer)
    }
}

/// A value for people: the first characters of it.
fn clipped(value: &Value) -> String {
    const LONGEST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Whether a text is a JSON pointer (RFC 6901) of at most 1,024 bytes.
pub fn is_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/'))
        && text.len() <= 1_024
        && text
            .split('~')
            .skip(1)
            .all(|after| after.starts_with(['0', '1']))
}

impl Operator {
    fn parse(name: &str, value: &Value, path: &str) -> Result<Self, InvalidFilter> {
        let at = |reason: &str| InvalidFilter::at(format!("{path}.{name}"), reason);
        let ordered = |order| match value {
            Value::Number(_) | Value::String(_) => Ok(Self::Ordered(order, value.clone())),
            _ => Err(at("it must be a number or text")),
        };
        match (name, value) {
            ("eq", _) => Ok(Self::Eq(value.clone())),
            ("ne", _) => Ok(Self::Ne(value.clone())),
            ("gt", _) => ordered(Order::Gt),
            ("gte", _) => ordered(Order::Gte),
            ("lt", _) => ordered(Order::Lt),
            ("lte", _) => ordered(Order::Lte),
            ("in", Value::Array(values)) if (1..=MAX_CLAUSES).contains(&values.len()) => {
                Ok(Self::In(values.clone()))
            }
            ("in", _) => Err(at("it must be a list of 1 to 100 values")),
            ("exists", Value::Bool(wanted)) => Ok(Self::Exists(*wanted)),
            ("exists", _) => Err(at("it must be true or false")),
            ("prefix", Value::String(text)) => Ok(Self::Prefix(text.clone())),
            ("prefix", _) => Err(at("it must be text")),
            _ => Err(at(
                "there is no such operator; use eq, ne, gt, gte, lt, lte, in, exists or prefix",
            )),
        }
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Exists(wanted), value) => value.is_some() == *wanted,
            // What is not there is not equal to anything.
            (Self::Ne(_), None) => true,
            (_, None) => false,
            (Self::Eq(wanted), Some(value)) => same(value, wanted),
            (Self::Ne(wanted), Some(value)) => !same(value, wanted),
            (Self::In(wanted), Some(value)) => wanted.iter().any(|wanted| same(value, wanted)),
            (Self::Prefix(wanted), Some(value)) => {
                value.as_str().is_some_and(|text| text.starts_with(wanted))
            }
            (Self::Ordered(order, wanted), Some(value)) => {
                compare(value, wanted).is_some_and(|it| match order {
                    Order::Gt => it == Ordering::Greater,
                    Order::Gte => it != Ordering::Less,
                    Order::Lt => it == Ordering::Less,
                    Order::Lte => it != Ordering::Greater,
                })
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Eq(_) => "eq",
            Self::Ne(_) => "ne",
            Self::Ordered(Order::Gt, _) => "gt",
            Self::Ordered(Order::Gte, _) => "gte",
            Self::Ordered(Order::Lt, _) => "lt",
            Self::Ordered(Order::Lte, _) => "lte",
            Self::In(_) => "in",
            Self::Exists(_) => "exists",
            Self::Prefix(_) => "prefix",
        }
    }

    fn wanted(&self) -> String {
        match self {
            Self::Eq(value) | Self::Ordered(_, value) => clipped(value),
            Self::Ne(value) => format!("not {}", clipped(value)),
            Self::In(values) => clipped(&Value::Array(values.clone())),
            Self::Exists(wanted) => wanted.to_string(),
            Self::Prefix(text) => clipped(&Value::String(text.clone())),
        }
    }
}

/// JSON equality, where 1 and 1.0 are the same number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(_), Value::Number(_)) => compare(one, other) == Some(Ordering::Equal),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Whole numbers are compared exactly, others as 64-bit floating point; texts by code point.
fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let whole = |number: &serde_json::Number| {
                let signed = number.as_i64().map(i128::from);
                signed.or_else(|| number.as_u64().map(i128::from))
            };
            match (whole(one), whole(other)) {
                (Some(one), Some(other)) => Some(one.cmp(&other)),
                _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
            }
        }
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

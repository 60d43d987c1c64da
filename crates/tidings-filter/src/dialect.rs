//! The filter dialects of the CloudEvents Subscriptions API: `exact`, `prefix`, `suffix`, `all`, `any`,
//! `not` and `sql`.

use serde_json::{Map, Value};

use crate::cesql::{Effort, Expression};
use crate::filter::{InvalidFilter, MAX_CLAUSES, Unmet};
use crate::subject::Subject;

/// How deep `all`, `any` and `not` may lie in each other.
const MAX_DEPTH: usize = 16;

/// One filter expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dialect {
    /// Attributes that are compared as text, with the way they are.
    Text(Comparison, Vec<(String, String)>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Sql(Expression),
}

/// How attribute and text are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Exact,
    Prefix,
    Suffix,
}

impl Comparison {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Prefix => "prefix",
            Self::Suffix => "suffix",
        }
    }

    fn holds(self, value: &str, wanted: &str) -> bool {
        match self {
            Self::Exact => value == wanted,
            Self::Prefix => value.starts_with(wanted),
            Self::Suffix => value.ends_with(wanted),
        }
    }
}

impl Dialect {
    pub(crate) fn parse(document: &Value, path: &str, depth: usize) -> Result<Self, InvalidFilter> {
        let one = document
            .as_object()
            .filter(|members| members.len() == 1)
            .and_then(|members| members.iter().next());
        let Some((name, value)) = one else {
            let reason = "it must be an object with one member, the dialect";
            return Err(InvalidFilter::at(path, reason));
        };
        let path = format!("{path}.{name}");
        if depth == MAX_DEPTH {
            let reason = format!("dialects may lie {MAX_DEPTH} deep at most");
            return Err(InvalidFilter::at(path, reason));
        }
        match name.as_str() {
            "exact" => compared(Comparison::Exact, value, &path),
            "prefix" => compared(Comparison::Prefix, value, &path),
            "suffix" => compared(Comparison::Suffix, value, &path),
            "all" => nested(value, &path, depth).map(Self::All),
            "any" => nested(value, &path, depth).map(Self::Any),
            "not" => Self::parse(value, &path, depth + 1).map(|inner| Self::Not(Box::new(inner))),
            "sql" => {
                let text = value
                    .as_str()
                    .ok_or_else(|| InvalidFilter::at(&path, "it must be a CESQL expression"))?;
                let expression = Expression::parse(text)
                    .map_err(|error| InvalidFilter::at(&path, error.to_string()))?;
                match expression.unknown_function() {
                    Some(call) => Err(InvalidFilter::at(
                        path,
                        format!("there is no function {call}"),
                    )),
                    None => Ok(Self::Sql(expression)),
                }
            }
            _ => {
                let reason =
                    "there is no such dialect; use exact, prefix, suffix, all, any, not or sql";
                Err(InvalidFilter::at(path, reason))
            }
        }
    }

    pub(crate) fn holds(&self, subject: &Subject<'_>, effort: &Effort) -> bool {
        match self {
            Self::Text(comparison, wanted) => wanted.iter().all(|(name, wanted)| {
                let value = subject.attribute(name);
                value.is_some_and(|value| comparison.holds(&value.to_text(), wanted))
            }),
            Self::All(inner) => inner.iter().all(|inner| inner.holds(subject, effort)),
            Self::Any(inner) => inner.iter().any(|inner| inner.holds(subject, effort)),
            Self::Not(inner) => !inner.holds(subject, effort),
            Self::Sql(expression) => expression.holds(subject, effort).unwrap_or(false),
        }
    }

    pub(crate) fn judge(
        &self,
        subject: &Subject<'_>,
        path: &str,
        effort: &Effort,
    ) -> Result<(), Unmet> {
        match self {
            Self::Text(comparison, wanted) => {
                for (name, wanted) in wanted {
                    let value = subject
                        .attribute(name)
                        .map(|value| value.to_text().into_owned());
                    if !value
                        .as_deref()
                        .is_some_and(|value| comparison.holds(value, wanted))
                    {
                        let path = format!("{path}.{}.{name}", comparison.as_str());
                        return Err(Unmet::at(path, wanted, shown(value)));
                    }
                }
                Ok(())
            }
            Self::All(inner) => {
                let mut inner = inner.iter().enumerate();
                inner.try_for_each(|(index, it)| {
                    it.judge(subject, &format!("{path}.all[{index}]"), effort)
                })
            }
            Self::Any(inner) => {
                let mut first = None;
                for (index, one) in inner.iter().enumerate() {
                    match one.judge(subject, &format!("{path}.any[{index}]"), effort) {
                        Ok(()) => return Ok(()),
                        Err(unmet) => first = first.or(Some(unmet)),
                    }
                }
                // None of them holds; the first stands for all.
                first.map_or(Ok(()), Err)
            }
            Self::Not(inner) if inner.holds(subject, effort) => {
                Err(Unmet::at(format!("{path}.not"), "false", "true"))
            }
            Self::Not(_) => Ok(()),
            Self::Sql(expression) => match expression.holds(subject, effort) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Unmet::at(format!("{path}.sql"), expression.text(), "false")),
                Err(error) => {
                    let got = error.to_string();
                    Err(Unmet::at(format!("{path}.sql"), expression.text(), got))
                }
            },
        }
    }
}

fn shown(value: Option<String>) -> String {
    value.unwrap_or_else(|| "no such attribute".to_owned())
}

fn compared(comparison: Comparison, value: &Value, path: &str) -> Result<Dialect, InvalidFilter> {
    let none = Map::new();
    let wanted = value.as_object().unwrap_or(&none);
    if wanted.is_empty() || wanted.len() > MAX_CLAUSES {
        let reason = "it must be an object with attributes as members";
        return Err(InvalidFilter::at(path, reason));
    }
    let wanted = wanted.iter().map(|(name, text)| {
        let at = |reason: &str| InvalidFilter::at(format!("{path}.{name}"), reason);
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(legal) {
            return Err(at("an attribute is named with a to z and 0 to 9"));
        }
        match text.as_str() {
            Some(text) if !text.is_empty() => Ok((name.clone(), text.to_owned())),
            _ => Err(at("it must be text, and not empty")),
        }
    });
    let wanted = wanted.collect::<Result<_, _>>()?;
    Ok(Dialect::Text(comparison, wanted))
}

fn nested(value: &Value, path: &str, depth: usize) -> Result<Vec<Dialect>, InvalidFilter> {
    let entries = value
        .as_array()
        .filter(|entries| (1..=MAX_CLAUSES).contains(&entries.len()));
    let Some(entries) = entries else {
        let reason = format!("it must be a list of 1 to {MAX_CLAUSES} dialects");
        return Err(InvalidFilter::at(path, reason));
    };
    let entries = entries.iter().enumerate();
    entries
        .map(|(index, entry)| Dialect::parse(entry, &format!("{path}[{index}]"), depth + 1))
        .collect()
}

//! What a subscription wants, as it is written: `types`, `dialects` and `data`. All parts must hold.

use serde_json::Value;
use tidings_event::{COPY_ATTRIBUTE, TypePattern};

use crate::cesql::{Effort, MOST_BYTES};
use crate::data::DataMatch;
use crate::dialect::Dialect;
use crate::subject::Subject;

/// The most entries of `types`, `dialects` and `data` each, and of a nested list.
pub(crate) const MAX_CLAUSES: usize = 100;

/// A filter that holds for some events.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    types: Vec<TypePattern>,
    dialects: Vec<Dialect>,
    data: Vec<DataMatch>,
}

/// A document that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct InvalidFilter {
    /// Where, as in `dialects[0].prefix.source`.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

impl InvalidFilter {
    pub(crate) fn at(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The first clause that an event does not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, got {got}")]
pub struct Unmet {
    /// Which clause, as in `dialects[0].prefix.source`.
    pub path: String,
    /// What it wants.
    pub expected: String,
    /// What the event has.
    pub got: String,
}

impl Unmet {
    pub(crate) fn at(
        path: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}

impl Filter {
    /// Reads the member `filter` of a subscription. Without `types` (or with an empty list) it is about
    /// events of every type.
    pub fn parse(document: &Value) -> Result<Self, InvalidFilter> {
        let members = document
            .as_object()
            .ok_or_else(|| InvalidFilter::at("filter", "it must be an object"))?;
        let known = ["types", "dialects", "data"];
        if let Some(other) = members.keys().find(|name| !known.contains(&name.as_str())) {
            let reason = "it is not a member of a filter; use types, dialects and data";
            return Err(InvalidFilter::at(other, reason));
        }
        let types = list(document, "types")?;
        let types = types.iter().enumerate().map(|(index, entry)| {
            let at = |reason: String| InvalidFilter::at(format!("types[{index}]"), reason);
            let text = entry.as_str().ok_or_else(|| at("it must be text".into()))?;
            text.parse().map_err(|error| at(format!("{error}")))
        });
        let dialects = list(document, "dialects")?;
        let dialects = dialects.iter().enumerate();
        let dialects =
            dialects.map(|(index, entry)| Dialect::parse(entry, &format!("dialects[{index}]"), 0));
        let data = list(document, "data")?;
        let data = data.iter().enumerate();
        let data = data.map(|(index, entry)| DataMatch::parse(entry, &format!("data[{index}]")));
        Ok(Self {
            types: types.collect::<Result<_, _>>()?,
            dialects: dialects.collect::<Result<_, _>>()?,
            data: data.collect::<Result<_, _>>()?,
        })
    }

    /// The types it is about; empty stands for all.
    pub fn types(&self) -> &[TypePattern] {
        &self.types
    }

    /// Whether every clause holds. None holds for a copy: whoever wants the event gets the original.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.wants_type(subject) && self.holds_beside_types(subject)
    }

    /// Whether every clause but the types holds: for a filter that an [`Index`](crate::Index) named for the type.
    pub fn holds_beside_types(&self, subject: &Subject<'_>) -> bool {
        let effort = Effort::default();
        subject.event().extension(COPY_ATTRIBUTE).is_none()
            && self.dialects.iter().all(|it| it.holds(subject, &effort))
            && !effort.is_exceeded()
            && self.data.iter().all(|clause| clause.holds(subject))
    }

    /// The same, saying which clause is the first that does not hold.
    pub fn judge(&self, subject: &Subject<'_>) -> Result<(), Unmet> {
        if !self.wants_type(subject) {
            let wanted: Vec<_> = self.types.iter().map(TypePattern::as_str).collect();
            let got = subject.event().event_type.as_str();
            return Err(Unmet::at("types", wanted.join(" or "), got));
        }
        if let Some(original) = subject.event().extension(COPY_ATTRIBUTE) {
            let got = format!("the copy of {original}");
            return Err(Unmet::at(COPY_ATTRIBUTE, "an event that is no copy", got));
        }
        let effort = Effort::default();
        for (index, dialect) in self.dialects.iter().enumerate() {
            let path = format!("dialects[{index}]");
            dialect.judge(subject, &path, &effort)?;
            if effort.is_exceeded() {
                let expected = format!("{MOST_BYTES} bytes of text looked at, at most");
                return Err(Unmet::at(path, expected, "more"));
            }
        }
        for (index, clause) in self.data.iter().enumerate() {
            clause.judge(subject, &format!("data[{index}]"))?;
        }
        Ok(())
    }

    fn wants_type(&self, subject: &Subject<'_>) -> bool {
        let event_type = &subject.event().event_type;
        self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(event_type))
    }
}

fn list<'a>(document: &'a Value, name: &str) -> Result<&'a [Value], InvalidFilter> {
    match document.get(name) {
        None => Ok(&[]),
        Some(Value::Array(entries)) if entries.len() <= MAX_CLAUSES => Ok(entries),
        Some(Value::Array(_)) => {
            let reason = format!("it may have {MAX_CLAUSES} entries at most");
            Err(InvalidFilter::at(name, reason))
        }
        Some(_) => Err(InvalidFilter::at(name, "it must be a list")),
    }
}

#[cfg(test)]
mod tests;

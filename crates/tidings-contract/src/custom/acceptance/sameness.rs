//! Whether two schemas ask for the same, annotations aside.

use serde_json::Value;

use super::numbers::equal;
use super::{Judge, Place};
use crate::custom::vocabulary::{Holds, asserts, holds};

impl<'s> Judge<'s> {
    /// Whether two schemas are written the same, but for annotations and for where definitions stand.
    pub(super) fn same(&mut self, one: &Place<'s>, other: &Place<'s>) -> bool {
        if !self.step() {
            return false;
        }
        let (one, other) = (followed(one), followed(other));
        let (Value::Object(members), Value::Object(others)) = (one.schema, other.schema) else {
            return one.schema == other.schema;
        };
        let count = |names: &serde_json::Map<String, Value>| {
            names.keys().filter(|keyword| asserts(keyword)).count()
        };
        count(members) == count(others)
            && members
                .keys()
                .filter(|keyword| asserts(keyword))
                .all(|keyword| {
                    others.contains_key(keyword) && self.same_keyword(keyword, &one, &other)
                })
    }

    /// Whether a keyword asks for the same in both, or stands in neither.
    pub(super) fn same_keyword(
        &mut self,
        keyword: &str,
        one: &Place<'s>,
        other: &Place<'s>,
    ) -> bool {
        match (keyword, holds(keyword)) {
            ("$ref", _) => match (one.target(), other.target()) {
                (Some(one), Some(other)) => self.same(&one, &other),
                (one, other) => one.is_none() && other.is_none(),
            },
            (_, Holds::Schema) => match (one.part(keyword), other.part(keyword)) {
                (Some(one), Some(other)) => self.same(&one, &other),
                (one, other) => one.is_none() && other.is_none(),
            },
            (_, Holds::Schemas) => {
                let (one, other) = (one.parts(keyword), other.parts(keyword));
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(&other)
                        .all(|(one, other)| self.same(one, other))
            }
            (_, Holds::Named) => {
                let (one, other) = (one.named(keyword), other.named(keyword));
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(&other)
                        .all(|((name, one), (its, other))| name == its && self.same(one, other))
            }
            (_, Holds::Values) => match (one.get(keyword), other.get(keyword)) {
                (Some(one), Some(other)) => equal(one, other),
                (one, other) => one.is_none() && other.is_none(),
            },
        }
    }
}

/// What a schema that does nothing but refer refers to.
fn followed<'s>(place: &Place<'s>) -> Place<'s> {
    let mut place = place.clone();
    // The caps have refused loops and long chains; the limit is against our own mistakes.
    for _ in 0..super::DEEPEST {
        let only = place.schema.as_object().is_some_and(|members| {
            members
                .keys()
                .all(|keyword| keyword == "$ref" || !asserts(keyword))
        });
        match place.target().filter(|_| only) {
            Some(target) => place = target,
            None => break,
        }
    }
    place
}

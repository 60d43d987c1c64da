//! Every difference between two versions of a schema, and what each is: patch, minor or major.
//!
//! The documents are walked side by side, as they are written. A difference of a `description` is a patch. Every other
//! one is minor where the new schema is shown to accept what the old one accepts, and major where that is not shown
//! ([`super::acceptance`]). A gap that no difference explains is told as one of its own, so that the worst class of all is
//! that of the change.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Schema;
use super::acceptance::{Gap, equal, gaps};
use super::vocabulary::{Holds, asserts, holds};
use crate::reference::escaped;

/// So many differences are told.
const TOLD: usize = 200;

/// What a change breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Descriptions only.
    Patch,
    /// What was accepted stays accepted.
    Minor,
    /// Something that was accepted is refused, or that it is not cannot be shown.
    Major,
}

impl Class {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Minor => "minor",
            Self::Major => "major",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where, as a JSON Pointer into the new schema, or into the old one if it is gone.
    pub pointer: String,
    /// What is different, as the end of a sentence.
    pub detail: String,
    /// What it breaks.
    pub class: Class,
}

/// All differences, by their pointers; at most 200, the worst kept.
pub fn compare(old: &Schema, new: &Schema) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(old.document(), new.document(), "", &mut found);
    if found.is_empty() {
        return found;
    }
    let gaps = gaps(old, new);
    for gap in &gaps {
        blame(gap, &mut found);
    }
    found.sort_by_key(|it| std::cmp::Reverse(it.class));
    found.truncate(TOLD);
    found.sort_by(|one, other| one.pointer.cmp(&other.pointer));
    found
}

/// Makes the differences that a gap comes from major, and tells the gap itself where there are none.
fn blame(gap: &Gap, found: &mut Vec<Difference>) {
    let within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut exact = false;
    for difference in found.iter_mut().filter(|it| it.class == Class::Minor) {
        if difference.pointer == gap.pointer || within(&gap.pointer, &difference.pointer) {
            difference.class = Class::Major;
            difference.detail.clone_from(&gap.detail);
            exact = true;
        }
    }
    let told = |it: &Difference| it.class == Class::Major && within(&gap.pointer, &it.pointer);
    if !exact && !found.iter().any(told) {
        let detail = gap.detail.clone();
        found.push(Difference {
            pointer: gap.pointer.clone(),
            detail,
            class: Class::Major,
        });
    }
}

fn note(pointer: String, detail: impl Into<String>, class: Class, found: &mut Vec<Difference>) {
    found.push(Difference {
        pointer,
        detail: detail.into(),
        class,
    });
}

/// Two schemas at the same place. The caps have bounded the depth.
fn walk(old: &Value, new: &Value, pointer: &str, found: &mut Vec<Difference>) {
    if equal(old, new) {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return note(
            pointer.to_owned(),
            "the schema is another",
            Class::Minor,
            found,
        );
    };
    let keywords: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for keyword in keywords {
        let place = format!("{pointer}/{}", escaped(keyword));
        match (before.get(keyword), after.get(keyword)) {
            (Some(old), Some(new)) if !equal(old, new) => pair(keyword, (old, new), &place, found),
            (Some(_), None) => alone(keyword, before, &place, found, "gone"),
            (None, Some(_)) => alone(keyword, after, &place, found, "new"),
            _ => {}
        }
    }
}

/// A keyword that both have, with different values.
fn pair(keyword: &str, (old, new): (&Value, &Value), place: &str, found: &mut Vec<Difference>) {
    match (holds(keyword), old, new) {
        (Holds::Schema, _, _) => walk(old, new, place, found),
        (Holds::Schemas, Value::Array(before), Value::Array(after)) => {
            for (index, (old, new)) in before.iter().zip(after).enumerate() {
                walk(old, new, &format!("{place}/{index}"), found);
            }
            let (few, many) = (before.len().min(after.len()), before.len().max(after.len()));
            let what = if before.len() < after.len() {
                "new"
            } else {
                "gone"
            };
            for index in few..many {
                let detail = format!("this part of {keyword} is {what}");
                note(format!("{place}/{index}"), detail, Class::Minor, found);
            }
        }
        (Holds::Named, Value::Object(before), Value::Object(after)) => {
            named(keyword, before, after, place, found);
        }
        _ => {
            let class = if keyword == "description" {
                Class::Patch
            } else {
                Class::Minor
            };
            note(place.to_owned(), changed(keyword, old, new), class, found);
        }
    }
}

fn named(
    keyword: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    place: &str,
    found: &mut Vec<Difference>,
) {
    let word = if keyword == "properties" {
        "property"
    } else {
        "entry"
    };
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let place = format!("{place}/{}", escaped(name));
        match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) => walk(old, new, &place, found),
            (old, _) => {
                let what = if old.is_some() { "gone" } else { "new" };
                note(
                    place,
                    format!("the {word} {name:?} is {what}"),
                    Class::Minor,
                    found,
                );
            }
        }
    }
}

/// A keyword that only one has.
fn alone(
    keyword: &str,
    schema: &Map<String, Value>,
    place: &str,
    found: &mut Vec<Difference>,
    what: &str,
) {
    if let ("properties" | "patternProperties", Some(Value::Object(parts))) =
        (keyword, schema.get(keyword))
    {
        for name in parts.keys() {
            let detail = format!("the property {name:?} is {what}");
            note(
                format!("{place}/{}", escaped(name)),
                detail,
                Class::Minor,
                found,
            );
        }
        if !parts.is_empty() {
            return;
        }
    }
    let class = if keyword == "description" {
        Class::Patch
    } else {
        Class::Minor
    };
    note(
        place.to_owned(),
        format!("{keyword} is {what}"),
        class,
        found,
    );
}

fn changed(keyword: &str, old: &Value, new: &Value) -> String {
    let short = |value: &Value| !value.is_array() && value.to_string().len() <= 60;
    if asserts(keyword) && short(old) && short(new) {
        format!("{keyword} is {new} now, it was {old}")
    } else {
        format!("{keyword} is another")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_has_its_place_and_its_class() {
        let check = |old: Value, new: Value, told: &[(&str, Class)]| {
            let (old, new) = (Schema::new(old).unwrap(), Schema::new(new).unwrap());
            let found = compare(&old, &new);
            let places: Vec<(&str, Class)> = found
                .iter()
                .map(|it| (it.pointer.as_str(), it.class))
                .collect();
            assert_eq!(places, told, "{found:?}");
        };
        let (patch, minor, major) = (Class::Patch, Class::Minor, Class::Major);
        let old = json!({
            "type": "object", "additionalProperties": false, "required": ["a"], "description": "one",
            "properties": { "a": { "type": "string", "maxLength": 5 }, "a/b": { "enum": [1, 2] }, "gone": {} },
        });
        let new = json!({
            "type": "object", "additionalProperties": false, "required": [], "description": "two",
            "properties": { "a": { "type": "string", "maxLength": 4 }, "a/b": { "enum": [1, 2, 3] }, "new": {} },
        });
        check(
            old,
            new,
            &[
                ("/description", patch),
                ("/properties/a/maxLength", major),
                ("/properties/a~1b/enum", minor),
                ("/properties/gone", major),
                ("/properties/new", minor),
                ("/required", minor),
            ],
        );
        // The definition is where it stands, whoever refers to it.
        let with = |kind: &str| json!({ "$defs": { "d": { "type": kind } }, "items": { "$ref": "#/$defs/d" } });
        check(with("number"), with("integer"), &[("/$defs/d/type", major)]);
        check(with("integer"), with("number"), &[("/$defs/d/type", minor)]);
        check(
            json!({}),
            json!({ "required": ["a"], "title": "t" }),
            &[("/required", major), ("/title", minor)],
        );
        check(json!(true), json!({ "type": "null" }), &[("", major)]);
        // However a number is written, and whatever a validator does not know.
        let written = json!({ "minProperties": 1, "enum": [{ "a": 1 }] });
        check(
            written,
            json!({ "minProperties": 1.0, "enum": [{ "a": 1.0 }] }),
            &[],
        );
        let text = json!({ "type": "string" });
        check(
            text.clone(),
            json!({ "type": "string", "format": "int32" }),
            &[("/format", minor)],
        );
        check(
            text,
            json!({ "type": "string", "format": "date" }),
            &[("/format", major)],
        );
    }

    #[test]
    fn a_sentence_says_what_a_person_needs() {
        let (old, new) = (
            json!({ "maximum": 5 }),
            json!({ "maximum": 6, "minLength": 1 }),
        );
        let found = compare(&Schema::new(old).unwrap(), &Schema::new(new).unwrap());
        let told: Vec<&str> = found.iter().map(|it| it.detail.as_str()).collect();
        let wider = "maximum is 6 now, it was 5";
        assert_eq!(
            told,
            [wider, "minLength is 1 now, which is tighter than it was"]
        );
    }
}

//! What a newer catalogue changes, and whom that breaks.
//!
//! A receiver was promised what the old schema says, so it breaks where the new one lets through what the
//! old one did not. A sender breaks where the new one refuses what the old one let through. The rules look
//! at members, types, enumerations and what is required; what they cannot judge they call breaking for both.

mod around;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::catalog::{Catalog, Channel};
use crate::reference::{escaped, layers, schemas_below};
use around::around;

/// Schemas are compared so deep.
const DEPTH: usize = 16;
/// So many places of a topic's data are compared.
const MAX_PLACES: usize = 10_000;

/// Whom a change breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// Nobody.
    Nobody,
    /// Whoever publishes.
    Senders,
    /// Whoever reads.
    Receivers,
    /// Both.
    Everybody,
}

impl Broken {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Senders => "senders",
            Self::Receivers => "receivers",
            Self::Everybody => "everybody",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The event type.
    pub event_type: String,
    /// Where in the data, as a JSON Pointer; empty for the channel itself.
    pub path: String,
    /// What is different.
    pub detail: String,
    /// Whom it breaks.
    pub broken: Broken,
    /// The services concerned, by name.
    pub services: Vec<String>,
}

/// Everything that `new` changes of `old`.
pub fn diff(old: &Catalog, new: &Catalog) -> Vec<Change> {
    let mut changes = Vec::new();
    for (event_type, before) in &old.channels {
        match new.channels.get(event_type) {
            None => {
                let detail = "the topic is gone";
                changes.push(change(before, String::new(), detail, Broken::Everybody));
            }
            Some(after) => {
                channel(before, after, &mut changes);
                around((old, before), (new, after), &mut changes);
            }
        }
    }
    for (event_type, after) in &new.channels {
        if !old.channels.contains_key(event_type) {
            changes.push(change(
                after,
                String::new(),
                "the topic is new",
                Broken::Nobody,
            ));
        }
    }
    changes
}

/// Names those too who read what a change breaks, as their manifests say: `readers` gives them for an event type.
pub fn name_readers(changes: &mut [Change], readers: impl Fn(&str) -> Vec<String>) {
    let breaks = |it: &&mut Change| matches!(it.broken, Broken::Receivers | Broken::Everybody);
    for change in changes.iter_mut().filter(breaks) {
        for reader in readers(&change.event_type) {
            if !change.services.contains(&reader) {
                change.services.push(reader);
            }
        }
    }
}

/// Whether two channels of one address promise the same: sender, envelope, subject and data.
pub fn agree(one: &Channel, other: &Channel) -> bool {
    let mut changes = Vec::new();
    channel(one, other, &mut changes);
    one.sender == other.sender && changes.is_empty()
}

fn change(channel: &Channel, path: String, detail: impl Into<String>, broken: Broken) -> Change {
    let senders = channel.sender.iter();
    let receivers = channel.receivers.iter();
    let services = match broken {
        Broken::Nobody => Vec::new(),
        Broken::Senders => senders.cloned().collect(),
        Broken::Receivers => receivers.cloned().collect(),
        Broken::Everybody => senders.chain(receivers).cloned().collect(),
    };
    Change {
        event_type: channel.event_type.as_str().to_owned(),
        path,
        detail: detail.into(),
        broken,
        services,
    }
}

fn channel(before: &Channel, after: &Channel, changes: &mut Vec<Change>) {
    let mut note = |detail: &str, broken| {
        changes.push(change(before, String::new(), detail, broken));
    };
    match (&before.sender, &after.sender) {
        (Some(_), None) => note("any service may publish it", Broken::Receivers),
        (one, other) if one != other => note("another service may publish it", Broken::Senders),
        _ => {}
    }
    if before.binary != after.binary {
        note("its envelope is another", Broken::Receivers);
    }
    if before.subject != after.subject {
        note("its subject is made otherwise", Broken::Receivers);
    }
    let (old, new) = (&before.schema, &after.schema);
    let found = compared((old, &old["allOf"][0]), (new, &new["allOf"][0]));
    let found = found.into_iter();
    changes.extend(found.map(|(path, detail, broken)| change(before, path, detail, broken)));
}

/// What differs between two schemas, each in its document.
fn compared<'s>(
    (old, before): (&'s Value, &'s Value),
    (new, after): (&'s Value, &'s Value),
) -> Found {
    let mut walk = Walk {
        old,
        new,
        above: Vec::new(),
        places: 0,
        found: Vec::new(),
    };
    walk.compare(before, after, "");
    walk.found
}

type Found = Vec<(String, String, Broken)>;

struct Walk<'s> {
    old: &'s Value,
    new: &'s Value,
    /// What is being compared: a schema that refers to itself is compared once.
    above: Vec<(*const Value, *const Value)>,
    places: usize,
    found: Found,
}

impl<'s> Walk<'s> {
    fn compare(&mut self, old: &'s Value, new: &'s Value, path: &str) {
        let layers = (says(self.old, old), says(self.new, new));
        let (Some(old), Some(new)) = layers else {
            return;
        };
        if old.len() != new.len() {
            let detail = "what stands beside its $ref is another".to_owned();
            self.found
                .push((path.to_owned(), detail, Broken::Everybody));
        }
        for (old, new) in old.into_iter().rev().zip(new.into_iter().rev()) {
            self.compare_layer(old, new, path);
        }
    }

    fn compare_layer(&mut self, old: &'s Value, new: &'s Value, path: &str) {
        let (old, new) = (in_keywords(old), in_keywords(new));
        let pair = (std::ptr::from_ref(old), std::ptr::from_ref(new));
        if self.above.contains(&pair) {
            return;
        }
        self.places += 1;
        if self.places > MAX_PLACES || self.above.len() == DEPTH {
            if self.places <= MAX_PLACES + 1 {
                let detail = "it is nested too deeply to be compared".to_owned();
                self.found
                    .push((path.to_owned(), detail, Broken::Everybody));
            }
            return;
        }
        self.above.push(pair);
        if old != new {
            types(old, new, path, &mut self.found);
            enumerations(old, new, path, &mut self.found);
            required(old, new, path, &mut self.found);
        }
        // Equal texts may still refer to schemas that differ.
        self.members(old, new, path);
        self.unjudged(old, new, path);
        self.above.pop();
    }

    fn members(&mut self, old: &'s Value, new: &'s Value, path: &str) {
        let of = |schema: &'s Value| schema.get("properties").and_then(Value::as_object);
        let (old_members, new_members) = (of(old), of(new));
        for (name, before) in old_members.into_iter().flatten() {
            let place = format!("{path}/{}", escaped(name));
            match new_members.and_then(|members| members.get(name)) {
                Some(after) => self.compare(before, after, &place),
                None => {
                    self.found
                        .push((place, "it is no longer described".into(), Broken::Receivers));
                }
            }
        }
        for (name, _) in new_members.into_iter().flatten() {
            if !old_members.is_some_and(|members| members.contains_key(name)) {
                let place = format!("{path}/{}", escaped(name));
                self.found.push((place, "it is new".into(), Broken::Nobody));
            }
        }
        let place = format!("{path}/*");
        match (old.get("items"), new.get("items")) {
            (Some(before), Some(after)) => self.compare(before, after, &place),
            (Some(_), None) => {
                self.found
                    .push((place, "it is no longer described".into(), Broken::Receivers));
            }
            (None, Some(_)) => {
                self.found
                    .push((place, "it is described now".into(), Broken::Senders));
            }
            (None, None) => {}
        }
        if let Some((before, after)) = parts(old, new) {
            for (before, after) in before.iter().zip(after) {
                self.compare(before, after, path);
            }
        }
    }

    /// What the other rules do not look at: its text, and every schema that it refers to.
    fn unjudged(&mut self, old: &Value, new: &Value, path: &str) {
        let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
            return;
        };
        let keywords: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for keyword in keywords {
            let judged = JUDGED.contains(&keyword.as_str())
                || SILENT.contains(&keyword.as_str())
                || keyword.starts_with("x-")
                || (keyword == "allOf" && parts(old, new).is_some());
            if judged {
                continue;
            }
            let (one, other) = (before.get(keyword), after.get(keyword));
            if one != other || below(self.old, one) != below(self.new, other) {
                let detail = format!("its {keyword} is another");
                self.found
                    .push((path.to_owned(), detail, Broken::Everybody));
            }
        }
    }
}

/// A schema and what it refers to, as far as each says something about what is valid. The last always counts.
fn says<'s>(document: &'s Value, schema: &'s Value) -> Option<Vec<&'s Value>> {
    let mut layers = layers(document, schema)?;
    let last = layers.pop();
    layers.retain(|layer| {
        let mut keywords = layer.as_object().into_iter().flat_map(Map::keys);
        keywords.any(|it| it != "$ref" && !it.starts_with("x-") && !SILENT.contains(&it.as_str()))
    });
    layers.extend(last);
    Some(layers)
}

/// A schema in keywords: `true` accepts anything and `false` nothing.
fn in_keywords(schema: &Value) -> &Value {
    static ANYTHING: LazyLock<Value> = LazyLock::new(|| json!({}));
    static NOTHING: LazyLock<Value> = LazyLock::new(|| json!({ "not": {} }));
    match schema {
        Value::Bool(true) => &ANYTHING,
        Value::Bool(false) => &NOTHING,
        _ => schema,
    }
}

fn below(document: &Value, value: Option<&Value>) -> Map<String, Value> {
    let mut found = Map::new();
    if let Some(value) = value {
        schemas_below(document, value, &mut found);
    }
    found
}

/// The parts of both, where there are equally many.
fn parts<'s>(old: &'s Value, new: &'s Value) -> Option<(&'s Vec<Value>, &'s Vec<Value>)> {
    let parts = (old.get("allOf")?.as_array()?, new.get("allOf")?.as_array()?);
    (parts.0.len() == parts.1.len()).then_some(parts)
}

fn set(schema: &Value, keyword: &str) -> Option<BTreeSet<String>> {
    Some(match schema.get(keyword)? {
        Value::Array(items) => items.iter().map(Value::to_string).collect(),
        one => BTreeSet::from([one.to_string()]),
    })
}

/// Fewer are allowed: senders break. More are: receivers do.
fn narrowed(old: Option<&BTreeSet<String>>, new: Option<&BTreeSet<String>>) -> Broken {
    match (old, new) {
        (None, None) => Broken::Nobody,
        (None, Some(_)) => Broken::Senders,
        (Some(_), None) => Broken::Receivers,
        (Some(old), Some(new)) => match (new.is_subset(old), old.is_subset(new)) {
            (true, true) => Broken::Nobody,
            (true, false) => Broken::Senders,
            (false, true) => Broken::Receivers,
            (false, false) => Broken::Everybody,
        },
    }
}

fn types(old: &Value, new: &Value, path: &str, found: &mut Found) {
    // Each integer is a number too.
    let of = |schema: &Value| {
        let mut types = set(schema, "type")?;
        if types.contains("\"number\"") {
            types.insert("\"integer\"".to_owned());
        }
        Some(types)
    };
    let (before, after) = (of(old), of(new));
    let broken = narrowed(before.as_ref(), after.as_ref());
    if broken != Broken::Nobody {
        found.push((path.to_owned(), "its type is another".into(), broken));
    }
}

fn enumerations(old: &Value, new: &Value, path: &str, found: &mut Found) {
    for keyword in ["enum", "const"] {
        let (before, after) = (set(old, keyword), set(new, keyword));
        let broken = narrowed(before.as_ref(), after.as_ref());
        if broken != Broken::Nobody {
            found.push((path.to_owned(), "its values are others".into(), broken));
        }
    }
}

fn required(old: &Value, new: &Value, path: &str, found: &mut Found) {
    let names = |schema: &Value| -> BTreeSet<String> {
        let names = schema.get("required").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    let (before, after) = (names(old), names(new));
    let place = |name: &str| format!("{path}/{}", escaped(name));
    for name in after.difference(&before) {
        found.push((place(name), "it is required now".into(), Broken::Senders));
    }
    for name in before.difference(&after) {
        found.push((
            place(name),
            "it may be missing now".into(),
            Broken::Receivers,
        ));
    }
}

/// Keywords that say nothing about what is valid.
const SILENT: [&str; 8] = [
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "examples",
    "title",
];

/// Keywords that the other rules have judged.
const JUDGED: [&str; 7] = [
    "$ref",
    "const",
    "enum",
    "items",
    "properties",
    "required",
    "type",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(data: &Value) -> Catalog {
        let document = json!({
            "asyncapi": "3.0.0",
            "info": { "title": "t", "version": "1.0.0" },
            "channels": { "a": {
                "address": "shop.order.created.v1",
                "x-tidings-sender": "shop", "x-tidings-receivers": ["mail"],
                "messages": { "m": { "contentType": "application/json", "payload": { "$ref": "#/components/schemas/D" } } },
            }},
            "components": { "schemas": { "D": data, "Money": { "type": "integer" } } },
        });
        Catalog::parse(&document.to_string()).unwrap()
    }

    #[test]
    fn each_rule_names_whom_it_breaks() {
        let base = json!({
            "type": "object", "required": ["id"],
            "properties": { "id": { "type": "string" }, "state": { "enum": ["a", "b"] } },
        });
        let check = |change: &dyn Fn(&mut Value), path: &str, broken: Broken| {
            let mut changed = base.clone();
            change(&mut changed);
            let found = diff(&catalog(&base), &catalog(&changed));
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].path.as_str(), found[0].broken), (path, broken));
        };
        check(
            &|s| s["required"] = json!(["id", "state"]),
            "/state",
            Broken::Senders,
        );
        check(&|s| s["required"] = json!([]), "/id", Broken::Receivers);
        check(
            &|s| s["properties"]["id"]["type"] = json!("integer"),
            "/id",
            Broken::Everybody,
        );
        check(
            &|s| s["properties"]["state"]["enum"] = json!(["a"]),
            "/state",
            Broken::Senders,
        );
        check(
            &|s| s["properties"]["state"]["enum"] = json!(["a", "b", "c"]),
            "/state",
            Broken::Receivers,
        );
        check(
            &|s| s["properties"]["more"] = json!({}),
            "/more",
            Broken::Nobody,
        );
        check(
            &|s| s["properties"]["id"]["pattern"] = json!("^x"),
            "/id",
            Broken::Everybody,
        );
        check(
            &|s| s["properties"]["state"]["items"] = json!({ "type": "string" }),
            "/state/*",
            Broken::Senders,
        );
        let gone = |s: &mut Value| {
            s["properties"].as_object_mut().unwrap().remove("state");
        };
        check(&gone, "/state", Broken::Receivers);
        assert_eq!(diff(&catalog(&base), &catalog(&base)), []);
        let (one, same) = (catalog(&base), catalog(&base));
        let other = catalog(&json!({ "type": "object" }));
        let first = |catalog: &Catalog| catalog.channels.values().next().unwrap().clone();
        assert!(agree(&first(&one), &first(&same)));
        assert!(!agree(&first(&one), &first(&other)));
    }

    #[test]
    fn schemas_that_are_referred_to_are_compared_once_wherever_they_stand() {
        let with = |data: &Value, money: &Value, tree: &Value| {
            let mut document = catalog(&json!({})).document;
            let schemas = &mut document["components"]["schemas"];
            *schemas = json!({ "D": data, "Money": money, "Tree": tree });
            Catalog::parse(&document.to_string()).unwrap()
        };
        let tree = |depth: &str| {
            let own = json!({ "$ref": "#/components/schemas/Tree" });
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let mut members: Map<String, Value> = names
                .map(|name| (name.to_owned(), own.clone()))
                .into_iter()
                .collect();
            members.insert("depth".into(), json!({ "type": depth }));
            json!({ "properties": members })
        };
        let (text, number) = (json!({ "type": "string" }), json!({ "type": "integer" }));
        let (few, many) = (tree("integer"), tree("string"));
        let both = json!({ "allOf": [{ "$ref": "#/components/schemas/Money" }],
            "anyOf": [{ "$ref": "#/components/schemas/Tree" }] });
        let check = |data: &Value, new: (&Value, &Value), path: &str, detail: &str| {
            let (old, new) = (with(data, &text, &few), with(data, new.0, new.1));
            let found = diff(&old, &new);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].path.as_str(), found[0].detail.as_str()),
                (path, detail)
            );
            assert_eq!(found[0].broken, Broken::Everybody);
        };
        check(&both, (&number, &few), "", "its type is another");
        check(&both, (&text, &many), "", "its anyOf is another");
        let own = json!({ "$ref": "#/components/schemas/Tree" });
        check(&own, (&text, &many), "/depth", "its type is another");
    }

    #[test]
    fn what_stands_beside_a_reference_is_compared_too() {
        let with =
            |money: &Value| catalog(&json!({ "type": "object", "properties": { "price": money } }));
        let reference = json!({ "$ref": "#/components/schemas/Money" });
        let beside = |keyword: &str, value: Value| {
            let mut money = reference.clone();
            money[keyword] = value;
            money
        };
        let check = |old: &Value, new: &Value, expected: &[(&str, Broken)]| {
            let found = diff(&with(old), &with(new));
            let found: Vec<_> = found
                .iter()
                .map(|it| (it.detail.as_str(), it.broken))
                .collect();
            assert_eq!(found, expected, "{old} {new}");
        };
        let (few, more) = (beside("enum", json!([1])), beside("enum", json!([1, 2])));
        let everybody = [("what stands beside its $ref is another", Broken::Everybody)];
        check(&reference, &few, &everybody);
        check(&few, &reference, &everybody);
        check(&few, &more, &[("its values are others", Broken::Receivers)]);
        check(&few, &few, &[]);
        check(&reference, &beside("description", json!("in cents")), &[]);
        check(&reference, &json!({ "type": "integer" }), &[]);
    }

    #[test]
    fn a_subject_and_items_that_come_or_go_are_changes() {
        let plain = catalog(&json!({ "type": "array" }));
        let items = catalog(&json!({ "type": "array", "items": { "type": "string" } }));
        let of = |old: &Catalog, new: &Catalog| {
            let found = diff(old, new);
            let found: Vec<_> = found.into_iter().map(|it| (it.path, it.broken)).collect();
            found
        };
        assert_eq!(of(&plain, &items), [("/*".to_owned(), Broken::Senders)]);
        assert_eq!(of(&items, &plain), [("/*".to_owned(), Broken::Receivers)]);
        let mut document = plain.document.clone();
        document["channels"]["a"]["messages"]["m"]["x-tidings-subject"] = json!("{tenantid}");
        let named = Catalog::parse(&document.to_string()).unwrap();
        assert_eq!(of(&plain, &named), [(String::new(), Broken::Receivers)]);
    }

    #[test]
    fn a_schema_that_is_true_or_false_is_compared_as_what_it_says() {
        let with = |member: &Value| catalog(&json!({ "properties": { "a": member } }));
        let check = |old: &Value, new: &Value, expected: &[Broken]| {
            for (old, new, path) in [
                (with(old), with(new), "/a"),
                (catalog(old), catalog(new), ""),
            ] {
                let found = diff(&old, &new);
                let found: Vec<_> = found.iter().map(|it| (&*it.path, it.broken)).collect();
                let expected: Vec<_> = expected.iter().map(|broken| (path, *broken)).collect();
                assert_eq!(found, expected);
                let first = |catalog: &Catalog| catalog.channels.values().next().unwrap().clone();
                assert_eq!(agree(&first(&old), &first(&new)), expected.is_empty());
            }
        };
        let text = json!({ "type": "string" });
        check(&text, &json!(true), &[Broken::Receivers]);
        check(&json!(true), &text, &[Broken::Senders]);
        check(&json!(true), &json!(false), &[Broken::Everybody]);
        check(&json!(false), &json!(true), &[Broken::Everybody]);
        check(&json!(true), &json!({}), &[]);
        check(&json!({ "not": {} }), &json!(false), &[]);
    }
}

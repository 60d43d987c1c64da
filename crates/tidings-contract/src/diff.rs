//! What a newer catalogue changes, and whom that breaks.
//!
//! A receiver was promised what the old schema says, so it breaks where the new one lets through what the
//! old one did not. A sender breaks where the new one refuses what the old one let through. The rules look
//! at members, types, enumerations and what is required; what they cannot judge they call breaking for both.

mod around;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::catalog::{Catalog, Channel};
use crate::reference::{escaped, layers, schemas_named, schemas_of};
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
        unlike: unlike(old, new),
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
    /// The schemas of both documents that are not the same in both, with those that lead to one, by name.
    unlike: BTreeSet<String>,
    /// What is being compared: a schema that refers to itself is compared once.
    above: Vec<(*const Value, *const Value)>,
    places: usize,
    found: Found,
}

impl<'s> Walk<'s> {
    fn compare(&mut self, old: &'s Value, new: &'s Value, path: &str) {
        if !self.goes_on(path) {
            return;
        }
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
        if self.above.len() == DEPTH {
            self.too_deep(path);
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

    /// Counts a place, and says once that there are too many.
    fn goes_on(&mut self, path: &str) -> bool {
        self.places += 1;
        if self.places == MAX_PLACES + 1 {
            self.too_deep(path);
        }
        self.places <= MAX_PLACES
    }

    fn too_deep(&mut self, path: &str) {
        let detail = "it is nested too deeply to be compared".to_owned();
        self.found
            .push((path.to_owned(), detail, Broken::Everybody));
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
            let leads_on = |value| !schemas_named(value).is_disjoint(&self.unlike);
            if one != other || one.is_some_and(leads_on) {
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

/// The schemas that are not the same in two documents, and those that lead to one.
fn unlike(old: &Value, new: &Value) -> BTreeSet<String> {
    let schemas = [old, new].map(schemas_of);
    let all = || schemas.iter().flatten().copied().flatten();
    let mut led_from: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for (name, schema) in all() {
        for named in schemas_named(schema) {
            led_from.entry(named).or_default().push(name);
        }
    }
    let [old, new] = schemas.map(|schemas| move |name: &String| schemas?.get(name));
    let mut waiting: Vec<&String> = all().map(|(name, _)| name).collect();
    waiting.retain(|name| old(name) != new(name));
    let mut unlike = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if unlike.insert(name.clone()) {
            waiting.extend(led_from.get(name).into_iter().flatten());
        }
    }
    unlike
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

//! References within one document: `{"$ref": "#/…"}`. None leaves it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A chain of references is followed so far: as far as one may be long in a catalogue.
pub(crate) const HOPS: usize = 256;
/// Where a document's schemas are.
const SCHEMAS: &str = "#/components/schemas/";

/// What a value stands for: itself, or what it refers to.
pub(crate) fn resolve<'d>(document: &'d Value, value: &'d Value) -> Option<&'d Value> {
    let mut value = value;
    for _ in 0..HOPS {
        let Some(pointer) = value.get("$ref").and_then(Value::as_str) else {
            return Some(value);
        };
        value = document.pointer(pointer.strip_prefix('#')?)?;
    }
    None
}

/// A value and all that it refers to in turn, the last of which is no reference. In JSON Schema, what stands beside a
/// reference holds too.
pub(crate) fn layers<'d>(document: &'d Value, value: &'d Value) -> Option<Vec<&'d Value>> {
    let mut layers = vec![value];
    let mut value = value;
    for _ in 0..HOPS {
        let Some(pointer) = value.get("$ref").and_then(Value::as_str) else {
            return Some(layers);
        };
        value = document.pointer(pointer.strip_prefix('#')?)?;
        layers.push(value);
    }
    None
}

/// Every reference in a value that leaves the document, with its place.
pub(crate) fn foreign(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let place = format!("{place}/{}", escaped(name));
                match (name.as_str(), member.as_str()) {
                    ("$ref", Some(target)) if !target.starts_with("#/") => {
                        found.push((place, target.to_owned()));
                    }
                    _ => foreign(member, &place, found),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                foreign(item, &format!("{place}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Every reference in a document that leads elsewhere than to its own place of that name, with its place and what is wrong:
/// nobody could tell what it takes to hold a value to it.
pub(crate) fn misleading(document: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![(document, String::new(), None)];
    while let Some((value, place, mut base)) = waiting.pop() {
        match value {
            Value::Object(members) => {
                let id = members.get("$id").and_then(Value::as_str);
                base = id.filter(|id| !id.starts_with('#')).or(base);
                for (name, member) in members {
                    let place = format!("{place}/{}", escaped(name));
                    match (name.as_str(), member.as_str(), base) {
                        ("$ref", Some(target), Some(base)) => {
                            let detail = format!(
                                "{target:?} is meant within the $id {base:?} here; leave that out, and write \
                                 #/components/schemas/<name>"
                            );
                            found.push((place, detail));
                        }
                        ("$dynamicRef" | "$recursiveRef", Some(_), _) => {
                            let detail = format!(
                                "{name} cannot be used here: write $ref: #/components/schemas/<name>"
                            );
                            found.push((place, detail));
                        }
                        _ => waiting.push((member, place, base)),
                    }
                }
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                waiting.extend(items.map(|(at, item)| (item, format!("{place}/{at}"), base)));
            }
            _ => {}
        }
    }
    found
}

/// Adds every one of the document's schemas that a value refers to, by whatever way, under its name. Not by recursion: one may
/// refer to the next as often as a document has room for.
pub(crate) fn schemas_below(document: &Value, value: &Value, found: &mut Map<String, Value>) {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        let below = waiting.len();
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let Some(named) = schema_named(name, member) else {
                        waiting.push(member);
                        continue;
                    };
                    let schema = schemas_of(document).and_then(|schemas| schemas.get(&named));
                    if let Some(schema) = schema.filter(|_| !found.contains_key(&named)) {
                        found.insert(named, schema.clone());
                        waiting.push(schema);
                    }
                }
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
        waiting[below..].reverse();
    }
}

/// The document's schemas, by their names.
pub(crate) fn schemas_of(document: &Value) -> Option<&Map<String, Value>> {
    document.pointer("/components/schemas")?.as_object()
}

/// The names of the document's schemas that a value refers to itself.
pub(crate) fn schemas_named(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match schema_named(name, member) {
                        Some(schema) => drop(found.insert(schema)),
                        None => waiting.push(member),
                    }
                }
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
    found
}

/// The name of the document's schema that this member refers to, or to a part of.
fn schema_named(name: &str, member: &Value) -> Option<String> {
    let target = member.as_str().filter(|_| name == "$ref")?;
    let named = target.strip_prefix(SCHEMAS)?.split('/').next()?;
    Some(named.replace("~1", "/").replace("~0", "~"))
}

/// The JSON Pointer of a reference within its document, in the spelling of this crate; nothing of one that names an anchor,
/// leaves the document or is no URI.
pub(crate) fn pointer_of(target: &str) -> Option<String> {
    let plain = percent_decoded(target.strip_prefix("#/")?)?;
    Some(plain.split('/').fold(String::new(), |pointer, token| {
        let name = token.replace("~1", "/").replace("~0", "~");
        format!("{pointer}/{}", escaped(&name))
    }))
}

pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// A member's name in a JSON Pointer (RFC 6901, section 3).
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

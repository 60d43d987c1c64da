//! References within one document: `{"$ref": "#/…"}`. None leaves it.

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

/// Adds every one of the document's schemas that a value refers to, by whatever way, under its name. Not by recursion: one may
/// refer to the next as often as a document has room for.
pub(crate) fn schemas_below(document: &Value, value: &Value, found: &mut Map<String, Value>) {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        let below = waiting.len();
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let target = member.as_str().filter(|_| name == "$ref");
                    let named = target.and_then(|target| target.strip_prefix(SCHEMAS));
                    let Some(named) = named else {
                        waiting.push(member);
                        continue;
                    };
                    let named = named.split('/').next().unwrap_or_default();
                    let plain = named.replace("~1", "/").replace("~0", "~");
                    let schema = document.pointer(&format!("/components/schemas/{named}"));
                    if let Some(schema) = schema.filter(|_| !found.contains_key(&plain)) {
                        found.insert(plain, schema.clone());
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

//! The members of an object and the check of one of them, in one walk instead of two.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::number::Numbers;
use super::{Fingerprint, MAX_DEPTH, MAX_MEMBERS, MemberName, Members, Value};

/// An object of which one member is [checked](super::check).
#[derive(Debug)]
pub struct Checked<'a> {
    /// The text of that member.
    pub text: &'a str,
    /// Of its value.
    pub fingerprint: Fingerprint,
    /// The others, in the order given.
    pub others: Members<'a>,
}

/// The same as [`members`](super::members) of a text and [`check`](super::check) of the member with a name. `None` where
/// either would refuse, where there is no such member, or where a name holds escapes; whoever wants to know more asks
/// them.
pub fn checked<'a>(text: &'a str, name: &str) -> Option<Checked<'a>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let checked = deserializer.deserialize_map(Walk { text, name }).ok()?;
    deserializer.end().ok()?;
    checked
}

struct Walk<'t, 'n> {
    text: &'t str,
    name: &'n str,
}

impl<'t> Visitor<'t> for Walk<'t, '_> {
    type Value = Option<Checked<'t>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let unusual = || A::Error::custom("to be read in another way");
        let mut others: Members<'t> = Vec::new();
        let mut found: Option<(usize, Fingerprint)> = None;
        // Where the name begins that follows the member.
        let mut next = None;
        while let Some(MemberName(name)) = map.next_key()? {
            // One with escapes was read into memory of its own.
            let Cow::Borrowed(name) = name else {
                return Err(unusual());
            };
            let place = name.as_ptr().addr() - self.text.as_ptr().addr();
            if found.is_some() && next.is_none() {
                next = Some(place);
            }
            if name == self.name {
                let begin = after_name(self.text, place + name.len());
                let begin = begin.filter(|_| found.is_none()).ok_or_else(unusual)?;
                let numbers = &mut Numbers::of(&self.text[begin..]);
                let value = Value {
                    left: MAX_DEPTH,
                    numbers,
                };
                found = Some((begin, Fingerprint(map.next_value_seed(value)?)));
            } else {
                if others.len() + 1 == MAX_MEMBERS || others.iter().any(|it| it.0 == name) {
                    return Err(unusual());
                }
                others.push((Cow::Borrowed(name), map.next_value::<&RawValue>()?));
            }
        }
        let Some((begin, fingerprint)) = found else {
            return Ok(None);
        };
        let end = match next {
            Some(name) => before_name(&self.text[..name]),
            None => self.text.trim_end().strip_suffix('}'),
        };
        let end = end.ok_or_else(unusual)?.len();
        Ok(Some(Checked {
            text: self.text[begin..end].trim_end(),
            fingerprint,
            others,
        }))
    }
}

/// Where the value begins whose name ends there.
fn after_name(text: &str, end: usize) -> Option<usize> {
    let behind = text.get(end..)?.strip_prefix('"')?.trim_start();
    let value = behind.strip_prefix(':')?.trim_start();
    Some(text.len() - value.len())
}

/// What stands before a member whose name begins where a text ends.
fn before_name(text: &str) -> Option<&str> {
    text.strip_suffix('"')?.trim_end().strip_suffix(',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::{check, members};

    /// What it must agree with.
    fn in_two_walks<'a>(text: &'a str, name: &str) -> Option<Checked<'a>> {
        let mut others = members(text).ok()?;
        let place = others.iter().position(|member| member.0 == name)?;
        let text = others.remove(place).1.get();
        Some(Checked {
            text,
            fingerprint: check(text).ok()?,
            others,
        })
    }

    fn agrees(text: &str) -> bool {
        let (one, two) = (checked(text, "data"), in_two_walks(text, "data"));
        let (Some(one), Some(two)) = (&one, &two) else {
            return one.is_none() && two.is_none();
        };
        let raw = |it: &Checked<'_>| -> Vec<_> {
            let members = it.others.iter();
            members
                .map(|(name, value)| (name.to_string(), value.get().to_owned()))
                .collect()
        };
        (one.text, one.fingerprint) == (two.text, two.fingerprint) && raw(one) == raw(two)
    }

    fn text() -> impl Strategy<Value = String> {
        let space = || prop_oneof![Just(""), Just(" "), Just("\n\t"), Just("\r ")];
        let value = prop_oneof![
            Just("{}"),
            Just("1.50"),
            Just("[1e400, -0]"),
            Just("\"},\\\"data\\\":1\""),
            Just("null"),
            Just("{ \"a\" : [ 1, {\"b\": 2.25 } ] }"),
            Just("{\"a\":1,\"a\":2}"),
            Just("[1,]"),
            Just("\"\\u00e9 , \""),
        ];
        let name =
            prop_oneof![3 => Just("data"), 1 => Just("type"), 1 => Just("a"), 1 => Just("\u{e9}")];
        let member = (space(), name, space(), space(), value, space());
        let member =
            member.prop_map(|(a, name, b, c, value, d)| format!("{a}\"{name}\"{b}:{c}{value}{d}"));
        let members = proptest::collection::vec(member, 0..4);
        (space(), members, space())
            .prop_map(|(a, members, b)| format!("{a}{{{}}}{b}", members.join(",")))
    }

    proptest! {
        #[test]
        fn it_agrees_with_two_walks(text in text()) {
            prop_assert!(agrees(&text), "{}", text);
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_others() {
        for text in [
            r#"{"d\u0061ta":{}}"#,
            r#"{"data":{},"\u0061":1}"#,
            r#"{"data":{},"data":{}}"#,
            r#"{"data":{}} 1"#,
            r#"{"type":"a"}"#,
            r#"[{"data":{}}]"#,
            "",
        ] {
            assert!(checked(text, "data").is_none(), "{text}");
        }
        let many: Vec<_> = (0..MAX_MEMBERS).map(|n| format!("\"m{n}\":1")).collect();
        for (others, is_read) in [(MAX_MEMBERS, false), (MAX_MEMBERS - 1, true)] {
            let text = format!("{{{},\"data\":{{}}}}", many[..others].join(","));
            assert_eq!(checked(&text, "data").is_some(), is_read, "{others}");
            assert!(agrees(&text));
        }
    }
}

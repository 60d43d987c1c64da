//! Strict JSON: what a body must be before anything reads it.
//!
//! One walk over a text checks that it is well-formed, at most [`MAX_DEPTH`] deep and free of duplicate
//! members, and yields a [`Fingerprint`] of its *value*: spacing, member order and the spelling of
//! numbers and escapes make no difference. Nothing is built in memory.
//!
//! Numbers count by their decimal value, however many digits they have.

mod by_name;
mod number;
mod one_walk;
mod twice;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

pub use by_name::by_name;
use number::Numbers;
pub use one_walk::{Checked, checked};

/// The deepest nesting of arrays and objects that is read.
pub const MAX_DEPTH: usize = 64;

/// Identifies a JSON value: equal values have equal fingerprints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// The fingerprint of bytes that are not JSON.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// One fingerprint for several parts, each told apart from its neighbours.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::with_capacity(128);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Self::of_bytes(&bytes)
    }
}

/// Most objects of texts fit into so many bytes.
const USUAL_TEXTS: usize = 256;

/// The most members that [`members`] reads.
const MAX_MEMBERS: usize = 256;

/// Checks a whole JSON text. The error names the line and column and what is wrong there.
pub fn check(text: &str) -> Result<Fingerprint, serde_json::Error> {
    check_around(text, 0)
}

/// The same of an envelope: what stands so many levels within it may be as deep as a whole text.
pub fn check_around(text: &str, levels: usize) -> Result<Fingerprint, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let (left, numbers) = (MAX_DEPTH + levels, &mut Numbers::of(text));
    let fingerprint = Value { left, numbers }.deserialize(&mut deserializer);
    let fingerprint = fingerprint.map_err(|error| twice::named(text, error))?;
    deserializer.end()?;
    Ok(Fingerprint(fingerprint))
}

/// The members of an object in the order given, each value as its text.
pub type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The members of an object. Duplicates are refused.
pub fn members(text: &str) -> Result<Members<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = MembersOf.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(members)
}

/// The members of each object of an array, where a text is `{name: [{…}, …]}` with 1 to `most` objects;
/// `None` if it is anything else. One walk instead of one for each level.
pub fn rows<'a>(text: &'a str, name: &str, most: usize) -> Option<Vec<Members<'a>>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let rows = deserializer.deserialize_map(Rows { name, most }).ok()?;
    deserializer.end().ok()?;
    Some(rows)
}

/// The elements of an array, each as its text: the first `most`, and how many there are in all.
pub fn elements(text: &str, most: usize) -> Result<(Vec<&RawValue>, usize), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = deserializer.deserialize_seq(Elements { most })?;
    deserializer.end()?;
    Ok(elements)
}

struct Elements {
    most: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = (Vec<&'de RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (mut first, mut count) = (Vec::new(), 0);
        while let Some(item) = items.next_element::<&RawValue>()? {
            count += 1;
            if count <= self.most {
                first.push(item);
            }
        }
        Ok((first, count))
    }
}

struct Rows<'n> {
    name: &'n str,
    most: usize,
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = Vec<Members<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one member")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let unexpected = || A::Error::custom("another form");
        let MemberName(name) = map.next_key()?.ok_or_else(unexpected)?;
        if name != self.name {
            return Err(unexpected());
        }
        let rows = map.next_value_seed(self)?;
        match map.next_key::<MemberName<'_>>()? {
            None => Ok(rows),
            Some(_) => Err(unexpected()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = items.next_element_seed(MembersOf)? {
            if rows.len() == self.most {
                return Err(A::Error::custom("too many elements"));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(A::Error::custom("no elements"));
        }
        Ok(rows)
    }
}

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = Vec<Members<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, array: D) -> Result<Self::Value, D::Error> {
        array.deserialize_seq(self)
    }
}

/// A member's name, borrowed from the text unless it holds escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

struct MembersOf;

impl<'de> DeserializeSeed<'de> for MembersOf {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, object: D) -> Result<Self::Value, D::Error> {
        object.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MembersOf {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Self::Value = Vec::new();
        while let Some((MemberName(name), value)) = map.next_entry::<_, &RawValue>()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom(format_args!(
                    "more than {MAX_MEMBERS} members"
                )));
            }
            if members.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom(format_args!(
                    "two members are called {name:?}"
                )));
            }
            members.push((name, value));
        }
        Ok(members)
    }
}

/// The walk: visits one value, with so many levels left below it, and gives its fingerprint.
struct Value<'n, 't> {
    left: usize,
    numbers: &'n mut Numbers<'t>,
}

/// What kind of value a fingerprint is of, so that `"1"`, `1`, `[1]` and `{"1":…}` differ.
#[derive(Clone, Copy)]
enum Kind {
    Null,
    Bool,
    Integer,
    Float,
    Text,
    Array,
    Object,
    /// A number that is not what its double is usually written as.
    Decimal,
}

fn digest(kind: Kind, bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(bytes, kind as u64)
}

/// Of an object, by the digests of its members' names and values; `None` if two have one name.
fn digest_of(mut members: Vec<(u128, u128)>) -> Option<u128> {
    members.sort_unstable();
    if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return None;
    }
    let mut bytes = Vec::with_capacity(32 * members.len());
    for (name, value) in members {
        bytes.extend_from_slice(&name.to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    Some(digest(Kind::Object, &bytes))
}

impl Value<'_, '_> {
    /// The levels that are left below what is in it.
    fn inner<E: serde::de::Error>(&self) -> Result<usize, E> {
        self.left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = u128;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u128, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<u128, E> {
        Ok(digest(Kind::Null, &[]))
    }

    fn visit_bool<E>(self, value: bool) -> Result<u128, E> {
        Ok(digest(Kind::Bool, &[u8::from(value)]))
    }

    fn visit_i64<E>(self, value: i64) -> Result<u128, E> {
        self.numbers.pass();
        Ok(digest(Kind::Integer, &i128::from(value).to_le_bytes()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<u128, E> {
        self.numbers.pass();
        Ok(digest(Kind::Integer, &i128::from(value).to_le_bytes()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<u128, E> {
        Ok(number::digest_of(self.numbers.take(), value))
    }

    fn visit_str<E>(self, value: &str) -> Result<u128, E> {
        Ok(digest(Kind::Text, value.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u128, A::Error> {
        let (left, numbers) = (self.inner::<A::Error>()?, self.numbers);
        let mut bytes = Vec::new();
        while let Some(item) = items.next_element_seed(Value { left, numbers })? {
            bytes.extend_from_slice(&item.to_le_bytes());
        }
        Ok(digest(Kind::Array, &bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u128, A::Error> {
        let (left, numbers) = (self.inner::<A::Error>()?, self.numbers);
        let mut seen: Vec<(u128, u128)> = Vec::new();
        // Hashes of names stand in for the names, and sorting makes the order of members irrelevant.
        while let Some(name) = members.next_key_seed(Name)? {
            seen.push((name, members.next_value_seed(Value { left, numbers })?));
        }
        digest_of(seen).ok_or_else(|| A::Error::custom(twice::TWICE))
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = u128;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u128, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E>(self, value: &str) -> Result<u128, E> {
        Ok(digest(Kind::Text, value.as_bytes()))
    }
}

/// Behind what is there, what is always JSON.
pub(crate) fn write<T: Serialize + ?Sized>(into: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(into, value).expect("a Vec takes every text");
}

/// A text that is known to be one valid JSON value, kept as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Bytes);

impl RawJson {
    /// As [`parse`](Self::parse), for a part of a text that is kept with it instead of copied.
    pub fn parse_within(
        whole: &Bytes,
        part: &str,
    ) -> Result<(Self, Fingerprint), serde_json::Error> {
        let fingerprint = check(part)?;
        Ok((Self(whole.slice_ref(part.trim().as_bytes())), fingerprint))
    }

    /// Checks a text (see [`check`]) and keeps it, with its fingerprint.
    pub fn parse(text: &str) -> Result<(Self, Fingerprint), serde_json::Error> {
        let fingerprint = check(text)?;
        Ok((
            Self(Bytes::copy_from_slice(text.trim().as_bytes())),
            fingerprint,
        ))
    }

    /// An object of texts, written here, with its fingerprint. Panics if two members have one name.
    pub fn of_texts(members: &[(&str, &str)]) -> (Self, Fingerprint) {
        let mut text = Vec::with_capacity(USUAL_TEXTS);
        let mut digests = Vec::with_capacity(members.len());
        for (name, value) in members {
            text.push(if text.is_empty() { b'{' } else { b',' });
            write(&mut text, *name);
            text.push(b':');
            write(&mut text, *value);
            let of_text = |text: &str| digest(Kind::Text, text.as_bytes());
            digests.push((of_text(name), of_text(value)));
        }
        text.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
        let fingerprint = digest_of(digests).expect("each member has a name of its own");
        (Self(text.into()), Fingerprint(fingerprint))
    }

    /// A part of a text that was checked already, and is kept with it.
    pub fn checked_within(whole: &Bytes, part: &str) -> Self {
        Self(whole.slice_ref(part.as_bytes()))
    }

    /// Takes a text that this program itself has written or has checked before.
    pub fn trusted(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked JSON is UTF-8")
    }

    /// Length in bytes, as sent.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: the shortest JSON value has one byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the value is an object.
    pub fn is_object(&self) -> bool {
        self.0.first() == Some(&b'{')
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RawJson {
    /// Takes the value as it stands, unchecked beyond being well-formed: for what we wrote ourselves.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(Bytes::from(String::from(Box::<str>::from(raw)))))
    }
}

impl serde::Serialize for RawJson {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue =
            serde_json::from_str(self.as_str()).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["[1.5-3]", "[1.5+]", "[-1.5-2]", "[0.1e5-1]", "1.5-"] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn equal_values_have_equal_fingerprints() {
        let same = |one: &str, other: &str| {
            assert_eq!(check(one).unwrap(), check(other).unwrap(), "{one} {other}");
        };
        let differ = |one: &str, other: &str| {
            assert_ne!(check(one).unwrap(), check(other).unwrap(), "{one} {other}");
        };
        same(
            r#"{"a":1,"b":[true,null]}"#,
            r#" { "b" : [ true , null ] , "a" : 1.0 } "#,
        );
        same(r#""\u00e9""#, "\"é\"");
        same("100", "1e2");
        differ("1", "\"1\"");
        differ("[1]", "1");
        differ("[1,2]", "[2,1]");
        differ(r#"{"a":{"b":1}}"#, r#"{"b":{"a":1}}"#);
        differ("[[],[]]", "[[]]");
        differ("null", "false");
        differ("0", "false");
        differ("1.5", "1.25");
    }

    #[test]
    fn rows_are_read_in_one_form_only() {
        let rows = rows(r#" {"events": [{"a":1,"\u0062":[2]}, {}]} "#, "events", 2).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((&*rows[0][1].0, rows[0][1].1.get()), ("b", "[2]"));
        for other in [
            r#"{"events":[]}"#,
            r#"{"events":[{},{},{}]}"#,
            r#"{"events":[1]}"#,
            r#"{"events":[{"a":1,"a":1}]}"#,
            r#"{"other":[{}]}"#,
            r#"{"events":[{}],"more":1}"#,
            "[{}]",
            r#"{"events":[{}]} 1"#,
        ] {
            assert!(super::rows(other, "events", 2).is_none(), "{other}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        for bad in [
            "",
            "{",
            r#"{"a":1,"a":2}"#,
            r#"[{"b":{"x":1,"x":1}}]"#,
            "01",
            "[1,]",
            "1 2",
            "NaN",
            &deep,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check(&format!("{}1{}", "[".repeat(64), "]".repeat(64))).is_ok());
        let bottomless = "[".repeat(1_000_000);
        assert!(check(&bottomless).is_err());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i32>().prop_map(|value| json!(value)),
            any::<f32>()
                .prop_filter("a fraction", |value| value.is_finite()
                    && value.fract() != 0.0)
                .prop_map(|value| json!(value)),
            ".{0,8}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|items| json!(items)),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|members| json!(members)),
            ]
        })
    }

    proptest! {
        #[test]
        fn an_object_of_texts_is_what_is_read_of_it(
            members in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..6),
        ) {
            let members: Vec<_> = members.iter().map(|(name, text)| (&**name, &**text)).collect();
            let (written, fingerprint) = RawJson::of_texts(&members);
            let wanted: serde_json::Map<_, _> =
                members.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(written.as_str()).unwrap(), json!(wanted));
            prop_assert_eq!(check(written.as_str()).unwrap(), fingerprint);
        }

        #[test]
        fn spacing_never_matters(value in any_json()) {
            let tight = serde_json::to_string(&value).unwrap();
            let loose = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(check(&tight).unwrap(), check(&loose).unwrap());
        }

        #[test]
        fn different_values_differ(one in any_json(), other in any_json()) {
            let fingerprint = |value: &serde_json::Value| check(&value.to_string()).unwrap();
            prop_assert_eq!(one == other, fingerprint(&one) == fingerprint(&other));
        }
    }
}

//! Which member of an object stands twice. The walk that finds out that one does knows names by their hashes alone; this one
//! is for what is refused.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// What the walk says that knows no names.
pub(super) const TWICE: &str = "an object has two members of the same name";
/// So much of a name is shown, in characters.
const MAX_SHOWN: usize = 64;

/// The same error with the name of the member, and the place where it stands again.
pub(super) fn named(text: &str, error: serde_json::Error) -> serde_json::Error {
    if !error.to_string().starts_with(TWICE) {
        return error;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Named.deserialize(&mut deserializer);
    found.err().unwrap_or(error)
}

struct Named;

impl<'de> DeserializeSeed<'de> for Named {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Named {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if let Some(name) = seen.replace(name) {
                let shown: String = name.chars().take(MAX_SHOWN).collect();
                return Err(A::Error::custom(format_args!(
                    "two members are called {shown:?}"
                )));
            }
            members.next_value_seed(Self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::json::{check, check_around};

    #[test]
    fn the_member_is_named_where_it_stands_again() {
        for (text, said) in [
            (
                r#"{"a":1,"a":2}"#,
                r#"two members are called "a" at line 1 column 10"#,
            ),
            (
                r#"[1.5,-1,true,null,"x",{"b":{"é":1,"\u00e9":[]}}]"#,
                r#"called "é""#,
            ),
            ("{\"a\":[{}],\n\"b\":{\"a\":1},\"a\":3}", "\"a\" at line 2"),
        ] {
            let error = check(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let long = format!("{{{0}:1,{0}:2}}", format_args!("\"{}\"", "n".repeat(1_000)));
        assert!(check(&long).unwrap_err().to_string().len() < 150);
        let other = check_around("{\"a\":1,\"a\":}", 1).unwrap_err().to_string();
        assert!(other.contains("expected value"), "{other}");
    }
}

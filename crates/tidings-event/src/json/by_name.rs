//! Documents are read by the names of their members: what derives `Deserialize` would take an array of their values, too.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// Reads a value in which every struct, however deep, is an object. The error says what stands there instead.
///
/// An enum that has its tag among its members is read by serde's own means, which take an array: whoever has one asks for
/// an object first.
pub fn by_name<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    T::deserialize(ByName(from))
}

/// Around each part that serde hands on, so that it is around the next one too.
struct ByName<T>(T);

/// As [`ByName`], around the visitor of a struct.
struct Members<V>(V);

/// Hands calls on, with what they are given to visit wrapped.
macro_rules! hand_on {
    ($($method:ident($($name:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* ByName(visitor))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ByName<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Members(visitor))
    }

    hand_on! {
        deserialize_any()
        deserialize_bool()
        deserialize_i8()
        deserialize_i16()
        deserialize_i32()
        deserialize_i64()
        deserialize_i128()
        deserialize_u8()
        deserialize_u16()
        deserialize_u32()
        deserialize_u64()
        deserialize_u128()
        deserialize_f32()
        deserialize_f64()
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier()
        deserialize_ignored_any()
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Hands values on as they are.
macro_rules! visit {
    ($($method:ident($($value:ident: $type:ty)?))*) => {
        $(fn $method<E: serde::de::Error>(self, $($value: $type)?) -> Result<V::Value, E> {
            self.0.$method($($value)?)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ByName<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visit! {
        visit_bool(value: bool)
        visit_i64(value: i64)
        visit_i128(value: i128)
        visit_u64(value: u64)
        visit_u128(value: u128)
        visit_f64(value: f64)
        visit_str(value: &str)
        visit_borrowed_str(value: &'de str)
        visit_string(value: String)
        visit_bytes(value: &[u8])
        visit_borrowed_bytes(value: &'de [u8])
        visit_byte_buf(value: Vec<u8>)
        visit_none()
        visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(ByName(some))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(ByName(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(ByName(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(ByName(members))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(ByName(variant))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Members<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(ByName(members))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ByName<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(ByName(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(ByName(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(ByName(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(ByName(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for ByName<A> {
    type Error = A::Error;
    type Variant = ByName<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, variant) = self.0.variant_seed(ByName(seed))?;
        Ok((name, ByName(variant)))
    }
}

/// What a variant with members is read by.
struct Variant<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Variant<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        from.deserialize_map(Members(self.0))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for ByName<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(ByName(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, ByName(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.newtype_variant_seed(Variant(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::RawValue;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        number: i32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Kind {
        None,
        One(Inner),
        Some { inner: Inner },
    }

    #[derive(Debug, Deserialize)]
    struct Outer<'a> {
        id: Uuid,
        #[serde(borrow)]
        raw: &'a RawValue,
        any: Value,
        pair: (i32, bool),
        list: Vec<Inner>,
        map: BTreeMap<String, Inner>,
        option: Option<Inner>,
        kinds: Vec<Kind>,
    }

    fn outer(change: impl FnOnce(&mut Value)) -> String {
        let mut document = json!({
            "id": "01920000-0000-7000-8000-000000000000", "raw": [1], "any": [[1], {"a": null}], "pair": [1, true],
            "list": [{"number": 1}], "map": {"a": {"number": 2}}, "option": {"number": 3},
            "kinds": ["None", {"One": {"number": 4}}, {"Some": {"inner": {"number": 5}}}],
        });
        change(&mut document);
        document.to_string()
    }

    fn read(text: &str) -> Result<Outer<'_>, serde_json::Error> {
        by_name(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn what_is_an_object_is_read_as_without() {
        let text = outer(|_| ());
        let read = read(&text).unwrap();
        assert_eq!((read.id.get_version_num(), read.raw.get()), (7, "[1]"));
        assert_eq!(
            (read.any, read.pair),
            (json!([[1], {"a": null}]), (1, true))
        );
        assert_eq!(read.list, [Inner { number: 1 }]);
        assert_eq!(read.map["a"], Inner { number: 2 });
        assert_eq!(read.option, Some(Inner { number: 3 }));
        let inner = Inner { number: 5 };
        let kinds = [
            Kind::None,
            Kind::One(Inner { number: 4 }),
            Kind::Some { inner },
        ];
        assert_eq!(read.kinds, kinds);
    }

    #[test]
    fn no_struct_is_read_by_the_order_of_its_members() {
        for (place, array) in [
            ("", json!(["x"])),
            ("/list/0", json!([1])),
            ("/map/a", json!([2])),
            ("/option", json!([3])),
            ("/kinds/1/One", json!([4])),
            ("/kinds/2/Some", json!([{"number": 5}])),
            ("/kinds/2/Some/inner", json!([5])),
        ] {
            let text = outer(|document| *document.pointer_mut(place).unwrap() = array);
            let error = read(&text).unwrap_err().to_string();
            let expected = "invalid type: sequence, expected an object at line 1";
            assert!(error.starts_with(expected), "{place}: {error}");
        }
        let inner: Result<Inner, _> = by_name(json!([1]));
        assert!(inner.is_err());
    }
}

//! The canonical form of JSON (RFC 8785) and its hash: what makes two schemas the same.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::vocabulary::without;

/// A value in its canonical form. Numbers are doubles there: whole ones beyond 2^53 are rounded.
pub fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value)
        .expect("a JSON value has string keys and finite numbers, which is all that the form asks")
}

/// The SHA-256 of a schema's canonical form, as 64 lower-case hexadecimal digits.
pub fn schema_hash(schema: &Value) -> String {
    use std::fmt::Write;
    let digest = Sha256::digest(canonical(schema));
    digest
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing into a string cannot fail");
            text
        })
}

/// Whether two schemas differ in `description` annotations at most: what a patch may change.
pub fn same_but_for_descriptions(one: &Value, other: &Value) -> bool {
    let (one, other) = (without("description", one), without("description", other));
    canonical(&one) == canonical(&other) && same_numbers(&one, &other)
}

/// Whether values that are canonically equal are equal before rounding too.
fn same_numbers(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            const EXACT: f64 = 9_007_199_254_740_992.0;
            let small = |number: &serde_json::Number| {
                number.as_f64().is_some_and(|number| number.abs() < EXACT)
            };
            one == other || (small(one) && small(other))
        }
        (Value::Array(one), Value::Array(other)) => one
            .iter()
            .zip(other)
            .all(|(one, other)| same_numbers(one, other)),
        (Value::Object(one), Value::Object(other)) => one.iter().all(|(name, one)| {
            other
                .get(name)
                .is_some_and(|other| same_numbers(one, other))
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        let text = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
            "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            canonical(&value),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        let text = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        let sorted = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}";
        assert_eq!(canonical(&value), sorted);
        for (number, written) in [
            (0.0, "0"),
            (-0.0, "0"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (295_147_905_179_352_830_000.0, "295147905179352830000"),
            (1e21, "1e+21"),
            (9.999_999_999_999_997e22, "9.999999999999997e+22"),
            (0.000_001, "0.000001"),
            (1e-7, "1e-7"),
            (333_333_333.333_333_25, "333333333.33333325"),
        ] {
            assert_eq!(canonical(&json!(number)), written);
        }
    }

    #[test]
    fn a_hash_does_not_see_order_spacing_or_spelling() {
        let hash = |text: &str| schema_hash(&serde_json::from_str(text).unwrap());
        let known = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(hash("{}"), known);
        let one = hash(r#"{"type":"string","maxLength":10}"#);
        assert_eq!(
            one,
            hash("{ \"maxLength\": 1e1,\n \"type\": \"\\u0073tring\" }")
        );
        assert_ne!(
            one,
            hash(r#"{"type":"string","maxLength":10,"description":"d"}"#)
        );
    }

    #[test]
    fn only_descriptions_that_annotate_a_schema_are_left_out() {
        let check = |one: Value, other: Value, same: bool| {
            assert_eq!(
                same_but_for_descriptions(&one, &other),
                same,
                "{one} {other}"
            );
        };
        let told = |text: &str| {
            let part = json!({ "type": "string", "description": text });
            json!({
                "description": text, "properties": { "a": part, "description": { "description": text } },
                "$defs": { "d": part }, "allOf": [part], "prefixItems": [part], "items": part,
                "if": part, "patternProperties": { "^x": part }, "dependentSchemas": { "a": part },
            })
        };
        check(told("one"), told("two"), true);
        check(json!({ "description": "x" }), json!({}), true);
        check(json!({ "title": "x" }), json!({}), false);
        let property = json!({ "properties": { "description": { "type": "string" } } });
        check(property, json!({ "properties": {} }), false);
        for keyword in ["const", "default", "enum", "examples", "x-own"] {
            let with = |text: &str| json!({ keyword: [{ "description": text }] });
            check(with("one"), with("two"), false);
        }
        check(json!({ "const": 1.0 }), json!({ "const": 1 }), true);
        let (near, nearer) = (9_007_199_254_740_993_u64, 9_007_199_254_740_992_u64);
        check(json!({ "const": near }), json!({ "const": nearer }), false);
    }
}

//! Schemas made to do harm: refused with the right code at the right place, or handled.

use std::fmt::Write;

use serde_json::{Value, json};
use tidings_contract::custom::{Class, Code, MAX_PROPERTIES, Refusal, Schema, compare};

fn refusal(schema: Value) -> Refusal {
    match Schema::new(schema) {
        Ok(schema) => panic!("accepted: {:.300}", schema.document().to_string()),
        Err(refusal) => refusal,
    }
}

fn check(schema: Value, code: Code, pointer: &str) {
    let refusal = refusal(schema);
    assert_eq!(
        (refusal.code, refusal.pointer.as_str()),
        (code, pointer),
        "{refusal}"
    );
    assert!(refusal.detail.len() > 20, "{refusal}");
}

/// A property in a property, so deep; the root is 1.
fn nested(depth: usize) -> Value {
    (1..depth).fold(
        json!({}),
        |inner, _| json!({ "properties": { "a": inner } }),
    )
}

#[test]
fn depth_is_counted_in_schemas_through_every_keyword() {
    assert!(Schema::new(nested(5)).is_ok());
    let place = "/properties/a".repeat(5);
    check(nested(6), Code::SchemaTooDeep, &place);
    for (wrap, step) in [
        (json!({ "$defs": { "d": null } }), "/$defs/d"),
        (json!({ "definitions": { "d": null } }), "/definitions/d"),
        (json!({ "allOf": [null] }), "/allOf/0"),
        (json!({ "prefixItems": [null] }), "/prefixItems/0"),
        (json!({ "items": null }), "/items"),
        (json!({ "if": null }), "/if"),
        (
            json!({ "dependentSchemas": { "d": null } }),
            "/dependentSchemas/d",
        ),
        (
            json!({ "patternProperties": { "d": null } }),
            "/patternProperties/d",
        ),
    ] {
        let wrapped = |inner: Value| {
            let mut wrap = wrap.clone();
            if let Some(place) = wrap.pointer_mut(step) {
                *place = inner;
            }
            wrap
        };
        assert!(Schema::new(wrapped(nested(4))).is_ok(), "{step}");
        let place = format!("{step}{}", "/properties/a".repeat(4));
        check(wrapped(nested(5)), Code::SchemaTooDeep, &place);
    }
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    assert!(Schema::new(json!({ "const": deep })).is_ok());
}

#[test]
fn ten_thousand_nested_schemas_or_values_overflow_no_stack() {
    // Dropping such a value is recursive in itself, which is why this has a thread of its own.
    let run = || {
        let nested =
            |wrap: &dyn Fn(Value) -> Value| (0..10_000).fold(json!({}), |inner, _| wrap(inner));
        let all_of = nested(&|inner| {
            [("allOf".to_owned(), Value::Array(vec![inner]))]
                .into_iter()
                .collect()
        });
        assert_eq!(refusal(all_of).code, Code::SchemaTooDeep);
        let constant = [(
            "const".to_owned(),
            nested(&|inner| Value::Array(vec![inner])),
        )];
        assert_eq!(
            refusal(constant.into_iter().collect()).code,
            Code::SchemaTooDeep
        );
    };
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(run);
    assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
    let text = format!(
        "{}{{}}{}",
        "{\"allOf\":[".repeat(10_000),
        "]}".repeat(10_000)
    );
    assert_eq!(
        Schema::read(&text).map_err(|it| it.code).err(),
        Some(Code::InvalidJsonSchema)
    );
}

#[test]
fn properties_are_counted_over_all_levels() {
    let many = |count: usize| -> Value {
        (0..count)
            .map(|index| (format!("p{index}"), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let with = |count: usize| {
        json!({
            "properties": many(count - 30),
            "$defs": { "d": { "properties": many(10) } },
            "items": { "patternProperties": many(10) },
            "anyOf": [{ "properties": many(10) }],
        })
    };
    assert!(Schema::new(with(MAX_PROPERTIES)).is_ok());
    assert_eq!(refusal(with(MAX_PROPERTIES + 1)).code, Code::SchemaTooWide);
    check(
        json!({ "properties": many(51) }),
        Code::SchemaTooWide,
        "/properties",
    );
}

#[test]
fn ways_to_evaluate_are_counted() {
    let chain = |length: usize, times: usize| {
        let link = |index: usize| {
            let next = json!({ "$ref": format!("#/$defs/d{}", index + 1) });
            json!({ "allOf": vec![next; times] })
        };
        let mut links: serde_json::Map<String, Value> = (0..length)
            .map(|index| (format!("d{index}"), link(index)))
            .collect();
        links.insert(format!("d{length}"), json!({ "type": "string" }));
        json!({ "$defs": links, "$ref": "#/$defs/d0" })
    };
    check(chain(30, 2), Code::SchemaTooWide, "");
    assert!(Schema::new(chain(8, 2)).is_ok());
    assert!(Schema::new(chain(30, 1)).is_ok());
    check(chain(100, 1), Code::SchemaTooWide, "");
    assert_eq!(
        refusal(json!({ "anyOf": vec![json!({}); 10_001] })).code,
        Code::SchemaTooWide
    );
}

#[test]
fn references_stay_in_the_document_and_never_come_back() {
    let invalid = Code::InvalidJsonSchema;
    for target in [
        "file:///etc/passwd",
        "http://127.0.0.1:1/x.json",
        "//127.0.0.1/x",
        "other.json#/x",
        "#anchor",
        "",
        "https://json-schema.org/draft/2020-12/schema",
        "#",
        "#/nowhere",
        "#/$defs",
        "#/x-own",
        "#/const",
        "#/%zz",
        "#/%ff",
    ] {
        let schema = json!({ "$ref": target, "x-own": {}, "const": {}, "$defs": { "d": {} } });
        check(schema, invalid, "/$ref");
    }
    assert_eq!(refusal(json!({ "$ref": 1 })).pointer, "/$ref");
    let own = |target: &str| json!({ "$ref": target });
    check(
        json!({ "properties": { "a": own("#/properties/a") } }),
        invalid,
        "/properties/a/$ref",
    );
    check(
        json!({ "properties": { "a": own("#/properties") } }),
        invalid,
        "/properties/a/$ref",
    );
    let ring = json!({ "$defs": { "a": own("#/$defs/b"), "b": { "items": own("#/$defs/a") } } });
    check(ring, invalid, "/$defs/a/$ref");
    for keyword in ["$dynamicRef", "$recursiveRef", "dependencies"] {
        check(
            json!({ "not": { keyword: "#" } }),
            invalid,
            &format!("/not/{keyword}"),
        );
    }
    check(
        json!({ "not": { "$id": "http://a.example/b" } }),
        invalid,
        "/not/$id",
    );
    let named =
        json!({ "$defs": { "a/b~c %": { "type": "string" } }, "$ref": "#/$defs/a~1b~0c%20%25" });
    assert!(Schema::new(named).is_ok_and(|it| it.accepts(&json!("x")) && !it.accepts(&json!(1))));
}

#[test]
fn patterns_run_in_linear_time_or_not_at_all() {
    let evil = Schema::new(json!({ "pattern": "^(a+)+$", "maxLength": 200_000 }));
    let long = "a".repeat(100_000) + "b";
    assert!(evil.is_ok_and(|it| !it.accepts(&json!(long))));
    let invalid = Code::InvalidJsonSchema;
    for pattern in [
        "(?=a)b",
        "(?!a)b",
        "(?<=a)b",
        r"(a)\1",
        "(",
        "a{1000}{1000}{1000}",
        r"(\p{L}{100}){100}",
    ] {
        let schema = json!({ "items": { "pattern": pattern } });
        check(schema, invalid, "/items/pattern");
        let schema = json!({ "patternProperties": { pattern: {} } });
        let place = pattern.replace('~', "~0").replace('/', "~1");
        check(schema, invalid, &format!("/patternProperties/{place}"));
    }
    assert!(Schema::new(json!({ "pattern": "a".repeat(4_096) })).is_ok());
    let schema = json!({ "items": { "pattern": "(".repeat(4_097) } });
    check(schema, Code::SchemaTooWide, "/items/pattern");
    let many: Vec<Value> = (0..101)
        .map(|index| json!({ "pattern": format!("{index}") }))
        .collect();
    assert_eq!(refusal(json!({ "anyOf": many })).code, Code::SchemaTooWide);
}

#[test]
fn large_schemas_are_refused_by_their_size() {
    let values: Vec<String> = (0..100_000).map(|index| format!("value{index}")).collect();
    check(json!({ "enum": values }), Code::SchemaTooWide, "");
    check(
        json!({ "description": "x".repeat(300_000) }),
        Code::SchemaTooWide,
        "",
    );
    let values = |count: usize| {
        let values: Vec<String> = (0..count).map(|index| format!("value{index}")).collect();
        Schema::new(json!({ "enum": values })).map_err(|refusal| refusal.code)
    };
    let (Ok(old), Ok(new)) = (values(15_000), values(15_001)) else {
        panic!("an enumeration within the limit is refused");
    };
    assert_eq!(compare(&old, &new).len(), 1);
}

#[test]
fn odd_names_and_duplicates_do_no_harm() {
    let text = r#"{"properties":{"__proto__":{"type":"string"},"":{"type":"integer"},"constructor":true,"$ref":{"type":"null"}},
        "required":["__proto__",""]}"#;
    let schema = Schema::read(text).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert!(schema.accepts(&json!({ "__proto__": "x", "": 1, "$ref": null })));
    assert!(!schema.accepts(&json!({ "__proto__": 1, "": 1 })));
    assert!(!schema.accepts(&json!({ "": 1 })));
    assert!(!schema.accepts(&json!({ "__proto__": "x", "": 1, "$ref": "#" })));
    for text in [
        r#"{"type":"string","type":"integer"}"#,
        r#"{"a":1,"\u0061":2}"#,
        "{",
        "",
        "{} {}",
        "nul",
    ] {
        let refusal = Schema::read(text).map(|it| it.document().clone()).err();
        assert_eq!(
            refusal.map(|it| it.code),
            Some(Code::InvalidJsonSchema),
            "{text}"
        );
    }
    for schema in [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!({ "type": "strin" }),
        json!({ "items": [] }),
    ] {
        assert_eq!(refusal(schema).code, Code::InvalidJsonSchema);
    }
    check(
        json!({ "$schema": "http://json-schema.org/draft-07/schema#" }),
        Code::InvalidJsonSchema,
        "/$schema",
    );
    check(
        json!({ "properties": { "a": { "nullable": true } } }),
        Code::InvalidJsonSchema,
        "/properties/a/nullable",
    );
    assert!(Schema::new(json!({ "properties": { "nullable": {} } })).is_ok());
}

#[test]
fn comparing_is_bounded_by_steps() {
    let text = (0..9).fold(String::new(), |mut text, index| {
        let _ = write!(
            text,
            r##""d{index}":{{"anyOf":[{{"$ref":"#/$defs/d{}"}},{{"$ref":"#/$defs/d{}"}}]}},"##,
            index + 1,
            index + 1
        );
        text
    });
    let schema = |last: &str| {
        let text = format!(r##"{{"$defs":{{{text}"d9":{last}}},"$ref":"#/$defs/d0"}}"##);
        Schema::read(&text).unwrap_or_else(|refusal| panic!("{refusal}"))
    };
    let differences = compare(
        &schema(r#"{"type":"integer"}"#),
        &schema(r#"{"type":"string"}"#),
    );
    assert!(
        differences.iter().any(|it| it.class == Class::Major),
        "{differences:?}"
    );
}

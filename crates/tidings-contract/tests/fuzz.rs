//! Whatever stands in a document: nothing panics, what is read holds together, and whatever can be read can be compared,
//! written down, merged and checked against; so it is with schemas of custom events. Runs a few seconds as a test, and as long as wanted with `make fuzz`.

use std::sync::LazyLock;

use bolero::check;
use serde_json::Value;
use tidings_contract::custom::{Class, Schema, compare, counter_example};
use tidings_contract::{Catalog, diff, documentation, installation};

const SHIPPED: [&str; 2] = [
    include_str!("../../../examples/catalogs/cpaas.asyncapi.yaml"),
    include_str!("../../../examples/catalogs/marketplace.asyncapi.yaml"),
];

static OTHER: LazyLock<Catalog> =
    LazyLock::new(|| Catalog::parse(SHIPPED[0]).unwrap_or_else(|faults| panic!("{faults:?}")));

/// Whatever can be done with a catalogue.
fn use_it(catalog: &Catalog) {
    let other: &Catalog = &OTHER;
    assert_eq!(diff(catalog, catalog), []);
    diff(catalog, other);
    assert!(documentation(catalog).contains(&*catalog.title.replace('<', "&lt;")));
    let merged = installation("1.0.0", &[("a", catalog), ("b", other)], &[]);
    assert_eq!(merged["asyncapi"], "3.0.0");
    for channel in catalog.channels.values() {
        channel.contract.check(&Value::Null);
        if let Some(subject) = &channel.subject {
            subject.of("acme", &Value::Null);
        }
    }
}

#[test]
fn any_text() {
    check!()
        .with_type()
        .for_each(|text: &String| match Catalog::parse(text) {
            Ok(catalog) => use_it(&catalog),
            Err(faults) => assert!(!faults.is_empty()),
        });
}

/// A shipped document with a stretch of it replaced: mostly still YAML, seldom still a catalogue.
#[test]
fn a_shipped_document_with_a_hole() {
    let generator = bolero::generator::produce::<(bool, u16, u8, String)>();
    check!()
        .with_generator(generator)
        .for_each(|(which, at, length, with)| {
            let text = SHIPPED[usize::from(*which)];
            let at = usize::from(*at) % text.len();
            let end = (at + usize::from(*length)).min(text.len());
            if !text.is_char_boundary(at) || !text.is_char_boundary(end) {
                return;
            }
            let changed = [&text[..at], with, &text[end..]].concat();
            match Catalog::parse(&changed) {
                Ok(catalog) => use_it(&catalog),
                Err(faults) => assert!(!faults.is_empty()),
            }
        });
}

const SCHEMAS: [&str; 3] = [
    r##"{"type":"object","properties":{"id":{"type":"string","maxLength":64},"at":{"type":"string","format":"date-time"},
        "tags":{"type":"array","items":{"$ref":"#/$defs/tag"},"uniqueItems":true}},"required":["id"],
        "additionalProperties":false,"$defs":{"tag":{"enum":["a","b",null]}}}"##,
    r#"{"oneOf":[{"properties":{"kind":{"const":"a"},"x":{"multipleOf":0.5,"minimum":-1}},"required":["kind"]},
        {"prefixItems":[true,{"not":{"type":"integer"}}],"items":false,"contains":{"const":1}}],
        "if":{"minProperties":2},"then":{"dependentRequired":{"x":["y"]}},"unevaluatedProperties":false}"#,
    r##"{"allOf":[{"$ref":"#/$defs/base"}],"patternProperties":{"^x-[a-z]+$":{"type":["string","null"]}},
        "dependentSchemas":{"x-a":{"maxProperties":3}},"propertyNames":{"maxLength":9},"$defs":{"base":{"type":"object"}}}"##,
];

/// Whatever can be done with the text of a schema.
fn evolve(text: &str, other: &Schema) {
    let Ok(schema) = Schema::read(text) else {
        return;
    };
    assert_eq!(schema.hash().len(), 64);
    assert_eq!(compare(&schema, &schema), []);
    assert_eq!(counter_example(&schema, &schema), None);
    for (old, new) in [(&schema, other), (other, &schema)] {
        let breaking = compare(old, new).iter().any(|it| it.class == Class::Major);
        if let Some(payload) = counter_example(old, new) {
            assert!(
                breaking,
                "{payload} is refused by {text}, or by what came before it"
            );
            assert!(old.accepts(&payload) && new.refusals(&payload).len() <= 20);
        }
    }
}

/// A schema with a stretch of it replaced, against itself as it was: registration and classification.
#[test]
fn a_custom_schema_with_a_hole() {
    static WHOLE: LazyLock<Vec<Schema>> = LazyLock::new(|| {
        let read = |text: &&str| Schema::read(text).unwrap_or_else(|refusal| panic!("{refusal}"));
        SCHEMAS.iter().map(read).collect()
    });
    let generator = bolero::generator::produce::<(u8, u16, u8, String)>();
    check!()
        .with_generator(generator)
        .for_each(|(which, at, length, with)| {
            let which = usize::from(*which) % SCHEMAS.len();
            let text = SCHEMAS[which];
            let at = usize::from(*at) % text.len();
            let end = (at + usize::from(*length % 16)).min(text.len());
            evolve(&[&text[..at], with, &text[end..]].concat(), &WHOLE[which]);
            // Words of another schema make more that can still be read.
            let other = SCHEMAS[(which + 1) % SCHEMAS.len()];
            let start = at % other.len();
            let piece = &other[start..(start + usize::from(*length)).min(other.len())];
            evolve(&[&text[..at], piece, &text[end..]].concat(), &WHOLE[which]);
        });
}

/// Any text at all.
#[test]
fn any_text_as_a_custom_schema() {
    static ANY: LazyLock<Schema> =
        LazyLock::new(|| Schema::read("{}").unwrap_or_else(|refusal| panic!("{refusal}")));
    check!()
        .with_type()
        .for_each(|text: &String| evolve(text, &ANY));
}

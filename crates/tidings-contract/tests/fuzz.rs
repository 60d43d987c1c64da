//! Whatever stands in a document: nothing panics, what is read holds together, and whatever can be read can be compared,
//! written down, merged and checked against. Runs a few seconds as a test, and as long as wanted with `make fuzz`.

use std::sync::LazyLock;

use bolero::check;
use serde_json::Value;
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

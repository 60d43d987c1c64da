//! What schemas and payloads made to do harm take of the memory. The allocator counts for the whole process, so this is the only test here.

use peak_alloc::PeakAlloc;
use serde_json::{Value, json};
use tidings_contract::custom::{Schema, compare};

mod hostile_documents;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Of one schema, from its text to the comparison with itself.
const MOST_BYTES: usize = 10_000_000;

#[test]
fn no_schema_and_no_payload_takes_more_than_ten_megabytes() {
    let payload = json!({ "a": "a".repeat(10_000) });
    for (name, text) in hostile_documents::documents() {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        if let Ok(schema) = Schema::read(&text) {
            schema.accepts(&payload);
            compare(&schema, &schema);
        }
        let taken = MEMORY.peak_usage() - before;
        println!("{name}: {taken} bytes");
        assert!(taken < MOST_BYTES, "{name} takes {taken} bytes");
    }
    no_payload_does_either();
}

/// Payloads that fit nothing, of the most bytes that a payload has.
fn no_payload_does_either() {
    let bounds: Vec<Value> = (1..9_900).map(|n| json!({ "maximum": -n })).collect();
    let lengths = vec![json!({ "maxLength": 1 }); 9_900];
    let few = &bounds[..50];
    let (text, numbers) = (json!("a".repeat(250_000)), json!(vec![1; 120_000]));
    for (schema, payload) in [
        (json!({ "anyOf": lengths }), &text),
        (json!({ "oneOf": lengths }), &text),
        (json!({ "anyOf": lengths[..20] }), &text),
        (json!({ "items": { "allOf": bounds } }), &numbers),
        (json!({ "items": { "anyOf": few } }), &numbers),
        (json!({ "items": { "maximum": 0 } }), &numbers),
        (json!({ "items": { "anyOf": few } }), &json!(vec![1; 150])),
        (
            json!({ "items": { "const": "a".repeat(100_000) } }),
            &json!(vec![1; 1_000]),
        ),
    ] {
        let schema = Schema::new(schema).expect("it keeps the caps");
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let violations = schema.check(payload);
        let taken = MEMORY.peak_usage() - before;
        let shown = schema.document().to_string();
        println!("{shown:.40} takes {taken} bytes");
        assert!(
            !violations.is_empty() && taken < MOST_BYTES,
            "{shown:.40} takes {taken} bytes"
        );
    }
}

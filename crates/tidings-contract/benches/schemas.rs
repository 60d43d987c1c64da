//! What the contract of custom events costs: `make bench-schemas`. Schemas made to do harm stand beside an ordinary one of
//! 20 properties.

#[path = "../tests/hostile_documents/mod.rs"]
mod hostile_documents;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Map, Value, json};
use tidings_contract::custom::{Schema, compare};

/// A schema of so many properties, all of which a payload must have.
fn ordinary(count: usize) -> Value {
    let names: Vec<String> = (0..count).map(|index| format!("property{index}")).collect();
    let properties: Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), json!({ "type": "string", "maxLength": 100 })))
        .collect();
    json!({ "type": "object", "properties": properties, "required": names })
}

fn schemas(criterion: &mut Criterion) {
    let text = ordinary(20).to_string();
    let schema = Schema::read(&text).expect("a schema");
    let wider = Schema::new(ordinary(21)).expect("a schema");
    let payload: Map<String, Value> = (0..20)
        .map(|index| (format!("property{index}"), json!("x".repeat(40))))
        .collect();
    let payload = Value::Object(payload);
    assert!(schema.accepts(&payload));
    criterion.bench_function("read a schema of 20 properties", |bench| {
        bench.iter(|| Schema::read(black_box(&text)).is_ok());
    });
    criterion.bench_function("hold a payload of 1 KB to it", |bench| {
        bench.iter(|| schema.accepts(black_box(&payload)));
    });
    criterion.bench_function("compare it with one of 21", |bench| {
        bench.iter(|| compare(black_box(&schema), &wider));
    });
}

fn hostile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refuse or read");
    group.sample_size(10);
    for (name, text) in hostile_documents::documents() {
        group.bench_function(name, |bench| {
            bench.iter(|| Schema::read(black_box(&text)).is_ok());
        });
    }
}

criterion_group!(benches, schemas, hostile);
criterion_main!(benches);

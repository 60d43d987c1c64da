//! What schemas made to do harm take of the memory. The allocator counts for the whole process, so this is the only test here.

use peak_alloc::PeakAlloc;
use serde_json::json;
use tidings_contract::custom::{Schema, compare};

mod hostile_documents;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Of one schema, from its text to the comparison with itself.
const MOST_BYTES: usize = 10_000_000;

#[test]
fn no_schema_takes_more_than_ten_megabytes() {
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
}

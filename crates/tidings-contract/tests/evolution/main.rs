//! The law of versions, on generated pairs: what is called compatible refuses no payload that was accepted, and a
//! counter-example is one. Payloads are made apart from the code that looks for counter-examples.

mod choices;
mod schemas;

use std::cell::Cell;

use choices::Choices;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use tidings_contract::custom::{
    Bump, Class, Proposal, Schema, Version, compare, counter_example, judge,
};

/// Pairs in one run.
const PAIRS: u32 = 10_000;
/// Payloads tried on each.
const PAYLOADS: usize = 24;

/// Chooses the pairs. A run is repeated by it, and others are made by another: what one of them finds belongs
/// into `labelled.json`.
const SEED: &str = "TIDINGS_SEED";

/// What came out, so that a generator gone dull is seen.
#[derive(Default)]
struct Tally {
    refused: Cell<u32>,
    same: Cell<u32>,
    compatible: Cell<u32>,
    breaking: Cell<u32>,
    shown: Cell<u32>,
    accepted: Cell<u32>,
}

fn up(count: &Cell<u32>) {
    count.set(count.get() + 1);
}

fn hold(bytes: &[u8], tally: &Tally) -> Result<(), TestCaseError> {
    let mut choices = Choices::new(bytes);
    let first = schemas::root(&mut choices);
    let second = schemas::evolved(&first, &mut choices);
    let (Ok(old), Ok(new)) = (Schema::new(first.clone()), Schema::new(second.clone())) else {
        up(&tally.refused);
        return Ok(());
    };
    let differences = compare(&old, &new);
    let worst = differences.iter().map(|it| it.class).max();
    if worst == Some(Class::Major) {
        up(&tally.breaking);
        if let Some(payload) = counter_example(&old, &new) {
            up(&tally.shown);
            prop_assert!(
                old.accepts(&payload) && !new.accepts(&payload),
                "{}",
                payload
            );
        }
        return Ok(());
    }
    up(if worst.is_none() {
        &tally.same
    } else {
        &tally.compatible
    });
    let example = counter_example(&old, &new);
    prop_assert_eq!(
        example,
        None,
        "{} then {}: {:?}",
        first,
        second,
        differences
    );
    for index in 0..PAYLOADS {
        let payload: Value = schemas::payload(&first, &second, index, &mut choices);
        if old.accepts(&payload) {
            up(&tally.accepted);
            let fits = new.accepts(&payload);
            prop_assert!(
                fits,
                "{} then {} refuses {}: {:?}",
                first,
                second,
                payload,
                differences
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_called_compatible_accepts_all_that_was_accepted() {
    let tally = Tally::default();
    let config = Config {
        cases: PAIRS + PAIRS / 10,
        failure_persistence: None,
        ..Config::default()
    };
    let seed: u64 = std::env::var(SEED).map_or(0, |seed| seed.parse().expect("a number"));
    println!("{SEED}={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let pairs = proptest::collection::vec(any::<u8>(), 64..512);
    if let Err(error) = runner.run(&pairs, |bytes| hold(&bytes, &tally)) {
        panic!("{error}");
    }
    let refused = tally.refused.get();
    assert!(refused < PAIRS / 10, "{refused} pairs were no schemas");
    let [compatible, breaking, shown, accepted] = [
        &tally.compatible,
        &tally.breaking,
        &tally.shown,
        &tally.accepted,
    ]
    .map(Cell::get);
    println!(
        "{} the same, {compatible} compatible, {breaking} breaking, {shown} of them shown",
        tally.same.get()
    );
    println!("{accepted} payloads accepted by the old of a compatible pair");
    assert!(
        compatible > PAIRS / 10,
        "{compatible} compatible pairs are too few to prove anything"
    );
    assert!(
        shown > breaking / 4,
        "{shown} of {breaking} breaking pairs were shown"
    );
    assert!(
        accepted > compatible,
        "{accepted} accepted payloads are too few"
    );
}

#[test]
fn a_patch_or_minor_version_is_accepted_only_if_its_change_is() {
    let text = |it: Value| Schema::new(it).unwrap_or_else(|refusal| panic!("{refusal}"));
    let version = |text: &str| Version::parse(text).unwrap_or_else(|refusal| panic!("{refusal}"));
    let closed = |extra: &str| {
        serde_json::json!({
            "type": "object", "description": extra, "additionalProperties": false,
            "properties": { "a": { "type": "string" }, extra: { "type": "integer" } },
        })
    };
    let old = text(closed("b"));
    let verdict = |to: &str, schema: &Value, example: Option<&Value>| {
        let proposal = Proposal {
            version: Some(version(to)),
            schema,
            example,
        };
        let judgement = judge(&proposal, &[version("1.0.0")], Some(&old));
        if judgement.refusals.is_empty() {
            return judgement.bump.map_or("", Bump::as_str).to_owned();
        }
        let told = judgement.refusals.iter().map(|it| {
            let (code, example) = (it.code.as_str(), &it.counter_example);
            format!("{code} {} {example:?}", it.pointer)
        });
        told.collect::<Vec<String>>().join("; ")
    };
    let mut told = closed("b");
    told["description"] = "other words".into();
    let mut wider = closed("b");
    wider["properties"]["c"] = serde_json::json!({ "type": "null" });
    let renamed = closed("c");
    let byte_equal = "patch_must_be_byte_equal";
    assert_eq!(verdict("1.0.1", &told, None), "patch");
    assert_eq!(verdict("1.1.0", &told, None), "minor");
    assert_eq!(
        verdict("1.0.1", &wider, None),
        format!("{byte_equal} /properties/c None")
    );
    assert_eq!(verdict("1.1.0", &wider, None), "minor");
    assert_eq!(verdict("2.0.0", &renamed, None), "major");
    let breaking = verdict("1.1.0", &renamed, None);
    let place = "minor_must_be_backwards_compatible /properties/b Some(Object {\"b\": Number(";
    assert!(breaking.starts_with(place), "{breaking}");
    assert!(verdict("1.0.1", &renamed, None).starts_with(byte_equal));
    let (fits, fails) = (
        serde_json::json!({ "a": "x" }),
        serde_json::json!({ "a": 1 }),
    );
    assert_eq!(verdict("1.1.0", &wider, Some(&fits)), "minor");
    let both = "payload_example_does_not_match_schema /a None; version_invalid_jump  None";
    assert_eq!(verdict("1.2.0", &wider, Some(&fails)), both);
}

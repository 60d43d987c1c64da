//! Pairs of schemas that a person has judged (`labelled.json`): `compare` must say the same, and must show a payload
//! for whatever it calls breaking, unless the pair only cannot be shown compatible.

use serde_json::Value;
use tidings_contract::custom::{Class, Difference, Schema, compare, counter_example};

/// Breaking by the rule, though no payload is refused: the judgement is a conservative one.
const CONSERVATIVE: [&str; 1] = ["a pattern is another, though a wider one"];

fn worst(differences: &[Difference]) -> &'static str {
    differences
        .iter()
        .map(|it| it.class)
        .max()
        .map_or("same", Class::as_str)
}

#[test]
fn a_person_and_the_contract_judge_alike() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("labelled.json")).unwrap();
    assert!(rows.len() >= 80, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let (title, class) = (
            row["title"].as_str().unwrap(),
            row["class"].as_str().unwrap(),
        );
        let schema = |name: &str| Schema::new(row[name].clone()).unwrap();
        let (old, new) = (schema("old"), schema("new"));
        let differences = compare(&old, &new);
        if worst(&differences) != class {
            wrong.push(format!(
                "{title}: a person says {class}, not {differences:?}"
            ));
        }
        let example = counter_example(&old, &new);
        let wanted = class == "major" && !CONSERVATIVE.contains(&title);
        if example.is_some() != wanted {
            wrong.push(format!(
                "{title} ({class}): the counter-example is {example:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! One verdict on one registration: its schema, its example, its version and what the version may change.

use std::cmp::Reverse;

use serde_json::Value;

use super::canonical::same_but_for_descriptions;
use super::compare::{Class, compare};
use super::payload_samples::counter_example;
use super::{Bump, Code, Difference, Refusal, Schema, Version};

/// What somebody wants to register, or asks about in a dry run.
#[derive(Debug, Clone, Copy)]
pub struct Proposal<'p> {
    /// The version; `None` when what was given for one is none, which is its own refusal.
    pub version: Option<Version>,
    /// `payloadSchema`.
    pub schema: &'p Value,
    /// `payloadExample`.
    pub example: Option<&'p Value>,
}

/// What is to be said of a proposal. It may stand when nothing refuses it.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Its schema, compiled; `None` when it is refused.
    pub schema: Option<Schema>,
    /// Which step its version is; `None` when it is no step that may be taken.
    pub bump: Option<Bump>,
    /// The version it was held against.
    pub before: Option<Version>,
    /// What it changes of that version.
    pub differences: Vec<Difference>,
    /// All that speaks against it, in the order schema, example, version, change.
    pub refusals: Vec<Refusal>,
}

/// Judges a proposal against the versions that stand. `before` is the schema of the one that
/// [`Version::follows`] says it is held against. Nothing is refused halfway.
pub fn judge(proposal: &Proposal<'_>, standing: &[Version], before: Option<&Schema>) -> Judgement {
    let mut refusals = Vec::new();
    let schema = Schema::new(proposal.schema.clone());
    let schema = schema.map_err(|refusal| refusals.push(refusal)).ok();
    if let (Some(schema), Some(example)) = (&schema, proposal.example) {
        refusals.extend(schema.violations(example, Code::PayloadExampleDoesNotMatchSchema));
    }
    let step = proposal.version.map(|version| version.follows(standing));
    let step = step.and_then(|step| step.map_err(|refusal| refusals.push(refusal)).ok());
    let mut differences = Vec::new();
    if let (Some(new), Some((bump, Some(version))), Some(old)) = (&schema, step, before) {
        differences = compare(old, new);
        refusals.extend(too_much(bump, version, (old, new), &differences));
    }
    Judgement {
        schema,
        bump: step.map(|(bump, _)| bump),
        before: step.and_then(|(_, before)| before),
        differences,
        refusals,
    }
}

/// The refusals of what changes more than its step allows, the worst first.
fn too_much(
    bump: Bump,
    before: Version,
    (old, new): (&Schema, &Schema),
    differences: &[Difference],
) -> Vec<Refusal> {
    let most = match bump {
        Bump::Patch if same_but_for_descriptions(old.document(), new.document()) => {
            return Vec::new();
        }
        Bump::Patch => Class::Patch,
        Bump::Minor => Class::Minor,
        Bump::Initial | Bump::Major => return Vec::new(),
    };
    let (code, rule) = if most == Class::Patch {
        let rule = format!("a patch of {before} may change descriptions only");
        (Code::PatchMustBeByteEqual, rule)
    } else {
        let rule = format!("a minor version must accept every payload that {before} accepts");
        (Code::MinorMustBeBackwardsCompatible, rule)
    };
    let refusal = |class: Class, pointer: &str, what: &str| {
        let instead = match class {
            Class::Major => "register it as the next major version",
            _ => "register it as the next minor version",
        };
        Refusal::new(code, pointer, format!("{rule}, but {what}; {instead}"))
    };
    let mut beyond: Vec<&Difference> = differences.iter().filter(|it| it.class > most).collect();
    beyond.sort_by_key(|it| Reverse(it.class));
    let Some(worst) = beyond.first().map(|it| it.class) else {
        let rewritten = refusal(Class::Minor, "", "the schema is written differently");
        return (most == Class::Patch)
            .then_some(rewritten)
            .into_iter()
            .collect();
    };
    let refusals = beyond.iter();
    let mut refusals: Vec<Refusal> = refusals
        .map(|it| refusal(it.class, &it.pointer, &it.detail))
        .collect();
    if worst == Class::Major {
        // It speaks against them all together.
        refusals[0].counter_example = counter_example(old, new).map(Box::new);
    }
    refusals
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_that_is_too_much_for_a_step_is_told_the_worst_first() {
        let old = Schema::new(json!({
            "properties": { "a": { "maxLength": 9 }, "b": {}, "c": { "enum": [1] } },
            "additionalProperties": false,
        }));
        let new = json!({
            "properties": { "a": { "maxLength": 8 }, "c": { "enum": [1, 2] } },
            "additionalProperties": false,
        });
        let (standing, old) = (Version::parse("1.0.0").unwrap(), old.unwrap());
        let judged = |version: &str| {
            let proposal = Proposal {
                version: Version::parse(version).ok(),
                schema: &new,
                example: None,
            };
            let refusals = judge(&proposal, &[standing], Some(&old)).refusals;
            let shown = refusals.iter().map(|it| {
                let shown = it.counter_example.is_some();
                (it.code.as_str(), it.pointer.clone(), shown)
            });
            shown.collect::<Vec<_>>()
        };
        let minor = "minor_must_be_backwards_compatible";
        let (a, b) = ("/properties/a/maxLength", "/properties/b");
        assert_eq!(
            judged("1.1.0"),
            [(minor, a.into(), true), (minor, b.into(), false)]
        );
        let patch = judged("1.0.1");
        assert_eq!(patch.len(), 3, "{patch:?}");
        assert_eq!(patch[2].1, "/properties/c/enum");
    }
}

//! One verdict on one registration: its schema, its example, its version and what the version may change.

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

/// The refusal of a change that is larger than its step allows.
fn too_much(
    bump: Bump,
    before: Version,
    (old, new): (&Schema, &Schema),
    differences: &[Difference],
) -> Option<Refusal> {
    let most = match bump {
        Bump::Patch if same_but_for_descriptions(old.document(), new.document()) => return None,
        Bump::Patch => Class::Patch,
        Bump::Minor => Class::Minor,
        Bump::Initial | Bump::Major => return None,
    };
    let worst = differences
        .iter()
        .filter(|it| it.class > most)
        .max_by_key(|it| it.class);
    let (pointer, what) = match worst {
        Some(worst) => (worst.pointer.clone(), worst.detail.as_str()),
        None if most == Class::Minor => return None,
        None => (String::new(), "the schema is written differently"),
    };
    let (code, rule) = if most == Class::Patch {
        let rule = format!("a patch of {before} may change descriptions only");
        (Code::PatchMustBeByteEqual, rule)
    } else {
        let rule = format!("a minor version must accept every payload that {before} accepts");
        (Code::MinorMustBeBackwardsCompatible, rule)
    };
    let instead = match worst.map(|it| it.class) {
        Some(Class::Major) => "register it as the next major version",
        _ => "register it as the next minor version",
    };
    let mut refusal = Refusal::new(code, pointer, format!("{rule}, but {what}; {instead}"));
    if worst.is_some_and(|it| it.class == Class::Major) {
        refusal.counter_example = counter_example(old, new).map(Box::new);
    }
    Some(refusal)
}

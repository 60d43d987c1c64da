//! Whether an event that may be published is fit to be: version, size, contract, key. Pure.

use serde_json::Value;
use tidings_contract::Violation;
use tidings_event::{Code, Data, EventType, MAX_DATA_BYTES, SchemaVersion, TenantId};

use super::Trail;
use super::authorise::{Authorised, Shaped, whole};
use super::command::{Custom, Draft, Emit, MAX_DEPTH};
use super::refusal::{Fault, Refusal, Rule};
use crate::access::Caller;
use crate::rulebook::{Carried, Rulebook};

/// One event that nothing speaks against.
pub(super) struct ValidDraft {
    pub(super) event_type: EventType,
    pub(super) schema_version: SchemaVersion,
    pub(super) draft: Draft,
}

/// Events that nothing speaks against: a batch is checked whole before any of it goes on.
pub(crate) struct Valid {
    pub(super) entries: Vec<ValidDraft>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
}

/// Checks each event; the answer to a batch is that of the earliest rule broken.
pub(crate) fn validate(
    authorised: Authorised,
    rulebook: &Rulebook,
    trail: &mut Trail,
) -> Result<Valid, Refusal> {
    let Authorised {
        entries,
        caller,
        tenant,
        traceparent,
        alone,
    } = authorised;
    let entries = entries
        .into_iter()
        .map(|entry| valid(entry?, rulebook, trail))
        .collect();
    Ok(Valid {
        entries: whole(entries, alone)?,
        caller,
        tenant,
        traceparent,
        alone,
    })
}

fn valid(entry: Shaped, rulebook: &Rulebook, trail: &mut Trail) -> Result<ValidDraft, Refusal> {
    let Shaped { event_type, draft } = entry;
    let schema_version = schema_version(draft.schema_version.as_deref(), trail)?;
    if let Some(Custom::Emit(emit)) = &draft.custom {
        emitted(emit, &draft, trail)?;
    } else {
        data_size(draft.data.len(), trail)?;
        contract(&event_type, &draft, rulebook, trail)?;
    }
    if let Some(key) = &draft.idempotency_key {
        idempotency_key(key)?;
    }
    trail.pass(Rule::Idempotency, || match &draft.idempotency_key {
        Some(_) if matches!(draft.custom, Some(Custom::Emit(_))) => {
            "A repeat of this key answers the first result as long as the emit is kept, and is refused for another body.".into()
        }
        Some(_) => "A repeat of this key within 24 h answers the first receipt, and is refused for another body.".into(),
        None if draft.cloud.is_some() => "source and id are the idempotency key.".into(),
        None => "No key given: one is made.".into(),
    });
    Ok(ValidDraft {
        event_type,
        schema_version,
        draft,
    })
}

fn schema_version(given: Option<&str>, trail: &mut Trail) -> Result<SchemaVersion, Refusal> {
    let version = match given {
        None => SchemaVersion::default(),
        Some(text) => text
            .parse()
            .map_err(|error: tidings_event::InvalidSchemaVersion| {
                Refusal::new(
                    Code::InvalidSchemaVersion,
                    Rule::SchemaVersion,
                    format!("{error}."),
                )
                .field("schemaVersion")
            })?,
    };
    trail.pass(Rule::SchemaVersion, || {
        format!("The schema version is {version}.")
    });
    Ok(version)
}

fn data_size(actual: usize, trail: &mut Trail) -> Result<(), Refusal> {
    if actual > MAX_DATA_BYTES {
        return Err(Refusal::new(
            Code::EventPayloadTooLarge,
            Rule::DataSize,
            format!("data has {actual} bytes; {MAX_DATA_BYTES} (1 MB) is the limit."),
        )
        .field("data")
        .limit(MAX_DATA_BYTES, actual));
    }
    trail.pass(Rule::DataSize, || {
        format!("data has {actual} of {MAX_DATA_BYTES} bytes.")
    });
    Ok(())
}

fn contract(
    event_type: &EventType,
    draft: &Draft,
    rulebook: &Rulebook,
    trail: &mut Trail,
) -> Result<(), Refusal> {
    let Some(carried) = rulebook.enforced(event_type) else {
        trail.pass(Rule::Contract, || {
            format!("No contract is in force for '{event_type}'.")
        });
        return Ok(());
    };
    let source = source(draft, carried);
    if !source.is_empty() {
        return Err(violated(event_type, carried, "source", source));
    }
    let violations = match &draft.data {
        Data::Json(json) => {
            let value: Value = serde_json::from_str(json.as_str())
                .map_err(|error| Refusal::fault("Reading checked JSON", &error))?;
            carried.contract.check(&value)
        }
        other => vec![Violation {
            path: String::new(),
            expected: "JSON".into(),
            got: if other.is_empty() {
                "nothing"
            } else {
                "other data"
            }
            .into(),
            detail: "the data is not JSON".into(),
        }],
    };
    if !violations.is_empty() {
        return Err(violated(event_type, carried, "data", violations));
    }
    trail.pass(Rule::Contract, || {
        let catalog = &carried.catalog;
        format!("data fits the contract of '{event_type}' in catalogue '{catalog}'.")
    });
    Ok(())
}

/// Source D's rules for an emit: its payload, then how deep its chain of causes is. Who asks has measured it already.
fn emitted(emit: &Emit, draft: &Draft, trail: &mut Trail) -> Result<(), Refusal> {
    let Some(registered) = &emit.registered else {
        return Ok(());
    };
    let payload: Value = serde_json::from_slice(draft.data.as_bytes())
        .map_err(|error| Refusal::fault("Reading checked JSON", &error))?;
    let violations = registered.schema.check(&payload);
    if !violations.is_empty() {
        let of = format!("the schema of {}", registered.name);
        return Err(unfit(Code::PayloadInvalid, "payload", &of, violations));
    }
    trail.pass(Rule::Contract, || {
        format!("payload fits the schema of {}.", registered.name)
    });
    if draft.cause.is_some_and(|cause| cause.depth > MAX_DEPTH) {
        let detail = format!(
            "{MAX_DEPTH} events have caused one another already; a chain of causes is no longer than that."
        );
        let refusal = Refusal::new(Code::ChainDepthExceeded, Rule::Contract, detail);
        let limit = usize::try_from(MAX_DEPTH).unwrap_or_default();
        return Err(refusal.field("causationId").limit(limit, limit + 1));
    }
    Ok(())
}

/// A CloudEvent keeps its source, which on a catalogue's topic is its sender.
fn source(draft: &Draft, carried: &Carried) -> Vec<Violation> {
    let given = draft.cloud.as_ref().map(|cloud| &cloud.source);
    let (Some(given), Some(sender)) = (given, &carried.sender) else {
        return Vec::new();
    };
    if given == sender {
        return Vec::new();
    }
    vec![Violation {
        path: String::new(),
        expected: sender.clone(),
        got: "another source".into(),
        detail: format!("it must be the sender, {sender:?}"),
    }]
}

fn violated(
    event_type: &EventType,
    carried: &Carried,
    field: &str,
    violations: Vec<Violation>,
) -> Refusal {
    let catalog = &carried.catalog;
    let of = format!("the contract of '{event_type}' in catalogue '{catalog}'");
    unfit(Code::EventSchemaViolation, field, &of, violations)
}

fn unfit(code: Code, field: &str, of: &str, violations: Vec<Violation>) -> Refusal {
    let mut detail = format!("{field} does not fit {of}");
    if let Some(first) = violations.first() {
        let place = match first.path.as_str() {
            "" => String::new(),
            path => format!("at {path}, "),
        };
        detail = format!("{detail}: {place}{}", first.detail);
    }
    if violations.len() > 1 {
        detail = format!("{detail} (and {} more)", violations.len() - 1);
    }
    let mut refusal = Refusal::new(code, Rule::Contract, format!("{detail}.")).field(field);
    let faults = violations.into_iter().map(|violation| Fault {
        expected: Some(violation.expected),
        got: Some(violation.got),
        ..Fault::at(code, violation.path, violation.detail)
    });
    refusal.errors = faults.collect();
    refusal
}

pub(crate) fn idempotency_key(key: &str) -> Result<(), Refusal> {
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InvalidIdempotencyKey,
        Rule::Idempotency,
        "The idempotency key must be 1 to 255 visible ASCII characters without spaces, and the only one.",
    )
    .field("idempotencyKey"))
}

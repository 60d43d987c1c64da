//! Whether an event that may be published is fit to be: version, size, key. Pure.

use tidings_event::{Code, EventType, MAX_DATA_BYTES, SchemaVersion, TenantId};

use super::Trail;
use super::authorise::{Authorised, Shaped, whole};
use super::command::Draft;
use super::refusal::{Refusal, Rule};
use crate::access::Caller;

/// One event that nothing speaks against.
pub(super) struct ValidDraft {
    pub(super) event_type: EventType,
    pub(super) schema_version: SchemaVersion,
    pub(super) draft: Draft,
}

/// Events that nothing speaks against: a batch is checked whole before any of it goes on.
pub struct Valid {
    pub(super) entries: Vec<ValidDraft>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
}

/// Checks each event; the answer to a batch is that of the earliest rule broken.
pub fn validate(authorised: Authorised, trail: &mut Trail) -> Result<Valid, Refusal> {
    let Authorised {
        entries,
        caller,
        tenant,
        traceparent,
        alone,
    } = authorised;
    let entries = entries
        .into_iter()
        .map(|entry| valid(entry?, trail))
        .collect();
    Ok(Valid {
        entries: whole(entries, alone)?,
        caller,
        tenant,
        traceparent,
        alone,
    })
}

fn valid(entry: Shaped, trail: &mut Trail) -> Result<ValidDraft, Refusal> {
    let Shaped { event_type, draft } = entry;
    let schema_version = schema_version(draft.schema_version.as_deref(), trail)?;
    data_size(draft.data.len(), trail)?;
    trail.pass(Rule::Contract, || {
        format!("No contract is in force for '{event_type}'.")
    });
    if let Some(key) = &draft.idempotency_key {
        idempotency_key(key)?;
    }
    trail.pass(Rule::Idempotency, || match &draft.idempotency_key {
        Some(_) => "A repeat of this key within 24 h answers the first receipt.".into(),
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

fn idempotency_key(key: &str) -> Result<(), Refusal> {
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InvalidIdempotencyKey,
        Rule::Idempotency,
        "The idempotency key must be 1 to 255 visible ASCII characters without spaces.",
    )
    .field("idempotencyKey"))
}

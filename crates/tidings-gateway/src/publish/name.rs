//! What an event is known by: its id and its idempotency key. Pure; ids come from outside.

use tidings_bus::Once;
use tidings_event::json::Fingerprint;
use tidings_event::{TenantId, Topic};
use uuid::Uuid;

use super::command::{CloudAttributes, Custom};
use super::validate::{Valid, ValidDraft};
use crate::access::Caller;

/// The principals of the keys of custom events. No caller's has a form like them.
const EMITS: &str = "custom-events";
const TOLD: &str = "custom-events-told";

/// One event with its names.
pub(super) struct NamedDraft {
    pub(super) event_id: Uuid,
    pub(super) once: Once,
    pub(super) entry: ValidDraft,
}

/// Events with their names, of which none has been looked up yet.
pub(crate) struct Named {
    pub(super) entries: Vec<NamedDraft>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
    /// The topic that copies go to; what is published goes where its type does.
    pub(super) into: Option<Topic>,
}

/// Gives each event an id, and the key that makes its publish happen once.
pub(crate) fn name(valid: Valid, new_id: &dyn Fn() -> Uuid) -> Named {
    let scope = valid.caller.receipt_scope();
    let named = |entry: ValidDraft| {
        let event_id = match &entry.draft.custom {
            Some(Custom::Emit(emit)) => emit.event_id,
            _ => new_id(),
        };
        let once = once(scope, event_id, &entry);
        NamedDraft {
            event_id,
            once,
            entry,
        }
    };
    let entries = valid.entries.into_iter().map(named).collect();
    Named {
        entries,
        caller: valid.caller,
        tenant: valid.tenant,
        traceparent: valid.traceparent,
        alone: valid.alone,
        into: None,
    }
}

/// The producer's key, or `source` and `id` of a CloudEvent, or one that is made here.
fn once(scope: &str, event_id: Uuid, entry: &ValidDraft) -> Once {
    let fingerprint = fingerprint(entry);
    if let (Some(custom), Some(key)) = (&entry.draft.custom, &entry.draft.idempotency_key) {
        // Whoever appends it, a tenant's keys of emits are one set. Of what is told nobody else chooses a key.
        let principal = match custom {
            Custom::Emit(_) => EMITS,
            Custom::Told => TOLD,
        };
        return Once {
            principal: principal.to_owned(),
            key: key.clone(),
            fingerprint,
        };
    }
    let (principal, key) = match (&entry.draft.cloud, &entry.draft.idempotency_key) {
        // A scope of its own, so that no Idempotency-Key header can name a CloudEvent's key.
        (Some(cloud), _) => (format!("cloudevents/{scope}"), pair(cloud)),
        (None, Some(key)) => (scope.to_owned(), key.clone()),
        (None, None) => (scope.to_owned(), event_id.to_string()),
    };
    Once {
        principal,
        key,
        fingerprint,
    }
}

fn pair(cloud: &CloudAttributes) -> String {
    let pair = Fingerprint::of_parts([cloud.source.as_bytes(), cloud.id.as_bytes()]);
    format!("{:032x}", pair.0)
}

/// The same type, schema version and data, whatever the spacing: the same body.
fn fingerprint(entry: &ValidDraft) -> Fingerprint {
    Fingerprint::of_parts([
        entry.event_type.as_str().as_bytes(),
        entry.schema_version.as_str().as_bytes(),
        &entry.draft.fingerprint.0.to_le_bytes(),
    ])
}

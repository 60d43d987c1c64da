//! Where an event goes and what is written there: topic, key, envelope. Pure, and never refuses.

use tidings_bus::{Once, Record};
use tidings_event::json::Fingerprint;
use tidings_event::{Event, event::rfc3339};
use uuid::Uuid;

use super::Trail;
use super::command::CloudAttributes;
use super::refusal::Rule;
use super::validate::{Valid, ValidDraft};
use crate::envelope;
use crate::rulebook::Rulebook;

/// What a receipt is made of, beside the position.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) key: Option<String>,
    pub(super) event_type: tidings_event::EventType,
}

/// Records ready to be appended. Only [`place`] makes them, and only `append` takes them.
pub struct Placed {
    pub(super) records: Vec<Record>,
    pub(super) placements: Vec<Placement>,
    pub(super) alone: bool,
}

/// Gives every event its id, its topic and its envelope. Ids and time come from outside.
pub fn place(
    valid: Valid,
    rulebook: &Rulebook,
    now_ms: i64,
    new_id: &dyn Fn() -> Uuid,
    trail: &mut Trail,
) -> Placed {
    let mut placed = Placed {
        records: Vec::with_capacity(valid.entries.len()),
        placements: Vec::with_capacity(valid.entries.len()),
        alone: valid.alone,
    };
    let scope = valid.caller.receipt_scope();
    let (own_source, received) = (format!("/{}", scope.replacen(':', "/", 1)), rfc3339(now_ms));
    for entry in valid.entries {
        let event_id = new_id();
        let fingerprint = fingerprint(&entry);
        let ValidDraft {
            event_type,
            schema_version,
            draft,
        } = entry;
        let key = draft.idempotency_key;
        let cloud = draft.cloud.map(|cloud| *cloud);
        let once = once(scope, event_id, key.as_deref(), cloud.as_ref(), fingerprint);
        let made = cloud.is_none().then(|| once.key.clone());
        let own = cloud.unwrap_or_else(|| CloudAttributes {
            id: event_id.to_string(),
            source: own_source.clone(),
            time: None,
            subject: None,
            data_schema: None,
            data_content_type: Some("application/json".to_owned()),
            traceparent: None,
            extensions: Vec::new(),
        });
        let event = Event {
            event_id,
            id: own.id,
            source: own.source,
            event_type,
            tenant: valid.tenant.clone(),
            schema_version,
            time: own.time.unwrap_or_else(|| received.clone()),
            received_at_ms: now_ms,
            traceparent: own.traceparent.or_else(|| valid.traceparent.clone()),
            subject: own.subject,
            data_schema: own.data_schema,
            data_content_type: own.data_content_type,
            extensions: own.extensions,
            data: draft.data,
        };
        let route = rulebook.route(&event.event_type);
        trail.pass(Rule::Append, || {
            format!(
                "'{}' goes to topic '{}' as {}.",
                event.event_type,
                route.topic,
                route.envelope.as_str()
            )
        });
        let (headers, value) = envelope::write(&event, route.envelope);
        placed.records.push(Record {
            topic: route.topic.clone(),
            key: event.tenant.as_str().to_owned(),
            tenant: event.tenant,
            event_id,
            timestamp_ms: now_ms,
            headers,
            value,
            once: Some(once),
        });
        let (id, source, event_type) = (event.id, event.source, event.event_type);
        placed.placements.push(Placement {
            id,
            source,
            key: made,
            event_type,
        });
    }
    placed
}

/// The same type, schema version and data, whatever the spacing: the same body.
fn fingerprint(entry: &ValidDraft) -> Fingerprint {
    Fingerprint::of_parts([
        entry.event_type.as_str().as_bytes(),
        entry.schema_version.as_str().as_bytes(),
        &entry.draft.fingerprint.0.to_le_bytes(),
    ])
}

/// The idempotency key: the producer's, or `source` and `id` of a CloudEvent, or one that is made here.
fn once(
    scope: &str,
    event_id: Uuid,
    key: Option<&str>,
    cloud: Option<&CloudAttributes>,
    fingerprint: Fingerprint,
) -> Once {
    match (key, cloud) {
        // A scope of its own, so that no Idempotency-Key header can name a CloudEvent's key.
        (_, Some(cloud)) => {
            let pair = Fingerprint::of_parts([cloud.source.as_bytes(), cloud.id.as_bytes()]);
            Once {
                principal: format!("cloudevents/{scope}"),
                key: format!("{:032x}", pair.0),
                fingerprint,
            }
        }
        (Some(key), None) => Once {
            principal: scope.to_owned(),
            key: key.to_owned(),
            fingerprint,
        },
        (None, None) => Once {
            principal: scope.to_owned(),
            key: event_id.to_string(),
            fingerprint,
        },
    }
}

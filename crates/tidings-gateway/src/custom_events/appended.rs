//! What is appended of an emit: its event, and what tells of it.

use std::sync::Arc;

use tidings_event::Data;
use tidings_event::json::{Fingerprint, RawJson};
use tidings_store::EmitRow;
use uuid::Uuid;

use super::{LifecycleEvent, Registered};
use crate::access::Caller;
use crate::publish::command::{Cause, Command, Custom, Draft, Emit};
use crate::publish::refusal::Refusal;

/// So many are appended of an emit that somebody wants; of one that nobody does, that it is delivered is one more.
pub(super) const UNTIL_RELAYED: usize = 3;

/// What an event says of the emit that it tells of.
fn about(row: &EmitRow, event: LifecycleEvent) -> (RawJson, Fingerprint) {
    let canonical_name = row.event_type.as_str();
    let (path, version) = canonical_name
        .rsplit_once('@')
        .unwrap_or((canonical_name, ""));
    let path = path.rsplit(':').next().unwrap_or_default();
    let (namespace, name) = path.split_once('.').unwrap_or((path, ""));
    let mut buffer = Uuid::encode_buffer();
    let event_id = row.event_id.hyphenated().encode_lower(&mut buffer);
    let canonical_name = ("canonicalName", canonical_name);
    let event_id = ("eventId", &*event_id);
    match event {
        LifecycleEvent::EmitRequested | LifecycleEvent::EmitRelayed => RawJson::of_texts(&[
            canonical_name,
            ("namespace", namespace),
            ("name", name),
            ("version", version),
            event_id,
        ]),
        _ => RawJson::of_texts(&[canonical_name, event_id]),
    }
}

/// The emit with what tells of it, in source D's order: one append, in which the emit is the second.
pub(super) fn command(caller: Caller, row: &EmitRow, emit: Draft, wanted: bool) -> Command {
    let named = about(row, LifecycleEvent::EmitRequested);
    let mut drafts = vec![
        Ok(told_with(row, LifecycleEvent::EmitRequested, named.clone())),
        Ok(emit),
        Ok(told_with(row, LifecycleEvent::EmitRelayed, named)),
    ];
    if !wanted {
        drafts.push(Ok(told(row, LifecycleEvent::EmitDelivered)));
    }
    Command {
        caller,
        drafts,
        traceparent: row.traceparent.clone(),
        alone: true,
    }
}

/// The event of an emit that was accepted before, on behalf of who emitted it.
pub(super) fn draft_again(row: &EmitRow) -> Result<Draft, Refusal> {
    let payload = RawJson::parse(row.payload.as_deref().unwrap_or_default());
    let unread = |error| Refusal::fault("Reading an emit's payload", &error);
    Ok(draft(row, None, payload.map_err(unread)?))
}

/// The event of an emit. Without what it is held to it was accepted before.
pub(super) fn draft(
    row: &EmitRow,
    registered: Option<&Arc<Registered>>,
    (payload, fingerprint): (RawJson, Fingerprint),
) -> Draft {
    let cause = row.cause.map(|event_id| Cause {
        event_id,
        depth: i32::try_from(row.depth).unwrap_or(i32::MAX),
    });
    Draft {
        event_type: row.event_type.to_string(),
        schema_version: row
            .event_type
            .as_str()
            .rsplit('@')
            .next()
            .map(str::to_owned),
        data: Data::Json(payload),
        fingerprint,
        idempotency_key: Some(row.idempotency_key.clone()),
        cloud: None,
        workspace: None,
        cause,
        custom: Some(Custom::Emit(Box::new(Emit {
            event_id: row.event_id,
            registered: registered.cloned(),
            source: registered.is_none().then(|| row.source.clone()),
        }))),
    }
}

/// An event that tells of an emit; the same one whenever it is told.
pub(super) fn told(row: &EmitRow, event: LifecycleEvent) -> Draft {
    told_with(row, event, about(row, event))
}

fn told_with(
    row: &EmitRow,
    event: LifecycleEvent,
    (data, fingerprint): (RawJson, Fingerprint),
) -> Draft {
    Draft {
        event_type: event.as_str().to_owned(),
        schema_version: None,
        data: Data::Json(data),
        fingerprint,
        idempotency_key: Some(format!("{}/{}", row.event_id, event.as_str())),
        cloud: None,
        workspace: None,
        cause: None,
        custom: Some(Custom::Told),
    }
}

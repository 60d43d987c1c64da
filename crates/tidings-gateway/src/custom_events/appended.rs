//! What is appended of an emit: its event, and what tells of it.

use std::sync::Arc;

use serde::Serialize;
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
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    canonical_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    event_id: Uuid,
}

impl<'a> About<'a> {
    fn of(row: &'a EmitRow, event: LifecycleEvent) -> Self {
        let canonical_name = row.event_type.as_str();
        let (path, version) = canonical_name
            .rsplit_once('@')
            .unwrap_or((canonical_name, ""));
        let path = path.rsplit(':').next().unwrap_or_default();
        let (namespace, name) = path.split_once('.').unwrap_or((path, ""));
        let is_named = matches!(
            event,
            LifecycleEvent::EmitRequested | LifecycleEvent::EmitRelayed
        );
        Self {
            canonical_name,
            namespace: is_named.then_some(namespace),
            name: is_named.then_some(name),
            version: is_named.then_some(version),
            event_id: row.event_id,
        }
    }
}

pub(super) fn unread(error: serde_json::Error) -> Refusal {
    Refusal::fault("Reading an emit's payload", &error)
}

/// The emit with what tells of it, in source D's order: one append, in which the emit is the second.
pub(super) fn command(
    caller: Caller,
    row: &EmitRow,
    emit: Draft,
    wanted: bool,
) -> Result<Command, Refusal> {
    let told = |event| told(row, event).map_err(unread);
    let mut drafts = vec![
        Ok(told(LifecycleEvent::EmitRequested)?),
        Ok(emit),
        Ok(told(LifecycleEvent::EmitRelayed)?),
    ];
    if !wanted {
        drafts.push(Ok(told(LifecycleEvent::EmitDelivered)?));
    }
    Ok(Command {
        caller,
        drafts,
        traceparent: row.traceparent.clone(),
        alone: true,
    })
}

/// The event of an emit that was accepted before, on behalf of who emitted it.
pub(super) fn draft_again(row: &EmitRow) -> Result<Draft, Refusal> {
    let payload = RawJson::parse(row.payload.as_deref().unwrap_or_default());
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
pub(super) fn told(row: &EmitRow, event: LifecycleEvent) -> Result<Draft, serde_json::Error> {
    let (data, fingerprint) = RawJson::parse(&serde_json::to_string(&About::of(row, event))?)?;
    Ok(Draft {
        event_type: event.as_str().to_owned(),
        schema_version: None,
        data: Data::Json(data),
        fingerprint,
        idempotency_key: Some(format!("{}/{}", row.event_id, event.as_str())),
        cloud: None,
        workspace: None,
        cause: None,
        custom: Some(Custom::Told),
    })
}

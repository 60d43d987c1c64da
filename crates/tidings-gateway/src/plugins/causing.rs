//! What a handler publishes: as its extension, in its workspace, and with its cause.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tidings_event::json::{Fingerprint, RawJson};
use tidings_event::{Data, Event, ExtensionId};
use tidings_plugin::{HandlerError, Publisher};
use tidings_store::{CauseRow, Store};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::access::of_extension;
use crate::clock::Clock;
use crate::publish::Line;
use crate::publish::command::{Cause, Command, Draft, InWorkspace, MAX_DEPTH};

/// The publisher of one call of a handler.
pub(crate) struct Causing {
    line: Arc<Line>,
    store: Store,
    clock: Clock,
    runtime: Handle,
    extension: ExtensionId,
    event: Event,
    /// How many events of each key this call has published.
    counts: Mutex<HashMap<String, u32>>,
    /// The call's time is over: what it publishes now, nobody would wait for.
    ended: Arc<AtomicBool>,
}

impl Causing {
    /// For a call with this event.
    pub(crate) fn new(
        line: Arc<Line>,
        store: Store,
        clock: Clock,
        extension: ExtensionId,
        event: Event,
    ) -> Self {
        Self {
            line,
            store,
            clock,
            runtime: Handle::current(),
            extension,
            event,
            counts: Mutex::default(),
            ended: Arc::default(),
        }
    }

    /// Once this is true nothing more is published.
    pub(crate) fn ended(&self) -> Arc<AtomicBool> {
        self.ended.clone()
    }

    /// The n-th event of a key has the same idempotency key whenever its cause comes, whatever is in it then.
    fn draft(&self, event_key: &str, payload: &Value) -> Result<Draft, HandlerError> {
        let workspace = super::workspace_of(&self.event);
        let id = workspace.ok_or_else(|| HandlerError::new("the event is of no workspace"))?;
        let cause = Cause::of(&self.event).ok_or_else(|| {
            HandlerError::new(format_args!(
                "'{event_key}' is not published: {MAX_DEPTH} events have caused one another already"
            ))
        })?;
        if !payload.is_object() {
            return Err(HandlerError::new("what is published must be a JSON object"));
        }
        let (data, _) = RawJson::parse(&payload.to_string())?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(event_key.to_owned()).or_default();
        *count += 1;
        let key = format!("{}/{event_key}/{count}", self.event.event_id);
        Ok(Draft {
            event_type: event_key.to_owned(),
            schema_version: None,
            data: Data::Json(data),
            fingerprint: Fingerprint::of_bytes(key.as_bytes()),
            idempotency_key: Some(key),
            cloud: None,
            cause: Some(cause),
            custom: None,
            workspace: Some(Box::new(InWorkspace {
                id,
                actor: self.extension.to_string(),
            })),
        })
    }
}

impl Publisher for Causing {
    fn publish(&self, event_key: &str, payload: Value) -> Result<Uuid, HandlerError> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(HandlerError::new(
                "the handler's time is over; it publishes nothing",
            ));
        }
        let draft = self.draft(event_key, &payload)?;
        let tenant = self.event.tenant.clone();
        let Some(within) = &draft.workspace else {
            return Err(HandlerError::new("the event is of no workspace"));
        };
        let caller = of_extension(tenant.clone(), within.id.clone(), self.extension.clone());
        let command = Command::one(caller, draft, self.event.traceparent.clone());
        self.runtime.block_on(async {
            let published = self.line.publish(command).await;
            let published = published.map_err(|refusal| HandlerError::new(refusal.detail))?;
            let event_id = published[0].event_id;
            let row = CauseRow {
                cause: self.event.event_id,
                event_id,
                tenant,
                created_at_ms: self.clock.now_ms(),
            };
            // Where this fails the handler is called again, publishes the same event, and writes it then.
            self.store.causes().put(&row).await?;
            Ok(event_id)
        })
    }
}

//! An event as a handler gets it (source C's `PlatformEvent`), and the means to publish another.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidings_event::event::rfc3339;
use tidings_event::{EventType, SchemaVersion, TenantId, WorkspaceId};
use uuid::Uuid;

use crate::HandlerError;

/// Publishes what a handler causes. The gateway has one for each call of a handler.
pub trait Publisher: Send + Sync {
    /// Publishes an event in the workspace of its cause; answers its id. May block the thread.
    fn publish(&self, event_key: &str, payload: Value) -> Result<Uuid, HandlerError>;
}

/// An event of a workspace, handed to a handler.
#[derive(Clone)]
pub struct PlatformEvent {
    /// Its id: the same each time it comes.
    pub event_id: Uuid,
    /// What happened.
    pub event_key: EventType,
    /// The version of its payload's schema.
    pub schema_version: SchemaVersion,
    /// Where.
    pub workspace_id: WorkspaceId,
    /// Whose workspace it is.
    pub tenant_id: TenantId,
    /// Who is said to have published it.
    pub actor: String,
    /// When it was received, in ms since 1970.
    pub occurred_at_ms: i64,
    /// The payload, as JSON text.
    pub payload: Arc<str>,
    /// Where what it causes is published.
    pub publisher: Arc<dyn Publisher>,
}

impl PlatformEvent {
    /// The payload as a type; what does not fit is a failed delivery that says why.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        serde_json::from_str(&self.payload).map_err(|error| {
            HandlerError::new(format_args!(
                "the payload of '{}' does not fit: {error}",
                self.event_key
            ))
        })
    }

    /// Publishes an event that this one causes, in the same workspace, as this extension. It carries `causationid` (the
    /// id of this one) and `chaindepth`. The n-th publish of a key is made once, however often the event comes.
    pub fn publish(&self, event_key: &str, payload: &impl Serialize) -> Result<Uuid, HandlerError> {
        self.publisher
            .publish(event_key, serde_json::to_value(payload)?)
    }

    /// All of it, as source C writes it.
    pub fn to_json(&self) -> Result<Value, HandlerError> {
        Ok(json!({
            "eventId": self.event_id,
            "eventKey": self.event_key.as_str(),
            "schemaVersion": self.schema_version.as_str(),
            "workspaceId": self.workspace_id.as_str(),
            "tenantId": self.tenant_id.as_str(),
            "actor": self.actor,
            "occurredAt": rfc3339(self.occurred_at_ms),
            "payload": self.payload::<Value>()?,
        }))
    }
}

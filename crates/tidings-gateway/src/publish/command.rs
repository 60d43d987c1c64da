//! What a surface asks for: one to a thousand events of one caller.

use std::sync::Arc;

use tidings_event::cloudevents::Incoming;
use tidings_event::json::Fingerprint;
use tidings_event::{Attribute, Data, Event, WorkspaceId};
use uuid::Uuid;

use super::refusal::Refusal;
use crate::access::Caller;
use crate::custom_events::Registered;

/// A publish, whatever surface it came by. A single publish is a batch of one.
#[derive(Debug, Clone)]
pub struct Command {
    /// Who asks. Only `access` can make one, so nothing unauthenticated gets here.
    pub caller: Caller,
    /// What is to be published; where a body could not be read as an event, why.
    pub drafts: Vec<Result<Draft, Refusal>>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// Whether the answer is about one event, not about a list.
    pub alone: bool,
}

impl Command {
    /// For one event alone.
    pub fn one(caller: Caller, draft: Draft, traceparent: Option<String>) -> Self {
        Self {
            caller,
            drafts: vec![Ok(draft)],
            traceparent,
            alone: true,
        }
    }
}

/// One event as its producer wrote it, well-formed but not yet checked.
#[derive(Debug, Clone)]
pub struct Draft {
    /// `type`.
    pub event_type: String,
    /// `schemaVersion`, if given.
    pub schema_version: Option<String>,
    /// `data`.
    pub data: Data,
    /// Of the data.
    pub fingerprint: Fingerprint,
    /// The producer's idempotency key, if given.
    pub idempotency_key: Option<String>,
    /// What a CloudEvent has beyond that.
    pub cloud: Option<Box<CloudAttributes>>,
    /// Where in its tenant it is published, when it is in a workspace.
    pub workspace: Option<Box<InWorkspace>>,
    /// The event that caused it, if that is known.
    pub cause: Option<Cause>,
    /// What makes it one of source D's events, whose names nobody else can have.
    pub custom: Option<Custom>,
}

/// What makes an event one of source D's. Only the gateway itself says so: no surface makes one of what it was sent.
#[derive(Debug, Clone)]
pub enum Custom {
    /// It tells of the life of custom events.
    Told,
    /// It is an emit.
    Emit(Box<Emit>),
}

/// What the line is to know of an emit.
#[derive(Debug, Clone)]
pub struct Emit {
    /// The id that its event has had since it was asked for.
    pub(crate) event_id: Uuid,
    /// What it is held to; `None` for one that was accepted before.
    pub(crate) registered: Option<Arc<Registered>>,
    /// Its `source`, for one that is appended on behalf of who emitted it.
    pub(crate) source: Option<String>,
}

/// The extension attribute that names an event's workspace.
pub const WORKSPACE_ATTRIBUTE: &str = "workspaceid";

/// What an event published in a workspace has beyond others (source C).
#[derive(Debug, Clone)]
pub struct InWorkspace {
    /// Which workspace.
    pub id: WorkspaceId,
    /// Who is said to have published it.
    pub actor: String,
}

/// The extension attribute that names the event which caused this one.
pub const CAUSE_ATTRIBUTE: &str = "causationid";
/// The extension attribute that counts the causes behind an event; 0 is said by its absence.
pub const DEPTH_ATTRIBUTE: &str = "chaindepth";
/// The longest chain of causes (custom-events.md, "Workflows").
pub const MAX_DEPTH: i32 = 50;

/// What caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The event.
    pub event_id: Uuid,
    /// How deep the caused one is, from 1 to [`MAX_DEPTH`].
    pub depth: i32,
}

impl Cause {
    /// Of what the handler of an event publishes; `None` when the chain is too long.
    pub fn of(event: &Event) -> Option<Self> {
        let cause = Self::however_deep(event);
        (cause.depth <= MAX_DEPTH).then_some(cause)
    }

    /// The same, one deeper than a chain may be if the event is the last of one.
    pub(crate) fn however_deep(event: &Event) -> Self {
        let depth = match event.extension(DEPTH_ATTRIBUTE) {
            Some(Attribute::Integer(depth)) => (*depth).clamp(0, MAX_DEPTH),
            // A producer of CloudEvents may have called something of its own so.
            Some(_) | None => 0,
        };
        Self {
            event_id: event.event_id,
            depth: depth + 1,
        }
    }

    /// The extension attributes that the caused event carries.
    pub(super) fn attributes(self) -> [(String, Attribute); 2] {
        let event_id = Attribute::Text(self.event_id.to_string());
        [
            (CAUSE_ATTRIBUTE.to_owned(), event_id),
            (DEPTH_ATTRIBUTE.to_owned(), Attribute::Integer(self.depth)),
        ]
    }
}

impl InWorkspace {
    /// The extension attributes that the event carries for it.
    pub(super) fn attributes(self) -> Vec<(String, Attribute)> {
        let text = |name: &str, value: String| (name.to_owned(), Attribute::Text(value));
        vec![
            text(WORKSPACE_ATTRIBUTE, self.id.to_string()),
            text("actor", self.actor),
        ]
    }
}

impl Draft {
    /// The workspace that the event will say it is of, as whoever wrote it names it.
    pub(super) fn workspace_named(&self) -> Option<String> {
        if let Some(within) = &self.workspace {
            return Some(within.id.to_string());
        }
        let mut extensions = self.cloud.iter().flat_map(|cloud| &cloud.extensions);
        let named = extensions.find(|(name, _)| name == WORKSPACE_ATTRIBUTE);
        named.map(|(_, value)| value.to_string())
    }
}

/// The attributes of a CloudEvent that are kept as the producer set them.
#[derive(Debug, Clone)]
pub struct CloudAttributes {
    /// `id`.
    pub id: String,
    /// `source`.
    pub source: String,
    /// `time`.
    pub time: Option<String>,
    /// `subject`.
    pub subject: Option<String>,
    /// `dataschema`.
    pub data_schema: Option<String>,
    /// `datacontenttype`.
    pub data_content_type: Option<String>,
    /// `traceparent` of the event itself.
    pub traceparent: Option<String>,
    /// All others.
    pub extensions: Vec<(String, Attribute)>,
}

impl From<Incoming> for Draft {
    fn from(event: Incoming) -> Self {
        let fingerprint = match &event.data {
            Data::Json(json) => {
                tidings_event::json::check(json.as_str()).expect("a decoded event holds valid JSON")
            }
            other => Fingerprint::of_bytes(other.as_bytes()),
        };
        let mut parts: Vec<String> = vec![format!("{:032x}", fingerprint.0)];
        let known = [
            &event.time,
            &event.subject,
            &event.data_schema,
            &event.data_content_type,
        ];
        parts.extend(
            known
                .into_iter()
                .map(|part| part.clone().unwrap_or_default()),
        );
        let mut extensions: Vec<_> = event.extensions.iter().collect();
        extensions.sort_by(|one, other| one.0.cmp(&other.0));
        parts.extend(
            extensions
                .into_iter()
                .flat_map(|(name, value)| [name.clone(), value.to_string()]),
        );
        Self {
            event_type: event.event_type,
            schema_version: event.schema_version,
            data: event.data,
            fingerprint: Fingerprint::of_parts(parts.iter().map(String::as_bytes)),
            idempotency_key: None,
            cloud: Some(Box::new(CloudAttributes {
                id: event.id,
                source: event.source,
                time: event.time,
                subject: event.subject,
                data_schema: event.data_schema,
                data_content_type: event.data_content_type,
                traceparent: event.traceparent,
                extensions: event.extensions,
            })),
            workspace: None,
            cause: None,
            custom: None,
        }
    }
}

//! What goes to the server and comes back, in the server's own words.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// An event to publish.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewEvent {
    /// Its type, such as `crm.contact.created`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its data, a JSON object, which is sent as it is written here.
    pub data: Box<RawValue>,
    /// The version of its schema; the server takes `1.0.0` when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<String>,
    /// 1 to 255 visible ASCII characters. One is made when there is none; give your own so that a
    /// publish can be repeated by another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl NewEvent {
    /// An event of this type with this data.
    ///
    /// # Panics
    /// Never: a [`Value`] can always be written.
    pub fn new(event_type: impl Into<String>, data: &Value) -> Self {
        let data = serde_json::value::to_raw_value(data);
        Self::written(event_type, data.expect("a value can be written"))
    }

    /// The same with data that is JSON text already: no number of it loses digits on the way.
    pub fn written(event_type: impl Into<String>, data: Box<RawValue>) -> Self {
        Self {
            event_type: event_type.into(),
            data,
            schema_version: None,
            idempotency_key: None,
        }
    }

    /// With this version of the schema.
    #[must_use]
    pub fn schema_version(mut self, version: impl Into<String>) -> Self {
        self.schema_version = Some(version.into());
        self
    }

    /// With this idempotency key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// The server's word that an event is durable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The event's id.
    pub event_id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where it stands on the bus. None of the three when the bus is disabled.
    pub topic: Option<String>,
    /// See `topic`.
    pub partition: Option<u32>,
    /// See `topic`.
    pub offset: Option<u64>,
    /// Whether the key was used before and nothing was appended now.
    #[serde(default)]
    pub duplicate: bool,
    /// Whether the bus is disabled: the event was checked and written nowhere.
    #[serde(default)]
    pub skipped: bool,
    /// The key the event was published with.
    #[serde(default)]
    pub idempotency_key: String,
}

/// An event as the server holds it: CloudEvents attributes and where it stands.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The id that URLs take.
    pub event_id: String,
    /// The producer's id.
    pub id: String,
    /// The producer.
    pub source: String,
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The data as its publisher wrote it, if it is JSON: no number has lost digits on the way. Other
    /// data is `data_base64` among the attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The topic it stands in.
    pub topic: String,
    /// The partition it stands in.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// When the server took it.
    pub received_at: String,
    /// Every further attribute.
    #[serde(flatten)]
    pub attributes: Map<String, Value>,
}

impl Event {
    /// The data as a type of the caller's, which decides what a number keeps; `null` if there is none.
    pub fn read_data<'e, T: Deserialize<'e>>(&'e self) -> serde_json::Result<T> {
        serde_json::from_str(self.data.as_deref().map_or("null", RawValue::get))
    }
}

/// Which events to list. Nothing set: all of the tenant's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// A type or pattern.
    pub event_type: Option<String>,
    /// A topic.
    pub topic: Option<String>,
    /// Not before this time (RFC 3339).
    pub since: Option<String>,
    /// Before this time (RFC 3339).
    pub until: Option<String>,
    /// At most so many.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// What it holds.
    pub items: Vec<T>,
    /// What to ask the next page with; none at the end.
    pub next_cursor: Option<String>,
}

/// A module that has a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Module {
    /// Its id.
    pub id: String,
    /// Its manifest's version.
    pub version: String,
}

/// An API key to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewApiKey {
    /// What to call it.
    pub name: String,
    /// The module whose manifest is to bound it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// What it may do: `publish:<type or pattern>`, `events:read`.
    pub scopes: Vec<String>,
    /// When it is to end by itself (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whose it is to be; only for operators, who have no tenant of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// What it is revoked by.
    pub id: String,
    /// What its maker called it.
    pub name: String,
    /// The module whose manifest bounds it.
    pub module: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// When it ends by itself.
    pub expires_at: Option<String>,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// A new API key with the key itself, which is told this once.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct CreatedApiKey {
    /// The key: what to authenticate with.
    pub key: String,
    /// What is known of it later.
    #[serde(flatten)]
    pub api_key: ApiKey,
}

impl std::fmt::Debug for CreatedApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedApiKey")
            .field("api_key", &self.api_key)
            .finish_non_exhaustive()
    }
}

/// Whether the server can do something useful.
#[derive(Debug, Clone, PartialEq)]
pub struct Readiness {
    /// False when it cannot.
    pub ready: bool,
    /// What it says about its parts.
    pub report: Value,
}

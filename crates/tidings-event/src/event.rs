//! The event: a CloudEvents 1.0 event with what Tidings adds, and the two envelopes it is written in.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::json::RawJson;
use crate::{EventType, SchemaVersion, TenantId};

/// The extension attribute of a copy, which stands in the log beside the event whose id it names. Producers cannot
/// set it, and no subscription gets a copy.
pub const COPY_ATTRIBUTE: &str = "copyof";

/// What an event carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Data {
    /// Nothing at all.
    #[default]
    None,
    /// A JSON value, as it was sent.
    Json(RawJson),
    /// Text of another media type.
    Text(String),
    /// Bytes of another media type.
    Binary(Bytes),
}

impl Data {
    /// Size in bytes, as sent.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Json(json) => json.len(),
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, as sent.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Json(json) => json.as_bytes(),
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// The value of a CloudEvents extension attribute (CloudEvents 1.0, "Type System").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attribute {
    /// `true` or `false`.
    Boolean(bool),
    /// A signed 32-bit whole number.
    Integer(i32),
    /// Any text without control characters.
    Text(String),
}

impl std::fmt::Display for Attribute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// One event, as Tidings means it. Surfaces render it; see `publish.md`, "Settled details".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Ours, UUID v7; what every URL takes.
    pub event_id: Uuid,
    /// The producer's; equals `event_id` unless the event came as a CloudEvent.
    pub id: String,
    /// The producer's, a URI reference.
    pub source: String,
    /// What happened.
    pub event_type: EventType,
    /// Always from the credential.
    pub tenant: TenantId,
    /// The version of the data's schema.
    pub schema_version: SchemaVersion,
    /// When it happened, as the producer says, else when it was received. RFC 3339.
    pub time: String,
    /// When the gateway received it, in ms since 1970.
    pub received_at_ms: i64,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// CloudEvents `dataschema`.
    pub data_schema: Option<String>,
    /// CloudEvents `datacontenttype`.
    pub data_content_type: Option<String>,
    /// Other extension attributes, in the order given.
    pub extensions: Vec<(String, Attribute)>,
    /// What it carries.
    pub data: Data,
}

/// Milliseconds since 1970 as an RFC 3339 time in UTC.
pub fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

/// The trace id within a W3C `traceparent`.
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

impl Event {
    /// The extension attribute of this name.
    pub fn extension(&self, name: &str) -> Option<&Attribute> {
        let mut all = self.extensions.iter();
        all.find(|(this, _)| this == name).map(|(_, value)| value)
    }

    /// All CloudEvents attributes with their values, in the order of the specification, then the extensions.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, Attribute)> {
        let text = |name, value: &str| Some((name, Attribute::Text(value.to_owned())));
        let known = [
            text("specversion", "1.0"),
            text("id", &self.id),
            text("source", &self.source),
            text("type", self.event_type.as_str()),
            text("time", &self.time),
            self.subject
                .as_deref()
                .and_then(|value| text("subject", value)),
            self.data_schema
                .as_deref()
                .and_then(|value| text("dataschema", value)),
            self.data_content_type
                .as_deref()
                .and_then(|value| text("datacontenttype", value)),
            text("tenantid", self.tenant.as_str()),
            text("schemaversion", self.schema_version.as_str()),
            self.traceparent
                .as_deref()
                .and_then(|value| text("traceparent", value)),
        ];
        let extensions = self
            .extensions
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        known.into_iter().flatten().chain(extensions)
    }

    /// The CloudEvents JSON format (structured mode).
    pub fn to_structured(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 512);
        let mut serializer = serde_json::Serializer::new(&mut out);
        self.write(&mut serializer, &[])
            .expect("an event is always writable as JSON");
        out
    }

    /// The same without `schemaversion`, for a topic whose envelope others have laid down.
    pub fn to_exact(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 512);
        let mut serializer = serde_json::Serializer::new(&mut out);
        self.write_some(&mut serializer, &[], &["schemaversion"])
            .expect("an event is always writable as JSON");
        out
    }

    /// Writes the CloudEvents JSON format with members of a surface behind the attributes.
    pub fn write<S: Serializer>(
        &self,
        serializer: S,
        more: &[(&str, serde_json::Value)],
    ) -> Result<S::Ok, S::Error> {
        self.write_some(serializer, more, &[])
    }

    fn write_some<S: Serializer>(
        &self,
        serializer: S,
        more: &[(&str, serde_json::Value)],
        without: &[&str],
    ) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let attributes = self.attributes();
        for (name, value) in attributes.filter(|(name, _)| !without.contains(name)) {
            map.serialize_entry(name, &value)?;
        }
        for (name, value) in more {
            map.serialize_entry(name, value)?;
        }
        write_data(&mut map, &self.data)?;
        map.end()
    }

    /// Source A's envelope: `{id, type, source, tenantId, data, schemaVersion, timestamp, traceId}`.
    ///
    /// Written by hand, since every publish pays for it: JSON data is checked text and goes in as it is.
    pub fn to_platform(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 512);
        out.push(b'{');
        let text = |out: &mut Vec<u8>, name: &str, value: &str| {
            if out.len() > 1 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            serde_json::to_writer(out, value).expect("a Vec takes every text");
        };
        text(&mut out, "id", &self.id);
        text(&mut out, "type", self.event_type.as_str());
        text(&mut out, "source", &self.source);
        text(&mut out, "tenantId", self.tenant.as_str());
        match &self.data {
            Data::None => {}
            Data::Json(json) => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(json.as_bytes());
            }
            Data::Text(value) => text(&mut out, "data", value),
            Data::Binary(bytes) => text(&mut out, "data_base64", &STANDARD.encode(bytes)),
        }
        text(&mut out, "schemaVersion", self.schema_version.as_str());
        text(&mut out, "timestamp", &self.time);
        let trace_id = self.traceparent.as_deref().map_or("", trace_id);
        text(&mut out, "traceId", trace_id);
        out.push(b'}');
        out
    }
}

fn write_data<M: SerializeMap>(map: &mut M, data: &Data) -> Result<(), M::Error> {
    match data {
        Data::None => Ok(()),
        Data::Json(json) => {
            let raw = serde_json::from_str::<&RawValue>(json.as_str());
            map.serialize_entry("data", raw.map_err(serde::ser::Error::custom)?)
        }
        Data::Text(text) => map.serialize_entry("data", text),
        Data::Binary(bytes) => map.serialize_entry("data_base64", &STANDARD.encode(bytes)),
    }
}

/// A media type without its parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether a media type is JSON (RFC 6839: `application/json` or any `+json`); none at all means JSON.
pub fn is_json(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|content_type| {
        let essence = essence(content_type);
        essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            event_id: Uuid::from_u128(7),
            id: "a-1".into(),
            source: "/shop".into(),
            event_type: "crm.contact.created".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            schema_version: SchemaVersion::default(),
            time: rfc3339(1_700_000_000_000),
            received_at_ms: 1_700_000_000_000,
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            subject: None,
            data_schema: None,
            data_content_type: Some("application/json".into()),
            extensions: vec![
                ("n".into(), Attribute::Integer(5)),
                ("b".into(), Attribute::Boolean(true)),
            ],
            data: Data::Json(RawJson::trusted(r#"{ "a" : 1.0 }"#)),
        }
    }

    #[test]
    fn the_platform_envelope_is_source_as() {
        assert_eq!(
            String::from_utf8(event().to_platform()).unwrap(),
            r#"{"id":"a-1","type":"crm.contact.created","source":"/shop","tenantId":"acme","data":{ "a" : 1.0 },"schemaVersion":"1.0.0","timestamp":"2023-11-14T22:13:20.000Z","traceId":"4bf92f3577b34da6a3ce929d0e0e4736"}"#
        );
    }

    #[test]
    fn structured_mode_keeps_types_and_data() {
        let text = String::from_utf8(event().to_structured()).unwrap();
        assert!(text.contains(r#""n":5,"b":true"#), "{text}");
        assert!(text.ends_with(r#""data":{ "a" : 1.0 }}"#), "{text}");
        let exact = String::from_utf8(event().to_exact()).unwrap();
        assert_eq!(exact, text.replace(r#","schemaversion":"1.0.0""#, ""));
    }
}

//! The event: a CloudEvents 1.0 event with what Tidings adds, and the two envelopes it is written in.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::json::{self, RawJson};
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

/// Whether a text is a W3C `traceparent` (Trace Context, section 3.2) with the four parts of version 00. Whoever gets another
/// goes on as if there were none.
pub fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        let legal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        part.len() == digits && part.bytes().all(legal)
    };
    let known = |part: &str, digits| hex(part, digits) && part.bytes().any(|byte| byte != b'0');
    let mut parts = text.split('-');
    let mut next = || parts.next().unwrap_or_default();
    let (version, trace, parent, flags) = (next(), next(), next(), next());
    let whole = hex(version, 2) && version != "ff" && known(trace, 32) && known(parent, 16);
    whole && hex(flags, 2) && parts.next().is_none()
}

/// The trace id within a W3C `traceparent`.
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

/// The id of the trace that an event belongs to: that of its `traceparent`, or where it has none one that follows from its own
/// id, so that no member and no log line is without.
pub fn trace_id_of(traceparent: Option<&str>, event_id: Uuid) -> Cow<'_, str> {
    match traceparent {
        Some(traceparent) => trace_id(traceparent).into(),
        None => event_id.simple().to_string().into(),
    }
}

impl Event {
    /// The extension attribute of this name.
    pub fn extension(&self, name: &str) -> Option<&Attribute> {
        let mut all = self.extensions.iter();
        all.find(|(this, _)| this == name).map(|(_, value)| value)
    }

    /// The attributes of CloudEvents and of Tidings that it has, in the order of the specification: all but its
    /// [`extensions`](Self::extensions), which stand behind them. All are text.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let known = [
            ("specversion", Some("1.0")),
            ("id", Some(&*self.id)),
            ("source", Some(&*self.source)),
            ("type", Some(self.event_type.as_str())),
            ("time", Some(&*self.time)),
            ("subject", self.subject.as_deref()),
            ("dataschema", self.data_schema.as_deref()),
            ("datacontenttype", self.data_content_type.as_deref()),
            ("tenantid", Some(self.tenant.as_str())),
            ("schemaversion", Some(self.schema_version.as_str())),
            ("traceparent", self.traceparent.as_deref()),
        ];
        let known = known.into_iter();
        known.filter_map(|(name, value)| Some((name, value?)))
    }

    /// The CloudEvents JSON format (structured mode).
    pub fn to_structured(&self) -> Vec<u8> {
        self.to_structured_with(&[])
    }

    /// The same with members of a surface behind the attributes.
    pub fn to_structured_with(&self, more: &[(&'static str, serde_json::Value)]) -> Vec<u8> {
        self.structured(self.attributes(), more)
    }

    /// The same without `schemaversion`, for a topic whose envelope others have laid down.
    pub fn to_exact(&self) -> Vec<u8> {
        let attributes = self.attributes();
        self.structured(attributes.filter(|it| it.0 != "schemaversion"), &[])
    }

    fn structured<'e>(
        &self,
        attributes: impl Iterator<Item = (&'static str, &'e str)>,
        more: &[(&'static str, serde_json::Value)],
    ) -> Vec<u8> {
        let mut members = Members::of(self);
        for (name, value) in attributes {
            members.value(name, value);
        }
        for (name, value) in &self.extensions {
            members.extension(name, value);
        }
        for (name, value) in more {
            members.value(name, value);
        }
        members.data(&self.data);
        members.end()
    }

    /// Source A's envelope: `{id, type, source, tenantId, data, schemaVersion, timestamp, traceId}`.
    pub fn to_platform(&self) -> Vec<u8> {
        let mut members = Members::of(self);
        members.value("id", &self.id);
        members.value("type", self.event_type.as_str());
        members.value("source", &self.source);
        members.value("tenantId", self.tenant.as_str());
        members.data(&self.data);
        members.value("schemaVersion", self.schema_version.as_str());
        members.value("timestamp", &self.time);
        members.value(
            "traceId",
            &trace_id_of(self.traceparent.as_deref(), self.event_id),
        );
        members.end()
    }
}

/// The members of an envelope. Written by hand, since every publish and every delivery pays for it: JSON data is
/// checked text and goes in as it is.
struct Members(Vec<u8>);

impl Members {
    /// None yet, with room for those of most events.
    fn of(event: &Event) -> Self {
        let mut text = Vec::with_capacity(event.data.len() + 512);
        text.push(b'{');
        Self(text)
    }

    fn comma(&mut self) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
    }

    /// A name of ours has nothing that must be escaped.
    fn name(&mut self, name: &'static str) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) {
        json::write(&mut self.0, value);
    }

    fn value<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) {
        self.name(name);
        self.json(value);
    }

    /// Its name is the producer's, or that of a header which somebody else wrote.
    fn extension(&mut self, name: &str, value: &Attribute) {
        self.comma();
        self.json(name);
        self.0.push(b':');
        self.json(value);
    }

    fn data(&mut self, data: &Data) {
        match data {
            Data::None => {}
            Data::Json(json) => {
                self.name("data");
                self.0.extend_from_slice(json.as_bytes());
            }
            Data::Text(value) => self.value("data", value),
            Data::Binary(bytes) => self.value("data_base64", &STANDARD.encode(bytes)),
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
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

    #[test]
    fn a_traceparent_names_a_trace_and_a_span() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in [
            "",
            "garbage",
            &good.to_uppercase(),
            &good.replace("00-4b", "ff-4b"),
            &good.replace("00f067aa0ba902b7", "0000000000000000"),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &good[..54],
            &format!("{good}-01"),
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

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
        let mut foreign = event();
        let name = "a\":1,\"tenantid";
        foreign.extensions = vec![(name.into(), Attribute::Text("other".into()))];
        let json: serde_json::Value = serde_json::from_slice(&foreign.to_structured()).unwrap();
        assert_eq!(
            (&json["tenantid"], &json[name]),
            (&"acme".into(), &"other".into())
        );
        let mut alone = event();
        alone.traceparent = None;
        let json: serde_json::Value = serde_json::from_slice(&alone.to_platform()).unwrap();
        assert_eq!(json["traceId"], alone.event_id.simple().to_string());
        let exact = String::from_utf8(event().to_exact()).unwrap();
        assert_eq!(exact, text.replace(r#","schemaversion":"1.0.0""#, ""));
    }
}

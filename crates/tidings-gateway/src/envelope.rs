//! An event as a record of the bus, and back.
//!
//! The headers carry every CloudEvents attribute (`ce_…`, Kafka protocol binding 3.2.3) whatever the envelope,
//! so that reading back needs of the value only the data. On a catalogue's topic they are exactly the
//! event's: the schema version then has a header of its own, beside the envelope.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use tidings_bus::{Headers, Stored};
use tidings_event::json::RawJson;
use tidings_event::{Attribute, Data, Event, EventType};

use crate::rulebook::EnvelopeKind;

/// Which envelope the value is.
const ENVELOPE: &str = "tidings-envelope";
/// What the data is: `none`, `json`, `text` or `binary`.
const DATA: &str = "tidings-data";
/// Extensions that are not text: `name=integer` or `name=boolean`, separated by commas.
const TYPES: &str = "tidings-types";
/// The schema version where the envelope is exact.
const SCHEMA_VERSION: &str = "tidings-schemaversion";

/// Most events' headers fit into so many bytes.
const USUAL_HEADERS: usize = 512;

/// A record that is not what Tidings writes.
#[derive(Debug, thiserror::Error)]
#[error("event {0} in the log cannot be read: {1}")]
pub struct Unreadable(uuid::Uuid, String);

/// The headers and the value of an event. An exact envelope has nothing of ours but `tenantid` and
/// `traceparent`.
pub fn write(event: &Event, kind: EnvelopeKind, exact: bool) -> (Headers, Bytes) {
    let value = match kind {
        EnvelopeKind::Platform => event.to_platform().into(),
        EnvelopeKind::Structured if exact => event.to_exact().into(),
        EnvelopeKind::Structured => event.to_structured().into(),
        EnvelopeKind::Binary => Bytes::copy_from_slice(event.data.as_bytes()),
    };
    (headers(event, kind, exact), value)
}

fn headers(event: &Event, kind: EnvelopeKind, exact: bool) -> Headers {
    let mut headers = Headers::with_capacity(USUAL_HEADERS);
    let content_type = match kind {
        EnvelopeKind::Platform => Some("application/json"),
        EnvelopeKind::Structured => Some("application/cloudevents+json; charset=UTF-8"),
        EnvelopeKind::Binary => {
            let otherwise = (!exact).then_some("application/json");
            event.data_content_type.as_deref().or(otherwise)
        }
    };
    if let Some(content_type) = content_type {
        headers.push("content-type", content_type);
    }
    headers.push(ENVELOPE, kind.as_str());
    headers.push(
        DATA,
        match event.data {
            Data::None => "none",
            Data::Json(_) => "json",
            Data::Text(_) => "text",
            Data::Binary(_) => "binary",
        },
    );
    headers.push("ce_specversion", "1.0");
    headers.push("ce_id", &event.id);
    headers.push("ce_source", &event.source);
    headers.push("ce_type", event.event_type.as_str());
    headers.push("ce_time", &event.time);
    headers.push("ce_tenantid", event.tenant.as_str());
    let version = if exact {
        SCHEMA_VERSION
    } else {
        "ce_schemaversion"
    };
    headers.push(version, event.schema_version.as_str());
    for (name, value) in [
        ("ce_subject", &event.subject),
        ("ce_dataschema", &event.data_schema),
        ("ce_datacontenttype", &event.data_content_type),
        ("ce_traceparent", &event.traceparent),
    ] {
        // In binary mode the binding says the data's media type in `content-type`, and there alone.
        let said = exact && kind == EnvelopeKind::Binary && name == "ce_datacontenttype";
        if let Some(value) = value.as_ref().filter(|_| !said) {
            headers.push(name, value);
        }
    }
    let mut types = String::new();
    for (name, value) in &event.extensions {
        headers.push(&format!("ce_{name}"), &value.to_string());
        let kind = match value {
            Attribute::Boolean(_) => "boolean",
            Attribute::Integer(_) => "integer",
            Attribute::Text(_) => continue,
        };
        types.extend([name.as_str(), "=", kind, ","]);
    }
    if !types.is_empty() {
        headers.push(TYPES, &types);
    }
    headers
}

/// The event of a record. One that is none, which others may write to a topic, is passed over and told of.
pub(crate) fn readable(record: &Stored) -> Option<Event> {
    let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
    let read = read(record).inspect_err(|error| {
        tracing::error!(%topic, partition, offset, %error, "a record is passed over");
    });
    read.ok()
}

/// The event of a record.
pub fn read(record: &Stored) -> Result<Event, Unreadable> {
    let fault = |what: &str| Unreadable(record.event_id, what.to_owned());
    let header = |name: &str| record.headers.get(name).map(str::to_owned);
    let required =
        |name: &str| header(name).ok_or_else(|| fault(&format!("it has no header {name}")));
    Ok(Event {
        event_id: record.event_id,
        id: required("ce_id")?,
        source: required("ce_source")?,
        event_type: EventType::recorded(&required("ce_type")?)
            .map_err(|_| fault("its type is not one"))?,
        tenant: record.tenant.clone(),
        schema_version: header(SCHEMA_VERSION)
            .map_or_else(|| required("ce_schemaversion"), Ok)?
            .parse()
            .map_err(|_| fault("its version is not one"))?,
        time: required("ce_time")?,
        received_at_ms: record.timestamp_ms,
        traceparent: header("ce_traceparent"),
        subject: header("ce_subject"),
        data_schema: header("ce_dataschema"),
        data_content_type: header("ce_datacontenttype").or_else(|| {
            let binary = header(ENVELOPE)? == EnvelopeKind::Binary.as_str();
            let exact = record.headers.get(SCHEMA_VERSION).is_some();
            header("content-type").filter(|_| binary && exact)
        }),
        extensions: extensions(&record.headers),
        data: data(record)
            .ok_or_else(|| fault("its value is not the envelope its headers name"))?,
    })
}

fn extensions(headers: &Headers) -> Vec<(String, Attribute)> {
    const KNOWN: [&str; 11] = [
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "tenantid",
        "schemaversion",
        "subject",
        "dataschema",
        "datacontenttype",
        "traceparent",
    ];
    let marked = headers.get(TYPES).unwrap_or_default();
    let kind_of = |name: &str| {
        marked
            .split(',')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let typed = |name: &str, value: &str| match kind_of(name) {
        Some("boolean") => value.parse().map(Attribute::Boolean).ok(),
        Some("integer") => value.parse().map(Attribute::Integer).ok(),
        _ => Some(Attribute::Text(value.to_owned())),
    };
    headers
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("ce_")?, value)))
        .filter(|(name, _)| !KNOWN.contains(name))
        .filter_map(|(name, value)| Some((name.to_owned(), typed(name, value)?)))
        .collect()
}

/// The members of an envelope that hold data.
#[derive(Deserialize)]
struct Carrier {
    data: Option<RawJson>,
    data_base64: Option<String>,
}

fn data(record: &Stored) -> Option<Data> {
    let kind = record.headers.get(DATA)?;
    if record.headers.get(ENVELOPE) == Some(EnvelopeKind::Binary.as_str()) {
        let bytes = record.value.clone();
        return Some(match kind {
            "none" => Data::None,
            "json" => Data::Json(RawJson::trusted(bytes)),
            "text" => Data::Text(String::from_utf8(bytes.to_vec()).ok()?),
            _ => Data::Binary(bytes),
        });
    }
    let carrier: Carrier = serde_json::from_slice(&record.value).ok()?;
    Some(match kind {
        "none" => Data::None,
        // `null` is data too, but reads as no member at all.
        "json" => Data::Json(carrier.data.unwrap_or_else(|| RawJson::trusted("null"))),
        "text" => Data::Text(serde_json::from_str(carrier.data?.as_str()).ok()?),
        _ => Data::Binary(STANDARD.decode(carrier.data_base64?).ok()?.into()),
    })
}

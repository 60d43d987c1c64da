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

/// What a record's headers say, each the first of its name.
#[derive(Default)]
struct Said<'h> {
    content_type: Option<&'h str>,
    envelope: Option<&'h str>,
    data: Option<&'h str>,
    types: Option<&'h str>,
    exact_version: Option<&'h str>,
    id: Option<&'h str>,
    source: Option<&'h str>,
    event_type: Option<&'h str>,
    time: Option<&'h str>,
    version: Option<&'h str>,
    subject: Option<&'h str>,
    data_schema: Option<&'h str>,
    data_content_type: Option<&'h str>,
    traceparent: Option<&'h str>,
    /// All others that begin with `ce_`, without that.
    extensions: Vec<(&'h str, &'h str)>,
}

impl<'h> Said<'h> {
    fn by(headers: &'h Headers) -> Self {
        let mut said = Self::default();
        for (name, value) in headers.iter() {
            let place = match name {
                "content-type" => &mut said.content_type,
                ENVELOPE => &mut said.envelope,
                DATA => &mut said.data,
                TYPES => &mut said.types,
                SCHEMA_VERSION => &mut said.exact_version,
                "ce_id" => &mut said.id,
                "ce_source" => &mut said.source,
                "ce_type" => &mut said.event_type,
                "ce_time" => &mut said.time,
                "ce_schemaversion" => &mut said.version,
                "ce_subject" => &mut said.subject,
                "ce_dataschema" => &mut said.data_schema,
                "ce_datacontenttype" => &mut said.data_content_type,
                "ce_traceparent" => &mut said.traceparent,
                "ce_specversion" | "ce_tenantid" => continue,
                other => {
                    let extension = other.strip_prefix("ce_");
                    said.extensions.extend(extension.map(|name| (name, value)));
                    continue;
                }
            };
            place.get_or_insert(value);
        }
        said
    }

    fn is_binary(&self) -> bool {
        self.envelope == Some(EnvelopeKind::Binary.as_str())
    }

    fn extensions(&self) -> Vec<(String, Attribute)> {
        let marked = self.types.unwrap_or_default();
        let kind_of = |name: &str| {
            let mut marks = marked.split(',');
            marks.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let typed = |name: &str, value: &str| match kind_of(name) {
            Some("boolean") => value.parse().map(Attribute::Boolean).ok(),
            Some("integer") => value.parse().map(Attribute::Integer).ok(),
            _ => Some(Attribute::Text(value.to_owned())),
        };
        let extensions = self.extensions.iter();
        extensions
            .filter_map(|(name, value)| Some(((*name).to_owned(), typed(name, value)?)))
            .collect()
    }
}

/// The event of a record.
pub fn read(record: &Stored) -> Result<Event, Unreadable> {
    let fault = |what: &str| Unreadable(record.event_id, what.to_owned());
    let said = Said::by(&record.headers);
    let required = |name: &str, value: Option<_>| {
        value.ok_or_else(|| fault(&format!("it has no header {name}")))
    };
    // In binary mode an exact envelope says the data's media type there alone.
    let content_type = said.content_type;
    let content_type = content_type.filter(|_| said.is_binary() && said.exact_version.is_some());
    Ok(Event {
        event_id: record.event_id,
        id: required("ce_id", said.id)?.to_owned(),
        source: required("ce_source", said.source)?.to_owned(),
        event_type: EventType::recorded(required("ce_type", said.event_type)?)
            .map_err(|_| fault("its type is not one"))?,
        tenant: record.tenant.clone(),
        schema_version: required("ce_schemaversion", said.exact_version.or(said.version))?
            .parse()
            .map_err(|_| fault("its version is not one"))?,
        time: required("ce_time", said.time)?.to_owned(),
        received_at_ms: record.timestamp_ms,
        traceparent: said.traceparent.map(str::to_owned),
        subject: said.subject.map(str::to_owned),
        data_schema: said.data_schema.map(str::to_owned),
        data_content_type: said.data_content_type.or(content_type).map(str::to_owned),
        extensions: said.extensions(),
        data: data(&said, &record.value)
            .ok_or_else(|| fault("its value is not the envelope its headers name"))?,
    })
}

/// The members of an envelope that hold data.
#[derive(Deserialize)]
struct Carrier {
    data: Option<RawJson>,
    data_base64: Option<String>,
}

fn data(said: &Said<'_>, value: &Bytes) -> Option<Data> {
    let kind = said.data?;
    if said.is_binary() {
        let bytes = value.clone();
        return Some(match kind {
            "none" => Data::None,
            "json" => Data::Json(RawJson::trusted(bytes)),
            "text" => Data::Text(String::from_utf8(bytes.to_vec()).ok()?),
            _ => Data::Binary(bytes),
        });
    }
    let carrier: Carrier = serde_json::from_slice(value).ok()?;
    Some(match kind {
        "none" => Data::None,
        // `null` is data too, but reads as no member at all.
        "json" => Data::Json(carrier.data.unwrap_or_else(|| RawJson::trusted("null"))),
        "text" => Data::Text(serde_json::from_str(carrier.data?.as_str()).ok()?),
        _ => Data::Binary(STANDARD.decode(carrier.data_base64?).ok()?.into()),
    })
}

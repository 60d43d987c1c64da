//! CloudEvents 1.0 as it comes in: structured, batched and binary mode of the HTTP binding.
//!
//! Bytes in, [`Incoming`] out. Whether `type` fits our rule is not decided here: it is the way in's first step.

mod forms;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fluent_uri::{Uri, UriRef};

use crate::event::{is_json, is_traceparent};
use crate::json::{self, RawJson};
use crate::{Attribute, Data};

/// A CloudEvent as its producer sent it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incoming {
    /// `id`, required.
    pub id: String,
    /// `source`, required.
    pub source: String,
    /// `type`, required; not yet checked against our rule.
    pub event_type: String,
    /// `time`, RFC 3339.
    pub time: Option<String>,
    /// `subject`.
    pub subject: Option<String>,
    /// `dataschema`.
    pub data_schema: Option<String>,
    /// `datacontenttype`.
    pub data_content_type: Option<String>,
    /// `schemaversion`, our extension.
    pub schema_version: Option<String>,
    /// `traceparent` (distributed tracing extension); one that is none is left out, as W3C has it.
    pub traceparent: Option<String>,
    /// The other extension attributes.
    pub extensions: Vec<(String, Attribute)>,
    /// What it carries.
    pub data: Data,
}

/// Why bytes are not a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCloudEvent {
    /// The text is not strict JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    /// An attribute is missing or cannot be what it is. Its name comes first.
    #[error("attribute '{0}' {1}")]
    Attribute(String, String),
    /// The body has not the form of its mode.
    #[error("{0}")]
    Form(&'static str),
}

/// The longest attribute name. CloudEvents recommends 20; more is accepted, but not without end.
const MAX_NAME_LENGTH: usize = 64;
/// The longest attribute value, in bytes.
const MAX_VALUE_LENGTH: usize = 4_096;

/// Structured mode: one event in the JSON format.
pub fn structured(text: &str) -> Result<Incoming, InvalidCloudEvent> {
    well_formed(text, 1)?;
    from_checked(text)
}

/// As [`structured`], for an event that this program has written: what was taken when it came is not held to its form again.
pub fn recorded(text: &str) -> Result<Incoming, InvalidCloudEvent> {
    well_formed(text, 1)?;
    let (event, version) = read(text)?;
    complete(event, version.as_deref())
}

/// Strict JSON, whose `data` stands so many levels within it and may be as deep as in binary mode.
fn well_formed(text: &str, levels: usize) -> Result<(), InvalidCloudEvent> {
    let checked = json::check_around(text, levels);
    checked
        .map(drop)
        .map_err(|error| InvalidCloudEvent::Json(error.to_string()))
}

/// The events of a batch, each of which may have been refused on its own.
pub type Batch = Vec<Result<Incoming, InvalidCloudEvent>>;

/// Batched mode: the first `most` events of an array, and how many there are in all.
pub fn batch(text: &str, most: usize) -> Result<(Batch, usize), InvalidCloudEvent> {
    well_formed(text, 2)?;
    let (items, count) = json::elements(text, most)
        .map_err(|_| InvalidCloudEvent::Form("a CloudEvents batch is a JSON array of events"))?;
    let events = items.into_iter().map(|item| from_checked(item.get()));
    Ok((events.collect(), count))
}

/// Binary mode: attributes from `ce-` headers (names without the prefix, values already
/// percent-decoded); a name that stands twice is refused.
pub fn binary<'a>(
    headers: impl Iterator<Item = (&'a str, String)>,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<Incoming, InvalidCloudEvent> {
    let (mut event, mut version) = (Incoming::default(), None);
    if let Some(content_type) = content_type {
        // Held to the same rule: the other modes must be able to say it too.
        let value = Attribute::Text(content_type.to_owned());
        set(&mut event, &mut version, "datacontenttype", value)?;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in headers {
        if name == "datacontenttype" {
            return Err(invalid(name, "is the Content-Type header in binary mode"));
        }
        if seen.contains(&name) {
            return Err(invalid(name, "stands twice"));
        }
        seen.push(name);
        set(&mut event, &mut version, name, Attribute::Text(value))?;
    }
    event.data = data_of(&event, body)?;
    finish(event, version.as_deref())
}

fn data_of(event: &Incoming, body: Bytes) -> Result<Data, InvalidCloudEvent> {
    if body.is_empty() {
        return Ok(Data::None);
    }
    let content_type = event.data_content_type.as_deref();
    match std::str::from_utf8(&body) {
        Ok(text) if is_json(content_type) => {
            let parsed = RawJson::parse(text);
            let (json, _) = parsed.map_err(|error| InvalidCloudEvent::Json(error.to_string()))?;
            Ok(Data::Json(json))
        }
        Err(_) if is_json(content_type) => Err(InvalidCloudEvent::Json("it is not UTF-8".into())),
        Ok(text) if content_type.is_some_and(|it| it.starts_with("text/")) => {
            Ok(Data::Text(text.to_owned()))
        }
        _ => Ok(Data::Binary(body)),
    }
}

/// An event in the JSON format. The text is strict JSON already.
fn from_checked(text: &str) -> Result<Incoming, InvalidCloudEvent> {
    let (event, version) = read(text)?;
    finish(event, version.as_deref())
}

/// Its members in order, and its `specversion`.
fn read(text: &str) -> Result<(Incoming, Option<String>), InvalidCloudEvent> {
    if !text.trim_start().starts_with('{') {
        let fault = "a CloudEvent in the JSON format is a JSON object";
        return Err(InvalidCloudEvent::Form(fault));
    }
    let members = json::members(text);
    let members = members.map_err(|error| InvalidCloudEvent::Json(error.to_string()))?;
    let mut event = Incoming::default();
    let (mut version, mut data, mut base64) = (None, None, None);
    for (name, value) in members {
        match &*name {
            "data" => data = Some(value),
            "data_base64" => base64 = Some(value),
            _ if value.get() == "null" => {} // CloudEvents JSON format 3.1: the same as absent.
            _ => {
                let attribute = serde_json::from_str(value.get()).map_err(|_| {
                    invalid(
                        &name,
                        "must be a string, a boolean or a whole number of 32 bits",
                    )
                })?;
                set(&mut event, &mut version, &name, attribute)?;
            }
        }
    }
    let is_set = |value: &&serde_json::value::RawValue| value.get() != "null";
    let base64 = base64.filter(is_set);
    let data = data.filter(|value| base64.is_none() || is_set(value));
    event.data =
        match (data, base64) {
            (Some(_), Some(_)) => {
                return Err(InvalidCloudEvent::Form(
                    "an event has either data or data_base64",
                ));
            }
            (None, None) => Data::None,
            (None, Some(value)) => {
                let text: Option<String> = serde_json::from_str(value.get()).ok();
                let bytes = text.and_then(|text| STANDARD.decode(text).ok());
                Data::Binary(
                    bytes
                        .ok_or_else(|| invalid("data_base64", "is not Base64 text"))?
                        .into(),
                )
            }
            (Some(value), None) if is_json(event.data_content_type.as_deref()) => {
                Data::Json(RawJson::trusted(value.get().to_owned()))
            }
            (Some(value), None) => Data::Text(serde_json::from_str(value.get()).map_err(|_| {
                invalid("data", "must be a string when datacontenttype is not JSON")
            })?),
        };
    Ok((event, version))
}

fn invalid(name: &str, why: &str) -> InvalidCloudEvent {
    InvalidCloudEvent::Attribute(crate::names::clipped(name), why.to_owned())
}

fn set(
    event: &mut Incoming,
    version: &mut Option<String>,
    name: &str,
    value: Attribute,
) -> Result<(), InvalidCloudEvent> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.bytes().all(legal) {
        return Err(invalid(
            name,
            "has a name that is not 1 to 64 lower-case letters and digits",
        ));
    }
    if let Attribute::Text(text) = &value {
        if text.len() > MAX_VALUE_LENGTH {
            return Err(invalid(name, "is longer than 4096 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(invalid(name, "contains a control character"));
        }
    }
    let slot = match name {
        "id" => return text_into(name, value, |text| event.id = text),
        "source" => return text_into(name, value, |text| event.source = text),
        "type" => return text_into(name, value, |text| event.event_type = text),
        "specversion" => version,
        "time" => &mut event.time,
        "subject" => &mut event.subject,
        "dataschema" => &mut event.data_schema,
        "datacontenttype" => &mut event.data_content_type,
        "schemaversion" => &mut event.schema_version,
        "traceparent" => &mut event.traceparent,
        // The tenant is always the credential's. The others are of a delivery, not of the event: one that is passed on would
        // be marked twice when it is replayed.
        "tenantid" | "replayed" | "replayid" | "tidingssequence" => return Ok(()),
        "data" => return Err(invalid(name, "is reserved for the payload")),
        crate::COPY_ATTRIBUTE => {
            return Err(invalid(name, "is set by Tidings alone; use another name"));
        }
        "topic" | "partition" | "offset" => {
            return Err(invalid(
                name,
                "is what an event's place is answered as; use another name",
            ));
        }
        _ => {
            event.extensions.push((name.to_owned(), value));
            return Ok(());
        }
    };
    text_into(name, value, |text| *slot = Some(text))
}

fn text_into(
    name: &str,
    value: Attribute,
    put: impl FnOnce(String),
) -> Result<(), InvalidCloudEvent> {
    match value {
        Attribute::Text(text) if !text.is_empty() => {
            put(text);
            Ok(())
        }
        _ => Err(invalid(name, "must be a non-empty string")),
    }
}

/// What every event has, and each attribute in the form of its type (CloudEvents 1.0, "Type System").
fn finish(event: Incoming, version: Option<&str>) -> Result<Incoming, InvalidCloudEvent> {
    let mut event = complete(event, version)?;
    if UriRef::parse(event.source.as_str()).is_err() {
        return Err(invalid("source", "is not a URI reference (RFC 3986)"));
    }
    let schema = event.data_schema.as_deref();
    if schema.is_some_and(|schema| Uri::parse(schema).is_err()) {
        return Err(invalid("dataschema", "is not a URI (RFC 3986)"));
    }
    if event
        .time
        .as_deref()
        .is_some_and(|time| !forms::is_rfc3339(time))
    {
        let why = "is not an RFC 3339 time, as in 2026-01-31T12:00:00Z";
        return Err(invalid("time", why));
    }
    event.traceparent = event.traceparent.filter(|it| is_traceparent(it));
    Ok(event)
}

fn complete(event: Incoming, version: Option<&str>) -> Result<Incoming, InvalidCloudEvent> {
    match version {
        Some("1.0") => {}
        Some(_) => return Err(invalid("specversion", "must be 1.0")),
        None => return Err(invalid("specversion", "is missing")),
    }
    for (name, value) in [
        ("id", &event.id),
        ("source", &event.source),
        ("type", &event.event_type),
    ] {
        if value.is_empty() {
            return Err(invalid(name, "is missing"));
        }
    }
    Ok(event)
}

/// Decodes a binary-mode header value (HTTP binding 3.1.3.2): a quoted string (RFC 9110, 5.6.4) is what it quotes, and then
/// percent-encoding is undone once.
pub fn header_decoded(value: &[u8]) -> Option<String> {
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let Some(quoted) = quoted else {
        return percent_decoded(value);
    };
    let mut plain = Vec::with_capacity(quoted.len());
    let mut rest = quoted.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'\\' => plain.push(rest.next()?),
            b'"' => return None,
            byte => plain.push(byte),
        }
    }
    percent_decoded(&plain)
}

/// Undoes percent-encoding; nothing where it is broken, or not UTF-8.
pub fn percent_decoded(value: &[u8]) -> Option<String> {
    let hex = |byte: u8| {
        (byte as char)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.iter().copied();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            bytes.push(hex(rest.next()?)? << 4 | hex(rest.next()?)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINIMAL: &str = r#""specversion":"1.0","id":"1","source":"/s","type":"a.b""#;

    fn refused(members: &str) -> String {
        structured(&format!("{{{members}}}"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn attributes_keep_their_types() {
        let event = structured(&format!(
            r#"{{{MINIMAL},"n":5,"b":true,"t":"x","gone":null,"tenantid":"evil","data":{{"a":1}}}}"#
        ))
        .unwrap();
        let expected: Vec<(String, Attribute)> = vec![
            ("n".into(), Attribute::Integer(5)),
            ("b".into(), Attribute::Boolean(true)),
            ("t".into(), Attribute::Text("x".into())),
        ];
        assert_eq!(event.extensions, expected);
        assert_eq!(event.data.as_bytes(), br#"{"a":1}"#);
    }

    #[test]
    fn what_is_not_a_cloudevent_is_refused_by_name() {
        for (members, name) in [
            (r#""id":"1","source":"/s","type":"a.b""#, "specversion"),
            (
                r#""specversion":"0.3","id":"1","source":"/s","type":"a.b""#,
                "specversion",
            ),
            (
                r#""specversion":"1.0","id":"","source":"/s","type":"a.b""#,
                "id",
            ),
            (
                r#""specversion":"1.0","id":1,"source":"/s","type":"a.b""#,
                "id",
            ),
            (&format!(r#"{MINIMAL},"Big":"x""#), "Big"),
            (&format!(r#"{MINIMAL},"topic":"t""#), "topic"),
            (&format!(r#"{MINIMAL},"x":{{}}"#), "x"),
            (&format!(r#"{MINIMAL},"x":5000000000"#), "x"),
            (&format!(r#"{MINIMAL},"x":"a\nb""#), "x"),
            (&format!(r#"{MINIMAL},"time":"yesterday""#), "time"),
            (&format!(r#"{MINIMAL},"time":"20260131T120000Z""#), "time"),
            (
                r#""specversion":"1.0","id":"1","source":"a b","type":"a.b""#,
                "source",
            ),
            (
                r#""specversion":"1.0","id":"1","source":"http://[bad","type":"a.b""#,
                "source",
            ),
            (
                r#""specversion":"1.0","id":"1","source":"%zz","type":"a.b""#,
                "source",
            ),
            (
                &format!(r#"{MINIMAL},"dataschema":"/relative""#),
                "dataschema",
            ),
            (
                &format!(r#"{MINIMAL},"dataschema":"urn:%zz""#),
                "dataschema",
            ),
            (&format!(r#"{MINIMAL},"data_base64":"%%""#), "data_base64"),
        ] {
            let sentence = refused(members);
            assert!(
                sentence.contains(&format!("'{name}'")),
                "{members}: {sentence}"
            );
        }
        assert!(refused(&format!(r#"{MINIMAL},"data":1,"data_base64":"AA==""#)).contains("either"));
        assert!(matches!(structured("[]"), Err(InvalidCloudEvent::Form(_))));
        let many: Vec<String> = (0..300).map(|n| format!(r#""a{n}":"x""#)).collect();
        let many = structured(&format!("{{{}}}", many.join(","))).unwrap_err();
        assert!(many.to_string().contains("256"), "{many}");
    }

    #[test]
    fn a_form_of_the_data_that_is_null_is_as_absent() {
        let of = |data: &str| structured(&format!("{{{MINIMAL},{data}}}")).map(|event| event.data);
        let bytes = Ok(Data::Binary(Bytes::from_static(b"hi")));
        assert_eq!(of(r#""data_base64":null"#), Ok(Data::None));
        assert_eq!(of(r#""data":null,"data_base64":"aGk=""#), bytes);
        let data = of(r#""data":{"a":1},"data_base64":null"#);
        assert!(
            matches!(&data, Ok(Data::Json(json)) if json.as_str() == r#"{"a":1}"#),
            "{data:?}"
        );
        assert!(of(r#""data":1,"data_base64":"aGk=""#).is_err());
    }

    #[test]
    fn what_was_taken_is_read_again_whatever_its_form() {
        let text = r#"{"specversion":"1.0","id":"1","source":"/user/a|b c","type":"a.b","time":"20260131T120000Z"}"#;
        assert!(structured(text).is_err());
        assert_eq!(recorded(text).unwrap().source, "/user/a|b c");
        assert!(recorded("{}").is_err());
    }

    #[test]
    fn a_traceparent_that_is_none_is_as_absent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let of = |value: &str| {
            let event = structured(&format!(r#"{{{MINIMAL},"traceparent":"{value}"}}"#));
            event.unwrap().traceparent
        };
        assert_eq!(of(good).as_deref(), Some(good));
        assert_eq!(of("garbage"), None);
        assert_eq!(
            of(&good.replace("00f067aa0ba902b7", "0000000000000000")),
            None
        );
    }

    #[test]
    fn binary_mode_takes_any_data() {
        let headers = || {
            [
                ("specversion", "1.0"),
                ("id", "1"),
                ("source", "/s"),
                ("type", "a.b"),
            ]
            .into_iter()
            .map(|(name, value)| (name, value.to_owned()))
        };
        let of = |content_type, body: &'static [u8]| {
            binary(headers(), content_type, body.into()).map(|event| event.data)
        };
        assert_eq!(of(Some("text/plain"), b"hi"), Ok(Data::Text("hi".into())));
        assert_eq!(
            of(Some("image/png"), b"\xff"),
            Ok(Data::Binary(Bytes::from_static(b"\xff")))
        );
        assert!(matches!(
            of(Some("application/json"), b"{\"a\":1}"),
            Ok(Data::Json(_))
        ));
        assert!(of(Some("application/json"), b"{").is_err());
        assert_eq!(of(None, b""), Ok(Data::None));
    }

    #[test]
    fn binary_mode_says_nothing_that_structured_mode_could_not() {
        let of = |content_type: &str, more: &[(&'static str, &str)]| {
            let right = [
                ("specversion", "1.0"),
                ("id", "1"),
                ("source", "/s"),
                ("type", "a.b"),
            ];
            let headers = right.iter().chain(more);
            let headers = headers.map(|(name, value)| (*name, (*value).to_owned()));
            binary(headers, Some(content_type), Bytes::new())
        };
        assert!(of("text/plain", &[("n", "1")]).is_ok());
        for content_type in ["", "text/plain;\tx=1", &"x".repeat(4097)] {
            let error = of(content_type, &[]).unwrap_err().to_string();
            assert!(error.contains("'datacontenttype'"), "{error}");
        }
        for name in ["id", "n"] {
            let error = of("text/plain", &[(name, "1"), (name, "2")]);
            let error = error.unwrap_err().to_string();
            assert_eq!(error, format!("attribute '{name}' stands twice"));
        }
    }

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(
            percent_decoded(b"Euro%20%E2%82%AC").as_deref(),
            Some("Euro €")
        );
        assert_eq!(percent_decoded(b"%F"), None);
        let quoted = |value: &[u8]| header_decoded(value);
        assert_eq!(quoted(br#""a b""#).as_deref(), Some("a b"));
        assert_eq!(quoted(br#""a \" \\ %22""#).as_deref(), Some(r#"a " \ ""#));
        assert_eq!(quoted(b"\"").as_deref(), Some("\""));
        assert_eq!(quoted(br#"a "b""#).as_deref(), Some(r#"a "b""#));
        assert_eq!(quoted(br#""a"b""#), None);
        assert_eq!(quoted(br#""a\""#), None);
        assert_eq!(percent_decoded(b"%ff"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = structured(&text);
            let _ = batch(&text, 10);
            let _ = percent_decoded(text.as_bytes());
        }
    }

    #[test]
    fn data_may_be_as_deep_in_every_mode() {
        for (levels, taken) in [(64, true), (65, false)] {
            let data = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            let event = format!(
                r#"{{"specversion":"1.0","id":"1","source":"/s","type":"a.b","data":{data}}}"#
            );
            assert_eq!(structured(&event).is_ok(), taken, "{levels}");
            assert_eq!(batch(&format!("[{event}]"), 1).is_ok(), taken, "{levels}");
            let headers = [
                ("specversion", "1.0"),
                ("id", "1"),
                ("source", "/s"),
                ("type", "a.b"),
            ];
            let headers = headers.map(|(name, value)| (name, value.to_owned()));
            let binary = binary(headers.into_iter(), Some("application/json"), data.into());
            assert_eq!(binary.is_ok(), taken, "{levels}");
        }
    }
}

//! Whatever bytes come in: nothing panics, and what is accepted can be written and read again as
//! the same. Each target runs a second as a test, and as long as wanted with `make fuzz`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bolero::check;
use serde_json::json;
use serde_json::value::{RawValue, Value};
use tidings_event::cloudevents::{self, Incoming};
use tidings_event::{Attribute, Data, json};

/// Values that sit at some edge of the decoder.
const VALUES: [&str; 22] = [
    "1.0",
    "a.b",
    "/source",
    "application/json",
    "text/plain",
    "image/png",
    "application/vnd.x+json; charset=utf-8",
    "2026-01-31T12:00:00Z",
    "2026-13-31T12:00:00Z",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "",
    " ",
    "AA==",
    "%41%%",
    "a\u{0}b",
    "\u{e9}\u{1f600}",
    "\"\\",
    "true",
    "2147483648",
    "null",
    "\u{2028}",
    "acme",
];

/// Names of attributes, known, reserved and impossible.
const NAMES: [&str; 20] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "schemaversion",
    "traceparent",
    "tenantid",
    "data",
    "data_base64",
    "topic",
    "n",
    "ext1",
    "Big",
    "",
    "a\u{e9}",
    "x-y",
];

const NUMBERS: [&str; 14] = [
    "0",
    "-0",
    "1",
    "1.0",
    "1e2",
    "-2147483648",
    "2147483648",
    "18446744073709551616",
    "0.1",
    "123456789012345.678901234567890",
    "1e308",
    "1e309",
    "5e-324",
    "9007199254740993.0",
];

/// Reads a fuzzer's bytes as choices; at their end every choice is the first.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn of<'t>(&mut self, table: &[&'t str]) -> &'t str {
        table[usize::from(self.next()) % table.len()]
    }

    fn text(&mut self) -> String {
        match self.next() % 8 {
            0 => char::from(self.next()).to_string(),
            1 => "x".repeat(usize::from(self.next()) * 17),
            _ => self.of(&VALUES).to_owned(),
        }
    }

    fn number(&mut self) -> String {
        if self.next().is_multiple_of(2) {
            return self.of(&NUMBERS).to_owned();
        }
        let bits = std::array::from_fn(|_| self.next());
        let double = f64::from_le_bytes(bits);
        let finite = double.is_finite().then(|| format!("{double:e}"));
        finite.unwrap_or_else(|| u64::from_le_bytes(bits).to_string())
    }

    fn value(&mut self, depth: u8) -> String {
        match self.next() % 8 {
            0 => "null".to_owned(),
            1 => "true".to_owned(),
            2 => self.number(),
            3 if depth > 0 => {
                let count = self.next() % 4;
                let items: Vec<_> = (0..count).map(|_| self.value(depth - 1)).collect();
                format!("[{}]", items.join(", "))
            }
            4 if depth > 0 => self.object(depth - 1),
            5 => {
                let nested = usize::from(self.next() % 80);
                format!("{}1{}", "[".repeat(nested), "]".repeat(nested))
            }
            _ => json!(self.text()).to_string(),
        }
    }

    fn object(&mut self, depth: u8) -> String {
        let member = |this: &mut Self| format!("{}:{}", json!(this.of(&NAMES)), this.value(depth));
        let count = self.next() % 5;
        let members: Vec<_> = (0..count).map(|_| member(self)).collect();
        format!("{{{}}}", members.join(","))
    }

    /// A CloudEvent that is right but for a few members.
    fn event(&mut self) -> String {
        let right = [
            r#""specversion":"1.0""#,
            r#""id":"1""#,
            r#""source":"/s""#,
            r#""type":"a.b""#,
        ];
        let left_out = usize::from(self.next());
        let kept = right.iter().enumerate();
        let kept = kept.filter(|(index, _)| left_out != index + 1);
        let mut members: Vec<String> = kept.map(|(_, text)| (*text).to_owned()).collect();
        for _ in 0..self.next() % 6 {
            let name = self.of(&NAMES[4..]);
            let value = match name {
                "data" => self.value(4),
                "data_base64" => json!(STANDARD.encode(self.text())).to_string(),
                _ if self.next().is_multiple_of(4) => self.value(1),
                _ => json!(self.text()).to_string(),
            };
            members.push(format!("{}:{value}", json!(name)));
        }
        format!("{{{}}}", members.join(", "))
    }

    /// The text with a few of its bytes changed, as long as it stays UTF-8.
    fn damaged(&mut self, text: String) -> String {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..(self.next() / 64).saturating_sub(1) {
            let at = usize::from(self.next()) << 8 | usize::from(self.next());
            let length = bytes.len().max(1);
            match (bytes.get_mut(at % length), self.next() % 3) {
                (Some(byte), 0) => *byte ^= 1 << (self.next() % 8),
                (Some(byte), 1) => *byte = self.next(),
                (Some(_), _) => bytes.truncate(at % length),
                (None, _) => {}
            }
        }
        String::from_utf8(bytes).unwrap_or(text)
    }
}

/// The event in the JSON format, as any producer would write it.
fn written(event: &Incoming) -> String {
    let mut members = json!({
        "specversion": "1.0", "id": event.id, "source": event.source, "type": event.event_type,
    });
    let optional = [
        ("time", &event.time),
        ("subject", &event.subject),
        ("dataschema", &event.data_schema),
        ("datacontenttype", &event.data_content_type),
        ("schemaversion", &event.schema_version),
        ("traceparent", &event.traceparent),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            members[name] = json!(value);
        }
    }
    let mut text = members.to_string();
    text.pop();
    // Not by way of a map, which would hide a name that is there twice.
    for (name, value) in &event.extensions {
        write!(text, ",{}:{}", json!(name), json!(value)).unwrap();
    }
    let (name, data) = match &event.data {
        Data::None => return text + "}",
        Data::Json(json) => ("data", json.as_str().to_owned()),
        Data::Text(data) => ("data", json!(data).to_string()),
        Data::Binary(data) => ("data_base64", json!(STANDARD.encode(data)).to_string()),
    };
    write!(text, ",{}:{data}}}", json!(name)).unwrap();
    text
}

fn comes_back(event: &Incoming) {
    let text = written(event);
    let again = cloudevents::structured(&text);
    assert_eq!(again.as_ref(), Ok(event), "{text}");
    for (_, value) in &event.extensions {
        let is_printable = |text: &String| !text.chars().any(char::is_control);
        assert!(!matches!(value, Attribute::Text(text) if !is_printable(text)));
    }
}

#[test]
fn structured_mode() {
    check!().for_each(|input: &[u8]| {
        let plain = std::str::from_utf8(input).unwrap_or_default();
        let mut choices = Choices(input.iter());
        let text = choices.event();
        let text = choices.damaged(text);
        for text in [plain, &text] {
            if let Ok(event) = cloudevents::structured(text) {
                comes_back(&event);
            }
        }
    });
}

#[test]
fn batched_mode() {
    check!().for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let count = choices.next() % 5;
        let events: Vec<_> = (0..count).map(|_| choices.event()).collect();
        let text = format!(" [{}]", events.join(" ,"));
        let text = choices.damaged(text);
        let Ok((batch, all)) = cloudevents::batch(&text, 3) else {
            return;
        };
        assert_eq!(batch.len(), all.min(3));
        // Each is judged as it would be alone.
        let alone: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
        assert_eq!(alone.len(), all);
        for (judged, text) in batch.iter().zip(alone) {
            assert_eq!(*judged, cloudevents::structured(text.get()));
        }
    });
}

#[test]
fn binary_mode() {
    check!().for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let right = [
            ("specversion", "1.0"),
            ("id", "1"),
            ("source", "/s"),
            ("type", "a.b"),
        ];
        let mut headers: Vec<(&str, String)> = right.map(|(name, it)| (name, it.to_owned())).into();
        for _ in 0..choices.next() % 5 {
            headers.push((choices.of(&NAMES), choices.text()));
        }
        let content_type = match choices.next() % 8 {
            0 => None,
            1 => Some(choices.text()),
            _ => Some(choices.of(&VALUES[3..7]).to_owned()),
        };
        let body = match choices.next() % 3 {
            0 => choices.value(4).into_bytes(),
            1 => choices.text().into_bytes(),
            _ => choices.0.as_slice().to_vec(),
        };
        let bytes = body.clone().into();
        if let Ok(event) = cloudevents::binary(headers.into_iter(), content_type.as_deref(), bytes)
        {
            assert_eq!(event.data.as_bytes().trim_ascii(), body.trim_ascii());
            // As a member of an event, data would be one level deeper than it may be.
            let is_at_limit = matches!(&event.data, Data::Json(data)
                if json::check(&format!("[{}]", data.as_str())).is_err());
            if !is_at_limit {
                comes_back(&event);
            }
        }
    });
}

#[test]
fn percent_encoding() {
    check!().for_each(|input: &[u8]| {
        if let Some(decoded) = cloudevents::percent_decoded(input) {
            let mut encoded = String::new();
            for byte in decoded.bytes() {
                write!(encoded, "%{byte:02x}").unwrap();
            }
            let again = cloudevents::percent_decoded(encoded.as_bytes());
            assert_eq!(again, Some(decoded));
        }
    });
}

/// The same value with its members the other way round, other spaces and other escapes. Its numbers stay, for a `Value`
/// would keep as many digits of them as a double has.
fn spelt_anew(text: &str) -> String {
    let inner = |values: Vec<String>| values.join(" ,\n");
    match text.trim().as_bytes()[0] {
        b'{' => {
            let members = json::members(text).unwrap().into_iter().rev();
            let member = |(name, value): (Cow<'_, str>, &RawValue)| {
                format!("{} : {}", json!(name), spelt_anew(value.get()))
            };
            format!("{{ {} }}", inner(members.map(member).collect()))
        }
        b'[' => {
            let (elements, _) = json::elements(text, usize::MAX).unwrap();
            let elements = elements.iter().map(|element| spelt_anew(element.get()));
            format!("[ {} ]", inner(elements.collect()))
        }
        b'"' => serde_json::from_str::<Value>(text).unwrap().to_string(),
        _ => text.trim().to_owned(),
    }
}

#[test]
fn strict_json() {
    check!().for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let text = choices.value(5);
        let text = choices.damaged(text);
        let Ok(fingerprint) = json::check(&text) else {
            return;
        };
        // What is accepted is JSON for everybody else too, and spelling it anew changes nothing.
        let value: Value = serde_json::from_str(&text).unwrap();
        let anew = spelt_anew(&text);
        assert_eq!(json::check(&anew).unwrap(), fingerprint, "{text} {anew}");
        if let Ok(members) = json::members(&text) {
            assert_eq!(members.len(), value.as_object().unwrap().len());
        }
    });
}

#[test]
fn rows_are_what_three_walks_would_find() {
    let texts = |rows: Vec<json::Members<'_>>| -> Vec<Vec<(String, String)>> {
        let pair = |(name, value): (Cow<'_, str>, &RawValue)| (name.into(), value.get().into());
        let rows = rows.into_iter();
        rows.map(|row| row.into_iter().map(pair).collect())
            .collect()
    };
    check!().for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let count = choices.next() % 5;
        let rows: Vec<_> = (0..count).map(|_| choices.object(2)).collect();
        let text = format!("{{\"events\" : [ {} ]}}", rows.join(","));
        let text = choices.damaged(text);
        let slow = || {
            let members = json::members(&text).ok()?;
            let [(name, array)] = &members[..] else {
                return None;
            };
            let (items, count) = json::elements(array.get(), 3).ok()?;
            let rows = items.into_iter().map(|item| json::members(item.get()).ok());
            let rows = rows.collect::<Option<Vec<_>>>()?;
            (name == "events" && (1..=3).contains(&count)).then_some(rows)
        };
        let fast = json::rows(&text, "events", 3);
        assert_eq!(fast.map(texts), slow().map(texts), "{text}");
    });
}

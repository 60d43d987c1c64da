//! A catalogue of topics: an AsyncAPI 3.0 document, read and checked.
//!
//! A channel's address is the event type and the topic at once. `contentType` says the envelope:
//! `application/cloudevents+json`, with or without parameters, is structured mode, and the schema of the data is
//! `payload.properties.data`; anything else is binary mode, and `payload` is that of the data. Four members
//! say what AsyncAPI has no word for: `x-tidings-service` (whose document it is), and on a channel
//! `x-tidings-sender` and `x-tidings-receivers`, on a message `x-tidings-subject`.

mod parties;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tidings_event::event::essence;
use tidings_event::{EventType, owner_of};

use crate::Contract;
use crate::custom::MAX_PATHS;
use crate::custom::effort::MOST_STEPS;
use crate::reference::{HOPS, escaped, foreign, misleading, resolve, schemas_below};
use crate::ways::Places;
use parties::Operation;

/// The largest document, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// The most channels of a document.
const MAX_CHANNELS: usize = 1_000;
/// The longest subject that is made, in bytes.
const MAX_SUBJECT: usize = 1_024;
pub(crate) const STRUCTURED: &str = "application/cloudevents+json";

/// A catalogue that holds together.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// `info.title`.
    pub title: String,
    /// `info.version`.
    pub version: String,
    /// The application that the document describes.
    pub service: Option<String>,
    /// By event type.
    pub channels: BTreeMap<EventType, Channel>,
    /// The document itself, as JSON.
    pub document: Value,
}

/// One topic.
#[derive(Debug, Clone)]
pub struct Channel {
    /// The event type, which is also the topic.
    pub event_type: EventType,
    /// What it is for.
    pub description: String,
    /// The service that alone may publish, also the `source` of its events; `None`: any may.
    pub sender: Option<String>,
    /// The services that read it, as far as is known.
    pub receivers: Vec<String>,
    /// Whether its events go out in binary mode.
    pub binary: bool,
    /// The `subject` of an event whose publisher gives none.
    pub subject: Option<Subject>,
    /// Where its message stands in the document, as a JSON Pointer.
    pub(crate) place: String,
    /// The schema of the data, with what it refers to.
    pub schema: Arc<Value>,
    /// The same, compiled.
    pub contract: Contract,
}

/// What is wrong with a document, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSON Pointer.
    pub place: String,
    /// What.
    pub detail: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.place.is_empty() {
            "the document"
        } else {
            &self.place
        };
        write!(f, "{place}: {}", self.detail)
    }
}

/// Text with `{tenantid}` and members of the data, as `listing:{data.id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tenant,
    Data(Vec<String>),
}

impl Subject {
    fn parse(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name.strip_prefix("data.") {
                Some(path) => Piece::Data(path.split('.').map(str::to_owned).collect()),
                None if name == "tenantid" => Piece::Tenant,
                None => return None,
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Some(Self(pieces))
    }

    /// Whether the data must be known to make one.
    pub fn names_data(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Data(_)))
    }

    /// The subject of an event; `None` when its data lacks a member that is named, or what stands there can
    /// be no attribute: too long, or with control characters.
    pub fn of(&self, tenant: &str, data: &Value) -> Option<String> {
        let mut subject = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => subject.push_str(text),
                Piece::Tenant => subject.push_str(tenant),
                Piece::Data(path) => {
                    let found = path.iter().try_fold(data, |value, name| value.get(name))?;
                    match found {
                        Value::String(text) => subject.push_str(text),
                        Value::Number(number) => subject.push_str(&number.to_string()),
                        _ => return None,
                    }
                }
            }
        }
        let legal = (1..=MAX_SUBJECT).contains(&subject.len());
        (legal && !subject.chars().any(char::is_control)).then_some(subject)
    }
}

impl Catalog {
    /// Reads a document in YAML or JSON. All faults are reported, not the first alone.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        Self::read(text, true)
    }

    /// As [`parse`](Self::parse), for a document that has been taken before: who its types belong to and how its
    /// services are named is not looked at again.
    pub fn recorded(text: &str) -> Result<Self, Vec<Fault>> {
        Self::read(text, false)
    }

    fn read(text: &str, is_new: bool) -> Result<Self, Vec<Fault>> {
        if text.len() > MAX_BYTES {
            return Err(vec![fault(
                "",
                format!("it is larger than {MAX_BYTES} bytes"),
            )]);
        }
        let document: Value = serde_saphyr::from_str(text)
            .map_err(|error| vec![fault("", format!("it is neither YAML nor JSON: {error}"))])?;
        let mut reading = Reading {
            document: &document,
            is_new,
            operations: Vec::new(),
            steps: 0,
            faults: Vec::new(),
        };
        let (title, version, service) = reading.head();
        reading.operations = reading.operations();
        let channels = reading.channels(service.as_deref());
        let faults = reading.faults;
        if faults.is_empty() {
            Ok(Self {
                title,
                version,
                service,
                channels,
                document,
            })
        } else {
            Err(faults)
        }
    }
}

fn fault(place: &str, detail: impl Into<String>) -> Fault {
    Fault {
        place: place.to_owned(),
        detail: detail.into(),
    }
}

struct Reading<'d> {
    document: &'d Value,
    /// Whether it was never taken before.
    is_new: bool,
    operations: Vec<Operation<'d>>,
    /// What it took to hold its examples to their schemas.
    steps: usize,
    faults: Vec<Fault>,
}

impl<'d> Reading<'d> {
    fn wrong(&mut self, place: &str, detail: impl Into<String>) {
        self.faults.push(fault(place, detail));
    }

    fn head(&mut self) -> (String, String, Option<String>) {
        let version = self.document.get("asyncapi").and_then(Value::as_str);
        if !version.is_some_and(|version| version.starts_with("3.0.")) {
            self.wrong(
                "/asyncapi",
                "it must be an AsyncAPI 3.0 document: asyncapi: 3.0.0",
            );
        }
        let mut leaving = Vec::new();
        foreign(self.document, "", &mut leaving);
        for (place, target) in leaving {
            let detail = format!("{target:?} leaves the document; copy it into components");
            self.wrong(&place, detail);
        }
        for (place, detail) in self
            .is_new
            .then(|| misleading(self.document))
            .into_iter()
            .flatten()
        {
            self.wrong(&place, detail);
        }
        let mut text = |pointer: &str| {
            let found = self.document.pointer(pointer).and_then(Value::as_str);
            if found.is_none() {
                self.faults.push(fault(pointer, "a text is missing here"));
            }
            found.unwrap_or_default().to_owned()
        };
        let (title, version) = (text("/info/title"), text("/info/version"));
        let info = self.document.get("info").unwrap_or(&Value::Null);
        let service = self.name_of(info, "/info", "x-tidings-service");
        (title, version, service)
    }

    fn channels(&mut self, service: Option<&str>) -> BTreeMap<EventType, Channel> {
        let mut channels = BTreeMap::new();
        let Some(given) = self.document.get("channels").and_then(Value::as_object) else {
            self.wrong("/channels", "a catalogue has channels");
            return channels;
        };
        if given.len() > MAX_CHANNELS {
            self.wrong("/channels", format!("more than {MAX_CHANNELS} channels"));
            return channels;
        }
        for (name, channel) in given {
            let place = format!("/channels/{}", escaped(name));
            let Some(channel) = self.channel(&place, channel, service) else {
                continue;
            };
            let event_type = channel.event_type.clone();
            if channels.insert(event_type.clone(), channel).is_some() {
                self.wrong(
                    &place,
                    format!("a second channel has the address {event_type}"),
                );
            }
        }
        channels
    }

    /// A channel. What is wrong in one place of it keeps no other from being looked at.
    fn channel(&mut self, place: &str, value: &'d Value, service: Option<&str>) -> Option<Channel> {
        let event_type = self.address(place, value);
        let (sender, receivers) = self.parties(place, value, service);
        let (place, message) = self.message(place, value)?;
        let own = self.text_of(message, &place, "contentType");
        let default = self.document.get("defaultContentType");
        let content_type = own.or_else(|| default?.as_str().map(str::to_owned));
        let binary = content_type.is_some_and(|it| !is_structured(&it));
        let subject = self.subject(&place, message);
        let schema = self.schema(&place, message, binary)?;
        if self.is_new && !self.may_be_held_to(&format!("{place}/payload"), &schema) {
            return None;
        }
        let schema = Arc::new(schema);
        let contract = match Contract::compile(Arc::clone(&schema)) {
            Ok(contract) => contract,
            Err(error) => {
                self.wrong(&format!("{place}/payload"), error.to_string());
                return None;
            }
        };
        if self.is_new {
            self.examples(&place, message, event_type.as_ref(), binary, &contract);
        }
        Some(Channel {
            place,
            description: text(value, "description"),
            event_type: event_type?,
            sender,
            receivers,
            binary,
            subject,
            schema,
            contract,
        })
    }

    /// The type of a channel's events.
    fn address(&mut self, place: &str, value: &Value) -> Option<EventType> {
        let address = value.get("address").and_then(Value::as_str);
        let event_type: EventType = match address.map(str::parse) {
            Some(Ok(event_type)) => event_type,
            Some(Err(error)) => {
                self.wrong(&format!("{place}/address"), format!("{error}"));
                return None;
            }
            None => {
                self.wrong(place, "a channel has an address");
                return None;
            }
        };
        if let Some(owner) = owner_of(&event_type).filter(|_| self.is_new) {
            let detail = format!(
                "'{event_type}' is a kernel event of service '{owner}', which no catalogue carries"
            );
            self.wrong(&format!("{place}/address"), detail);
        }
        Some(event_type)
    }

    /// The one message of a channel, with its place.
    fn message(&mut self, place: &str, value: &'d Value) -> Option<(String, &'d Value)> {
        let messages = value.get("messages").and_then(Value::as_object);
        let Some((name, message)) = messages
            .filter(|messages| messages.len() == 1)
            .and_then(|messages| messages.iter().next())
        else {
            self.wrong(
                place,
                "a channel has one message: its address is the event type",
            );
            return None;
        };
        let place = format!("{place}/messages/{}", escaped(name));
        let Some(message) = resolve(self.document, message) else {
            self.wrong(&place, "what it refers to is not there");
            return None;
        };
        Some((place, message))
    }

    /// The schema of the data, standing alone.
    fn schema(&mut self, place: &str, message: &'d Value, binary: bool) -> Option<Value> {
        let payload = message.get("payload").unwrap_or(&Value::Null);
        if resolve(self.document, payload).is_some_and(|it| it.get("schemaFormat").is_some()) {
            let detail = "it is a JSON Schema itself, without schemaFormat";
            self.wrong(&format!("{place}/payload"), detail);
            return None;
        }
        let data = if binary {
            Some(payload)
        } else {
            resolve(self.document, payload).and_then(|payload| payload.pointer("/properties/data"))
        };
        let Some(data) = data.filter(|data| data.is_object() || data.is_boolean()) else {
            let detail = if binary {
                "a message has a payload: the schema of the data"
            } else {
                "a structured message describes its data at payload.properties.data"
            };
            self.wrong(&format!("{place}/payload"), detail);
            return None;
        };
        let mut schema = json!({ "allOf": [data] });
        let mut schemas = Map::new();
        schemas_below(self.document, data, &mut schemas);
        if !schemas.is_empty() {
            schema["components"] = json!({ "schemas": schemas });
        }
        Some(schema)
    }

    /// Whether each value has an end of places to go through, and not too many.
    fn may_be_held_to(&mut self, place: &str, schema: &Value) -> bool {
        let places = Places::of(schema);
        let (ways, chain) = (places.ways_in_place(), places.ways().chain);
        if let Some(&(_, back)) = ways.back.first() {
            // Whatever leads back does so by a reference.
            let name = places.name(back).unwrap_or_default();
            let detail = format!(
                "schemas refer to one another in a circle ({name}), with no member and no item between: they say nothing"
            );
            self.wrong(place, detail);
        } else if ways.count > MAX_PATHS {
            let detail = format!(
                "there are more than {MAX_PATHS} ways to hold one value to this schema; use fewer combinations and references"
            );
            self.wrong(place, detail);
        } else if chain > HOPS {
            let detail = format!("{chain} schemas follow one another; {HOPS} is the limit");
            self.wrong(place, detail);
        } else {
            return true;
        }
        false
    }

    fn subject(&mut self, place: &str, message: &Value) -> Option<Subject> {
        let template = self.text_of(message, place, "x-tidings-subject")?;
        let subject = Subject::parse(&template);
        if subject.is_none() {
            let detail = "it may name {tenantid} and {data.member} only";
            self.wrong(&format!("{place}/x-tidings-subject"), detail);
        }
        subject
    }

    /// Each example must keep to what it is an example of.
    fn examples(
        &mut self,
        place: &str,
        message: &Value,
        event_type: Option<&EventType>,
        binary: bool,
        contract: &Contract,
    ) {
        let examples = message.get("examples").and_then(Value::as_array);
        for (index, example) in examples.into_iter().flatten().enumerate() {
            let place = format!("{place}/examples/{index}/payload");
            let Some(payload) = example.get("payload") else {
                continue;
            };
            let data = if binary {
                Some(payload)
            } else {
                payload.get("data")
            };
            let said = payload.get("type").and_then(Value::as_str);
            let other = event_type.is_some_and(|it| said != Some(it.as_str()));
            if other && !binary {
                self.wrong(&format!("{place}/type"), "it is not the channel's address");
            }
            let data = data.unwrap_or(&Value::Null);
            let steps = contract.steps(data).unwrap_or(usize::MAX);
            self.steps = self.steps.saturating_add(steps);
            if self.steps > MOST_STEPS {
                let detail =
                    "it takes too many steps to hold the document's examples to their schemas";
                self.wrong(&place, detail);
                return;
            }
            for violation in contract.check(data) {
                let place = format!("{place}/data{}", violation.path);
                self.wrong(&place, violation.detail);
            }
        }
    }
}

/// Whether a content type is that of structured mode, whatever its parameters (RFC 9110, section 8.3.1).
fn is_structured(content_type: &str) -> bool {
    essence(content_type) == STRUCTURED
}

fn text(value: &Value, name: &str) -> String {
    value
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

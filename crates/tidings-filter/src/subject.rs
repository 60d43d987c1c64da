//! An event as filters look at it.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value;
use tidings_event::{Attribute, Data, Event};

use crate::cesql;

/// An event with its data, which is parsed when the first filter asks for a member of it.
#[derive(Debug)]
pub struct Subject<'a> {
    event: &'a Event,
    data: OnceCell<Option<Value>>,
}

impl<'a> Subject<'a> {
    /// Of an event.
    pub fn new(event: &'a Event) -> Self {
        Self {
            event,
            data: OnceCell::new(),
        }
    }

    /// The event itself.
    pub fn event(&self) -> &'a Event {
        self.event
    }

    /// The data, where it is JSON.
    pub(crate) fn data(&self) -> Option<&Value> {
        let parse = || match &self.event.data {
            Data::Json(json) => serde_json::from_slice(json.as_bytes()).ok(),
            Data::None | Data::Text(_) | Data::Binary(_) => None,
        };
        self.data.get_or_init(parse).as_ref()
    }

    /// The value of a context attribute, by its name in lower case.
    pub fn attribute(&self, name: &str) -> Option<cesql::Value<'a>> {
        let event = self.event;
        let text = |value: &'a str| Some(cesql::Value::Text(Cow::Borrowed(value)));
        match name {
            "specversion" => text("1.0"),
            "id" => text(&event.id),
            "source" => text(&event.source),
            "type" => text(event.event_type.as_str()),
            "time" => text(&event.time),
            "tenantid" => text(event.tenant.as_str()),
            "schemaversion" => text(event.schema_version.as_str()),
            "subject" => event.subject.as_deref().and_then(text),
            "dataschema" => event.data_schema.as_deref().and_then(text),
            "datacontenttype" => event.data_content_type.as_deref().and_then(text),
            "traceparent" => event.traceparent.as_deref().and_then(text),
            other => {
                let mut extensions = event.extensions.iter();
                let (_, value) = extensions.find(|(name, _)| name == other)?;
                Some(match value {
                    Attribute::Boolean(value) => cesql::Value::Boolean(*value),
                    Attribute::Integer(value) => cesql::Value::Integer(*value),
                    Attribute::Text(value) => cesql::Value::Text(Cow::Borrowed(value)),
                })
            }
        }
    }
}

impl cesql::Attributes for Subject<'_> {
    fn attribute(&self, name: &str) -> Option<cesql::Value<'_>> {
        Subject::attribute(self, name)
    }
}

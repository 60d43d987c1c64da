//! An event of the log once more, in another topic of the same tenant's. It comes in behind the rules: what was
//! authorised and valid when it was published stays so. Pure; the id comes from outside.

use tidings_bus::Once;
use tidings_event::json::Fingerprint;
use tidings_event::{Attribute, COPY_ATTRIBUTE, Event, Service, Topic};
use uuid::Uuid;

use super::command::{CloudAttributes, Draft};
use super::name::{Named, NamedDraft};
use super::validate::ValidDraft;
use crate::access::on_behalf_of;

/// What is copied, and where to.
pub(crate) struct Copy<'a> {
    /// The event, which is no copy itself.
    pub(crate) event: &'a Event,
    /// The topic. That copies may go there has been asked.
    pub(crate) topic: &'a Topic,
    /// For which subscription.
    pub(crate) subscription: Uuid,
    /// What the copy is called by: made again under the same name within 24 h it is not appended again.
    pub(crate) name: String,
    /// What is added to the event's attributes.
    pub(crate) added: Vec<(&'static str, Attribute)>,
}

/// The copy with its names. Its attributes are the event's, `id` and `source` too; only the log's id is its own.
pub(super) fn copied(copy: Copy<'_>, event_id: Uuid) -> Named {
    let event = copy.event;
    let mut added = copy.added;
    let original = Attribute::Text(event.event_id.to_string());
    added.push((COPY_ATTRIBUTE, original));
    let mut extensions = event.extensions.clone();
    extensions.retain(|(name, _)| added.iter().all(|(ours, _)| ours != name));
    extensions.extend(added.into_iter().map(|(name, value)| (name.into(), value)));
    let fingerprint = Fingerprint::of_bytes(copy.name.as_bytes());
    let draft = Draft {
        event_type: event.event_type.to_string(),
        schema_version: Some(event.schema_version.as_str().to_owned()),
        data: event.data.clone(),
        fingerprint,
        idempotency_key: None,
        cloud: Some(Box::new(CloudAttributes {
            id: event.id.clone(),
            source: event.source.clone(),
            time: Some(event.time.clone()),
            subject: event.subject.clone(),
            data_schema: event.data_schema.clone(),
            data_content_type: event.data_content_type.clone(),
            traceparent: event.traceparent.clone(),
            extensions,
        })),
        workspace: None,
        // What caused it stands among its extensions.
        cause: None,
        custom: None,
    };
    let entry = NamedDraft {
        event_id,
        once: Once {
            principal: format!("subscription:{}", copy.subscription),
            key: copy.name,
            fingerprint,
        },
        entry: ValidDraft {
            event_type: event.event_type.clone(),
            schema_version: event.schema_version.clone(),
            draft,
        },
    };
    Named {
        entries: vec![entry],
        caller: on_behalf_of(Service::Tidings, event.tenant.clone()),
        tenant: event.tenant.clone(),
        traceparent: None,
        alone: true,
        into: Some(copy.topic.clone()),
    }
}

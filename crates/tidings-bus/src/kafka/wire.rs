//! A record as a Kafka message, and back.
//!
//! Headers go out under their names. In structured mode `ce_…` becomes `ce-…`: not every CloudEvents SDK goes by the content
//! type; that for Python takes any message with a `ce_` header for one in binary mode (docs/decisions/0004).

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};
use tidings_event::{TenantId, Topic};
use uuid::Uuid;

use crate::{Headers, Record, Stored};

/// What the event is found by.
const EVENT_ID: &str = "tidings-event-id";
/// The tenant, where no CloudEvents attribute says it.
const TENANT: &str = "tidings-tenant";
const CE_TENANT: &str = "ce_tenantid";
const CONTENT_TYPE: &str = "content-type";
const STRUCTURED: &str = "application/cloudevents";

/// The message's headers.
pub(super) fn headers(record: &Record) -> OwnedHeaders {
    let mut id = Uuid::encode_buffer();
    let id = &*record.event_id.hyphenated().encode_lower(&mut id);
    let structured = is_structured(record.headers.get(CONTENT_TYPE));
    let mut headers = OwnedHeaders::new_with_capacity(20).insert(Header {
        key: EVENT_ID,
        value: Some(id),
    });
    if record.headers.get(CE_TENANT).is_none() {
        headers = headers.insert(Header {
            key: TENANT,
            value: Some(record.tenant.as_str()),
        });
    }
    let mut renamed = String::new();
    for (name, value) in record.headers.iter() {
        let key = match name.strip_prefix("ce_") {
            Some(attribute) if structured => {
                renamed.clear();
                renamed.extend(["ce-", attribute]);
                &renamed
            }
            _ => name,
        };
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    headers
}

/// Whose record a message is, as far as its headers say.
pub(super) fn tenant(message: &BorrowedMessage<'_>) -> Option<TenantId> {
    let given = message.headers()?;
    let names = [TENANT, CE_TENANT, "ce-tenantid"];
    let tenant = names.into_iter().find_map(|it| text(given.iter(), it))?;
    tenant.parse().ok()
}

fn is_structured(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|content_type| content_type.starts_with(STRUCTURED))
}

/// The record of a message; `None` if it was not written by Tidings, or what is wrong with one that seems to be.
///
/// Whoever copies a record may add headers. Ours are all text: one that is not is another's, and left out.
pub(super) fn stored(
    message: &BorrowedMessage<'_>,
    topic: &Topic,
) -> Result<Option<Stored>, &'static str> {
    let (Some(given), Ok(partition), Ok(offset)) = (
        message.headers(),
        u32::try_from(message.partition()),
        u64::try_from(message.offset()),
    ) else {
        return Ok(None);
    };
    let Some(event_id) = text(given.iter(), EVENT_ID) else {
        return Ok(None);
    };
    let structured = is_structured(text(given.iter(), CONTENT_TYPE));
    let mut headers = Headers::with_capacity(512);
    let mut tenant = None;
    for header in given.iter() {
        let Ok(value) = std::str::from_utf8(header.value.unwrap_or_default()) else {
            continue;
        };
        match header.key {
            EVENT_ID => {}
            TENANT => tenant = Some(value),
            name => match name.strip_prefix("ce-") {
                Some(attribute) if structured => headers.push(&format!("ce_{attribute}"), value),
                _ => headers.push(name, value),
            },
        }
    }
    let tenant = tenant.or_else(|| headers.get(CE_TENANT));
    let tenant: TenantId = tenant
        .and_then(|tenant| tenant.parse().ok())
        .ok_or("it names no tenant")?;
    let event_id: Uuid = event_id.parse().map_err(|_| "its event id is not a UUID")?;
    let key = std::str::from_utf8(message.key().unwrap_or_default())
        .map_err(|_| "its key is not UTF-8")?;
    Ok(Some(Stored {
        topic: topic.clone(),
        partition,
        offset,
        key: key.to_owned(),
        tenant,
        event_id,
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        headers,
        value: bytes::Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }))
}

fn text<'a>(
    mut headers: impl Iterator<Item = Header<'a, &'a [u8]>>,
    name: &str,
) -> Option<&'a str> {
    let found = headers.find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

//! Several events in one message: what a subscription says of it, read and checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::receiver::{Format, Receiver};
use super::{Refusal, duration};

/// The most events of one message.
const MOST_EVENTS: usize = 1_000;
/// Of one that does not say.
const EVENTS: usize = 100;
/// The longest that an event may wait for others.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Of one that does not say.
const WAIT: Duration = Duration::from_millis(500);
/// What a body may have, in bytes; one event alone may always have more.
const BYTES: std::ops::RangeInclusive<usize> = 1_024..=1024 * 1024;
/// Of one that does not say.
const DEFAULT_BYTES: usize = 1024 * 1024;

/// When a message is full (`delivery.batch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// It has so many events.
    pub max_events: usize,
    /// Its first has waited so long.
    pub max_wait: Duration,
    /// Another event would make its body longer than this, in bytes.
    pub max_bytes: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchDocument {
    #[serde(rename = "maxEvents", default, skip_serializing_if = "Option::is_none")]
    events: Option<usize>,
    #[serde(rename = "maxWait", default, skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
    #[serde(rename = "maxBytes", default, skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
}

/// What a document asks for, if its target can take it.
pub(super) fn batch(given: &BatchDocument, target: &Receiver) -> Result<Batch, Refusal> {
    let refused = |field: &str, detail: String| Err(Refusal::invalid(field, detail));
    let Some(webhook) = target.webhook() else {
        let detail = "Only webhooks take several events in one message.";
        return refused("delivery.batch", detail.into());
    };
    if webhook.format == Format::Binary {
        let detail = "'cloudevents-binary' has no batches; \
             write cloudevents-structured or platform-event, or leave 'delivery.batch' out.";
        return refused("target.format", detail.into());
    }
    let max_events = given.events.unwrap_or(EVENTS);
    if !(1..=MOST_EVENTS).contains(&max_events) {
        let detail = format!("'maxEvents' must be 1 to {MOST_EVENTS}.");
        return refused("delivery.batch.maxEvents", detail);
    }
    let max_bytes = given.bytes.unwrap_or(DEFAULT_BYTES);
    if !BYTES.contains(&max_bytes) {
        let (least, most) = (BYTES.start(), BYTES.end());
        let detail = format!("'maxBytes' must be {least} to {most}.");
        return refused("delivery.batch.maxBytes", detail);
    }
    let max_wait = match given.wait.as_deref() {
        None => WAIT,
        Some(text) => duration("delivery.batch.maxWait", text, LONGEST_WAIT)?,
    };
    Ok(Batch {
        max_events,
        max_wait,
        max_bytes,
    })
}

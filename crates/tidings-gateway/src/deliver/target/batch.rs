//! Several events in one message: a JSON array of them (CloudEvents JSON format, section 4, or source C's
//! `PlatformEvent`), each with its number in the subscription.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Carried, Handover, webhook};
use crate::subscription::Format;

/// The attribute of an event in a batch that has its number in the subscription. Text: it may be more than the 32
/// bits that CloudEvents leaves a number.
const SEQUENCE: &str = "tidingssequence";
/// What is added to events that are sent again.
const OF_REPLAYS: [&str; 2] = ["replayed", "replayid"];
/// The most that is added to one event, in bytes.
const MOST_ADDED: usize = 128;

/// What a batch is called by: the same for the same events in the same order. One event alone is called what it
/// is called without batches.
pub(crate) fn message_id(
    events: impl ExactSizeIterator<Item = Uuid>,
    subscription: Uuid,
) -> String {
    let alone = events.len() == 1;
    let mut hash = Sha256::new();
    hash.update(subscription.as_bytes());
    for event in events {
        if alone {
            return webhook::message_id(event, subscription);
        }
        hash.update(event.as_bytes());
    }
    let digest = hash.finalize();
    let short: [u8; 16] = std::array::from_fn(|index| digest[index]);
    format!("batch_{:032x}", u128::from_be_bytes(short))
}

/// What an event takes of a body at most, in bytes.
pub(crate) fn room_for(event: &Carried, format: Format) -> usize {
    written_alone(event, format).len() + MOST_ADDED
}

fn written_alone(event: &Carried, format: Format) -> Bytes {
    match format {
        Format::PlatformEvent => event.platform(),
        // Refused for batches when it was written down.
        Format::Structured | Format::Binary => event.structured(),
    }
}

/// Content type and body.
pub(super) fn written(
    format: Format,
    events: &[(Arc<Carried>, u64)],
    handover: &Handover,
) -> (&'static str, Bytes) {
    let length: usize = events.iter().map(|(it, _)| room_for(it, format)).sum();
    let mut body = Vec::with_capacity(length + 2);
    for (event, number) in events {
        body.push(if body.is_empty() { b'[' } else { b',' });
        let event = without_added(event, handover.replayed);
        let alone = written_alone(&event, format);
        // An object with members, always.
        body.extend_from_slice(&alone[..alone.len() - 1]);
        let mut add = |text: String| body.extend_from_slice(text.as_bytes());
        match format {
            // One event that was never sent has no number.
            _ if *number == 0 => {}
            Format::PlatformEvent => add(format!(r#","sequence":{number}"#)),
            Format::Structured | Format::Binary => add(format!(r#","{SEQUENCE}":"{number}""#)),
        }
        if handover.replayed {
            add(r#","replayed":true"#.into());
        }
        if let (Some(replay), true) = (handover.replay, format != Format::PlatformEvent) {
            add(format!(r#","replayid":"{replay}""#));
        }
        body.push(b'}');
    }
    body.push(b']');
    let content_type = match format {
        Format::PlatformEvent => "application/json",
        Format::Structured | Format::Binary => "application/cloudevents-batch+json",
    };
    (content_type, body.into())
}

/// An event without what is added to it here, should its producer have set that.
fn without_added(event: &Arc<Carried>, replayed: bool) -> Cow<'_, Arc<Carried>> {
    let ours = |name: &str| name == SEQUENCE || (replayed && OF_REPLAYS.contains(&name));
    if !event.extensions.iter().any(|(name, _)| ours(name)) {
        return Cow::Borrowed(event);
    }
    let mut bare = (***event).clone();
    bare.extensions.retain(|(name, _)| !ours(name));
    Cow::Owned(Arc::new(Carried::new(bare)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_events_have_the_same_id_and_no_others_have_it() {
        let id = |events: &[u128], subscription| {
            let events = events.iter().map(|number| Uuid::from_u128(*number));
            message_id(events, Uuid::from_u128(subscription))
        };
        assert_eq!(id(&[1, 2, 3], 9), id(&[1, 2, 3], 9));
        let others = [
            id(&[1, 2], 9),
            id(&[1, 3, 2], 9),
            id(&[1, 2, 3], 8),
            id(&[1, 2, 3, 4], 9),
        ];
        assert!(!others.contains(&id(&[1, 2, 3], 9)));
        let one = webhook::message_id(Uuid::from_u128(1), Uuid::from_u128(9));
        assert_eq!(id(&[1], 9), one);
    }
}

//! What is appended and what is read back.

use bytes::Bytes;
use tidings_event::{TenantId, Topic, json::Fingerprint};
use uuid::Uuid;

/// Record headers: names and values in order, kept as one text of `name: value` lines.
///
/// Neither can hold a line break: control characters are refused where attributes are parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(String);

impl Headers {
    /// None yet, with room for so many bytes of names and values.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Adds a header. Line breaks and other control characters in the value become spaces.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        // All bytes, without stopping at the first: many at once.
        let has_control = value
            .bytes()
            .fold(false, |found, byte| found | byte.is_ascii_control());
        if has_control {
            self.0
                .extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
        } else {
            self.0.push_str(value);
        }
        self.0.push('\n');
    }

    /// All headers in order; of another's that came from Kafka none whose name has a colon.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter_map(|line| {
            // One character is found faster than two.
            let (name, value) = line.split_once(':')?;
            Some((name, value.strip_prefix(' ')?))
        })
    }

    /// The first value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The stored form.
    pub fn as_text(&self) -> &str {
        &self.0
    }

    /// From the stored form.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }
}

/// An idempotency key with what it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Whose key it is: the tenant is the record's; this is the principal within it.
    pub principal: String,
    /// 1 to 255 visible ASCII characters.
    pub key: String,
    /// Of the body, so that the same key with another body can be refused.
    pub fingerprint: Fingerprint,
}

/// What an idempotency key that stands in a log means for a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It was used for this body; this was appended then.
    Used(Receipt),
    /// It was used for another body.
    Reused,
}

/// One record to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where to.
    pub topic: Topic,
    /// What the partition is chosen by.
    pub key: String,
    /// Whose event it is.
    pub tenant: TenantId,
    /// UUID v7, made by the gateway; what it is found by.
    pub event_id: Uuid,
    /// When the gateway received it, in ms since 1970: the [time](time_of) of its id, or it may not be found.
    pub timestamp_ms: i64,
    /// CloudEvents attributes and what else a reader needs.
    pub headers: Headers,
    /// The envelope.
    pub value: Bytes,
    /// The idempotency key, for a bus that keeps receipts.
    pub once: Option<Once>,
}

/// What was answered to the first append with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The event that was appended.
    pub event_id: Uuid,
    /// Where to.
    pub topic: Topic,
    /// Its partition's number.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
}

/// A record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its topic.
    pub topic: Topic,
    /// Its partition's number.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// What the partition was chosen by.
    pub key: String,
    /// Whose event it is.
    pub tenant: TenantId,
    /// What it is found by.
    pub event_id: Uuid,
    /// When the gateway received it, in ms since 1970.
    pub timestamp_ms: i64,
    /// CloudEvents attributes and what else a reader needs.
    pub headers: Headers,
    /// The envelope.
    pub value: Bytes,
}

/// The time in a UUID v7, in ms since 1970.
pub fn time_of(event_id: Uuid) -> Option<i64> {
    if event_id.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanos) = event_id.get_timestamp()?.to_unix();
    i64::try_from(seconds * 1_000 + u64::from(nanos) / 1_000_000).ok()
}

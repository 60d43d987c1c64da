//! Neighbouring events of one slot that were committed together, in one row.
//!
//! A row costs SQLite more than a small event does, so those of a commit share it. Each has a CRC of its own: where a bit of
//! the directory or the content is damaged, that hides an event or two, not all that stand beside them. (Damage of the row's
//! own head hides the block.)
//!
//! | column | holds |
//! | --- | --- |
//! | `position` | the position of the first event; the others follow without a gap |
//! | `directory` | of each event [`ENTRY_BYTES`]: its CRC-32, its end in `content`, lengths, time and id, little-endian |
//! | `content` | of each event the tenant, the key, the headers and the value, on lines of their own |
//!
//! The lines are for people: `CAST(content AS TEXT)` shows the events in any SQLite tool. Readers go by the directory. It has
//! ends, not whole lengths, so that a damaged entry misleads about its event and the next one only.

use bytes::{Buf, BufMut, Bytes};
use rusqlite::{Connection, Row};
use tidings_event::Topic;
use uuid::Uuid;

use super::fault::Fault;
use super::schema::slot_and_offset;
use crate::{Headers, Record, Stored};

/// What [`Block::of`] takes, in this order.
pub(super) const COLUMNS: &str = "position, directory, content";
/// An event that would make a block longer begins another: whoever wants one event reads its whole block.
const BLOCK_BYTES: usize = 32 << 10;
/// A block of events of a kilobyte has so many.
const RESERVED_EVENTS: usize = 32;
/// CRC, end, lengths of tenant, key and headers in 4 bytes each; the time in 8; the id in 16.
pub(super) const ENTRY_BYTES: usize = 5 * 4 + 8 + 16;

/// An event as it stands in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) position: i64,
    pub(super) id: Uuid,
    pub(super) tenant: &'a str,
    pub(super) key: &'a str,
    pub(super) timestamp_ms: i64,
    pub(super) headers: &'a str,
    pub(super) value: &'a [u8],
}

impl<'a> Event<'a> {
    pub(super) fn new(record: &'a Record, position: i64) -> Self {
        Self {
            position,
            id: record.event_id,
            tenant: record.tenant.as_str(),
            key: &record.key,
            timestamp_ms: record.timestamp_ms,
            headers: record.headers.as_text(),
            value: &record.value,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        slot_and_offset(self.position).1
    }

    /// As readers get it; nothing if its tenant cannot be one.
    pub(super) fn stored(&self, topic: &Topic, partition: u32) -> Option<Stored> {
        Some(Stored {
            topic: topic.clone(),
            partition,
            offset: self.offset(),
            key: self.key.to_owned(),
            tenant: self.tenant.parse().ok()?,
            event_id: self.id,
            timestamp_ms: self.timestamp_ms,
            headers: Headers::from_text(self.headers.to_owned()),
            value: Bytes::copy_from_slice(self.value),
        })
    }

    fn content_bytes(&self) -> usize {
        let texts = self.tenant.len() + self.key.len() + self.headers.len() + self.value.len();
        texts + 4
    }
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct Packing {
    position: i64,
    directory: Vec<u8>,
    content: Vec<u8>,
}

impl Packing {
    /// Adds an event. What was packed is handed back if it does not follow, or no longer fits.
    pub(super) fn push(&mut self, event: &Event<'_>) -> Option<Self> {
        let begun = self.as_block();
        let follows = event.position == begun.position + count(begun.len());
        let fits = self.content.len() + event.content_bytes() <= BLOCK_BYTES;
        let goes_on = self.is_empty() || (follows && fits);
        let full = (!goes_on).then(|| std::mem::take(self));
        if self.is_empty() {
            self.position = event.position;
        }
        self.add(event);
        full
    }

    fn add(&mut self, event: &Event<'_>) {
        let start = self.content.len();
        if self.directory.len() == ENTRY_BYTES {
            // There will be more: rather than to move all that is packed each time that it grows.
            self.content.reserve(BLOCK_BYTES.saturating_sub(start));
            self.directory.reserve(RESERVED_EVENTS * ENTRY_BYTES);
        }
        for line in [event.tenant, event.key, event.headers] {
            self.content.put_slice(line.as_bytes());
            self.content.put_u8(b'\n');
        }
        self.content.put_slice(event.value);
        self.content.put_u8(b'\n');
        let mut entry = [0; ENTRY_BYTES - 4];
        let mut fields = &mut entry[..];
        fields.put_u32_le(length(self.content.len()));
        for text in [event.tenant, event.key, event.headers] {
            fields.put_u32_le(length(text.len()));
        }
        fields.put_i64_le(event.timestamp_ms);
        fields.put_slice(event.id.as_bytes());
        let crc = seal(event.position, &entry, &self.content[start..]);
        self.directory.put_u32_le(crc);
        self.directory.put_slice(&entry);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// Writes it, into the transaction that is open.
    pub(super) fn insert(&self, connection: &Connection, bucket: i64) -> Result<(), Fault> {
        let sql = format!("INSERT INTO blocks_{bucket} ({COLUMNS}) VALUES (?, ?, ?)");
        let row = (self.position, &self.directory, &self.content);
        connection.prepare_cached(&sql)?.execute(row)?;
        Ok(())
    }

    /// What it holds so far.
    fn as_block(&self) -> Block<'_> {
        Block {
            position: self.position,
            directory: &self.directory,
            content: &self.content,
        }
    }
}

/// A row, not proved and not copied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'r> {
    pub(super) position: i64,
    pub(super) directory: &'r [u8],
    pub(super) content: &'r [u8],
}

impl<'r> Block<'r> {
    /// From [`COLUMNS`].
    pub(super) fn of(row: &'r Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            position: row.get(0)?,
            directory: row.get_ref(1)?.as_blob()?,
            content: row.get_ref(2)?.as_blob()?,
        })
    }

    /// How many events it has.
    pub(super) fn len(&self) -> usize {
        self.directory.len() / ENTRY_BYTES
    }

    /// Whether the directory and the content fit each other, with nothing beside them.
    pub(super) fn is_filled(&self) -> bool {
        let entries = self.directory.chunks_exact(ENTRY_BYTES);
        let rest = entries.remainder().len();
        let end = entries.last().map(end);
        rest == 0 && end == Some(self.content.len())
    }

    /// One of its events, proved by its CRC; nothing when it is not what was written. The first is number 0.
    pub(super) fn event(&self, number: usize) -> Option<Event<'r>> {
        let mut entries = self.directory.chunks_exact(ENTRY_BYTES);
        let start = match number.checked_sub(1) {
            Some(before) => end(entries.nth(before)?),
            None => 0,
        };
        let mut entry = entries.next()?;
        let position = self.position.checked_add(count(number))?;
        let content = self.content.get(start..end(entry))?;
        let crc = entry.get_u32_le();
        if crc != seal(position, entry, content) {
            return None;
        }
        entry.advance(4);
        let mut rest = content;
        let mut line = |length: u32| {
            let (line, behind) = rest.split_at_checked(length as usize)?;
            rest = behind.strip_prefix(b"\n")?;
            str::from_utf8(line).ok()
        };
        let tenant = line(entry.get_u32_le())?;
        let key = line(entry.get_u32_le())?;
        let headers = line(entry.get_u32_le())?;
        let timestamp_ms = entry.get_i64_le();
        Some(Event {
            position,
            id: Uuid::from_slice(entry).ok()?,
            tenant,
            key,
            timestamp_ms,
            headers,
            value: rest.strip_suffix(b"\n")?,
        })
    }
}

/// Where an entry says that its event ends.
fn end(mut entry: &[u8]) -> usize {
    entry.advance(4);
    entry.get_u32_le() as usize
}

fn seal(position: i64, entry: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(entry);
    hasher.update(content);
    hasher.finalize()
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("SQLite takes no row of 4 GiB")
}

fn count(events: usize) -> i64 {
    i64::try_from(events).expect("a block holds few events")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = (String, String, i64, String, Vec<u8>);

    fn fields() -> impl Strategy<Value = Vec<Fields>> {
        let headers = proptest::collection::vec("[a-z]{1,5}: .{0,20}\n", 0..3);
        let headers = headers.prop_map(|lines| lines.concat());
        let value = prop_oneof![
            9 => proptest::collection::vec(any::<u8>(), 0..80),
            1 => proptest::collection::vec(any::<u8>(), BLOCK_BYTES - 100..BLOCK_BYTES + 100),
        ];
        let event = ("[a-z]{1,9}", ".{0,9}", any::<i64>(), headers, value);
        proptest::collection::vec(event, 1..40)
    }

    fn events(fields: &[Fields], first: i64) -> Vec<Event<'_>> {
        let events = (first..).zip(fields);
        events
            .map(
                |(position, (tenant, key, timestamp_ms, headers, value))| Event {
                    position,
                    id: Uuid::now_v7(),
                    tenant,
                    key,
                    timestamp_ms: *timestamp_ms,
                    headers,
                    value,
                },
            )
            .collect()
    }

    fn packed(events: &[Event<'_>]) -> Vec<Packing> {
        let mut packing = Packing::default();
        let mut blocks: Vec<_> = events.iter().filter_map(|it| packing.push(it)).collect();
        blocks.push(packing);
        blocks
    }

    proptest! {
        #[test]
        fn what_was_packed_is_read_back(fields in fields(), first in 0_i64..1 << 50) {
            let events = events(&fields, first);
            let blocks = packed(&events);
            let mut read = Vec::new();
            for block in &blocks {
                let block = block.as_block();
                prop_assert!(block.is_filled());
                prop_assert!(block.len() == 1 || block.content.len() <= BLOCK_BYTES);
                read.extend((0..block.len()).map(|it| block.event(it).unwrap()));
                prop_assert_eq!(block.event(block.len()), None);
            }
            prop_assert_eq!(read, events);
        }

        #[test]
        fn a_changed_bit_hides_an_event_and_at_most_the_next(
            fields in fields(), place in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let events = events(&fields, 7);
            let block = &packed(&events)[0];
            let (mut directory, mut content) = (block.directory.clone(), block.content.clone());
            let at = place.index(directory.len() + content.len());
            match at.checked_sub(directory.len()) {
                None => directory[at] ^= 1 << bit,
                Some(at) => content[at] ^= 1 << bit,
            }
            let damaged = Block { position: 7, directory: &directory, content: &content };
            let read = (0..damaged.len()).map(|it| damaged.event(it));
            let read: Vec<_> = read.zip(&events).collect();
            prop_assert!(read.iter().all(|(read, event)| read.is_none_or(|read| read == **event)));
            let hidden: Vec<_> = (0..).zip(&read).filter(|(_, (read, _))| read.is_none()).collect();
            let numbers: Vec<usize> = hidden.iter().map(|(number, _)| *number).collect();
            prop_assert!(matches!(numbers[..], [_]) || matches!(numbers[..], [a, b] if b == a + 1), "{:?}", numbers);
        }
    }

    #[test]
    fn an_event_that_does_not_follow_begins_another_block() {
        let fields = vec![Fields::default(); 3];
        let mut events = events(&fields, 1);
        events[2].position = 9;
        let blocks = packed(&events);
        let first: Vec<_> = blocks.iter().map(|it| it.as_block().position).collect();
        assert_eq!(first, [1, 9]);
    }

    #[test]
    fn people_can_read_it() {
        let event = Event {
            position: 0,
            id: Uuid::nil(),
            tenant: "acme",
            key: "order-17",
            timestamp_ms: 0,
            headers: "ce_type: crm.order.placed\n",
            value: br#"{"total":5}"#,
        };
        let packed = packed(&[event]);
        let text = String::from_utf8(packed[0].content.clone()).unwrap();
        assert_eq!(
            text,
            "acme\norder-17\nce_type: crm.order.placed\n\n{\"total\":5}\n"
        );
    }
}

//! What one transaction does: the batches of many callers, each decided whole before any of it is
//! inserted.
//!
//! A batch first *claims* its keys by inserting them; a key that is there already makes its record
//! a repeat or refuses the batch. A refused batch withdraws its claims, which is why no savepoint
//! is needed. Only then are its events taken in. Those of all batches are packed into [blocks](super::block), their ids into
//! [rows](super::ids), and heads, spans and counters are summed in the [`Image`], which is written once.

use std::collections::BTreeMap;

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};
use tidings_event::Topic;
use tidings_event::json::Fingerprint;
use uuid::Uuid;

use super::block::{Event, Packing};
use super::fault::Fault;
use super::ids;
use super::image::{Image, Place, load_generations, load_names, name_of};
use super::schema::{position, seal, slot_and_offset};
use crate::{AppendError, Appended, Known, Once, Position, Receipt, Record, partition_of};

/// What a batch's caller is told.
pub(super) type Outcome = Result<Vec<Appended>, AppendError>;

/// What a group is decided by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) now_ms: i64,
    pub(super) key_ttl_ms: i64,
    pub(super) partitions: u32,
}

/// A row of `keys_<id>`.
pub(super) struct Key {
    pub(super) fingerprint: Fingerprint,
    pub(super) event_id: Uuid,
    pub(super) position: i64,
    pub(super) at_ms: i64,
}

struct Older<'c> {
    find: CachedStatement<'c>,
    /// Keys above it cannot be in this generation: saves the look-up where keys are UUIDs v7.
    greatest: String,
}

struct Group<'c, 'i> {
    image: &'i mut Image,
    terms: Terms,
    older: Vec<Older<'c>>,
    find_key: CachedStatement<'c>,
    insert_key: CachedStatement<'c>,
    replace_key: CachedStatement<'c>,
    delete_key: CachedStatement<'c>,
    connection: &'c Connection,
    /// By slot.
    packing: BTreeMap<usize, Packing>,
    ids: Vec<ids::Entry>,
}

/// Appends all batches within the transaction that is open, in their order.
pub(super) fn append<'r>(
    connection: &Connection,
    image: &mut Image,
    terms: Terms,
    batches: impl Iterator<Item = &'r [Record]>,
) -> Result<Vec<Outcome>, Fault> {
    let mut group = Group::prepare(connection, image, terms)?;
    let outcomes = batches
        .map(|records| group.batch(records))
        .collect::<Result<_, _>>()?;
    group.finish()?;
    image.save(connection)?;
    Ok(outcomes)
}

impl<'c, 'i> Group<'c, 'i> {
    fn prepare(
        connection: &'c Connection,
        image: &'i mut Image,
        terms: Terms,
    ) -> Result<Self, Fault> {
        let (newest, rest) = image
            .generations
            .split_last()
            .expect("a generation is opened before");
        let keys = format!("keys_{}", newest.id);
        let mut older = Vec::with_capacity(rest.len());
        for generation in rest {
            let sql = format!("SELECT max(key) FROM keys_{}", generation.id);
            let greatest: Option<String> = connection
                .prepare_cached(&sql)?
                .query_row([], |row| row.get(0))?;
            if let Some(greatest) = greatest {
                let find = connection.prepare_cached(&find_sql(generation.id))?;
                older.push(Older { find, greatest });
            }
        }
        let columns = "(key, tenant, principal, fingerprint, event_id, position, at_ms, crc) \
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let by_key = "WHERE key = ? AND tenant = ? AND principal = ?";
        Ok(Self {
            older,
            find_key: connection.prepare_cached(&find_sql(newest.id))?,
            insert_key: connection
                .prepare_cached(&format!("INSERT OR IGNORE INTO {keys} {columns}"))?,
            replace_key: connection.prepare_cached(&format!("REPLACE INTO {keys} {columns}"))?,
            delete_key: connection.prepare_cached(&format!("DELETE FROM {keys} {by_key}"))?,
            connection,
            packing: BTreeMap::new(),
            ids: Vec::new(),
            image,
            terms,
        })
    }

    fn batch(&mut self, records: &[Record]) -> Result<Outcome, Fault> {
        let topics = self.image.names.len();
        let mut slots = Vec::with_capacity(records.len());
        let mut appended = Vec::with_capacity(records.len());
        let mut reused = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let place = self.image.place(&record.topic, self.terms.partitions);
            let partition = partition_of(record.key.as_bytes(), place.partitions);
            let slot = place.first_slot + partition as usize;
            let offset = self.image.slots[slot].next;
            slots.push(slot);
            let claim = match &record.once {
                Some(once) => self.claim(record, once, position(slot, offset))?,
                None => None,
            };
            match claim {
                None => {
                    self.image.slots[slot].next += 1;
                    appended.push(Appended::At(Position { partition, offset }));
                }
                Some(Known::Used(receipt)) => appended.push(Appended::Repeat(receipt)),
                Some(Known::Reused) => {
                    reused.push(index);
                    // Only keeps the list as long as the batch's.
                    appended.push(Appended::Repeat(receipt_of_nothing(record)));
                }
            }
        }
        if !reused.is_empty() {
            self.withdraw(records, &slots, &appended)?;
            self.image.forget_topics(topics);
            return Ok(Err(AppendError::KeyReused(reused)));
        }
        for ((record, slot), outcome) in records.iter().zip(slots).zip(&appended) {
            if let Appended::At(at) = outcome {
                self.insert(record, slot, at.offset)?;
            }
        }
        Ok(Ok(appended))
    }

    /// What the key is known for; nothing where it is the record's from now on.
    fn claim(
        &mut self,
        record: &Record,
        once: &Once,
        position: i64,
    ) -> Result<Option<Known>, Fault> {
        let tenant = record.tenant.as_str();
        let forgotten_ms = self.terms.now_ms.saturating_sub(self.terms.key_ttl_ms);
        for index in 0..self.older.len() {
            let older = &mut self.older[index];
            if once.key <= older.greatest
                && let Some(key) = find(&mut older.find, tenant, once)?
                && let Some(known) = meaning(&key, once, forgotten_ms, &self.image.names)?
            {
                return Ok(Some(known));
            }
        }
        let now_ms = self.terms.now_ms;
        let fingerprint = once.fingerprint.0.to_be_bytes();
        let crc = seal_key(once, tenant, record.event_id, position, now_ms);
        let (print, id) = (&fingerprint[..], &record.event_id.as_bytes()[..]);
        let row = params![
            once.key,
            tenant,
            once.principal,
            print,
            id,
            position,
            now_ms,
            crc
        ];
        if self.insert_key.execute(row)? == 1 {
            return Ok(None);
        }
        let missing = || Fault::Corrupt(format!("keys: key {:?} is there and is not", once.key));
        let key = find(&mut self.find_key, tenant, once)?.ok_or_else(missing)?;
        let known = meaning(&key, once, forgotten_ms, &self.image.names)?;
        if known.is_none() {
            self.replace_key.execute(row)?;
        }
        Ok(known)
    }

    fn insert(&mut self, record: &Record, slot: usize, offset: u64) -> Result<(), Fault> {
        let event = Event::new(record, position(slot, offset));
        let bucket = self.image.buckets.last_mut().expect("opened before");
        bucket.bytes += size(record) as u64;
        if let Some(full) = self.packing.entry(slot).or_default().push(&event) {
            full.insert(self.connection, bucket.id)?;
        }
        self.ids.push((event.id, event.position));
        self.image
            .note(slot, offset, record.timestamp_ms, &record.tenant);
        Ok(())
    }

    /// Writes what is not yet written of the events.
    fn finish(self) -> Result<(), Fault> {
        let bucket = self.image.buckets.last().expect("opened before").id;
        for packing in self.packing.values() {
            packing.insert(self.connection, bucket)?;
        }
        ids::insert(self.connection, bucket, self.ids)
    }

    /// Undoes what a refused batch has claimed.
    fn withdraw(
        &mut self,
        records: &[Record],
        slots: &[usize],
        outcomes: &[Appended],
    ) -> Result<(), Fault> {
        for ((record, slot), outcome) in records.iter().zip(slots).zip(outcomes) {
            if matches!(outcome, Appended::At(_)) {
                self.image.slots[*slot].next -= 1;
                if let Some(once) = &record.once {
                    let key = params![once.key, record.tenant.as_str(), once.principal];
                    self.delete_key.execute(key)?;
                }
            }
        }
        Ok(())
    }
}

/// About what a record takes in the file, its rows' heads and index entries included.
pub(super) fn size(record: &Record) -> usize {
    let once = record
        .once
        .as_ref()
        .map_or(0, |once| 120 + once.key.len() + once.principal.len());
    let texts = record.tenant.as_str().len() + record.key.len() + record.headers.as_text().len();
    80 + texts + record.value.len() + once
}

fn receipt_of_nothing(record: &Record) -> Receipt {
    Receipt {
        event_id: Uuid::nil(),
        topic: record.topic.clone(),
        partition: 0,
        offset: 0,
    }
}

/// What a key is known for, in whichever generation: as [`append`] would find it now.
pub(super) fn known(
    connection: &Connection,
    forgotten_ms: i64,
    tenant: &str,
    once: &Once,
) -> Result<Option<Known>, Fault> {
    let names = load_names(connection)?;
    for generation in load_generations(connection)? {
        let mut statement = connection.prepare_cached(&find_sql(generation.id))?;
        if let Some(key) = find(&mut statement, tenant, once)?
            && let Some(known) = meaning(&key, once, forgotten_ms, &names)?
        {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// What a key that is there means; nothing when it was last used at a time, in ms since 1970, that keys are forgotten of.
fn meaning(
    key: &Key,
    once: &Once,
    forgotten_ms: i64,
    names: &[(Place, Topic)],
) -> Result<Option<Known>, Fault> {
    if key.at_ms <= forgotten_ms {
        return Ok(None);
    }
    if key.fingerprint != once.fingerprint {
        return Ok(Some(Known::Reused));
    }
    let (slot, offset) = slot_and_offset(key.position);
    let (topic, partition) = name_of(names, slot).ok_or_else(|| {
        Fault::Corrupt(format!(
            "keys: key {:?} is of slot {slot}, which is not",
            once.key
        ))
    })?;
    Ok(Some(Known::Used(Receipt {
        event_id: key.event_id,
        topic: topic.clone(),
        partition,
        offset,
    })))
}

fn find_sql(generation: i64) -> String {
    format!(
        "SELECT fingerprint, event_id, position, at_ms, crc FROM keys_{generation} \
         WHERE key = ? AND tenant = ? AND principal = ?"
    )
}

fn find(
    statement: &mut CachedStatement<'_>,
    tenant: &str,
    once: &Once,
) -> Result<Option<Key>, Fault> {
    let row = statement
        .query_row(params![once.key, tenant, once.principal], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })
        .optional()?;
    let Some((fingerprint, id, position, at_ms, crc)) = row else {
        return Ok(None);
    };
    key_of(
        &once.key,
        tenant,
        &once.principal,
        (fingerprint, id, position, at_ms),
        crc,
    )
    .map(Some)
}

/// A key's row, proved by its CRC.
pub(super) fn key_of(
    key: &str,
    tenant: &str,
    principal: &str,
    (fingerprint, id, position, at_ms): ([u8; 16], [u8; 16], i64, i64),
    crc: i64,
) -> Result<Key, Fault> {
    let once = Once {
        principal: principal.to_owned(),
        key: key.to_owned(),
        fingerprint: Fingerprint(u128::from_be_bytes(fingerprint)),
    };
    let event_id = Uuid::from_bytes(id);
    if crc != seal_key(&once, tenant, event_id, position, at_ms) {
        let text = format!("keys: key {key:?} of tenant {tenant}: it is not what was written");
        return Err(Fault::Corrupt(text));
    }
    Ok(Key {
        fingerprint: once.fingerprint,
        event_id,
        position,
        at_ms,
    })
}

fn seal_key(once: &Once, tenant: &str, event_id: Uuid, position: i64, at_ms: i64) -> i64 {
    seal(&[
        once.key.as_bytes(),
        tenant.as_bytes(),
        once.principal.as_bytes(),
        &once.fingerprint.0.to_be_bytes(),
        event_id.as_bytes(),
        &position.to_le_bytes(),
        &at_ms.to_le_bytes(),
    ])
}

//! What the writer knows by heart: topics, heads, buckets and key generations, as they stand in
//! `bus.db`.
//!
//! It runs ahead of the file within a transaction only. After a rollback it is loaded anew, never
//! repaired.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use tidings_event::{TenantId, Topic};

use super::fault::Fault;
use super::schema::{MAX_SLOTS, seal, seal_numbers};

/// How many neighbouring offsets one span covers: what `offset_at` reads at most.
pub(super) const SPAN_OFFSETS: u64 = 4096;
/// How many tenants' counters are kept between commits.
const COUNTERS_KEPT: usize = 100_000;

/// Where a topic's slots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) first_slot: usize,
    pub(super) partitions: u32,
}

/// One topic-partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    pub(super) start: u64,
    pub(super) next: u64,
    pub(super) span: Option<Span>,
    dirty: bool,
}

/// Neighbouring offsets in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) bucket: i64,
    pub(super) max_ms: i64,
}

/// A stretch of time.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) id: i64,
    pub(super) opened_ms: i64,
    pub(super) bytes: u64,
    saved_bytes: u64,
}

/// One lifetime of keys.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    pub(super) id: i64,
    pub(super) opened_ms: i64,
}

/// Everything above.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) topics: HashMap<Topic, Place>,
    /// In the order of their first slots.
    pub(super) names: Vec<(Place, Topic)>,
    pub(super) slots: Vec<Slot>,
    /// The oldest first; the last takes new events.
    pub(super) buckets: Vec<Bucket>,
    /// The oldest first; the last takes new keys.
    pub(super) generations: Vec<Generation>,
    /// The latest time seen; the writer's clock never runs backwards.
    pub(super) latest_ms: i64,
    saved_topics: usize,
    dirty: Vec<usize>,
    closed_spans: Vec<(usize, Span)>,
    counters: HashMap<TenantId, i64>,
    tallies: HashMap<TenantId, i64>,
}

impl Image {
    /// Reads all of it, proving each row.
    pub(super) fn load(connection: &Connection) -> Result<Self, Fault> {
        let mut image = Self::default();
        image.load_topics(connection)?;
        image.load_slots(connection)?;
        image.buckets = load_buckets(connection)?;
        image.generations = load_generations(connection)?;
        let bucket = image.buckets.last().map(|bucket| bucket.opened_ms);
        let generation = image
            .generations
            .last()
            .map(|generation| generation.opened_ms);
        image.latest_ms = bucket.max(generation).unwrap_or(i64::MIN);
        Ok(image)
    }

    fn load_topics(&mut self, connection: &Connection) -> Result<(), Fault> {
        for (place, topic) in load_names(connection)? {
            self.add_topic(topic, place);
        }
        self.saved_topics = self.names.len();
        Ok(())
    }

    fn load_slots(&mut self, connection: &Connection) -> Result<(), Fault> {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let (start, next) = load_head(connection, number)?;
            (slot.start, slot.next) = (start, next);
            slot.span = load_span(connection, number, u64::MAX >> 1)?;
        }
        Ok(())
    }

    fn add_topic(&mut self, topic: Topic, place: Place) {
        self.topics.insert(topic.clone(), place);
        self.names.push((place, topic));
        let slots = self.slots.len() + usize::try_from(place.partitions).expect("fits");
        self.slots.resize_with(slots, Slot::default);
    }

    /// The topic's place; a new topic gets so many partitions.
    pub(super) fn place(&mut self, topic: &Topic, partitions: u32) -> Place {
        if let Some(place) = self.topics.get(topic) {
            return *place;
        }
        let place = Place {
            first_slot: self.slots.len(),
            partitions,
        };
        assert!(
            self.slots.len() + partitions as usize <= MAX_SLOTS,
            "too many topics"
        );
        self.add_topic(topic.clone(), place);
        place
    }

    /// Forgets topics that a refused batch would have made.
    pub(super) fn forget_topics(&mut self, keep: usize) {
        for (place, topic) in self.names.drain(keep..).rev() {
            self.topics.remove(&topic);
            self.slots.truncate(place.first_slot);
        }
    }

    /// Counts in an event that was just inserted.
    pub(super) fn note(&mut self, slot: usize, offset: u64, timestamp_ms: i64, tenant: &TenantId) {
        let bucket = self
            .buckets
            .last()
            .expect("a bucket is opened before events")
            .id;
        let head = &mut self.slots[slot];
        if !head.dirty {
            head.dirty = true;
            self.dirty.push(slot);
        }
        match &mut head.span {
            Some(span) if span.bucket == bucket && !offset.is_multiple_of(SPAN_OFFSETS) => {
                span.max_ms = span.max_ms.max(timestamp_ms);
            }
            open => {
                let fresh = Span {
                    first: offset,
                    bucket,
                    max_ms: timestamp_ms,
                };
                self.closed_spans
                    .extend(open.replace(fresh).map(|span| (slot, span)));
            }
        }
        if let Some(tally) = self.tallies.get_mut(tenant) {
            *tally += 1;
        } else {
            self.tallies.insert(tenant.clone(), 1);
        }
    }

    /// Writes what changed since the last time: once per commit, however many events.
    pub(super) fn save(&mut self, connection: &Connection) -> Result<(), Fault> {
        self.save_topics(connection)?;
        self.save_heads(connection)?;
        self.save_counters(connection)?;
        let newest = self
            .buckets
            .last_mut()
            .filter(|b| b.bytes - b.saved_bytes >= 256 << 10);
        if let Some(bucket) = newest {
            bucket.saved_bytes = bucket.bytes;
            save_bucket(connection, bucket)?;
        }
        Ok(())
    }

    fn save_topics(&mut self, connection: &Connection) -> Result<(), Fault> {
        for (place, topic) in &self.names[self.saved_topics..] {
            let (first, partitions) = (number(place.first_slot), i64::from(place.partitions));
            let crc = seal_topic(first, topic.as_str(), partitions);
            let sql = "INSERT INTO topics (first_slot, name, partitions, crc) VALUES (?, ?, ?, ?)";
            connection.execute(sql, params![first, topic.as_str(), partitions, crc])?;
            for slot in place.first_slot..place.first_slot + place.partitions as usize {
                save_head(connection, slot, &self.slots[slot])?;
            }
        }
        self.saved_topics = self.names.len();
        Ok(())
    }

    fn save_heads(&mut self, connection: &Connection) -> Result<(), Fault> {
        for (slot, span) in self.closed_spans.drain(..) {
            save_span(connection, slot, span)?;
        }
        for slot in self.dirty.drain(..) {
            let head = &mut self.slots[slot];
            head.dirty = false;
            save_head(connection, slot, head)?;
            if let Some(span) = head.span {
                save_span(connection, slot, span)?;
            }
        }
        Ok(())
    }

    fn save_counters(&mut self, connection: &Connection) -> Result<(), Fault> {
        if self.counters.len() > COUNTERS_KEPT {
            self.counters.clear();
        }
        let sql = "INSERT OR REPLACE INTO counters (tenant, count, crc) VALUES (?, ?, ?)";
        let mut statement = connection.prepare_cached(sql)?;
        for (tenant, tally) in self.tallies.drain() {
            let before = match self.counters.get(&tenant) {
                Some(count) => *count,
                None => load_counter(connection, tenant.as_str())?,
            };
            let count = before + tally;
            let crc = seal_counter(tenant.as_str(), count);
            statement.execute(params![tenant.as_str(), count, crc])?;
            self.counters.insert(tenant, count);
        }
        Ok(())
    }

    /// Opens a bucket and makes it the newest.
    pub(super) fn add_bucket(
        &mut self,
        connection: &Connection,
        opened_ms: i64,
    ) -> Result<(), Fault> {
        let id = self.buckets.last().map_or(1, |bucket| bucket.id + 1);
        let bucket = Bucket {
            id,
            opened_ms,
            bytes: 0,
            saved_bytes: 0,
        };
        if let Some(full) = self.buckets.last() {
            save_bucket(connection, full)?;
        }
        save_bucket(connection, &bucket)?;
        self.buckets.push(bucket);
        Ok(())
    }

    /// Opens a generation and makes it the newest.
    pub(super) fn add_generation(
        &mut self,
        connection: &Connection,
        opened_ms: i64,
    ) -> Result<(), Fault> {
        let id = self
            .generations
            .last()
            .map_or(1, |generation| generation.id + 1);
        let crc = seal_numbers("generations", &[id, opened_ms]);
        let sql = "INSERT INTO generations (id, opened_ms, crc) VALUES (?, ?, ?)";
        connection.execute(sql, params![id, opened_ms, crc])?;
        self.generations.push(Generation { id, opened_ms });
        Ok(())
    }
}

/// Which topic and partition a slot is.
pub(super) fn name_of(names: &[(Place, Topic)], slot: usize) -> Option<(&Topic, u32)> {
    let after = names.partition_point(|(place, _)| place.first_slot <= slot);
    let (place, topic) = names.get(after.checked_sub(1)?)?;
    let partition = u32::try_from(slot - place.first_slot).ok()?;
    (partition < place.partitions).then_some((topic, partition))
}

/// A slot or id as SQLite keeps it.
pub(super) fn number(slot: usize) -> i64 {
    i64::try_from(slot).expect("slots are few")
}

fn seal_topic(first_slot: i64, name: &str, partitions: i64) -> i64 {
    seal(&[
        b"topics",
        &first_slot.to_le_bytes(),
        name.as_bytes(),
        &partitions.to_le_bytes(),
    ])
}

fn seal_counter(tenant: &str, count: i64) -> i64 {
    seal(&[b"counters", tenant.as_bytes(), &count.to_le_bytes()])
}

/// What a slot's head says: `start..next`.
pub(super) fn load_head(connection: &Connection, slot: usize) -> Result<(u64, u64), Fault> {
    let sql = "SELECT start, next, crc FROM heads WHERE slot = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([number(slot)])?;
    let bad = || Fault::Corrupt(format!("heads: slot {slot}: it is not what was written"));
    let row = rows.next()?.ok_or_else(bad)?;
    let (start, next): (i64, i64) = (row.get(0)?, row.get(1)?);
    let crc: i64 = row.get(2)?;
    if crc != seal_numbers("heads", &[number(slot), start, next]) || start < 0 || next < start {
        return Err(bad());
    }
    Ok((start.cast_unsigned(), next.cast_unsigned()))
}

fn save_head(connection: &Connection, slot: usize, head: &Slot) -> Result<(), Fault> {
    let (start, next) = (head.start.cast_signed(), head.next.cast_signed());
    let crc = seal_numbers("heads", &[number(slot), start, next]);
    let sql = "INSERT OR REPLACE INTO heads (slot, start, next, crc) VALUES (?, ?, ?, ?)";
    connection
        .prepare_cached(sql)?
        .execute(params![number(slot), start, next, crc])?;
    Ok(())
}

/// Moves a slot's start, in memory and in the file.
pub(super) fn move_start(
    connection: &Connection,
    slot: usize,
    head: &mut Slot,
    start: u64,
) -> Result<(), Fault> {
    head.start = start;
    save_head(connection, slot, head)
}

/// The span of a slot that covers an offset, if it covers any that is not later.
pub(super) fn load_span(
    connection: &Connection,
    slot: usize,
    offset: u64,
) -> Result<Option<Span>, Fault> {
    let sql = "SELECT first, bucket, max_ms, crc FROM spans WHERE slot = ? AND first <= ? \
               ORDER BY first DESC LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([number(slot), offset.cast_signed()])?;
    rows.next()?.map(|row| span_of(slot, row)).transpose()
}

/// From the columns `first, bucket, max_ms, crc`.
pub(super) fn span_of(slot: usize, row: &rusqlite::Row<'_>) -> Result<Span, Fault> {
    let (first, bucket, max_ms): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if row.get::<_, i64>(3)? != seal_numbers("spans", &[number(slot), first, bucket, max_ms]) {
        let text = format!("spans: slot {slot}, first {first}: it is not what was written");
        return Err(Fault::Corrupt(text));
    }
    Ok(Span {
        first: first.cast_unsigned(),
        bucket,
        max_ms,
    })
}

fn save_span(connection: &Connection, slot: usize, span: Span) -> Result<(), Fault> {
    let (slot, first) = (number(slot), span.first.cast_signed());
    let crc = seal_numbers("spans", &[slot, first, span.bucket, span.max_ms]);
    let sql =
        "INSERT OR REPLACE INTO spans (slot, first, bucket, max_ms, crc) VALUES (?, ?, ?, ?, ?)";
    let values = params![slot, first, span.bucket, span.max_ms, crc];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// How many events a tenant ever appended.
pub(super) fn load_counter(connection: &Connection, tenant: &str) -> Result<i64, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT count, crc FROM counters WHERE tenant = ?")?;
    let mut rows = statement.query([tenant])?;
    let Some(row) = rows.next()? else {
        return Ok(0);
    };
    let count: i64 = row.get(0)?;
    if row.get::<_, i64>(1)? == seal_counter(tenant, count) {
        Ok(count)
    } else {
        Err(Fault::Corrupt(format!(
            "counters: tenant {tenant}: it is not what was written"
        )))
    }
}

/// All buckets, the oldest first.
pub(super) fn load_buckets(connection: &Connection) -> Result<Vec<Bucket>, Fault> {
    let sql = "SELECT id, opened_ms, bytes, crc FROM buckets ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut buckets = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, opened_ms, bytes): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if row.get::<_, i64>(3)? != seal_numbers("buckets", &[id, opened_ms, bytes]) {
            return Err(Fault::Corrupt(format!(
                "buckets: row {id}: it is not what was written"
            )));
        }
        let bytes = bytes.cast_unsigned();
        buckets.push(Bucket {
            id,
            opened_ms,
            bytes,
            saved_bytes: bytes,
        });
    }
    Ok(buckets)
}

fn save_bucket(connection: &Connection, bucket: &Bucket) -> Result<(), Fault> {
    let bytes = bucket.bytes.cast_signed();
    let crc = seal_numbers("buckets", &[bucket.id, bucket.opened_ms, bytes]);
    let sql = "INSERT OR REPLACE INTO buckets (id, opened_ms, bytes, crc) VALUES (?, ?, ?, ?)";
    let values = params![bucket.id, bucket.opened_ms, bytes, crc];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// All topics with their places, in the order of those.
pub(super) fn load_names(connection: &Connection) -> Result<Vec<(Place, Topic)>, Fault> {
    let sql =
        "SELECT first_slot, name, partitions, crc FROM topics NOT INDEXED ORDER BY first_slot";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let (mut names, mut slots) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (first, count): (i64, i64) = (row.get(0)?, row.get(2)?);
        let name: String = row.get(1)?;
        let bad = || Fault::Corrupt(format!("topics: row {first}: it is not what was written"));
        if row.get::<_, i64>(3)? != seal_topic(first, &name, count) {
            return Err(bad());
        }
        let topic: Topic = name.parse().map_err(|_| bad())?;
        let place = Place {
            first_slot: usize::try_from(first).map_err(|_| bad())?,
            partitions: u32::try_from(count).map_err(|_| bad())?,
        };
        if place.first_slot != slots {
            return Err(bad());
        }
        slots += place.partitions as usize;
        names.push((place, topic));
    }
    Ok(names)
}

/// All generations, the oldest first.
pub(super) fn load_generations(connection: &Connection) -> Result<Vec<Generation>, Fault> {
    let sql = "SELECT id, opened_ms, crc FROM generations ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut generations = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, opened_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        if row.get::<_, i64>(2)? != seal_numbers("generations", &[id, opened_ms]) {
            return Err(Fault::Corrupt(format!(
                "generations: row {id}: it is not what was written"
            )));
        }
        generations.push(Generation { id, opened_ms });
    }
    Ok(generations)
}

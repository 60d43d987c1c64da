//! Reading: each call is one read transaction on one of a few read-only connections.
//!
//! Every event is proved by its CRC before anything of it counts, those of other tenants too: a
//! flipped bit in a tenant's name must not make an event vanish. What is missing in a stretch is
//! damage as well.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tidings_event::{TenantId, Topic};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::block::{Block, COLUMNS, Event};
use super::fault::{Fault, is_damage};
use super::ids;
use super::image::{
    Place, Span, load_buckets, load_counter, load_head, load_span, number, span_of,
};
use super::schema::{open_reader, place, position, slot_and_offset};
use crate::{Bounds, Page, Read, ReadError, Stored};

/// How many reads run at the same time; more wait.
const READERS: usize = 4;
/// A page is cut when so many bytes were looked at, whatever its limit and whoever's they are: no tenant's page may keep
/// the readers busy with another's events.
const PAGE_BYTES: usize = 16 << 20;
/// An event is looked for first in the buckets opened before its id was made, and this much later.
const CLOCK_SLACK_MS: i64 = 300_000;

/// The connections.
#[derive(Debug)]
pub(super) struct Readers {
    folder: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// Closed after the connections, those of reads that go on by themselves too.
    _file: Arc<File>,
}

impl Readers {
    pub(super) fn new(folder: &Path, file: Arc<File>) -> Arc<Self> {
        let (folder, idle) = (folder.to_owned(), Mutex::default());
        Arc::new(Self {
            folder,
            idle,
            permits: Arc::new(Semaphore::new(READERS)),
            _file: file,
        })
    }

    /// Runs a read where blocking is allowed.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let stopped = |_| ReadError::Unavailable("the bus is stopping".into());
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(stopped)?;
        let this = Arc::clone(self);
        // The permit goes along: a caller that stops waiting does not stop the read.
        let task = tokio::task::spawn_blocking(move || {
            let read = this.with_connection(read);
            drop(permit);
            read
        });
        task.await
            .map_err(|error| ReadError::Unavailable(error.to_string()))?
    }

    fn with_connection<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.folder).map_err(|fault| fault.into_read("bus.db"))?,
        };
        let fault = |error| Fault::Sqlite(error).into_read("bus.db");
        let transaction = connection.unchecked_transaction().map_err(fault)?;
        let result = read(&transaction);
        transaction.finish().map_err(fault)?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        result
    }

    /// Closes the connections that are idle.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// One topic-partition, as readers name it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) topic: Topic,
    pub(super) partition: u32,
    pub(super) slot: usize,
}

impl Target {
    pub(super) fn new(topic: Topic, place: Place, partition: u32) -> Option<Self> {
        let slot = place.first_slot + partition as usize;
        (partition < place.partitions).then_some(Self {
            topic,
            partition,
            slot,
        })
    }

    fn at(&self, table: &str, offset: u64) -> String {
        place(table, self.topic.as_str(), self.partition, offset)
    }

    fn span(&self, connection: &Connection, offset: u64) -> Result<Span, ReadError> {
        let place = || self.at("spans", offset);
        load_span(connection, self.slot, offset)
            .map_err(|fault| fault.into_read(&place()))?
            .ok_or_else(|| ReadError::Corrupt(format!("{}: no span covers it", place())))
    }
}

/// What a partition holds.
fn bounds(connection: &Connection, target: &Target) -> Result<Bounds, ReadError> {
    let (start, end) = load_head(connection, target.slot)
        .map_err(|fault| fault.into_read(&target.at("heads", 0)))?;
    Ok(Bounds { start, end })
}

/// A stretch of a partition.
pub(super) fn read(
    connection: &Connection,
    target: &Target,
    read: &Read,
) -> Result<Page, ReadError> {
    let bounds = bounds(connection, target)?;
    let mut page = Page {
        next: read.from.max(bounds.start),
        start: bounds.start,
        end: bounds.end,
        ..Page::default()
    };
    let (first, mut bytes) = (page.next, 0);
    let last = bounds.end.min(first.saturating_add(read.scan as u64));
    while page.next < last && page.records.len() < read.limit && bytes < PAGE_BYTES {
        let bucket = target.span(connection, page.next)?.bucket;
        let walked = walk(connection, target, bucket, page.next..last, |seen| {
            bytes += seen.value.len() + seen.headers.len();
            let tenant = read.tenant.as_ref();
            if tenant.is_none_or(|tenant| tenant.as_str() == seen.tenant) {
                page.records
                    .push(seen.stored(&target.topic, target.partition)?);
            }
            page.next = seen.offset() + 1;
            Some(page.records.len() < read.limit && bytes < PAGE_BYTES)
        });
        match walked {
            // What stands before it is served. Whoever goes on is told.
            Err(ReadError::Damaged { .. }) if page.next > first => break,
            walked => walked?,
        }
    }
    page.more = page.next < bounds.end;
    Ok(page)
}

/// Hands over the events of a bucket in a range, until told to stop, or that one is damaged. There is at least one.
fn walk(
    connection: &Connection,
    target: &Target,
    bucket: i64,
    range: std::ops::Range<u64>,
    mut each: impl FnMut(Event<'_>) -> Option<bool>,
) -> Result<(), ReadError> {
    let table = format!("blocks_{bucket}");
    let damaged = |offset| Fault::Damaged {
        offset,
        fault: format!("{}: {DAMAGED}", target.at(&table, offset)),
    };
    let mut expected = range.start;
    let mut scan = || -> Result<(), Fault> {
        let mut statement = connection.prepare_cached(&select_blocks(bucket))?;
        let bounds = [0, range.start, range.end - 1].map(|offset| position(target.slot, offset));
        let mut rows = statement.query(bounds)?;
        'blocks: while let Some(row) = rows.next()? {
            let block = Block::of(row).map_err(|_| damaged(expected))?;
            let (slot, first) = slot_and_offset(block.position);
            if slot != target.slot {
                break;
            }
            while expected < range.end {
                let Some(number) = expected.checked_sub(first) else {
                    break 'blocks;
                };
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                if number >= block.len() {
                    continue 'blocks;
                }
                let go_on = block.event(number).and_then(&mut each);
                let go_on = go_on.ok_or_else(|| damaged(expected))?;
                expected += 1;
                if !go_on {
                    return Ok(());
                }
            }
        }
        let is_missing = expected == range.start
            || expected < range.end
                && load_span(connection, target.slot, expected)?
                    .is_none_or(|span| span.bucket == bucket);
        if is_missing {
            return Err(Fault::Damaged {
                offset: expected,
                fault: format!("{}: the event is missing", target.at(&table, expected)),
            });
        }
        Ok(())
    };
    let done = scan();
    let done = done.map_err(|fault| {
        if is_of_content(&fault, connection, bucket, position(target.slot, expected)) {
            damaged(expected)
        } else {
            fault
        }
    });
    done.map_err(|fault| fault.into_read(&target.at(&table, expected)))
}

/// Whether only the content of a block cannot be read, of one that has an event at a position: then what follows it can.
fn is_of_content(fault: &Fault, connection: &Connection, bucket: i64, position: i64) -> bool {
    if !matches!(fault, Fault::Sqlite(error) if is_damage(error)) {
        return false;
    }
    let sql = format!(
        "SELECT position, directory, x'' FROM blocks_{bucket} WHERE position <= ? \
         ORDER BY position DESC LIMIT 1"
    );
    let reaches = connection.query_row(&sql, [position], |row| {
        let block = Block::of(row)?;
        Ok(usize::try_from(position - block.position).is_ok_and(|number| number < block.len()))
    });
    reaches.unwrap_or(false)
}

/// What is said of what its CRC does not prove.
pub(super) const DAMAGED: &str = "it is not what was written";

/// Selects, in their order, the blocks with events of a slot from one position (?2) to another (?3), which may begin
/// before that, but not before the slot does (?1).
fn select_blocks(bucket: i64) -> String {
    format!(
        "SELECT {COLUMNS} FROM blocks_{bucket} WHERE position <= ?3 AND position >= coalesce(\
         (SELECT max(position) FROM blocks_{bucket} WHERE position >= ?1 AND position <= ?2), ?2) \
         ORDER BY position"
    )
}

/// The tenant's event with an id. Another's is looked for as long as one that is not there.
pub(super) fn find(
    connection: &Connection,
    names: &[(Place, Topic)],
    tenant: &TenantId,
    event_id: Uuid,
) -> Result<Option<Stored>, ReadError> {
    let place = || format!("ids: event {event_id}");
    let made_ms = event_id.get_timestamp().map_or(i64::MAX, |time| {
        let (seconds, nanos) = time.to_unix();
        i64::try_from(seconds * 1000 + u64::from(nanos) / 1_000_000).unwrap_or(i64::MAX)
    });
    let buckets = load_buckets(connection).map_err(|fault| fault.into_read(&place()))?;
    let likely = |opened_ms: i64| opened_ms <= made_ms.saturating_add(CLOCK_SLACK_MS);
    let first = buckets
        .iter()
        .rev()
        .filter(|bucket| likely(bucket.opened_ms));
    let then = buckets
        .iter()
        .rev()
        .filter(|bucket| !likely(bucket.opened_ms));
    for bucket in first.chain(then).map(|bucket| bucket.id) {
        let (mut found, mut first_error): (Option<Stored>, _) = (None, None);
        let positions = ids::positions_of(connection, bucket, event_id);
        for position in positions.map_err(|fault| fault.into_read(&place()))? {
            let stored = match fetch(connection, names, (bucket, position), tenant, event_id) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(error) => {
                    first_error.get_or_insert(error);
                    continue;
                }
            };
            let age = |stored: &Stored| (stored.timestamp_ms, stored.offset);
            if found.as_ref().is_none_or(|found| age(&stored) < age(found)) {
                found = Some(stored);
            }
        }
        match (found, first_error) {
            (Some(found), _) => return Ok(Some(found)),
            (None, Some(error)) => return Err(error),
            (None, None) => {}
        }
    }
    Ok(None)
}

/// The event that should be at a place, if it is the tenant's.
fn fetch(
    connection: &Connection,
    names: &[(Place, Topic)],
    (bucket, position): (i64, i64),
    tenant: &TenantId,
    event_id: Uuid,
) -> Result<Option<Stored>, ReadError> {
    let (slot, offset) = slot_and_offset(position);
    let (topic, partition) = super::image::name_of(names, slot).ok_or_else(|| {
        ReadError::Corrupt(format!(
            "ids_{bucket}: event {event_id} is of slot {slot}, which is not"
        ))
    })?;
    let target = Target {
        topic: topic.clone(),
        partition,
        slot,
    };
    let mut found = None;
    walk(connection, &target, bucket, offset..offset + 1, |event| {
        if event.id != event_id {
            return None;
        }
        if event.tenant == tenant.as_str() {
            found = Some(event.stored(topic, partition)?);
        }
        Some(false)
    })?;
    Ok(found)
}

/// The first offset at or after a time.
pub(super) fn offset_at(
    connection: &Connection,
    target: &Target,
    time_ms: i64,
) -> Result<u64, ReadError> {
    let bounds = bounds(connection, target)?;
    let span = first_span_at(connection, target, time_ms)
        .map_err(|fault| fault.into_read(&target.at("spans", bounds.start)))?;
    let Some(span) = span else {
        return Ok(bounds.end);
    };
    let mut found = None;
    walk(
        connection,
        target,
        span.bucket,
        span.first.max(bounds.start)..bounds.end,
        |seen| {
            found = (seen.timestamp_ms >= time_ms).then(|| seen.offset());
            Some(found.is_none())
        },
    )?;
    found.ok_or_else(|| {
        let place = target.at("spans", span.first);
        ReadError::Corrupt(format!("{place}: its newest time is in none of its events"))
    })
}

fn first_span_at(
    connection: &Connection,
    target: &Target,
    time_ms: i64,
) -> Result<Option<Span>, Fault> {
    let sql = "SELECT first, bucket, max_ms, crc FROM spans WHERE slot = ? ORDER BY first";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([number(target.slot)])?;
    while let Some(row) = rows.next()? {
        let span = span_of(target.slot, row)?;
        if span.max_ms >= time_ms {
            return Ok(Some(span));
        }
    }
    Ok(None)
}

/// How many events a tenant ever appended.
pub(super) fn count(connection: &Connection, tenant: &TenantId) -> Result<u64, ReadError> {
    load_counter(connection, tenant.as_str())
        .map(i64::cast_unsigned)
        .map_err(|fault| fault.into_read(&format!("counters: tenant {tenant}")))
}

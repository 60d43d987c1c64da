//! Reading: each call is one read transaction on one of a few read-only connections.
//!
//! Every row is proved by its CRC before anything of it counts, rows of other tenants too: a
//! flipped bit in a tenant's name must not make an event vanish. What is missing in a stretch is
//! damage as well.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use tidings_event::{TenantId, Topic};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::fault::Fault;
use super::group::seal_event;
use super::image::{
    Place, Span, load_buckets, load_counter, load_head, load_span, number, span_of,
};
use super::schema::{open_reader, place, position, slot_and_offset};
use crate::{Bounds, Headers, Page, Read, ReadError, Stored};

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
}

impl Readers {
    pub(super) fn new(folder: &Path) -> Arc<Self> {
        let (folder, idle) = (folder.to_owned(), Mutex::default());
        Arc::new(Self {
            folder,
            idle,
            permits: Arc::new(Semaphore::new(READERS)),
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
    mut each: impl FnMut(Seen<'_>) -> Option<bool>,
) -> Result<(), ReadError> {
    let table = format!("events_{bucket}");
    let mut expected = range.start;
    let mut scan = || -> Result<(), Fault> {
        let sql = format!(
            "SELECT position, crc, id, tenant, key, timestamp_ms, headers, value FROM {table} \
             WHERE position >= ? AND position < ? ORDER BY position"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let (from, to) = (
            position(target.slot, range.start),
            position(target.slot, range.end),
        );
        let mut rows = statement.query([from, to])?;
        while let Some(row) = rows.next()? {
            let offset = slot_and_offset(row.get(0)?).1;
            if offset != expected {
                break;
            }
            let go_on = seen(row)
                .and_then(&mut each)
                .ok_or_else(|| Fault::Damaged {
                    offset,
                    fault: format!("{}: {DAMAGED}", target.at(&table, offset)),
                })?;
            expected += 1;
            if !go_on {
                return Ok(());
            }
        }
        let moved_on = expected == range.end
            || load_span(connection, target.slot, expected)?
                .is_some_and(|span| span.bucket != bucket);
        if expected == range.start || !moved_on {
            return Err(Fault::Damaged {
                offset: expected,
                fault: format!("{}: the event is missing", target.at(&table, expected)),
            });
        }
        Ok(())
    };
    let done = scan();
    done.map_err(|fault| fault.into_read(&target.at(&table, expected)))
}

/// What is said of a row whose CRC fails.
pub(super) const DAMAGED: &str = "it is not what was written";

/// An event as it stands in its row, proved and not copied.
struct Seen<'r> {
    position: i64,
    id: &'r [u8],
    tenant: &'r str,
    key: &'r str,
    timestamp_ms: i64,
    headers: &'r str,
    value: &'r [u8],
}

/// The columns `position, crc, id, tenant, key, timestamp_ms, headers, value`; nothing when they are not what was written.
fn seen<'r>(row: &'r Row<'_>) -> Option<Seen<'r>> {
    let crc: i64 = row.get(1).ok()?;
    let seen = Seen {
        position: row.get(0).ok()?,
        id: row.get_ref(2).ok()?.as_blob().ok()?,
        tenant: row.get_ref(3).ok()?.as_str().ok()?,
        key: row.get_ref(4).ok()?.as_str().ok()?,
        timestamp_ms: row.get(5).ok()?,
        headers: row.get_ref(6).ok()?.as_str().ok()?,
        value: row.get_ref(7).ok()?.as_blob().ok()?,
    };
    let sealed = seal_event(
        seen.position,
        seen.id,
        seen.tenant,
        seen.key,
        seen.timestamp_ms,
        seen.headers,
        seen.value,
    );
    (crc == sealed).then_some(seen)
}

impl Seen<'_> {
    fn offset(&self) -> u64 {
        slot_and_offset(self.position).1
    }

    fn stored(&self, topic: &Topic, partition: u32) -> Option<Stored> {
        Some(Stored {
            topic: topic.clone(),
            partition,
            offset: self.offset(),
            key: self.key.to_owned(),
            tenant: self.tenant.parse().ok()?,
            event_id: Uuid::from_slice(self.id).ok()?,
            timestamp_ms: self.timestamp_ms,
            headers: Headers::from_text(self.headers.to_owned()),
            value: Bytes::copy_from_slice(self.value),
        })
    }
}

/// An event from the columns `position, crc, id, tenant, key, timestamp_ms, headers, value`;
/// nothing when it is not what was written.
pub(super) fn event_of(row: &Row<'_>, topic: &Topic, partition: u32) -> Option<Stored> {
    seen(row)?.stored(topic, partition)
}

/// The tenant's event with an id. Another's is looked for as long as one that is not there.
pub(super) fn find(
    connection: &Connection,
    names: &[(Place, Topic)],
    tenant: &TenantId,
    event_id: Uuid,
) -> Result<Option<Stored>, ReadError> {
    find_any(connection, names, tenant, event_id)
        .map_err(|fault| fault.into_read(&format!("ids: event {event_id}")))
}

fn find_any(
    connection: &Connection,
    names: &[(Place, Topic)],
    tenant: &TenantId,
    event_id: Uuid,
) -> Result<Option<Stored>, Fault> {
    let made_ms = event_id.get_timestamp().map_or(i64::MAX, |time| {
        let (seconds, nanos) = time.to_unix();
        i64::try_from(seconds * 1000 + u64::from(nanos) / 1_000_000).unwrap_or(i64::MAX)
    });
    let buckets = load_buckets(connection)?;
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
        let sql = format!("SELECT position FROM ids_{bucket} WHERE id = ?");
        let position: Option<i64> = connection
            .prepare_cached(&sql)?
            .query_row([&event_id.as_bytes()[..]], |row| row.get(0))
            .optional()?;
        if let Some(position) = position {
            let stored = fetch(connection, names, bucket, position, event_id)?;
            if stored.tenant == *tenant {
                return Ok(Some(stored));
            }
        }
    }
    Ok(None)
}

fn fetch(
    connection: &Connection,
    names: &[(Place, Topic)],
    bucket: i64,
    position: i64,
    event_id: Uuid,
) -> Result<Stored, Fault> {
    let (slot, offset) = slot_and_offset(position);
    let (topic, partition) = super::image::name_of(names, slot).ok_or_else(|| {
        Fault::Corrupt(format!(
            "ids_{bucket}: event {event_id} is of slot {slot}, which is not"
        ))
    })?;
    let sql = format!(
        "SELECT position, crc, id, tenant, key, timestamp_ms, headers, value FROM events_{bucket} \
         WHERE position = ?"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([position])?;
    let stored = rows.next()?.and_then(|row| event_of(row, topic, partition));
    stored
        .filter(|stored| stored.event_id == event_id)
        .ok_or_else(|| {
            let place = place(
                &format!("events_{bucket}"),
                topic.as_str(),
                partition,
                offset,
            );
            let fault = format!("{place}: {DAMAGED}");
            Fault::Damaged { offset, fault }
        })
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

//! When buckets and key generations open, and when they are dropped whole.
//!
//! A drop is a transaction of its own, after the callers of the commit before were answered.

use std::time::Duration;

use rusqlite::Connection;

use super::fault::Fault;
use super::image::{Image, load_span, move_start};
use super::schema::{bucket_tables, generation_table};

/// How many buckets a retention is divided into: what is kept too long is at most one part.
const PARTS: u64 = 16;
const LONGEST_MS: u64 = 24 * 3600 * 1000;
const SHORTEST_MS: u64 = 1000;
const LARGEST_BYTES: u64 = 1 << 30;

/// What is kept for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    age_ms: Option<i64>,
    bytes: Option<u64>,
    bucket_ms: i64,
    bucket_bytes: u64,
    pub(super) key_ttl_ms: i64,
}

impl Limits {
    pub(super) fn new(age: Option<Duration>, bytes: Option<u64>, key_ttl: Duration) -> Self {
        let age_ms = age.map(milliseconds);
        let part = age_ms.map_or(LONGEST_MS, |age| age.cast_unsigned() / PARTS);
        Self {
            age_ms,
            bytes,
            bucket_ms: part.clamp(SHORTEST_MS, LONGEST_MS).cast_signed(),
            bucket_bytes: bytes.map_or(LARGEST_BYTES, |bytes| {
                (bytes / PARTS).clamp(1, LARGEST_BYTES)
            }),
            key_ttl_ms: milliseconds(key_ttl),
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// Opens a new bucket or generation when the newest is full or old, or was opened by a clock that was ahead, within the
/// transaction that is open.
pub(super) fn roll(
    connection: &Connection,
    image: &mut Image,
    limits: Limits,
    now_ms: i64,
) -> Result<(), Fault> {
    let full = image.buckets.last().is_none_or(|bucket| {
        bucket.bytes >= limits.bucket_bytes || is_over(bucket.opened_ms, limits.bucket_ms, now_ms)
    });
    if full {
        image.add_bucket(connection, now_ms)?;
        let id = image.buckets.last().expect("just added").id;
        for (_, sql) in bucket_tables(id) {
            connection.execute_batch(&sql)?;
        }
    }
    let old = image
        .generations
        .last()
        .is_none_or(|generation| is_over(generation.opened_ms, limits.key_ttl_ms, now_ms));
    if old {
        image.add_generation(connection, now_ms)?;
        let id = image.generations.last().expect("just added").id;
        connection.execute_batch(&generation_table(id).1)?;
    }
    Ok(())
}

/// Whether a stretch of time that began then has passed. One that begins in the future is over: it is not its clock's.
fn is_over(opened_ms: i64, length_ms: i64, now_ms: i64) -> bool {
    now_ms < opened_ms || now_ms - opened_ms >= length_ms
}

/// Whether [`drop_oldest`] has something to do.
pub(super) fn is_due(image: &Image, limits: Limits, now_ms: i64) -> bool {
    oldest_bucket_is_due(image, limits, now_ms) || oldest_generation_is_due(image, limits, now_ms)
}

/// The newest bucket is never dropped.
fn oldest_bucket_is_due(image: &Image, limits: Limits, now_ms: i64) -> bool {
    let opened = image.buckets.iter();
    let closed_ms = closed_ms(opened.map(|bucket| bucket.opened_ms), now_ms);
    let Some(closed_ms) = closed_ms else {
        return false;
    };
    let aged = limits.age_ms.is_some_and(|age| now_ms - closed_ms >= age);
    aged || limits
        .bytes
        .is_some_and(|limit| image.buckets.iter().map(|bucket| bucket.bytes).sum::<u64>() > limit)
}

fn oldest_generation_is_due(image: &Image, limits: Limits, now_ms: i64) -> bool {
    let opened = image.generations.iter();
    let closed_ms = closed_ms(opened.map(|generation| generation.opened_ms), now_ms);
    closed_ms.is_some_and(|closed_ms| now_ms - closed_ms >= limits.key_ttl_ms)
}

/// When nothing went into the first any more: when the next was opened. One that a clock opened which was behind the first's
/// tells nothing, and one that a clock opened which was ahead tells it too late, unless the first's was ahead itself.
fn closed_ms(mut opened_ms: impl Iterator<Item = i64>, now_ms: i64) -> Option<i64> {
    let first = opened_ms.next()?;
    let was_ahead = first > now_ms;
    opened_ms
        .filter(|opened| was_ahead || *opened >= first)
        .min()
}

/// Drops the oldest bucket and generation that are due, within the transaction that is open.
pub(super) fn drop_oldest(
    connection: &Connection,
    image: &mut Image,
    limits: Limits,
    now_ms: i64,
) -> Result<(), Fault> {
    if oldest_bucket_is_due(image, limits, now_ms) {
        let bucket = image.buckets.remove(0).id;
        connection.execute("DELETE FROM spans WHERE bucket = ?", [bucket])?;
        connection.execute("DELETE FROM buckets WHERE id = ?", [bucket])?;
        for (table, _) in bucket_tables(bucket) {
            connection.execute_batch(&format!("DROP TABLE {table}"))?;
        }
        move_starts(connection, image)?;
    }
    if oldest_generation_is_due(image, limits, now_ms) {
        let generation = image.generations.remove(0).id;
        connection.execute("DELETE FROM generations WHERE id = ?", [generation])?;
        connection.execute_batch(&format!("DROP TABLE {}", generation_table(generation).0))?;
    }
    Ok(())
}

/// Each slot starts at the first span that is left, or is empty.
fn move_starts(connection: &Connection, image: &mut Image) -> Result<(), Fault> {
    let sql = "SELECT min(first) FROM spans WHERE slot = ?";
    for (number, slot) in image.slots.iter_mut().enumerate() {
        let first: Option<i64> = connection
            .prepare_cached(sql)?
            .query_row([super::image::number(number)], |row| row.get(0))?;
        let start = first.map_or(slot.next, i64::cast_unsigned);
        if start != slot.start {
            move_start(connection, number, slot, start)?;
        }
        slot.span = load_span(connection, number, u64::MAX >> 1)?;
    }
    Ok(())
}

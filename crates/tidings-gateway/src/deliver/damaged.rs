//! What is damaged, in the store or in the log, holds up nothing that is sound: it is told of, counted and passed over.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use tidings_bus::{Met, ReadError, Stretches};
use tidings_store::{Due, Found, PendingRow, StoreError};
use uuid::Uuid;

use super::Dispatcher;
use super::queue::StreamId;
use crate::clock::has_passed;
use crate::damaged::DAMAGED_AGAIN_MS;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// Of so many it is known when they were told of.
const MOST: usize = 1_000;
/// When the same is told of again.
const AGAIN: Duration = Duration::from_millis(DAMAGED_AGAIN_MS.unsigned_abs());

/// What has been told of, and when, in ms since 1970: what is found at every look is not told of at every look.
#[derive(Default)]
pub(super) struct Told {
    texts: HashMap<String, i64>,
    /// Records of the log.
    pub(super) stretches: Stretches<StreamId>,
    /// Since when these are remembered, in ms since 1970.
    stretches_since: i64,
}

impl Told {
    /// Whether it is to be told of (again). Then it has been.
    fn anew(&mut self, text: &str, now: i64) -> bool {
        let recently = |at: &i64| !has_passed(AGAIN, *at, now);
        if self.texts.get(text).is_some_and(recently) {
            return false;
        }
        if self.texts.len() >= MOST {
            self.texts.clear();
        }
        self.texts.insert(text.to_owned(), now);
        true
    }

    /// What a record that cannot be read is to those that were met within the hour.
    fn met(&mut self, stream: StreamId, offset: u64, now: i64) -> Met {
        if has_passed(AGAIN, self.stretches_since, now) {
            (self.stretches, self.stretches_since) = (Stretches::default(), now);
        }
        self.stretches.meet(&stream, offset)
    }
}

impl Dispatcher {
    /// The sound rows of what was read.
    pub(super) fn sound<T>(
        &mut self,
        found: Result<Found<T>, StoreError>,
    ) -> Result<Vec<T>, Refusal> {
        let found = found.map_err(store_fault)?;
        for error in &found.damaged {
            self.tell_damaged(error);
        }
        Ok(found.rows)
    }

    /// Once an hour of each.
    pub(super) fn tell_damaged(&mut self, error: &impl Display) {
        if self.count_damaged(error) {
            tracing::error!(%error, "what is damaged is not delivered");
        }
    }

    /// Counts it once an hour, and answers whether it has, for who tells of it with more words.
    pub(super) fn count_damaged(&mut self, error: &impl Display) -> bool {
        let is_new = self.told.anew(&error.to_string(), self.clock.now_ms());
        if is_new {
            self.part.counted().damaged();
        }
        is_new
    }

    /// Where a stretch of the log begins that cannot be read; each of its records is counted, once an hour.
    pub(super) fn tell_unread(&mut self, stream: StreamId, offset: u64, error: &ReadError) {
        let met = self.told.met(stream, offset, self.clock.now_ms());
        if met != Met::Again {
            self.part.counted().damaged();
        }
        if met == Met::Beginning {
            tracing::error!(%error, "what is damaged is not delivered");
        }
    }

    /// A partition ends before what was read of it: it is another log than the store knows, or an older one.
    pub(super) fn tell_other_log(&mut self, stream: StreamId) {
        let stream = &self.streams[stream];
        let (topic, partition, cursor) = (
            &stream.partition.topic,
            stream.partition.number,
            stream.head,
        );
        let text = format!(
            "partition {partition} of topic {topic} ends before offset {cursor}, up to which it was read; it is another log, or an \
             older one: deliveries go on with what came after the last that was made"
        );
        self.tell_damaged(&text);
    }

    /// Retention has removed what stood between a place and the first that can be read, before it was read for a
    /// subscription that has fallen behind, or for all that keep up. Who begins at the beginning misses nothing.
    pub(super) fn tell_removed(
        &self,
        subscription: Option<Uuid>,
        stream: StreamId,
        (place, start): (u64, u64),
    ) {
        if place == 0 || start <= place {
            return;
        }
        self.part.counted().removed_unread(start - place);
        let partition = &self.streams[stream].partition;
        let (topic, partition, last) = (&partition.topic, partition.number, start - 1);
        let subscription = subscription.map(tracing::field::display);
        tracing::warn!(
            %topic, partition, first = place, last, subscription,
            "events may have been removed by retention before they were delivered"
        );
    }

    /// The bounds of such a stretch, if one ends where the log can be read from.
    pub(super) fn tell_end(&mut self, stream: StreamId, offset: u64) {
        let Some((first, last)) = self.told.stretches.end(&stream, offset) else {
            return;
        };
        let partition = &self.streams[stream].partition;
        let (topic, partition) = (&partition.topic, partition.number);
        tracing::error!(%topic, partition, first, last, "nothing of a damaged stretch is delivered");
    }

    /// A row of a pending delivery that is not what was written stays as it is, and is looked at again much later.
    pub(super) async fn put_aside(&mut self, due: &Due, error: &StoreError) -> Result<(), Refusal> {
        self.tell_damaged(error);
        let again = self.clock.now_ms() + DAMAGED_AGAIN_MS;
        let rows = self.store.deliveries();
        let done = rows.put_off(&due.subscription, due.sequence, again).await;
        done.map_err(store_fault)
    }

    /// The same of one that is what was written, and still cannot be read.
    pub(super) fn put_aside_unread(&mut self, row: PendingRow, refusal: &Refusal) {
        let (id, sequence) = (row.subscription, row.sequence);
        self.tell_damaged(&format!(
            "pending delivery {id}/{sequence}: {}",
            refusal.detail
        ));
        self.flush.pending.push(PendingRow {
            next_at_ms: self.clock.now_ms() + DAMAGED_AGAIN_MS,
            ..row
        });
    }
}

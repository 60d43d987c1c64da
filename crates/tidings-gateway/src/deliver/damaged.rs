//! What is damaged, in the store or in the log, holds up nothing that is sound: it is told of, counted and passed over.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{Met, ReadError, Stretches};
use tidings_store::{Due, Found, PendingRow, StoreError};
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Numbers, Places, StreamId};
use super::schedule::has_passed;
use crate::damaged::DAMAGED_AGAIN_MS;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::Subscription;

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

/// A subscription whose progress is damaged: what it was sent is known, and not what it was not sent. It gets nothing until its
/// owner says where it goes on.
#[derive(Debug)]
pub(super) struct Lost {
    /// Which start it had.
    start: u32,
    /// The last number that it is known to have given out.
    last: u64,
}

impl Dispatcher {
    /// A subscription in force of which it is known how far it has come.
    pub(super) fn known(&self, id: Uuid) -> Option<Arc<Subscription>> {
        let is_lost = self.lost.contains_key(&id);
        self.in_force.get(id).filter(|_| !is_lost)
    }

    /// Whether a subscription gets nothing though it is there, and nothing of it is thrown away.
    pub(super) fn is_kept(&self, id: Uuid) -> bool {
        self.in_force.is_unreadable(id) || self.lost.contains_key(&id)
    }

    /// Takes note of a subscription whose progress cannot be read.
    pub(super) async fn lose(
        &mut self,
        id: Option<Uuid>,
        error: &impl Display,
    ) -> Result<(), Refusal> {
        self.tell_damaged(error);
        let Some(subscription) = id.and_then(|id| self.in_force.get(id)) else {
            return Ok(());
        };
        let id = subscription.id;
        let store = self.store.clone();
        let last = store.deliveries().last_number(id).await;
        let last = last.map_err(store_fault)?;
        tracing::error!(subscription = %id, "a subscription gets nothing until its owner seeks it: how far it has come is damaged");
        let start = subscription.start.number;
        self.lost.insert(id, Lost { start, last });
        Ok(())
    }

    /// Whether it is still not known where a subscription is to go on. When its owner has said it, it begins there, with numbers
    /// that it has not given out.
    pub(super) fn is_lost_yet(&mut self, subscription: &Subscription) -> bool {
        let id = subscription.id;
        let start = subscription.start.number;
        let Some(lost) = self.lost.remove(&id) else {
            return false;
        };
        if lost.start == start {
            self.lost.insert(id, lost);
            return true;
        }
        let places = Places {
            start: lost.start,
            ..Places::default()
        };
        self.saved.insert(id, (Numbers::new(lost.last), places));
        false
    }

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
        let now = self.clock.now_ms();
        if self.told.anew(&error.to_string(), now) {
            self.part.counted().damaged();
            tracing::error!(%error, "what is damaged is not delivered");
        }
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

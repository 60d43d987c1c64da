//! What is damaged, in the store or in the log, holds up nothing that is sound: it is told of, counted and passed over.

use std::collections::HashMap;
use std::fmt::Display;

use tidings_store::{Due, Found, PendingRow, StoreError};

use super::Dispatcher;
use crate::damaged::DAMAGED_AGAIN_MS;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// Of so many it is known when they were told of.
const MOST: usize = 1_000;

/// What has been told of, and when, in ms since 1970: what is found at every look is not told of at every look.
#[derive(Default)]
pub(super) struct Told(HashMap<String, i64>);

impl Told {
    /// Whether it is to be told of (again). Then it has been.
    fn anew(&mut self, text: &str, now: i64) -> bool {
        let recently = |at: &i64| now - at < DAMAGED_AGAIN_MS;
        if self.0.get(text).is_some_and(recently) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(text.to_owned(), now);
        true
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
        let now = self.clock.now_ms();
        if self.told.anew(&error.to_string(), now) {
            self.part.counted().damaged();
            tracing::error!(%error, "what is damaged is not delivered");
        }
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

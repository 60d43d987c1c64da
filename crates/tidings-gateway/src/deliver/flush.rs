//! Record: what has happened goes to the store in batches, one at a time.

use std::sync::Arc;
use std::time::Duration;

use tidings_store::{CursorRow, Flush, ProgressRow, StoreError};
use tokio::task::JoinError;

use super::queue::Places;
use super::{AFTER_FAILURE, Dispatcher, FLUSH_AFTER, detail_of};
use crate::clock::has_passed;
use crate::storing::store_fault;

/// So many rows may wait while writing fails.
const HELD_UP: usize = 2_000;
/// So many attempts are written without waiting for more.
const FULL: usize = 500;
/// The most rows that are written at once after a write has failed.
const LARGEST_PIECE: usize = 256;
/// Cursors that moved over what nobody wants are worth a write of their own this seldom.
const CURSORS_ALONE: Duration = Duration::from_secs(1);

/// What became of a write: what the store never takes, each with the reason, or why nothing is known to be written.
pub(super) type Written = Result<Vec<(Flush, String)>, StoreError>;

impl Dispatcher {
    /// Whether anything is to be written soon.
    pub(super) fn has_news(&self) -> bool {
        !self.flush.is_empty() || !self.moved.is_empty()
    }

    /// Whether nothing can be written down, and more waits to be than may.
    pub(super) fn is_held_up(&self) -> bool {
        self.failed_writes > 0 && self.flush.attempts.len() + self.flush.pending.len() > HELD_UP
    }

    /// Begins to write, when it is time and nothing is being written.
    pub(super) fn write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let now = self.clock.now_ms();
        let since = |time| has_passed(time, self.flushed_at_ms, now);
        let due = self.has_news() && (since(FLUSH_AFTER) || self.flush.attempts.len() >= FULL);
        if due || since(CURSORS_ALONE) {
            self.write_now();
        }
    }

    /// Begins to write whatever there is. Nothing may be being written.
    pub(super) fn write_now(&mut self) {
        let mut flush = std::mem::take(&mut self.flush);
        let share = self.share.to_string();
        self.part.unsettled = 0;
        for stream in self.streams.iter_mut().filter(|stream| !stream.lost) {
            let cursor = stream.cursor();
            self.part.unsettled += stream.head - cursor;
            if stream.saved != Some(cursor) {
                stream.saved = Some(cursor);
                flush.cursors.push(CursorRow {
                    share: share.clone(),
                    topic: stream.partition.topic.clone(),
                    partition: stream.partition.number,
                    next_offset: cursor,
                });
            }
        }
        if !flush.cursors.is_empty() {
            self.moved.extend(self.unsettled.drain());
        }
        for id in std::mem::take(&mut self.moved) {
            let streams = &self.streams;
            let Some(queue) = self.queues.get_mut(&id).filter(|it| it.lost.is_none()) else {
                continue;
            };
            let places = queue.back_to();
            let sequence = queue.settled(&places, |stream| streams[stream].cursor());
            let at = places.into_iter().map(|(stream, offset)| {
                let partition = &streams[stream].partition;
                (
                    partition.topic.as_str().to_owned(),
                    partition.number,
                    offset,
                )
            });
            let places = Places {
                start: queue.start,
                at: at.collect(),
                failing_since_ms: queue.failing_since_ms,
            };
            flush.progress.push(ProgressRow {
                subscription: id,
                tenant: queue.subscription.tenant.clone(),
                sequence,
                places: serde_json::to_string(&places).expect("plain members become JSON"),
            });
            if !queue.numbers.is_settled() {
                // The cursor has yet to pass what was given out.
                self.unsettled.insert(id);
            }
        }
        self.flushed_at_ms = self.clock.now_ms();
        if flush.is_empty() {
            return;
        }
        self.being_written = Arc::new(flush);
        self.begin_writing(Duration::ZERO);
    }

    fn begin_writing(&mut self, after: Duration) {
        let (store, flush) = (self.store.clone(), self.being_written.clone());
        let tenure = self.tenure.clone();
        // Smaller each time, should it be too much at once.
        let rows = self.failed_writes.checked_sub(1);
        let rows = rows.map(|times| LARGEST_PIECE >> times.saturating_mul(2).min(8));
        self.writing = Some(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let room = store.deliveries();
            let Some(rows) = rows else {
                return room
                    .flush_within(&tenure, &flush)
                    .await
                    .map(|()| Vec::new());
            };
            let left_out = room.flush_in_pieces(&tenure, &flush, rows).await?;
            let left_out = left_out.into_iter();
            Ok(left_out
                .map(|(piece, error)| (piece, error.to_string()))
                .collect())
        }));
    }

    /// Takes note of what became of a write. One that failed is made again, in pieces, for as long as it takes: nothing
    /// is forgotten, what is at hand is bounded, and a row that the store never takes is the only one it does not get. Only
    /// where another has taken up the share is there nothing more to write.
    pub(super) fn written(&mut self, written: Result<Written, JoinError>) {
        self.writing = None;
        let detail = match written {
            Ok(Ok(left_out)) => {
                self.failed_writes = 0;
                for (piece, error) in left_out {
                    self.was_left_out(&piece, &error);
                }
                let written = std::mem::take(&mut self.being_written);
                let waiting = written.pending.iter().filter(|row| row.state == "waiting");
                for row in waiting {
                    self.waiting.sooner(row.subscription, row.next_at_ms);
                }
                return;
            }
            Ok(Err(error @ StoreError::Taken(_))) => {
                tracing::warn!(%error, "what was delivered last is not written down and may come again");
                self.is_taken = true;
                return;
            }
            Ok(Err(error)) => store_fault(error).detail,
            Err(error) => error.to_string(),
        };
        tracing::error!(detail, "deliveries could not be written down");
        self.failed_writes = self.failed_writes.saturating_add(1);
        self.begin_writing(AFTER_FAILURE);
    }

    /// A row that the store will never take. A delivery that it stood for is given up, and its attempts say so. An earlier
    /// row of it goes, and what waits behind it may follow.
    fn was_left_out(&mut self, piece: &Flush, error: &str) {
        tracing::error!(error, row = ?piece, "the store does not take a row; it is left out");
        let now = self.clock.now_ms();
        for row in &piece.pending {
            self.end_without_attempt(row, "the store does not take what is kept of it", now);
            self.flush.settled.push((row.subscription, row.sequence));
            if let Ok(Some(dead)) = detail_of(row).map(|detail| detail.dead_letter) {
                self.flush.dead_states.push((dead, "open"));
            }
            if let Some(lane) = &row.lane {
                let lane = (row.subscription, lane.clone());
                self.lanes_to_advance.insert(lane);
            }
        }
    }
}

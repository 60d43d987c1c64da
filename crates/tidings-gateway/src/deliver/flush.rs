//! Record: what has happened goes to the store in batches, one at a time.

use std::sync::Arc;
use std::time::Duration;

use tidings_store::{CursorRow, Flush, ProgressRow};
use tokio::task::JoinError;

use super::queue::Places;
use super::schedule::ms;
use super::{AFTER_FAILURE, Dispatcher, FLUSH_AFTER};
use crate::manifests::store_fault;
use crate::publish::refusal::Refusal;

/// So many rows may wait while writing fails.
const HELD_UP: usize = 2_000;
/// So many attempts are written without waiting for more.
const FULL: usize = 500;
/// Cursors that moved over what nobody wants are worth a write of their own this seldom.
const CURSORS_ALONE: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Whether anything is to be written soon.
    pub(super) fn has_news(&self) -> bool {
        !self.flush.is_empty() || !self.moved.is_empty()
    }

    /// Whether nothing can be written down, and more waits to be than may.
    pub(super) fn is_held_up(&self) -> bool {
        self.write_failed && self.flush.attempts.len() + self.flush.pending.len() > HELD_UP
    }

    /// Begins to write, when it is time and nothing is being written.
    pub(super) fn write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let since = self.clock.now_ms() - self.flushed_at_ms;
        let due =
            self.has_news() && (since >= ms(FLUSH_AFTER) || self.flush.attempts.len() >= FULL);
        if due || since >= ms(CURSORS_ALONE) {
            self.write_now();
        }
    }

    /// Begins to write whatever there is. Nothing may be being written.
    pub(super) fn write_now(&mut self) {
        let mut flush = std::mem::take(&mut self.flush);
        let share = self.share.to_string();
        self.part.unsettled = 0;
        for stream in &mut self.streams {
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
            let Some(queue) = self.queues.get_mut(&id) else {
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
        self.writing = Some(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            store.deliveries().flush(&flush).await.map_err(store_fault)
        }));
    }

    /// Takes note of what became of a write. One that failed is made again, for as long as it takes: nothing
    /// is forgotten, and what is at hand is bounded.
    pub(super) fn written(&mut self, written: Result<Result<(), Refusal>, JoinError>) {
        self.writing = None;
        self.write_failed = !matches!(written, Ok(Ok(())));
        match written {
            Ok(Ok(())) => {
                let waiting = self
                    .being_written
                    .pending
                    .iter()
                    .filter(|row| row.state == "waiting");
                let first = waiting.map(|row| row.next_at_ms).min();
                self.next_due_ms = [self.next_due_ms, first].into_iter().flatten().min();
                self.being_written = Arc::new(Flush::default());
            }
            Ok(Err(refusal)) => {
                tracing::error!(
                    detail = refusal.detail,
                    "deliveries could not be written down"
                );
                self.begin_writing(AFTER_FAILURE);
            }
            Err(error) => {
                tracing::error!(%error, "deliveries could not be written down");
                self.begin_writing(AFTER_FAILURE);
            }
        }
    }
}

//! Retry: what is due again, and what may follow behind it.

use std::sync::Arc;

use tidings_store::PendingRow;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Delivery, Origin};
use super::record::PendingDetail;
use super::schedule::ms;
use super::target::Carried;
use crate::envelope;
use crate::events::unreadable;
use crate::manifests::store_fault;
use crate::publish::refusal::Refusal;

/// The most pending deliveries in memory.
pub(super) const AT_HAND: usize = 1_000;
/// How many rows are read at once.
const PAGE: usize = 200;
/// So many of a lane are read to find its next: more than can be settled between two writes, one at a time.
const LANE_PAGE: u32 = 64;
/// When a delivery is looked at again whose subscription gets nothing now.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// How often old attempts are forgotten.
const FORGET_EVERY: std::time::Duration = std::time::Duration::from_mins(10);

impl Dispatcher {
    /// Takes to hand what is due.
    pub(super) async fn due(&mut self) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        let looks = now - self.looked_at_ms >= ms(super::LOOK_AGAIN);
        let due = self.next_due_ms.is_some_and(|at| at <= now);
        if !(due || looks) || self.at_hand.len() >= AT_HAND {
            return Ok(());
        }
        self.looked_at_ms = now;
        let rows = self.store.deliveries();
        // Those at hand are among the due, and come first.
        let limit = u32::try_from(PAGE + self.at_hand.len()).unwrap_or(u32::MAX);
        let found = rows.due(now, limit).await.map_err(store_fault)?;
        let all = found.len() < limit as usize;
        let next = rows.next_due(now).await.map_err(store_fault)?;
        self.next_due_ms = if all { next } else { Some(now) };
        for row in found {
            let key = (row.subscription, row.sequence);
            // A row that is about to be written, or removed, is newer than what was read.
            if !self.at_hand.contains(&key) && !self.is_in_motion(key) {
                self.resume(row).await?;
            }
        }
        Ok(())
    }

    fn is_in_motion(&self, key: (Uuid, u64)) -> bool {
        [&self.flush, &*self.being_written]
            .into_iter()
            .any(|flush| {
                let mut pending = flush.pending.iter();
                flush.settled.contains(&key)
                    || pending.any(|row| (row.subscription, row.sequence) == key)
            })
    }

    /// Takes a pending delivery to hand, or puts it off when its subscription gets nothing now.
    async fn resume(&mut self, mut row: PendingRow) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        let Some(subscription) = self.in_force.get(row.subscription) else {
            self.flush.forgotten.push(row.subscription);
            return Ok(());
        };
        if !self.queue(&subscription).is_active() {
            row.next_at_ms = now + ms(AGAIN);
            row.state = "waiting".into();
            self.flush.pending.push(row);
            return Ok(());
        }
        let detail: PendingDetail = serde_json::from_str(&row.detail)
            .map_err(|error| Refusal::fault("Reading a pending delivery", &error))?;
        let Some(event) = self.event_of(&row, &detail).await? else {
            tracing::warn!(
                subscription = %row.subscription, sequence = row.sequence, event_id = %row.event_id,
                "the log no longer holds an event that was to be delivered"
            );
            self.flush.settled.push((row.subscription, row.sequence));
            if let Some(lane) = row.lane {
                self.lanes_to_advance.insert((row.subscription, lane));
            }
            return Ok(());
        };
        let id = row.subscription;
        self.at_hand.insert((id, row.sequence));
        let queue = self.queue(&subscription);
        if let Some(lane) = &row.lane {
            queue.lanes.entry(lane.clone()).or_default().blocked = true;
        }
        queue.push(Delivery {
            sequence: row.sequence,
            event,
            revision: detail.revision,
            lane: row.lane,
            origin: Origin::Pending,
            attempts: row.attempts,
            base: detail.base,
            since_ms: detail.since_ms,
            at_hand_ms: now,
            held: None,
            dead_letter: detail.dead_letter,
            ledger: detail.ledger,
        });
        self.line_up(id);
        Ok(())
    }

    /// The event of a pending delivery: from the log, or from the dead letter that is replayed.
    async fn event_of(
        &self,
        row: &PendingRow,
        detail: &PendingDetail,
    ) -> Result<Option<Arc<Carried>>, Refusal> {
        let found = self.bus.find(row.tenant.clone(), row.event_id).await;
        if let Some(record) = found.map_err(unreadable)? {
            let event = envelope::read(&record);
            let event =
                event.map_err(|error| Refusal::fault("Reading an event to deliver", &error))?;
            return Ok(Some(Arc::new(Carried::new(event))));
        }
        let Some(dead) = detail.dead_letter else {
            return Ok(None);
        };
        let letter = self.store.dead_letters().get(&row.tenant, dead).await;
        let Some(letter) = letter.map_err(store_fault)? else {
            return Ok(None);
        };
        let event = crate::dead_letters::event_of(&letter);
        Ok(event.map(|event| Arc::new(Carried::new(event))))
    }

    /// Lets the next of each lane go whose first is settled and written.
    pub(super) async fn advance_lanes(&mut self) -> Result<(), Refusal> {
        if self.writing.is_some() || self.lanes_to_advance.is_empty() {
            return Ok(());
        }
        for (id, lane) in std::mem::take(&mut self.lanes_to_advance) {
            let rows = self.store.deliveries();
            let found = rows
                .pending_of(id, Some(&lane), 0, LANE_PAGE)
                .await
                .map_err(store_fault)?;
            // What is settled, and what came behind, since the last write is not in the store yet.
            let unsettled = |row: &PendingRow| !self.flush.settled.contains(&(id, row.sequence));
            let next = found.into_iter().find(unsettled);
            let of_lane =
                |row: &PendingRow| row.subscription == id && row.lane.as_ref() == Some(&lane);
            let unwritten = self.flush.pending.iter().any(of_lane);
            match next {
                Some(row) if row.state == "behind" => {
                    self.resume(row).await?;
                }
                // It waits for its time, or for somebody to release it.
                Some(_) => {}
                None if unwritten => {
                    self.lanes_to_advance.insert((id, lane));
                }
                None => {
                    if let Some(queue) = self.queues.get_mut(&id) {
                        queue.lanes.remove(&lane);
                    }
                    self.line_up(id);
                }
            }
        }
        Ok(())
    }

    /// Forgets attempts that are older than they are kept for.
    pub(super) async fn forget_old(&mut self) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        if now - self.forgot_at_ms < ms(FORGET_EVERY) {
            return Ok(());
        }
        self.forgot_at_ms = now;
        let before = now - ms(self.config.attempts_retention);
        let forgotten = self
            .store
            .deliveries()
            .forget_attempts(before)
            .await
            .map_err(store_fault)?;
        let causes = self.store.causes().forget(before).await;
        let forgotten = forgotten + causes.map_err(store_fault)?;
        if forgotten > 0 {
            tracing::info!(forgotten, "old attempts and causes are forgotten");
        }
        Ok(())
    }
}

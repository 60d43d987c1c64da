//! Retry: what is due again, and what may follow behind it.

use std::collections::HashSet;
use std::sync::Arc;

use tidings_bus::{Partition, Read, ReadError};
use tidings_store::PendingRow;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Delivery, Origin, Queue};
use super::record::{self, FailedIn, PendingDetail};
use super::schedule::ms;
use super::target::Carried;
use crate::chat;
use crate::envelope;
use crate::events::unreadable;
use crate::manifests::store_fault;
use crate::publish::refusal::Refusal;
use crate::subscription::Subscription;

/// The most pending deliveries in memory.
pub(super) const AT_HAND: usize = 1_000;
/// The most of them of one subscription: whoever is slow does not keep others' from coming to hand.
pub(super) const MOST_OF_QUEUE: usize = 100;
/// A key behind which events wait though nothing of it is at hand is looked at this often: what it waited for may have
/// been dropped.
const LOOK_AT_LANE: std::time::Duration = std::time::Duration::from_secs(5);
/// So many keys are looked at so at once.
const LANES_AT_ONCE: usize = 64;
/// How many rows are read at once.
const PAGE: usize = 200;
/// So many of a lane are taken to hand at once.
const AHEAD: usize = 64;
/// So many rows of a lane are read at once to find those.
const LANE_PAGE: u32 = 128;
/// When a delivery is looked at again whose subscription gets nothing now.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// When one is looked at again whose subscription has enough at hand.
const SOON: std::time::Duration = std::time::Duration::from_millis(500);
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
        self.look_at_idle_lanes(now);
        let rows = self.store.deliveries();
        // Those at hand are among the due, and come first.
        let limit = u32::try_from(PAGE + self.at_hand.len()).unwrap_or(u32::MAX);
        let found = rows
            .due(self.share, now, limit)
            .await
            .map_err(store_fault)?;
        let all = found.len() < limit as usize;
        let next = rows.next_due(self.share, now).await.map_err(store_fault)?;
        self.next_due_ms = if all { next } else { Some(now) };
        for row in found {
            if self.at_hand.len() >= 2 * AT_HAND {
                self.next_due_ms = Some(now);
                break;
            }
            let key = (row.subscription, row.sequence);
            // A row that is about to be written, or removed, is newer than what was read.
            if !self.at_hand.contains(&key) && !self.is_in_motion(key) {
                self.resume(row).await?;
            }
        }
        Ok(())
    }

    fn look_at_idle_lanes(&mut self, now: i64) {
        let mut found = Vec::new();
        for (id, queue) in &mut self.queues {
            let mut idle = Vec::new();
            for (name, lane) in &mut queue.lanes {
                if found.len() + idle.len() == LANES_AT_ONCE {
                    break;
                }
                if lane.blocked && !lane.busy && now - lane.looked_at_ms > ms(LOOK_AT_LANE) {
                    lane.looked_at_ms = now;
                    idle.push((*id, name.clone()));
                }
            }
            found.extend(idle);
        }
        self.lanes_to_advance.extend(found);
    }

    pub(super) fn is_in_motion(&self, key: (Uuid, u64)) -> bool {
        [&self.flush, &*self.being_written]
            .into_iter()
            .any(|flush| {
                let mut pending = flush.pending.iter();
                flush.settled.contains(&key)
                    || pending.any(|row| (row.subscription, row.sequence) == key)
            })
    }

    /// Takes a pending delivery to hand, or puts it off when its subscription gets nothing now. What failed with it in
    /// one message comes with it.
    async fn resume(&mut self, row: PendingRow) -> Result<(), Refusal> {
        let detail = detail_of(&row)?;
        let known = self.in_force.get(row.subscription);
        let Some(subscription) = known.or_else(|| self.replays.copy(row.subscription)) else {
            self.pass_over(row, &detail);
            return Ok(());
        };
        let batched = subscription.delivery.batch.is_some();
        let together = match detail.batch.as_ref().filter(|_| batched) {
            Some(batch) => self.failed_with(&row, batch).await?,
            None => None,
        };
        let Some(together) = together else {
            let alone = vec![(row, without_batch(detail))];
            self.take_up(alone, &subscription).await;
            return Ok(());
        };
        let id = row.subscription;
        let is_elsewhere = |row: &PendingRow| self.at_hand.contains(&(id, row.sequence));
        let in_motion = self.in_motion_of(id);
        let moves = |row: &PendingRow| in_motion.contains(&row.sequence) || is_elsewhere(row);
        if together.iter().any(|(row, _)| moves(row)) {
            // Some of them are newer than what was read. They are looked at again.
            return Ok(());
        }
        self.take_up(together, &subscription).await;
        Ok(())
    }

    /// Numbers of a subscription of which something newer than what is read is on its way to the store.
    fn in_motion_of(&self, id: Uuid) -> HashSet<u64> {
        let flushes = [&self.flush, &*self.being_written];
        let keys = flushes.into_iter().flat_map(|flush| {
            let pending = flush.pending.iter();
            let pending = pending.map(|row| (row.subscription, row.sequence));
            pending.chain(flush.settled.iter().copied())
        });
        let of_it = keys.filter(|(subscription, _)| *subscription == id);
        of_it.map(|(_, sequence)| sequence).collect()
    }

    /// The rows of the batch that a row failed in; nothing if that is no more, so that it goes on without.
    async fn failed_with(
        &self,
        row: &PendingRow,
        batch: &FailedIn,
    ) -> Result<Option<Vec<(PendingRow, PendingDetail)>>, Refusal> {
        let id = row.subscription;
        let rows = self.store.deliveries();
        let lead = rows.pending_among(id, &[batch.lead]).await;
        let lead = lead.map_err(store_fault)?;
        let Some(lead) = lead.first().map(detail_of).transpose()? else {
            return Ok(None);
        };
        let members = lead.batch.map(|batch| batch.members).unwrap_or_default();
        if !members.contains(&row.sequence) {
            return Ok(None);
        }
        let found = rows.pending_among(id, &members).await;
        let mut together = Vec::with_capacity(members.len());
        for row in found.map_err(store_fault)? {
            let detail = detail_of(&row)?;
            let its_lead = detail.batch.as_ref().map(|batch| batch.lead);
            if row.state != "parked" && its_lead == Some(batch.lead) {
                together.push((row, detail));
            }
        }
        Ok(Some(together))
    }

    /// Takes pending deliveries to hand, all or none of them. What cannot be read now is put off.
    async fn take_up(
        &mut self,
        rows: Vec<(PendingRow, PendingDetail)>,
        subscription: &Arc<Subscription>,
    ) {
        let now = self.clock.now_ms();
        let queue = self.queue(subscription);
        if !queue.has_room() || queue.pending_at_hand() >= MOST_OF_QUEUE {
            let soon = queue.is_active() && rows.len() == 1;
            self.look_again(rows, if soon { SOON } else { AGAIN });
            return;
        }
        // First all that can fail: a part of a message must not go without the rest.
        let mut events = Vec::with_capacity(rows.len());
        for (row, detail) in &rows {
            match self.event_of(row, detail).await {
                Ok(event) => events.push(event),
                Err(refusal) => {
                    tracing::debug!(detail = refusal.detail, "deliveries are put off");
                    self.look_again(rows, AGAIN);
                    return;
                }
            }
        }
        for (row, event) in rows.into_iter().zip(events) {
            self.take_up_one(row, event, subscription, now);
        }
        self.line_up(subscription.id);
    }

    fn look_again(&mut self, rows: Vec<(PendingRow, PendingDetail)>, again: std::time::Duration) {
        let (at, alone) = (self.clock.now_ms() + ms(again), rows.len() == 1);
        let put_off = rows.into_iter().map(|(row, _)| PendingRow {
            next_at_ms: at,
            state: if alone { "waiting".into() } else { row.state },
            ..row
        });
        self.flush.pending.extend(put_off);
    }

    fn take_up_one(
        &mut self,
        (row, detail): (PendingRow, PendingDetail),
        event: Option<Arc<Carried>>,
        subscription: &Arc<Subscription>,
        now: i64,
    ) {
        let Some(event) = event else {
            tracing::warn!(
                subscription = %row.subscription, sequence = row.sequence, event_id = %row.event_id,
                "the log no longer holds an event that was to be delivered"
            );
            self.flush.settled.push((row.subscription, row.sequence));
            self.count_replayed(detail.replay, false);
            if let Some(lane) = row.lane {
                self.lanes_to_advance.insert((row.subscription, lane));
            }
            return;
        };
        self.at_hand.insert((row.subscription, row.sequence));
        let place = detail.at.and_then(|(topic, number, offset)| {
            let topic = topic.parse().ok()?;
            Some((self.stream(Partition { topic, number }), offset))
        });
        let queue = self.queue(subscription);
        if let Some(lane) = &row.lane {
            queue.lanes.entry(lane.clone()).or_default().blocked = true;
        }
        queue.push(Delivery {
            sequence: row.sequence,
            event,
            revision: detail.revision,
            lane: row.lane,
            origin: Origin::Pending,
            place,
            attempts: row.attempts,
            base: detail.base,
            since_ms: detail.since_ms,
            at_hand_ms: now,
            held: None,
            dead_letter: detail.dead_letter,
            batch: detail.batch,
            replay: detail.replay,
            ledger: detail.ledger,
        });
    }

    /// A delivery that has to wait, in one of the three states of its row.
    pub(super) fn pending_row(
        &self,
        delivery: &Delivery,
        id: Uuid,
        attempts: u32,
        state: &str,
        next_at_ms: i64,
    ) -> PendingRow {
        let at = delivery.place.map(|(stream, offset)| {
            let partition = &self.streams[stream].partition;
            (partition.topic.to_string(), partition.number, offset)
        });
        record::pending(delivery, id, at, attempts, state, next_at_ms)
    }

    /// The event of a pending delivery: from the log, or from the dead letter that is replayed.
    async fn event_of(
        &mut self,
        row: &PendingRow,
        detail: &PendingDetail,
    ) -> Result<Option<Arc<Carried>>, Refusal> {
        if let Some(event) = self.read_again(row, detail).await? {
            return Ok(Some(event));
        }
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

    /// The event of a pending delivery from where it stands. Those after it are read with it when its key's order is
    /// kept, or it failed in a batch: they are next, as a rule.
    async fn read_again(
        &mut self,
        row: &PendingRow,
        detail: &PendingDetail,
    ) -> Result<Option<Arc<Carried>>, Refusal> {
        let key = (row.tenant.clone(), row.event_id);
        if let Some(event) = self.again.get(&key) {
            return Ok(Some(event.clone()));
        }
        let Some((topic, number, offset)) = &detail.at else {
            return Ok(None);
        };
        let Ok(topic) = topic.parse() else {
            return Ok(None);
        };
        let others = row.lane.is_some() || detail.batch.is_some();
        let limit = if others { AHEAD } else { 1 };
        let partition = Partition {
            topic,
            number: *number,
        };
        let read = Read {
            from: *offset,
            tenant: Some(row.tenant.clone()),
            limit,
            scan: 4 * limit,
        };
        let stream = self.stream(partition.clone());
        if self.is_left_alone(stream) {
            let why = "its partition could not be read a moment ago".to_owned();
            return Err(unreadable(ReadError::Unavailable(why)));
        }
        let page = self.bus.read(partition, read).await.map_err(|error| {
            let refusal = unreadable(error);
            self.leave_alone(stream, &refusal);
            refusal
        })?;
        let mut found = None;
        for record in &page.records {
            let event = envelope::read(record)
                .map_err(|error| Refusal::fault("Reading an event to deliver", &error))?;
            let event = Arc::new(Carried::new(event));
            if event.event_id == row.event_id {
                found = Some(event);
            } else {
                self.again
                    .insert((event.tenant.clone(), event.event_id), event);
            }
        }
        Ok(found)
    }

    /// Lets the next of each lane go whose first is settled and written.
    pub(super) async fn advance_lanes(&mut self) -> Result<(), Refusal> {
        if self.writing.is_some() || self.lanes_to_advance.is_empty() {
            return Ok(());
        }
        let mut lanes: Vec<_> = std::mem::take(&mut self.lanes_to_advance)
            .into_iter()
            .collect();
        while let Some((id, lane)) = lanes.pop() {
            if let Err(refusal) = self.advance(id, &lane).await {
                self.lanes_to_advance.extend(lanes);
                self.lanes_to_advance.insert((id, lane));
                return Err(refusal);
            }
        }
        Ok(())
    }

    async fn advance(&mut self, id: Uuid, lane: &str) -> Result<(), Refusal> {
        if self
            .queues
            .get(&id)
            .is_some_and(|queue| queue.works_on(lane))
        {
            return Ok(());
        }
        let mut next = self.unsettled_of(id, lane).await?.into_iter().peekable();
        let of_lane =
            |row: &PendingRow| row.subscription == id && row.lane.as_deref() == Some(lane);
        let unwritten = self.flush.pending.iter().any(of_lane);
        match next.peek() {
            // It has just failed: what was read is older, and it waits for its time.
            Some(row) if self.is_in_motion((id, row.sequence)) => {}
            Some(row) if row.state == "behind" => {
                let behind: Vec<_> = next.take_while(|row| row.state == "behind").collect();
                for row in behind {
                    self.resume(row).await?;
                    let room = |queue: &Queue| {
                        let enough = queue.pending_at_hand() + 1 >= MOST_OF_QUEUE;
                        queue.has_room() && queue.works_on(lane) && !enough
                    };
                    if !self.queues.get(&id).is_some_and(room) {
                        break;
                    }
                }
            }
            // It waits for its time, or for somebody to release it.
            Some(_) => {}
            None if unwritten => {
                self.lanes_to_advance.insert((id, lane.to_owned()));
            }
            None => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.lanes.remove(lane);
                }
                self.line_up(id);
            }
        }
        Ok(())
    }

    /// The first rows of a lane that are not settled. What is settled since the last write is in the store yet.
    async fn unsettled_of(&self, id: Uuid, lane: &str) -> Result<Vec<PendingRow>, Refusal> {
        let mut after = 0;
        loop {
            let rows = self.store.deliveries();
            let found = rows.pending_of(id, Some(lane), after, LANE_PAGE).await;
            let found = found.map_err(store_fault)?;
            let full = found.len() == LANE_PAGE as usize;
            after = found.last().map_or(after, |row| row.sequence);
            let unsettled = found
                .into_iter()
                .filter(|row| !self.flush.settled.contains(&(id, row.sequence)));
            let unsettled: Vec<_> = unsettled.collect();
            if !unsettled.is_empty() || !full {
                return Ok(unsettled);
            }
        }
    }

    /// Forgets attempts, replays and chat messages that are older than they are kept for.
    pub(super) async fn forget_old(&mut self) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        // One does it for all.
        if self.share.number != 0 || now - self.forgot_at_ms < ms(FORGET_EVERY) {
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
        let replays = self.store.replays().forget(before).await;
        replays.map_err(store_fault)?;
        let messages = self.store.chat().forget(now - ms(chat::KEPT)).await;
        let messages = messages.map_err(store_fault)?;
        if messages > 0 {
            tracing::info!(messages, "old chat messages are forgotten");
        }
        Ok(())
    }
}

pub(super) fn detail_of(row: &PendingRow) -> Result<PendingDetail, Refusal> {
    serde_json::from_str(&row.detail)
        .map_err(|error| Refusal::fault("Reading a pending delivery", &error))
}

fn without_batch(detail: PendingDetail) -> PendingDetail {
    PendingDetail {
        batch: None,
        ..detail
    }
}

//! Retry: what is due again.

use std::collections::HashSet;
use std::sync::Arc;

use tidings_bus::{Partition, Read, ReadError};
use tidings_store::PendingRow;
use uuid::Uuid;

use super::Dispatcher;
use super::counted::AttemptOutcome;
use super::queue::{Delivery, Origin};
use super::read::readable;
use super::record::{self, FailedIn, PendingDetail};
use super::schedule::ms;
use super::standing::accounted;
use super::target::Carried;
use crate::clock::has_passed;
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::{State, Subscription};

/// So many pending deliveries may be in memory before each subscription is held to a few.
pub(super) const AT_HAND: usize = 1_000;
/// The most of them, so that those who are slow do not keep others' from coming to hand.
pub(super) const MOST_AT_HAND: usize = 10 * AT_HAND;
/// The most of them of one subscription: whoever is slow does not keep others' from coming to hand.
pub(super) const MOST_OF_QUEUE: usize = 100;
/// The most of one when many are at hand.
const FEW_OF_QUEUE: usize = 8;
/// Of so many subscriptions what is due is read at once.
const AT_ONCE: usize = 16;
/// So many subscriptions are looked at at once for what others have left.
const WAITING_PAGE: u32 = 1_000;
/// So many of a lane are taken to hand at once.
const AHEAD: usize = 64;
/// When a subscription is looked at again that gets nothing now, unless it changes.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// When one is looked at again that has enough at hand, unless it drains before.
const SOON: std::time::Duration = std::time::Duration::from_millis(500);
/// What is said of a delivery whose event cannot be read.
const DAMAGED: &str = "the log is damaged where the event stands";

/// Why there is no event to deliver.
struct Gone(&'static str);

impl Dispatcher {
    /// Takes to hand what is due, of some subscriptions at a time, the longest due first.
    pub(super) async fn due(&mut self) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        if has_passed(super::LOOK_AGAIN, self.looked_at_ms, now) {
            self.looked_at_ms = now;
            self.look_at_idle_lanes(now);
            self.look_who_waits().await?;
        }
        let chosen = self.whose_is_due(now);
        if chosen.is_empty() {
            return Ok(());
        }
        let taken = self.take_due(&chosen, now).await;
        if taken.is_err() {
            for (id, _) in chosen {
                self.waiting.sooner(id, now);
            }
        }
        taken
    }

    /// Finds some of the subscriptions of which others have left something pending in the store. True when those were the
    /// last of all, and the next time begins anew.
    pub(super) async fn look_who_waits(&mut self) -> Result<bool, Refusal> {
        let store = self.store.clone();
        let found = store.deliveries();
        let found = found.waiting(self.looked_up_to, WAITING_PAGE).await;
        let found = self.sound(found)?;
        let all = found.len() < WAITING_PAGE as usize;
        self.looked_up_to = found.last().map(|it| it.subscription).filter(|_| !all);
        for it in found.iter().filter(|it| it.is_of(self.share)) {
            self.waiting.sooner(it.subscription, it.next_at_ms);
        }
        Ok(all)
    }

    /// The subscriptions that something is due of and may come to hand, and how many rows are to be read of each. Of those
    /// that get nothing now nothing is read, however much they have.
    fn whose_is_due(&mut self, now: i64) -> Vec<(Uuid, u32)> {
        let mut chosen = Vec::new();
        let mut put_off = Vec::new();
        while chosen.len() < AT_ONCE && self.at_hand.len() < MOST_AT_HAND {
            let Some(id) = self.waiting.take(now) else {
                break;
            };
            match self.room_of(id) {
                Ok(rows) => chosen.push((id, u32::try_from(rows).unwrap_or(u32::MAX))),
                Err(wait) => put_off.push((id, now + ms(wait))),
            }
        }
        for (id, at_ms) in put_off {
            self.waiting.sooner(id, at_ms);
        }
        chosen
    }

    /// How many due rows of a subscription are worth reading, those at hand among them; or when to ask again.
    fn room_of(&mut self, id: Uuid) -> Result<usize, std::time::Duration> {
        let known = self.in_force.get(id);
        let Some(subscription) = known.or_else(|| self.replays.subscription(id)) else {
            let kept = self.in_force.is_unreadable(id);
            return if kept { Err(AGAIN) } else { Ok(MOST_OF_QUEUE) };
        };
        if subscription.state != State::Active {
            return Err(AGAIN);
        }
        let most = if self.at_hand.len() < AT_HAND {
            MOST_OF_QUEUE
        } else {
            FEW_OF_QUEUE
        };
        let Some(queue) = self.queues.get(&id) else {
            return Ok(most);
        };
        let has = queue.pending_at_hand();
        if !queue.has_room() || has >= most {
            self.full.insert(id);
            return Err(SOON);
        }
        Ok(most + has + queue.in_flight + self.in_motion_of(id).len())
    }

    async fn take_due(&mut self, chosen: &[(Uuid, u32)], now: i64) -> Result<(), Refusal> {
        let found = self.store.deliveries().due(chosen, now).await;
        let found = found.map_err(store_fault)?;
        for (id, limit) in chosen {
            let name = id.to_string();
            let of_it = found.iter().filter(|row| row.subscription == name);
            let (due, later): (Vec<_>, Vec<_>) = of_it.partition(|row| row.next_at_ms <= now);
            let in_motion = self.in_motion_of(*id);
            let (more, mut taken) = (due.len() >= *limit as usize, false);
            for it in due {
                let sequence = it.sequence.unsigned_abs();
                // A row that is about to be written, or removed, is newer than what was read.
                if self.at_hand.contains(&(*id, sequence)) || in_motion.contains(&sequence) {
                    continue;
                }
                taken = true;
                match &it.row {
                    Ok(row) => self.resume(row.clone()).await?,
                    Err(error) => self.put_aside(it, error).await?,
                }
            }
            let next = match later.first() {
                _ if more && taken => Some(now),
                _ if more => Some(now + ms(SOON)),
                later => later.map(|row| row.next_at_ms),
            };
            if let Some(next) = next {
                self.waiting.sooner(*id, next);
            }
        }
        Ok(())
    }

    /// A queue that was full has room again, perhaps.
    pub(super) fn has_drained(&mut self, id: Uuid) {
        let queue = self.queues.get(&id);
        let drained = queue.is_none_or(|it| it.has_room() && it.pending_at_hand() < FEW_OF_QUEUE);
        if drained && self.full.remove(&id) {
            self.waiting.wake(id, self.clock.now_ms());
        }
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
    pub(super) async fn resume(&mut self, row: PendingRow) -> Result<(), Refusal> {
        let detail = match detail_of(&row) {
            Ok(detail) => detail,
            Err(refusal) => {
                self.put_aside_unread(row, &refusal);
                return Ok(());
            }
        };
        let known = self.in_force.get(row.subscription);
        let Some(subscription) = known.or_else(|| self.replays.subscription(row.subscription))
        else {
            if !self.in_force.is_unreadable(row.subscription) {
                self.pass_over(row, &detail);
            }
            return Ok(());
        };
        if self.ends_skipped(&subscription, &row) {
            return Ok(());
        }
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
    pub(super) fn in_motion_of(&self, id: Uuid) -> HashSet<u64> {
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
        &mut self,
        row: &PendingRow,
        batch: &FailedIn,
    ) -> Result<Option<Vec<(PendingRow, PendingDetail)>>, Refusal> {
        let id = row.subscription;
        let store = self.store.clone();
        let rows = store.deliveries();
        let lead = self.sound(rows.pending_among(id, &[batch.lead]).await)?;
        let Some(Ok(lead)) = lead.first().map(detail_of) else {
            return Ok(None);
        };
        let members = lead.batch.map(|batch| batch.members).unwrap_or_default();
        if !members.contains(&row.sequence) {
            return Ok(None);
        }
        let found = rows.pending_among(id, &members).await;
        let mut together = Vec::with_capacity(members.len());
        for row in self.sound(found)? {
            // One that cannot be read is put off when its own time has come.
            let Ok(detail) = detail_of(&row) else {
                continue;
            };
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
            let again = if queue.is_active() { SOON } else { AGAIN };
            self.full.insert(subscription.id);
            self.waiting.sooner(subscription.id, now + ms(again));
            if let [(row, detail)] = &rows[..]
                && row.state == "behind"
            {
                // Nothing stands before it any more, and it is found by its time.
                let row = let_go(row.clone(), detail.clone(), now);
                self.flush.pending.push(row);
            }
            return;
        }
        // First all that can fail: a part of a message must not go without the rest.
        let mut events = Vec::with_capacity(rows.len());
        for (row, detail) in &rows {
            match self.event_of(row, detail).await {
                Ok(event) => events.push(event),
                Err(refusal) => {
                    tracing::debug!(detail = refusal.detail, "deliveries are put off");
                    self.leave_for_later(rows);
                    return;
                }
            }
        }
        for (row, event) in rows.into_iter().zip(events) {
            self.take_up_one(row, event, subscription, now);
        }
        self.line_up(subscription.id);
    }

    /// Behind what can be read meanwhile. One that others of its key stand before stays where it is: they let it go.
    fn leave_for_later(&mut self, rows: Vec<(PendingRow, PendingDetail)>) {
        if let [(row, _)] = &rows[..]
            && let Some(lane) = &row.lane
            && let Some(queue) = self.queues.get(&row.subscription)
            && queue.works_on(lane)
        {
            return;
        }
        let (at, alone) = (self.clock.now_ms() + ms(AGAIN), rows.len() == 1);
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
        event: Result<Arc<Carried>, Gone>,
        subscription: &Arc<Subscription>,
        now: i64,
    ) {
        let event = match event {
            Ok(event) => event,
            Err(Gone(error)) => {
                tracing::warn!(
                    subscription = %row.subscription, sequence = row.sequence, event_id = %row.event_id, error,
                    "an event that was to be delivered is not"
                );
                self.end_without_attempt(&row, error, now);
                self.flush.settled.push((row.subscription, row.sequence));
                if let Some(lane) = row.lane {
                    self.lanes_to_advance.insert((row.subscription, lane));
                }
                return;
            }
        };
        self.at_hand.insert((row.subscription, row.sequence));
        let place = detail.at.clone().and_then(|(topic, number, offset)| {
            let topic = topic.parse().ok()?;
            Some((self.stream(Partition { topic, number }), offset))
        });
        let queue = self.queue(subscription);
        let ledger = accounted(&row, &detail, queue.standing.cause(), now);
        if let Some(lane) = &row.lane {
            queue.lanes.entry(lane.clone()).or_default().blocked = true;
        }
        queue.push(Delivery {
            revision: detail.revision,
            lane: row.lane,
            place,
            attempts: row.attempts,
            base: detail.base,
            since_ms: detail.since_ms,
            dead_letter: detail.dead_letter,
            batch: detail.batch,
            replay: detail.replay,
            ledger,
            ..Delivery::new(row.sequence, event, Origin::Pending, now)
        });
    }

    /// A pending delivery ends though nothing was sent: it is counted, and its attempts say why.
    pub(super) fn end_without_attempt(&mut self, row: &PendingRow, error: &str, now: i64) {
        // A detail that cannot be read is no reason to keep quiet.
        let detail = detail_of(row).unwrap_or_default();
        self.part.counted().attempt(AttemptOutcome::GaveUp);
        self.count_replayed(detail.replay, false);
        let attempt = record::without_attempt(row, detail, error, now);
        self.flush.attempts.push(attempt);
    }

    /// A delivery that has to wait, in one of the three states of its row: when it is due, and since when it waits.
    pub(super) fn pending_row(
        &self,
        delivery: &Delivery,
        id: Uuid,
        attempts: u32,
        state: &str,
        times: (i64, i64),
    ) -> PendingRow {
        let at = delivery.place.map(|(stream, offset)| {
            let partition = &self.streams[stream].partition;
            (partition.topic.to_string(), partition.number, offset)
        });
        record::pending(delivery, id, at, attempts, state, times)
    }

    /// The event of a pending delivery: from the log, or from the dead letter that is replayed.
    async fn event_of(
        &mut self,
        row: &PendingRow,
        detail: &PendingDetail,
    ) -> Result<Result<Arc<Carried>, Gone>, Refusal> {
        if let Some(event) = self.read_again(row, detail).await? {
            return Ok(Ok(event));
        }
        let gone = match self.bus.find(row.tenant.clone(), row.event_id).await {
            Ok(Some(record)) => match readable(&record) {
                Some(event) => return Ok(Ok(event)),
                None => Gone(DAMAGED),
            },
            Ok(None) => Gone("the log no longer holds the event"),
            Err(error @ ReadError::Damaged { .. }) => {
                self.tell_damaged(&error);
                Gone(DAMAGED)
            }
            Err(error) => return Err(unreadable(error)),
        };
        let Some(dead) = detail.dead_letter else {
            return Ok(Err(gone));
        };
        let letter = self.store.dead_letters().get(&row.tenant, dead).await;
        let letter = letter.map_err(store_fault)?;
        let event = letter.as_ref().and_then(crate::dead_letters::event_of);
        Ok(event.map(|event| Arc::new(Carried::new(event))).ok_or(gone))
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
        let page = match self.bus.read(partition, read).await {
            Ok(page) => page,
            Err(error @ ReadError::Damaged { offset, .. }) => {
                self.tell_unread(stream, offset, &error);
                return Ok(None);
            }
            Err(error) => {
                let refusal = unreadable(error);
                self.leave_alone(stream, &refusal);
                return Err(refusal);
            }
        };
        let mut found = None;
        for event in page.records.iter().filter_map(readable) {
            if event.event_id == row.event_id {
                found = Some(event);
            } else {
                self.again
                    .insert((event.tenant.clone(), event.event_id), event);
            }
        }
        Ok(found)
    }
}

/// A delivery that waited behind others or was parked, and waits no more.
pub(crate) fn let_go(row: PendingRow, mut detail: PendingDetail, now_ms: i64) -> PendingRow {
    detail.ledger = accounted(&row, &detail, None, now_ms);
    detail.left_ms = now_ms;
    PendingRow {
        state: "waiting".into(),
        next_at_ms: now_ms,
        detail: serde_json::to_string(&detail).expect("plain members become JSON"),
        ..row
    }
}

pub(crate) fn detail_of(row: &PendingRow) -> Result<PendingDetail, Refusal> {
    serde_json::from_str(&row.detail)
        .map_err(|error| Refusal::fault("Reading a pending delivery", &error))
}

fn without_batch(detail: PendingDetail) -> PendingDetail {
    PendingDetail {
        batch: None,
        ..detail
    }
}

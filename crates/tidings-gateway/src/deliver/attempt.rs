//! Schedule and hand over: whose turn it is, what may go, and what an attempt came to.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tidings_event::TenantId;
use tidings_store::{Reopened, storable};
use tokio::task::JoinError;
use uuid::Uuid;

use super::Dispatcher;
use super::counted::AttemptOutcome;
use super::gather::Choice;
use super::queue::{Delivery, Held, Origin, StreamId};
use super::record::{self, FailedIn, InBatch, Made};
use super::schedule::{HELD, ms, next_wait};
use super::target::{Handover, Outcome, Verdict, batch};
use crate::subscription::OnExhausted;

/// The most of one subscription once half of its tenant's are on their way, so that one silent receiver cannot
/// take all of them either.
const MOST_WHEN_CROWDED: usize = 8;

/// An attempt that has ended.
pub(super) struct Ended {
    subscription: Uuid,
    /// As it was when it was sent.
    pub(super) revision: u32,
    pub(super) tenant: TenantId,
    pub(super) host: String,
    /// What went in one message, by its numbers: one, where the subscription takes no batches.
    deliveries: Vec<Delivery>,
    pub(super) made: Made,
}

impl Ended {
    /// Each delivery with what is written down of its attempt.
    fn each(self) -> impl Iterator<Item = (Delivery, Made)> {
        let others = self.deliveries.len() > 1;
        let shortened = others.then(|| self.made.clone().shortened());
        let mut whole = Some(self.made);
        let deliveries = self.deliveries.into_iter();
        deliveries.map_while(move |delivery| {
            let made = whole.take().or_else(|| shortened.clone());
            made.map(|made| (delivery, made))
        })
    }

    /// Whether it was none: the target was not asked, for want of something of our own.
    fn is_excused(&self) -> bool {
        self.made.outcome.verdict == Verdict::Unable
    }

    /// Those that are too old to be tried again, and the rest. Where keys are parked, what is of one key stays together.
    fn parted(self, too_old: impl Fn(&Delivery) -> bool, parks: bool) -> (Self, Self) {
        let old = self.deliveries.iter().filter(|it| parks && too_old(it));
        let keys: HashSet<String> = old.filter_map(|it| it.lane.clone()).collect();
        let of_key = |it: &Delivery| it.lane.as_ref().is_some_and(|lane| keys.contains(lane));
        let goes = |it: &Delivery| too_old(it) || of_key(it);
        let (deliveries, rest) = self.deliveries.into_iter().partition(goes);
        let old = Self {
            subscription: self.subscription,
            revision: self.revision,
            tenant: self.tenant.clone(),
            host: self.host.clone(),
            deliveries,
            made: self.made.clone(),
        };
        let rest = Self {
            deliveries: rest,
            ..self
        };
        (old, rest)
    }
}

/// What keeps a queue from going on.
enum Hindrance {
    /// Nothing to send, or something that ends by itself.
    Idle,
    /// Nothing before this time, in ms since 1970.
    Until(i64),
}

impl Dispatcher {
    /// Puts a queue in line, unless it stands there or has nothing to send.
    pub(super) fn line_up(&mut self, id: Uuid) {
        if let Some(queue) = self.queues.get_mut(&id)
            && !queue.lined_up
            && queue.is_active()
            && !queue.backlog.is_empty()
            && queue.in_flight < queue.subscription.delivery.max_in_flight
        {
            queue.lined_up = true;
            self.turns.push(&queue.subscription.tenant, id);
        }
    }

    /// Sends all that may go, tenants and queues by turns.
    pub(super) fn start(&mut self) {
        // What was changed before an event was published may have been changed since the turn began.
        self.take_changes();
        let now = self.clock.now_ms();
        while let Some((at, id)) = self.wakes.first().copied() {
            if at > now {
                break;
            }
            self.wakes.pop_first();
            self.line_up(id);
        }
        while self.on_the_way.has_room() {
            let may = |tenant: &TenantId| self.on_the_way.has_room_for(tenant);
            let Some(id) = self.turns.pop(may) else {
                break;
            };
            match self.next_of(id, now) {
                Ok(deliveries) => {
                    self.announced.goes_on(id);
                    self.send(id, deliveries, now);
                    self.line_up(id);
                }
                Err(Hindrance::Idle) => {}
                Err(Hindrance::Until(at)) => {
                    if at - now > ms(super::LOOK_AGAIN) {
                        self.stand_aside(id);
                    }
                    self.tell_standstill(id, at);
                    self.wakes.insert((at, id));
                }
            }
        }
    }

    /// The next of a queue that may go now, in one message.
    fn next_of(&mut self, id: Uuid, now: i64) -> Result<Vec<Delivery>, Hindrance> {
        let (beside, not_before) = self.of_the_original(id, now);
        let queue = self.queues.get_mut(&id).ok_or(Hindrance::Idle)?;
        queue.lined_up = false;
        let share = if self.on_the_way.is_crowded(&queue.subscription.tenant) {
            MOST_WHEN_CROWDED
        } else {
            usize::MAX
        };
        // It has attempts on their way then, and the end of one puts it in line again.
        let most = queue.subscription.delivery.max_in_flight.min(share);
        if !queue.is_active() {
            return Err(Hindrance::Idle);
        }
        if queue.in_flight + queue.of_replays + beside >= most {
            queue.standing.because(Some(Held::RateLimit), now);
            return Err(Hindrance::Idle);
        }
        if let Some(until) = not_before {
            queue.standing.because(Some(Held::RateLimit), now);
            return Err(Hindrance::Until(until));
        }
        let chosen = queue.choose(now);
        if !matches!(chosen, Choice::Now(_)) {
            queue.standing.because(None, now);
        }
        let chosen = match chosen {
            Choice::Nothing => return Err(Hindrance::Idle),
            Choice::Later(until) => return Err(Hindrance::Until(until)),
            Choice::Now(chosen) => chosen,
        };
        let rate = queue.subscription.delivery.rate;
        if let Some(Err(until)) = rate.map(|rate| queue.pace.ready(rate, now)) {
            queue.standing.because(Some(Held::RateLimit), now);
            return Err(Hindrance::Until(until));
        }
        let host = queue.subscription.target.host().to_owned();
        let breaker = self
            .breakers
            .get_mut(&(queue.subscription.tenant.clone(), host));
        if let Some(breaker) = breaker
            && let Err(until) = breaker.admit(now)
        {
            queue.standing.because(Some(breaker.holds_for()), now);
            return Err(Hindrance::Until(until));
        }
        if let Some(rate) = rate {
            queue.pace.take(rate, now);
        }
        let mut deliveries = queue.take(&chosen);
        let stood = queue.standing.until(now);
        for delivery in &mut deliveries {
            delivery.account(stood, now);
        }
        let full = queue.in_flight >= queue.subscription.delivery.max_in_flight;
        let held = Some(Held::RateLimit).filter(|_| full);
        queue.standing.because(held, now);
        Ok(deliveries)
    }

    /// Hands over what goes in one message, in a task of its own.
    fn send(&mut self, id: Uuid, deliveries: Vec<Delivery>, now: i64) {
        let (Some(queue), Some(first)) = (self.queues.get(&id), deliveries.first()) else {
            return;
        };
        let subscription = queue.subscription.clone();
        let tenant = subscription.tenant.clone();
        let item = |it: &Delivery| (it.event.clone(), it.number());
        let batched = subscription.delivery.batch.is_some();
        let handover = Handover {
            event: first.event.clone(),
            sequence: first.number(),
            replayed: first.is_replayed(),
            replay: first.replay.map(|replay| replay.id),
            batch: batched.then(|| deliveries.iter().map(item).collect()),
            now_ms: now,
            subscription,
        };
        self.count_at_original(&handover.subscription, now, true);
        self.on_the_way.begins(&tenant, &deliveries);
        let (target, revision) = (self.target.clone(), handover.subscription.revision);
        let host = handover.subscription.target.host().to_owned();
        let batch = in_batch(&handover);
        self.in_flight.spawn(async move {
            let begun = Instant::now();
            let handed_over = AssertUnwindSafe(async { target.hand_over(handover).await });
            let outcome = handed_over.catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(subscription = %id, "a target panicked");
                Outcome::failed("handing it over failed on our side", false)
            });
            let made = Made {
                outcome,
                started_at_ms: now,
                latency_ms: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
                batch,
            };
            Ended {
                subscription: id,
                revision,
                tenant,
                host,
                deliveries,
                made,
            }
        });
    }

    /// Takes note of what an attempt came to.
    pub(super) fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let mut ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Shutdown cancels, and a panic of a target is caught in the task. What it was comes again after a restart.
                tracing::error!(%error, "an attempt did not come to an end");
                return;
            }
        };
        let now = self.clock.now_ms();
        self.on_the_way.ends(&ended.tenant, &ended.deliveries);
        for delivery in &mut ended.deliveries {
            ended.made.account(&mut delivery.ledger);
        }
        self.note_host(&ended, now);
        let id = ended.subscription;
        let Some(queue) = self.queues.get_mut(&id) else {
            // It was deleted meanwhile.
            for delivery in &ended.deliveries {
                self.tick_off(id, delivery.origin);
            }
            return;
        };
        queue.in_flight -= 1;
        let subscription = queue.subscription.clone();
        let lanes = ended.deliveries.iter().filter_map(|it| it.lane.clone());
        let lanes: Vec<String> = lanes.collect();
        for lane in &lanes {
            queue.lanes.entry(lane.clone()).or_default().busy = false;
        }
        match ended.made.outcome.verdict {
            Verdict::Delivered => {
                if queue.failing_since_ms.take().is_some() {
                    self.moved.insert(id);
                }
                self.delivered(ended);
            }
            Verdict::Failed { .. } | Verdict::Unasked => self.failed(ended, now),
            Verdict::Unable => self.try_again(ended, HELD, now),
            Verdict::Gone if subscription.is_shadow() => self.give_up(ended, now),
            Verdict::Gone => {
                let reason = "the receiver answered with status 410";
                self.disable(subscription.addressed(), &ended, reason);
                self.put_off(ended, (now + ms(super::LOOK_AGAIN), now));
            }
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            for lane in &lanes {
                queue.forget_idle(lane);
            }
        }
        self.count_at_original(&subscription, now, false);
        self.has_drained(id);
        self.line_up(id);
    }

    fn delivered(&mut self, ended: Ended) {
        let id = ended.subscription;
        for (delivery, made) in ended.each() {
            self.note(id, &delivery, made, AttemptOutcome::Delivered);
            if let Some(dead) = delivery.dead_letter {
                self.flush.dead_states.push((dead, "closed"));
            }
            self.count_replayed(delivery.replay, true);
            self.settle(id, &delivery);
        }
    }

    fn failed(&mut self, ended: Ended, now: i64) {
        let id = ended.subscription;
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let rules = &queue.subscription.delivery;
        let schedule = rules
            .schedule
            .as_deref()
            .unwrap_or(&self.config.retry_schedule);
        // What goes in one message has been tried equally often.
        let made = ended.deliveries.iter().map(|it| it.attempts + 1 - it.base);
        let wait = next_wait(schedule, made.max().unwrap_or(1), jitter());
        let asked = match ended.made.outcome.verdict {
            Verdict::Failed { retry_after, .. } => retry_after,
            _ => None,
        };
        let since = *queue.failing_since_ms.get_or_insert_with(|| {
            self.moved.insert(id);
            now
        });
        if now - since > ms(self.config.disable_after) && queue.subscription.replay_of.is_none() {
            self.disable(id, &ended, "nothing got through for too long");
        }
        match wait {
            Some(wait) => self.try_again(ended, wait.max(asked.unwrap_or_default()), now),
            None => self.give_up(ended, now),
        }
    }

    /// It is to be tried again after a wait. What is too old by then is given up.
    fn try_again(&mut self, ended: Ended, wait: Duration, now: i64) {
        let Some(queue) = self.queues.get(&ended.subscription) else {
            return;
        };
        let rules = &queue.subscription.delivery;
        let (max_age, parks) = (rules.max_age, rules.on_exhausted == OnExhausted::Park);
        let next = now + ms(wait);
        let too_old = |it: &Delivery| max_age.is_some_and(|most| next - it.since_ms > ms(most));
        let rest = if ended.deliveries.iter().any(too_old) {
            let (old, rest) = ended.parted(too_old, parks);
            self.give_up(old, now);
            rest
        } else {
            ended
        };
        self.put_off(rest, (next, now));
    }

    /// It is to be tried again at a time, and waits from now on, both in ms since 1970: what was in one message goes in one
    /// again. What was no attempt is not written down as one.
    fn put_off(&mut self, ended: Ended, (at_ms, now): (i64, i64)) {
        let id = ended.subscription;
        let queue = self.queues.get(&id);
        let batched = queue.is_some_and(|queue| queue.subscription.delivery.batch.is_some());
        let mut members: Vec<u64> = ended.deliveries.iter().map(|it| it.sequence).collect();
        let lead = members.first().copied().filter(|_| batched);
        let mut keys: HashSet<String> = HashSet::new();
        let excused = ended.is_excused();
        for (mut delivery, made) in ended.each() {
            if !excused {
                self.note(id, &delivery, made, AttemptOutcome::Failed);
            }
            let attempts = delivery.attempts + u32::from(!excused);
            // The others of a key stand behind its first, should they have to go singly.
            let first = delivery.lane.clone().is_none_or(|lane| keys.insert(lane));
            let state = if first { "waiting" } else { "behind" };
            delivery.batch = lead.map(|lead| FailedIn {
                lead,
                members: std::mem::take(&mut members),
            });
            self.leave_pending(id, &delivery, attempts, state, (at_ms, now));
        }
    }

    /// Leaves a delivery to the store from now on until it is due, both in ms since 1970, and with it those behind it.
    fn leave_pending(
        &mut self,
        id: Uuid,
        delivery: &Delivery,
        attempts: u32,
        state: &str,
        times: (i64, i64),
    ) {
        let row = self.pending_row(delivery, id, attempts, state, times);
        self.flush.pending.push(row);
        self.at_hand.remove(&(id, delivery.sequence));
        self.tick_off(id, delivery.origin);
        self.block_lane(id, delivery);
    }

    /// Its attempts are used up: it is parked with its key, or becomes a dead letter.
    fn give_up(&mut self, ended: Ended, now: i64) {
        let id = ended.subscription;
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let subscription = queue.subscription.clone();
        let parks = subscription.delivery.on_exhausted == OnExhausted::Park;
        let mut parked: HashSet<String> = HashSet::new();
        for (mut delivery, made) in ended.each() {
            let attempts = delivery.attempts + 1;
            delivery.batch = None;
            if let (true, Some(lane)) = (parks, delivery.lane.clone()) {
                if parked.insert(lane) {
                    self.note(id, &delivery, made, AttemptOutcome::GaveUp);
                    self.leave_pending(id, &delivery, attempts, "parked", (now, now));
                } else {
                    // It goes behind the one of its key that it came with, and has its schedule before it then.
                    self.note(id, &delivery, made, AttemptOutcome::Failed);
                    delivery.base = attempts;
                    self.leave_pending(id, &delivery, attempts, "behind", (now, now));
                }
                continue;
            }
            let error = made.outcome.error.clone().unwrap_or_default();
            self.note(id, &delivery, made, AttemptOutcome::GaveUp);
            // What has no number in the subscription could not be told from others there.
            let buried = !subscription.is_shadow() && delivery.number() > 0;
            match delivery.dead_letter {
                Some(id) => self.flush.reopened.push(Reopened {
                    id,
                    attempts,
                    last_error: storable(error),
                }),
                None if buried => {
                    self.bury(subscription.addressed(), &delivery, attempts, error, now);
                }
                None => {}
            }
            self.count_replayed(delivery.replay, false);
            self.settle(id, &delivery);
        }
    }

    /// Writes a dead letter.
    pub(super) fn bury(
        &mut self,
        id: Uuid,
        delivery: &Delivery,
        attempts: u32,
        error: String,
        now: i64,
    ) {
        let letter = self.clock.new_id();
        let row = record::dead_letter(delivery, id, letter, attempts, error, now);
        self.flush.dead.push(row);
        self.part.counted().dead_letter();
    }

    /// Counts an attempt, logs it, and has its row written.
    fn note(&mut self, id: Uuid, delivery: &Delivery, made: Made, came_to: AttemptOutcome) {
        self.part.counted().attempt(came_to);
        log(id, delivery, &made, came_to.as_str());
        let row = record::attempt(delivery, id, made, came_to);
        self.flush.attempts.push(row);
    }

    /// Nothing more is to be done for a delivery; its lane goes on.
    pub(super) fn settle(&mut self, id: Uuid, delivery: &Delivery) {
        self.at_hand.remove(&(id, delivery.sequence));
        if delivery.origin == Origin::Pending {
            self.flush.settled.push((id, delivery.sequence));
            if let Some(lane) = &delivery.lane {
                self.lanes_to_advance.insert((id, lane.clone()));
            }
        } else {
            self.tick_off(id, delivery.origin);
        }
    }

    /// Others of its key wait behind it, in the store.
    fn block_lane(&mut self, id: Uuid, delivery: &Delivery) {
        let (Some(lane), Some(queue)) = (&delivery.lane, self.queues.get_mut(&id)) else {
            return;
        };
        let now = self.clock.now_ms();
        let stood = queue.standing.until(now);
        for mut behind in queue.block(lane) {
            if behind.origin == Origin::Pending {
                // Its row says so already.
                self.at_hand.remove(&(id, behind.sequence));
                continue;
            }
            behind.account(stood, now);
            let row = self.pending_row(&behind, id, 0, "behind", (now, now));
            self.flush.pending.push(row);
            self.tick_off(id, behind.origin);
        }
    }

    /// A delivery that came from the log is settled or has a row of its own.
    pub(super) fn tick_off(&mut self, id: Uuid, origin: Origin) {
        match origin {
            Origin::Pending => {}
            Origin::Shared(stream, offset) => self.settle_shared(stream, offset),
            Origin::Own(stream, offset) => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.tick_off(stream, offset);
                }
            }
        }
        if self.queues.contains_key(&id) {
            self.moved.insert(id);
        }
    }

    pub(super) fn settle_shared(&mut self, stream: StreamId, offset: u64) {
        let outstanding = &mut self.streams[stream].outstanding;
        if let Some(count) = outstanding.get_mut(&offset) {
            *count -= 1;
            if *count == 0 {
                outstanding.remove(&offset);
            }
        }
    }
}

/// The message that a hand-over goes in with others.
fn in_batch(handover: &Handover) -> Option<InBatch> {
    let events = handover.batch.as_ref()?;
    let ids = events.iter().map(|(event, _)| event.event_id);
    Some(InBatch {
        id: batch::message_id(ids, handover.subscription.addressed()),
        events: events.len(),
    })
}

/// 0 to 1. Not for secrets: it only spreads retries.
fn jitter() -> f64 {
    let [byte] = crate::secrets::random::<1>();
    f64::from(byte) / 255.0
}

/// The one wide line of an attempt.
fn log(id: Uuid, delivery: &Delivery, made: &Made, came_to: &'static str) {
    let outcome = &made.outcome;
    tracing::info!(
        tenant = delivery.event.tenant.as_str(),
        subscription = %id,
        sequence = delivery.sequence,
        event_id = %delivery.event.event_id,
        event_type = delivery.event.event_type.as_str(),
        attempt = delivery.attempts + 1,
        outcome = came_to,
        status = outcome.status,
        error = outcome.error.as_deref(),
        latency_ms = made.latency_ms,
        batch = made.batch.as_ref().map(|batch| batch.id.as_str()),
        "attempt"
    );
}

//! Replay: history and dead letters go out again, at the rate that was asked for.
//!
//! What is to be sent becomes rows of pending deliveries, in the flush that moves the replay's place, and then goes
//! the way of everything that is due. History has rows and a queue under the replay's own id: it touches neither the
//! cursor nor the numbers of its subscription, but shares its rate and what its receiver takes at once.

mod letters;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidings_event::Event;
use tidings_store::{PendingRow, ReplayRow};
use uuid::Uuid;

use super::read::LEFT_ALONE;
use super::record::{PendingDetail, Replayed};
use super::schedule::{is_to_come, ms};
use super::{Dispatcher, LOOK_AGAIN};
use crate::clock::has_passed;
use crate::publish::refusal::Refusal;
use crate::replays::history::{self, History, Place};
use crate::replays::{Plan, Routing};
use crate::subscription::{Rate, State, Subscription};

/// The most of a replay that are neither taken nor given up.
const MOST: u64 = 256;
/// How much is read of the log at once.
const PAGE: usize = 200;
/// How far ahead of its rate a replay is made ready.
const AHEAD: Duration = Duration::from_secs(2);
/// When a delivery of a replay that does not run is looked at again, unless that is resumed. Longer than any wait
/// between attempts.
const MUCH_LATER: Duration = Duration::from_hours(10 * 24);

/// Why a replay ends that nobody has cancelled.
const GONE: &str = "there is no subscription any more to send to";

/// The replays that run.
#[derive(Default)]
pub(super) struct Replaying {
    running: BTreeMap<Uuid, Running>,
    /// Those that do not any more, and have attempts on their way.
    ending: Vec<Uuid>,
    /// Subscriptions that were deleted, and may leave something behind that was to be sent again.
    gone: VecDeque<Uuid>,
    looked_at_ms: i64,
}

/// A replay that runs.
struct Running {
    row: ReplayRow,
    plan: Plan,
    place: Place,
    sent: u64,
    ended: u64,
    /// When the next may go, by its rate.
    next_at_us: i64,
    /// It could not go on a moment ago.
    left_alone_until_ms: i64,
    /// What history is sent through: the subscription under the replay's id, with a queue of its own.
    through: Option<Arc<Subscription>>,
}

impl Replaying {
    /// A subscription is deleted.
    pub(super) fn forget(&mut self, subscription: Uuid) {
        if !self.gone.contains(&subscription) {
            self.gone.push_back(subscription);
        }
    }

    /// What the replay with this id sends history through.
    pub(super) fn subscription(&self, id: Uuid) -> Option<Arc<Subscription>> {
        self.running.get(&id)?.through.clone()
    }

    /// The replays that share what a subscription's receiver takes.
    fn beside(&self, subscription: Uuid) -> Vec<Uuid> {
        let of = |running: &Running| {
            let replay_of = running.through.as_ref().and_then(|it| it.replay_of);
            replay_of.is_some_and(|it| it.of == subscription && !it.shadow)
        };
        let beside = self.running.iter().filter(|(_, running)| of(running));
        beside.map(|(id, _)| *id).collect()
    }
}

impl Running {
    /// How many may be made ready now.
    fn room(&self, now: i64) -> usize {
        let outstanding = self.sent.saturating_sub(self.ended);
        let room = MOST.saturating_sub(outstanding).min(PAGE as u64);
        let room = usize::try_from(room).unwrap_or(PAGE);
        let Some(rate) = self.plan.rate() else {
            return room;
        };
        let ahead = (now + ms(AHEAD)).saturating_mul(1_000);
        let slots = (ahead - self.begins_us(rate, now)).max(0) / (1_000_000 / i64::from(rate));
        room.min(usize::try_from(slots).unwrap_or(0))
    }

    /// When the next may go, in µs since 1970. A time that is further ahead than anything is made ready was set before the
    /// clock was set back.
    fn begins_us(&self, rate: u32, now: i64) -> i64 {
        let begins = self.next_at_us.max(now.saturating_mul(1_000));
        let most = AHEAD + Duration::from_secs(1) / rate;
        if is_to_come(begins / 1_000, most, now) {
            begins
        } else {
            now.saturating_mul(1_000)
        }
    }

    /// When the next may go, in ms since 1970.
    fn next_at(&mut self, now: i64) -> i64 {
        let Some(rate) = self.plan.rate() else {
            return now;
        };
        let at = self.begins_us(rate, now);
        self.next_at_us = at + 1_000_000 / i64::from(rate);
        at / 1_000
    }
}

impl Dispatcher {
    /// Makes ready what is to be sent again.
    pub(super) async fn replay(&mut self) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        self.give_up_gone().await?;
        if has_passed(LOOK_AGAIN, self.replays.looked_at_ms, now) {
            self.look_at_replays().await?;
            self.replays.looked_at_ms = now;
        }
        let ids: Vec<Uuid> = self.replays.running.keys().copied().collect();
        for id in ids {
            if self.at_hand.len() >= super::retry::AT_HAND / 2 {
                break;
            }
            let Some(mut running) = self.replays.running.remove(&id) else {
                continue;
            };
            if !is_to_come(running.left_alone_until_ms, LEFT_ALONE, now)
                && let Err(refusal) = self.feed(&mut running).await
            {
                // What it cannot read holds up nothing but itself.
                tracing::warn!(replay = %id, detail = refusal.detail, "a replay pauses");
                running.left_alone_until_ms = now + ms(LEFT_ALONE);
            }
            self.replays.running.insert(id, running);
        }
        Ok(())
    }

    /// Takes note of replays that begin, end, or are cancelled.
    async fn look_at_replays(&mut self) -> Result<(), Refusal> {
        let ending = std::mem::take(&mut self.replays.ending);
        for id in ending {
            let busy = |queue: &super::queue::Queue| queue.in_flight > 0;
            if self.queues.get(&id).is_some_and(busy) {
                self.replays.ending.push(id);
            } else {
                self.queues.remove(&id);
                self.announced.goes_on(id);
            }
        }
        let store = self.store.clone();
        let mut rows = self.sound(store.replays().running().await)?;
        rows.retain(|row| self.share.holds(&row.tenant));
        let known: Vec<Uuid> = self.replays.running.keys().copied().collect();
        for id in known {
            if !rows.iter().any(|row| row.id == id) {
                self.stop_replay(id);
            }
        }
        for row in rows {
            let id = row.id;
            let ended = row.delivered + row.failed;
            let place = match Place::read(&row.place) {
                Ok(place) => place,
                Err(refusal) => {
                    self.tell_damaged(&format!("replay {id}: {}", refusal.detail));
                    continue;
                }
            };
            let done = ended >= row.sent && place.exhausted;
            if let Some(running) = self.replays.running.get_mut(&id) {
                running.ended = running.ended.max(ended);
            } else {
                // What is on its way to the store is newer than what was read.
                let unwritten = [&self.flush, &*self.being_written];
                let unwritten = unwritten.iter().any(|flush| {
                    flush.replays.iter().any(|step| step.id == id)
                        || flush.pending.iter().any(|row| row.subscription == id)
                });
                if !unwritten {
                    match Plan::read(&row.plan) {
                        Ok(plan) => self.begin(row, plan, place).await?,
                        Err(refusal) => {
                            self.tell_damaged(&format!("replay {id}: {}", refusal.detail));
                        }
                    }
                }
            }
            if done {
                self.flush.replay(id, self.clock.now_ms()).state = Some("done");
                self.stop_replay(id);
                self.flush.forgotten.push(id);
            }
        }
        Ok(())
    }

    async fn begin(&mut self, row: ReplayRow, plan: Plan, mut place: Place) -> Result<(), Refusal> {
        place.reason = None;
        let mut running = Running {
            sent: row.sent,
            ended: row.delivered + row.failed,
            next_at_us: 0,
            left_alone_until_ms: 0,
            through: None,
            plan,
            place,
            row,
        };
        let id = running.row.id;
        self.replays.ending.retain(|ending| *ending != id);
        if !self.follow_original(&mut running) {
            return Ok(());
        }
        let store = self.store.clone();
        let rows = store.deliveries();
        let most = u32::try_from(2 * MOST).unwrap_or(u32::MAX);
        let pending = rows.pending_of(id, None, 0, most).await;
        let now = self.clock.now_ms();
        for mut row in self.sound(pending)? {
            if let (Some(lane), Some(queue)) = (&row.lane, self.queues.get_mut(&id)) {
                // Whose turn it was may have been let go.
                self.lanes_to_advance.insert((id, lane.clone()));
                queue.lanes.entry(lane.clone()).or_default().blocked = true;
            }
            // It was put off while the replay did not run.
            if row.next_at_ms > now + ms(MUCH_LATER / 2) {
                row.next_at_ms = now;
                self.flush.pending.push(row);
            }
        }
        if running.row.state == "planned" {
            self.flush.replay(id, self.clock.now_ms()).state = Some("running");
        }
        self.replays.running.insert(id, running);
        Ok(())
    }

    /// Whether a subscription is deleted.
    fn is_gone(&self, id: Uuid) -> bool {
        self.in_force.get(id).is_none() && !self.in_force.is_unreadable(id)
    }

    /// Has history sent as its subscription is now. False when there is nobody any more to send to, and the replay
    /// ends with that.
    fn follow_original(&mut self, running: &mut Running) -> bool {
        if running.place.reason.is_some() {
            // It has ended, and is let go when that is written.
            return false;
        }
        let id = running.row.id;
        let gone = match (&running.plan, running.row.subscription) {
            (Plan::History(_), Some(of)) => self.is_gone(of),
            (Plan::History(_), None) => false,
            (Plan::DeadLetters(letters), _) => {
                let gone = |of: &Uuid| self.is_gone(*of);
                !letters.subscriptions.is_empty() && letters.subscriptions.iter().all(gone)
            }
        };
        if gone {
            running.place.reason = Some(GONE.to_owned());
            let step = self.flush.replay(id, self.clock.now_ms());
            step.state = Some("cancelled");
            step.place = Some(running.place.write());
            self.stop_replay(id);
            self.flush.forgotten.push(id);
            return false;
        }
        let (Some(of), Plan::History(history)) = (running.row.subscription, &running.plan) else {
            return true;
        };
        let Some(original) = self.in_force.get(of) else {
            return false;
        };
        let known = running.through.as_ref().map(|it| it.revision);
        if known == Some(original.revision) {
            return true;
        }
        // Its rate and its attempts on their way are kept there.
        self.queue(&original);
        let through = Arc::new(original.for_replay(
            id,
            history.rate.map(Rate::per_second),
            history.shadow.clone(),
        ));
        self.queue(&through).subscription = through.clone();
        running.through = Some(through);
        self.line_up(id);
        true
    }

    /// A replay does not run any more. What it has not sent stays in the store.
    fn stop_replay(&mut self, id: Uuid) {
        self.replays.running.remove(&id);
        self.announced.goes_on(id);
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let mut stopped = (*queue.subscription).clone();
        stopped.state = State::Paused;
        queue.subscription = Arc::new(stopped);
        for delivery in queue.backlog.clear() {
            self.at_hand.remove(&(id, delivery.sequence));
        }
        self.replays.ending.push(id);
    }

    async fn feed(&mut self, running: &mut Running) -> Result<(), Refusal> {
        if !self.follow_original(running) {
            running.place.exhausted = true;
        }
        let room = running.room(self.clock.now_ms());
        if running.place.exhausted || room == 0 {
            return Ok(());
        }
        match running.plan.clone() {
            Plan::History(history) => self.feed_history(running, &history, room).await,
            Plan::DeadLetters(letters) => self.feed_letters(running, &letters, room).await,
        }
    }

    async fn feed_history(
        &mut self,
        running: &mut Running,
        history: &History,
        room: usize,
    ) -> Result<(), Refusal> {
        let Some(through) = running.through.clone() else {
            return Ok(());
        };
        if through.state != State::Active {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let log = history::Log {
            bus: &*self.bus,
            store: &self.store,
        };
        let mut place = running.place.clone();
        let page = log.page(&through, history, &mut place, room).await?;
        let before = running.sent;
        for found in page {
            let wanted = match history.routing {
                Routing::Then => found.number.is_some(),
                Routing::Now => found.matches,
            };
            if wanted {
                self.make_ready(running, &through, &found.event, found.number, now);
            }
        }
        running.place = place;
        let step = self.flush.replay(running.row.id, now);
        step.sent += running.sent - before;
        step.place = Some(running.place.write());
        self.read_to_end &= running.place.exhausted || running.room(now) == 0;
        Ok(())
    }

    fn make_ready(
        &mut self,
        running: &mut Running,
        through: &Arc<Subscription>,
        event: &Event,
        number: Option<u64>,
        now: i64,
    ) {
        running.sent += 1;
        let lane = through.delivery.key.as_ref().and_then(|key| key.of(event));
        let queue = self.queue(through);
        let lane_in_queue = lane.as_ref().map(|lane| queue.lanes.entry(lane.clone()));
        let behind = lane_in_queue.is_some_and(|lane| {
            let lane = lane.or_default();
            std::mem::replace(&mut lane.blocked, true)
        });
        let detail = PendingDetail {
            revision: through.revision,
            since_ms: now,
            replay: Some(Replayed {
                id: running.row.id,
                of: running.row.subscription,
                number,
                shadow: through.is_shadow(),
            }),
            left_ms: now,
            ..PendingDetail::default()
        };
        self.flush.pending.push(PendingRow {
            subscription: running.row.id,
            sequence: running.sent,
            tenant: running.row.tenant.clone(),
            event_id: event.event_id,
            lane,
            attempts: 0,
            state: if behind { "behind" } else { "waiting" }.into(),
            next_at_ms: running.next_at(now),
            detail: serde_json::to_string(&detail).expect("plain members become JSON"),
        });
    }

    /// A pending delivery of what is not in force.
    pub(super) fn pass_over(&mut self, mut row: PendingRow, detail: &PendingDetail) {
        match detail.replay {
            Some(Replayed { of: Some(_), .. }) => {
                row.next_at_ms = self.clock.now_ms() + ms(MUCH_LATER);
                row.state = "waiting".into();
                self.flush.pending.push(row);
            }
            Some(_) => {
                self.flush.settled.push((row.subscription, row.sequence));
                self.give_up_letter(detail);
            }
            None => self.replays.forget(row.subscription),
        }
    }

    /// Counts one that was taken or given up.
    pub(super) fn count_replayed(&mut self, replay: Option<Replayed>, delivered: bool) {
        let Some(replay) = replay else {
            return;
        };
        let step = self.flush.replay(replay.id, self.clock.now_ms());
        step.delivered += u64::from(delivered);
        step.failed += u64::from(!delivered);
        if let Some(running) = self.replays.running.get_mut(&replay.id) {
            running.ended += 1;
        }
    }

    /// What the queue of a replay has to leave to the subscription itself: its attempts on their way, and the time of
    /// its next by its rate, in ms since 1970, if that is not now.
    pub(super) fn of_the_original(&self, id: Uuid, now: i64) -> (usize, Option<i64>) {
        let Some(queue) = self.queues.get(&id) else {
            return (0, None);
        };
        let replay_of = queue.subscription.replay_of.filter(|it| !it.shadow);
        let Some(original) = replay_of.and_then(|it| self.queues.get(&it.of)) else {
            return (0, None);
        };
        let beside = (original.in_flight + original.of_replays).saturating_sub(queue.in_flight);
        let rate = original.subscription.delivery.rate;
        let until = rate.and_then(|rate| original.pace.ready(rate, now).err());
        (beside, until)
    }

    /// An attempt begins or has ended; those that share a receiver take note.
    pub(super) fn count_at_original(&mut self, of: &Subscription, now: i64, begins: bool) {
        self.tell_in_flight(of.id, now);
        match of.replay_of {
            Some(replay) if replay.shadow => {}
            Some(replay) => {
                let Some(original) = self.queues.get_mut(&replay.of) else {
                    return;
                };
                if begins {
                    original.of_replays += 1;
                    if let Some(rate) = original.subscription.delivery.rate {
                        original.pace.take(rate, now);
                    }
                } else {
                    original.of_replays = original.of_replays.saturating_sub(1);
                    self.line_up(replay.of);
                }
                self.tell_in_flight(replay.of, now);
                self.note_beside(replay.of, now, begins);
            }
            None => self.note_beside(of.id, now, begins),
        }
    }

    /// The replays of a subscription take note.
    fn note_beside(&mut self, of: Uuid, now: i64, begins: bool) {
        for replay in self.replays.beside(of) {
            self.tell_in_flight(replay, now);
            if !begins {
                self.line_up(replay);
            }
        }
    }
}

//! What one subscription is to get: its deliveries at hand, its place in the log, its numbers.
//!
//! A subscription that keeps up has no place of its own: it goes with the cursor that all share. One that is paused,
//! slow or new has, in each partition where it differs: the next offset it wants. What it has at hand is
//! bounded; what does not fit stays in the log, and it catches up from its place when there is room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidings_event::{Event, TenantId, Topic};
use tidings_store::{CursorRow, Share};
use uuid::Uuid;

use super::backlog::Backlog;
use super::behind::First;
use super::record::{FailedIn, Ledger, Replayed};
use super::schedule::Pace;
use super::standing::{Standing, Stood};
use super::target::Carried;
use crate::subscription::{State, Subscription};

/// The most deliveries of a subscription at hand; two messages' worth where batches are larger.
const MOST_WAITING: usize = 256;
/// The most bytes of data of them; one is always taken.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// It catches up when it has fewer at hand than this, or than a batch takes.
pub(super) const ROOM_BELOW: usize = 64;

/// A partition, by its number in the dispatcher.
pub(super) type StreamId = usize;

/// Where a delivery at hand comes from, so that it can be ticked off there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The reading that all share.
    Shared(StreamId, u64),
    /// The subscription's own catching up.
    Own(StreamId, u64),
    /// A row of pending deliveries.
    Pending,
}

/// Why a delivery waits that is at hand, or its queue stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Key,
    RateLimit,
    Breaker,
    /// This process lacks what it takes to ask its host: for a moment nothing is sent there.
    Unable,
    /// More may go in the same message.
    Batch,
    /// As many are on their way as may be at once. The ledger counts that with the rate limit.
    InFlight,
}

/// One event for one subscription.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) sequence: u64,
    pub(super) event: Arc<Carried>,
    /// The subscription's revision that routed it.
    pub(super) revision: u32,
    /// The key whose order it keeps.
    pub(super) lane: Option<String>,
    pub(super) origin: Origin,
    /// Where it stands in the log, if that is known.
    pub(super) place: Option<(StreamId, u64)>,
    /// Attempts made.
    pub(super) attempts: u32,
    /// Those before a replay.
    pub(super) base: u32,
    /// When it first came here, in ms since 1970.
    pub(super) since_ms: i64,
    /// When it came to hand.
    pub(super) at_hand_ms: i64,
    /// Whether its key or the others of its message hold it back.
    pub(super) held: Option<Held>,
    /// How long its queue had stood still when it came to hand.
    pub(super) stood: Stood,
    pub(super) dead_letter: Option<Uuid>,
    /// What it failed with in one message, and goes again with.
    pub(super) batch: Option<FailedIn>,
    /// The replay that it is one of.
    pub(super) replay: Option<Replayed>,
    pub(super) ledger: Ledger,
}

impl Delivery {
    /// One that comes to hand for the first time now, in ms since 1970. What else is known of it is for the caller to say.
    pub(super) fn new(sequence: u64, event: Arc<Carried>, origin: Origin, now_ms: i64) -> Self {
        Self {
            sequence,
            event,
            revision: 0,
            lane: None,
            origin,
            place: match origin {
                Origin::Shared(stream, offset) | Origin::Own(stream, offset) => {
                    Some((stream, offset))
                }
                Origin::Pending => None,
            },
            attempts: 0,
            base: 0,
            since_ms: now_ms,
            at_hand_ms: now_ms,
            held: None,
            stood: Stood::default(),
            dead_letter: None,
            batch: None,
            replay: None,
            ledger: Ledger::default(),
        }
    }

    /// Whether somebody asked for it to be sent again.
    pub(super) fn is_replayed(&self) -> bool {
        self.dead_letter.is_some() || self.replay.is_some()
    }

    /// The number that its receiver knows it by; 0 when it has none.
    pub(super) fn number(&self) -> u64 {
        let of_history = self.replay.filter(|replay| replay.of.is_some());
        of_history.map_or(self.sequence, |replay| replay.number.unwrap_or(0))
    }
}

/// The sequence numbers of a subscription: without gaps, in the order of the log, and the same again after a
/// crash.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    last: u64,
    /// Given out before a crash, beyond what was saved.
    taken: BTreeSet<u64>,
    /// Given out to events that its owner has then skipped; they go out first.
    free: BTreeSet<u64>,
    /// Events that have such a number and need nothing more.
    known: HashMap<Uuid, u64>,
    /// Partition, offset and number of events that are read again after a crash.
    given: Vec<(StreamId, u64, u64)>,
}

impl Numbers {
    pub(super) fn new(last: u64) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// A number that an event has, with a row that says what became of it.
    pub(super) fn known(&mut self, event_id: Uuid, number: u64) {
        self.taken.insert(number);
        self.known.insert(event_id, number);
    }

    /// The number of an event, or `None` for one that a row is kept of already.
    fn give(&mut self, event_id: Uuid, stream: StreamId, offset: u64) -> Option<u64> {
        if let Some(number) = self.known.remove(&event_id) {
            self.given.push((stream, offset, number));
            return None;
        }
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.last += 1;
            while self.taken.remove(&self.last) {
                self.last += 1;
            }
            self.last
        });
        self.given.push((stream, offset, number));
        Some(number)
    }

    /// Takes back the number of an event that its owner has skipped.
    fn take_back(&mut self, number: u64) {
        self.given.retain(|(_, _, given)| *given != number);
        self.free.insert(number);
    }

    /// Whether no numbered event is read again after a crash.
    pub(super) fn is_settled(&self) -> bool {
        self.given.is_empty()
    }

    /// The highest number such that its event and all before it lie before the given restart offsets: what a crash does
    /// not have sent again.
    fn settled(&mut self, back_to: impl Fn(StreamId) -> u64) -> u64 {
        self.given
            .retain(|(stream, offset, _)| *offset >= back_to(*stream));
        let given = self.given.iter().map(|(_, _, number)| *number);
        let first = given.chain(self.free.first().copied()).min();
        first.map_or(self.last, |first| first - 1)
    }
}

/// A key whose order is kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lane {
    /// One of it is on its way.
    pub(super) busy: bool,
    /// One of it is pending, so that others go behind it.
    pub(super) blocked: bool,
    /// When it was last looked at without a reason, in ms since 1970.
    pub(super) looked_at_ms: i64,
}

/// A subscription's places as they are saved, by topic and partition.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Which [`Start`] they follow from.
    pub(crate) start: u32,
    pub(crate) at: Vec<(String, u32, u64)>,
    /// Since when nothing has succeeded, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failing_since_ms: Option<i64>,
}

impl Places {
    /// The next offset that it wants of a partition, where that is not the shared cursor.
    pub(crate) fn next_in(&self, topic: &Topic, partition: u32) -> Option<u64> {
        let mut at = self.at.iter();
        let found = at.find(|(name, number, _)| name == topic.as_str() && *number == partition);
        found.map(|(_, _, offset)| *offset)
    }
}

/// How far the reading that all subscriptions of a tenant share has come, by the cursors of one partition. Tenants may have
/// been shared out in another way before: whoever has come furthest has read what is before it.
pub(crate) fn read_to<'c>(
    cursors: impl Iterator<Item = &'c CursorRow>,
    tenant: &TenantId,
) -> Option<u64> {
    let of_tenant = cursors.filter(|cursor| {
        let share: Option<Share> = cursor.share.parse().ok();
        share.is_some_and(|share| share.holds(tenant))
    });
    of_tenant.map(|cursor| cursor.next_offset).max()
}

/// One subscription's.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) subscription: Arc<Subscription>,
    pub(super) backlog: Backlog,
    pub(super) in_flight: usize,
    /// Messages of replays that are on their way to the same receiver: they count towards what it takes at once.
    pub(super) of_replays: usize,
    /// Whether it stands in line.
    pub(super) lined_up: bool,
    /// Whether it stands in line to read on from places of its own.
    pub(super) in_line_to_catch_up: bool,
    pub(super) pace: Pace,
    pub(super) standing: Standing,
    pub(super) lanes: HashMap<String, Lane>,
    /// The next offset it wants, where that is not the shared cursor.
    pub(super) places: BTreeMap<StreamId, u64>,
    /// Offsets it has caught up with and that are not ticked off.
    outstanding: BTreeSet<(StreamId, u64)>,
    pub(super) numbers: Numbers,
    pub(super) start: u32,
    /// Where the shared cursors are held for it, if how far it had come is damaged: it gets nothing, and nothing is written
    /// down of it.
    pub(super) lost: Option<BTreeMap<StreamId, u64>>,
    /// Since when nothing has succeeded, in ms since 1970.
    pub(super) failing_since_ms: Option<i64>,
    /// What is the first to wait at its places.
    pub(super) first: BTreeMap<StreamId, First>,
}

impl Queue {
    pub(super) fn new(subscription: Arc<Subscription>, numbers: Numbers) -> Self {
        let start = subscription.start.number;
        Self {
            subscription,
            backlog: Backlog::default(),
            in_flight: 0,
            of_replays: 0,
            lined_up: false,
            in_line_to_catch_up: false,
            pace: Pace::default(),
            standing: Standing::default(),
            lanes: HashMap::new(),
            places: BTreeMap::new(),
            outstanding: BTreeSet::new(),
            numbers,
            start,
            lost: None,
            failing_since_ms: None,
            first: BTreeMap::new(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.subscription.state == State::Active && self.lost.is_none()
    }

    /// Whether another delivery may come to hand.
    pub(super) fn has_room(&self) -> bool {
        let most = MOST_WAITING.max(2 * self.in_one_message());
        self.is_active() && self.backlog.len() < most && self.backlog.bytes() < MOST_BYTES
    }

    /// Whether it has so little at hand that it is worth reading on for it.
    pub(super) fn wants_more(&self) -> bool {
        self.has_room() && self.backlog.len() < ROOM_BELOW.max(self.in_one_message())
    }

    /// The most that go in one message.
    fn in_one_message(&self) -> usize {
        let batch = self.subscription.delivery.batch;
        batch.map_or(1, |batch| batch.max_events)
    }

    /// Begins anew at these places; what is at hand and came from the log is forgotten, and comes out.
    pub(super) fn restart(&mut self, start: u32, places: BTreeMap<StreamId, u64>) -> Vec<Delivery> {
        self.start = start;
        self.places = places;
        self.outstanding.clear();
        let from_log = |delivery: &Delivery| delivery.origin != Origin::Pending;
        let dropped = self.backlog.take_where(from_log);
        for delivery in &dropped {
            self.numbers.take_back(delivery.sequence);
        }
        dropped
    }

    /// Numbers an event. `None` when a row says already what became of it.
    pub(super) fn number(&mut self, event: &Event, origin: Origin) -> Option<u64> {
        let (Origin::Shared(stream, offset) | Origin::Own(stream, offset)) = origin else {
            return None;
        };
        self.numbers.give(event.event_id, stream, offset)
    }

    /// Takes a delivery to hand.
    pub(super) fn push(&mut self, mut delivery: Delivery) {
        delivery.stood = self.standing.until(delivery.at_hand_ms);
        if let Origin::Own(stream, offset) = delivery.origin {
            self.outstanding.insert((stream, offset));
        }
        self.backlog.push(delivery);
    }

    /// The next that its key lets go, and whether others are held by theirs.
    pub(super) fn next(&mut self) -> Option<usize> {
        let found = self.backlog.iter().position(|it| self.is_let_go(it));
        let passed = found.unwrap_or(self.backlog.len());
        for delivery in self.backlog.iter_mut().take(passed) {
            delivery.held = Some(Held::Key);
        }
        found
    }

    /// One that was waiting is on its way.
    pub(super) fn take_out(&mut self, delivery: &Delivery) {
        if let Some(lane) = &delivery.lane {
            self.lanes.entry(lane.clone()).or_default().busy = true;
        }
    }

    /// Closes a lane; those of it that are at hand come out, in order.
    pub(super) fn block(&mut self, lane: &str) -> Vec<Delivery> {
        self.lanes.entry(lane.to_owned()).or_default().blocked = true;
        let of_lane = |delivery: &Delivery| delivery.lane.as_deref() == Some(lane);
        self.backlog.take_where(of_lane)
    }

    /// Gives back what came from rows of pending deliveries.
    pub(super) fn put_back(&mut self) -> Vec<Delivery> {
        let from_row = |delivery: &Delivery| delivery.origin == Origin::Pending;
        self.backlog.take_where(from_row)
    }

    /// How many rows of pending deliveries are at hand.
    pub(super) fn pending_at_hand(&self) -> usize {
        let waiting = self.backlog.iter();
        waiting.filter(|it| it.origin == Origin::Pending).count()
    }

    /// Forgets a key of which nothing is on its way or pending.
    pub(super) fn forget_idle(&mut self, lane: &str) {
        if self
            .lanes
            .get(lane)
            .is_some_and(|it| !it.busy && !it.blocked)
        {
            self.lanes.remove(lane);
        }
    }

    /// Whether any of a lane is at hand or on its way.
    pub(super) fn works_on(&self, lane: &str) -> bool {
        let busy = self.lanes.get(lane).is_some_and(|lane| lane.busy);
        let mut waiting = self.backlog.iter();
        busy || waiting.any(|delivery| delivery.lane.as_deref() == Some(lane))
    }

    /// Ticks off what it has caught up with.
    pub(super) fn tick_off(&mut self, stream: StreamId, offset: u64) {
        self.outstanding.remove(&(stream, offset));
    }

    /// Takes over what was read for all: from now on it holds up nobody but itself. Answers the offsets.
    pub(super) fn detach(&mut self) -> Vec<(StreamId, u64)> {
        let mut taken = Vec::new();
        for delivery in self.backlog.iter_mut() {
            if let Origin::Shared(stream, offset) = delivery.origin {
                delivery.origin = Origin::Own(stream, offset);
                self.outstanding.insert((stream, offset));
                taken.push((stream, offset));
            }
        }
        taken
    }

    /// By partition, the offset at which reading begins after a crash, where that is not the shared cursor.
    pub(super) fn back_to(&self) -> BTreeMap<StreamId, u64> {
        let mut places = self.places.clone();
        for (stream, offset) in &self.outstanding {
            let place = places.entry(*stream).or_insert(*offset);
            *place = (*place).min(*offset);
        }
        places
    }

    /// The highest number such that its event and all before it are not read again after a crash, with the offsets of
    /// [`back_to`](Self::back_to) and the shared cursors.
    pub(super) fn settled(
        &mut self,
        places: &BTreeMap<StreamId, u64>,
        cursor: impl Fn(StreamId) -> u64,
    ) -> u64 {
        self.numbers.settled(|stream| {
            places
                .get(&stream)
                .copied()
                .unwrap_or_else(|| cursor(stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gap_and_come_again_after_a_crash() {
        let id = |number: u128| Uuid::from_u128(number);
        let mut numbers = Numbers::new(5);
        assert_eq!(numbers.give(id(1), 0, 10), Some(6));
        assert_eq!(numbers.give(id(2), 0, 11), Some(7));
        assert_eq!(numbers.give(id(3), 1, 4), Some(8));
        // A crash leads back to offset 11 of the first partition and past the second.
        assert_eq!(
            numbers.settled(|stream| if stream == 0 { 11 } else { 5 }),
            6
        );

        let mut again = Numbers::new(6);
        again.known(id(3), 8);
        assert_eq!(again.give(id(2), 0, 11), Some(7));
        assert_eq!(again.give(id(4), 0, 12), Some(9));
        assert_eq!(again.give(id(3), 1, 4), None);
        assert_eq!(again.settled(|_| 100), 9);
    }
}

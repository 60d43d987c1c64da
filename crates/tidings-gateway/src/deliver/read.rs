//! Read and match: records of the log to deliveries at hand.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{Page, Partition, Read, ReadError, Stored, partition_of};
use tidings_event::EventType;
use tidings_filter::Subject;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Delivery, Origin, Queue, ROOM_BELOW, StreamId};
use super::schedule::{is_to_come, ms};
use super::target::Carried;
use crate::envelope;
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::subscription::Subscription;

/// The most records that are read of a partition at once.
const PAGE: usize = 500;
/// The most records that are looked at in one go for one subscription, however few of them are its own.
pub(super) const SCAN: usize = 5_000;
/// How long a partition is left alone that could not be read, and a replay that could not go on.
pub(super) const LEFT_ALONE: Duration = Duration::from_secs(5);
/// After so many that cannot be read a turn goes on without the others: each may have taken long to fail.
const FAILURES: usize = 2;
/// The most queues that catch up in one turn.
const CATCHING_UP: usize = 32;

/// An event and who wants it.
type Matched = (Arc<Carried>, Vec<Arc<Subscription>>);

/// The event of a record.
pub(super) fn readable(record: &Stored) -> Option<Arc<Carried>> {
    envelope::readable(record).map(|event| Arc::new(Carried::new(event)))
}

impl Dispatcher {
    /// Reads what has been appended and gives it to all who keep up.
    pub(super) async fn read(&mut self) -> Result<(), Refusal> {
        self.read_to_end = true;
        if self.tail.has_changed().unwrap_or(true) {
            self.tail.mark_unchanged();
            let topics = self.bus.topics().await.map_err(|error| {
                self.tail.mark_changed();
                unreadable(error)
            })?;
            for (topic, partitions) in topics {
                let known = self.streams.len();
                for number in 0..partitions {
                    let topic = topic.clone();
                    let stream = self.stream(Partition { topic, number });
                    self.streams[stream].more = true;
                }
                if self.streams.len() > known {
                    self.begin_in_new_topic(&topic, partitions, known);
                }
            }
        }
        self.choose_streams();
        let mut failures = 0;
        for stream in (self.reads_from..self.streams.len()).chain(0..self.reads_from) {
            let one = &self.streams[stream];
            if !one.wanted || !one.more || self.is_left_alone(stream) {
                continue;
            }
            if let Err(refusal) = self.read_stream(stream).await {
                self.leave_alone(stream, &refusal);
                failures += 1;
                if failures == FAILURES {
                    self.reads_from = stream + 1;
                    break;
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_left_alone(&self, stream: StreamId) -> bool {
        let again_at_ms = self.streams[stream].again_at_ms;
        is_to_come(again_at_ms, LEFT_ALONE, self.clock.now_ms())
    }

    /// What cannot be read holds up nobody else: a partition of Kafka may be without a leader.
    pub(super) fn leave_alone(&mut self, stream: StreamId, refusal: &Refusal) {
        let stream = &mut self.streams[stream];
        let (topic, partition) = (&stream.partition.topic, stream.partition.number);
        tracing::warn!(%topic, partition, detail = refusal.detail, "a partition's deliveries pause");
        stream.again_at_ms = self.clock.now_ms() + ms(LEFT_ALONE);
    }

    async fn read_stream(&mut self, stream: StreamId) -> Result<(), Refusal> {
        let from = self.streams[stream].head;
        let read = Read {
            from,
            tenant: None,
            limit: PAGE,
            scan: PAGE,
        };
        let partition = self.streams[stream].partition.clone();
        let page = match self.bus.read(partition, read).await {
            Err(error @ ReadError::Damaged { offset, .. }) => {
                self.tell_unread(stream, offset, &error);
                self.streams[stream].head = from.max(offset + 1);
                self.read_to_end = false;
                return Ok(());
            }
            page => page.map_err(unreadable)?,
        };
        self.tell_end(stream, from);
        if (1..from).contains(&page.end) {
            self.tell_other_log(stream);
            return self.begin_in_other_log(stream).await;
        }
        self.tell_removed(None, stream, (from, page.start));
        if page.end >= from {
            self.streams[stream].sound_at_ms = Some(self.clock.now_ms());
        }
        self.streams[stream].more = page.more;
        self.read_to_end &= !page.more;
        for record in page.records {
            self.streams[stream].head = record.offset;
            self.give(stream, &record);
        }
        self.streams[stream].head = page.next.max(from);
        Ok(())
    }

    /// Lets go of recent events that were kept for other subscriptions than those in force, which change at any time: they
    /// may lack what somebody wants now.
    fn renew_recent(&mut self) {
        let version = self.in_force.version();
        if version != self.recent_for {
            self.recent_for = version;
            for stream in &mut self.streams {
                stream.recent.clear(stream.head);
            }
        }
    }

    /// Gives a record to all who want it and keep up.
    fn give(&mut self, stream: StreamId, record: &Stored) {
        self.renew_recent();
        let Some((event, wanting)) = self.matched(record) else {
            return;
        };
        let offset = record.offset;
        self.streams[stream].recent.push(offset, &event);
        let subject = Subject::new(&event);
        for subscription in wanting {
            if !subscription.filter.holds_beside_types(&subject) {
                continue;
            }
            let queue = self.queue(&subscription);
            let id = subscription.id;
            if let Some(held) = &mut queue.lost {
                // It cannot be written down that it stays here, so the cursor does.
                if let Entry::Vacant(place) = held.entry(stream) {
                    place.insert(offset);
                    *self.streams[stream].outstanding.entry(offset).or_default() += 1;
                }
                continue;
            }
            if queue.places.contains_key(&stream) {
                continue;
            }
            if !queue.has_room() {
                // It goes on from here by itself, and holds up nobody with what it has.
                queue.places.insert(stream, offset);
                for (stream, offset) in queue.detach() {
                    self.settle_shared(stream, offset);
                }
                self.behind.insert(id);
                self.moved.insert(id);
                continue;
            }
            if self.take_to_hand(&subscription, &event, Origin::Shared(stream, offset)) {
                *self.streams[stream].outstanding.entry(offset).or_default() += 1;
            }
        }
    }

    /// The event of a record and the subscriptions whose types it fits; nothing when there are none.
    fn matched(&self, record: &Stored) -> Option<Matched> {
        if !self.share.holds(&record.tenant) {
            return None;
        }
        let event_type = record.headers.get("ce_type").map(EventType::recorded);
        let Some(Ok(event_type)) = event_type else {
            // Not one of ours, or damaged: reading it as an event says what is wrong.
            let _none_wants_it = readable(record);
            return None;
        };
        let wanting = self.in_force.wanting(&record.tenant, &event_type);
        if wanting.is_empty() {
            return None;
        }
        readable(record).map(|event| (event, wanting))
    }

    /// Puts an event into a subscription's queue. False when it needs no ticking off: a row is or will be
    /// kept of it.
    fn take_to_hand(
        &mut self,
        subscription: &Arc<Subscription>,
        event: &Arc<Carried>,
        origin: Origin,
    ) -> bool {
        let now = self.clock.now_ms();
        let id = subscription.id;
        let queue = self.queue(subscription);
        let Some(sequence) = queue.number(event, origin) else {
            self.moved.insert(id);
            return false;
        };
        let lane = subscription
            .delivery
            .key
            .as_ref()
            .and_then(|key| key.of(event));
        let mut delivery = Delivery::new(sequence, event.clone(), origin, now);
        delivery.revision = subscription.revision;
        delivery.lane = lane;
        delivery.ledger.log = (now - event.received_at_ms).max(0);
        let blocked = delivery
            .lane
            .as_ref()
            .is_some_and(|lane| queue.lanes.get(lane).is_some_and(|lane| lane.blocked));
        let taken = !blocked;
        if taken {
            queue.push(delivery);
        } else {
            let row = self.pending_row(&delivery, id, 0, "behind", (now, now));
            self.flush.pending.push(row);
        }
        self.moved.insert(id);
        self.line_up(id);
        taken
    }

    /// Lets those catch up who have room and a place of their own: tenants and queues by turns, so that nobody's backlog
    /// keeps another's from being read, however long it is and however little of it is wanted.
    pub(super) async fn catch_up(&mut self) {
        self.line_up_behind();
        let mut served = 0;
        while served < CATCHING_UP {
            let Some(id) = self.catching_up.pop(|_| true) else {
                return;
            };
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.in_line_to_catch_up = false;
            if !queue.wants_more() {
                continue;
            }
            let places: Vec<(StreamId, u64)> = queue
                .places
                .iter()
                .map(|(stream, offset)| (*stream, *offset))
                .collect();
            let subscription = queue.subscription.clone();
            let mut read = false;
            for (stream, place) in places {
                read |= self.catch_up_in(&subscription, stream, place).await;
            }
            served += usize::from(read);
            if self
                .queues
                .get(&id)
                .is_some_and(|queue| queue.places.is_empty())
            {
                self.behind.remove(&id);
            }
        }
        self.read_to_end &= self.catching_up.is_empty();
    }

    /// Puts those in line to catch up who have room, behind those that were not served the last time.
    fn line_up_behind(&mut self) {
        let (queues, line) = (&mut self.queues, &mut self.catching_up);
        self.behind.retain(|id| {
            let Some(queue) = queues.get_mut(id) else {
                return false;
            };
            if !queue.in_line_to_catch_up && queue.wants_more() {
                queue.in_line_to_catch_up = true;
                line.push(&queue.subscription.tenant, *id);
            }
            true
        });
    }

    fn has_room(&self, id: Uuid) -> bool {
        self.queues.get(&id).is_some_and(Queue::has_room)
    }

    /// Reads on from a place in one partition. False when there is nothing to read for it there yet.
    async fn catch_up_in(
        &mut self,
        subscription: &Arc<Subscription>,
        stream: StreamId,
        place: u64,
    ) -> bool {
        self.renew_recent();
        let head = self.streams[stream].head;
        if place > head || self.streams[stream].lost || self.is_left_alone(stream) {
            return false;
        }
        let mut next = place;
        if place < head && place >= self.streams[stream].recent.from {
            next = self.catch_up_at_hand(subscription, stream, place);
        } else if place < head {
            let read = Read {
                from: place,
                tenant: Some(subscription.tenant.clone()),
                limit: ROOM_BELOW,
                scan: SCAN,
            };
            let partition = self.streams[stream].partition.clone();
            let page = match self.bus.read(partition, read).await {
                Ok(page) => {
                    self.tell_end(stream, place);
                    page
                }
                Err(error @ ReadError::Damaged { offset, .. }) => {
                    self.tell_unread(stream, offset, &error);
                    Page {
                        next: offset + 1,
                        ..Page::default()
                    }
                }
                Err(error) => {
                    self.leave_alone(stream, &unreadable(error));
                    return true;
                }
            };
            self.tell_removed(Some(subscription.id), stream, (place, page.start));
            next = page.next.max(place);
            for record in page.records.iter().filter(|record| record.offset < head) {
                if !self.has_room(subscription.id) {
                    next = record.offset;
                    break;
                }
                let wanted =
                    |event: &Arc<Carried>| subscription.filter.matches(&Subject::new(event));
                if let Some(event) = readable(record).filter(wanted) {
                    self.take_to_hand(subscription, &event, Origin::Own(stream, record.offset));
                }
            }
        }
        let Some(queue) = self.queues.get_mut(&subscription.id) else {
            return false;
        };
        if next >= head {
            queue.places.remove(&stream);
        } else {
            queue.places.insert(stream, next);
            self.read_to_end = false;
        }
        self.moved.insert(subscription.id);
        place < head
    }

    /// Goes on with what was read last. Answers the next offset it wants.
    fn catch_up_at_hand(
        &mut self,
        subscription: &Arc<Subscription>,
        stream: StreamId,
        place: u64,
    ) -> u64 {
        let recent = &self.streams[stream].recent.events;
        let first = recent.partition_point(|(offset, _)| *offset < place);
        let mut taken = Vec::new();
        let mut next = self.streams[stream].head;
        for (offset, event) in recent.range(first..) {
            if taken.len() == ROOM_BELOW {
                next = *offset;
                break;
            }
            if event.tenant == subscription.tenant
                && subscription.filter.matches(&Subject::new(event))
            {
                taken.push((*offset, event.clone()));
            }
        }
        for (offset, event) in taken {
            if !self.has_room(subscription.id) {
                return offset;
            }
            self.take_to_hand(subscription, &event, Origin::Own(stream, offset));
        }
        next
    }

    /// Where a subscription begins, in each partition that its tenant's events can be in.
    pub(super) fn places_of(&mut self, subscription: &Subscription) -> BTreeMap<StreamId, u64> {
        let key = subscription.tenant.as_str().as_bytes();
        let mut places = BTreeMap::new();
        for (topic, count) in self.partitions() {
            let number = partition_of(key, count);
            let place = subscription.start.place_in(&topic);
            let stream = self.stream(Partition { topic, number });
            places.insert(stream, place);
        }
        places
    }
}

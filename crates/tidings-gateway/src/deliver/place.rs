//! Where reading goes on: at the cursor; where nobody wanted a partition before, at the places of who wants it now; and where
//! the cursor says nothing of the log that is there, behind what is known to have been delivered of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidings_bus::{Bounds, Partition, Read, ReadError, Stored, partition_of};
use tidings_event::Topic;
use tidings_filter::Subject;
use tidings_store::Handled;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::StreamId;
use super::read::readable;
use super::schedule::ms;
use super::stream::{Place, Stream};
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::subscription::Subscription;

/// So many records are looked at at once for what is known of them.
const PAGE: usize = 200;

/// Whose deliveries say how far deliveries have come.
#[derive(Clone, Copy)]
enum By<'a> {
    /// Everybody's.
    All,
    /// Of those who go with the cursor, whatever they would not be sent again after a crash.
    Cursor(StreamId),
    /// One subscription's.
    One(&'a Subscription),
}

impl Dispatcher {
    /// The number of a partition.
    pub(super) fn stream(&mut self, partition: Partition) -> StreamId {
        if let Some(id) = self.stream_ids.get(&partition) {
            return *id;
        }
        let id = self.streams.len();
        self.stream_ids.insert(partition.clone(), id);
        self.streams.push(Stream::new(partition));
        self.choose_streams = true;
        id
    }

    /// How many partitions each topic is known to have.
    fn partitions(&self) -> BTreeMap<Topic, u32> {
        let mut counts: BTreeMap<Topic, u32> = BTreeMap::new();
        for stream in &self.streams {
            let count = counts.entry(stream.partition.topic.clone()).or_default();
            *count = (*count).max(stream.partition.number + 1);
        }
        counts
    }

    /// Only partitions are read that hold events of tenants with subscriptions.
    pub(super) fn choose_streams(&mut self) {
        if !std::mem::take(&mut self.choose_streams) {
            return;
        }
        let counts = self.partitions();
        let mut tenants = self.in_force.tenants();
        tenants.retain(|tenant| self.share.holds(tenant));
        let mut wanted: BTreeSet<(u32, u32)> = BTreeSet::new();
        for count in counts.values().copied().collect::<BTreeSet<_>>() {
            let numbers = tenants
                .iter()
                .map(|tenant| partition_of(tenant.as_str().as_bytes(), count));
            wanted.extend(numbers.map(|number| (count, number)));
        }
        let mut new: HashMap<(u32, u32), Vec<StreamId>> = HashMap::new();
        for (id, stream) in self.streams.iter_mut().enumerate() {
            let place = (counts[&stream.partition.topic], stream.partition.number);
            let before = stream.wanted;
            stream.wanted = wanted.contains(&place) && stream.place != Place::Replaced;
            if stream.wanted && !before {
                new.entry(place).or_default().push(id);
            }
        }
        if !new.is_empty() {
            self.begin_at_places(&new);
        }
    }

    /// What nobody wanted until now begins where the last of those who want it does, unless one goes with the cursor: the
    /// others catch up from their places, and nobody waits until all that was there before is read.
    fn begin_at_places(&mut self, new: &HashMap<(u32, u32), Vec<StreamId>>) {
        let counts: BTreeSet<u32> = new.keys().map(|(count, _)| *count).collect();
        let mut begin: HashMap<StreamId, Option<u64>> = HashMap::new();
        for tenant in self.in_force.tenants() {
            if !self.share.holds(&tenant) {
                continue;
            }
            let of_tenant = self.in_force.of(&tenant);
            for count in &counts {
                let number = partition_of(tenant.as_str().as_bytes(), *count);
                for stream in new.get(&(*count, number)).into_iter().flatten() {
                    let last = begin.entry(*stream).or_insert(Some(0));
                    for subscription in &of_tenant {
                        let place = self.own_place(subscription, *stream);
                        *last = last.zip(place).map(|(last, place)| last.max(place));
                    }
                }
            }
        }
        for (stream, place) in begin {
            let stream = &mut self.streams[stream];
            if let Some(place) = place.filter(|place| *place > stream.head) {
                stream.go_to(place);
            }
        }
    }

    /// The next offset that a subscription wants, if it does not go with the cursor.
    fn own_place(&self, subscription: &Subscription, stream: StreamId) -> Option<u64> {
        let partition = &self.streams[stream].partition;
        let topic = partition.topic.as_str();
        if let Some(queue) = self.queues.get(&subscription.id) {
            return queue.places.get(&stream).copied();
        }
        match self.saved.get(&subscription.id) {
            Some((_, places)) if places.start == subscription.start.number => {
                let mut at = places.at.iter();
                let at = at.find(|(name, number, _)| name == topic && *number == partition.number);
                at.map(|(_, _, offset)| *offset)
            }
            _ => Some(subscription.start.places.get(topic).copied().unwrap_or(0)),
        }
    }

    /// Where a subscription begins, in each partition that its tenant's events can be in.
    pub(super) fn places_of(&mut self, subscription: &Subscription) -> BTreeMap<StreamId, u64> {
        let key = subscription.tenant.as_str().as_bytes();
        let mut places = BTreeMap::new();
        for (topic, count) in self.partitions() {
            let place = subscription.start.places.get(topic.as_str()).copied();
            let number = partition_of(key, count);
            let stream = self.stream(Partition { topic, number });
            places.insert(stream, place.unwrap_or(0));
        }
        places
    }

    /// The log of a partition ends before the cursor: it is another, or an older one. Reading goes on behind what is known to
    /// have been delivered of it, or from its beginning.
    pub(super) async fn begin_anew(&mut self, stream: StreamId) -> Result<(), Refusal> {
        let (partition, cursor) = {
            let stream = &self.streams[stream];
            (stream.partition.clone(), stream.head)
        };
        let bounds = self.bounds(&partition).await?;
        // One that is not there, or holds nothing, may be there again as it was.
        if bounds.end == 0 || bounds.end >= cursor {
            self.streams[stream].more = bounds.end > cursor;
            self.read_to_end &= bounds.end <= cursor;
            return Ok(());
        }
        let place = self.proved(&partition, bounds, By::All).await?;
        tracing::error!(
            topic = %partition.topic, partition = partition.number, cursor, end = bounds.end, place,
            "the log ends before what was read of it: deliveries go on behind what was delivered of the log that is there"
        );
        self.part.counted().damaged();
        self.replace(stream, place, bounds.end);
        self.read_to_end = false;
        Ok(())
    }

    /// Another stream stands for a partition from now on. Offsets of the one before say nothing of this one.
    fn replace(&mut self, old: StreamId, place: u64, end: u64) {
        let partition = self.streams[old].partition.clone();
        self.streams[old].place = Place::Replaced;
        self.stream_ids.remove(&partition);
        let new = self.stream(partition.clone());
        // Those who wanted the one before want this: nobody begins at a place of that.
        let wanted = std::mem::take(&mut self.streams[old].wanted);
        let stream = &mut self.streams[new];
        stream.wanted = wanted;
        stream.go_to(place);
        stream.again_below = end;
        for (id, queue) in &mut self.queues {
            if queue.move_to((old, new), place) {
                self.moved.insert(*id);
            }
        }
        for (_, places) in self.saved.values_mut() {
            for (topic, number, offset) in &mut places.at {
                if topic == partition.topic.as_str() && *number == partition.number {
                    *offset = place.min(*offset);
                }
            }
        }
    }

    /// Whether a subscription has read on from a place that its partition has not come to. Where the partition does not go so
    /// far at all, it goes on behind what it is known to have got.
    pub(super) async fn is_beyond_end(
        &mut self,
        subscription: &Subscription,
        stream: StreamId,
        place: u64,
    ) -> Result<bool, Refusal> {
        if self.streams[stream].more {
            return Ok(false);
        }
        let partition = self.streams[stream].partition.clone();
        let found = async {
            let bounds = self.bounds(&partition).await?;
            if bounds.end == 0 || bounds.end >= place {
                return Ok(None);
            }
            let next = self.proved(&partition, bounds, By::One(subscription));
            Ok(Some((next.await?, bounds.end)))
        };
        let (next, end) = match found.await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(false),
            Err(refusal) => {
                self.leave_alone(stream, &refusal);
                return Ok(true);
            }
        };
        tracing::error!(
            subscription = %subscription.id, topic = %partition.topic, partition = partition.number, cursor = place, end,
            place = next, "the log ends before a subscription's place: it goes on behind what it got of the log that is there"
        );
        self.part.counted().damaged();
        if let Some(queue) = self.queues.get_mut(&subscription.id) {
            queue.places.insert(stream, next);
        }
        self.moved.insert(subscription.id);
        self.read_to_end = false;
        Ok(true)
    }

    /// Finds the cursor of a partition again whose row is damaged: at or before where it was, and behind everything that it is
    /// known to have passed.
    pub(super) async fn find_cursor(&mut self, stream: StreamId) -> Result<(), Refusal> {
        let partition = self.streams[stream].partition.clone();
        let bounds = self.bounds(&partition).await?;
        let place = self.proved(&partition, bounds, By::Cursor(stream)).await?;
        tracing::error!(
            topic = %partition.topic, partition = partition.number, place,
            "a cursor is damaged: deliveries go on behind what was delivered"
        );
        let stream = &mut self.streams[stream];
        stream.go_to(place);
        stream.again_below = bounds.end;
        Ok(())
    }

    async fn bounds(&self, partition: &Partition) -> Result<Bounds, Refusal> {
        let bounds = self.bus.bounds(partition.clone()).await;
        bounds.map_err(unreadable)
    }

    /// The offset behind the newest event that was handled. What is older than attempts are kept, or than the subscription
    /// that is asked about, counts as handled.
    async fn proved(
        &mut self,
        partition: &Partition,
        bounds: Bounds,
        by: By<'_>,
    ) -> Result<u64, Refusal> {
        let kept = self.clock.now_ms() - ms(self.config.attempts_retention);
        let since_ms = match by {
            By::One(subscription) => kept.max(subscription.created_at_ms),
            By::All | By::Cursor(_) => kept,
        };
        let first = self.bus.offset_at(partition.clone(), since_ms.max(0)).await;
        let first = first.map_err(unreadable)?.max(bounds.start);
        let mut below = bounds.end;
        while below > first {
            let from = below.saturating_sub(PAGE as u64).max(first);
            let records = self.between(partition, from, below).await?;
            let ids: Vec<Uuid> = records.iter().map(|record| record.event_id).collect();
            let store = self.store.clone();
            let handled = store.deliveries().handled(&ids).await;
            let handled = self.sound(handled)?;
            let mut newest_first = records.iter().rev();
            let is_handled = |record: &&Stored| self.is_handled(record, &handled, by);
            if let Some(record) = newest_first.find(is_handled) {
                return Ok(record.offset + 1);
            }
            below = from;
        }
        Ok(first)
    }

    /// The records of a stretch that can be read.
    async fn between(
        &mut self,
        partition: &Partition,
        from: u64,
        below: u64,
    ) -> Result<Vec<Stored>, Refusal> {
        let (mut records, mut next) = (Vec::new(), from);
        while next < below {
            let read = Read {
                from: next,
                tenant: None,
                limit: PAGE,
                scan: PAGE,
            };
            next = match self.bus.read(partition.clone(), read).await {
                Ok(page) if page.next > next => {
                    records.extend(page.records);
                    page.next
                }
                // It has become shorter meanwhile.
                Ok(_) => break,
                Err(error @ ReadError::Damaged { offset, .. }) => {
                    self.tell_damaged(&error);
                    next.max(offset) + 1
                }
                Err(error) => return Err(unreadable(error)),
            };
        }
        records.retain(|record| record.offset < below);
        Ok(records)
    }

    /// Whether a record was handled as far as it counts. What ran before its publish was acknowledged does not: it says
    /// nothing of what was read.
    fn is_handled(&self, record: &Stored, handled: &[Handled], by: By<'_>) -> bool {
        if !self.share.holds(&record.tenant) {
            return false;
        }
        let mut of_it = handled.iter().filter(|it| it.event_id == record.event_id);
        of_it.any(|it| {
            let id = it.subscription;
            let counts = match by {
                By::All => true,
                By::One(subscription) => subscription.id == id,
                By::Cursor(stream) => self.has_passed_with_cursor(stream, it),
            };
            let from_the_log = || {
                let event = readable(record);
                let known = self.in_force.get(id).zip(event);
                known.is_none_or(|(it, event)| it.filter.matches(&Subject::new(&event)))
            };
            counts && from_the_log()
        })
    }

    /// Whether a delivery shows that the cursor of a partition had passed it: its number was settled, and its subscription
    /// had no place of its own there.
    fn has_passed_with_cursor(&self, stream: StreamId, handled: &Handled) -> bool {
        let Some(subscription) = self.in_force.get(handled.subscription) else {
            return false;
        };
        if self.own_place(&subscription, stream).is_some() {
            return false;
        }
        let queue = self.queues.get(&subscription.id);
        let saved = self.saved.get(&subscription.id);
        let numbers = queue.map(|queue| &queue.numbers);
        let numbers = numbers.or(saved.map(|(numbers, _)| numbers));
        numbers.is_some_and(|numbers| numbers.proves(handled.event_id, handled.sequence))
    }
}

//! Which partitions are read, and where those begin that nobody wanted before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tidings_bus::{Partition, partition_of};
use tidings_event::Topic;

use super::queue::StreamId;
use super::{Dispatcher, ms};
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::subscription::Subscription;

/// How far the clocks of replicas may be apart.
const CLOCKS_APART: Duration = Duration::from_mins(5);

impl Dispatcher {
    /// How many partitions each topic has.
    pub(super) fn partitions(&self) -> BTreeMap<Topic, u32> {
        let mut counts: BTreeMap<Topic, u32> = BTreeMap::new();
        for stream in &self.streams {
            let count = counts.entry(stream.partition.topic.clone()).or_default();
            *count = (*count).max(stream.partition.number + 1);
        }
        counts
    }

    /// Where a subscription begins that is behind what all have read: what is written down of it may be of a time when its
    /// dispatcher did not know the topic.
    pub(super) fn ahead(
        &self,
        subscription: &Subscription,
        partitions: &BTreeMap<Topic, u32>,
    ) -> Vec<(StreamId, u64)> {
        let key = subscription.tenant.as_str().as_bytes();
        let starts = subscription.start.places.iter();
        let starts = starts.filter_map(|(name, place)| {
            let topic: Topic = name.parse().ok()?;
            let number = partition_of(key, *partitions.get(&topic)?);
            let stream = self.stream_ids.get(&Partition { topic, number })?;
            (*place > self.streams[*stream].head).then_some((*stream, *place))
        });
        starts.collect()
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
            let wanted = !stream.lost && wanted.contains(&place);
            let before = std::mem::replace(&mut stream.wanted, wanted);
            if stream.wanted && !before {
                new.entry(place).or_default().push(id);
            }
        }
        if !new.is_empty() {
            self.begin_at_places(new);
        }
    }

    /// What nobody wanted until now begins where the last of those who want it does, unless one goes with the cursor: the
    /// others catch up from their places, and nobody waits until all that was there before is read.
    fn begin_at_places(&mut self, mut new: HashMap<(u32, u32), Vec<StreamId>>) {
        let counts: BTreeSet<u32> = new.keys().map(|(count, _)| *count).collect();
        let all = new.values().flatten();
        let mut begin: HashMap<StreamId, u64> = all.map(|stream| (*stream, 0)).collect();
        for tenant in self.in_force.tenants() {
            if !self.share.holds(&tenant) {
                continue;
            }
            let of_tenant = self.in_force.of(&tenant);
            for count in &counts {
                let number = partition_of(tenant.as_str().as_bytes(), *count);
                let Some(streams) = new.get_mut(&(*count, number)) else {
                    continue;
                };
                // Where one goes with the cursor, nobody else is asked.
                streams.retain(|stream| {
                    let mut places = of_tenant.iter().map(|it| self.own_place(it, *stream));
                    let last = places.try_fold(begin[stream], |last, it| Some(last.max(it?)));
                    match last {
                        Some(last) => begin.insert(*stream, last),
                        None => begin.remove(stream),
                    };
                    last.is_some()
                });
            }
        }
        for (stream, place) in begin {
            let stream = &mut self.streams[stream];
            if place > stream.head {
                stream.head = place;
                stream.recent.clear(place);
            }
        }
    }

    /// A topic that this dispatcher did not know, with its first stream that is new. Whoever was told to begin behind some of it
    /// may have been seen before it was.
    pub(super) fn begin_in_new_topic(&mut self, topic: &Topic, partitions: u32, first: StreamId) {
        for (id, queue) in self.queues.iter_mut().filter(|(_, it)| it.lost.is_none()) {
            let subscription = &queue.subscription;
            let place = subscription.start.place_in(topic);
            if place == 0 {
                continue;
            }
            let number = partition_of(subscription.tenant.as_str().as_bytes(), partitions);
            let partition = Partition {
                topic: topic.clone(),
                number,
            };
            let stream = self.stream_ids.get(&partition).copied();
            if let Some(stream) = stream.filter(|stream| *stream >= first) {
                queue.places.entry(stream).or_insert(place);
                self.behind.insert(*id);
                self.moved.insert(*id);
            }
        }
    }

    /// Goes on in a log that ends before what was read of it with what came after the other was last read. What was removed
    /// and made again has nothing older; what was brought back from a backup is not delivered once more.
    pub(super) async fn begin_in_other_log(&mut self, stream: StreamId) -> Result<(), Refusal> {
        let partition = self.streams[stream].partition.clone();
        let begin = match self.streams[stream].sound_at_ms {
            Some(at_ms) => {
                self.bus
                    .offset_at(partition, at_ms - ms(CLOCKS_APART))
                    .await
            }
            None => Ok(0),
        };
        let begin = begin.map_err(unreadable)?;
        self.streams[stream].head = begin;
        self.streams[stream].recent.clear(begin);
        let share = self.share;
        for subscription in self.in_force.all() {
            if !share.holds(&subscription.tenant) {
                continue;
            }
            let queue = self.queue(&subscription);
            if let Some(place) = queue.places.get_mut(&stream)
                && *place > begin
            {
                *place = begin;
                self.moved.insert(subscription.id);
            }
        }
        Ok(())
    }

    /// The next offset that a subscription wants, if it does not go with the cursor.
    fn own_place(&self, subscription: &Subscription, stream: StreamId) -> Option<u64> {
        let partition = &self.streams[stream].partition;
        if let Some(queue) = self.queues.get(&subscription.id) {
            return queue.places.get(&stream).copied();
        }
        match self.saved.get(&subscription.id) {
            Some((_, places)) if places.start == subscription.start.number => {
                let start = subscription.start.place_in(&partition.topic);
                let ahead = (start > self.streams[stream].head).then_some(start);
                places.next_in(&partition.topic, partition.number).or(ahead)
            }
            _ => Some(subscription.start.place_in(&partition.topic)),
        }
    }
}

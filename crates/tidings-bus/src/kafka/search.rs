//! Looking for an event by its id, whose time says where to begin.
//!
//! All partitions are read at once, from the first record that is as young to where they ended when the search began.
//! A partition is given up where records are younger by more than what a delivery and two replicas' clocks differ by.
//! Only what is appended later than that under an id of before, a key that was retried or an emit that waited for the bus,
//! stands further on: some records more are looked at for it, and whoever knows where it stands reads it there. A search that cannot say answers an error, never that the event is not there.

use std::collections::HashMap;
use std::time::Instant;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tidings_event::{TenantId, Topic};
use uuid::Uuid;

use super::PATIENCE;
use super::reader::{Consumer, Ends, Next, Place, Readers, assign, at, next};
use crate::Stored;

/// How far behind its own time a record may stand: what a delivery and two replicas' clocks differ by.
const DISORDER_MS: i64 = 10_000;
/// How many records a search looks at within that time.
const SEARCHED: usize = 100_000;
/// How many it looks at beyond, in each partition.
const SEARCHED_BEYOND: usize = 2_000;

/// What is looked for, and where.
pub(super) struct Sought {
    pub(super) tenant: TenantId,
    pub(super) event_id: Uuid,
    /// The time in the id, in ms since 1970.
    pub(super) time_ms: i64,
    pub(super) places: HashMap<Place, Topic>,
}

/// What is left of a partition.
struct Stretch {
    next: u64,
    end: u64,
    /// How many of its records were younger than the event can be.
    beyond: usize,
    /// Whether some partition of this number has no record left before its end.
    may_have_ended: bool,
}

/// A search under way.
pub(super) struct Search<'s> {
    readers: &'s Readers,
    consumer: &'s Consumer,
    sought: &'s Sought,
    open: HashMap<Place, Stretch>,
    looked_at: usize,
}

impl<'s> Search<'s> {
    pub(super) fn new(
        readers: &'s Readers,
        consumer: &'s Consumer,
        sought: &'s Sought,
    ) -> KafkaResult<Self> {
        let time = Offset::Offset(sought.time_ms.max(0));
        let begins = at(consumer, sought.places.keys().map(|place| (place, time)))?;
        let ends = begins.iter().map(|(place, _)| (place, Offset::End));
        let ends: HashMap<Place, u64> = if begins.is_empty() {
            HashMap::new()
        } else {
            at(consumer, ends)?.into_iter().collect()
        };
        let open = begins.into_iter().filter_map(|(place, next)| {
            let stretch = Stretch {
                next,
                end: *ends.get(&place)?,
                beyond: 0,
                may_have_ended: false,
            };
            (stretch.next < stretch.end).then_some((place, stretch))
        });
        Ok(Self {
            readers,
            consumer,
            sought,
            open: open.collect(),
            looked_at: 0,
        })
    }

    pub(super) fn run(mut self) -> KafkaResult<Option<Stored>> {
        let until = Instant::now() + PATIENCE;
        if !self.open.is_empty() {
            let from = self.open.iter().map(|(place, it)| (place, it.next));
            assign(self.consumer, from)?;
        }
        while self.open.values().any(|it| !it.may_have_ended) {
            match next(self.consumer, until)? {
                Next::Message(message) => {
                    if let Some(found) = self.look_at(&message)? {
                        return Ok(Some(found));
                    }
                }
                Next::End(number) => self.ended(number),
            }
        }
        self.rest(until)
    }

    /// An end is told of by number alone, and again after each record that comes: it may be another topic's.
    fn ended(&mut self, number: i32) {
        let of_number = self.open.iter_mut().filter(|(it, _)| it.1 == number);
        for (_, stretch) in of_number {
            stretch.may_have_ended = true;
        }
    }

    /// One by one, so that it is known whose end an end is. As a rule there are none: only marks of transactions
    /// keep a partition from ending with a record.
    fn rest(mut self, until: Instant) -> KafkaResult<Option<Stored>> {
        while let Some(place) = self.open.keys().next().cloned() {
            assign(self.consumer, [(&place, self.open[&place].next)])?;
            let mut ends = Ends::default();
            while let Some(left) = self.open.get(&place).map(|it| (it.next, it.end)) {
                match next(self.consumer, until)? {
                    Next::Message(message) => {
                        ends = Ends::default();
                        if let Some(found) = self.look_at(&message)? {
                            return Ok(Some(found));
                        }
                    }
                    Next::End(_) => {
                        if ends.is_the(self.consumer, &place, left)? {
                            self.open.remove(&place);
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn look_at(&mut self, message: &BorrowedMessage<'_>) -> KafkaResult<Option<Stored>> {
        let place = (message.topic().to_owned(), message.partition());
        let (Some(stretch), Some(topic)) =
            (self.open.get_mut(&place), self.sought.places.get(&place))
        else {
            return Ok(None);
        };
        self.looked_at += 1;
        if self.looked_at > SEARCHED {
            let gave_up = RDKafkaErrorCode::OperationTimedOut;
            return Err(KafkaError::MessageConsumption(gave_up));
        }
        let found = self.readers.stored(message, topic);
        let sought = (self.sought.event_id, &self.sought.tenant);
        let found = found.filter(|it| (it.event_id, &it.tenant) == sought);
        if found.is_some() {
            return Ok(found);
        }
        stretch.next = u64::try_from(message.offset()).unwrap_or_default() + 1;
        let young = message.timestamp().to_millis() > Some(self.sought.time_ms + DISORDER_MS);
        stretch.beyond += usize::from(young);
        if stretch.next >= stretch.end || stretch.beyond > SEARCHED_BEYOND {
            self.open.remove(&place);
            self.pause(&place)?;
        }
        Ok(None)
    }

    /// Takes no more of a partition, not even its end.
    fn pause(&self, (topic, number): &Place) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, *number);
        self.consumer.pause(&list)
    }
}

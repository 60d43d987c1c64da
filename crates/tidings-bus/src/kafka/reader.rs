//! Reading with a few consumers that belong to no group: each serves one question at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tidings_event::{TenantId, Topic};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::health::State;
use super::login::Quiet;
use super::producer::is_gone;
use super::search::{Search, Sought};
use super::topics::Topics;
use super::{Config, MAX_MESSAGE_BYTES, PATIENCE, unavailable, wire};
use crate::{
    Bounds, Met, Page, Partition, Read, ReadError, Stored, Stretches, partition_of, time_of,
};

/// So many questions are answered at once; more wait.
const CONSUMERS: usize = 6;
/// A page looks at no more bytes of events, and at one event at least.
const PAGE_BYTES: usize = 16 << 20;
/// Between two tries of a question that may succeed yet.
const PAUSE: Duration = Duration::from_millis(20);
/// How many requests of a client, lines of its log among them, are served before it is asked something.
const REQUESTS: usize = 16;

pub(super) type Consumer = BaseConsumer<Quiet>;

/// A topic as it is called on the brokers, and a partition's number.
pub(super) type Place = (String, i32);

/// The consumers, made when they are first needed.
pub(super) struct Readers {
    config: ClientConfig,
    quiet: Quiet,
    topics: Arc<Topics>,
    state: Arc<State>,
    idle: Mutex<Vec<Consumer>>,
    places: Arc<Semaphore>,
    /// Records that could not be read.
    told: Mutex<Stretches<Place>>,
    /// Whether the end of a stretch of them is to be told of: asked of each record.
    is_stretch_open: AtomicBool,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) fn new(config: &Config, topics: Arc<Topics>, state: Arc<State>) -> Arc<Self> {
        let quiet = Quiet::new(config);
        let largest = MAX_MESSAGE_BYTES.to_string();
        let config = config.client(&[
            // librdkafka wants a name; nothing is ever committed under it.
            ("group.id", "tidings-readers"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "5"),
            ("fetch.error.backoff.ms", "50"),
            ("queued.min.messages", "1000"),
            ("queued.max.messages.kbytes", "16384"),
            ("fetch.message.max.bytes", &largest),
        ]);
        Arc::new(Self {
            config,
            quiet,
            topics,
            state,
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(CONSUMERS)),
            told: Mutex::default(),
            is_stretch_open: AtomicBool::new(false),
        })
    }

    /// Asks something of a consumer, on a thread that may block.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self, &Consumer) -> KafkaResult<T> + Send + 'static,
    ) -> KafkaResult<T> {
        if self.state.is_down() {
            let nobody = RDKafkaErrorCode::AllBrokersDown;
            return Err(KafkaError::MetadataFetch(nobody));
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let this = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            // Until the consumer is idle again, whether or not anybody still waits for the answer.
            let _place = place;
            let idle = this.idle().pop();
            let made = idle.map_or_else(|| this.config.create_with_context(this.quiet.clone()), Ok);
            let consumer = made?;
            log_in(&consumer);
            let answer = ask(&this, &consumer);
            // What was fetched ahead is of no use to the next question.
            if consumer.unassign().is_ok() {
                this.idle().push(consumer);
            }
            answer
        });
        let answer = asked.await.map_err(|_| KafkaError::Canceled)?;
        if answer.is_err() {
            self.state.doubt();
        }
        answer
    }

    /// Asks about a partition. `None` if it does not exist.
    async fn of<T: Send + 'static>(
        self: &Arc<Self>,
        partition: &Partition,
        ask: impl FnOnce(&Self, &Consumer, Place) -> KafkaResult<T> + Send + 'static,
    ) -> Result<Option<T>, ReadError> {
        let topic = &partition.topic;
        let partitions = self.topics.look_up(topic).await.map_err(unavailable)?;
        if partitions.is_none_or(|count| partition.number >= count) {
            return Ok(None);
        }
        let number = i32::try_from(partition.number).unwrap_or(i32::MAX);
        let place = (self.topics.name(topic).into_owned(), number);
        let answer = self.with(|this, consumer| ask(this, consumer, place)).await;
        if answer.as_ref().is_err_and(is_gone) {
            self.topics.forget(topic);
        }
        answer.map(Some).map_err(unavailable)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Consumer>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn bounds(
        self: &Arc<Self>,
        partition: Partition,
    ) -> Result<Bounds, ReadError> {
        let asked = self.of(&partition, |_, consumer, place| bounds(consumer, &place));
        Ok(asked.await?.unwrap_or(Bounds { start: 0, end: 0 }))
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        partition: Partition,
        read: Read,
    ) -> Result<Page, ReadError> {
        let (topic, from) = (partition.topic.clone(), read.from);
        let asked = self.of(&partition, move |this, consumer, place| {
            this.page(consumer, &topic, place, &read)
        });
        Ok(asked.await?.unwrap_or(Page {
            next: from,
            ..Page::default()
        }))
    }

    pub(super) async fn offset_at(
        self: &Arc<Self>,
        partition: Partition,
        time_ms: i64,
    ) -> Result<u64, ReadError> {
        let asked = self.of(&partition, move |_, consumer, place| {
            let found = at(consumer, [(&place, Offset::Offset(time_ms.max(0)))])?;
            match found.first() {
                Some((_, offset)) => Ok(*offset),
                None => Ok(bounds(consumer, &place)?.end),
            }
        });
        Ok(asked.await?.unwrap_or(0))
    }

    /// The record of an event of a tenant's, by the time in its id: its key is the tenant, so it stands in one
    /// partition of a topic.
    pub(super) async fn find(
        self: &Arc<Self>,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Result<Option<Stored>, ReadError> {
        let Some(time_ms) = time_of(event_id) else {
            return Ok(None);
        };
        let known = self.topics.existing();
        let found = self.find_in(known.clone(), &tenant, event_id, time_ms);
        if let Some(found) = found.await? {
            return Ok(Some(found));
        }
        // Another replica may have made its topic a moment ago.
        self.topics.forget_missing();
        let mut others = BTreeMap::from_iter(self.topics.list().await.map_err(unavailable)?);
        others.retain(|topic, _| !known.contains_key(topic));
        self.find_in(others, &tenant, event_id, time_ms).await
    }

    async fn find_in(
        self: &Arc<Self>,
        topics: BTreeMap<Topic, u32>,
        tenant: &TenantId,
        event_id: Uuid,
        time_ms: i64,
    ) -> Result<Option<Stored>, ReadError> {
        let places = topics.into_iter().map(|(topic, count)| {
            let number = partition_of(tenant.as_str().as_bytes(), count);
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            ((self.topics.name(&topic).into_owned(), number), topic)
        });
        let sought = Sought {
            tenant: tenant.clone(),
            event_id,
            time_ms,
            places: places.collect(),
        };
        if sought.places.is_empty() {
            return Ok(None);
        }
        let topics: Vec<Topic> = sought.places.values().cloned().collect();
        let searched = self.with(move |this, consumer| Search::new(this, consumer, &sought)?.run());
        let searched = searched.await;
        if searched.as_ref().is_err_and(is_gone) {
            // Which of them is gone is found out when they are looked up again.
            for topic in &topics {
                self.topics.doubt(topic);
            }
        }
        searched.map_err(unavailable)
    }

    fn page(
        &self,
        consumer: &Consumer,
        topic: &Topic,
        place: Place,
        read: &Read,
    ) -> KafkaResult<Page> {
        let held = bounds(consumer, &place)?;
        let from = read.from.max(held.start);
        let mut page = Page {
            records: Vec::new(),
            next: from,
            start: held.start,
            more: from < held.end,
            end: held.end,
        };
        if from >= held.end || read.limit == 0 {
            return Ok(page);
        }
        assign(consumer, [(&place, from)])?;
        let until = Instant::now() + PATIENCE;
        let (mut looked_at, mut bytes) = (0, 0);
        let mut ends = Ends::default();
        while page.next < held.end
            && looked_at < read.scan
            && page.records.len() < read.limit
            && bytes < PAGE_BYTES
        {
            let message = match next(consumer, until) {
                Ok(Next::Message(message)) => message,
                // What is left before the end are no records: marks of transactions take offsets too.
                Ok(Next::End(_)) if ends.is_the(consumer, &place, (page.next, held.end))? => {
                    page.next = held.end;
                    break;
                }
                Ok(Next::End(_)) => continue,
                // What came in time is worth more than nothing: large events on a slow line would never be read.
                Err(error) if looked_at > 0 => {
                    tracing::debug!(%error, %topic, looked_at, "a page ends early");
                    break;
                }
                Err(error) => return Err(error),
            };
            ends = Ends::default();
            looked_at += 1;
            bytes += message.payload_len() + message.key_len();
            page.next = u64::try_from(message.offset()).unwrap_or_default() + 1;
            let ours = |stored: &Stored| read.tenant.as_ref().is_none_or(|it| *it == stored.tenant);
            page.records
                .extend(self.stored(&message, topic).filter(ours));
        }
        page.more = page.next < held.end;
        Ok(page)
    }

    /// A message's record, if it is one of ours. One that seems to be and cannot be read holds nobody up: it is passed
    /// over, and told of; many in a row are told of as one stretch.
    pub(super) fn stored(&self, message: &BorrowedMessage<'_>, topic: &Topic) -> Option<Stored> {
        match wire::stored(message, topic) {
            Ok(stored) => {
                if self.is_stretch_open.load(Ordering::Relaxed) {
                    self.tell_end(message, topic);
                }
                stored
            }
            Err(why) => {
                self.tell_unreadable(message, topic, why);
                None
            }
        }
    }

    fn tell_unreadable(&self, message: &BorrowedMessage<'_>, topic: &Topic, why: &str) {
        let (place, offset) = place_of(message);
        let met = self.tell(|told| told.meet(&place, offset));
        if met == Met::Beginning {
            let partition = place.1;
            tracing::error!(%topic, partition, offset, why, "a record cannot be read and is passed over");
        }
    }

    fn tell<T>(&self, take_in: impl FnOnce(&mut Stretches<Place>) -> T) -> T {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = take_in(&mut told);
        self.is_stretch_open
            .store(told.is_open(), Ordering::Relaxed);
        taken
    }

    fn tell_end(&self, message: &BorrowedMessage<'_>, topic: &Topic) {
        let (place, offset) = place_of(message);
        if let Some((first, last)) = self.tell(|told| told.end(&place, offset)) {
            let partition = place.1;
            tracing::error!(%topic, partition, first, last, "no record of a stretch can be read; all are passed over");
        }
    }
}

fn place_of(message: &BorrowedMessage<'_>) -> (Place, u64) {
    let place = (message.topic().to_owned(), message.partition());
    (place, u64::try_from(message.offset()).unwrap_or_default())
}

/// Whether a partition really ends where a fetch has found no more. A leader that has just become one may not know yet how
/// far its partition goes, and a fetch ends early.
#[derive(Default)]
pub(super) struct Ends(bool);

impl Ends {
    /// Of an end that was told of: true once the leader knew of all that the partition holds before the fetch. The first time
    /// what is left is fetched again.
    pub(super) fn is_the(
        &mut self,
        consumer: &Consumer,
        place: &Place,
        (next, end): (u64, u64),
    ) -> KafkaResult<bool> {
        if std::mem::replace(&mut self.0, true) {
            return Ok(true);
        }
        if bounds(consumer, place)?.end < end {
            let leader = RDKafkaErrorCode::LeaderNotAvailable;
            return Err(KafkaError::MessageConsumption(leader));
        }
        assign(consumer, [(place, next)])?;
        Ok(false)
    }
}

/// Serves what the client asks of us, a login perhaps, which questions do not. Nothing is assigned, so no message comes.
fn log_in(consumer: &Consumer) {
    for _ in 0..REQUESTS {
        // What went wrong while nobody asked is of no interest any more.
        drop(consumer.poll(Duration::ZERO));
    }
}

/// Asks again while a failure may pass: a client learns late of a topic that was just made, or of a leader
/// that moved.
fn patiently<T>(ask: impl Fn(Duration) -> KafkaResult<T>) -> KafkaResult<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match ask(left) {
            Err(error) if is_passing(&error) && left > PAUSE => std::thread::sleep(PAUSE),
            asked => return asked,
        }
    }
}

fn bounds(consumer: &Consumer, (topic, number): &Place) -> KafkaResult<Bounds> {
    let (start, end) = patiently(|left| consumer.fetch_watermarks(topic, *number, left))?;
    Ok(Bounds {
        start: u64::try_from(start).unwrap_or_default(),
        end: u64::try_from(end).unwrap_or_default(),
    })
}

/// The first offset at or after a time in each partition that has any; [`Offset::End`] asks for the end.
pub(super) fn at<'p>(
    consumer: &Consumer,
    times: impl IntoIterator<Item = (&'p Place, Offset)>,
) -> KafkaResult<Vec<(Place, u64)>> {
    let mut asked = TopicPartitionList::new();
    for ((topic, number), time) in times {
        asked.add_partition_offset(topic, *number, time)?;
    }
    let found = patiently(|left| {
        let found = consumer.offsets_for_times(asked.clone(), left)?;
        for element in found.elements() {
            element.error()?;
        }
        Ok(found)
    })?;
    let found = found.elements().into_iter().filter_map(|element| {
        let Offset::Offset(offset) = element.offset() else {
            return None;
        };
        let place = (element.topic().to_owned(), element.partition());
        Some((place, u64::try_from(offset).ok()?))
    });
    Ok(found.collect())
}

pub(super) fn assign<'p>(
    consumer: &Consumer,
    from: impl IntoIterator<Item = (&'p Place, u64)>,
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for ((topic, number), offset) in from {
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        list.add_partition_offset(topic, *number, offset)?;
    }
    consumer.assign(&list)?;
    // A search may have paused one, and that outlives its assignment.
    consumer.resume(&list)
}

/// What a consumer gives next.
pub(super) enum Next<'c> {
    Message(BorrowedMessage<'c>),
    /// Of the partition of this number, in whatever topic.
    End(i32),
}

pub(super) fn next(consumer: &Consumer, until: Instant) -> KafkaResult<Next<'_>> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) => return Ok(Next::Message(message)),
            Some(Err(KafkaError::PartitionEOF(number))) => return Ok(Next::End(number)),
            // Passing: librdkafka tries again by itself.
            Some(Err(error)) if is_passing(&error) && !left.is_zero() => {}
            Some(Err(error)) => return Err(error),
            None if left.is_zero() => {
                let late = RDKafkaErrorCode::OperationTimedOut;
                return Err(KafkaError::MessageConsumption(late));
            }
            None => {}
        }
    }
}

fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_hangs_up_makes_room_only_when_its_question_has_ended() {
        // Nobody listens there, and nothing is asked of a broker.
        let config = Config::new("127.0.0.1:1");
        let topics = Arc::new(Topics::new(&config).unwrap());
        let readers = Readers::new(&config, topics, Arc::default());
        let (open, gate) = mpsc::channel::<()>();
        let (gate, begun) = (Arc::new(Mutex::new(gate)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..CONSUMERS * 3 {
            let (gate, begun) = (gate.clone(), begun.clone());
            let asked = readers.with(move |_, _| {
                begun.fetch_add(1, Ordering::SeqCst);
                let gate = gate.lock().unwrap();
                assert!(gate.recv().is_err(), "it opens when the other end goes");
                Ok(())
            });
            assert!(timeout(Duration::ZERO, asked).await.is_err());
        }
        while begun.load(Ordering::SeqCst) < CONSUMERS {
            tokio::task::yield_now().await;
        }
        assert_eq!(readers.places.available_permits(), 0);
        drop(open);
        let all = u32::try_from(CONSUMERS).unwrap();
        let all = readers.places.acquire_many(all).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), CONSUMERS);
        assert_eq!(readers.idle().len(), CONSUMERS);
        drop(all);
    }
}

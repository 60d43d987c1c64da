//! Reading with a few consumers that belong to no group: each serves one question at a time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tidings_event::Topic;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::login::Quiet;
use super::topics::Topics;
use super::{Config, MAX_MESSAGE_BYTES, PATIENCE, unavailable, wire};
use crate::{Bounds, Page, Partition, Read, ReadError, Stored, time_of};

/// So many questions are answered at once; more wait.
const CONSUMERS: usize = 6;
/// How far behind its own time a record may stand: what a delivery and two replicas' clocks differ by.
const DISORDER_MS: i64 = 10_000;
/// Between two tries of a question that may succeed yet.
const PAUSE: Duration = Duration::from_millis(20);
/// How many records a search by id looks at.
const SEARCHED: usize = 50_000;

/// How many requests of a client, lines of its log among them, are served before it is asked something.
const REQUESTS: usize = 16;

type Consumer = BaseConsumer<Quiet>;

/// A topic as it is called on the brokers, and a partition's number.
type Place = (String, i32);

/// The consumers, made when they are first needed.
pub(super) struct Readers {
    config: ClientConfig,
    quiet: Quiet,
    topics: Arc<Topics>,
    idle: Mutex<Vec<Consumer>>,
    places: Semaphore,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    pub(super) fn new(config: &Config, topics: Arc<Topics>) -> Arc<Self> {
        let quiet = Quiet::new(config);
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
            ("fetch.message.max.bytes", MAX_MESSAGE_BYTES),
        ]);
        Arc::new(Self {
            config,
            quiet,
            topics,
            idle: Mutex::default(),
            places: Semaphore::new(CONSUMERS),
        })
    }

    /// Asks something of a consumer, on a thread that may block.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Consumer) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let _place = self
            .places
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let this = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            let idle = this.idle().pop();
            let made = idle.map_or_else(|| this.config.create_with_context(this.quiet.clone()), Ok);
            let consumer = made.map_err(unavailable)?;
            log_in(&consumer);
            let answer = ask(&consumer);
            // What was fetched ahead is of no use to the next question.
            if consumer.unassign().is_ok() {
                this.idle().push(consumer);
            }
            answer
        });
        asked
            .await
            .map_err(|error| ReadError::Unavailable(error.to_string()))?
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Consumer>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the partition is there.
    async fn exists(&self, partition: &Partition) -> Result<bool, ReadError> {
        let partitions = self.topics.look_up(&partition.topic).await;
        let partitions = partitions.map_err(unavailable)?;
        Ok(partitions.is_some_and(|count| partition.number < count))
    }

    pub(super) async fn bounds(
        self: &Arc<Self>,
        partition: Partition,
    ) -> Result<Bounds, ReadError> {
        if !self.exists(&partition).await? {
            return Ok(Bounds { start: 0, end: 0 });
        }
        let place = self.place(&partition);
        self.with(move |consumer| bounds(consumer, &place)).await
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        partition: Partition,
        read: Read,
    ) -> Result<Page, ReadError> {
        if !self.exists(&partition).await? {
            return Ok(Page {
                records: Vec::new(),
                next: read.from,
            });
        }
        let place = self.place(&partition);
        self.with(move |consumer| page(consumer, &partition.topic, place, &read))
            .await
    }

    pub(super) async fn offset_at(
        self: &Arc<Self>,
        partition: Partition,
        time_ms: i64,
    ) -> Result<u64, ReadError> {
        if !self.exists(&partition).await? {
            return Ok(0);
        }
        let place = self.place(&partition);
        self.with(move |consumer| {
            let found = at_time(consumer, std::slice::from_ref(&place), time_ms)?;
            match found.first() {
                Some((_, offset)) => Ok(*offset),
                None => Ok(bounds(consumer, &place)?.end),
            }
        })
        .await
    }

    /// Where a partition is found on the brokers.
    fn place(&self, partition: &Partition) -> Place {
        let name = self.topics.name(&partition.topic).into_owned();
        (name, i32::try_from(partition.number).unwrap_or(i32::MAX))
    }

    /// The record of an event, by the time in its id.
    pub(super) async fn find(
        self: &Arc<Self>,
        event_id: Uuid,
    ) -> Result<Option<Stored>, ReadError> {
        let Some(time_ms) = time_of(event_id) else {
            return Ok(None);
        };
        let topics = self.topics.list().await.map_err(unavailable)?;
        let mut everywhere = Vec::new();
        let mut named = HashMap::new();
        for (topic, count) in topics {
            let name = self.topics.name(&topic).into_owned();
            let count = i32::try_from(count).unwrap_or(i32::MAX);
            everywhere.extend((0..count).map(|number| (name.clone(), number)));
            named.insert(name, topic);
        }
        if everywhere.is_empty() {
            return Ok(None);
        }
        self.with(move |consumer| search(consumer, &everywhere, &named, event_id, time_ms))
            .await
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
fn patiently<T>(ask: impl Fn(Duration) -> KafkaResult<T>) -> Result<T, ReadError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match ask(left) {
            Err(error) if is_passing(&error) && left > PAUSE => std::thread::sleep(PAUSE),
            asked => return asked.map_err(unavailable),
        }
    }
}

fn bounds(consumer: &Consumer, (topic, number): &Place) -> Result<Bounds, ReadError> {
    let (start, end) = patiently(|left| consumer.fetch_watermarks(topic, *number, left))?;
    Ok(Bounds {
        start: u64::try_from(start).unwrap_or_default(),
        end: u64::try_from(end).unwrap_or_default(),
    })
}

/// The first offsets at or after a time, of the partitions that have any.
fn at_time(
    consumer: &Consumer,
    partitions: &[Place],
    time_ms: i64,
) -> Result<Vec<(Place, u64)>, ReadError> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for (topic, number) in partitions {
        asked
            .add_partition_offset(topic, *number, Offset::Offset(time_ms.max(0)))
            .map_err(unavailable)?;
    }
    let found = patiently(|left| {
        let found = consumer.offsets_for_times(asked.clone(), left)?;
        for element in found.elements() {
            element.error()?;
        }
        Ok(found)
    })?;
    let mut offsets = Vec::new();
    for (topic, number) in partitions {
        let Some(element) = found.find_partition(topic, *number) else {
            continue;
        };
        if let Offset::Offset(offset) = element.offset()
            && let Ok(offset) = u64::try_from(offset)
        {
            offsets.push(((topic.clone(), *number), offset));
        }
    }
    Ok(offsets)
}

fn assign(consumer: &Consumer, from: &[(Place, u64)]) -> Result<(), ReadError> {
    let mut list = TopicPartitionList::with_capacity(from.len());
    for ((topic, number), offset) in from {
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        list.add_partition_offset(topic, *number, offset)
            .map_err(unavailable)?;
    }
    consumer.assign(&list).map_err(unavailable)?;
    // A search may have paused one, and that outlives its assignment.
    consumer.resume(&list).map_err(unavailable)
}

/// What a consumer gives next.
enum Next<'c> {
    Message(BorrowedMessage<'c>),
    End,
}

fn next(consumer: &Consumer, until: Instant) -> Result<Next<'_>, ReadError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            Some(Ok(message)) => return Ok(Next::Message(message)),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Next::End),
            // Passing: librdkafka tries again by itself.
            Some(Err(error)) if is_passing(&error) && !left.is_zero() => {}
            Some(Err(error)) => return Err(unavailable(error)),
            None if left.is_zero() => {
                return Err(ReadError::Unavailable("no broker answers in time".into()));
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

fn page(consumer: &Consumer, topic: &Topic, place: Place, read: &Read) -> Result<Page, ReadError> {
    let bounds = bounds(consumer, &place)?;
    let from = read.from.max(bounds.start);
    let mut page = Page {
        records: Vec::new(),
        next: from,
    };
    if from >= bounds.end || read.limit == 0 {
        page.next = read.from.max(bounds.start);
        return Ok(page);
    }
    assign(consumer, &[(place, from)])?;
    let until = Instant::now() + PATIENCE;
    let mut looked_at = 0;
    while looked_at < read.scan && page.records.len() < read.limit && page.next < bounds.end {
        let Next::Message(message) = next(consumer, until)? else {
            break;
        };
        looked_at += 1;
        page.next = u64::try_from(message.offset()).unwrap_or_default() + 1;
        if let Some(stored) = wire::stored(&message, topic)?
            && read
                .tenant
                .as_ref()
                .is_none_or(|tenant| stored.tenant == *tenant)
        {
            page.records.push(stored);
        }
    }
    Ok(page)
}

fn search(
    consumer: &Consumer,
    everywhere: &[Place],
    topics: &HashMap<String, Topic>,
    event_id: Uuid,
    time_ms: i64,
) -> Result<Option<Stored>, ReadError> {
    let from = at_time(consumer, everywhere, time_ms)?;
    if from.is_empty() {
        return Ok(None);
    }
    assign(consumer, &from)?;
    let until = Instant::now() + PATIENCE;
    let mut open = from.len();
    let mut past: HashSet<(String, i32)> = HashSet::new();
    for _ in 0..SEARCHED {
        if open == 0 {
            break;
        }
        match next(consumer, until)? {
            Next::End => open -= 1,
            Next::Message(message) => {
                if message.timestamp().to_millis() > Some(time_ms + DISORDER_MS) {
                    let place = (message.topic().to_owned(), message.partition());
                    if past.insert(place) {
                        open -= 1;
                        pause(consumer, &message)?;
                    }
                    continue;
                }
                let topic = topics.get(message.topic());
                let Some(topic) = topic else { continue };
                if let Some(stored) = wire::stored(&message, topic)?
                    && stored.event_id == event_id
                {
                    return Ok(Some(stored));
                }
            }
        }
    }
    Ok(None)
}

/// Takes no more of the message's partition, not even its end.
fn pause(consumer: &Consumer, message: &BorrowedMessage<'_>) -> Result<(), ReadError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(message.topic(), message.partition());
    consumer.pause(&list).map_err(unavailable)
}

//! Appending: an idempotent producer, `acks=all`, one answer for each batch.
//!
//! After an error that librdkafka calls fatal a producer takes nothing any more: when it lost its place among the
//! numbers that make it idempotent, or may not write so. Another is made then, by whoever appends next.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tidings_event::Topic;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::health::State;
use super::login::{self, Logins, Said};
use super::topics::{Topics, is_uncounted};
use super::{ANSWER, Config, DELIVERY, MAX_MESSAGE_BYTES, OpenError, RETRY_AFTER, wire};
use crate::{AppendError, Appended, Position, Record, partition_of};

/// So many bytes wait in the producer at most; more is refused as unavailable.
const QUEUE_BYTES: usize = 64 << 20;
/// librdkafka's own bounds stay above ours, so that no batch is cut by a full queue.
const QUEUE_KIB: &str = "262144";
const QUEUE_MESSAGES: &str = "1000000";
/// A producer that came to its end is not replaced sooner after its making: what ended it may last.
const RENEWED_AFTER: Duration = Duration::from_secs(1);
const UNAVAILABLE: AppendError = AppendError::Unavailable {
    retry_after: RETRY_AFTER,
};

type Client = ThreadedProducer<Context>;

/// The producer, and how batches stay together in it.
pub(super) struct Producer {
    settings: ClientConfig,
    context: Context,
    /// Singles share it, a batch holds it alone while it is handed over, so that nothing comes between.
    client: RwLock<Client>,
    /// When the client was last made anew; held while that happens.
    renewed: tokio::sync::Mutex<Option<Instant>>,
    state: Arc<State>,
    topics: Arc<Topics>,
    queued_bytes: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    pub(super) fn new(
        config: &Config,
        state: Arc<State>,
        topics: Arc<Topics>,
    ) -> Result<Self, OpenError> {
        let context = Context {
            state: Arc::clone(&state),
            logins: config.logins.clone(),
            said: Said::default(),
        };
        let settings = settings(config);
        Ok(Self {
            client: RwLock::new(settings.create_with_context(context.clone())?),
            settings,
            context,
            renewed: tokio::sync::Mutex::default(),
            state,
            topics,
            queued_bytes: Arc::default(),
        })
    }

    /// Appends a batch and answers when every record of it is acknowledged by all in-sync replicas.
    pub(super) async fn append(
        self: &Arc<Self>,
        records: Vec<Record>,
    ) -> Result<Vec<Appended>, AppendError> {
        if self.state.is_down() {
            return Err(UNAVAILABLE);
        }
        // Making a topic counts too: on a busy cluster that takes seconds.
        let deadline = Instant::now() + ANSWER;
        if self.fatal_error().is_some() {
            let renewed = timeout_at(deadline, self.renew()).await;
            renewed.unwrap_or(Err(UNAVAILABLE))?;
        }
        let partitions = match self.known_partitions(&records) {
            Some(known) => known,
            None => self.make_sure_of(&records, deadline).await?,
        };
        let answer = self.hand_over(&records, &partitions)?;
        let Ok(delivered) = timeout_at(deadline, answer).await else {
            self.state.failed("no acknowledgement in time");
            return Err(AppendError::Unknown("no acknowledgement in time".into()));
        };
        let delivered =
            delivered.map_err(|_| AppendError::Unknown("the producer stopped".into()))?;
        delivered.map(|positions| positions.into_iter().map(Appended::At).collect())
    }

    /// Which partition each record goes to; `None` when a topic is not known yet.
    fn known_partitions(&self, records: &[Record]) -> Option<Vec<u32>> {
        let mut last: Option<(&Topic, u32)> = None;
        let mut partitions = Vec::with_capacity(records.len());
        for record in records {
            let count = match last {
                Some((topic, count)) if *topic == record.topic => count,
                _ => self.topics.partitions(&record.topic)?,
            };
            last = Some((&record.topic, count));
            partitions.push(partition_of(record.key.as_bytes(), count));
        }
        Some(partitions)
    }

    /// Finds out about every topic, making those that are missing.
    async fn make_sure_of(
        &self,
        records: &[Record],
        deadline: Instant,
    ) -> Result<Vec<u32>, AppendError> {
        let why = match timeout_at(deadline, self.ensure(records)).await {
            Ok(Ok(())) => match self.known_partitions(records) {
                Some(known) => return Ok(known),
                None => "a topic went away".to_owned(),
            },
            // It is about this topic: of Kafka it says nothing.
            Ok(Err(KafkaError::AdminOp(RDKafkaErrorCode::InvalidTopic))) => {
                return Err(UNAVAILABLE);
            }
            Ok(Err(error)) if is_uncounted(&error) => return Err(UNAVAILABLE),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no topic in time".to_owned(),
        };
        self.state.failed(&why);
        Err(UNAVAILABLE)
    }

    async fn ensure(&self, records: &[Record]) -> Result<(), KafkaError> {
        for record in records {
            self.topics.ensure(&record.topic).await?;
        }
        Ok(())
    }

    /// Gives a batch to librdkafka without waiting for anything.
    fn hand_over(
        &self,
        records: &[Record],
        partitions: &[u32],
    ) -> Result<oneshot::Receiver<Delivered>, AppendError> {
        // Refused before any is handed over: what is refused among others leaves unknown what became of them.
        if records.len() > 1 && records.iter().any(|it| content(it) > MAX_MESSAGE_BYTES) {
            return Err(AppendError::TooLarge);
        }
        let bytes: usize = records.iter().map(size).sum();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued = Queued(Arc::clone(&self.queued_bytes), bytes);
        // One batch larger than the bound may still pass an empty queue.
        if before > 0 && before + bytes > QUEUE_BYTES {
            return Err(UNAVAILABLE);
        }
        let (reply, answer) = oneshot::channel();
        if let [record] = records {
            let slot = Slot::Alone(reply, queued);
            self.send(&self.client(), record, partitions[0], slot)
                .map_err(|error| refused(&error).unwrap_or(UNAVAILABLE))?;
            return Ok(answer);
        }
        let client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        let batch = Batch::new(records.len(), reply, queued);
        for (index, (record, partition)) in records.iter().zip(partitions).enumerate() {
            let slot = Slot::OfBatch(Arc::clone(&batch), index);
            if let Err(error) = self.send(&client, record, *partition, slot) {
                if index == 0 {
                    return Err(refused(&error).unwrap_or(UNAVAILABLE));
                }
                batch.fail_rest(index, &error);
                break;
            }
        }
        drop(client);
        Ok(answer)
    }

    fn client(&self) -> RwLockReadGuard<'_, Client> {
        self.client.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ended the client, if it has ended.
    fn fatal_error(&self) -> Option<String> {
        let fatal = self.client().client().fatal_error();
        fatal.map(|(_, why)| why)
    }

    /// Puts another client in the place of one that has ended.
    async fn renew(self: &Arc<Self>) -> Result<(), AppendError> {
        let mut renewed = self.renewed.try_lock().map_err(|_| UNAVAILABLE)?;
        let Some(why) = self.fatal_error() else {
            return Ok(());
        };
        self.state.broken(&why);
        if renewed.is_some_and(|at| at.elapsed() < RENEWED_AFTER) {
            return Err(UNAVAILABLE);
        }
        *renewed = Some(Instant::now());
        tracing::error!(
            why,
            "the Kafka producer came to its end; another takes its place"
        );
        let this = Arc::clone(self);
        let replaced = tokio::task::spawn_blocking(move || {
            let mut another = this.settings.create_with_context(this.context.clone())?;
            let mut client = this.client.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *client, &mut another);
            drop(client);
            // Whoever waits for the old one is told as it ends.
            drop(another);
            Ok::<_, KafkaError>(())
        });
        let why = match replaced.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(why, "the Kafka producer cannot be made anew");
        Err(UNAVAILABLE)
    }

    fn send(
        &self,
        client: &Client,
        record: &Record,
        partition: u32,
        slot: Slot,
    ) -> Result<(), KafkaError> {
        let topic = self.topics.name(&record.topic);
        let message = BaseRecord::with_opaque_to(&topic, Box::new(slot))
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .key(&record.key)
            .payload(&record.value[..])
            .timestamp(record.timestamp_ms)
            .headers(wire::headers(record));
        client.send(message).map_err(|(error, _)| {
            if is_gone(&error) {
                self.topics.forget(&record.topic);
            }
            self.context.said.error(&error, "a record was not taken");
            error
        })
    }

    /// Sends what waits, as far as brokers answer in time. It blocks.
    pub(super) fn flush(&self) {
        if let Err(error) = self.client().flush(DELIVERY) {
            tracing::warn!(%error, "records were left in the Kafka producer; their callers were not answered");
        }
    }
}

/// Of every producer of ours, the compared one included.
pub(super) fn settings(config: &Config) -> ClientConfig {
    let delivery = DELIVERY.as_millis().to_string();
    let largest = MAX_MESSAGE_BYTES.to_string();
    config.client(&[
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("linger.ms", "2"),
        ("batch.num.messages", "10000"),
        ("batch.size", "1000000"),
        ("message.max.bytes", &largest),
        ("message.timeout.ms", &delivery),
        ("request.timeout.ms", &delivery),
        ("queue.buffering.max.kbytes", QUEUE_KIB),
        ("queue.buffering.max.messages", QUEUE_MESSAGES),
    ])
}

/// About what a record takes in the producer.
fn size(record: &Record) -> usize {
    512 + content(record)
}

fn content(record: &Record) -> usize {
    record.value.len() + record.headers.as_text().len() + record.key.len()
}

/// Bytes that wait, until dropped.
struct Queued(Arc<AtomicUsize>, usize);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// What a batch's caller is told.
type Delivered = Result<Vec<Position>, AppendError>;

/// A batch under way.
struct Batch(Mutex<UnderWay>);

struct UnderWay {
    positions: Vec<Position>,
    left: usize,
    failures: Vec<KafkaError>,
    reply: Option<oneshot::Sender<Delivered>>,
    _queued: Queued,
}

/// Whom one record's delivery is told to.
enum Slot {
    /// Its caller, who waits for nothing else.
    Alone(oneshot::Sender<Delivered>, Queued),
    /// Its place in a batch.
    OfBatch(Arc<Batch>, usize),
}

impl Slot {
    fn tell(self, outcome: Result<Position, KafkaError>) {
        match self {
            Self::Alone(reply, queued) => {
                let unknown = |error: KafkaError| AppendError::Unknown(error.to_string());
                let outcome = outcome
                    .map(|position| vec![position])
                    .map_err(|error| refused(&error).unwrap_or_else(|| unknown(error)));
                drop(queued);
                let _nobody_waits = reply.send(outcome);
            }
            Self::OfBatch(batch, index) => batch.with(|under_way| {
                under_way.left -= 1;
                match outcome {
                    Ok(position) => under_way.positions[index] = position,
                    Err(error) => under_way.failures.push(error),
                }
            }),
        }
    }
}

impl Batch {
    fn new(records: usize, reply: oneshot::Sender<Delivered>, queued: Queued) -> Arc<Self> {
        let nowhere = Position {
            partition: 0,
            offset: 0,
        };
        Arc::new(Self(Mutex::new(UnderWay {
            positions: vec![nowhere; records],
            left: records,
            failures: Vec::new(),
            reply: Some(reply),
            _queued: queued,
        })))
    }

    fn with(&self, change: impl FnOnce(&mut UnderWay)) {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut under_way);
        if under_way.left == 0
            && let Some(reply) = under_way.reply.take()
        {
            let _nobody_waits = reply.send(under_way.outcome());
        }
    }

    /// Everything from an index on was not handed over.
    fn fail_rest(&self, index: usize, error: &KafkaError) {
        self.with(|under_way| {
            let rest = under_way.positions.len() - index;
            under_way.left -= rest;
            under_way
                .failures
                .extend(std::iter::repeat_n(error.clone(), rest));
        });
    }
}

impl UnderWay {
    fn outcome(&mut self) -> Delivered {
        let Some(first) = self.failures.first() else {
            return Ok(std::mem::take(&mut self.positions));
        };
        let known = self
            .failures
            .iter()
            .map(refused)
            .collect::<Option<Vec<_>>>();
        match known {
            Some(mut refusals) if refusals.len() == self.positions.len() => {
                Err(refusals.swap_remove(0))
            }
            _ => Err(AppendError::Unknown(first.to_string())),
        }
    }
}

/// What an error means after which the record certainly does not stand in the log.
fn refused(error: &KafkaError) -> Option<AppendError> {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code()? {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            Some(AppendError::TooLarge)
        }
        Code::QueueFull
        | Code::NotEnoughReplicas
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::PolicyViolation => Some(UNAVAILABLE),
        _ => None,
    }
}

/// Whether the topic, or the partition, is not there any more.
pub(super) fn is_gone(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition)
    )
}

/// Where librdkafka reports to.
#[derive(Clone)]
struct Context {
    state: Arc<State>,
    logins: Option<Arc<dyn Logins>>,
    said: Said,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        login::shown(self.logins.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.state.failed(reason);
        } else {
            self.said.error(&error, reason);
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: Box<Slot>) {
        let outcome = match result {
            Ok(message) => {
                self.state.succeeded();
                Ok(Position {
                    partition: u32::try_from(message.partition()).unwrap_or_default(),
                    offset: u64::try_from(message.offset()).unwrap_or_default(),
                })
            }
            Err((error, _)) => {
                self.said.error(error, "a record was not taken");
                if refused(error) != Some(AppendError::TooLarge) {
                    self.state.failed(&error.to_string());
                }
                Err(error.clone())
            }
        };
        slot.tell(outcome);
    }
}

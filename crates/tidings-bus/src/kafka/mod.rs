//! A real Apache Kafka as the bus, through librdkafka.
//!
//! [`producer`] appends with an idempotent producer and `acks=all`; [`reader`] reads with a few consumers
//! that belong to no group, and [`search`] finds one event with them; [`topics`] knows which topics are ours
//! and makes them, and [`counts`] holds them to the partitions they began with; [`tail`] watches for what other
//! replicas append; [`member`] shares deliveries out among replicas; [`login`] is what a client does besides;
//! [`health`] tells a broker that is gone from one that is slow. How a record looks on the wire is in [`wire`].
//!
//! What Kafka cannot promise as the embedded log does:
//! - Records of a batch for one partition are handed over together, so they stand adjacent and in order
//!   among this replica's. They are atomic as far as they fit into one Kafka record batch
//!   (`batch.size`, `max.message.bytes`); where one is cut, the answer is [`AppendError::Unknown`].
//! - Keys are not kept here ([`Bus::keeps_receipts`] is false).
//! - An event is found by its UUID v7's time, which must be its record's timestamp, in its tenant's partitions; one that
//!   was appended long after that time only where little stands before it ([`search`]).

pub mod bare;
mod counts;
mod health;
mod login;
mod member;
mod producer;
mod reader;
mod search;
mod tail;
mod topics;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tidings_event::{TenantId, Topic};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    AppendError, Appended, Bounds, Bus, Health, Membership, Page, Partition, Pending, Read,
    ReadError, Record, Stored,
};
pub use counts::Counts;
use health::State;
pub use login::{Login, Logins};
use producer::Producer;
use reader::Readers;
use tail::Tail;
use topics::Topics;

/// How long librdkafka tries to deliver a record. It looks once a second what is over its time.
const DELIVERY: Duration = Duration::from_millis(1_700);
/// How long a caller waits for that: an answer within 2 s was promised (spec/kafka.md).
const ANSWER: Duration = Duration::from_millis(1_800);
/// How long any other question to a broker may take.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// The largest message that is sent, taken by a topic made here, and read: 1 MB of data, its envelope and headers.
const MAX_MESSAGE_BYTES: usize = 2 << 20;
/// When a caller may try again after a passing failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Which Kafka, and how topics are made.
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// What makes logins for brokers that want a new token each time (SASL OAUTHBEARER), as Amazon MSK does with IAM.
    pub logins: Option<Arc<dyn Logins>>,
    /// Settings of librdkafka, laid over ours: SASL, TLS, compression and so on.
    pub properties: BTreeMap<String, String>,
    /// What the name of each topic begins with on the brokers, so that installations can share them.
    pub topic_prefix: String,
    /// Whether a topic that is not there is made.
    pub create_topics: bool,
    /// How many partitions a topic made here gets.
    pub partitions: u32,
    /// How many replicas it gets; `None` leaves it to the broker.
    pub replication: Option<u32>,
    /// How long a topic made here keeps events; `None` leaves it to the broker.
    pub retention_age: Option<Duration>,
    /// How many bytes each partition of it keeps; `None` leaves it to the broker.
    pub retention_bytes: Option<u64>,
    /// How many partitions of each topic count; `None` takes what there are.
    pub counts: Option<Arc<dyn Counts>>,
    /// The topics that hold events of ours, beside those appended to. Others are never read.
    pub topics: Vec<Topic>,
}

impl Config {
    /// 12 partitions, replicas as the broker says, topics made when missing.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
            logins: None,
            topic_prefix: String::new(),
            create_topics: true,
            partitions: 12,
            replication: None,
            retention_age: None,
            retention_bytes: None,
            counts: None,
            topics: Vec::new(),
        }
    }

    /// Ours, then a client's own, then the operator's.
    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        let patience = PATIENCE.as_millis().to_string();
        let common = [
            ("bootstrap.servers", self.brokers.as_str()),
            ("client.id", "tidings"),
            // Producers allow it by default: a question about a topic would make it, as the broker likes.
            ("allow.auto.create.topics", "false"),
            ("socket.keepalive.enable", "true"),
            ("socket.timeout.ms", &patience),
            ("socket.connection.setup.timeout.ms", &patience),
            ("reconnect.backoff.ms", "50"),
            ("reconnect.backoff.max.ms", "500"),
            ("topic.metadata.refresh.interval.ms", "30000"),
            ("topic.metadata.refresh.fast.interval.ms", "50"),
        ];
        let of_logins = self.logins.iter().flat_map(|_| login::SETTINGS);
        let given = self
            .properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let all = common.into_iter().chain(of_logins);
        for (name, value) in all.chain(own.iter().copied()).chain(given) {
            client.set(name, value);
        }
        client
    }
}

/// Why the bus could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is unknown to librdkafka or makes no sense to it.
    #[error("the Kafka client refuses its configuration")]
    Configuration(#[from] KafkaError),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[from] std::io::Error),
}

/// The bus. Opening it needs no broker: until one answers, it is degraded.
#[derive(Debug)]
pub struct Kafka {
    config: Config,
    state: Arc<State>,
    topics: Arc<Topics>,
    producer: Arc<Producer>,
    readers: Arc<Readers>,
    tail: Tail,
}

impl Kafka {
    /// Sets the clients up.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let state = Arc::new(State::default());
        let topics = Arc::new(Topics::new(config)?);
        let producer = Producer::new(config, Arc::clone(&state), Arc::clone(&topics))?;
        let readers = Readers::new(config, Arc::clone(&topics), Arc::clone(&state));
        let tail = Tail::start(config, Arc::clone(&topics))?;
        state.start_probe(config)?;
        Ok(Self {
            config: config.clone(),
            state,
            topics,
            producer: Arc::new(producer),
            readers,
            tail,
        })
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.state.stop();
        self.tail.stop();
        self.producer.flush();
    }
}

impl Bus for Kafka {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        Box::pin(async move {
            let tenants: Vec<TenantId> = records.iter().map(|it| it.tenant.clone()).collect();
            let appended = self.producer.append(records).await?;
            self.tail.tell(&tenants);
            Ok(appended)
        })
    }

    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        Box::pin(self.readers.read(partition, read))
    }

    fn find(
        &self,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        Box::pin(self.readers.find(tenant, event_id))
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        Box::pin(async move { self.topics.list().await.map_err(unavailable) })
    }

    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        Box::pin(self.readers.bounds(partition))
    }

    fn offset_at(&self, partition: Partition, time_ms: i64) -> Pending<'_, Result<u64, ReadError>> {
        Box::pin(self.readers.offset_at(partition, time_ms))
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.tail.all()
    }

    fn tail_of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        self.tail.of(tenant)
    }

    fn health(&self) -> Health {
        self.state.health()
    }

    fn carry(&self, topics: Vec<Topic>) {
        self.topics.carry(topics);
    }

    fn join(&self, group: &str, topic: &Topic) -> Option<Membership> {
        let topics = Arc::clone(&self.topics);
        Some(member::join(&self.config, topics, group, topic))
    }

    fn keeps_receipts(&self) -> bool {
        false
    }
}

fn unavailable(error: KafkaError) -> ReadError {
    ReadError::Unavailable(error.to_string())
}

//! Watches for what other replicas append, while somebody listens.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};
use tidings_event::{TenantId, Topic};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::login::Quiet;
use super::topics::Topics;
use super::{Config, OpenError, PATIENCE, wire};
use crate::tails::Tails;

/// How long the watcher waits for a message before it looks at what else has changed.
const POLL: Duration = Duration::from_millis(100);
/// Messages that follow each other within so long are told of once …
const GATHER: Duration = Duration::from_millis(2);
/// … but none is kept back for longer than this.
const GATHER_AT_MOST: Duration = Duration::from_millis(20);

/// How often is looked for topics that other replicas have made, nobody else would tell of their first events, and for the
/// ends of partitions where they could not be asked for.
const LOOK_FOR_TOPICS: Duration = Duration::from_secs(3);

/// The thread, and whom it tells.
#[derive(Debug)]
pub(super) struct Tail {
    tails: Arc<Tails>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Tail {
    pub(super) fn start(config: &Config, topics: Arc<Topics>) -> Result<Self, OpenError> {
        let consumer: BaseConsumer<Quiet> = config
            .client(&[
                ("group.id", "tidings-tail"),
                ("enable.auto.commit", "false"),
                ("enable.partition.eof", "true"),
                // Of a topic that was made anew, everything is news.
                ("auto.offset.reset", "earliest"),
                // Only that there is something matters, not what.
                ("fetch.message.max.bytes", "16384"),
                ("queued.min.messages", "1"),
                ("queued.max.messages.kbytes", "1024"),
                ("fetch.wait.max.ms", "250"),
            ])
            .create_with_context(Quiet::new(config))?;
        let tails = Arc::new(Tails::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            consumer,
            topics,
            tails: Arc::clone(&tails),
            stopping: Arc::clone(&stopping),
            handle: Handle::current(),
            assigned: BTreeMap::new(),
            assigned_at: Instant::now(),
            from: TopicPartitionList::new(),
            vague: false,
        };
        let thread = std::thread::Builder::new()
            .name("kafka-tail".into())
            .spawn(move || watcher.run())?;
        Ok(Self {
            tails,
            stopping,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn all(&self) -> watch::Receiver<u64> {
        self.tails.all()
    }

    pub(super) fn of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        self.tails.of(tenant)
    }

    /// Records of these tenants became readable.
    pub(super) fn tell(&self, tenants: &[TenantId]) {
        self.tails.tell(tenants);
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches Kafka panicked");
        }
    }
}

struct Watcher {
    consumer: BaseConsumer<Quiet>,
    topics: Arc<Topics>,
    tails: Arc<Tails>,
    stopping: Arc<AtomicBool>,
    handle: Handle,
    assigned: BTreeMap<Topic, u32>,
    assigned_at: Instant,
    /// Where each partition is watched from.
    from: TopicPartitionList,
    /// Whether the ends of some were not known then: what came before they are reached may be news.
    vague: bool,
}

impl Watcher {
    fn run(mut self) {
        let mut looked = Instant::now();
        while !self.stopping.load(Ordering::Relaxed) {
            let wanted = if self.tails.are_followed() {
                if looked.elapsed() > LOOK_FOR_TOPICS {
                    if let Err(error) = self.handle.block_on(self.topics.list()) {
                        tracing::debug!(%error, "looking for new topics");
                    }
                    looked = Instant::now();
                }
                self.topics.existing()
            } else {
                BTreeMap::new()
            };
            let ask_again = self.vague && self.assigned_at.elapsed() > LOOK_FOR_TOPICS;
            if (wanted != self.assigned || ask_again)
                && let Err(error) = self.assign(wanted)
            {
                tracing::warn!(%error, "Kafka cannot be watched; streams of other replicas' events wait");
            }
            self.listen();
        }
    }

    /// Waits for messages, and tells those whom they concern.
    fn listen(&self) {
        let (mut came, mut tenants, mut everybody) = (None, HashSet::new(), false);
        let mut polled = self.consumer.poll(POLL);
        while let Some(one) = polled {
            match one {
                Ok(message) if self.tails.are_of_tenants() => {
                    tenants.extend(wire::tenant(&message));
                }
                Ok(_) => {}
                // What came before the end is news where it was not known where that is.
                Err(KafkaError::PartitionEOF(_)) => everybody |= self.vague,
                Err(error) => {
                    tracing::debug!(%error, "watching Kafka");
                    break;
                }
            }
            let came = *came.get_or_insert_with(Instant::now);
            if came.elapsed() > GATHER_AT_MOST {
                break;
            }
            polled = self.consumer.poll(GATHER);
        }
        if everybody {
            self.tails.tell_everybody();
        } else if came.is_some() {
            self.tails.tell(&tenants);
        }
    }

    /// Watches these from their ends; those watched before go on where they were. What stands before the ends is told of to
    /// everybody: nobody knows whose it is.
    fn assign(&mut self, wanted: BTreeMap<Topic, u32>) -> KafkaResult<()> {
        let before = self.consumer.position()?;
        let is_known = |offset: &Offset| matches!(offset, Offset::Offset(_));
        let known = |list: &TopicPartitionList, topic: &str, partition: i32| {
            let found = list.find_partition(topic, partition)?;
            found.error().ok()?;
            Some(found.offset()).filter(is_known)
        };
        let (mut list, mut new) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (topic, partitions) in &wanted {
            let topic = self.topics.name(topic);
            for partition in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                let at = known(&before, &topic, partition)
                    .or_else(|| known(&self.from, &topic, partition));
                match at {
                    Some(at) => list.add_partition_offset(&topic, partition, at)?,
                    None => new.add_partition_offset(&topic, partition, Offset::End)?,
                }
            }
        }
        self.vague = false;
        if new.count() > 0 {
            let ends = self.consumer.offsets_for_times(new.clone(), PATIENCE);
            let ends = ends.inspect_err(|error| tracing::debug!(%error, "asking for ends"));
            for asked in new.elements() {
                let (topic, partition) = (asked.topic(), asked.partition());
                let ends = ends.as_ref().ok();
                let end = ends.and_then(|ends| known(ends, topic, partition));
                self.vague |= end.is_none();
                list.add_partition_offset(topic, partition, end.unwrap_or(Offset::End))?;
            }
        }
        self.consumer.assign(&list)?;
        (self.from, self.assigned, self.assigned_at) = (list, wanted, Instant::now());
        self.tails.tell_everybody();
        Ok(())
    }
}

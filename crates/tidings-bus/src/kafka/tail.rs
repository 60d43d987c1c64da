//! Watches for what other replicas append, while somebody listens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};
use tidings_event::Topic;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::login::Quiet;
use super::topics::Topics;
use super::{Config, OpenError};

/// How long the watcher waits for a message before it looks at what else has changed.
const POLL: Duration = Duration::from_millis(100);
/// Messages that came within so long are told of once.
const GATHER: Duration = Duration::from_millis(2);

/// How often is looked for topics that other replicas have made: nobody else would tell of their first events.
const LOOK_FOR_TOPICS: Duration = Duration::from_secs(3);

/// The thread, and whom it tells.
#[derive(Debug)]
pub(super) struct Tail {
    tell: Arc<watch::Sender<u64>>,
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
                ("auto.offset.reset", "latest"),
                // Only that there is something matters, not what.
                ("fetch.message.max.bytes", "16384"),
                ("queued.min.messages", "1"),
                ("queued.max.messages.kbytes", "1024"),
                ("fetch.wait.max.ms", "250"),
            ])
            .create_with_context(Quiet::new(config))?;
        let tell = Arc::new(watch::Sender::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            consumer,
            topics,
            tell: Arc::clone(&tell),
            stopping: Arc::clone(&stopping),
            handle: Handle::current(),
            assigned: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("kafka-tail".into())
            .spawn(move || watcher.run())?;
        Ok(Self {
            tell,
            stopping,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.tell.subscribe()
    }

    /// Tells of something that became readable.
    pub(super) fn bump(&self) {
        bump(&self.tell);
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

fn bump(tell: &watch::Sender<u64>) {
    tell.send_modify(|changes| *changes = changes.wrapping_add(1));
}

struct Watcher {
    consumer: BaseConsumer<Quiet>,
    topics: Arc<Topics>,
    tell: Arc<watch::Sender<u64>>,
    stopping: Arc<AtomicBool>,
    handle: Handle,
    assigned: BTreeMap<Topic, u32>,
}

impl Watcher {
    fn run(mut self) {
        let mut looked = Instant::now();
        while !self.stopping.load(Ordering::Relaxed) {
            let wanted = if self.tell.receiver_count() > 0 {
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
            if wanted != self.assigned
                && let Err(error) = self.assign(wanted)
            {
                tracing::warn!(%error, "Kafka cannot be watched; streams of other replicas' events wait");
            }
            match self.consumer.poll(POLL) {
                None => {}
                // The end was reached: what came before it may be news.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                    while let Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) =
                        self.consumer.poll(GATHER)
                    {}
                    bump(&self.tell);
                }
                Some(Err(error)) => tracing::debug!(%error, "watching Kafka"),
            }
        }
    }

    /// Watches these from their ends; those watched before go on where they were.
    fn assign(&mut self, wanted: BTreeMap<Topic, u32>) -> KafkaResult<()> {
        let before = self.consumer.position()?;
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in &wanted {
            let topic = self.topics.name(topic);
            for partition in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                let at = before
                    .find_partition(&topic, partition)
                    .map(|found| found.offset())
                    .filter(|offset| matches!(offset, Offset::Offset(_)));
                list.add_partition_offset(&topic, partition, at.unwrap_or(Offset::End))?;
            }
        }
        self.consumer.assign(&list)?;
        self.assigned = wanted;
        Ok(())
    }
}

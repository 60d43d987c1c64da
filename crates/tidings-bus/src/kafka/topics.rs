//! Which topics are ours, how many partitions each has, and how one is made.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use tidings_event::Topic;

use super::counts::Counts;
use super::login::Quiet;
use super::{Config, MAX_MESSAGE_BYTES, PATIENCE};

/// So many topics that may exist by now are asked for at once: a catalogue may carry hundreds that nobody has
/// published to yet.
const ASKED_AT_ONCE: usize = 16;
/// A topic that did not exist is not asked for again so soon: lists, streams and dispatchers look again all the time.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// Between two looks whether a topic that was just made has leaders, and how often is looked.
const LEADERS_PAUSE: Duration = Duration::from_millis(25);
const LEADERS_LOOKS: usize = 60;

/// Topics that are known to exist, with their partitions, and those that may.
pub(super) struct Topics {
    client: Arc<ThreadedProducer<Quiet>>,
    /// Makes topics, if they are to be made. It is not polled, so it cannot log in with tokens.
    admin: Option<AdminClient<Quiet>>,
    prefix: String,
    partitions: u32,
    replication: Option<u32>,
    counts: Option<Arc<dyn Counts>>,
    /// What it has said, which does not change with what brokers say.
    counted: Mutex<BTreeMap<Topic, u32>>,
    /// Configuration of a topic made here.
    settings: Vec<(&'static str, String)>,
    known: RwLock<BTreeMap<Topic, u32>>,
    /// When each was last found not to exist.
    missing: Mutex<BTreeMap<Topic, Instant>>,
    /// Ours, whether they exist yet or not.
    carried: Mutex<BTreeSet<Topic>>,
    /// Held while a topic is made, so that one is made once.
    making: tokio::sync::Mutex<()>,
    /// Those that may exist by now are asked for by one at a time.
    listing: Together<KafkaError>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    pub(super) fn new(config: &Config) -> Result<Self, KafkaError> {
        let (client, quiet) = (config.client(&[]), Quiet::new(config));
        let admin = config
            .create_topics
            .then(|| client.create_with_context(quiet.clone()));
        Ok(Self {
            client: Arc::new(client.create_with_context(quiet)?),
            admin: admin.transpose()?,
            prefix: config.topic_prefix.clone(),
            partitions: config.partitions,
            replication: config.replication,
            counts: config.counts.clone(),
            counted: Mutex::default(),
            settings: settings(config),
            known: RwLock::default(),
            missing: Mutex::default(),
            carried: Mutex::new(config.topics.iter().cloned().collect()),
            making: tokio::sync::Mutex::new(()),
            listing: Together::default(),
        })
    }

    /// Counts topics among ours.
    pub(super) fn carry(&self, topics: impl IntoIterator<Item = Topic>) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.extend(topics);
    }

    /// What a topic is called on the brokers.
    pub(super) fn name<'t>(&self, topic: &'t Topic) -> Cow<'t, str> {
        if self.prefix.is_empty() {
            Cow::Borrowed(topic.as_str())
        } else {
            Cow::Owned(format!("{}{topic}", self.prefix))
        }
    }

    /// How many partitions a topic has, as far as is known.
    pub(super) fn partitions(&self, topic: &Topic) -> Option<u32> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(topic).copied()
    }

    /// Those that are known to exist.
    pub(super) fn existing(&self) -> BTreeMap<Topic, u32> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// The same as [`doubt`](Self::doubt), of a topic that a broker said is gone.
    pub(super) fn forget(&self, topic: &Topic) {
        if self.doubt(topic) {
            tracing::warn!(%topic, "a broker says that the topic, or a partition of it, is gone");
        }
    }

    /// Asks the brokers about a topic again when it is next needed, since it may be gone, or another by now. Whether it was
    /// known.
    pub(super) fn doubt(&self, topic: &Topic) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(topic).is_some()
    }

    /// Asks about every topic again when it is next needed, however lately it was found not to exist.
    pub(super) fn forget_missing(&self) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.clear();
    }

    /// How many partitions a topic has; `None` if it does not exist.
    pub(super) async fn look_up(&self, topic: &Topic) -> Result<Option<u32>, KafkaError> {
        if let Some(partitions) = self.partitions(topic) {
            return Ok(Some(partitions));
        }
        if self.was_missing(topic) {
            return Ok(None);
        }
        let found = self.asked(topic, false).await?;
        Ok(found.map(|found| found.partitions))
    }

    fn was_missing(&self, topic: &Topic) -> bool {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let since = missing.get(topic);
        since.is_some_and(|since| since.elapsed() < MISSING_FOR)
    }

    /// What brokers say of a topic now, which may be one just made here.
    async fn asked(&self, topic: &Topic, new: bool) -> Result<Option<Found>, KafkaError> {
        let (client, name) = (Arc::clone(&self.client), self.name(topic).into_owned());
        let asked = tokio::task::spawn_blocking(move || ask(&client, &name)).await;
        let found = asked.map_err(|_| KafkaError::Canceled)??;
        self.note(topic, found, new).await
    }

    /// How many partitions a topic has, making it if it does not exist.
    pub(super) async fn ensure(&self, topic: &Topic) -> Result<u32, KafkaError> {
        if let Some(partitions) = self.look_up(topic).await? {
            return Ok(partitions);
        }
        let missing = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic);
        let Some(admin) = &self.admin else {
            tracing::error!(%topic, "the topic does not exist, and topics are not to be made (bus.kafka.create_topics)");
            return Err(missing);
        };
        let _one_at_a_time = self.making.lock().await;
        // Whoever waited here for another to make it is done; so is who was told of a moment ago.
        if let Some(partitions) = self.partitions(topic) {
            return Ok(partitions);
        }
        if let Some(found) = self.asked(topic, false).await? {
            return Ok(found.partitions);
        }
        let mut new = self.make(admin, topic).await?;
        // What is made is not known to every broker at once, nor led.
        for _ in 0..LEADERS_LOOKS {
            if let Some(found) = self.asked(topic, new).await? {
                new = false;
                if found.led {
                    return Ok(found.partitions);
                }
            }
            tokio::time::sleep(LEADERS_PAUSE).await;
        }
        Err(missing)
    }

    /// False when another made it at the same time.
    async fn make(&self, admin: &AdminClient<Quiet>, topic: &Topic) -> Result<bool, KafkaError> {
        let replication = self
            .replication
            .map_or(-1, |count| i32::try_from(count).unwrap_or(-1));
        let name = self.name(topic);
        let mut new = NewTopic::new(
            &name,
            i32::try_from(self.partitions).unwrap_or(i32::MAX),
            TopicReplication::Fixed(replication),
        );
        for (setting, value) in &self.settings {
            new = new.set(setting, value);
        }
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let made = admin.create_topics([&new], &options).await?;
        match made.into_iter().next() {
            Some(Ok(_)) => {
                tracing::info!(%topic, partitions = self.partitions, "topic made");
                Ok(true)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code @ RDKafkaErrorCode::InvalidTopic))) => {
                tracing::error!(%topic, "Kafka takes no topic of this name; another may differ from it only in '.' and '_'");
                Err(KafkaError::AdminOp(code))
            }
            Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
            None => Err(KafkaError::Canceled),
        }
    }

    async fn note(
        &self,
        topic: &Topic,
        found: Option<Found>,
        new: bool,
    ) -> Result<Option<Found>, KafkaError> {
        let Some(found) = found else {
            self.miss(topic);
            return Ok(None);
        };
        let partitions = self.counted(topic, found.partitions, new).await?;
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.remove(topic);
        drop(missing);
        self.carry([topic.clone()]);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(topic.clone(), partitions);
        Ok(Some(Found {
            partitions,
            ..found
        }))
    }

    fn miss(&self, topic: &Topic) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|_, since| since.elapsed() < MISSING_FOR);
        missing.insert(topic.clone(), Instant::now());
    }

    /// How many of the partitions that were found count, or [`uncounted`](is_uncounted).
    async fn counted(&self, topic: &Topic, found: u32, new: bool) -> Result<u32, KafkaError> {
        let Some(counts) = &self.counts else {
            return Ok(found);
        };
        let said = || self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said().get(topic).copied().filter(|_| !new);
        if let Some(counted) = before {
            return Ok(counted.min(found));
        }
        let counted = counts
            .count(self.name(topic).into_owned(), found, new)
            .await;
        let counted = counted.map_err(|error| {
            tracing::warn!(%topic, error, "how many partitions of the topic count cannot be told; it is not used till then");
            UNCOUNTED
        })?;
        said().insert(topic.clone(), counted);
        if counted < found {
            tracing::warn!(
                %topic, found, counted,
                "the topic has got more partitions; events go on to those it had first"
            );
        }
        Ok(counted.min(found))
    }

    fn carried(&self) -> Vec<Topic> {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.iter().cloned().collect()
    }

    fn unknown<'t>(&self, carried: &'t [Topic]) -> Vec<&'t Topic> {
        let topics = carried.iter();
        topics
            .filter(|topic| self.partitions(topic).is_none() && !self.was_missing(topic))
            .collect()
    }

    /// Every topic of ours that exists, with its partitions.
    pub(super) async fn list(&self) -> Result<Vec<(Topic, u32)>, KafkaError> {
        let carried = self.carried();
        if !self.unknown(&carried).is_empty() {
            self.listing.once(self.ask_for_unknown()).await?;
        }
        let existing = carried.into_iter().filter_map(|topic| {
            self.partitions(&topic)
                .map(|partitions| (topic, partitions))
        });
        Ok(existing.collect())
    }

    /// Asks for what is carried by now: whoever came before the question is answered by it too.
    async fn ask_for_unknown(&self) -> Result<(), KafkaError> {
        let carried = self.carried();
        for some in self.unknown(&carried).chunks(ASKED_AT_ONCE) {
            let asking: Vec<_> = some
                .iter()
                .map(|topic| {
                    let (client, name) = (Arc::clone(&self.client), self.name(topic).into_owned());
                    tokio::task::spawn_blocking(move || ask(&client, &name))
                })
                .collect();
            for (topic, asked) in some.iter().zip(asking) {
                let found = asked.await.map_err(|_| KafkaError::Canceled)??;
                // Who can use the others is not to wait for it.
                if self.note(topic, found, false).await.is_err() {
                    self.miss(topic);
                }
            }
        }
        Ok(())
    }
}

/// A question that many may have at once: one asks it, and whoever came before that is answered too, well or not.
struct Together<E> {
    /// When the last question was begun, and what it came to.
    answered: tokio::sync::Mutex<Option<(Instant, Result<(), E>)>>,
}

impl<E> Default for Together<E> {
    fn default() -> Self {
        Self {
            answered: tokio::sync::Mutex::default(),
        }
    }
}

impl<E: Clone> Together<E> {
    async fn once(&self, ask: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let came = Instant::now();
        let mut answered = self.answered.lock().await;
        if let Some((begun, answer)) = &*answered
            && *begun > came
        {
            return answer.clone();
        }
        let begun = Instant::now();
        let answer = ask.await;
        *answered = Some((begun, answer.clone()));
        answer
    }
}

fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let age = config.retention_age.map(|age| age.as_millis().to_string());
    let bytes = config.retention_bytes.map(|bytes| bytes.to_string());
    let mut settings = vec![("max.message.bytes", MAX_MESSAGE_BYTES.to_string())];
    settings.extend(age.map(|age| ("retention.ms", age)));
    settings.extend(bytes.map(|bytes| ("retention.bytes", bytes)));
    settings
}

/// The answer where it is not known which partitions of a topic count.
const UNCOUNTED: KafkaError = KafkaError::MetadataFetch(RDKafkaErrorCode::InvalidPartitions);

/// Whether the brokers are well, and only that is not known.
pub(super) fn is_uncounted(error: &KafkaError) -> bool {
    *error == UNCOUNTED
}

/// A topic as brokers see it.
#[derive(Debug, Clone, Copy)]
struct Found {
    partitions: u32,
    /// Whether each partition has a leader. One without holds up its own tenants only.
    led: bool,
}

/// Asks a broker. It blocks.
fn ask(client: &ThreadedProducer<Quiet>, topic: &str) -> Result<Option<Found>, KafkaError> {
    let metadata = client.client().fetch_metadata(Some(topic), PATIENCE)?;
    let Some(found) = metadata.topics().first() else {
        return Ok(None);
    };
    let led = found.partitions().iter().all(|one| one.leader() >= 0);
    let partitions = u32::try_from(found.partitions().len()).unwrap_or_default();
    Ok((found.error().is_none() && partitions > 0).then_some(Found { partitions, led }))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_ask_twice_at_most() {
        let (together, asked) = (Together::default(), Cell::new(0));
        let (open, gate) = tokio::sync::watch::channel(false);
        let one = async |fails: bool| {
            let asking = together.once(async {
                asked.set(asked.get() + 1);
                let mut gate = gate.clone();
                gate.wait_for(|open| *open).await.unwrap();
                if fails { Err(()) } else { Ok(()) }
            });
            asking.await
        };
        // The first may not know what has changed since it began; the second asks for all others.
        let opened = async || {
            tokio::task::yield_now().await;
            open.send(true).unwrap();
            Ok::<(), ()>(())
        };
        let all = tokio::join!(one(false), one(false), one(false), one(false), opened());
        assert_eq!(all, (Ok(()), Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!(asked.get(), 2);
        assert_eq!(one(true).await, Err(()));
        assert_eq!(asked.get(), 3, "who comes later asks anew");
        open.send(false).unwrap();
        let after = tokio::join!(one(true), one(true), one(false), opened());
        assert_eq!(after, (Err(()), Err(()), Err(()), Ok(())));
        assert_eq!(
            asked.get(),
            5,
            "nobody waits for one failure after the other"
        );
    }
}

//! Which bus the gateway runs on, from the configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer};
use tidings_bus::Bus;
use tidings_bus::disabled::Disabled;
use tidings_bus::embedded::{self, Embedded};
use tidings_event::Topic;
use tidings_gateway::clock::Clock;
use tidings_store::Store;

use crate::config::optional_duration;
use crate::data_folder::{BUS, keep_private};

#[cfg(feature = "kafka")]
mod counts;
#[cfg(feature = "kafka")]
mod msk;

/// How long idempotency keys are honoured (source A).
const KEY_TTL: Duration = Duration::from_hours(24);

/// The most partitions of a topic that the embedded bus takes.
const MAX_PARTITIONS: u32 = 1_000;

/// `[bus]`. Each key is explained in `tidings.default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BusConfig {
    pub(crate) kind: BusKind,
    pub(crate) partitions: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub(crate) retention_age: Option<Duration>,
    pub(crate) retention_bytes: u64,
    pub(crate) kafka: KafkaConfig,
}

/// `bus.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BusKind {
    Embedded,
    Kafka,
    Disabled,
}

/// `[bus.kafka]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(
    not(feature = "kafka"),
    expect(dead_code, reason = "read by that feature")
)]
pub(crate) struct KafkaConfig {
    brokers: String,
    aws_region: String,
    topic_prefix: String,
    create_topics: bool,
    replication: u32,
    topics: Vec<String>,
    #[serde(deserialize_with = "properties")]
    properties: BTreeMap<String, String>,
}

impl BusConfig {
    /// What no kind of bus can be opened with.
    pub(crate) fn check(&self) -> Result<()> {
        if self.partitions == 0 {
            bail!("bus.partitions must be 1 or more");
        }
        if self.kind == BusKind::Embedded && self.partitions > MAX_PARTITIONS {
            bail!("bus.partitions must be 1 to {MAX_PARTITIONS} on the embedded bus");
        }
        let kafka = self.kind == BusKind::Kafka;
        if kafka && self.kafka.brokers.is_empty() {
            bail!("the Kafka bus needs its brokers: --kafka-brokers HOST:PORT or KAFKA_BROKERS");
        }
        if kafka && !self.kafka.aws_region.is_empty() && self.kafka.create_topics {
            bail!(
                "with bus.kafka.aws_region topics cannot be made by Tidings, whose client for that cannot log in with \
                 IAM: make them yourself and set bus.kafka.create_topics = false"
            );
        }
        Ok(())
    }

    /// The topics that are read besides.
    pub(crate) fn topics(&self) -> Result<Vec<Topic>> {
        let topics = self.kafka.topics.iter().map(|name| name.parse());
        let topics: Result<Vec<Topic>, _> = topics.collect();
        topics.context("bus.kafka.topics")
    }

    /// Opens it. `routed` are the topics that the gateway writes to; the store, which is opened after it, remembers what
    /// brokers do not.
    pub(crate) fn open(
        &self,
        folder: &Path,
        clock: &Clock,
        routed: Vec<Topic>,
        store: &Arc<OnceLock<Store>>,
    ) -> Result<Arc<dyn Bus>> {
        Ok(match self.kind {
            BusKind::Embedded => Arc::new(self.embedded(folder, clock)?),
            BusKind::Kafka => self.kafka(routed, store)?,
            BusKind::Disabled => {
                tracing::warn!("the bus is disabled: events are checked, counted and skipped");
                Arc::new(Disabled::default())
            }
        })
    }

    fn embedded(&self, folder: &Path, clock: &Clock) -> Result<Embedded> {
        keep_private(&folder.join(BUS))?;
        let clock = clock.clone();
        let bus = Embedded::open(embedded::Config {
            folder: folder.to_owned(),
            partitions: self.partitions,
            retention_age: self.retention_age,
            retention_bytes: (self.retention_bytes > 0).then_some(self.retention_bytes),
            key_ttl: KEY_TTL,
            now_ms: Arc::new(move || clock.now_ms()),
        });
        bus.context("the log cannot be opened")
    }

    #[cfg(feature = "kafka")]
    fn kafka(&self, mut topics: Vec<Topic>, store: &Arc<OnceLock<Store>>) -> Result<Arc<dyn Bus>> {
        let kafka = &self.kafka;
        topics.extend(self.topics()?);
        let config = tidings_bus::kafka::Config {
            brokers: kafka.brokers.clone(),
            logins: msk::logins(&kafka.aws_region)?,
            properties: kafka.properties.clone(),
            topic_prefix: kafka.topic_prefix.clone(),
            create_topics: kafka.create_topics,
            partitions: self.partitions,
            replication: (kafka.replication > 0).then_some(kafka.replication),
            retention_age: self.retention_age,
            retention_bytes: (self.retention_bytes > 0).then_some(self.retention_bytes),
            counts: Some(Arc::new(counts::InStore(Arc::clone(store)))),
            topics,
        };
        let bus =
            tidings_bus::kafka::Kafka::open(&config).context("the Kafka bus cannot be opened")?;
        Ok(Arc::new(bus))
    }

    #[cfg(not(feature = "kafka"))]
    fn kafka(&self, _: Vec<Topic>, _: &Arc<OnceLock<Store>>) -> Result<Arc<dyn Bus>> {
        bail!(
            "this build speaks no Kafka; build it with the feature 'kafka', which is on by default"
        )
    }
}

/// Settings of librdkafka: a variable's name cannot hold its dots, so `_` stands for one.
fn properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Setting {
        Flag(bool),
        Number(i64),
        Text(String),
    }
    let given = BTreeMap::<String, Setting>::deserialize(deserializer)?;
    let named = given.into_iter().map(|(name, setting)| {
        let value = match setting {
            Setting::Flag(value) => value.to_string(),
            Setting::Number(value) => value.to_string(),
            Setting::Text(value) => value,
        };
        (name.replace('_', "."), value)
    });
    Ok(named.collect())
}

//! Publishing to a Kafka that is there already, and what it is compared with there.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::output::{Format, Output, print_line};

/// Topics of the gateway, of the bare handler and of Kafka's own producer; each run has its own.
const GATEWAY: &str = "tidings-bench";
const BARE: &str = "tidings-bench-bare";
const OWN: &str = "tidings-bench-own";
/// What each topic's name ends with.
const TOPIC: &str = "platform.data.events";
/// As many as a gateway's topic has unless it is told otherwise.
const PARTITIONS: u32 = 12;
/// Records of Kafka's own producer: some seconds.
const OWN_RECORDS: &str = "400000";

// Its name is that of the arguments that it is flattened into.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// The bus: embedded, or kafka with --kafka-brokers
    #[arg(long, value_name = "KIND", value_parser = ["embedded", "kafka"], default_value = "embedded")]
    bus: String,
    /// The brokers, as host:port, separated by commas. Topics of the bench stay there
    #[arg(long, value_name = "HOST:PORT", required_if_eq("bus", "kafka"))]
    kafka_brokers: Option<String>,
    /// Where idempotency keys are kept: a Valkey or Redis; if not given, the data folder
    #[arg(long, value_name = "URL", requires = "kafka_brokers")]
    receipts: Option<String>,
    /// The folder of Kafka's jars, for its own producer's benchmark; Java must be there
    #[arg(long, value_name = "DIR", requires = "kafka_brokers")]
    kafka_libs: Option<PathBuf>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            bus: "embedded".to_owned(),
            kafka_brokers: None,
            receipts: None,
            kafka_libs: None,
        }
    }
}

impl Arguments {
    /// The Kafka to publish to, if it is not the embedded log.
    pub(super) fn chosen(&self) -> Option<OnKafka> {
        let brokers = self.kafka_brokers.clone().filter(|_| self.bus == "kafka")?;
        Some(OnKafka {
            brokers,
            receipts: self.receipts.clone(),
            libs: self.kafka_libs.clone(),
        })
    }
}

/// Which Kafka, and what beside it.
pub(super) struct OnKafka {
    brokers: String,
    receipts: Option<String>,
    libs: Option<PathBuf>,
}

impl OnKafka {
    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Lets a gateway publish there.
    pub(super) fn direct(&self, gateway: &mut Command) {
        gateway.args(["--bus", "kafka", "--kafka-brokers", &self.brokers]);
        let prefix = format!("{GATEWAY}-{}.", std::process::id());
        gateway.env("TIDINGS_BUS__KAFKA__TOPIC_PREFIX", prefix);
        if let Some(url) = &self.receipts {
            gateway.env("TIDINGS_RECEIPTS__URL", url);
        }
    }

    /// Records per second of Kafka's own producer, if its jars were named.
    pub(super) async fn own_rate(&self) -> Result<Option<f64>> {
        let Some(libs) = &self.libs else {
            return Ok(None);
        };
        // Where the tool may not make its topic itself. One partition, as the bench's one tenant has.
        let prefix = format!("{OWN}-{}.", std::process::id());
        drop(Bare::open(&self.brokers, &prefix, 1).await?);
        let mut command = Command::new("java");
        command.arg("-cp").arg(libs.join("*"));
        command.arg("org.apache.kafka.tools.ProducerPerformance");
        command.args(["--topic", &format!("{prefix}{TOPIC}")]);
        command.args(["--num-records", OWN_RECORDS, "--record-size", "1024"]);
        command.args(["--throughput", "-1", "--producer-props"]);
        command.arg(format!("bootstrap.servers={}", self.brokers));
        command.args(["acks=all", "enable.idempotence=true", "linger.ms=2"]);
        command.arg("batch.size=1000000");
        command.stdin(Stdio::null());
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = running
            .await?
            .context("Kafka's own benchmark could not be run")?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("Kafka's own benchmark failed: {why}");
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.lines().rev().find_map(records_per_second);
        rate.map(Some)
            .with_context(|| format!("Kafka's own benchmark said no rate: {said}"))
    }

    /// Says below the table what the figures are of.
    pub(super) fn say(&self, output: Output) -> Result<()> {
        let home = if self.receipts.is_some() {
            "Valkey or Redis"
        } else {
            "the data folder's SQLite"
        };
        if output.format == Format::Table {
            return print_line(&format!("on Kafka; idempotency keys in {home}"));
        }
        output.one(&json!({ "bus": "kafka", "idempotencyKeys": home }))
    }
}

/// From `400000 records sent, 81234.5 records/sec (79.3 MB/sec), …`.
fn records_per_second(line: &str) -> Option<f64> {
    let before = line.split_once(" records/sec")?.0;
    before.rsplit_once(", ")?.1.parse().ok()
}

/// What the bare handler produces with.
pub(super) struct Bare(
    #[cfg(feature = "kafka")] tidings_bus::kafka::bare::Bare,
    #[cfg(not(feature = "kafka"))] std::convert::Infallible,
);

impl Bare {
    /// For the bare handler.
    pub(super) async fn of_handler(brokers: &str) -> Result<Self> {
        let prefix = format!("{BARE}-{}.", std::process::id());
        Self::open(brokers, &prefix, PARTITIONS).await
    }
}

#[cfg(feature = "kafka")]
impl Bare {
    async fn open(brokers: &str, prefix: &str, partitions: u32) -> Result<Self> {
        let mut config = tidings_bus::kafka::Config::new(brokers);
        prefix.clone_into(&mut config.topic_prefix);
        config.partitions = partitions;
        let topic = TOPIC.parse()?;
        let bare = tidings_bus::kafka::bare::Bare::open(&config, &topic).await;
        Ok(Self(bare.context("the baseline has no Kafka")?))
    }

    /// Under the bench's one tenant, as the gateway. The partition and the offset of each.
    pub(super) async fn append(&self, values: &[&[u8]]) -> Result<Vec<(u32, u64)>> {
        let positions = self.0.append("bench", values).await?;
        let positions = positions.iter();
        Ok(positions.map(|it| (it.partition, it.offset)).collect())
    }
}

#[cfg(not(feature = "kafka"))]
impl Bare {
    async fn open(_: &str, _: &str, _: u32) -> Result<Self> {
        bail!("this build speaks no Kafka")
    }

    pub(super) async fn append(&self, _: &[&[u8]]) -> Result<Vec<(u32, u64)>> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_last_line() {
        let line =
            "400000 records sent, 81234.500000 records/sec (79.33 MB/sec), 12.1 ms avg latency";
        assert_eq!(records_per_second(line), Some(81234.5));
        assert_eq!(records_per_second("Picked up JAVA_TOOL_OPTIONS"), None);
    }
}

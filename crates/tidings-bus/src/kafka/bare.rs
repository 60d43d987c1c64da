//! The same broker without the house around it: what `tidings bench` compares publishing with.
//!
//! Settings are the bus's own (idempotent, `acks=all`, its batching); a record is a key and a value.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tidings_event::Topic;
use tokio::sync::oneshot;

use super::login::Said;
use super::topics::Topics;
use super::{Config, OpenError, producer};
use crate::{AppendError, Position, partition_of};

/// A producer to one topic.
pub struct Bare {
    client: ThreadedProducer<Context>,
    topic: String,
    partitions: u32,
}

impl std::fmt::Debug for Bare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bare").finish_non_exhaustive()
    }
}

impl Bare {
    /// Sets the client up, and makes the topic if it is missing.
    pub async fn open(config: &Config, topic: &Topic) -> Result<Self, OpenError> {
        let topics = Topics::new(config)?;
        let partitions = topics.ensure(topic).await?;
        Ok(Self {
            client: producer::settings(config).create_with_context(Context::default())?,
            topic: topics.name(topic).into_owned(),
            partitions,
        })
    }

    /// Hands records of one key over, and answers where each stands when all in-sync replicas have it.
    pub async fn append(&self, key: &str, values: &[&[u8]]) -> Result<Vec<Position>, AppendError> {
        let partition = partition_of(key.as_bytes(), self.partitions);
        let unknown = |error: &dyn std::fmt::Display| AppendError::Unknown(error.to_string());
        let mut answers = Vec::with_capacity(values.len());
        for value in values {
            let (reply, answer) = oneshot::channel();
            let record = BaseRecord::with_opaque_to(&self.topic, Box::new(reply))
                .partition(i32::try_from(partition).unwrap_or(i32::MAX))
                .key(key)
                .payload(*value);
            let sent = self.client.send(record);
            sent.map_err(|(error, _)| unknown(&error))?;
            answers.push(answer);
        }
        let mut positions = Vec::with_capacity(values.len());
        for answer in answers {
            positions.push(answer.await.map_err(|error| unknown(&error))??);
        }
        Ok(positions)
    }
}

#[derive(Default)]
struct Context {
    said: Said,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.line(level, facility, message);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<oneshot::Sender<Result<Position, AppendError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, reply: Self::DeliveryOpaque) {
        let delivered = match result {
            Ok(message) => Ok(Position {
                partition: u32::try_from(message.partition()).unwrap_or_default(),
                offset: u64::try_from(message.offset()).unwrap_or_default(),
            }),
            Err((error, _)) => Err(AppendError::Unknown(error.to_string())),
        };
        let _nobody_waits = reply.send(delivered);
    }
}

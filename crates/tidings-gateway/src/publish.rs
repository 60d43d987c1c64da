//! THE WAY IN: shape → authorise → validate → place → append.
//!
//! Every publish of every surface is one [`Command`] through [`Line::publish`]. The steps before `append`
//! are pure functions over an immutable [`Rulebook`]: nothing is awaited or queried before it. Order is held
//! by types: each step takes what only the step before can make. [`Line::explain`] runs the same steps with
//! the trail switched on and stops before `append`.
//!
//! *Deduplicate* has no step of its own here: the embedded bus decides key, event and counter in one atomic
//! append ([`tidings_bus::Bus::keeps_receipts`]).

pub mod authorise;
pub mod command;
pub mod place;
pub mod refusal;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{AppendError, Appended, Bus, Position, Receipt, Record, partition_of};
use tidings_event::{Code, EventType, Topic};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::clock::Clock;
use crate::rulebook::{Rulebook, Shelf};
use authorise::{authorise, shape};
use command::Command;
use place::{Placed, Placement, place};
use refusal::{Refusal, Rule};
use validate::validate;

/// The answer to one event that was published, now or by an earlier request with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Ours.
    pub event_id: Uuid,
    /// The producer's.
    pub id: String,
    /// The producer's.
    pub source: String,
    /// What happened.
    pub event_type: EventType,
    /// Where it stands.
    pub topic: Topic,
    /// Where it stands.
    pub partition: u32,
    /// Where it stands.
    pub offset: u64,
    /// Whether its key was known, so that nothing was appended.
    pub duplicate: bool,
    /// The idempotency key in force, given or made; a CloudEvent has none.
    pub idempotency_key: Option<String>,
}

/// One rule's verdict in an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which rule.
    pub rule: Rule,
    /// What it refused, or `None` when it let the event pass.
    pub refused: Option<Code>,
    /// Why.
    pub detail: String,
}

/// What each rule decided, written down only when somebody asks.
#[derive(Debug)]
pub struct Trail(Option<Vec<Step>>);

impl Trail {
    /// Writes nothing down and costs nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Writes every verdict down.
    pub fn on() -> Self {
        Self(Some(Vec::new()))
    }

    fn pass(&mut self, rule: Rule, detail: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.0 {
            steps.push(Step {
                rule,
                refused: None,
                detail: detail(),
            });
        }
    }
}

/// What would happen to a publish, and why.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Each rule that was asked, in order; the last one refused, if any did.
    pub steps: Vec<Step>,
    /// Where the event would go, if accepted.
    pub outcome: Result<Destination, Refusal>,
}

/// Where an event would go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The topic.
    pub topic: Topic,
    /// Its partition's number.
    pub partition: u32,
    /// The envelope, byte by byte.
    pub envelope: bytes::Bytes,
}

/// The line: what its steps consult and append to.
pub struct Line {
    bus: Arc<dyn Bus>,
    shelf: Arc<Shelf>,
    clock: Clock,
    partitions: u32,
}

impl Line {
    /// A line over a bus whose new topics get so many partitions.
    pub fn new(bus: Arc<dyn Bus>, shelf: Arc<Shelf>, clock: Clock, partitions: u32) -> Self {
        Self {
            bus,
            shelf,
            clock,
            partitions,
        }
    }

    /// Publishes 1 to 1,000 events: all of them, or none.
    pub async fn publish(&self, command: Command) -> Result<Vec<Published>, Refusal> {
        let placed = self.prepare(command, &mut Trail::off())?;
        let span = tracing::debug_span!(target: "tidings::trace", "append");
        append(&*self.bus, placed).instrument(span).await
    }

    /// Whether [`publish`](Self::publish) would get as far as the bus. Pure.
    pub(crate) fn check(&self, command: Command) -> Result<(), Refusal> {
        self.prepare(command, &mut Trail::off()).map(drop)
    }

    /// What [`publish`](Self::publish) would do with one event. Appends nothing.
    pub async fn explain(&self, command: Command) -> Explanation {
        let mut trail = Trail::on();
        let outcome = self.prepare(command, &mut trail);
        let mut steps = trail.0.unwrap_or_default();
        let outcome = match outcome {
            Ok(placed) => self.destination(&placed.records[0]).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &outcome {
            let (rule, detail) = (refusal.rule, refusal.detail.clone());
            let refused = Some(refusal.code);
            steps.push(Step {
                rule,
                refused,
                detail,
            });
        }
        Explanation { steps, outcome }
    }

    /// A topic keeps the partitions it was made with, whatever new ones get.
    async fn destination(&self, record: &Record) -> Result<Destination, Refusal> {
        let topics = self.bus.topics().await;
        let topics = topics.map_err(|error| Refusal::fault("Asking the bus", &error))?;
        let known = topics.iter().find(|(topic, _)| *topic == record.topic);
        let partitions = known.map_or(self.partitions, |(_, partitions)| *partitions);
        Ok(Destination {
            topic: record.topic.clone(),
            partition: partition_of(record.key.as_bytes(), partitions),
            envelope: record.value.clone(),
        })
    }

    /// The pure part of the line.
    fn prepare(&self, command: Command, trail: &mut Trail) -> Result<Placed, Refusal> {
        let rulebook: &Rulebook = &self.shelf.rulebook();
        let shaped = shape(command, trail);
        let authorised = authorise(shaped, rulebook, trail)?;
        let valid = validate(authorised, trail)?;
        Ok(place(
            valid,
            rulebook,
            self.clock.now_ms(),
            &|| self.clock.new_id(),
            trail,
        ))
    }
}

/// The last step, and the only place that appends.
async fn append(bus: &dyn Bus, placed: Placed) -> Result<Vec<Published>, Refusal> {
    let fresh: Vec<(Uuid, Topic)> = placed
        .records
        .iter()
        .map(|record| (record.event_id, record.topic.clone()))
        .collect();
    let alone = placed.alone;
    let outcomes = bus
        .append(placed.records)
        .await
        .map_err(|error| refused(error, alone))?;
    let published = placed.placements.into_iter().zip(fresh).zip(outcomes);
    Ok(published
        .map(|((placement, fresh), outcome)| receipt(placement, fresh, outcome))
        .collect())
}

fn receipt(placement: Placement, fresh: (Uuid, Topic), outcome: Appended) -> Published {
    let duplicate = matches!(outcome, Appended::Repeat(_));
    let Receipt {
        event_id,
        topic,
        partition,
        offset,
    } = match outcome {
        Appended::Repeat(receipt) => receipt,
        Appended::At(Position { partition, offset }) => Receipt {
            event_id: fresh.0,
            topic: fresh.1,
            partition,
            offset,
        },
    };
    let Placement {
        id,
        source,
        key,
        event_type,
    } = placement;
    // An event that is its own id repeats under the id of the first.
    let id = if id == fresh.0.to_string() {
        event_id.to_string()
    } else {
        id
    };
    Published {
        event_id,
        id,
        source,
        event_type,
        topic,
        partition,
        offset,
        duplicate,
        idempotency_key: key,
    }
}

fn refused(error: AppendError, alone: bool) -> Refusal {
    const SOON: Duration = Duration::from_secs(1);
    let append = |code, detail: &str| Refusal::new(code, Rule::Append, detail);
    match error {
        AppendError::KeyReused(indexes) => {
            let detail = "The idempotency key was used within 24 h for another body; a new event needs a new key.";
            let reused = || {
                Refusal::new(Code::IdempotencyKeyReused, Rule::Idempotency, detail).field("idempotencyKey")
            };
            let all = indexes.into_iter().map(|index| (index, reused())).collect();
            Refusal::of_batch(all, alone).unwrap_or_else(reused)
        }
        AppendError::Full => {
            append(Code::StorageFull, "The storage of the log has no room left; nothing was published.")
                .retry_after(Duration::from_secs(10))
        }
        AppendError::TooLarge => append(
            Code::EventPayloadTooLarge,
            "The event with its envelope is larger than the bus takes; nothing was published.",
        ),
        AppendError::Unavailable { retry_after } => append(
            Code::BrokerUnavailable,
            "The bus cannot take events now; nothing was published. Retry with the same idempotency key.",
        )
        .retry_after(retry_after),
        AppendError::Poisoned => append(
            Code::BrokerUnavailable,
            "The log's storage failed to sync and takes no more events until the operator restarts it.",
        )
        .retry_after(Duration::from_secs(30)),
        AppendError::Unknown(cause) => {
            tracing::warn!(%cause, "an append has an unknown outcome");
            append(
                Code::BrokerUnavailable,
                "It is not known whether the event was published. Retry with the same idempotency key.",
            )
            .retry_after(SOON)
        }
    }
}

//! The append, and what its outcome means to whoever asked for it.

use std::time::Duration;

use tidings_bus::{AppendError, Appended, Bus, Position, Receipt};
use tidings_event::{Code, Topic};
use tokio::time::{Instant, timeout_at};

use super::Published;
use super::claim::key_reused;
use super::place::{Outcome, Placed, Placement};
use super::refusal::{AcceptedEvent, Refusal, Rule};

/// What was not acknowledged.
pub(super) struct Unpublished {
    pub(super) error: AppendError,
    placements: Vec<Placement>,
    alone: bool,
}

impl Unpublished {
    /// Says under which keys to ask again, given or made, where nobody knows whether the events were appended.
    pub(super) fn refusal(self) -> Refusal {
        let is_unknown = matches!(self.error, AppendError::Unknown(_));
        let refusal = refused(self.error, self.alone);
        if !is_unknown {
            return refusal;
        }
        let asked = self.placements.into_iter();
        let asked = asked.filter(|it| matches!(it.outcome, Outcome::Appended));
        let events = asked.filter_map(|it| {
            Some(AcceptedEvent {
                event_id: it.event_id,
                idempotency_key: it.key?,
            })
        });
        refusal.accepted(events.collect())
    }
}

/// The only place that appends.
pub(super) async fn append(
    bus: &dyn Bus,
    placed: Placed,
    deadline: Option<Instant>,
) -> Result<Vec<Published>, Unpublished> {
    let Placed {
        records,
        placements,
        alone,
        holds: _,
    } = placed;
    let topics: Vec<Topic> = records.iter().map(|record| record.topic.clone()).collect();
    let appended = async {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        bus.append(records).await
    };
    let outcomes = match deadline {
        None => appended.await,
        Some(deadline) => timeout_at(deadline, appended)
            .await
            .unwrap_or_else(|_| Err(AppendError::Unknown("no acknowledgement in time".into()))),
    };
    match outcomes {
        Ok(outcomes) => Ok(acknowledged(placements, topics.into_iter().zip(outcomes))),
        Err(error) => Err(Unpublished {
            error,
            placements,
            alone,
        }),
    }
}

/// The receipt of each event, with the outcomes of those that were appended.
fn acknowledged(
    placements: Vec<Placement>,
    mut outcomes: impl Iterator<Item = (Topic, Appended)>,
) -> Vec<Published> {
    let mut published: Vec<Published> = Vec::with_capacity(placements.len());
    for placement in placements {
        let one = match &placement.outcome {
            Outcome::Appended => {
                let (topic, outcome) = outcomes.next().expect("each record has its outcome");
                receipt(placement, topic, outcome)
            }
            Outcome::Before(before) => {
                let before = before.clone();
                let topic = before.topic.clone();
                receipt(placement, topic, Appended::Repeat(before))
            }
            Outcome::With(index) => Published {
                duplicate: true,
                ..published[*index].clone()
            },
        };
        published.push(one);
    }
    published
}

fn receipt(placement: Placement, topic: Topic, outcome: Appended) -> Published {
    let duplicate = matches!(outcome, Appended::Repeat(_));
    let skipped = matches!(outcome, Appended::Skipped);
    let fresh = |partition, offset| Receipt {
        event_id: placement.event_id,
        topic,
        partition,
        offset,
    };
    let Receipt {
        event_id,
        topic,
        partition,
        offset,
    } = match outcome {
        Appended::Repeat(receipt) => receipt,
        Appended::At(Position { partition, offset }) => fresh(partition, offset),
        Appended::Skipped => fresh(0, 0),
    };
    let Placement {
        event_id: named,
        id,
        source,
        key,
        event_type,
        outcome: _,
    } = placement;
    // An event that is its own id repeats under the id of the first.
    let id = if id == named.to_string() {
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
        skipped,
        idempotency_key: key,
    }
}

fn refused(error: AppendError, alone: bool) -> Refusal {
    const SOON: Duration = Duration::from_secs(1);
    let append = |code, detail: &str| Refusal::new(code, Rule::Append, detail);
    match error {
        AppendError::KeyReused(indexes) => key_reused(indexes, alone),
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

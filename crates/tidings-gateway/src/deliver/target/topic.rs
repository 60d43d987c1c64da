//! Another topic of the same tenant's: the event is appended there once more, marked as a copy, under the name that a
//! webhook would have as its id. What the topic has had of that name within 24 h is not appended again.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::json;
use tidings_event::{Attribute, COPY_ATTRIBUTE, Code};
use tidings_store::{CauseRow, Store};

use super::webhook::message_id;
use super::{Handover, Outcome, Target, Verdict};
use crate::clock::Clock;
use crate::publish::copy::Copy;
use crate::publish::refusal::Refusal;
use crate::publish::{Line, Published};

/// Appends copies.
pub struct Topics {
    line: Arc<Line>,
    store: Store,
    clock: Clock,
}

impl Topics {
    /// By the line; which event a copy is of is noted in the store.
    pub(crate) fn new(line: Arc<Line>, store: Store, clock: Clock) -> Self {
        Self { line, store, clock }
    }

    async fn copy(&self, handover: &Handover) -> Result<Published, Outcome> {
        let subscription = &handover.subscription;
        let event = &*handover.event;
        let Some(topic) = subscription.target.topic() else {
            return Err(Outcome::failed("the subscription is of no topic", false));
        };
        if event.extension(COPY_ATTRIBUTE).is_some() {
            return Err(Outcome::failed("a copy is not copied again", false));
        }
        if !self.line.takes_copies(topic) {
            let sentence = format!(
                "TARGET_NOT_ALLOWED: copies may not go to topic '{topic}', which is not in delivery.topics or \
                 belongs to a catalogue"
            );
            return Err(Outcome::failed(sentence, false));
        }
        let mut added = Vec::new();
        if handover.replayed {
            added.push(("replayed", Attribute::Boolean(true)));
        }
        if let Some(replay) = handover.replay {
            added.push(("replayid", Attribute::Text(replay.to_string())));
        }
        let copy = Copy {
            event,
            topic,
            subscription: subscription.addressed(),
            name: message_id(event.event_id, subscription.addressed()),
            added,
        };
        let published = self.line.copy(copy).await.map_err(|it| refused(&it))?;
        let row = CauseRow {
            cause: event.event_id,
            event_id: published.event_id,
            tenant: event.tenant.clone(),
            created_at_ms: self.clock.now_ms(),
        };
        // Where this fails the copy is made again, which finds it and writes it then.
        let noted = self.store.causes().put(&row).await;
        noted.map_err(|error| Outcome::failed(error.to_string(), true))?;
        Ok(published)
    }
}

impl Target for Topics {
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let timeout = handover.subscription.delivery.timeout;
            match tokio::time::timeout(timeout, self.copy(&handover)).await {
                Ok(Ok(published)) => delivered(&published),
                Ok(Err(outcome)) => outcome,
                Err(_) => Outcome::failed("the bus did not answer in time", true),
            }
        })
    }
}

fn delivered(published: &Published) -> Outcome {
    let place = json!({
        "eventId": published.event_id,
        "topic": published.topic.as_str(),
        "partition": published.partition,
        "offset": published.offset,
        "duplicate": published.duplicate,
    });
    Outcome {
        response_body: place.to_string(),
        ..Outcome::delivered()
    }
}

fn refused(refusal: &Refusal) -> Outcome {
    let unreachable = matches!(refusal.code, Code::BrokerUnavailable | Code::StorageFull);
    let sentence = format!("{}: {}", refusal.code.as_str(), refusal.detail);
    Outcome {
        verdict: Verdict::Failed {
            retry_after: refusal.retry_after,
            unreachable,
        },
        ..Outcome::failed(sentence, unreachable)
    }
}

//! What is written down of a delivery. The members are those of a trace (delivery.md, "Settled details").

use serde::{Deserialize, Serialize};
use tidings_store::{AttemptRow, DeadLetterRow, PendingRow, storable};
use uuid::Uuid;

use super::counted::AttemptOutcome;
use super::queue::Delivery;
use super::target::Outcome;

/// How much is kept of an answer with the events of a batch that are not its first, in bytes.
const SHORTENED: usize = 256;

/// Where the time went before and during an attempt, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// From the log to its queue.
    pub log: i64,
    /// Behind another of its key.
    pub key: i64,
    /// For the rate limit, or for one of the attempts at once to end.
    pub rate_limit: i64,
    /// For the breaker of its host to close.
    pub breaker: i64,
    /// For others to go with in one message.
    pub batch: i64,
    /// Between attempts.
    pub back_off: i64,
    /// Connecting: looking the name up, the connection and its handshake.
    pub connect: i64,
    /// In the subscriber.
    pub subscriber: i64,
}

/// What is kept of a delivery that is one of a replay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// The replay.
    pub id: Uuid,
    /// The subscription, where history is sent again: its rows stand under the replay's id.
    pub of: Option<Uuid>,
    /// The number that the event has there, if it was sent before.
    pub number: Option<u64>,
    /// Whether it goes to another target than the subscription's, which gets nothing by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// The message that an event went in together with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InBatch {
    /// Its `webhook-id`.
    pub id: String,
    /// How many events it had.
    pub events: usize,
}

/// What a pending delivery's row has of the batch that it failed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FailedIn {
    /// The least number in it.
    pub(crate) lead: u64,
    /// All numbers in it, in the row of that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) members: Vec<u64>,
}

/// What an attempt's row has besides its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptDetail {
    /// The subscription's revision that routed the event.
    pub revision: u32,
    /// The status, where the target has one.
    pub status: Option<u16>,
    /// How long it took.
    pub latency_ms: i64,
    /// What went wrong.
    pub error: Option<String>,
    /// What was answered.
    pub response_headers: Vec<(String, String)>,
    /// The beginning of it.
    pub response_body: String,
    /// The key whose order is kept.
    pub lane: Option<String>,
    /// Whether somebody asked for it.
    pub replayed: bool,
    /// The replay that it is one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replayed>,
    /// The message that it went in with others. The whole answer to it is kept with the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<InBatch>,
    /// Where the time went.
    pub ledger: Ledger,
}

/// What a pending delivery's row has besides its columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PendingDetail {
    /// The subscription's revision that routed the event.
    pub(crate) revision: u32,
    /// Attempts before the schedule began anew, by a replay.
    pub(crate) base: u32,
    /// What its age counts from, in ms since 1970: when it was read from the log, or was last sent again or released by
    /// somebody.
    pub(crate) since_ms: i64,
    /// The dead letter that it closes.
    pub(crate) dead_letter: Option<Uuid>,
    /// Topic, partition and offset of its event, if they are known.
    pub(crate) at: Option<(String, u32, u64)>,
    /// The replay that it is one of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replay: Option<Replayed>,
    /// The batch that it goes again in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<FailedIn>,
    /// Where the time went until it was left to the store.
    pub(crate) ledger: Ledger,
    /// When that was, in ms since 1970; 0 where it is not known.
    pub(crate) left_ms: i64,
}

/// An attempt that has ended, as it is the same for all events of a message.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) outcome: Outcome,
    pub(super) started_at_ms: i64,
    pub(super) latency_ms: i64,
    /// The message, if it could hold several.
    pub(super) batch: Option<InBatch>,
}

impl Made {
    /// Adds the attempt's time to where a delivery's went.
    pub(super) fn account(&self, ledger: &mut Ledger) {
        let connecting = i64::try_from(self.outcome.connecting.as_millis());
        let connecting = connecting.unwrap_or(i64::MAX).min(self.latency_ms);
        ledger.connect += connecting;
        ledger.subscriber += self.latency_ms - connecting;
    }

    /// For the second event of a message and those after it: of what was answered the beginning is kept.
    pub(super) fn shortened(mut self) -> Self {
        self.outcome.response_headers.clear();
        let body = &mut self.outcome.response_body;
        let end = (0..=SHORTENED.min(body.len())).rfind(|end| body.is_char_boundary(*end));
        body.truncate(end.unwrap_or_default());
        self
    }
}

/// The row of an attempt that has ended.
pub(super) fn attempt(
    delivery: &Delivery,
    subscription: Uuid,
    made: Made,
    came_to: AttemptOutcome,
) -> AttemptRow {
    let Made {
        outcome,
        started_at_ms,
        latency_ms,
        batch,
    } = made;
    let detail = AttemptDetail {
        revision: delivery.revision,
        status: outcome.status,
        latency_ms,
        error: outcome.error,
        response_headers: outcome.response_headers,
        response_body: outcome.response_body,
        lane: delivery.lane.clone(),
        replayed: delivery.is_replayed(),
        replay: delivery.replay,
        batch,
        ledger: delivery.ledger,
    };
    AttemptRow {
        subscription,
        sequence: delivery.sequence,
        number: delivery.attempts + 1,
        tenant: delivery.event.tenant.clone(),
        event_id: delivery.event.event_id,
        started_at_ms,
        outcome: came_to.as_str().into(),
        detail: serde_json::to_string(&detail).expect("plain members become JSON"),
    }
}

/// A pending delivery that ends though nothing was sent, with the reason.
pub(crate) fn without_attempt(
    row: &PendingRow,
    detail: PendingDetail,
    error: &str,
    now_ms: i64,
) -> AttemptRow {
    let detail = AttemptDetail {
        revision: detail.revision,
        status: None,
        latency_ms: 0,
        error: Some(error.to_owned()),
        response_headers: Vec::new(),
        response_body: String::new(),
        lane: row.lane.clone(),
        replayed: detail.dead_letter.is_some() || detail.replay.is_some(),
        replay: detail.replay,
        batch: None,
        ledger: detail.ledger,
    };
    AttemptRow {
        subscription: row.subscription,
        sequence: row.sequence,
        number: row.attempts + 1,
        tenant: row.tenant.clone(),
        event_id: row.event_id,
        started_at_ms: now_ms,
        outcome: AttemptOutcome::GaveUp.as_str().into(),
        detail: serde_json::to_string(&detail).expect("plain members become JSON"),
    }
}

/// A delivery that was given up.
pub(super) fn dead_letter(
    delivery: &Delivery,
    subscription: Uuid,
    id: Uuid,
    attempts: u32,
    error: String,
    now: i64,
) -> DeadLetterRow {
    let event = String::from_utf8(delivery.event.to_structured()).expect("JSON is UTF-8");
    DeadLetterRow {
        id,
        tenant: delivery.event.tenant.clone(),
        subscription,
        sequence: delivery.number(),
        event_id: delivery.event.event_id,
        event_type: delivery.event.event_type.clone(),
        event,
        attempts,
        last_error: storable(error),
        created_at_ms: now,
        state: "open".into(),
    }
}

/// A delivery that has to wait, in one of the three states of its row.
pub(super) fn pending(
    delivery: &Delivery,
    subscription: Uuid,
    at: Option<(String, u32, u64)>,
    attempts: u32,
    state: &str,
    (next_at_ms, left_ms): (i64, i64),
) -> PendingRow {
    let detail = PendingDetail {
        revision: delivery.revision,
        base: delivery.base,
        since_ms: delivery.since_ms,
        dead_letter: delivery.dead_letter,
        at,
        replay: delivery.replay,
        batch: delivery.batch.clone(),
        ledger: delivery.ledger,
        left_ms,
    };
    PendingRow {
        subscription,
        sequence: delivery.sequence,
        tenant: delivery.event.tenant.clone(),
        event_id: delivery.event.event_id,
        lane: delivery.lane.clone(),
        attempts,
        state: state.into(),
        next_at_ms,
        detail: serde_json::to_string(&detail).expect("plain members become JSON"),
    }
}

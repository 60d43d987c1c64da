//! Deliver now: the one part of the way out that a publish waits for. Handlers with `async = false` run here, after
//! the append and before the acknowledgement; what fails is a dead letter, and never a failed publish.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tidings_bus::{Record, Stored};
use tidings_event::{Event, EventType};
use tidings_store::{Flush, ProgressRow};
use uuid::Uuid;

use super::counted::AttemptOutcome;
use super::queue::{Delivery, Origin, Places};
use super::record::{self, Made};
use super::target::{Carried, Outcome};
use crate::envelope;
use crate::plugins::{InProcess, When, until, workspace_of};
use crate::publish::{Line, Published};
use crate::subscription::{Receiver, State, Subscription};

/// What marks a record as a copy, which nobody handles.
const COPY_HEADER: &str = "ce_copyof";
/// What all handlers of a publish may take together.
const LIMIT: Duration = Duration::from_secs(5);

/// The records that somebody may want before their publish is acknowledged.
pub(crate) fn wanted_now(in_process: &InProcess, records: &[Record]) -> Vec<Record> {
    if in_process.runs_nothing_in_line() {
        return Vec::new();
    }
    let may = |record: &&Record| {
        if record.headers.get(COPY_HEADER).is_some() {
            return false;
        }
        let event_type = record.headers.get("ce_type").map(EventType::recorded);
        let event_type = event_type.and_then(Result::ok);
        event_type.is_some_and(|event_type| in_process.may_run_in_line(&event_type))
    };
    records.iter().filter(may).cloned().collect()
}

/// Hands what was appended to the handlers that run before it is acknowledged.
pub(crate) async fn deliver_now(line: &Arc<Line>, records: Vec<Record>, published: &[Published]) {
    let in_process = line.in_process();
    let fresh = published
        .iter()
        .filter(|one| !one.duplicate && !one.skipped);
    let fresh: HashMap<Uuid, &Published> = fresh.map(|one| (one.event_id, one)).collect();
    let mut calls = Vec::new();
    // One row each, whose number a restart need not look beyond.
    let mut progress: HashMap<Uuid, ProgressRow> = HashMap::new();
    let until = until(LIMIT);
    for record in records {
        let Some(place) = fresh.get(&record.event_id) else {
            continue;
        };
        let event = match envelope::read(&stored(record, place)) {
            Ok(event) => Arc::new(Carried::new(event)),
            Err(error) => {
                tracing::error!(%error, "no handler gets an event");
                continue;
            }
        };
        for subscription in subscribed(in_process, &event) {
            // In the log's order, and without a row that counts: an offset is one event's of the tenant.
            let sequence = place.offset + 1;
            progress.insert(subscription.id, come_to(&subscription, sequence));
            calls.push(call(line, subscription, event.clone(), sequence, until));
        }
    }
    if calls.is_empty() {
        return;
    }
    let mut flush = Flush {
        progress: progress.into_values().collect(),
        ..Flush::default()
    };
    for (attempt, letter) in join_all(calls).await {
        flush.attempts.push(attempt);
        flush.dead.extend(letter);
    }
    if let Err(error) = in_process.store.deliveries().flush(&flush).await {
        tracing::warn!(%error, "what handlers came to is not written down yet");
        in_process
            .late_writes
            .write(in_process.store.clone(), flush);
    }
}

fn come_to(subscription: &Subscription, sequence: u64) -> ProgressRow {
    let places = Places {
        start: subscription.start.number,
        at: Vec::new(),
        failing_since_ms: None,
    };
    ProgressRow {
        subscription: subscription.id,
        tenant: subscription.tenant.clone(),
        sequence,
        places: serde_json::to_string(&places).expect("plain members become JSON"),
    }
}

fn stored(record: Record, place: &Published) -> Stored {
    Stored {
        topic: record.topic,
        partition: place.partition,
        offset: place.offset,
        key: record.key,
        tenant: record.tenant,
        event_id: record.event_id,
        timestamp_ms: record.timestamp_ms,
        headers: record.headers,
        value: record.value,
    }
}

/// The subscriptions in force of the extensions that are to get an event now.
fn subscribed(in_process: &InProcess, event: &Event) -> Vec<Arc<Subscription>> {
    let Some(workspace) = workspace_of(event) else {
        return Vec::new();
    };
    let wanting = in_process
        .in_force()
        .wanting(&event.tenant, &event.event_type);
    let gets = |subscription: &Arc<Subscription>| {
        let owner = subscription.start.owner.as_ref();
        let of_workspace = owner.is_some_and(|owner| owner.workspace == workspace.as_str());
        let in_line = match &subscription.target {
            Receiver::InProcess { extension, .. } => in_process.runs_in_line(extension, owner),
            Receiver::Webhook(_) | Receiver::Topic { .. } => false,
        };
        of_workspace && in_line && subscription.state == State::Active
    };
    wanting.into_iter().filter(gets).collect()
}

async fn call(
    line: &Arc<Line>,
    subscription: Arc<Subscription>,
    event: Arc<Carried>,
    sequence: u64,
    until: tokio::time::Instant,
) -> (
    tidings_store::AttemptRow,
    Option<tidings_store::DeadLetterRow>,
) {
    let in_process = line.in_process();
    let (started_at_ms, begun) = (in_process.clock.now_ms(), Instant::now());
    let outcome = match outcome(line, &subscription, &event, until).await {
        Ok(()) => Outcome::delivered(),
        Err(sentence) => Outcome::failed(sentence, false),
    };
    let latency_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    let mut delivery = Delivery::new(sequence, event, Origin::Pending, started_at_ms);
    delivery.revision = subscription.revision;
    tracing::info!(
        tenant = delivery.event.tenant.as_str(),
        subscription = %subscription.id,
        event_id = %delivery.event.event_id,
        error = outcome.error.as_deref(),
        latency_ms,
        "handled before the acknowledgement"
    );
    let counted = &in_process.counted;
    let came_to = match outcome.error {
        None => AttemptOutcome::Delivered,
        Some(_) => AttemptOutcome::GaveUp,
    };
    counted.attempt(came_to);
    let letter = outcome.error.clone().map(|error| {
        counted.dead_letter();
        let id = in_process.clock.new_id();
        record::dead_letter(&delivery, subscription.id, id, 1, error, started_at_ms)
    });
    let made = Made {
        outcome,
        started_at_ms,
        latency_ms,
        batch: None,
    };
    let attempt = record::attempt(&delivery, subscription.id, made, came_to);
    (attempt, letter)
}

async fn outcome(
    line: &Arc<Line>,
    subscription: &Subscription,
    event: &Carried,
    until: tokio::time::Instant,
) -> Result<(), String> {
    let Receiver::InProcess { extension, .. } = &subscription.target else {
        return Err("the subscription is of no plugin".to_owned());
    };
    let when = When::BeforeAcknowledgement;
    let in_process = line.in_process();
    in_process.handle(line, extension, when, event, until).await
}

//! Where an event goes and what is written there: topic, key, envelope. Pure, and never refuses.

use serde_json::Value;
use tidings_bus::{Once, Receipt, Record, time_of};
use tidings_event::{Data, Event, ModuleId, Topic, event::rfc3339};
use tidings_receipts::Hold;
use uuid::Uuid;

use super::Trail;
use super::claim::{Claimed, Standing};
use super::command::{Cause, CloudAttributes, Custom, WORKSPACE_ATTRIBUTE};
use super::name::NamedDraft;
use super::refusal::Rule;
use super::validate::ValidDraft;
use crate::envelope;
use crate::rulebook::{Carried, EnvelopeKind, Rulebook};

/// The source of what the gateway itself tells.
const GATEWAY: &str = "/service/tidings";

/// What a receipt is made of, beside the position.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    pub(super) event_id: Uuid,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) key: Option<String>,
    pub(super) event_type: tidings_event::EventType,
    pub(super) outcome: Outcome,
}

/// Where the outcome of an event is found.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// With the next record that was appended.
    Appended,
    /// Here: it was appended before.
    Before(Receipt),
    /// With an earlier event of the batch.
    With(usize),
}

/// Records ready to be appended. Only [`place`] makes them, and only `append` takes them.
pub(crate) struct Placed {
    pub(super) records: Vec<Record>,
    /// The keys of the records, in their order, where keys are claimed.
    pub(super) holds: Vec<Hold>,
    pub(super) placements: Vec<Placement>,
    pub(super) alone: bool,
}

/// Gives every event its topic and its envelope. Its time is that of its id.
pub(crate) fn place(claimed: Claimed, rulebook: &Rulebook, trail: &mut Trail) -> Placed {
    let mut placed = Placed {
        records: Vec::with_capacity(claimed.entries.len()),
        holds: Vec::new(),
        placements: Vec::with_capacity(claimed.entries.len()),
        alone: claimed.alone,
    };
    let scope = claimed.caller.receipt_scope();
    let own_source = format!("/{}", scope.replacen(':', "/", 1));
    let module = claimed.caller.module().map(ModuleId::as_str);
    let mut received = Received::default();
    for (named, standing) in claimed.entries {
        let NamedDraft {
            event_id,
            once,
            entry,
        } = named;
        let ValidDraft {
            event_type,
            schema_version,
            draft,
        } = entry;
        let key = draft.cloud.is_none().then(|| once.key.clone());
        let cloud = draft.cloud.map(|cloud| *cloud);
        let into = claimed.into.as_ref();
        let carried = rulebook.carried(&event_type).filter(|_| into.is_none());
        let source = match &draft.custom {
            Some(Custom::Told) => GATEWAY,
            Some(Custom::Emit(emit)) => emit.source.as_deref().unwrap_or(&own_source),
            // A catalogue's events name the service as such.
            None => carried.and(module).unwrap_or(&own_source),
        };
        let within = draft.workspace.map(|within| within.attributes());
        let caused = draft.cause.map(Cause::attributes);
        let own = cloud.unwrap_or_else(|| CloudAttributes {
            id: event_id.to_string(),
            source: source.to_owned(),
            time: None,
            subject: None,
            data_schema: None,
            data_content_type: Some("application/json".to_owned()),
            traceparent: None,
            extensions: within
                .into_iter()
                .flatten()
                .chain(caused.into_iter().flatten())
                .collect(),
        });
        let outcome = match standing {
            Standing::Repeat(receipt) => Outcome::Before(receipt),
            Standing::SameAs(index) => Outcome::With(index),
            Standing::Fresh(hold) => {
                placed.holds.extend(hold);
                Outcome::Appended
            }
        };
        let (id, source) = (own.id, own.source);
        let (id, source, event_type) = if matches!(outcome, Outcome::Appended) {
            let received_at_ms = time_of(event_id).unwrap_or_default();
            let mut event = Event {
                event_id,
                id,
                source,
                event_type,
                tenant: claimed.tenant.clone(),
                schema_version,
                time: own.time.unwrap_or_else(|| received.text(received_at_ms)),
                received_at_ms,
                traceparent: own.traceparent.or_else(|| claimed.traceparent.clone()),
                subject: own.subject,
                data_schema: own.data_schema,
                data_content_type: own.data_content_type,
                extensions: own.extensions,
                data: draft.data,
            };
            if let Some(carried) = carried {
                complete(&mut event, carried);
            }
            let (topic, kind) = match (into, carried) {
                (Some(topic), _) => (topic, EnvelopeKind::Structured),
                (None, Some(carried)) => (&carried.topic, carried.envelope),
                (None, None) => routed(&event, rulebook),
            };
            let exact = carried.is_some();
            let record = record(&event, once, (topic, kind, exact), trail);
            placed.records.push(record);
            (event.id, event.source, event.event_type)
        } else {
            (id, source, event_type)
        };
        placed.placements.push(Placement {
            event_id,
            id,
            source,
            key,
            event_type,
            outcome,
        });
    }
    placed
}

/// Adds what the topic's envelopes always have.
fn complete(event: &mut Event, carried: &Carried) {
    if event.data_content_type.is_none() && matches!(event.data, Data::Json(_)) {
        event.data_content_type = Some("application/json".to_owned());
    }
    let Some(template) = carried.subject.as_ref().filter(|_| event.subject.is_none()) else {
        return;
    };
    let data = match &event.data {
        Data::Json(json) if template.names_data() => serde_json::from_str(json.as_str()),
        _ => Ok(Value::Null),
    };
    // Checked JSON can be read; without it the template finds nothing.
    let data = data.unwrap_or_default();
    event.subject = template.of(event.tenant.as_str(), &data);
}

fn record(
    event: &Event,
    once: Once,
    (topic, kind, exact): (&Topic, EnvelopeKind, bool),
    trail: &mut Trail,
) -> Record {
    trail.pass(Rule::Append, || {
        let kind = kind.as_str();
        format!("'{}' goes to topic '{topic}' as {kind}.", event.event_type)
    });
    let (headers, value) = envelope::write(event, kind, exact);
    Record {
        topic: topic.clone(),
        key: event.tenant.as_str().to_owned(),
        tenant: event.tenant.clone(),
        event_id: event.event_id,
        timestamp_ms: event.received_at_ms,
        headers,
        value,
        once: Some(once),
    }
}

/// Where an event goes that no catalogue carries.
fn routed<'a>(event: &Event, rulebook: &'a Rulebook) -> (&'a Topic, EnvelopeKind) {
    let in_workspace = event.extension(WORKSPACE_ATTRIBUTE).is_some();
    let route = rulebook.route(&event.event_type, in_workspace);
    (&route.topic, route.envelope)
}

/// The last time that was written out: the events of a batch nearly all have the same.
#[derive(Default)]
struct Received(i64, String);

impl Received {
    fn text(&mut self, ms: i64) -> String {
        if self.1.is_empty() || self.0 != ms {
            *self = Self(ms, rfc3339(ms));
        }
        self.1.clone()
    }
}

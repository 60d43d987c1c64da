//! Source A's REST publish, its batch, and explain.

use std::fmt::Display;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidings_event::json::{self, Fingerprint, Members, RawJson};
use tidings_event::{Code, Data, EventType, Topic};
use tidings_gateway::access::Caller;
use tidings_gateway::events::may_read;
use tidings_gateway::publish::command::{Command, Draft};
use tidings_gateway::publish::refusal::{Refusal, Rule};
use tidings_gateway::publish::{Explanation, Published, Step};
use tidings_gateway::subscription::State as SubscriptionState;
use tidings_gateway::subscriptions::Judged;
use uuid::Uuid;

use super::deliveries::Unmet;
use super::emits;
use crate::House;
use crate::problem::{Refused, errors};
use crate::request::{
    Authenticated, MAX_BATCH_BYTES, MAX_SINGLE_BYTES, expect_json, read, text, traceparent,
};

/// The most events of a batch.
pub(crate) const MAX_BATCH: usize = 1_000;
/// The most subscriptions that an explanation lists.
const MAX_SUBSCRIPTIONS: usize = 1_000;

pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The answer to a publish.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// UUID v7.
    #[schema(value_type = String)]
    event_id: Uuid,
    #[schema(value_type = String)]
    r#type: Shown<EventType>,
    #[schema(value_type = Option<String>, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<Shown<Topic>>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// The bus is disabled: the event was checked, and kept nowhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    /// In a batch: whether the key was known, so that nothing was appended.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    /// For a CloudEvent: its own id.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// For a CloudEvent: its own source.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

/// The answer to a batch, in the order of its events.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Receipts {
    pub(crate) results: Vec<Receipt>,
}

/// Its text, on the wire.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Receipt {
    pub(crate) fn of(published: Published, batch: bool, cloud: bool) -> Self {
        let stands = !published.skipped;
        Self {
            event_id: published.event_id,
            r#type: Shown(published.event_type),
            topic: stands.then_some(Shown(published.topic)),
            partition: stands.then_some(published.partition),
            offset: stands.then_some(published.offset),
            skipped: published.skipped,
            duplicate: (batch && stands).then_some(published.duplicate),
            id: cloud.then_some(published.id),
            source: cloud.then_some(published.source),
        }
    }
}

/// Publishes one event.
#[utoipa::path(post, path = "/v1/events/publish", tag = "publish", request_body = crate::openapi::PublishBody,
    params(("Idempotency-Key" = Option<String>, Header), ("traceparent" = Option<String>, Header)),
    responses(
        (status = 201, body = Receipt),
        (status = 200, description = "A repeat of the key, or the bus is disabled and kept nothing", body = Receipt),
    ))]
pub(crate) async fn publish(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    request: Request,
) -> Result<Response, Refused> {
    let (headers, body) = opened(&house, &caller, request).await?;
    let command = single(caller, &headers, &body)?;
    // While it waits nothing of it is needed; now it is still in the processor's caches.
    drop((headers, body));
    let mut published = house.gateway.publish(command).await?;
    house
        .metrics
        .skipped(published.iter().map(|one| one.skipped));
    Ok(receipt(published.remove(0), false))
}

/// 201 with the receipt, or 200 for a repeat and for what a disabled bus skipped.
pub(crate) fn receipt(mut published: Published, cloud: bool) -> Response {
    let (duplicate, skipped) = (published.duplicate, published.skipped);
    let key = published.idempotency_key.take();
    let status = if duplicate || skipped {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut response = (status, axum::Json(Receipt::of(published, false, cloud))).into_response();
    let headers = response.headers_mut();
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        headers.insert(KEY, key);
    }
    if duplicate {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// Publishes 1 to 1,000 events, all of them or none.
#[utoipa::path(post, path = "/v1/events/publish/batch", tag = "publish", request_body = crate::openapi::BatchBody,
    params(("traceparent" = Option<String>, Header)),
    responses(
        (status = 201, body = Receipts),
        (status = 200, description = "The bus is disabled and kept nothing", body = Receipts),
    ))]
pub(crate) async fn publish_batch(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let body = read(
        &house,
        &caller,
        &head.headers,
        body,
        MAX_BATCH_BYTES,
        Code::BatchTooLarge,
    )
    .await?;
    expect_json(&head.headers)?;
    let command = Command {
        caller,
        drafts: batch(&body)?,
        traceparent: traceparent(&head.headers),
        alone: false,
    };
    if head.headers.contains_key(KEY) {
        // A fault of the events themselves is told first: their rules come before that of keys.
        house.gateway.check(command)?;
        return Err(key_of_a_batch().into());
    }
    let published = house.gateway.publish(command).await?;
    house
        .metrics
        .skipped(published.iter().map(|one| one.skipped));
    Ok(receipts(published, false))
}

/// 201 with the receipts, or 200 when a disabled bus skipped the batch.
pub(crate) fn receipts(published: Vec<Published>, cloud: bool) -> Response {
    let status = if published.iter().any(|one| one.skipped) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let of = |one| Receipt::of(one, true, cloud);
    let results = published.into_iter().map(of).collect();
    (status, axum::Json(Receipts { results })).into_response()
}

/// Says what a publish would do, which rule decides, and which subscriptions would get it; for the body of an emit, what
/// that would do. Appends nothing.
#[utoipa::path(post, path = "/v1/events/explain", tag = "publish", request_body = crate::openapi::ToExplain,
    params(("Idempotency-Key" = Option<String>, Header), ("traceparent" = Option<String>, Header)),
    responses((status = 200, body = Explained<'static>)))]
pub(crate) async fn explain(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    request: Request,
) -> Result<Response, Refused> {
    let (headers, body) = opened(&house, &caller, request).await?;
    let members = json::members(text(&body)?).map_err(|error| malformed(&error))?;
    let emits = members.iter().any(|(name, _)| name == "payload");
    let explained = if emits {
        let emit = emits::emit_request(&body, members)?;
        house.gateway.emits.explain(&caller, emit).await
    } else {
        let command = single(caller.clone(), &headers, &body)?;
        house.gateway.explain(command).await
    };
    let mut answer = Explained::of(&explained);
    if let Ok(destination) = &explained.outcome
        && may_read(&caller)
    {
        let subscriptions = &house.gateway.subscriptions;
        let mut judged = subscriptions.judge(&caller, &destination.event)?;
        judged.retain(|(subscription, _)| subscription.state != SubscriptionState::Disabled);
        // Those that would get it come first, so that none of them is left out for one that would not.
        judged.sort_by_key(|(_, verdict)| verdict.is_err());
        answer.subscriptions_left_out = shorten(&mut judged);
        answer.subscriptions = judged.iter().map(WouldGet::of).collect();
    }
    Ok(axum::Json(answer).into_response())
}

/// Leaves as many subscriptions as are listed; how many more there were, if any.
pub(super) fn shorten<T>(subscriptions: &mut Vec<T>) -> Option<usize> {
    let left_out = subscriptions.len().saturating_sub(MAX_SUBSCRIPTIONS);
    subscriptions.truncate(MAX_SUBSCRIPTIONS);
    (left_out > 0).then_some(left_out)
}

/// What would happen to a publish.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explained<'a> {
    /// `accepted` or `refused`.
    verdict: &'static str,
    steps: Vec<ExplainedStep<'a>>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    /// Each of the tenant's that is not disabled, 1,000 at most; nothing of an event that is refused, and nothing for an API
    /// key without `events:read`.
    subscriptions: Vec<WouldGet>,
    /// How many more there are than are listed.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_left_out: Option<usize>,
    /// The event as it would be written; null where that is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    envelope: Option<&'a RawValue>,
}

impl<'a> Explained<'a> {
    fn of(explanation: &'a Explanation) -> Self {
        let placed = explanation.outcome.as_ref().ok();
        let envelope = placed.map(|to| serde_json::from_slice(&to.envelope));
        Self {
            verdict: if placed.is_some() {
                "accepted"
            } else {
                "refused"
            },
            steps: explanation.steps.iter().map(ExplainedStep::of).collect(),
            topic: placed.map(|to| to.topic.as_str()),
            partition: placed.map(|to| to.partition),
            subscriptions: Vec::new(),
            subscriptions_left_out: None,
            envelope: envelope.map(|raw| raw.unwrap_or(RawValue::NULL)),
        }
    }
}

/// The verdict of one rule.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct ExplainedStep<'a> {
    step: &'static str,
    /// `passed` or `refused`.
    verdict: &'static str,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    detail: &'a str,
    /// Where it refused, as a JSON Pointer.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<&'a str>,
    /// All places where it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<serde_json::Value>>, nullable = false)]
    errors: Option<serde_json::Value>,
}

impl<'a> ExplainedStep<'a> {
    fn of(step: &'a Step) -> Self {
        let first = step.errors.first();
        Self {
            step: step.rule.as_str(),
            verdict: if step.refused.is_some() {
                "refused"
            } else {
                "passed"
            },
            code: step.refused.map(Code::as_str),
            detail: &step.detail,
            path: first.and_then(|fault| fault.path.as_deref()),
            expected: first.and_then(|fault| fault.expected.as_deref()),
            got: first.and_then(|fault| fault.got.as_deref()),
            errors: first.map(|_| errors(&step.errors)),
        }
    }
}

/// Whether a subscription would get an event.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct WouldGet {
    id: Uuid,
    name: String,
    /// `active` or `paused`.
    state: &'static str,
    /// The extension that it stands for, which is not installed or not enabled where it is paused: what comes meanwhile it
    /// gets only with `replayFrom`.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    extension: Option<String>,
    matched: bool,
    /// The first clause of its filter that does not hold.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Unmet>,
}

impl WouldGet {
    fn of(judged: &Judged) -> Self {
        let (subscription, verdict) = judged;
        Self {
            id: subscription.id,
            name: subscription.name.clone(),
            state: subscription.state.as_str(),
            extension: subscription.extension().map(str::to_owned),
            matched: verdict.is_ok(),
            reason: Unmet::of(judged),
        }
    }
}

/// The headers and the body of a request that is about one event.
async fn opened(
    house: &House,
    caller: &Caller,
    request: Request,
) -> Result<(HeaderMap, Bytes), Refusal> {
    let (head, body) = request.into_parts();
    let headers = head.headers;
    let body = read(
        house,
        caller,
        &headers,
        body,
        MAX_SINGLE_BYTES,
        Code::EventPayloadTooLarge,
    )
    .await?;
    expect_json(&headers)?;
    Ok((headers, body))
}

/// The publish of an event alone.
fn single(caller: Caller, headers: &HeaderMap, body: &Bytes) -> Result<Command, Refusal> {
    let text = text(body)?;
    let mut draft = if let Some(read) = json::checked(text, "data") {
        let data = (RawJson::checked_within(body, read.text), read.fingerprint);
        drafted_with(body, read.others, Some(data), false)?
    } else {
        // Something is wrong, or unusual: one after the other, to say what.
        let members = json::members(text).map_err(|error| malformed(&error))?;
        drafted(body, members, false)?
    };
    draft.idempotency_key = key(headers);
    Ok(Command::one(caller, draft, traceparent(headers)))
}

/// The idempotency key of a request. Of several the one that they all are; others stay together, which no key does
/// (RFC 9110, section 5.3), and are refused where keys are, as is what is not ASCII.
pub(crate) fn key(headers: &HeaderMap) -> Option<String> {
    let mut keys = headers.get_all(KEY).into_iter();
    let first = keys.next()?;
    let text = |key: &HeaderValue| key.to_str().unwrap_or("\u{fffd}").to_owned();
    let others = keys.filter(|key| *key != first);
    Some(others.fold(text(first), |all, key| format!("{all}, {}", text(key))))
}

fn key_of_a_batch() -> Refusal {
    let detail = "A batch has no idempotency key of its own; give each event its 'idempotencyKey' instead of the header \
                  Idempotency-Key.";
    Refusal::new(Code::InvalidIdempotencyKey, Rule::Idempotency, detail).field("Idempotency-Key")
}

fn batch(body: &Bytes) -> Result<Vec<Result<Draft, Refusal>>, Refusal> {
    const SHAPE: &str = "A batch is {\"events\": [...]} and nothing else.";
    let text = text(body)?;
    if let Some(rows) = json::rows(text, "events", MAX_BATCH) {
        return Ok(rows
            .into_iter()
            .map(|row| drafted(body, row, true))
            .collect());
    }
    // Something is wrong, or unusual: level by level, to say what.
    let members = json::members(text).map_err(|error| malformed(&error))?;
    if let Some((other, _)) = members.iter().find(|(name, _)| name != "events") {
        return Err(Refusal::shape(Code::InvalidEvent, &**other, SHAPE));
    }
    let Some((_, events)) = members.first() else {
        return Err(Refusal::shape(Code::InvalidEvent, "events", SHAPE));
    };
    let (events, count) = json::elements(events.get(), MAX_BATCH).map_err(|_| {
        Refusal::shape(
            Code::InvalidEvent,
            "events",
            "'events' must be an array of events.",
        )
    })?;
    within_a_batch(count)?;
    Ok(events
        .into_iter()
        .map(|event| {
            let event = event.get();
            let members =
                json::members(event).map_err(|error| malformed_within(body, event, &error))?;
            drafted(body, members, true)
        })
        .collect())
}

/// Refuses a batch of none or of too many.
pub(crate) fn within_a_batch(events: usize) -> Result<(), Refusal> {
    if events == 0 {
        return Err(Refusal::shape(
            Code::InvalidEvent,
            "events",
            "A batch has at least one event.",
        ));
    }
    if events > MAX_BATCH {
        return Err(Refusal::new(
            Code::BatchTooLarge,
            Rule::BodyLimits,
            format!("The batch has {events} events; {MAX_BATCH} is the limit."),
        )
        .limit(MAX_BATCH, events));
    }
    Ok(())
}

/// Reads one event.
fn drafted(body: &Bytes, members: Members<'_>, in_batch: bool) -> Result<Draft, Refusal> {
    drafted_with(body, members, None, in_batch)
}

/// Reads one event, of which the data may have been read already. Fields of other names are refused by name.
fn drafted_with(
    body: &Bytes,
    members: Members<'_>,
    read: Option<(RawJson, Fingerprint)>,
    in_batch: bool,
) -> Result<Draft, Refusal> {
    let (mut event_type, mut schema_version, mut key, mut data) = (None, None, None, None);
    for (name, value) in members {
        match &*name {
            "type" => event_type = Some(string("type", value)?),
            "schemaVersion" => schema_version = Some(string("schemaVersion", value)?),
            "idempotencyKey" if in_batch => key = Some(string("idempotencyKey", value)?),
            "tenantId" => drop(string("tenantId", value)?), // Always from the credential.
            "data" => data = Some(value),
            other => {
                let place = if in_batch {
                    "type, data, schemaVersion, tenantId, idempotencyKey"
                } else {
                    "type, data, schemaVersion, tenantId"
                };
                return Err(Refusal::shape(
                    Code::InvalidEvent,
                    other,
                    format!("An event has no field {other:?}; its fields are {place}."),
                ));
            }
        }
    }
    let missing = |name: &str| {
        Refusal::shape(
            Code::InvalidEvent,
            name,
            format!("The field '{name}' is missing."),
        )
    };
    let event_type = event_type.ok_or_else(|| missing("type"))?;
    let (data, fingerprint) = match read {
        Some(read) => read,
        None => within(body, data.ok_or_else(|| missing("data"))?)?,
    };
    if !data.is_object() {
        return Err(Refusal::shape(
            Code::InvalidEvent,
            "data",
            "'data' must be a JSON object.",
        ));
    }
    let data = Data::Json(data);
    Ok(Draft {
        event_type,
        schema_version,
        data,
        fingerprint,
        idempotency_key: key,
        cloud: None,
        workspace: None,
        cause: None,
        custom: None,
    })
}

pub(crate) fn string(name: &'static str, value: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(value.get()).map_err(|_| {
        Refusal::shape(
            Code::InvalidEvent,
            name,
            format!("'{name}' must be a string."),
        )
    })
}

/// A part of a body as it stands there, with its fingerprint.
pub(crate) fn within(body: &Bytes, part: &RawValue) -> Result<(RawJson, Fingerprint), Refusal> {
    RawJson::parse_within(body, part.get())
        .map_err(|error| malformed_within(body, part.get(), &error))
}

/// What is not strict JSON, or not an object where one must be.
pub(crate) fn malformed(error: &serde_json::Error) -> Refusal {
    malformed_because("The body", &error.to_string())
}

/// The same of a part of a body, counting lines and columns from where the body begins.
fn malformed_within(body: &Bytes, part: &str, error: &serde_json::Error) -> Refusal {
    let begin = body.as_ptr().addr();
    let before = part.as_ptr().addr().saturating_sub(begin);
    let before = &body[..before.min(body.len())];
    let mut above = before.split(|byte| *byte == b'\n');
    let of_its_line = above.next_back().filter(|_| error.line() == 1);
    let (lines, columns) = (above.count(), of_its_line.map_or(0, <[u8]>::len));
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let why = text.strip_suffix(&format!(" at line {line} column {column}"));
    let why = match why {
        Some(why) => format!("{why} at line {} column {}", line + lines, column + columns),
        None => text,
    };
    malformed_because("An event", &why)
}

fn malformed_because(whole: &str, why: &str) -> Refusal {
    if why.starts_with("invalid type") {
        let detail = format!("{whole} must be a JSON object.");
        return Refusal::shape(Code::InvalidEvent, "", detail);
    }
    let detail = format!("The body is not valid JSON: {why}.");
    Refusal::new(Code::InvalidJson, Rule::Shape, detail)
}

//! What became of events: their trace, their explanation, parked keys, and what a receiver has missed.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::event::rfc3339;
use tidings_gateway::chronicle::AttemptRow;
use tidings_gateway::deliver::record::{AttemptDetail, InBatch, Ledger, Replayed};
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::subscriptions::Judged;
use uuid::Uuid;

use super::events::Rendered;
use super::publish::shorten;
use super::subscriptions::{MAX_BYTES, parsed};
use crate::House;
use crate::page;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body, read_query};

/// What became of an event: each delivery, each attempt.
#[utoipa::path(get, path = "/v1/events/{eventId}/trace", tag = "events", params(("eventId" = String, Path)),
    responses((status = 200, body = Trace)))]
pub(crate) async fn trace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let event_id: Uuid = id.parse().map_err(|_| Refusal::not_found("event"))?;
    let gateway = house.gateway();
    let event = gateway.events.get(&caller, event_id).await?;
    let chronicle = gateway.chronicle();
    let told = chronicle.of(&caller, &event).await?;
    let mut deliveries: Vec<Delivery> = Vec::new();
    for (attempt, detail) in told.attempts {
        let which = (attempt.subscription, attempt.sequence);
        let delivery = of_delivery(&mut deliveries, which, detail.replay);
        delivery.revision = detail.revision;
        delivery.state.clone_from(&attempt.outcome);
        delivery.ledger = detail.ledger;
        delivery.attempts.push(Attempt::of(&attempt, detail));
    }
    for waits in &told.waits {
        let which = (waits.row.subscription, waits.row.sequence);
        let delivery = of_delivery(&mut deliveries, which, waits.replay);
        delivery.revision = waits.revision;
        delivery.state.clone_from(&waits.row.state);
        delivery.ledger = waits.ledger;
        delivery.next_attempt_at = waits.next_at_ms.map(rfc3339);
        delivery.reason = Some(waits.reason.why.as_str());
        delivery.detail = Some(waits.reason.detail.clone());
    }
    let without = told.routed.iter().filter_map(|routed| {
        let subscription = &routed.judged.0;
        let reason = routed.reason.as_ref().filter(|_| !routed.is_kept)?;
        Some(WithoutDelivery {
            subscription_id: subscription.id,
            name: subscription.name.clone(),
            reason: reason.why.as_str(),
            detail: reason.detail.clone(),
        })
    });
    let mut without_delivery: Vec<_> = without.collect();
    let without_delivery_left_out = shorten(&mut without_delivery);
    let caused = chronicle.caused_by(&caller, event_id).await?;
    let trace = Trace {
        event: Rendered(event),
        deliveries,
        without_delivery,
        without_delivery_left_out,
        caused,
    };
    Ok(axum::Json(trace).into_response())
}

/// What became of an event, whose data stays as it was written.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    #[schema(value_type = crate::openapi::EventBody)]
    event: Rendered,
    deliveries: Vec<Delivery>,
    /// The subscriptions whose filter, as it is now, wants the event, and that nothing is kept of a delivery to: 1,000 at most.
    without_delivery: Vec<WithoutDelivery>,
    /// How many more there are than are listed.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    without_delivery_left_out: Option<usize>,
    /// The events that were published because of it.
    caused: Vec<Uuid>,
}

/// An event's way to one subscription, or to where history of it is sent again.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Delivery {
    subscription_id: Uuid,
    /// Its number there; null for history that was not sent then.
    sequence: Option<u64>,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_id: Option<Uuid>,
    /// The revision of the subscription that routed it.
    revision: u32,
    /// `delivered`, `failed` or `gave-up`; of one that has still to be made `waiting`, `behind` or `parked`.
    state: String,
    #[schema(value_type = crate::openapi::LedgerBody)]
    ledger: Ledger,
    attempts: Vec<Attempt>,
    /// Of one that waits for its time, and for nothing else.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    /// Of one that has still to be made, what it waits for, as in an explanation.
    #[schema(nullable = false, example = "retry")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The same in a sentence.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// A subscription that an event has not come to.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WithoutDelivery {
    subscription_id: Uuid,
    name: String,
    /// Why, as in an explanation.
    #[schema(example = "paused")]
    reason: &'static str,
    /// The same in a sentence.
    detail: String,
}

/// One attempt, and what was answered.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attempt {
    /// Which, from 1.
    number: u32,
    started_at: String,
    /// What it was answered with, if it was.
    status: Option<u16>,
    latency_ms: i64,
    error: Option<String>,
    /// Names and values.
    #[schema(value_type = Vec<Vec<String>>)]
    response_headers: Vec<(String, String)>,
    /// The beginning of it.
    response_body: String,
    /// The message that it went in with others: its `webhook-id`, and how many events it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::openapi::InBatchBody>, nullable = false)]
    batch: Option<InBatch>,
}

impl Attempt {
    fn of(row: &AttemptRow, detail: AttemptDetail) -> Self {
        Self {
            number: row.number,
            started_at: rfc3339(row.started_at_ms),
            status: detail.status,
            latency_ms: detail.latency_ms,
            error: detail.error,
            response_headers: detail.response_headers,
            response_body: detail.response_body,
            batch: detail.batch,
        }
    }
}

/// Where a delivery is told of, by whose row it is and its number there. What history sends again stands under its
/// replay's id, and is told of with the subscription's.
fn of_delivery(
    deliveries: &mut Vec<Delivery>,
    (subscription, sequence): (Uuid, u64),
    replay: Option<Replayed>,
) -> &mut Delivery {
    let history = replay.and_then(|replay| Some((replay.of?, replay)));
    let (of, number, replay) = match history {
        Some((of, replay)) => (of, replay.number, Some(replay.id)),
        None => (subscription, Some(sequence), None),
    };
    let known = deliveries
        .iter()
        .position(|it| (it.subscription_id, it.sequence, it.replay_id) == (of, number, replay));
    let index = known.unwrap_or(deliveries.len());
    if known.is_none() {
        deliveries.push(Delivery {
            subscription_id: of,
            sequence: number,
            replay_id: replay,
            revision: 0,
            state: String::new(),
            ledger: Ledger::default(),
            attempts: Vec::new(),
            next_attempt_at: None,
            reason: None,
            detail: None,
        });
    }
    &mut deliveries[index]
}

/// For each subscription of the tenant: whether it got the event, and if not, which clause was not met, or what keeps it.
#[utoipa::path(get, path = "/v1/events/{eventId}/explain", tag = "events", params(("eventId" = String, Path)),
    responses((status = 200, body = Routed)))]
pub(crate) async fn explain(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let event_id: Uuid = id.parse().map_err(|_| Refusal::not_found("event"))?;
    let gateway = house.gateway();
    let event = gateway.events.get(&caller, event_id).await?;
    let mut routed = gateway.chronicle().of(&caller, &event).await?.routed;
    // Those that want it or have to do with it come first, so that none of them is left out for one that does not.
    routed.sort_by_key(|routed| routed.judged.1.is_err() && !routed.is_kept);
    let subscriptions_left_out = shorten(&mut routed);
    let subscriptions = routed.iter().map(|routed| {
        let (subscription, verdict) = &routed.judged;
        let reason = routed.reason.as_ref();
        RoutedTo {
            subscription_id: subscription.id,
            name: subscription.name.clone(),
            revision: subscription.revision,
            subscription_state: subscription.state.as_str(),
            delivered: routed.delivered,
            state: routed.state.clone(),
            matches: verdict.is_ok(),
            unmet: Unmet::of(&routed.judged),
            reason: reason.map(|reason| reason.why.as_str()),
            detail: reason.map(|reason| reason.detail.clone()),
        }
    });
    Ok(axum::Json(Routed {
        event_id,
        subscriptions: subscriptions.collect(),
        subscriptions_left_out,
    })
    .into_response())
}

/// Why an event went where it did.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Routed {
    event_id: Uuid,
    /// Each of the tenant's, those that want it or have got it first: 1,000 at most.
    subscriptions: Vec<RoutedTo>,
    /// How many more there are than are listed.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_left_out: Option<usize>,
}

/// Whether a subscription got an event, and whether it would now.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoutedTo {
    subscription_id: Uuid,
    name: String,
    revision: u32,
    /// `active`, `paused` or `disabled`.
    subscription_state: &'static str,
    /// Its own delivery, or that of a replay which does not go to a shadow.
    delivered: bool,
    /// That of the delivery, as in a trace; null where none was made.
    state: Option<String>,
    /// Whether its filter, as it is now, wants the event.
    matches: bool,
    /// The first clause that does not hold.
    unmet: Option<Unmet>,
    /// Where it wants the event and has not got it, or is to get it again, why: `paused`, `disabled`, `parked`, `behind-key`, `circuit-open`,
    /// `rate-limit`, `in-flight`, `retry`, `due`, `gave-up`, `before-start`, `skipped`, `not-reached`, `changed-since`, `passed`,
    /// `forgotten` or `damaged`; in a trace `replay-stopped` and `deleted`, too.
    #[schema(example = "paused")]
    reason: Option<&'static str>,
    /// The same in a sentence.
    detail: Option<String>,
}

/// A clause of a filter that does not hold.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Unmet {
    /// Where in the filter: a path such as `types` or `dialects[0].not`.
    clause: String,
    expected: String,
    got: String,
}

impl Unmet {
    pub(super) fn of((_, verdict): &Judged) -> Option<Self> {
        let unmet = verdict.as_ref().err()?;
        Some(Self {
            clause: unmet.path.clone(),
            expected: unmet.expected.clone(),
            got: unmet.got.clone(),
        })
    }
}

/// From which number on.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct After {
    /// The last `tidings-sequence` that the receiver has; 0 if absent.
    after: Option<u64>,
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
}

/// What a subscription was to get after a sequence number, for a receiver that has missed some.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/events", tag = "subscriptions",
    params(("subscriptionId" = String, Path), After), responses((status = 200, body = Missed)))]
pub(crate) async fn missed(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    after: Queried<After>,
) -> Result<Response, Refused> {
    let wanted = read_query(after)?;
    let limit = page::limit(wanted.limit)?;
    let (gateway, after) = (house.gateway(), wanted.after.unwrap_or(0));
    let (found, next) = gateway
        .parked
        .missed(&caller, &gateway.events, parsed(&id)?, after, limit)
        .await?;
    let items = found.into_iter().map(|(sequence, event)| Numbered {
        sequence,
        event: Rendered(event),
    });
    let items = items.collect();
    let next_after = next;
    Ok(axum::Json(Missed { items, next_after }).into_response())
}

/// What was missed, and what to ask the rest after.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Missed {
    items: Vec<Numbered>,
    next_after: Option<u64>,
}

/// An event under its sequence number.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Numbered {
    sequence: u64,
    #[schema(value_type = crate::openapi::EventBody)]
    event: Rendered,
}

/// Which page of parked keys.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ParkedPage {
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<u64>,
}

/// The keys of an ordered subscription that wait for somebody, by the numbers of their heads.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/parked", tag = "subscriptions",
    params(("subscriptionId" = String, Path), ParkedPage), responses((status = 200, body = ParkedKeys)))]
pub(crate) async fn parked(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    wanted: Queried<ParkedPage>,
) -> Result<Response, Refused> {
    let wanted = read_query(wanted)?;
    let limit = page::limit(wanted.limit)?;
    let (rooms, after) = (house.gateway(), wanted.cursor.unwrap_or(0));
    let keys = rooms
        .parked
        .list(&caller, &rooms.events, parsed(&id)?, after, limit);
    let (keys, next) = keys.await?;
    let items = keys.iter().map(|parked| ParkedKey {
        key: parked.key.clone(),
        event_id: parked.head.event_id,
        sequence: parked.head.sequence,
        attempts: parked.head.attempts,
        parked_at: rfc3339(parked.head.next_at_ms),
        behind: parked.behind,
    });
    Ok(axum::Json(ParkedKeys {
        items: items.collect(),
        next_cursor: next,
    })
    .into_response())
}

/// A page of parked keys.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParkedKeys {
    items: Vec<ParkedKey>,
    /// What to ask the next page with, as `cursor`; null on the last one.
    next_cursor: Option<u64>,
}

/// A key that waits for somebody.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParkedKey {
    key: String,
    /// The event that was given up, and its number.
    event_id: Uuid,
    sequence: u64,
    attempts: u32,
    parked_at: String,
    /// How many wait behind it.
    behind: u64,
}

/// Which key, and whether its head is given up.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReleaseBody {
    key: String,
    /// The head becomes a dead letter, and the others follow; false if absent.
    #[serde(default)]
    drop_head: bool,
}

/// Lets a parked key go on, in order.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/parked/release", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), request_body = ReleaseBody,
    responses((status = 202, description = "It goes on")))]
pub(crate) async fn release(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: ReleaseBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let (room, id) = (&house.gateway().parked, parsed(&id)?);
    if body.drop_head {
        room.drop_head(&caller, id, &body.key).await?;
    } else {
        room.release(&caller, id, &body.key).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

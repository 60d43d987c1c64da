//! What became of events: their trace, their explanation, parked keys, and what a receiver has missed.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings_event::event::rfc3339;
use tidings_gateway::deliver::record::{AttemptDetail, Replayed};
use tidings_gateway::parked::MAX_PAGE;
use tidings_gateway::publish::refusal::Refusal;
use uuid::Uuid;

use super::events::Rendered;
use super::subscriptions::{MAX_BYTES, parsed};
use crate::House;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body, page_limit, read_query};

/// What became of an event: each delivery, each attempt.
#[utoipa::path(get, path = "/v1/events/{eventId}/trace", tag = "events", params(("eventId" = String, Path)),
    responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn trace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let event_id: Uuid = id.parse().map_err(|_| Refusal::not_found("event"))?;
    let gateway = house.gateway();
    let event = gateway.events.get(&caller, event_id).await?;
    let attempts = gateway
        .dead_letters
        .attempts_of_event(&caller, event_id)
        .await?;
    let pending = gateway
        .dead_letters
        .pending_of_event(&caller, event_id)
        .await?;
    let mut deliveries: Vec<Value> = Vec::new();
    for attempt in &attempts {
        let detail: AttemptDetail = serde_json::from_str(&attempt.detail)
            .map_err(|error| Refusal::fault("Reading an attempt", &error))?;
        let index = told(
            &mut deliveries,
            attempt.subscription,
            attempt.sequence,
            detail.replay,
        );
        let delivery = &mut deliveries[index];
        delivery["revision"] = json!(detail.revision);
        delivery["state"] = json!(attempt.outcome);
        delivery["ledger"] = json!(detail.ledger);
        if let Some(list) = delivery["attempts"].as_array_mut() {
            let mut shown = json!({
                "number": attempt.number,
                "startedAt": rfc3339(attempt.started_at_ms),
                "status": detail.status,
                "latencyMs": detail.latency_ms,
                "error": detail.error,
                "responseHeaders": detail.response_headers,
                "responseBody": detail.response_body,
            });
            if let Some(batch) = &detail.batch {
                shown["batch"] = json!(batch);
            }
            list.push(shown);
        }
    }
    for (row, waits) in &pending {
        let index = told(
            &mut deliveries,
            row.subscription,
            row.sequence,
            waits.replay,
        );
        let delivery = &mut deliveries[index];
        delivery["revision"] = json!(waits.revision);
        delivery["state"] = json!(row.state);
        delivery["ledger"] = json!(waits.ledger);
        delivery["nextAttemptAt"] = json!(rfc3339(row.next_at_ms));
    }
    let caused = gateway.dead_letters.caused_by(&caller, event_id).await?;
    let trace = Trace {
        event: Rendered(event),
        deliveries,
        caused,
    };
    Ok(axum::Json(trace).into_response())
}

/// What became of an event, whose data stays as it was written.
#[derive(Serialize)]
struct Trace {
    event: Rendered,
    deliveries: Vec<Value>,
    caused: Vec<Uuid>,
}

/// Where a delivery is told of, by whose row it is and its number there. What history sends again stands under its
/// replay's id, and is told of with the subscription's.
fn told(
    deliveries: &mut Vec<Value>,
    subscription: Uuid,
    sequence: u64,
    replay: Option<Replayed>,
) -> usize {
    let history = replay.filter(|replay| replay.of.is_some());
    let of = json!(history.and_then(|replay| replay.of).unwrap_or(subscription));
    let number = json!(history.map_or(Some(sequence), |replay| replay.number));
    let replay = json!(history.map(|replay| replay.id));
    let known = deliveries.iter().position(|it| {
        it["subscriptionId"] == of && it["sequence"] == number && it["replayId"] == replay
    });
    known.unwrap_or_else(|| {
        let mut delivery = json!({ "subscriptionId": of, "sequence": number, "attempts": [] });
        if history.is_some() {
            delivery["replayId"] = replay;
        }
        deliveries.push(delivery);
        deliveries.len() - 1
    })
}

/// For each subscription of the tenant: whether it got the event, and if not, which clause was not met.
#[utoipa::path(get, path = "/v1/events/{eventId}/explain", tag = "events", params(("eventId" = String, Path)),
    responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn explain(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let event_id: Uuid = id.parse().map_err(|_| Refusal::not_found("event"))?;
    let gateway = house.gateway();
    let event = gateway.events.get(&caller, event_id).await?;
    let attempts = gateway
        .dead_letters
        .attempts_of_event(&caller, event_id)
        .await?;
    let pending = gateway
        .dead_letters
        .pending_of_event(&caller, event_id)
        .await?;
    let judged = gateway.subscriptions.judge(&caller, &event.event)?;
    let subscriptions: Vec<Value> = judged
        .iter()
        .map(|(subscription, verdict)| {
            let tried = attempts
                .iter()
                .rfind(|row| row.subscription == subscription.id);
            let waits = pending
                .iter()
                .find(|(row, _)| row.subscription == subscription.id);
            let state = waits
                .map(|(row, _)| &row.state)
                .or(tried.map(|row| &row.outcome));
            json!({
                "subscriptionId": subscription.id,
                "name": subscription.name,
                "revision": subscription.revision,
                "subscriptionState": subscription.state.as_str(),
                "delivered": tried.is_some_and(|row| row.outcome == "delivered"),
                "state": state,
                "matches": verdict.is_ok(),
                "unmet": verdict.as_ref().err().map(|unmet| json!({
                    "clause": unmet.path, "expected": unmet.expected, "got": unmet.got,
                })),
            })
        })
        .collect();
    Ok(axum::Json(json!({ "eventId": event_id, "subscriptions": subscriptions })).into_response())
}

/// From which number on.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct After {
    /// The last `tidings-sequence` that the receiver has; 0 if absent.
    after: Option<u64>,
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
}

/// What a subscription was to get after a sequence number, for a receiver that has missed some.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/events", tag = "subscriptions",
    params(("subscriptionId" = String, Path), After), responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn missed(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    after: Queried<After>,
) -> Result<Response, Refused> {
    let wanted = read_query(after)?;
    let limit = page_limit(wanted.limit, 100, MAX_PAGE)?;
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
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Missed {
    items: Vec<Numbered>,
    next_after: Option<u64>,
}

/// An event under its sequence number.
#[derive(Serialize)]
struct Numbered {
    sequence: u64,
    event: Rendered,
}

/// Which page of parked keys.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ParkedPage {
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<u64>,
}

/// The keys of an ordered subscription that wait for somebody, by the numbers of their heads.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/parked", tag = "subscriptions",
    params(("subscriptionId" = String, Path), ParkedPage), responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn parked(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    wanted: Queried<ParkedPage>,
) -> Result<Response, Refused> {
    let wanted = read_query(wanted)?;
    let limit = page_limit(wanted.limit, 100, MAX_PAGE)?;
    let (rooms, after) = (house.gateway(), wanted.cursor.unwrap_or(0));
    let keys = rooms.parked.list(&caller, parsed(&id)?, after, limit);
    let (keys, next) = keys.await?;
    let items: Vec<Value> = keys
        .iter()
        .map(|parked| {
            json!({
                "key": parked.key,
                "eventId": parked.head.event_id,
                "sequence": parked.head.sequence,
                "attempts": parked.head.attempts,
                "parkedAt": rfc3339(parked.head.next_at_ms),
                "behind": parked.behind,
            })
        })
        .collect();
    Ok(axum::Json(json!({ "items": items, "nextCursor": next })).into_response())
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
    let body: ReleaseBody = json_body(&house, &headers, body, MAX_BYTES).await?;
    let (room, id) = (&house.gateway().parked, parsed(&id)?);
    if body.drop_head {
        room.drop_head(&caller, id, &body.key).await?;
    } else {
        room.release(&caller, id, &body.key).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

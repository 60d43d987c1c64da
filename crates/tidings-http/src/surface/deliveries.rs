//! What became of events: their trace, their explanation, parked keys, and what a receiver has missed.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tidings_event::event::rfc3339;
use tidings_gateway::deliver::record::AttemptDetail;
use tidings_gateway::events::Placed;
use tidings_gateway::parked::MAX_PAGE;
use tidings_gateway::publish::refusal::Refusal;
use uuid::Uuid;

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
        // What history has sent again stands under its replay's id.
        let history = detail.replay.filter(|replay| replay.of.is_some());
        let of = history.and_then(|replay| replay.of);
        let of = json!(of.unwrap_or(attempt.subscription));
        let number = json!(history.map_or(Some(attempt.sequence), |replay| replay.number));
        let replay = json!(history.map(|replay| replay.id));
        let known = deliveries.iter().position(|it| {
            it["subscriptionId"] == of && it["sequence"] == number && it["replayId"] == replay
        });
        let index = known.unwrap_or_else(|| {
            deliveries.push(json!({ "subscriptionId": of, "sequence": number, "attempts": [] }));
            deliveries.len() - 1
        });
        if history.is_some() {
            deliveries[index]["replayId"] = replay;
        }
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
    for row in &pending {
        let of = json!(row.subscription);
        let known = deliveries
            .iter_mut()
            .find(|it| it["subscriptionId"] == of && it["sequence"] == row.sequence);
        let state = json!(row.state);
        let due = json!(rfc3339(row.next_at_ms));
        match known {
            Some(delivery) => {
                delivery["state"] = state;
                delivery["nextAttemptAt"] = due;
            }
            None => deliveries.push(json!({
                "subscriptionId": of, "sequence": row.sequence, "attempts": [], "state": state,
                "nextAttemptAt": due,
            })),
        }
    }
    let event = serde_json::to_value(super::events::Rendered(event));
    let event = event.map_err(|error| Refusal::fault("Writing an event", &error))?;
    let caused = gateway.dead_letters.caused_by(&caller, event_id).await?;
    let answer = json!({ "event": event, "deliveries": deliveries, "caused": caused });
    Ok(axum::Json(answer).into_response())
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
                .find(|row| row.subscription == subscription.id);
            let state = waits
                .map(|row| &row.state)
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
    let found = gateway
        .parked
        .missed(&caller, &gateway.events, parsed(&id)?, after, limit)
        .await?;
    let items = found
        .into_iter()
        .map(|(sequence, event)| numbered(sequence, event));
    let items: Vec<Value> = items.collect::<Result<_, _>>()?;
    Ok(axum::Json(json!({ "items": items })).into_response())
}

fn numbered(sequence: u64, event: Placed) -> Result<Value, Refusal> {
    let event = serde_json::to_value(super::events::Rendered(event))
        .map_err(|error| Refusal::fault("Writing an event", &error))?;
    Ok(json!({ "sequence": sequence, "event": event }))
}

/// The keys of an ordered subscription that wait for somebody.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/parked", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = serde_json::Value)))]
pub(crate) async fn parked(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let keys = house.gateway().parked.list(&caller, parsed(&id)?).await?;
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
    Ok(axum::Json(json!({ "items": items, "nextCursor": null })).into_response())
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
    let body: ReleaseBody = json_body(&headers, body, MAX_BYTES).await?;
    let (room, id) = (&house.gateway().parked, parsed(&id)?);
    if body.drop_head {
        room.drop_head(&caller, id, &body.key).await?;
    } else {
        room.release(&caller, id, &body.key).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

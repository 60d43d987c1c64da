//! Subscriptions of a tenant, and what became of their deliveries.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_event::event::rfc3339;
use tidings_gateway::access::Caller;
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::subscription::{Subscription, duration_or_none};
use tidings_gateway::subscriptions::{Change, From, may_change};
use uuid::Uuid;

use crate::House;
use crate::openapi::subscription::{SubscriptionBody, SubscriptionDocument, SubscriptionPatch};
use crate::page::{Page, Stretch};
use crate::problem::Refused;
use crate::request::{
    Authenticated, Path, Queried, json_body, json_body_if_any, merge_patch, read_query,
};

/// The largest body of these operations, in bytes.
pub(crate) const MAX_BYTES: usize = 262_144;
/// A time may be so far ahead of ours and is taken as now: clocks differ.
const CLOCKS_DIFFER_MS: i64 = 60_000;
/// What stands in place of a header's value.
const HIDDEN: &str = "[hidden]";
/// How long the secret before stays good after a rotation that does not say.
const OVERLAP: &str = "24h";
/// The longest overlap.
const LONGEST_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// Makes a subscription; the secret of a webhook is in this answer.
#[utoipa::path(post, path = "/v1/subscriptions", tag = "subscriptions", request_body = SubscriptionBody,
    responses((status = 201, body = SubscriptionShown)))]
pub(crate) async fn create(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let mut document: Value = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let from = match document
        .as_object_mut()
        .and_then(|members| members.remove("replayFrom"))
    {
        None | Some(Value::Null) => From::Now,
        Some(Value::String(text)) => past(&house, "replayFrom", &text)?,
        Some(_) => return Err(Refusal::invalid("replayFrom", "'replayFrom' must be text.").into()),
    };
    let rooms = &house.gateway().subscriptions;
    let (made, secret) = rooms.create(&caller, document, from).await?;
    let answer = SubscriptionShown {
        secret: secret.map(|secret| secret.to_string()),
        ..rendered(&made)
    };
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

/// The tenant's subscriptions, oldest first.
#[utoipa::path(get, path = "/v1/subscriptions", tag = "subscriptions", params(Stretch),
    responses((status = 200, body = Page<SubscriptionShown>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    stretch: Queried<Stretch>,
) -> Result<Response, Refused> {
    let (after, limit) = read_query(stretch)?.place()?;
    let rooms = &house.gateway().subscriptions;
    let (page, next) = rooms.page(&caller, after, limit as usize)?;
    let items = page.iter().map(|one| shown_to(&caller, one)).collect();
    Ok(Page::of(items, next).into_response())
}

/// One of them.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let one = house.gateway().subscriptions.get(&caller, parsed(&id)?)?;
    Ok(axum::Json(shown_to(&caller, &one)).into_response())
}

/// Changes one by a JSON merge patch (RFC 7396).
#[utoipa::path(patch, path = "/v1/subscriptions/{subscriptionId}", tag = "subscriptions",
    params(("subscriptionId" = String, Path)),
    request_body(content((SubscriptionPatch = "application/json"), (SubscriptionPatch = "application/merge-patch+json"))),
    responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn patch(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let patch = merge_patch(&house, &caller, &headers, body, MAX_BYTES).await?;
    changed(&house, &caller, &id, Change::Patch(patch)).await
}

/// Takes one away.
#[utoipa::path(delete, path = "/v1/subscriptions/{subscriptionId}", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    house
        .gateway()
        .subscriptions
        .delete(&caller, parsed(&id)?)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Stops sending; what matches waits.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/pause", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn pause(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    changed(&house, &caller, &id, Change::Pause).await
}

/// Sends again, what has waited first.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/resume", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn resume(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    changed(&house, &caller, &id, Change::Resume).await
}

/// Where to go on.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SeekBody {
    /// `now`, `beginning` or an RFC 3339 time.
    to: String,
}

/// Goes on from another place of the log.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/seek", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), request_body = SeekBody,
    responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn seek(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: SeekBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let from = past(&house, "to", &body.to)?;
    changed(&house, &caller, &id, Change::Seek(from)).await
}

/// Leaves out what has waited.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/skip-backlog", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = SubscriptionShown)))]
pub(crate) async fn skip_backlog(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    changed(&house, &caller, &id, Change::Seek(From::Now)).await
}

/// What a receiver verifies messages with.
#[utoipa::path(get, path = "/v1/subscriptions/{subscriptionId}/secret", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = SecretsShown)))]
pub(crate) async fn secret(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let secrets = house
        .gateway()
        .subscriptions
        .secrets(&caller, parsed(&id)?)?;
    Ok(axum::Json(keys(&secrets)).into_response())
}

/// A new secret.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RotateBody {
    /// How long the one before stays good, as `24h`, which is the default, or `7d`; `0s` ends it at once.
    overlap: Option<String>,
    /// `whsec_…` or `whsk_…`; one is made if absent.
    pub(super) secret: Option<String>,
}

impl RotateBody {
    pub(super) fn overlap(&self) -> Result<Duration, Refusal> {
        let overlap = self.overlap.as_deref().unwrap_or(OVERLAP);
        duration_or_none("overlap", overlap, LONGEST_OVERLAP)
    }
}

/// Signs with a new secret, and with the one before until the overlap ends.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/rotate-secret", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), request_body = Option<RotateBody>,
    responses((status = 200, body = SecretsShown)))]
pub(crate) async fn rotate(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: RotateBody = json_body_if_any(&house, &caller, &headers, body, MAX_BYTES).await?;
    let change = Change::Rotate {
        overlap: body.overlap()?,
        secret: body.secret,
    };
    let rooms = &house.gateway().subscriptions;
    rooms.change(&caller, parsed(&id)?, change).await?;
    let secrets = rooms.secrets(&caller, parsed(&id)?)?;
    Ok(axum::Json(keys(&secrets)).into_response())
}

/// Sends the receiver what it must cope with, and tells how it answered. Takes as long as the receiver does.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/test", tag = "subscriptions",
    params(("subscriptionId" = String, Path)), responses((status = 200, body = TestShown)))]
pub(crate) async fn test(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let (room, id) = (&house.gateway().subscriptions, parsed(&id)?);
    let tested = room.test(&caller, id).await?;
    let cases = tested.iter().map(|one| TestCase {
        case: one.case,
        sent: one.sent,
        expected: one.expected,
        status: one.status,
        error: one.error.clone(),
        latency_ms: one.latency_ms,
        passed: one.passed,
    });
    let answer = TestShown {
        passed: tested.iter().all(|one| one.passed),
        state: room.get(&caller, id)?.state.as_str(),
        cases: cases.collect(),
    };
    Ok(axum::Json(answer).into_response())
}

/// How a receiver has coped.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct TestShown {
    /// With all cases.
    passed: bool,
    /// The subscription's, now: `active`, `paused` or `disabled`.
    state: &'static str,
    cases: Vec<TestCase>,
}

/// One thing that a receiver must cope with.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestCase {
    case: &'static str,
    /// In words.
    sent: &'static str,
    /// In words.
    expected: &'static str,
    /// What it answered, if it did.
    status: Option<u16>,
    error: Option<String>,
    latency_ms: u64,
    passed: bool,
}

async fn changed(
    house: &House,
    caller: &tidings_gateway::access::Caller,
    id: &str,
    change: Change,
) -> Result<Response, Refused> {
    let rooms = &house.gateway().subscriptions;
    let one = rooms.change(caller, parsed(id)?, change).await?;
    Ok(axum::Json(rendered(&one)).into_response())
}

pub(super) fn parsed(id: &str) -> Result<Uuid, Refusal> {
    id.parse().map_err(|_| Refusal::not_found("subscription"))
}

pub(super) fn from(field: &str, text: &str) -> Result<From, Refusal> {
    match text {
        "now" => Ok(From::Now),
        "beginning" => Ok(From::Beginning),
        time => time
            .parse::<jiff::Timestamp>()
            .map(|time| From::Time(time.as_millisecond()))
            .map_err(|_| {
                let detail = format!("'{field}' must be now, beginning or an RFC 3339 time.");
                Refusal::invalid(field, detail)
            }),
    }
}

/// Where a subscription is to begin, which is no time that is yet to come: what is published until then would be sent all the same.
pub(super) fn past(house: &House, field: &str, text: &str) -> Result<From, Refusal> {
    let from = from(field, text)?;
    let latest = house.gateway.clock.now_ms() + CLOCKS_DIFFER_MS;
    if matches!(from, From::Time(time) if time > latest) {
        let detail = format!("'{field}' is yet to come; 'now' begins with the next event.");
        return Err(Refusal::invalid(field, detail));
    }
    Ok(from)
}

/// What messages are signed with.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SecretsShown {
    /// The newest.
    secret: Option<String>,
    /// All that are good now, the newest first.
    secrets: Vec<SecretShown>,
}

/// One secret.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretShown {
    secret: String,
    /// When it is good no more; null for the newest.
    ends_at: Option<String>,
}

pub(super) fn keys(secrets: &[(zeroize::Zeroizing<String>, Option<i64>)]) -> SecretsShown {
    let all = secrets.iter().map(|(secret, ends)| SecretShown {
        secret: secret.to_string(),
        ends_at: ends.map(rfc3339),
    });
    SecretsShown {
        secret: secrets.first().map(|(secret, _)| secret.to_string()),
        secrets: all.collect(),
    }
}

/// A subscription as it is, and what its owner wrote of it, without what is secret.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubscriptionShown {
    id: Uuid,
    tenant_id: String,
    /// `active`, `paused` or `disabled`.
    state: &'static str,
    /// Why it is disabled.
    reason: Option<String>,
    /// Counts its changes, from 1.
    revision: u32,
    created_at: String,
    updated_at: String,
    #[serde(flatten)]
    #[schema(value_type = SubscriptionDocument)]
    document: Arc<Map<String, Value>>,
    /// What a webhook's receiver verifies messages with; in the answer that makes it only.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// The same without the values of its target's headers, for whoever may only read it.
fn shown_to(caller: &Caller, subscription: &Subscription) -> SubscriptionShown {
    let mut shown = rendered(subscription);
    if !may_change(caller) {
        let document = Arc::make_mut(&mut shown.document);
        let headers = document
            .get_mut("target")
            .and_then(|it| it.get_mut("headers"));
        for value in headers
            .and_then(Value::as_object_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            *value = HIDDEN.into();
        }
    }
    shown
}

fn rendered(subscription: &Subscription) -> SubscriptionShown {
    SubscriptionShown {
        id: subscription.id,
        tenant_id: subscription.tenant.to_string(),
        state: subscription.state.as_str(),
        reason: subscription.reason.clone(),
        revision: subscription.revision,
        created_at: rfc3339(subscription.created_at_ms),
        updated_at: rfc3339(subscription.updated_at_ms),
        document: subscription.document.clone(),
        secret: None,
    }
}

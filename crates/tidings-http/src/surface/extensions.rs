//! Source C's extensions of a workspace, what they are to get, and what became of it.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::event::rfc3339;
use tidings_event::{EventType, ExtensionId};
use tidings_gateway::deliver::record::AttemptDetail;
use tidings_gateway::extensions::{
    AttemptRow, ExtensionRow, ExtensionSubscriptionRow, NewExtension,
};
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::subscriptions::From;
use uuid::Uuid;

use super::subscriptions::{MAX_BYTES, RotateBody, SecretsShown, keys, past};
use crate::House;
use crate::page::{self, Page, Stretch};
use crate::problem::Refused;
use crate::request::{
    Authenticated, Path, Queried, document, json_body, json_body_if_any, read, read_query,
};

/// What is said of an extension.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExtensionBody {
    /// `EXTERNAL_SERVICE`, or `IN_PROCESS`: the plugin of this id; made anew it gets what that handles.
    kind: String,
    /// Where an external service is; it gets `POST {serviceBaseUrl}/events`.
    service_base_url: Option<String>,
    /// Only what is installed and enabled gets events.
    installed: bool,
    enabled: bool,
    /// Where it goes on when it begins to get events again: `now` (the default), `beginning` or an RFC 3339 time.
    replay_from: Option<String>,
}

/// How an extension's subscription begins; no body is as good.
#[derive(Deserialize, Default, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SubscribeBody {
    /// `now` (the default), `beginning` or an RFC 3339 time.
    replay_from: Option<String>,
}

/// Writes an extension; for ADMINs of the workspace.
#[utoipa::path(put, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}", tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path)), request_body = ExtensionBody,
    responses((status = 200, body = ExtensionShown)))]
pub(crate) async fn put(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let given: ExtensionBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let new = NewExtension {
        kind: given.kind,
        service_base_url: given.service_base_url,
        installed: given.installed,
        enabled: given.enabled,
        replay_from: beginning(&house, given.replay_from.as_deref())?,
    };
    let rooms = &house.gateway.extensions;
    let row = rooms
        .put(&caller, &workspace, &extension_id(&id)?, new)
        .await?;
    Ok(axum::Json(rendered(&row)).into_response())
}

/// An extension.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}", tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path)),
    responses((status = 200, body = ExtensionShown)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let rooms = &house.gateway.extensions;
    let row = rooms.get(&caller, &workspace, &extension_id(&id)?).await?;
    Ok(axum::Json(rendered(&row)).into_response())
}

/// Removes an extension, with what it was to get.
#[utoipa::path(delete, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}", tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let rooms = &house.gateway.extensions;
    rooms
        .delete(&caller, &workspace, &extension_id(&id)?)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Signs what an external service gets with a new secret, and with the one before until the overlap ends.
#[utoipa::path(post, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}/rotate-secret",
    tag = "workspaces", params(("workspaceId" = String, Path), ("extensionId" = String, Path)),
    request_body = Option<RotateBody>, responses((status = 200, body = SecretsShown)))]
pub(crate) async fn rotate(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: RotateBody = json_body_if_any(&house, &caller, &headers, body, MAX_BYTES).await?;
    let (id, overlap) = (extension_id(&id)?, body.overlap()?);
    let rooms = &house.gateway.extensions;
    let rotated = rooms.rotate(&caller, &workspace, &id, body.secret, overlap);
    Ok(axum::Json(keys(&rotated.await?)).into_response())
}

/// Has an extension get an event; the answer holds what its messages are verified with.
#[utoipa::path(put, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
    tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path), ("eventKey" = String, Path)),
    request_body = SubscribeBody, responses((status = 200, body = ExtensionSubscription)))]
pub(crate) async fn subscribe(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id, event_key)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let bytes = read(
        &house,
        &caller,
        &headers,
        body,
        MAX_BYTES,
        tidings_event::Code::InvalidRequest,
    )
    .await?;
    let given: SubscribeBody = if bytes.is_empty() {
        SubscribeBody::default()
    } else {
        document(&headers, &bytes)?
    };
    let from = beginning(&house, given.replay_from.as_deref())?;
    let (id, event_key) = (extension_id(&id)?, event_type(&event_key)?);
    let rooms = &house.gateway.extensions;
    let made = rooms.subscribe(&caller, &workspace, &id, &event_key, from);
    let made = made.await?;
    let secret = made.secret.as_ref().map(|secret| secret.to_string());
    Ok(axum::Json(row(&house, &made.row, secret)).into_response())
}

/// One of the events that an extension gets.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
    tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path), ("eventKey" = String, Path)),
    responses((status = 200, body = ExtensionSubscription)))]
pub(crate) async fn subscription(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id, event_key)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    let (id, event_key) = (extension_id(&id)?, event_type(&event_key)?);
    let rooms = &house.gateway.extensions;
    let found = rooms.subscription(&caller, &workspace, &id, &event_key);
    Ok(axum::Json(row(&house, &found.await?, None)).into_response())
}

/// Has an extension get an event no more.
#[utoipa::path(delete, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
    tag = "workspaces",
    params(("workspaceId" = String, Path), ("extensionId" = String, Path), ("eventKey" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn unsubscribe(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id, event_key)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    let (id, event_key) = (extension_id(&id)?, event_type(&event_key)?);
    let rooms = &house.gateway.extensions;
    let removed = rooms.unsubscribe(&caller, &workspace, &id, &event_key);
    removed.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Attempts to deliver to an extension, by event and in the order of their numbers.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/extensions/{extensionId}/deliveries",
    tag = "workspaces", params(("workspaceId" = String, Path), ("extensionId" = String, Path), Stretch),
    responses((status = 200, body = Page<ExtensionAttempt>)))]
pub(crate) async fn deliveries(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
    stretch: Queried<Stretch>,
) -> Result<Response, Refused> {
    let stretch = read_query(stretch)?;
    let limit = stretch.limit()?;
    let after = stretch.cursor.as_deref().map(place).transpose()?;
    let rooms = &house.gateway.extensions;
    let id = extension_id(&id)?;
    let attempts = rooms.deliveries(&caller, &workspace, &id, after, limit);
    let attempts = attempts.await?;
    let next = page::next(&attempts, limit, |(key, attempt)| {
        format!("{key}:{}:{}", attempt.sequence, attempt.number)
    });
    let items = attempts.iter().map(|(key, attempt)| delivery(key, attempt));
    let items: Vec<ExtensionAttempt> = items.collect();
    Ok(Page::of(items, next).into_response())
}

fn extension_id(text: &str) -> Result<ExtensionId, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid("extensionId", format!("{error}.")))
}

fn event_type(text: &str) -> Result<EventType, Refusal> {
    text.parse()
        .map_err(|error| Refusal::invalid("eventKey", format!("{error}.")))
}

fn beginning(house: &House, text: Option<&str>) -> Result<Option<From>, Refusal> {
    text.map(|text| past(house, "replayFrom", text)).transpose()
}

fn place(cursor: &str) -> Result<(EventType, u64, u32), Refusal> {
    let place = cursor.rsplit_once(':').and_then(|(rest, number)| {
        let (key, sequence) = rest.rsplit_once(':')?;
        Some((
            key.parse().ok()?,
            sequence.parse().ok()?,
            number.parse().ok()?,
        ))
    });
    place.ok_or_else(|| Refusal::invalid("cursor", "'cursor' is not one of a page before."))
}

/// An extension of a workspace.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExtensionShown {
    id: String,
    workspace_id: String,
    /// `EXTERNAL_SERVICE` or `IN_PROCESS`.
    kind: String,
    service_base_url: Option<String>,
    installed: bool,
    enabled: bool,
    updated_at: String,
}

fn rendered(row: &ExtensionRow) -> ExtensionShown {
    ExtensionShown {
        id: row.id.to_string(),
        workspace_id: row.workspace.to_string(),
        kind: row.kind.clone(),
        service_base_url: row.service_base_url.clone(),
        installed: row.installed,
        enabled: row.enabled,
        updated_at: rfc3339(row.updated_at_ms),
    }
}

/// An event that an extension gets.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExtensionSubscription {
    workspace_id: String,
    extension_id: String,
    event_key: String,
    /// None: the extension gets nothing now, being disabled or not installed.
    subscription_id: Option<Uuid>,
    /// `active`, `paused` while the extension is not to get anything, or `disabled` by what became of its deliveries: to write it
    /// again resumes it.
    state: Option<&'static str>,
    /// Why it is disabled.
    reason: Option<String>,
    created_at: String,
    /// What an external service verifies messages with; when it is made only.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

fn row(
    house: &House,
    row: &ExtensionSubscriptionRow,
    secret: Option<String>,
) -> ExtensionSubscription {
    let standing = house.gateway.extensions.standing(row);
    ExtensionSubscription {
        workspace_id: row.workspace.to_string(),
        extension_id: row.extension.to_string(),
        event_key: row.event_key.to_string(),
        subscription_id: row.subscription,
        state: standing.as_ref().map(|it| it.state.as_str()),
        reason: standing.and_then(|it| it.reason.clone()),
        created_at: rfc3339(row.created_at_ms),
        secret,
    }
}

/// An attempt to deliver to an extension.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExtensionAttempt {
    event_key: String,
    event_id: Uuid,
    subscription_id: Uuid,
    sequence: u64,
    /// Which attempt it was, from 1.
    number: u32,
    /// `delivered`, `failed` or `gave-up`.
    state: String,
    started_at: String,
    /// What it was answered with, if it was.
    status: Option<u16>,
    latency_ms: i64,
    error: Option<String>,
    /// Names and values.
    #[schema(value_type = Vec<Vec<String>>)]
    response_headers: Vec<(String, String)>,
    /// The beginning of the answer.
    response_body: String,
}

fn delivery(event_key: &EventType, attempt: &AttemptRow) -> ExtensionAttempt {
    let detail: AttemptDetail = serde_json::from_str(&attempt.detail).unwrap_or_else(|error| {
        tracing::error!(subscription = %attempt.subscription, sequence = attempt.sequence, %error, "an attempt cannot be read");
        AttemptDetail {
            error: Some("what is kept of this attempt cannot be read".to_owned()),
            ..AttemptDetail::default()
        }
    });
    ExtensionAttempt {
        event_key: event_key.to_string(),
        event_id: attempt.event_id,
        subscription_id: attempt.subscription,
        sequence: attempt.sequence,
        number: attempt.number,
        state: attempt.outcome.clone(),
        started_at: rfc3339(attempt.started_at_ms),
        status: detail.status,
        latency_ms: detail.latency_ms,
        error: detail.error,
        response_headers: detail.response_headers,
        response_body: detail.response_body,
    }
}

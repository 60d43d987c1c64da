//! Deliveries that were given up.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_event::event::rfc3339;
use tidings_gateway::dead_letters::{
    DeadLetterQuery, DeadLetterRow, DeadLetterSummary, wrong_types,
};
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::replays::DeadLetters;
use uuid::Uuid;

use super::subscriptions::MAX_BYTES;
use crate::House;
use crate::page::{self, Page};
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body_if_any, read_query, time};

/// Which dead letters.
#[derive(Deserialize, utoipa::IntoParams, Default)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Wanted {
    /// An event type, or a pattern as in `crm.**` or `crm.*.created`.
    r#type: Option<String>,
    /// A subscription's id.
    subscription: Option<String>,
    /// Given up at or after, RFC 3339.
    since: Option<String>,
    /// Given up before, RFC 3339.
    until: Option<String>,
    /// Text in the last error, in whatever case.
    error: Option<String>,
    /// `open`, `replaying` or `closed`.
    state: Option<String>,
    /// At most so many, 1 to 1,000; 100 if absent.
    limit: Option<u32>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

impl Wanted {
    fn query(&self) -> Result<DeadLetterQuery, Refusal> {
        let id = |field: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(str::parse::<Uuid>).transpose();
            parsed.map_err(|_| Refusal::invalid(field, format!("'{field}' is not an id.")))
        };
        let state = match self.state.as_deref() {
            None => None,
            Some("open") => Some("open"),
            Some("replaying") => Some("replaying"),
            Some("closed") => Some("closed"),
            Some(_) => {
                let detail = "'state' must be open, replaying or closed.";
                return Err(Refusal::invalid("state", detail));
            }
        };
        let limit = page::limit(self.limit)?;
        let since = self.since.as_deref().map(|text| time("since", text));
        let until = self.until.as_deref().map(|text| time("until", text));
        Ok(DeadLetterQuery {
            subscriptions: id("subscription", &self.subscription)?
                .into_iter()
                .collect(),
            event_type: self.r#type.as_deref().map(types).transpose()?,
            since_ms: since.transpose()?,
            until_ms: until.transpose()?,
            error: self.error.clone(),
            state,
            after: id("cursor", &self.cursor)?,
            limit,
        })
    }
}

/// A type as events have it, or a pattern that the store can look up.
fn types(text: &str) -> Result<String, Refusal> {
    match wrong_types(text) {
        None => Ok(text.to_owned()),
        Some(wrong) => Err(Refusal::invalid("type", format!("{wrong}."))),
    }
}

/// The tenant's dead letters, oldest first.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead-letters", params(Wanted),
    responses((status = 200, body = Page<DeadLetterShown>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    wanted: Queried<Wanted>,
) -> Result<Response, Refused> {
    let query = query(wanted)?;
    let (letters, next) = house.gateway().dead_letters.list(&caller, &query).await?;
    Ok(page(&letters, next))
}

/// What a request asks for.
fn query(wanted: Queried<Wanted>) -> Result<DeadLetterQuery, Refusal> {
    let wanted = read_query(wanted)?;
    wanted.query()
}

/// A page, and where the next begins.
fn page(letters: &[DeadLetterSummary], next: Option<Uuid>) -> Response {
    Page::of(letters.iter().map(rendered).collect(), next).into_response()
}

/// One of them, with its event.
#[utoipa::path(get, path = "/v1/dead-letters/{deadLetterId}", tag = "dead-letters",
    params(("deadLetterId" = String, Path)), responses((status = 200, body = DeadLetterWithEvent<'static>)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let room = &house.gateway().dead_letters;
    Ok(whole(room.get(&caller, parsed(&id)?).await?)?)
}

fn whole(mut letter: DeadLetterRow) -> Result<Response, Refusal> {
    let event = std::mem::take(&mut letter.event);
    let event = serde_json::from_str(&event);
    let event = event.map_err(|error| Refusal::fault("Reading a dead letter", &error))?;
    let letter = rendered(&letter.into());
    Ok(axum::Json(DeadLetterWithEvent { letter, event }).into_response())
}

/// A dead letter with its event, whose data stays as it was written.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterWithEvent<'a> {
    #[serde(flatten)]
    letter: DeadLetterShown,
    #[schema(value_type = Object)]
    event: &'a RawValue,
}

/// A delivery that was given up.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetterShown {
    id: Uuid,
    event_id: Uuid,
    subscription_id: Uuid,
    sequence: u64,
    /// The event's.
    r#type: String,
    /// How many there were, those of replays among them.
    attempts: u32,
    last_error: String,
    created_at: String,
    /// `open`, `replaying` or `closed`.
    state: String,
}

/// A dead letter that is sent again, or is closed already.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterReplayed {
    id: Uuid,
    /// `replaying` or `closed`.
    state: String,
}

/// Sends one again; success closes it. One that is closed stays so, nothing is sent, and the answer says that. A newer one of the
/// same event and subscription closes those before it.
#[utoipa::path(post, path = "/v1/dead-letters/{deadLetterId}/replay", tag = "dead-letters",
    params(("deadLetterId" = String, Path)), responses((status = 202, body = DeadLetterReplayed),
    (status = 200, description = "It is closed already", body = DeadLetterReplayed)))]
pub(crate) async fn replay(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let id = parsed(&id)?;
    let state = house.gateway().dead_letters.replay(&caller, id).await?;
    Ok(replayed(id, state))
}

fn replayed(id: Uuid, state: String) -> Response {
    let status = match state.as_str() {
        "replaying" => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    (status, axum::Json(DeadLetterReplayed { id, state })).into_response()
}

/// Which dead letters, and how fast.
#[derive(Deserialize, utoipa::ToSchema, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ReplayAllBody {
    /// An event type, or a pattern as in `crm.**` or `crm.*.created`.
    r#type: Option<String>,
    /// A subscription's id.
    subscription: Option<String>,
    /// Given up at or after, RFC 3339.
    since: Option<String>,
    /// Given up before, RFC 3339.
    until: Option<String>,
    /// Text in the last error, in whatever case.
    error: Option<String>,
    /// At most so many a second, 1 to 10,000; as their subscriptions take them if absent.
    rate: Option<u32>,
}

impl ReplayAllBody {
    fn letters(self) -> Result<DeadLetters, Refusal> {
        let wanted = Wanted {
            r#type: self.r#type,
            subscription: self.subscription,
            since: self.since,
            until: self.until,
            error: self.error,
            ..Wanted::default()
        };
        let query = wanted.query()?;
        Ok(DeadLetters {
            subscriptions: query.subscriptions,
            event_type: query.event_type,
            since_ms: query.since_ms,
            until_ms: query.until_ms,
            error: query.error,
            rate: self.rate,
        })
    }
}

/// Sends all open ones again that a filter fits, as a replay with progress.
#[utoipa::path(post, path = "/v1/dead-letters/replay", tag = "dead-letters", request_body = Option<ReplayAllBody>,
    responses((status = 202, body = super::replays::ReplayShown)))]
pub(crate) async fn replay_all(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: ReplayAllBody = json_body_if_any(&house, &caller, &headers, body, MAX_BYTES).await?;
    let letters = body.letters()?;
    let room = &house.gateway().replays;
    super::replays::accepted(&room.of_dead_letters(&caller, letters).await?)
}

/// Removes one.
#[utoipa::path(delete, path = "/v1/dead-letters/{deadLetterId}", tag = "dead-letters",
    params(("deadLetterId" = String, Path)), responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    house
        .gateway()
        .dead_letters
        .delete(&caller, parsed(&id)?)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What could not be delivered to the workspace's extensions, oldest first.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/dead-letters", tag = "workspaces",
    params(("workspaceId" = String, Path), Wanted), responses((status = 200, body = Page<DeadLetterShown>)))]
pub(crate) async fn list_of_workspace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(workspace): Path<String>,
    wanted: Queried<Wanted>,
) -> Result<Response, Refused> {
    let query = query(wanted)?;
    let limit = query.limit;
    let room = house.gateway().workspace_letters();
    let letters = room.list(&caller, &workspace, query).await?;
    let next = page::next(&letters, limit, |last| last.id);
    Ok(page(&letters, next))
}

/// One of a workspace's, with its event.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}", tag = "workspaces",
    params(("workspaceId" = String, Path), ("deadLetterId" = String, Path)),
    responses((status = 200, body = DeadLetterWithEvent<'static>)))]
pub(crate) async fn get_of_workspace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let room = house.gateway().workspace_letters();
    Ok(whole(room.get(&caller, &workspace, parsed(&id)?).await?)?)
}

/// Sends one of a workspace's again; for its ADMINs.
#[utoipa::path(post, path = "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}/replay", tag = "workspaces",
    params(("workspaceId" = String, Path), ("deadLetterId" = String, Path)),
    responses((status = 202, body = DeadLetterReplayed),
    (status = 200, description = "It is closed already", body = DeadLetterReplayed)))]
pub(crate) async fn replay_of_workspace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let id = parsed(&id)?;
    let room = house.gateway().workspace_letters();
    Ok(replayed(id, room.replay(&caller, &workspace, id).await?))
}

/// Sends all open ones of a workspace again that a filter fits, as a replay with progress; for its ADMINs.
#[utoipa::path(post, path = "/api/workspaces/{workspaceId}/dead-letters/replay", tag = "workspaces",
    params(("workspaceId" = String, Path)), request_body = Option<ReplayAllBody>,
    responses((status = 202, body = super::replays::ReplayShown)))]
pub(crate) async fn replay_all_of_workspace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(workspace): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: ReplayAllBody = json_body_if_any(&house, &caller, &headers, body, MAX_BYTES).await?;
    let room = house.gateway().workspace_letters();
    let begun = room.replay_all(&caller, &workspace, body.letters()?);
    super::replays::accepted(&begun.await?)
}

/// Removes one of a workspace's; for its ADMINs.
#[utoipa::path(delete, path = "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}", tag = "workspaces",
    params(("workspaceId" = String, Path), ("deadLetterId" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete_of_workspace(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, id)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let room = house.gateway().workspace_letters();
    room.delete(&caller, &workspace, parsed(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn parsed(id: &str) -> Result<Uuid, Refusal> {
    id.parse().map_err(|_| Refusal::not_found("dead letter"))
}

fn rendered(letter: &DeadLetterSummary) -> DeadLetterShown {
    DeadLetterShown {
        id: letter.id,
        event_id: letter.event_id,
        subscription_id: letter.subscription,
        sequence: letter.sequence,
        r#type: letter.event_type.to_string(),
        attempts: letter.attempts,
        last_error: letter.last_error.clone(),
        created_at: rfc3339(letter.created_at_ms),
        state: letter.state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_one_or_a_pattern() {
        let letters = |text: &str| {
            let body = ReplayAllBody {
                r#type: Some(text.to_owned()),
                ..ReplayAllBody::default()
            };
            body.letters()
        };
        assert!(letters("crm.contact.created").is_ok());
        assert!(letters("TENANT_CUSTOM:acme:crm.made@1.0.0").is_ok());
        assert!(letters("crm.**").is_ok() && letters("crm.*.created").is_ok());
        for bad in ["crm.**.created", "Crm.*", "crm", "*", ""] {
            let Err(refusal) = letters(bad) else {
                panic!("{bad} is taken");
            };
            assert_eq!(refusal.field.as_deref(), Some("type"), "{bad}");
        }
    }
}

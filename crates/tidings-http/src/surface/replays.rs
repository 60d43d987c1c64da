//! What is sent again, as plans with progress: history of a subscription, and dead letters by a filter.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidings_event::TypePattern;
use tidings_event::event::rfc3339;
use tidings_gateway::publish::refusal::Refusal;
use tidings_gateway::replays::history::{Place, Wanted};
use tidings_gateway::replays::{Plan, ReplayRow, Routing, Survey};
use tidings_gateway::subscriptions::From;
use uuid::Uuid;

use super::subscriptions::{self, MAX_BYTES};
use crate::House;
use crate::page::{self, Page, Stretch};
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, json_body, read_query, time};

/// Which part of history, and how.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReplayBody {
    /// `beginning` or an RFC 3339 time.
    from: String,
    /// What was received before this RFC 3339 time; up to now if absent.
    until: Option<String>,
    /// A time is `until`, a URL is `shadowUrl`.
    to: Option<String>,
    /// Sent here instead of to the subscription's URL, without its credentials and headers; one attempt each.
    shadow_url: Option<String>,
    /// Only of these types, exact or patterns as in a filter.
    #[serde(default)]
    types: Vec<String>,
    /// At most so many a second, 1 to 10,000; as the subscription takes them if absent.
    rate: Option<u32>,
    /// `then` (the default): what was sent then. `now`: what meets the filter as it is.
    routing: Option<String>,
    /// Says what would be sent, and sends nothing.
    #[serde(default)]
    dry_run: bool,
}

impl ReplayBody {
    fn wanted(&self) -> Result<Wanted, Refusal> {
        let (mut until, mut shadow) = (self.until.as_deref(), self.shadow_url.as_deref());
        if let Some(to) = self.to.as_deref() {
            let (place, field) = if to.contains("://") {
                (&mut shadow, "shadowUrl")
            } else {
                (&mut until, "until")
            };
            if place.replace(to).is_some() {
                let detail = format!("Give either 'to' or '{field}'.");
                return Err(Refusal::invalid("to", detail));
            }
        }
        let from = match subscriptions::from("from", &self.from) {
            Ok(From::Now) | Err(_) => {
                let detail = "'from' must be beginning or an RFC 3339 time.";
                return Err(Refusal::invalid("from", detail));
            }
            Ok(from) => from,
        };
        let until_ms = until.map(|text| time("until", text)).transpose()?;
        if let (From::Time(from), Some(until)) = (from, until_ms)
            && from >= until
        {
            let detail = "'until' must be later than 'from'.";
            return Err(Refusal::invalid("until", detail));
        }
        let shadow = shadow.map(|text| {
            text.parse().map_err(|error| {
                let detail = format!("The URL cannot be used: {error}.");
                Refusal::invalid("shadowUrl", detail)
            })
        });
        let routing = match self.routing.as_deref() {
            None | Some("then") => Routing::Then,
            Some("now") => Routing::Now,
            Some(_) => {
                return Err(Refusal::invalid(
                    "routing",
                    "'routing' must be then or now.",
                ));
            }
        };
        let types = self.types.iter().map(|text| {
            let pattern = text.parse::<TypePattern>();
            pattern.map_err(|error| Refusal::invalid("types", format!("{error}.")))
        });
        Ok(Wanted {
            from,
            until_ms,
            types: types.collect::<Result<_, _>>()?,
            rate: self.rate,
            routing,
            shadow: shadow.transpose()?,
        })
    }
}

/// Sends history again to one subscription, or says what that would be.
#[utoipa::path(post, path = "/v1/subscriptions/{subscriptionId}/replay", tag = "replays",
    params(("subscriptionId" = String, Path)), request_body = ReplayBody,
    responses((status = 200, description = "What a dry run has found", body = SurveyShown),
        (status = 202, description = "The replay, with its id", body = ReplayShown)))]
pub(crate) async fn of_history(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let body: ReplayBody = json_body(&house, &caller, &headers, body, MAX_BYTES).await?;
    let (room, id) = (&house.gateway().replays, subscriptions::parsed(&id)?);
    let wanted = body.wanted()?;
    if !body.dry_run {
        return accepted(&room.of_history(&caller, id, wanted).await?);
    }
    let (rate, routing) = (wanted.rate, wanted.routing);
    let survey = room.survey(&caller, id, wanted).await?;
    Ok(axum::Json(surveyed(survey, rate, routing)).into_response())
}

/// What a replay of history would send.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SurveyShown {
    /// True.
    dry_run: bool,
    #[schema(value_type = String, example = "then")]
    routing: Routing,
    /// How many events.
    count: u64,
    /// Whether all were counted; if not, there are more.
    complete: bool,
    /// Of their data.
    bytes: u64,
    /// At most so many a second, if that was asked for.
    rate: Option<u32>,
    /// How long that takes.
    seconds: Option<u64>,
    added: Differing,
    dropped: Differing,
}

/// How many events are sent by one routing and not by the other, and the first of them.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Differing {
    count: u64,
    first: Vec<Uuid>,
}

impl Differing {
    fn of((count, first): (u64, Vec<Uuid>)) -> Self {
        Self { count, first }
    }
}

fn surveyed(survey: Survey, rate: Option<u32>, routing: Routing) -> SurveyShown {
    SurveyShown {
        dry_run: true,
        routing,
        count: survey.count,
        complete: survey.complete,
        bytes: survey.bytes,
        rate,
        seconds: rate.map(|rate| survey.count.div_ceil(u64::from(rate))),
        added: Differing::of(survey.added),
        dropped: Differing::of(survey.dropped),
    }
}

/// The answer to a replay that was asked for.
pub(super) fn accepted(row: &ReplayRow) -> Result<Response, Refused> {
    Ok((StatusCode::ACCEPTED, axum::Json(rendered(row)?)).into_response())
}

/// The tenant's replays, newest first.
#[utoipa::path(get, path = "/v1/replays", tag = "replays", params(Stretch),
    responses((status = 200, body = Page<ReplayShown>)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    stretch: Queried<Stretch>,
) -> Result<Response, Refused> {
    let (cursor, limit) = read_query(stretch)?.place()?;
    let rows = house.gateway().replays.list(&caller, cursor, limit).await?;
    let next = page::next(&rows, limit, |last| last.id);
    let items = rows.iter().map(rendered).collect::<Result<_, _>>()?;
    Ok(Page::of(items, next).into_response())
}

/// How far one has come.
#[utoipa::path(get, path = "/v1/replays/{replayId}", tag = "replays", params(("replayId" = String, Path)),
    responses((status = 200, body = ReplayShown)))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let row = house.gateway().replays.get(&caller, parsed(&id)?).await?;
    Ok(axum::Json(rendered(&row)?).into_response())
}

/// Stops one where it is.
#[utoipa::path(post, path = "/v1/replays/{replayId}/cancel", tag = "replays",
    params(("replayId" = String, Path)), responses((status = 200, body = ReplayShown)))]
pub(crate) async fn cancel(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let room = &house.gateway().replays;
    let row = room.cancel(&caller, parsed(&id)?).await?;
    Ok(axum::Json(rendered(&row)?).into_response())
}

/// Goes on with one that was cancelled, where it was.
#[utoipa::path(post, path = "/v1/replays/{replayId}/resume", tag = "replays",
    params(("replayId" = String, Path)), responses((status = 200, body = ReplayShown)))]
pub(crate) async fn resume(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let room = &house.gateway().replays;
    let row = room.resume(&caller, parsed(&id)?).await?;
    Ok(axum::Json(rendered(&row)?).into_response())
}

fn parsed(id: &str) -> Result<Uuid, Refusal> {
    id.parse().map_err(|_| Refusal::not_found("replay"))
}

/// A replay, and how far it has come.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplayShown {
    id: Uuid,
    /// The one subscription that it sends to, if it is one.
    subscription_id: Option<Uuid>,
    /// `planned`, `running`, `cancelled` or `done`.
    state: String,
    /// How many there are to send, where that was counted.
    total: Option<u64>,
    sent: u64,
    /// How many of those were taken.
    delivered: u64,
    /// How many of those were given up.
    failed: u64,
    /// Dead letters that were not sent: the subscription that each was for is gone. They stay open.
    skipped: u64,
    /// At most so many a second, if that was asked for.
    rate: Option<u32>,
    created_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// Why it was cancelled, if not by somebody's wish; or why dead letters were left out, and how many.
    reason: Option<String>,
    #[serde(flatten)]
    what: What,
}

/// What is sent.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
enum What {
    /// What stands in the log.
    #[schema(rename_all = "camelCase")]
    History {
        #[schema(value_type = String, example = "then")]
        routing: Routing,
        #[schema(rename = "shadowUrl")]
        shadow_url: Option<String>,
        types: Vec<String>,
    },
    /// What was given up.
    DeadLetters {
        r#type: Option<String>,
        subscriptions: Vec<Uuid>,
        error: Option<String>,
    },
}

fn rendered(row: &ReplayRow) -> Result<ReplayShown, Refusal> {
    let plan = Plan::read(&row.plan)?;
    let place = Place::read(&row.place)?;
    let left_out = place.left_out();
    let cancelled = place.reason.filter(|_| row.state == "cancelled");
    Ok(ReplayShown {
        id: row.id,
        subscription_id: row.subscription,
        state: row.state.clone(),
        total: row.total,
        sent: row.sent,
        delivered: row.delivered,
        failed: row.failed,
        skipped: place.skipped,
        rate: plan.rate(),
        created_at: rfc3339(row.created_at_ms),
        started_at: row.started_at_ms.map(rfc3339),
        ended_at: row.ended_at_ms.map(rfc3339),
        reason: cancelled.or(left_out),
        what: match plan {
            Plan::History(history) => What::History {
                routing: history.routing,
                shadow_url: history.shadow.as_ref().map(ToString::to_string),
                types: history.types.iter().map(ToString::to_string).collect(),
            },
            Plan::DeadLetters(letters) => What::DeadLetters {
                r#type: letters.event_type,
                subscriptions: letters.subscriptions,
                error: letters.error,
            },
        },
    })
}

//! Reading events back: one, a list, a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::ready;
use futures_util::stream::once;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidings_event::Code;
use tidings_event::event::rfc3339;
use tidings_event::json::RawJson;
use tidings_gateway::events::{Cursor, Placed, Query, Streamed};
use tidings_gateway::limits::StreamPlace;
use tidings_gateway::publish::refusal::Refusal;

use crate::House;
use crate::page;
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, authenticated, read_query, time};

/// How often a stream without events says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// An event on the wire: its CloudEvents JSON with its place in the log.
pub(super) struct Rendered(pub(super) Placed);

impl Serialize for Rendered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = [
            ("eventId", json!(self.0.event.event_id)),
            ("topic", json!(self.0.topic.as_str())),
            ("partition", json!(self.0.partition)),
            ("offset", json!(self.0.offset)),
            ("receivedAt", json!(rfc3339(self.0.event.received_at_ms))),
        ];
        RawJson::trusted(self.0.event.to_structured_with(&place)).serialize(serializer)
    }
}

/// One event.
#[utoipa::path(get, path = "/v1/events/{eventId}", tag = "events", params(("eventId" = String, Path)),
    responses((status = 200, body = crate::openapi::EventBody), (status = 404, description = "Unknown, or another tenant's",
        body = crate::openapi::Problem, content_type = "application/problem+json")))]
pub(crate) async fn get(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path(event_id): Path<String>,
) -> Result<Response, Refused> {
    let event_id = event_id.parse().map_err(|_| Refusal::not_found("event"))?;
    let event = house.gateway.events.get(&caller, event_id).await?;
    Ok(axum::Json(Rendered(event)).into_response())
}

/// Parameters of the list.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListParameters {
    /// An event type, or a pattern such as `crm.*` or `crm.**`.
    r#type: Option<String>,
    /// A topic.
    topic: Option<String>,
    /// Received at or after this RFC 3339 time.
    since: Option<String>,
    /// Received before this RFC 3339 time.
    until: Option<String>,
    /// 1 to 1,000; 100 if absent.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// The tenant's events, oldest first.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(ListParameters),
    responses((status = 200, body = crate::openapi::EventList)))]
pub(crate) async fn list(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    parameters: Queried<ListParameters>,
) -> Result<Response, Refused> {
    let given = read_query(parameters)?;
    // What is no number is refused as 0 is.
    let limit = given.limit.map(|text| text.parse().unwrap_or_default());
    let limit = page::limit(limit)?;
    let query = Query {
        types: parsed("type", given.r#type.as_deref())?,
        topic: parsed("topic", given.topic.as_deref())?,
        since_ms: given.since.map(|text| time("since", &text)).transpose()?,
        until_ms: given.until.map(|text| time("until", &text)).transpose()?,
        limit: limit as usize,
        cursor: cursor("cursor", given.cursor.as_deref())?,
    };
    let list = house.gateway.events.list(&caller, &query).await?;
    let items: Vec<Rendered> = list.items.into_iter().map(Rendered).collect();
    let next = list.next.map(|cursor| cursor.encode());
    Ok(axum::Json(Page {
        items,
        next_cursor: next,
    })
    .into_response())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Rendered>,
    next_cursor: Option<String>,
}

/// Parameters of the stream.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamParameters {
    /// An event type, or a pattern such as `crm.*` or `crm.**`.
    r#type: Option<String>,
}

/// The tenant's events as they come (server-sent events), from `Last-Event-ID` or from now on. It begins with an `id`
/// without an event: where it stands, so that a connection lost before the first event loses nothing.
#[utoipa::path(get, path = "/v1/events/stream", tag = "events", params(StreamParameters, ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, description = "`id` is the cursor, `data` the event", body = String, content_type = "text/event-stream")))]
pub(crate) async fn stream(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    parameters: Queried<StreamParameters>,
) -> Result<Response, Refused> {
    let given = read_query(parameters)?;
    let types = parsed("type", given.r#type.as_deref())?;
    let last = headers
        .get("last-event-id")
        .map(|value| value.to_str().unwrap_or("not ASCII"));
    let after = cursor("Last-Event-ID", last)?;
    let place = house.gateway.limits.place(&caller)?;
    let (start, events) = house.gateway.events.stream(&caller, types, after).await?;
    // A browser keeps the id of a frame without data, and tells the page nothing.
    let start = Ok(Frame::default().id(start.encode()));
    let frames = frames(house, headers, place, events);
    Ok(Sse::new(once(ready(start)).chain(frames))
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
        .into_response())
}

/// Each event as a frame, until the credential ends or the process stops.
///
/// A failure ends the stream too: the client resumes from its last id.
fn frames(
    house: House,
    headers: HeaderMap,
    place: StreamPlace,
    events: impl Stream<Item = Streamed>,
) -> impl Stream<Item = Result<Frame, Infallible>> {
    let headers = Arc::new(headers);
    let mut closing = house.closing.subscribe();
    let unauthenticated = unauthenticated(house.clone(), headers.clone());
    let ended = async move {
        tokio::select! {
            // An error says that the house is gone, which also ends the stream.
            _ = closing.wait_for(|closing| *closing) => {}
            () = unauthenticated => {}
        }
    };
    let allowed = move |event: &Result<_, Refusal>| {
        let (good, house, headers) = (event.is_ok(), house.clone(), headers.clone());
        async move { good && authenticated(&house, &headers).await.is_ok() }
    };
    events
        .take_until(ended)
        .take_while(allowed)
        .filter_map(async |event| event.ok())
        .map(move |(cursor, event)| {
            // Held until the stream is dropped.
            let _place = &place;
            let text = serde_json::to_string(&Rendered(event))
                .expect("an event is always writable as JSON");
            // A frame's data is one line: pretty-printed payloads lose their line breaks here.
            Ok(Frame::default()
                .id(cursor.encode())
                .event("event")
                .data(text.replace(['\n', '\r'], " ")))
        })
}

/// Comes to its end with the credential, within a heartbeat: a stream without events is to keep no place for longer.
///
/// That a credential cannot be asked about now ends nothing.
async fn unauthenticated(house: House, headers: Arc<HeaderMap>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let caller = authenticated(&house, &headers).await;
        if caller.is_err_and(|refusal| refusal.code == Code::Unauthenticated) {
            return;
        }
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: Option<&str>,
) -> Result<Option<T>, Refusal> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: T::Err| Refusal::invalid(field, format!("{error}.")))
}

fn cursor(field: &str, text: Option<&str>) -> Result<Option<Cursor>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let decoded = Cursor::decode(text);
    decoded.map(Some).ok_or_else(|| {
        Refusal::invalid(
            field,
            format!("'{field}' is not a cursor that was given out here."),
        )
    })
}

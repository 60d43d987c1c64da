//! CloudEvents over HTTP (HTTP protocol binding 1.0): structured, binary and batched mode.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use bytes::Bytes;
use tidings_event::Code;
use tidings_event::cloudevents::{self, InvalidCloudEvent, header_decoded};
use tidings_event::event::essence;
use tidings_gateway::publish::command::{Command, Draft};
use tidings_gateway::publish::refusal::{Refusal, Rule};

use super::publish::{MAX_BATCH, receipt, receipts, within_a_batch};
use crate::House;
use crate::openapi::{CloudEventBody, CloudEventsAnswer};
use crate::problem::Refused;
use crate::request::{Authenticated, MAX_BATCH_BYTES, MAX_SINGLE_BYTES, read, text, traceparent};

enum Mode {
    Structured,
    Batched,
    Binary,
}

/// Publishes a CloudEvent, or a batch of them; `source` and `id` are the idempotency key.
///
/// In structured mode the body is one event, in batched mode 1 to 1,000 of them. In binary mode the body is the data of one, of
/// any other media type, and each attribute is a header `ce-NAME` with its value percent-encoded.
#[utoipa::path(post, path = "/v1/cloudevents", tag = "publish",
    params(
        ("ce-specversion" = Option<String>, Header, description = "Binary mode, where it must be: `1.0`"),
        ("ce-id" = Option<String>, Header, description = "Binary mode, where it must be"),
        ("ce-source" = Option<String>, Header, description = "Binary mode, where it must be"),
        ("ce-type" = Option<String>, Header, description = "Binary mode, where it must be"),
        ("traceparent" = Option<String>, Header),
    ),
    request_body(content(
        (CloudEventBody = "application/cloudevents+json"),
        (Vec<CloudEventBody> = "application/cloudevents-batch+json"),
        (String = "*/*"),
    ), description = "Structured, batched or binary mode, by the media type"),
    responses(
        (status = 201, description = "Published; a batch as a whole", body = CloudEventsAnswer),
        (status = 200, description = "A repeat of one event, or the bus is disabled and kept nothing", body = CloudEventsAnswer),
    ))]
pub(crate) async fn publish(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    request: Request,
) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let headers = head.headers;
    let mode = mode(&headers);
    let (limit, code) = match mode {
        Some(Mode::Batched) => (MAX_BATCH_BYTES, Code::BatchTooLarge),
        _ => (MAX_SINGLE_BYTES, Code::EventPayloadTooLarge),
    };
    let body = read(&house, &caller, &headers, body, limit, code).await?;
    let alone = !matches!(mode, Some(Mode::Batched));
    let drafts = match mode {
        Some(Mode::Structured) => vec![Ok(Draft::from(
            cloudevents::structured(text(&body)?).map_err(invalid)?,
        ))],
        Some(Mode::Binary) => vec![Ok(binary(&headers, body)?)],
        Some(Mode::Batched) => {
            let batch = cloudevents::batch(text(&body)?, MAX_BATCH);
            let (events, count) = batch.map_err(invalid)?;
            within_a_batch(count)?;
            events
                .into_iter()
                .map(|event| event.map(Draft::from).map_err(invalid))
                .collect()
        }
        None => return Err(Refused(unsupported())),
    };
    let command = Command {
        caller,
        drafts,
        traceparent: traceparent(&headers),
        alone,
    };
    let mut published = house.gateway.publish(command).await?;
    house
        .metrics
        .skipped(published.iter().map(|one| one.skipped));
    Ok(if alone {
        receipt(published.remove(0), true)
    } else {
        receipts(published, true)
    })
}

fn mode(headers: &HeaderMap) -> Option<Mode> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match essence(content_type).as_str() {
        "application/cloudevents+json" => Some(Mode::Structured),
        "application/cloudevents-batch+json" => Some(Mode::Batched),
        other if other.starts_with("application/cloudevents") => None,
        // One attribute tells that it is meant so, and that `specversion` is missing.
        _ => {
            let mut names = headers.keys().map(HeaderName::as_str);
            names
                .any(|name| name.starts_with("ce-"))
                .then_some(Mode::Binary)
        }
    }
}

fn binary(headers: &HeaderMap, body: Bytes) -> Result<Draft, Refusal> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let mut attributes: Vec<(&str, String)> = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else {
            continue;
        };
        let value = header_decoded(value.as_bytes()).ok_or_else(|| {
            invalid(InvalidCloudEvent::Attribute(
                name.to_owned(),
                "is no quoted string or percent-encoded UTF-8".to_owned(),
            ))
        })?;
        attributes.push((name, value));
    }
    cloudevents::binary(attributes.into_iter(), content_type, body)
        .map(Draft::from)
        .map_err(invalid)
}

fn invalid(error: InvalidCloudEvent) -> Refusal {
    let refusal = Refusal::new(
        Code::InvalidCloudEvent,
        Rule::Shape,
        format!("This is not a CloudEvent: {error}."),
    );
    match error {
        InvalidCloudEvent::Attribute(name, _) => refusal.field(name),
        InvalidCloudEvent::Json(_) | InvalidCloudEvent::Form(_) => refusal,
    }
}

fn unsupported() -> Refusal {
    Refusal::new(
        Code::UnsupportedMediaType,
        Rule::Shape,
        "Send application/cloudevents+json, application/cloudevents-batch+json, or any content type with ce- headers.",
    )
    .field("Content-Type")
}

//! The one place where a refusal becomes problem+json (RFC 9457), and where requests are counted.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tidings_event::Code;
use tidings_gateway::custom_events::member;
use tidings_gateway::publish::refusal::{Fault, Refusal, Rule};
use tower::Service as _;
use tracing::Instrument as _;

use crate::House;
use crate::coding::{ACCEPTED_CODINGS, ENCODING_FIELD};
use crate::metrics::route_of;
use crate::request::traceparent;

/// The member that holds a payload which was accepted before and would be refused now.
const COUNTER_EXAMPLE: &str = "counterExample";

/// A refusal on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Refused(pub(crate) Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    /// Only marks the response: [`around`] knows the request and writes the page.
    fn into_response(self) -> Response {
        let mut response = Response::new(axum::body::Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// Around every request: counts it, and writes the problem of one that was refused.
///
/// It stands outside the router: as a layer it would be boxed and cloned for each request.
pub(crate) async fn around(house: &House, mut router: Router, mut request: Request) -> Response {
    let begun = std::time::Instant::now();
    let span = crate::trace::span(house.adopt, &mut request);
    let asked = Asked::of(&request);
    let answer = router.call(request);
    let answer = match &span {
        Some(span) => answer.instrument(span.clone()).await,
        None => answer.await,
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let refused = response.extensions_mut().remove::<Refused>();
    if let Some(Refused(refusal)) = &refused {
        response = page(house, refusal, &asked, &response);
    }
    let status = response.status().as_u16();
    if let Some(span) = span {
        let code = refused.map(|Refused(refusal)| refusal.code.as_str());
        crate::trace::answered(&span, status, code);
    }
    house.metrics.request(&asked.path, status, begun.elapsed());
    response
}

/// Why a request is refused that gives its length twice.
pub(crate) fn two_lengths() -> Refusal {
    let detail = "A request has Content-Length or Transfer-Encoding, not both.";
    let refusal = Refusal::new(Code::InvalidRequest, Rule::BodyLimits, detail);
    refusal.field("Content-Length")
}

/// Why a request is refused whose head a proxy before this server may read in another way: another transfer coding than
/// `chunked` (RFC 9112, 6.1), not exactly one host (RFC 9112, 3.2), more than one media type.
pub(crate) fn ambiguous<B>(request: &axum::http::Request<B>) -> Option<Refusal> {
    let headers = request.headers();
    let several = |name| headers.get_all(name).iter().nth(1).is_some();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let (field, detail) = if codings.any(|it| !it.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        (
            "Transfer-Encoding",
            "The only transfer coding is 'chunked'; a body that is compressed says so in Content-Encoding.",
        )
    } else if several(header::HOST)
        || request.version() == Version::HTTP_11 && !headers.contains_key(header::HOST)
    {
        ("Host", "A request has one Host header.")
    } else if several(header::CONTENT_TYPE) {
        ("Content-Type", "A request has one Content-Type header.")
    } else {
        return None;
    };
    Some(Refusal::new(Code::InvalidRequest, Rule::BodyLimits, detail).field(field))
}

/// The answer to a request of which nobody can say where it ends, so the connection ends.
pub(crate) fn unframed<B>(
    house: &House,
    request: &axum::http::Request<B>,
    refusal: Refusal,
) -> Response {
    let asked = Asked::of(request);
    let mut response = page(house, &refusal, &asked, &Response::default());
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    let status = response.status().as_u16();
    house.metrics.request(&asked.path, status, Duration::ZERO);
    response
}

/// What a problem page tells of its request.
struct Asked {
    path: String,
    trace: Option<String>,
    has_credential: bool,
    post: bool,
}

/// Where events are published.
const PUBLISHES: [&str; 5] = [
    "/v1/events/publish",
    "/v1/events/publish/batch",
    "/v1/cloudevents",
    "/v1/events/custom/emit",
    "/api/workspaces/{workspaceId}/events/publish",
];

impl Asked {
    fn of<B>(request: &axum::http::Request<B>) -> Self {
        Self {
            path: request.uri().path().to_owned(),
            post: request.method() == Method::POST,
            trace: traceparent(request.headers()),
            has_credential: request.headers().contains_key(header::AUTHORIZATION),
        }
    }
}

fn page(house: &House, refusal: &Refusal, asked: &Asked, before: &Response) -> Response {
    let code = refusal.code;
    let path = asked.path.as_str();
    let trace_id = match (asked.trace.as_deref(), refusal.logged) {
        (Some(trace), _) => tidings_event::event::trace_id(trace).to_owned(),
        (None, logged) => {
            let id = logged.unwrap_or_else(|| house.gateway.clock.new_id());
            id.simple().to_string()
        }
    };
    let publishes = asked.post && PUBLISHES.contains(&route_of(path));
    if publishes && refusal.logged.is_none() && code != Code::Overloaded {
        // Each publish has its line: what the gateway refuses is told of there, and bodies without room share one.
        let (code, step) = (code.as_str(), refusal.rule.as_str());
        tracing::info!(
            code,
            step,
            detail = refusal.detail,
            path,
            trace_id,
            "refused"
        );
    }
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    put(
        "type",
        json!(format!("{}/problems/{}", house.public_url, code.slug())),
    );
    put("title", json!(code.title()));
    put("status", json!(code.status()));
    put("detail", json!(refusal.detail));
    put("instance", json!(path));
    put("code", json!(code.as_str()));
    put("traceId", json!(trace_id));
    if let Some(field) = &refusal.field {
        put("field", json!(field));
    }
    if let Some((limit, actual)) = refusal.limit.as_deref() {
        put("limit", json!(limit));
        put("actual", json!(actual));
    }
    match refusal.accepted.as_deref().map(|it| &it.events[..]) {
        Some([event]) => {
            put("eventId", json!(event.event_id));
            put("idempotencyKey", json!(event.idempotency_key));
        }
        Some(events) => {
            let events = events
                .iter()
                .map(|it| json!({ "eventId": it.event_id, "idempotencyKey": it.idempotency_key }));
            put("events", events.collect());
        }
        None => {}
    }
    let retry_after = refusal.retry_after.map(whole_seconds);
    if let Some(seconds) = retry_after {
        put("retryAfter", json!(seconds));
    }
    if !refusal.errors.is_empty() {
        if refusal.rule == Rule::Contract {
            let first = &refusal.errors[0];
            for (name, text) in places(first) {
                put(name, json!(text));
            }
            if let Some(payload) = &first.counter_example {
                put(COUNTER_EXAMPLE, Value::clone(payload));
            }
        }
        put("errors", errors(&refusal.errors));
    }
    if code == Code::Internal {
        tracing::error!(trace_id, path, detail = refusal.detail, "internal problem");
    }
    let status = StatusCode::from_u16(code.status()).expect("the table holds real statuses");
    let mut response = (status, Value::Object(body).to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if code == Code::UnsupportedMediaType && refusal.field.as_deref() == Some(ENCODING_FIELD) {
        headers.insert(header::ACCEPT_ENCODING, ACCEPTED_CODINGS);
    }
    if code == Code::Unauthenticated {
        // RFC 6750, section 3.1: who sent no credential is not told that it is invalid.
        let challenge = if asked.has_credential {
            "Bearer error=\"invalid_token\""
        } else {
            "Bearer"
        };
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    if let Some(allow) = before.headers().get(header::ALLOW) {
        headers.insert(header::ALLOW, allow.clone());
    }
    response
}

/// Each thing that is wrong, in a list.
pub(crate) fn errors(faults: &[Fault]) -> Value {
    let rendered = faults.iter().map(|fault| {
        let mut one = Map::new();
        if let Some(index) = fault.index {
            one.insert("index".to_owned(), json!(index));
        }
        one.insert("code".to_owned(), json!(fault.code.as_str()));
        one.insert("detail".to_owned(), json!(fault.detail));
        if let Some(field) = member(fault.code) {
            one.insert("field".to_owned(), json!(field));
        }
        let places = places(fault).map(|(name, text)| (name.to_owned(), json!(text)));
        one.extend(places);
        if let Some(payload) = &fault.counter_example {
            one.insert(COUNTER_EXAMPLE.to_owned(), Value::clone(payload));
        }
        Value::Object(one)
    });
    rendered.collect()
}

/// Where something is wrong, and what it is.
fn places(fault: &Fault) -> impl Iterator<Item = (&'static str, &str)> {
    let members = [
        ("path", &fault.path),
        ("expected", &fault.expected),
        ("got", &fault.got),
    ];
    let given = members.into_iter();
    given.filter_map(|(name, text)| Some((name, text.as_deref()?)))
}

/// At least one, and never so few that the retry comes too early.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

//! A span for each request, while an operator collects them; otherwise none is made, and nothing is spent.
//!
//! This crate only speaks `tracing`: what a span becomes, and how it finds its parent in a request's headers,
//! is the business of whoever sets the subscriber up.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use tidings_gateway::access::Caller;
use tracing::field::Empty;
use tracing::{Level, Span};

use crate::metrics::route_of;
use crate::request::TRACEPARENT;

/// Makes a span the child of the one that a request's headers name, if they do, and answers what names it itself.
pub type Adopt = fn(&Span, &HeaderMap) -> Option<HeaderValue>;

/// The span of a request, named and described as OpenTelemetry does (semantic conventions for HTTP servers). From here on
/// the request is of that span: what it publishes, and all that follows from it, is in its trace.
pub(crate) fn span(adopt: Option<Adopt>, request: &mut Request) -> Option<Span> {
    let adopt = adopt?;
    let method = request.method().as_str();
    let path = request.uri().path();
    let route = route_of(path);
    let span = tracing::debug_span!(
        target: "tidings::trace",
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = path,
        error.r#type = Empty,
        tidings.tenant = Empty,
        tidings.event_id = Empty,
        tidings.code = Empty,
    );
    if let Some(own) = adopt(&span, request.headers()) {
        request.headers_mut().insert(TRACEPARENT, own);
    }
    Some(span)
}

/// Says whose request it is.
pub(crate) fn caller(caller: &Caller) {
    if tracing::span_enabled!(target: "tidings::trace", Level::DEBUG)
        && let Some(tenant) = caller.tenant()
    {
        Span::current().record("tidings.tenant", tenant.as_str());
    }
}

/// Says how a request was answered, and with which code if it was refused.
pub(crate) fn answered(span: &Span, status: u16, code: Option<&'static str>) {
    span.record("http.response.status_code", status);
    if let Some(code) = code {
        span.record("tidings.code", code);
    }
    // A refusal is the caller's fault; only ours makes a server's span an error.
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", code.unwrap_or("_OTHER"));
    }
}

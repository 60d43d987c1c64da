//! Traces for a collector of the operator's choice (OTLP over HTTP), with the W3C context of each request.
//!
//! Nothing of this exists while no endpoint is configured. The endpoint is the operator's own, so it may be on
//! loopback. Beside the keys of `[telemetry]`, the exporter itself honours the standard variables for headers,
//! timeouts, sampling and resource attributes (`OTEL_*`).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::config;

/// What spans of requests have as their target.
const TARGET: &str = "tidings::trace";

/// Whether OpenTelemetry's own variables name the service: whoever has two installations tells them apart by it.
fn is_named() -> bool {
    let set = |variable: &str| std::env::var(variable).unwrap_or_default();
    let attributes = set("OTEL_RESOURCE_ATTRIBUTES");
    !set("OTEL_SERVICE_NAME").is_empty() || attributes.contains("service.name=")
}

/// The exporter of traces.
pub(crate) struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Sets the exporter up, if an endpoint is configured.
    pub(crate) fn new(config: &config::Telemetry) -> Result<Option<Self>> {
        let Some(exporter) = exporter(config)? else {
            return Ok(None);
        };
        let mut resource = Resource::builder();
        if !is_named() {
            resource = resource.with_service_name("tidings");
        }
        let resource = resource
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self(provider)))
    }

    /// What makes spans of requests into traces, and takes nothing else.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("tidings"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::DEBUG))
    }

    /// Exports what has not been exported yet, for so long at most.
    pub(crate) fn shutdown(self, within: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(within) {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

/// What sends traces to the endpoint, if one is configured. It sends nothing by itself.
pub(crate) fn exporter(config: &config::Telemetry) -> Result<Option<SpanExporter>> {
    if config.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let protocol = match config.otlp_protocol.as_str() {
        "http/protobuf" => Protocol::HttpBinary,
        "http/json" => Protocol::HttpJson,
        other => {
            bail!("telemetry.otlp_protocol is {other:?}; it must be http/protobuf or http/json")
        }
    };
    // Failing means that there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = format!("{}/v1/traces", config.otlp_endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_protocol(protocol)
        .build();
    exporter.map(Some).context("telemetry.otlp_endpoint")
}

/// Makes a span the child of what `traceparent` and `tracestate` name; answers its own `traceparent`.
pub(crate) fn adopt(span: &Span, headers: &HeaderMap) -> Option<HeaderValue> {
    let propagator = TraceContextPropagator::new();
    if let Err(error) = span.set_parent(propagator.extract(&Headers(headers))) {
        tracing::debug!(%error, "a request's span has no parent");
    }
    let mut own = HashMap::new();
    propagator.inject_context(&span.context(), &mut own);
    own.remove("traceparent")?.try_into().ok()
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .map(hyper::header::HeaderName::as_str)
            .collect()
    }
}

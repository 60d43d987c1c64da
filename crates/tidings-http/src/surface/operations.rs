//! For whoever runs it: alive, ready, counted.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tidings_bus::Health;

use crate::House;

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether anything useful can be done, and which parts cannot.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, body = serde_json::Value), (status = 503, body = serde_json::Value)))]
pub(crate) async fn readyz(State(house): State<House>) -> Response {
    let readiness = house.gateway.readiness().await;
    let (bus, why) = match &readiness.bus {
        Health::Ready => ("ready", None),
        Health::Degraded(why) => ("degraded", Some(why)),
        Health::Poisoned(why) => ("poisoned", Some(why)),
    };
    let store = if readiness.store.is_none() {
        "ready"
    } else {
        "gone"
    };
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let keys_gone = matches!(readiness.receipts, Some(Err(_)));
    let word = match (readiness.is_ready(), bus, keys_gone) {
        (false, ..) => "unready",
        (true, "ready", false) => "ready",
        (true, ..) => "degraded",
    };
    let mut body = json!({
        "status": word,
        "parts": {
            "bus": { "status": bus, "detail": why },
            "store": { "status": store, "detail": readiness.store },
        },
    });
    if let Some(receipts) = readiness.receipts {
        let status = if receipts.is_ok() { "ready" } else { "gone" };
        body["parts"]["receipts"] = json!({ "status": status, "detail": receipts.err() });
    }
    (status, axum::Json(body)).into_response()
}

/// Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, content_type = "text/plain")))]
pub(crate) async fn metrics(State(house): State<House>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], house.metrics.render()).into_response()
}

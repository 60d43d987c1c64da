//! For whoever runs it: alive, ready, counted.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidings_bus::Health;
use tidings_gateway::StoreHealth;

use crate::House;

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "Alive", body = String, content_type = "text/plain")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// What can be done.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, `degraded` or `unready`.
    status: &'static str,
    parts: Parts,
}

/// The parts that are waited for.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Parts {
    bus: Part,
    store: Part,
    /// Where keys are kept apart from the bus.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<Part>,
    /// Manifests and catalogues in the store that cannot be read; absent while there are none.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    documents: Option<Part>,
}

/// How one of them is.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Part {
    /// `ready` or `gone`; the bus also `degraded` or `poisoned`; the store also `read-only`; documents `degraded`.
    status: &'static str,
    /// What is wrong.
    detail: Option<String>,
}

impl Part {
    fn of(wrong: Option<String>) -> Self {
        Self {
            status: if wrong.is_none() { "ready" } else { "gone" },
            detail: wrong,
        }
    }
}

/// Whether anything useful can be done, and which parts cannot.
#[utoipa::path(get, path = "/readyz", tag = "operations",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(crate) async fn readyz(State(house): State<House>) -> Response {
    let readiness = house.gateway.readiness().await;
    let (bus, why) = match &readiness.bus {
        Health::Ready => ("ready", None),
        Health::Degraded(why) => ("degraded", Some(why.clone())),
        Health::Poisoned(why) => ("poisoned", Some(why.clone())),
    };
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = match (readiness.is_ready(), is_whole(&readiness)) {
        (false, _) => "unready",
        (true, true) => "ready",
        (true, false) => "degraded",
    };
    let store = match readiness.store {
        StoreHealth::Ready => Part::of(None),
        StoreHealth::ReadOnly(why) => Part {
            status: "read-only",
            detail: Some(why),
        },
        StoreHealth::Gone(why) => Part::of(Some(why)),
    };
    let documents = (!readiness.unread.is_empty()).then(|| Part {
        status: "degraded",
        detail: Some(readiness.unread.join("; ")),
    });
    let parts = Parts {
        bus: Part {
            status: bus,
            detail: why,
        },
        store,
        documents,
        receipts: readiness.receipts.map(|receipts| Part::of(receipts.err())),
    };
    let body = Readiness {
        status: word,
        parts,
    };
    (status, axum::Json(body)).into_response()
}

/// Whether all of it can be done.
fn is_whole(readiness: &tidings_gateway::Readiness) -> bool {
    let keys_gone = matches!(readiness.receipts, Some(Err(_)));
    let whole = readiness.bus == Health::Ready && readiness.store == StoreHealth::Ready;
    whole && !keys_gone && readiness.unread.is_empty()
}

/// The metrics of this process, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(crate) async fn metrics(State(house): State<House>) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], house.metrics.render()).into_response()
}

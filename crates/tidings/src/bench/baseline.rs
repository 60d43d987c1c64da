//! The bare handler: parses the body as any JSON service must, answers the receipt, keeps nothing.

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::output::print_line;

/// As the gateway's for batches.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Serves until the process is killed.
pub(super) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        print_line(&format!(
            "{}http://{}",
            super::child::LISTENS,
            listener.local_addr()?
        ))?;
        let router = Router::new()
            .route("/v1/events/publish", post(single))
            .route("/v1/events/publish/batch", post(batch))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
        let listener = listener.tap_io(|stream| {
            // Without it answers wait for the next packet; a failure only slows this connection.
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router).await?)
    })
}

async fn single(body: Bytes) -> Response {
    match serde_json::from_slice::<Value>(&body) {
        Ok(event) => (StatusCode::CREATED, axum::Json(receipt(&event))).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

async fn batch(body: Bytes) -> Response {
    let parsed: Option<Value> = serde_json::from_slice(&body).ok();
    match parsed
        .as_ref()
        .and_then(|batch| batch.get("events")?.as_array())
    {
        Some(events) => {
            let results: Vec<Value> = events.iter().map(receipt).collect();
            (
                StatusCode::CREATED,
                axum::Json(json!({ "results": results })),
            )
                .into_response()
        }
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn receipt(event: &Value) -> Value {
    json!({
        "eventId": "0198c5a0-0000-7000-8000-000000000000",
        "type": event.get("type"),
        "topic": "platform.data.events",
        "partition": 3,
        "offset": 123_456,
    })
}

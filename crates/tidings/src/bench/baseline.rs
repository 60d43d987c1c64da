//! The bare handler: parses the body as any JSON service must, answers the receipt, keeps nothing. On Kafka it
//! produces what it parsed and answers when it is acknowledged.

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::kafka::Bare;
use crate::output::print_line;

/// As the gateway's for batches.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Serves until the process is killed.
pub(super) fn run(brokers: Option<&str>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let bare = match brokers {
            Some(brokers) => Some(Arc::new(Bare::of_handler(brokers).await?)),
            None => None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        print_line(&format!(
            "{}http://{}",
            super::child::LISTENS,
            listener.local_addr()?
        ))?;
        let router = Router::new()
            .route("/v1/events/publish", post(single))
            .route("/v1/events/publish/batch", post(batch))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(bare);
        let listener = listener.tap_io(|stream| {
            // Without it answers wait for the next packet; a failure only slows this connection.
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router).await?)
    })
}

async fn single(State(bare): State<Option<Arc<Bare>>>, body: Bytes) -> Response {
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match at(bare.as_deref(), &[&body]).await.as_deref() {
        Ok([at, ..]) => (StatusCode::CREATED, axum::Json(receipt(&event, *at))).into_response(),
        Ok([]) | Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn batch(State(bare): State<Option<Arc<Bare>>>, body: Bytes) -> Response {
    let parsed: Option<Value> = serde_json::from_slice(&body).ok();
    let Some(events) = parsed
        .as_ref()
        .and_then(|batch| batch.get("events")?.as_array())
    else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let texts: Vec<String> = events.iter().map(Value::to_string).collect();
    let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let appended = at(bare.as_deref(), &texts).await;
    let Ok(appended) = appended else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let receipts = events.iter().zip(appended);
    let results: Vec<Value> = receipts.map(|(event, at)| receipt(event, at)).collect();
    let answer = axum::Json(json!({ "results": results }));
    (StatusCode::CREATED, answer).into_response()
}

/// Where events stand: as Kafka answered, or anywhere.
async fn at(bare: Option<&Bare>, texts: &[&[u8]]) -> Result<Vec<(u32, u64)>> {
    match bare {
        Some(bare) => bare.append(texts).await,
        None => Ok(vec![(3, 123_456); texts.len()]),
    }
}

fn receipt(event: &Value, (partition, offset): (u32, u64)) -> Value {
    json!({
        "eventId": "0198c5a0-0000-7000-8000-000000000000",
        "type": event.get("type"),
        "topic": "platform.data.events",
        "partition": partition,
        "offset": offset,
    })
}

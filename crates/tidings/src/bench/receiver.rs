//! The receiver of the bench of deliveries: reads every body, counts, and answers 204.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::output::print_line;

/// What takes longer counts as this.
const LONGEST_MICROS: u64 = 600_000_000;

struct Got {
    count: AtomicUsize,
    last: Mutex<Bytes>,
    latencies: Mutex<Histogram<u64>>,
}

/// An event that says when it was published.
#[derive(Deserialize)]
struct Timed {
    data: At,
}

#[derive(Deserialize)]
struct At {
    at: u64,
}

/// Serves until the process is killed.
pub(super) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let got = Arc::new(Got {
            count: AtomicUsize::new(0),
            last: Mutex::default(),
            latencies: Mutex::new(Histogram::new_with_bounds(1, LONGEST_MICROS, 3)?),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        print_line(&format!("{}http://{address}", super::child::LISTENS))?;
        let router = Router::new()
            .route("/hook", post(hook))
            .route("/count", get(count))
            .route("/last", get(last))
            .route("/latencies", get(latencies))
            .with_state(got);
        let listener = listener.tap_io(|stream| {
            // Without it answers wait for the next packet; a failure only slows this connection.
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, router).await?)
    })
}

/// Microseconds since 1970, the same for every process here.
pub(super) fn now_micros() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

async fn hook(State(got): State<Arc<Got>>, body: Bytes) -> StatusCode {
    let now = now_micros();
    // Those of the load are large and say nothing.
    if body.len() < 512
        && let Ok(timed) = serde_json::from_slice::<Timed>(&body)
    {
        let mut latencies = got.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record(now.saturating_sub(timed.data.at));
    }
    let number = got.count.fetch_add(1, Ordering::Relaxed);
    if number % 1_000 == 999 {
        *got.last.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
    StatusCode::NO_CONTENT
}

async fn count(State(got): State<Arc<Got>>) -> String {
    got.count.load(Ordering::Relaxed).to_string()
}

async fn last(State(got): State<Arc<Got>>) -> Bytes {
    got.last
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Of the events since this was last asked.
async fn latencies(State(got): State<Arc<Got>>) -> Json<Value> {
    let mut latencies = got.latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |quantile| {
        let micros = latencies.value_at_quantile(quantile);
        super::rounded(super::as_float(micros) / 1_000.0, 2)
    };
    let taken = json!({ "events": latencies.len(), "p50Ms": ms(0.5), "p99Ms": ms(0.99) });
    latencies.reset();
    Json(taken)
}

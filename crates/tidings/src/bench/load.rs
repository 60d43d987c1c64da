//! The load: connections that each send the next request when the answer to the last is there, or at a pace.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::child::Child;
use super::{EVENT_TYPE, as_float};

/// So large is a single event's body.
pub(super) const EVENT_BYTES: usize = 1024;
/// An answer that takes longer is a failure of the bench.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sends {
    /// One event.
    Event,
    /// So many events.
    Batch(usize),
    /// One payload of a registered event.
    Emit,
}

impl Sends {
    /// So many events.
    pub(super) fn events(count: usize) -> Self {
        match count {
            1 => Self::Event,
            count => Self::Batch(count),
        }
    }
}

/// What is sent.
pub(super) struct Load {
    pub(super) sends: Sends,
    pub(super) connections: usize,
    pub(super) token: String,
    /// So many requests in a second, over all connections; as many as are answered, if not given.
    pub(super) rate: Option<NonZeroU32>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Measured {
    answered: u64,
    pub(super) failed: u64,
    took: Duration,
    cpu_micros: u64,
    latencies: Histogram<u64>,
}

impl Load {
    /// Loads one server for so long. Connections are made before the time begins.
    pub(super) async fn run(&self, server: &Child, duration: Duration) -> Result<Measured> {
        let mut ready = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            ready.push(Connection::open(server.address, self).await?);
        }
        let cpu_before = server.cpu_micros()?;
        let begun = Instant::now();
        let until = begun + duration;
        let mut running = JoinSet::new();
        for (index, connection) in ready.into_iter().enumerate() {
            running.spawn(connection.run(until, self.pace(index, begun)));
        }
        let mut measured = Measured {
            answered: 0,
            failed: 0,
            took: Duration::ZERO,
            cpu_micros: 0,
            latencies: Histogram::new(3)?,
        };
        while let Some(done) = running.join_next().await {
            let (micros, failed) = done??;
            measured.answered += micros.len() as u64;
            measured.failed += failed;
            for one in micros {
                measured.latencies.record(u64::from(one))?;
            }
        }
        measured.took = begun.elapsed();
        measured.cpu_micros = server.cpu_micros()? - cpu_before;
        Ok(measured)
    }
}

impl Load {
    /// The pace of one of the connections; they are spread, so that they do not all send at once.
    fn pace(&self, index: usize, begun: Instant) -> Option<Pace> {
        let connections = as_float(self.connections as u64);
        let every = connections / f64::from(self.rate?.get());
        let first = every * as_float(index as u64) / connections;
        Some(Pace {
            every: Duration::from_secs_f64(every),
            due: begun + Duration::from_secs_f64(first),
        })
    }

    /// Sends so many requests and fails if any fails.
    pub(super) async fn send(&self, server: &Child, requests: usize) -> Result<()> {
        let mut running = JoinSet::new();
        for index in 0..self.connections {
            let mut connection = Connection::open(server.address, self).await?;
            let share = (requests + index) / self.connections;
            running.spawn(async move {
                for _ in 0..share {
                    let request = connection.request()?;
                    if !connection.exchange(request).await? {
                        bail!("an event was refused");
                    }
                }
                Ok(())
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// Whether `/readyz` answers 200 now.
pub(super) async fn is_ready(address: SocketAddr) -> bool {
    let asked = async {
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let running = tokio::spawn(connection);
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = Uri::from_static("/readyz");
        let host = HeaderValue::try_from(address.to_string()).ok()?;
        request.headers_mut().insert(HOST, host);
        let answer = sender.send_request(request).await.ok()?;
        running.abort();
        Some(answer.status().is_success())
    };
    asked.await.unwrap_or(false)
}

/// Bytes in millions.
pub(super) fn megabytes(bytes: u64) -> f64 {
    as_float(bytes) / 1_000_000.0
}

impl Measured {
    /// All rounds as one.
    pub(super) fn of_all(rounds: Vec<Self>) -> Result<Self> {
        let mut rounds = rounds.into_iter();
        let mut all = rounds.next().context("there was no round")?;
        for round in rounds {
            all.answered += round.answered;
            all.failed += round.failed;
            all.took += round.took;
            all.cpu_micros += round.cpu_micros;
            all.latencies.add(round.latencies)?;
        }
        Ok(all)
    }

    /// Answered requests per second.
    pub(super) fn rate(&self) -> f64 {
        as_float(self.answered) / self.took.as_secs_f64()
    }

    pub(super) fn cpu_micros_per_request(&self) -> f64 {
        as_float(self.cpu_micros) / as_float((self.answered + self.failed).max(1))
    }

    pub(super) fn latency_ms(&self, quantile: f64) -> f64 {
        as_float(self.latencies.value_at_quantile(quantile)) / 1000.0
    }
}

/// When a connection sends its requests.
struct Pace {
    every: Duration,
    due: Instant,
}

impl Pace {
    /// When the next request was to be sent, once that time has come. One that an answer has kept waiting counts from
    /// then on: so a server that stalls is not spared the requests that it has held up. A timer that rings late is not
    /// the server's doing.
    async fn next(&mut self) -> Instant {
        let due = self.due;
        self.due += self.every;
        if due <= Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

/// One connection and what it sends over and over.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    uri: Uri,
    host: HeaderValue,
    authorization: HeaderValue,
    body: Body,
}

impl Connection {
    async fn open(address: SocketAddr, load: &Load) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .context("the server takes no connection")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when its sender is dropped; what it fails with, the sender is told too.
        tokio::spawn(connection);
        let body = Body::new(load.sends);
        Ok(Self {
            sender,
            uri: Uri::from_static(load.sends.path()),
            host: HeaderValue::try_from(address.to_string())?,
            authorization: HeaderValue::try_from(format!("Bearer {}", load.token))?,
            body,
        })
    }

    /// The answers' times in µs, and how many answers were none of success.
    async fn run(mut self, until: Instant, mut pace: Option<Pace>) -> Result<(Vec<u32>, u64)> {
        let (mut micros, mut failed) = (Vec::new(), 0);
        while Instant::now() < until {
            let request = self.request()?;
            let begun = match &mut pace {
                Some(pace) => pace.next().await,
                None => Instant::now(),
            };
            let Ok(good) = tokio::time::timeout(PATIENCE, self.exchange(request)).await else {
                bail!("a server did not answer within {} s", PATIENCE.as_secs());
            };
            if good? {
                micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
            } else {
                failed += 1;
            }
        }
        Ok((micros, failed))
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(self.body.next()));
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.uri);
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(AUTHORIZATION, self.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.body, Body::Same(_)) {
            let key = Uuid::now_v7().to_string();
            headers.insert("idempotency-key", HeaderValue::try_from(key)?);
        }
        Ok(request)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<bool> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let good = response.status().is_success();
        // Read whole: only then is the connection free for the next.
        response.into_body().collect().await?;
        Ok(good)
    }
}

/// What to send; only the keys differ from request to request, so that making it costs little.
enum Body {
    Same(Bytes),
    Batch { events: usize, after_key: String },
}

impl Sends {
    fn path(self) -> &'static str {
        match self {
            Self::Event => "/v1/events/publish",
            Self::Batch(_) => "/v1/events/publish/batch",
            Self::Emit => "/v1/events/custom/emit",
        }
    }
}

impl Body {
    fn new(sends: Sends) -> Self {
        let head = || format!(r#""type":"{EVENT_TYPE}","data":{}"#, data());
        match sends {
            Sends::Event => Self::Same(format!("{{{}}}", head()).into()),
            Sends::Batch(events) => Self::Batch {
                events,
                after_key: format!("\",{}}}", head()),
            },
            Sends::Emit => Self::Same(super::emit::body().into()),
        }
    }

    fn next(&self) -> Bytes {
        match self {
            Self::Same(body) => body.clone(),
            Self::Batch { events, after_key } => {
                let mut text = String::with_capacity(events * (after_key.len() + 64));
                text.push_str(r#"{"events":["#);
                for index in 0..*events {
                    text.push_str(if index == 0 { "" } else { "," });
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{{\"idempotencyKey\":\"{}{after_key}", Uuid::now_v7());
                }
                text.push_str("]}");
                text.into()
            }
        }
    }
}

/// An object like those that modules publish: nested, with texts, numbers and a list, filled up to 1 KB.
fn data() -> String {
    let frame = |note: &str| {
        format!(
            r#"{{"contactId":"c-104729","name":"Ada Lovelace","score":97.5,"active":true,"address":{{"city":"London","postcode":"W1"}},"tags":["vip","newsletter","trial"],"note":"{note}"}}"#
        )
    };
    let room = EVENT_BYTES.saturating_sub(frame("").len() + EVENT_TYPE.len() + 20);
    frame(&"lorem ipsum ".repeat(room / 12 + 1)[..room])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn an_event_has_a_kilobyte() {
        let body = Body::new(Sends::Event).next();
        assert!((1020..=1030).contains(&body.len()), "{}", body.len());
        let event: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event["type"], EVENT_TYPE);
    }

    #[test]
    fn every_event_of_a_batch_has_a_key_of_its_own() {
        let batch: Value = serde_json::from_slice(&Body::new(Sends::Batch(3)).next()).unwrap();
        let events = batch["events"].as_array().unwrap();
        let keys: std::collections::HashSet<_> = events
            .iter()
            .map(|event| event["idempotencyKey"].as_str().unwrap())
            .collect();
        assert_eq!((events.len(), keys.len()), (3, 3));
        assert!(events.iter().all(|event| event["data"].is_object()));
    }
}

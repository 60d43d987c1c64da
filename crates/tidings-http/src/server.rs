//! Accepting connections: with limits on what a slow or greedy client can hold, and a drain at the end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Version, header};
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutWriter;

use crate::House;
use crate::heads::{TwoLengths, Watched};
use crate::problem::{ambiguous, around, two_lengths, unframed};
use crate::untaken::{Answers, Streams};
use crate::workers::{Elsewhere, Workers, is_short};

/// What one client can take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// The time to send a request's head, which is also how long an idle connection stays open, of HTTP/2 too, and one
    /// whose client takes no byte of what is sent to it; over HTTP/2 also a stream whose client takes nothing of its answer.
    pub header_timeout: Duration,
    /// The time that requests in flight get after a shutdown begins.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// The most requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 200;
/// The most streams a client may reset before it is cut off (CVE-2023-44487).
const MAX_RESETS: usize = 20;

/// The shortest time between two lines of the log that say that connections cannot be accepted.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long after the word to stop requests are still taken, each answer saying that it is the connection's last: a
/// client that keeps a connection open may be sending at that moment, and closing would lose its request.
const LEAVING: Duration = Duration::from_millis(200);

/// Serves until `stop` is ready, then lets what is in flight end. Connections are served by the workers, and what may take
/// long of their requests where this is called.
pub async fn serve(
    listener: TcpListener,
    house: House,
    limits: Limits,
    workers: &Workers,
    stop: impl Future<Output = ()>,
) {
    let builder = Arc::new(builder(&limits));
    let (elsewhere, mut ended_elsewhere) = Elsewhere::here();
    let router = crate::router(house.clone());
    let (last_word, told) = watch::channel(());
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let leaving = Arc::new(AtomicBool::new(false));
    let mut stopped = std::pin::pin!(async {
        stop.await;
        leaving.store(true, Ordering::Relaxed);
        house.close_streams();
        tokio::time::sleep(LEAVING).await;
    });
    let mut told_at = None;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stopped => break,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if told_at.is_none_or(|at: Instant| at.elapsed() >= TOLD_EVERY) {
                    tracing::warn!(%error, "connections cannot be accepted");
                    told_at = Some(Instant::now());
                }
                // Out of file descriptors, most likely: the pause lets some be closed.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = Answering {
            house: house.clone(),
            router: router.clone(),
            elsewhere: elsewhere.clone(),
            leaving: leaving.clone(),
            requests: Arc::default(),
            two_lengths: TwoLengths::default(),
            answers: Answers::default(),
        };
        let (worker, seat) = workers.seat();
        let patience = limits.header_timeout;
        let served = connection(stream, service, builder.clone(), told.clone(), patience);
        let serving = async move {
            served.await;
            drop((place, seat));
        };
        connections.spawn_on(serving, worker);
    }
    drop(listener);
    last_word.send_replace(());
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let drained = tokio::time::timeout(limits.drain, all_ended).await;
    if drained.is_err() {
        tracing::warn!("some requests did not end within the drain time");
    }
    connections.shutdown().await;
    drop(elsewhere);
    // They were told to end with their connections.
    if tokio::time::timeout(LEAVING, ended_elsewhere.recv())
        .await
        .is_err()
    {
        tracing::warn!("some requests are still at work");
    }
}

/// Serves a connection to its end, on its worker.
async fn connection(
    stream: std::net::TcpStream,
    service: Answering,
    builder: Arc<Builder<Streams>>,
    mut told: watch::Receiver<()>,
    patience: Duration,
) {
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection cannot be served"),
    };
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(patience));
    let two_lengths = service.two_lengths.clone();
    let stream = TokioIo::new(Watched::new(Box::pin(stream), two_lengths));
    let (requests, answers) = (service.requests.clone(), service.answers.clone());
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    // The timer for heads runs only once the protocol is known, which a silent client puts off.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = told.changed() => None,
        () = tokio::time::sleep(patience) => {
            if requests.load(Ordering::Relaxed) == 0 {
                return;
            }
            tokio::select! {
                ended = connection.as_mut() => Some(ended),
                _ = told.changed() => None,
                () = answers.until_idle(patience) => None,
            }
        }
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // It is idle, or the server stops. What is on its way here is still answered.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended,
            () = answers.until_idle(patience) => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended early");
    }
}

/// What a connection is served with.
#[derive(Clone)]
struct Answering {
    house: House,
    router: Router,
    /// Where requests run that may take long.
    elsewhere: Elsewhere,
    /// Whether each answer is the last of its connection.
    leaving: Arc<AtomicBool>,
    /// How many heads have come.
    requests: Arc<AtomicU64>,
    two_lengths: TwoLengths,
    /// What is on its way to the client, over HTTP/2.
    answers: Answers,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let house = self.house.clone();
        let answers = self.answers.clone();
        let exchange = (request.version() == Version::HTTP_2).then(|| answers.begin());
        let watched = move |response: Response| match exchange {
            Some(exchange) => response.map(|body| answers.watch(body, exchange)),
            None => response,
        };
        let refusal = if self.two_lengths.at(number) {
            Some(two_lengths())
        } else {
            ambiguous(&request)
        };
        if let Some(refusal) = refusal {
            return Box::pin(async move { Ok(watched(unframed(&house, &request, refusal))) });
        }
        let (router, leaving) = (self.router.clone(), self.leaving.clone());
        let over_http_2 = request.version() == Version::HTTP_2;
        let elsewhere = (!is_short(&request)).then(|| self.elsewhere.clone());
        Box::pin(async move {
            let answer = async move { around(&house, router, request.map(Body::new)).await };
            let mut response = match elsewhere {
                None => answer.await,
                // Boxed: otherwise each request would carry room for it.
                Some(elsewhere) => {
                    let response = Box::pin(elsewhere.run(answer)).await;
                    response.map(|body| elsewhere.stream(body))
                }
            };
            if !over_http_2 && leaving.load(Ordering::Relaxed) {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(watched(response))
        })
    }
}

fn builder(limits: &Limits) -> Builder<Streams> {
    let mut builder = Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .keep_alive_interval(limits.header_timeout)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).expect("64 KiB fits"));
    builder
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(std::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // A worker's runtime is to tell when it is ready.
    Ok((stream.into_std()?, place))
}

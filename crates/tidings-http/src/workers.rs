//! The threads that connections are served on, each with a runtime of its own.
//!
//! Where idle threads take tasks over from busy ones, half of the requests are read on one processor and answered on another,
//! and all that they hold crosses from cache to cache. So a connection stays on its thread. What may keep a processor busy
//! for long runs where threads do help each other out, so that the thread's other connections do not wait for it.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Body as _;
use hyper::{Method, Request, Version, header};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// The largest body, in bytes, that is worked on where its connection is served.
const SMALL_BYTES: u64 = 64 * 1024;

/// The threads.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    /// Held by each connection.
    seats: Arc<()>,
    /// Takes how long what blocks may still take.
    stop: oneshot::Sender<Duration>,
    /// Its other end is dropped when the thread ends.
    ended: blocking::Receiver<()>,
}

/// A connection's place on a worker, until it is dropped.
pub(crate) struct Seat(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Workers {
    /// Starts so many.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let workers = (0..count.get()).map(|_| Worker::start());
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// Ends them. What waits on them is dropped; what keeps a thread busy may take so long, and this waits for it.
    pub fn stop(self, patience: Duration) {
        let until = Instant::now() + patience;
        let told = self.0.into_iter().map(|worker| {
            // A thread that has ended already is told nothing.
            let _ = worker.stop.send(patience);
            worker.ended
        });
        for ended in told.collect::<Vec<_>>() {
            let left = until.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left) == Err(blocking::RecvTimeoutError::Timeout) {
                tracing::warn!("a thread of connections is still busy");
            }
        }
    }

    /// The runtime of the one with the fewest connections, and a place there.
    pub(crate) fn seat(&self) -> (&Handle, Seat) {
        let least = self.0.iter().min_by_key(|it| Arc::strong_count(&it.seats));
        let least = least.expect("there is one at least");
        (&least.runtime, Seat(least.seats.clone()))
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (ends, ended) = blocking::channel::<()>();
        // Whether it has ended is told by its end of the channel.
        std::thread::Builder::new()
            .name("http-worker".into())
            .spawn(move || {
                let patience = runtime.block_on(stopped).unwrap_or_default();
                runtime.shutdown_timeout(patience);
                drop(ends);
            })?;
        Ok(Self {
            runtime: handle,
            seats: Arc::default(),
            stop,
            ended,
        })
    }
}

/// Whether a request is done within moments once its body has come: the small publish of one event is. The streams of an
/// HTTP/2 connection may be many, and are not to share one thread.
pub(crate) fn is_short<B: hyper::body::Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let is_batch = || {
        let kind = headers.get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| {
            kind.as_bytes()
                .windows(5)
                .any(|part| part.eq_ignore_ascii_case(b"batch"))
        })
    };
    let path = request.uri().path();
    let is_of_one_event = match path {
        "/v1/events/custom/emit" => true,
        "/v1/cloudevents" => !is_batch(),
        // Source A's, and source C's of a workspace.
        _ => path.ends_with("/events/publish"),
    };
    let exact = request.body().size_hint().exact();
    is_of_one_event
        && request.method() == Method::POST
        && request.version() != Version::HTTP_2
        && exact.is_some_and(|bytes| bytes <= SMALL_BYTES)
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// Where threads help each other out.
#[derive(Clone)]
pub(crate) struct Elsewhere {
    runtime: Handle,
    /// Held by all that runs.
    running: mpsc::Sender<()>,
}

impl Elsewhere {
    /// The runtime that this is called in, and what tells that nothing runs there any more.
    pub(crate) fn here() -> (Self, mpsc::Receiver<()>) {
        let (running, all_ended) = mpsc::channel(1);
        let runtime = Handle::current();
        (Self { runtime, running }, all_ended)
    }

    /// Runs something there. It ends when nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut one = JoinSet::new();
        self.spawn(&mut one, work);
        match one.join_next().await.expect("it was just spawned") {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// The same body, made there as it is taken: that of a stream, which is made as it goes, reads what it sends.
    pub(crate) fn stream(&self, mut body: Body) -> Body {
        if body.size_hint().exact().is_some() {
            return body;
        }
        let (frames, taken) = mpsc::channel(1);
        let mut one = JoinSet::new();
        self.spawn(&mut one, async move {
            while let Some(frame) = body.frame().await {
                if frames.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let frames = stream::unfold((taken, one), async |(mut taken, one)| {
            taken.recv().await.map(|frame| (frame, (taken, one)))
        });
        Body::new(StreamBody::new(frames))
    }

    fn spawn<T: Send + 'static>(
        &self,
        one: &mut JoinSet<T>,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        let running = self.running.clone();
        one.spawn_on(
            async move {
                let done = work.await;
                drop(running);
                done
            },
            &self.runtime,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, body: impl Into<Body>) -> Request<Body> {
        Request::post(path).body(body.into()).unwrap()
    }

    #[test]
    fn what_may_take_long_is_not_for_a_connections_thread() {
        for short in [
            "/v1/events/publish",
            "/v1/events/custom/emit",
            "/api/workspaces/w/events/publish",
            "/v1/cloudevents",
        ] {
            assert!(is_short(&request(short, "{}")), "{short}");
            let large = "x".repeat(64 * 1024 + 1);
            assert!(!is_short(&request(short, large)), "{short}");
            let mut other = request(short, "{}");
            *other.version_mut() = Version::HTTP_2;
            assert!(!is_short(&other), "{short}");
            let mut coded = request(short, "{}");
            let gzip = header::HeaderValue::from_static("gzip");
            coded.headers_mut().insert(header::CONTENT_ENCODING, gzip);
            assert!(!is_short(&coded), "{short}");
        }
        for long in [
            "/v1/events/publish/batch",
            "/v1/events/explain",
            "/v1/subscriptions",
        ] {
            assert!(!is_short(&request(long, "{}")), "{long}");
        }
        let mut batch = request("/v1/cloudevents", "[]");
        let kind = header::HeaderValue::from_static("application/cloudevents-batch+json");
        batch.headers_mut().insert(header::CONTENT_TYPE, kind);
        assert!(!is_short(&batch));
    }

    #[tokio::test]
    async fn what_runs_elsewhere_ends_with_whoever_waits_for_it() {
        let (elsewhere, mut all_ended) = Elsewhere::here();
        let (begun, begins) = oneshot::channel();
        let waits = elsewhere.run(async move {
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        tokio::select! {
            () = waits => unreachable!("it never ends by itself"),
            begins = begins => begins.unwrap(),
        }
        let endless = stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, io::Error>>();
        drop(elsewhere.stream(Body::new(StreamBody::new(endless))));
        drop(elsewhere);
        assert_eq!(all_ended.recv().await, None);
    }

    #[tokio::test]
    async fn a_stream_comes_through_whole_and_in_order() {
        let (elsewhere, _all_ended) = Elsewhere::here();
        let frames = (0..100_u8).map(|n| Ok::<_, io::Error>(bytes::Bytes::from(vec![n])));
        let body = elsewhere.stream(Body::from_stream(stream::iter(frames)));
        let read = body.collect().await.unwrap().to_bytes();
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
    }
}

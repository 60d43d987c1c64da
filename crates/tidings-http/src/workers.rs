//! The threads that connections are served on, each with a runtime of its own.
//!
//! Where idle threads take tasks over from busy ones, half of the requests are read on one processor and answered on another,
//! and all that they hold crosses from cache to cache. So a connection stays on its thread. What may keep a processor busy
//! for long runs where threads do help each other out, so that the thread's other connections do not wait for it.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Body;
use hyper::{Method, Request, header};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The largest body, in bytes, that is worked on where its connection is served: some 60 events of 1 KB.
const SMALL_BYTES: u64 = 64 * 1024;

/// The threads.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    /// Held by each connection.
    seats: Arc<()>,
    /// Takes how long what blocks may still take.
    stop: oneshot::Sender<Duration>,
    thread: JoinHandle<()>,
}

/// A connection's place on a worker, until it is dropped.
pub(crate) struct Seat(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Workers {
    /// Starts so many.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let workers = (0..count.get()).map(|_| Worker::start());
        workers.collect::<io::Result<_>>().map(Self)
    }

    /// Ends them. What waits on them is dropped; what blocks a thread may take so long, and this waits for it.
    pub fn stop(self, patience: Duration) {
        let told = self.0.into_iter().map(|worker| {
            // A thread that has ended already is told nothing.
            let _ = worker.stop.send(patience);
            worker.thread
        });
        let stopping: Vec<_> = told.collect();
        for thread in stopping {
            if thread.join().is_err() {
                tracing::error!("a thread of connections panicked");
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
        let thread = std::thread::Builder::new().name("http-worker".into());
        let thread = thread.spawn(move || {
            let patience = runtime.block_on(stopped).unwrap_or_default();
            runtime.shutdown_timeout(patience);
        })?;
        Ok(Self {
            runtime: handle,
            seats: Arc::default(),
            stop,
            thread,
        })
    }
}

/// Whether a request is done within moments once its body has come: a small publish is, or any other change.
pub(crate) fn is_short<B: Body>(request: &Request<B>) -> bool {
    let exact = request.body().size_hint().exact();
    request.method() == Method::POST
        && exact.is_some_and(|bytes| bytes <= SMALL_BYTES)
        && !request.headers().contains_key(header::CONTENT_ENCODING)
}

/// Runs what may take long where threads help each other out. It ends when nobody waits for it any more.
pub(crate) async fn elsewhere<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut one = JoinSet::new();
    one.spawn_on(work, runtime);
    match one.join_next().await.expect("it was just spawned") {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

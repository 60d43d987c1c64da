//! How much of a request's time goes into its connection: looking the name up, connecting, shaking hands.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tower::{Layer, Service};

tokio::task_local! {
    static SPENT: Cell<Duration>;
}

/// Does something with a client, and says how much of its time went into connections, made or not. A connection that is
/// there already takes none.
pub async fn timed<F: Future>(doing: F) -> (F::Output, Duration) {
    let all = async {
        let done = doing.await;
        (done, SPENT.with(Cell::get))
    };
    SPENT.scope(Cell::new(Duration::ZERO), all).await
}

/// Puts a clock around each connecting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing;

impl<S> Layer<S> for Timing {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Timed<S>(S);

impl<S, R> Service<R> for Timed<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let connecting = self.0.call(request);
        Box::pin(async move {
            let _running = Running(Instant::now());
            connecting.await
        })
    }
}

/// Counts until it is dropped, so that what is given up counts too.
struct Running(Instant);

impl Drop for Running {
    fn drop(&mut self) {
        // A connection that nobody waits for any more is nobody's time.
        let _ = SPENT.try_with(|spent| spent.set(spent.get() + self.0.elapsed()));
    }
}

//! Loops that have to go on for as long as the process does: one that panics is begun again. Nothing would say that one is
//! gone until the process stops, and by then keys that were revoked elsewhere would have been good for days.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

/// The wait after a first panic; it doubles from then on.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// No wait is longer. Who has gone on for so long begins with the first again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Ready when a loop is to end.
pub type Stopped = Shared<BoxFuture<'static, ()>>;

/// How often loops of this process were begun again, from its start on. The dispatchers' are counted by themselves.
#[derive(Debug, Default)]
pub struct Restarts(AtomicU64);

impl Restarts {
    /// So often.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a loop until it ends, which it does when `stopped` is ready. Its name is for the log.
pub async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    restarts: Arc<Restarts>,
    stopped: impl Future<Output = ()> + Send + 'static,
    run: impl Fn(Stopped) -> F,
) {
    let stopped = stopped.boxed().shared();
    let mut wait = FIRST_WAIT;
    loop {
        let begun = Instant::now();
        let run = AssertUnwindSafe(run(stopped.clone()));
        if run.catch_unwind().await.is_ok() {
            return;
        }
        restarts.0.fetch_add(1, Ordering::Relaxed);
        if begun.elapsed() > LONGEST_WAIT {
            wait = FIRST_WAIT;
        }
        let wait_ms = wait.as_millis();
        tracing::error!(name, %wait_ms, "a loop panicked, and is begun again");
        tokio::select! {
            () = stopped.clone() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (2 * wait).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_begun_again_until_it_is_to_end() {
        let restarts = Arc::new(Restarts::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let counted = restarts.clone();
        let run = move |stopped: Stopped| {
            let (tell, before) = (tell.clone(), counted.count());
            async move {
                tell.send(before).unwrap();
                assert!(before > 2, "as it was told");
                stopped.await;
            }
        };
        let stopped = async { drop(stopped.await) };
        let running = tokio::spawn(supervise("test", restarts.clone(), stopped, run));
        for before in 0..4 {
            assert_eq!(told.recv().await, Some(before));
        }
        drop(stop);
        running.await.unwrap();
        assert_eq!(restarts.count(), 3);
        assert_eq!(told.recv().await, None);
    }
}

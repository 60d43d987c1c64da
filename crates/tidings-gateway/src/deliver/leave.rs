//! How a dispatcher runs, and how it comes to its end.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::Dispatcher;

/// How long what is known may take to be written down at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// How a dispatcher came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to end.
    Told,
    /// It panicked: nothing in its memory is to be trusted, and another goes on from the store.
    Panicked,
    /// Somebody else has taken up its share.
    Taken,
}

impl Dispatcher {
    /// Delivers until `stopped` is ready; what is on its way then gets [`drain`](super::Config::drain) to end.
    pub(super) async fn run(mut self, stopped: impl Future<Output = ()>) -> End {
        let worked = AssertUnwindSafe(self.work(stopped)).catch_unwind().await;
        if worked.is_err() || self.is_taken {
            self.abandon().await;
            return if self.is_taken {
                End::Taken
            } else {
                End::Panicked
            };
        }
        if AssertUnwindSafe(self.leave()).catch_unwind().await.is_err() {
            tracing::error!(share = %self.share, "a dispatcher panicked as it ended; what it had not written down comes again");
            self.abandon().await;
        }
        End::Told
    }

    /// Ends: what is on its way gets its time, what is known is written down.
    pub(super) async fn leave(&mut self) {
        let deadline = tokio::time::Instant::now() + self.config.drain;
        while let Ok(Some(ended)) =
            tokio::time::timeout_at(deadline, self.in_flight.join_next()).await
        {
            self.ended(ended);
        }
        self.in_flight.shutdown().await;
        let deadline = tokio::time::Instant::now() + LAST_WRITES;
        if self.all_written(deadline).await {
            self.write_now();
            self.all_written(deadline).await;
        }
        self.end_disabling(deadline).await;
    }

    /// Whether what is being written is written by then. What is not is given up, and comes again: nothing
    /// later may be written before it, nor after a follower has begun.
    async fn all_written(&mut self, deadline: tokio::time::Instant) -> bool {
        while let Some(mut writing) = self.writing.take() {
            if let Ok(written) = tokio::time::timeout_at(deadline, &mut writing).await {
                self.written(written);
            } else {
                writing.abort();
                tracing::warn!(share = %self.share, "what was delivered last is not written down and comes again");
                return false;
            }
        }
        !self.is_taken
    }

    /// Ends at once, and begins no other write: for one whose memory is not to be trusted, or whose share is another's.
    pub(super) async fn abandon(&mut self) {
        self.in_flight.shutdown().await;
        for task in self.disabling.values() {
            task.abort();
        }
        // What comes to be written is not sent again.
        if let Some(mut writing) = self.writing.take()
            && tokio::time::timeout(LAST_WRITES, &mut writing)
                .await
                .is_err()
        {
            writing.abort();
        }
    }
}

//! The end of a dispatcher.

use std::time::Duration;

use super::Dispatcher;

/// How long what is known may take to be written down at the end.
const LAST_WRITES: Duration = Duration::from_secs(2);

impl Dispatcher {
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

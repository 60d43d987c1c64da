//! Who delivers: of replicas on one store, one at a time.
//!
//! The turn is a lease in the store, lengthened while its holder lives; another replica takes over when it has ended.
//! Whoever has lost it lets go of all that it had in motion before it ends. What was sent but not written down is
//! sent once more by its follower, under the same `webhook-id`.

use std::time::Duration;

use tidings_store::Replicas;
use tokio::time::Instant;
use uuid::Uuid;

use super::{AFTER_FAILURE, Dispatcher, Means};

/// How long a turn lasts that is not lengthened: a dead replica's deliveries are taken over within this.
const TURN: Duration = Duration::from_secs(6);
/// How often it is lengthened, or asked for.
const EVERY: Duration = Duration::from_secs(1);
/// Who could not lengthen it for so long lets go: before another may have it.
const LET_GO: Duration = Duration::from_secs(4);
/// What the turn is called in the store.
const NAME: &str = "deliveries";

/// The deliveries of this process.
pub struct Deliveries {
    means: Means,
}

impl Deliveries {
    pub(crate) fn new(means: Means) -> Self {
        Self { means }
    }

    #[cfg(test)]
    pub(super) fn means(&self) -> Means {
        self.means.clone()
    }

    /// Delivers, whenever it is this process' turn, until `stopped` is ready.
    pub async fn run(self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        let Some(replicas) = self.means.store.replicas() else {
            return self.deliver(stopped).await;
        };
        let holder = self.means.clock.new_id();
        loop {
            let taken = replicas.take_turn(NAME, holder, TURN).await;
            if taken.unwrap_or(false) {
                let lost = std::pin::pin!(lost(&replicas, holder));
                let mut ends = false;
                let until = async {
                    tokio::select! {
                        () = &mut stopped => ends = true,
                        () = lost => {}
                    }
                };
                self.deliver(until).await;
                if ends {
                    // Another need not wait for its end; where this fails it does.
                    let _ = replicas.end_turn(NAME, holder).await;
                    return;
                }
                tracing::warn!("the turn to deliver is lost");
            }
            tokio::select! {
                () = &mut stopped => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn deliver(&self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            match Dispatcher::open(self.means.clone()).await {
                Ok(dispatcher) => return dispatcher.run(stopped).await,
                Err(refusal) => {
                    tracing::error!(detail = refusal.detail, "deliveries cannot begin");
                }
            }
            tokio::select! {
                () = &mut stopped => return,
                () = tokio::time::sleep(AFTER_FAILURE) => {}
            }
        }
    }
}

/// Lengthens the turn; ready when it is lost, or cannot be lengthened in time.
async fn lost(replicas: &Replicas, holder: Uuid) {
    let mut held = Instant::now();
    loop {
        tokio::time::sleep(EVERY).await;
        let asked = Instant::now();
        match replicas.take_turn(NAME, holder, TURN).await {
            Ok(true) => held = asked,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "the turn to deliver could not be lengthened");
                if held.elapsed() > LET_GO {
                    return;
                }
            }
        }
    }
}

//! Who delivers what: replicas share the tenants among them.
//!
//! A share is the tenants whose key falls on one partition of source A's topic; the bus's consumer group says which
//! replica has which. Each share has a dispatcher of its own, which knows nothing but what the store says when it
//! begins, and has written all it knows when it ends. A share that goes to another replica is let go after that;
//! where a replica died, what it had sent but not written is sent once more by its follower, under the same
//! `webhook-id`. One that only stood still, and wakes up, can write nothing more for what was taken from it.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tidings_bus::Membership;
use tidings_store::Share;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::leave::End;
use super::{AFTER_FAILURE, Dispatcher, Means};
use crate::rulebook::Route;

/// The longest wait after a dispatcher has panicked time and again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait while deliveries cannot begin, because the store or the bus is away, say. Shorter, since nothing is
/// delivered meanwhile.
const LONGEST_WAIT_TO_BEGIN: Duration = Duration::from_secs(5);

/// What the replicas' consumer group is called.
const GROUP: &str = "tidings-deliveries";

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

    /// Delivers what this process has to, until `stopped` is ready.
    pub async fn run(self, stopped: impl Future<Output = ()>) {
        // A store of one process has no other replica to share with, whatever the bus.
        let shared = self.means.store.replicas().is_some();
        let topic = Route::fallback().topic;
        match shared.then(|| self.means.bus.join(GROUP, &topic)).flatten() {
            None => deliver(self.means, Share::ALL, stopped).await,
            Some(membership) => self.run_shares(membership, stopped).await,
        }
    }

    async fn run_shares(self, mut membership: Membership, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        let mut running: HashMap<Share, oneshot::Sender<()>> = HashMap::new();
        let mut dispatchers = JoinSet::new();
        // Those that have not come to their end, whosever the partition is by now.
        let mut busy: HashSet<u32> = HashSet::new();
        let mut ending = false;
        loop {
            let shares = membership.shares();
            let mine = |share: &Share| {
                !ending && shares.of == share.of && shares.partitions.contains(&share.number)
            };
            // Dropping the sender ends the dispatcher.
            running.retain(|share, _| mine(share));
            for number in shares.partitions.iter().copied().filter(|_| !ending) {
                let share = Share {
                    number,
                    of: shares.of,
                };
                if !busy.contains(&number) && membership.hold(number) {
                    busy.insert(number);
                    let (end, ended) = oneshot::channel();
                    running.insert(share, end);
                    let means = self.means.clone();
                    dispatchers.spawn(async move {
                        let delivered = deliver(means, share, async { drop(ended.await) });
                        // Whatever happens, the share is let go: somebody else may have it then.
                        let delivered = AssertUnwindSafe(delivered).catch_unwind().await;
                        if delivered.is_err() {
                            tracing::error!(%share, "what delivers a share panicked, and begins anew");
                            tokio::time::sleep(AFTER_FAILURE).await;
                        }
                        share
                    });
                }
            }
            tokio::select! {
                () = &mut stopped, if !ending => ending = true,
                () = membership.changed() => {}
                Some(ended) = dispatchers.join_next() => match ended {
                    Ok(share) => {
                        busy.remove(&share.number);
                        running.remove(&share);
                        membership.release(share.number);
                    }
                    Err(error) => tracing::error!(%error, "a dispatcher did not come to an end"),
                },
                else => {}
            }
            if ending && dispatchers.is_empty() {
                break;
            }
        }
        let left = tokio::task::spawn_blocking(move || drop(membership)).await;
        if let Err(error) = left {
            tracing::error!(%error, "the group of those who deliver was not left");
        }
    }
}

/// Delivers a share until `stopped` is ready, however often that has to begin anew.
async fn deliver(means: Means, share: Share, stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut wait = AFTER_FAILURE;
    loop {
        let opened = AssertUnwindSafe(Dispatcher::open(means.clone(), share));
        let begun = tokio::time::Instant::now();
        let end = match opened.catch_unwind().await {
            Ok(Ok(dispatcher)) => Some(dispatcher.run(stopped.as_mut()).await),
            Ok(Err(refusal)) => {
                tracing::error!(detail = refusal.detail, %share, "deliveries cannot begin");
                None
            }
            Err(_) => Some(End::Panicked),
        };
        if begun.elapsed() > LONGEST_WAIT {
            wait = AFTER_FAILURE;
        }
        match end {
            Some(End::Told) => return,
            Some(End::Panicked) => {
                means.counted.restart();
                tracing::error!(%share, "a dispatcher panicked, and another goes on from what is written down");
            }
            // Whose it is the group tells: should it be this process's, it takes it up again.
            Some(End::Taken) | None => {}
        }
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = next_wait(wait, end == Some(End::Panicked));
    }
}

/// The wait after the next failure, each twice as long as the one before.
fn next_wait(wait: Duration, panicked: bool) -> Duration {
    let longest = if panicked {
        LONGEST_WAIT
    } else {
        LONGEST_WAIT_TO_BEGIN
    };
    (2 * wait).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_their_bounds() {
        let waits = |panicked| {
            let grows = |wait: &Duration| Some(next_wait(*wait, panicked));
            let waits = std::iter::successors(Some(AFTER_FAILURE), grows);
            waits
                .map(|wait| wait.as_millis())
                .take(8)
                .collect::<Vec<_>>()
        };
        let to_begin = [500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000, 5_000];
        assert_eq!(waits(false), to_begin);
        let panicking = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        assert_eq!(waits(true), panicking);
    }
}

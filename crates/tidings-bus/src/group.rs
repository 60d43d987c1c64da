//! Processes that share a topic's partitions among them, seen from one of them.
//!
//! Whoever works on a partition [holds](Membership::hold) it. A partition that goes to another process leaves
//! [`Membership::shares`] first; the other gets it when it is [released](Membership::release), or when its holder
//! has not released it in time.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// What this process looks after.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    /// Partitions by number.
    pub partitions: BTreeSet<u32>,
    /// How many partitions the topic has.
    pub of: u32,
}

/// What is looked after, and what is worked on.
#[derive(Debug, Default)]
struct State {
    shares: Shares,
    held: BTreeSet<u32>,
}

/// What the group and its member know of each other; a bus that has groups tells it who comes and goes.
#[derive(Debug, Default)]
pub struct Desk {
    state: Mutex<State>,
    released: Condvar,
    changed: watch::Sender<()>,
}

impl Desk {
    /// The group gives partitions of so many.
    pub fn give(&self, partitions: impl IntoIterator<Item = u32>, of: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shares.partitions.extend(partitions);
        state.shares.of = of;
        drop(state);
        self.changed.send_replace(());
    }

    /// The group takes partitions back, and waits until they are released. False when that takes longer than
    /// `patience`.
    pub fn take_back(&self, partitions: &BTreeSet<u32>, patience: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .shares
            .partitions
            .retain(|it| !partitions.contains(it));
        self.changed.send_replace(());
        let waited = self.released.wait_timeout_while(state, patience, |state| {
            state.held.iter().any(|it| partitions.contains(it))
        });
        let (_state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

/// A place in a group. Dropping it lets everything go and leaves the group, which blocks for a moment.
pub struct Membership {
    desk: Arc<Desk>,
    changed: watch::Receiver<()>,
    /// Its drop leaves the group.
    _member: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").finish_non_exhaustive()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let state = self.desk.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).held.clear();
        self.desk.released.notify_all();
    }
}

impl Membership {
    /// `member` is what leaves the group when it is dropped.
    pub fn new(desk: Arc<Desk>, member: impl Send + Sync + 'static) -> Self {
        let changed = desk.changed.subscribe();
        Self {
            desk,
            changed,
            _member: Box::new(member),
        }
    }

    /// What this process looks after now.
    pub fn shares(&self) -> Shares {
        let state = self.desk.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).shares.clone()
    }

    /// Begins to work on a partition. False when it is another's by now.
    #[must_use]
    pub fn hold(&self, partition: u32) -> bool {
        let state = self.desk.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let ours = state.shares.partitions.contains(&partition);
        if ours {
            state.held.insert(partition);
        }
        ours
    }

    /// Ends to work on a partition: another may have it.
    pub fn release(&self, partition: u32) {
        let state = self.desk.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.held.remove(&partition);
        drop(state);
        self.desk.released.notify_all();
    }

    /// Ready when [`shares`](Self::shares) has changed since this was last ready.
    pub async fn changed(&mut self) {
        // The sender is on the desk, which is held here.
        let _ = self.changed.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_partition_is_given_up_only_when_it_is_released() {
        let desk = Arc::new(Desk::default());
        let mut membership = Membership::new(Arc::clone(&desk), ());
        desk.give([1, 2], 4);
        membership.changed().await;
        assert_eq!(membership.shares().partitions, BTreeSet::from([1, 2]));
        assert!(membership.hold(1));
        assert!(!membership.hold(3));

        let taken = {
            let desk = Arc::clone(&desk);
            std::thread::spawn(move || desk.take_back(&[1].into(), Duration::from_mins(1)))
        };
        membership.changed().await;
        assert_eq!(membership.shares().partitions, BTreeSet::from([2]));
        assert!(!taken.is_finished());
        membership.release(1);
        assert!(taken.join().unwrap());
        assert!(!membership.hold(1));
        assert!(membership.hold(2));
        assert!(
            !desk.take_back(&[2].into(), Duration::ZERO),
            "it was not released"
        );
    }
}

//! What is counted of deliveries, for whoever watches the installation. Nothing here decides anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The target has it.
    Delivered,
    /// Another attempt follows.
    Failed,
    /// No other follows.
    GaveUp,
}

impl AttemptOutcome {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::GaveUp];

    /// As logs, traces and metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::GaveUp => "gave-up",
        }
    }
}

/// Why a subscription does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Laggard {
    /// It is paused.
    Paused,
    /// It is disabled.
    Disabled,
    /// Nothing gets through to it.
    Failing,
    /// It is behind, and reads on.
    CatchingUp,
}

/// How many kinds there are.
pub(super) const LAGGARDS: usize = Laggard::ALL.len();

impl Laggard {
    /// All there are.
    pub const ALL: [Self; 4] = [
        Self::Paused,
        Self::Disabled,
        Self::Failing,
        Self::CatchingUp,
    ];

    /// As metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Failing => "failing",
            Self::CatchingUp => "catching-up",
        }
    }
}

/// What waits of subscriptions that do not keep up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// How many subscriptions these are.
    pub subscriptions: u64,
    /// Events of theirs at hand, and offsets of the log that each has still to read: other tenants' events in the same
    /// partitions count too.
    pub events: u64,
    /// When the oldest of the events was received, in ms since 1970, as far as that is known.
    pub oldest_ms: Option<i64>,
}

impl Behind {
    pub(super) fn add(&mut self, other: Self) {
        self.subscriptions += other.subscriptions;
        self.events += other.events;
        self.oldest_ms = self.oldest_ms.into_iter().chain(other.oldest_ms).min();
    }
}

/// What is in motion at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Motion {
    /// Attempts on their way.
    pub in_flight: u64,
    /// Pending deliveries in memory: those that failed, waited for their time and are due.
    pub at_hand: u64,
    /// Events of the log that were read and that the saved places may not pass yet.
    pub unsettled: u64,
    /// Shares of the tenants that this process delivers for.
    pub shares: u64,
}

impl Motion {
    fn members(&self) -> [u64; 4] {
        [self.in_flight, self.at_hand, self.unsettled, self.shares]
    }
}

/// The numbers of this process, from its start on.
#[derive(Debug, Default)]
pub struct Counted {
    attempts: [AtomicU64; AttemptOutcome::ALL.len()],
    dead_letters: AtomicU64,
    restarts: AtomicU64,
    damaged: AtomicU64,
    removed_unread: AtomicU64,
    unable: AtomicU64,
    motion: [AtomicU64; 4],
    /// Of each dispatcher, by its number.
    behind: Mutex<HashMap<u64, [Behind; LAGGARDS]>>,
    parts: AtomicU64,
}

impl Counted {
    /// Attempts that came to this.
    pub fn attempts(&self, outcome: AttemptOutcome) -> u64 {
        self.attempts[outcome as usize].load(Ordering::Relaxed)
    }

    /// Dead letters that were made.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// How often a dispatcher had to be replaced because it panicked.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Damaged rows and records that were passed over.
    pub fn damages(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Offsets that retention removed before a subscription had read on to them, of whichever tenant's events.
    pub fn removals(&self) -> u64 {
        self.removed_unread.load(Ordering::Relaxed)
    }

    /// Hand-overs that could not be begun for want of files or memory of this process.
    pub fn unables(&self) -> u64 {
        self.unable.load(Ordering::Relaxed)
    }

    /// What is in motion, of all shares together. A second old at most.
    pub fn motion(&self) -> Motion {
        let [in_flight, at_hand, unsettled, shares] =
            [0, 1, 2, 3].map(|index: usize| self.motion[index].load(Ordering::Relaxed));
        Motion {
            in_flight,
            at_hand,
            unsettled,
            shares,
        }
    }

    /// What waits of subscriptions that do not keep up, and why they do not. Some 10 s old at most.
    pub fn behind(&self, laggard: Laggard) -> Behind {
        let mut all = Behind::default();
        for part in self.behind_of_parts().values() {
            all.add(part[laggard as usize]);
        }
        all
    }

    fn behind_of_parts(&self) -> MutexGuard<'_, HashMap<u64, [Behind; LAGGARDS]>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn attempt(&self, outcome: AttemptOutcome) {
        self.attempts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unable(&self) {
        self.unable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn removed_unread(&self, offsets: u64) {
        self.removed_unread.fetch_add(offsets, Ordering::Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one dispatcher adds to the numbers, taken back when it ends.
#[derive(Debug)]
pub(super) struct Part {
    counted: Arc<Counted>,
    number: u64,
    last: Motion,
    /// As the last write of the cursors found it: to ask every partition at each turn would cost too much.
    pub(super) unsettled: u64,
}

impl Part {
    pub(super) fn new(counted: Arc<Counted>) -> Self {
        let last = Motion::default();
        let mut part = Self {
            number: counted.parts.fetch_add(1, Ordering::Relaxed),
            counted,
            last,
            unsettled: 0,
        };
        part.tell(Motion {
            shares: 1,
            ..Motion::default()
        });
        part
    }

    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Says what is in motion now.
    pub(super) fn tell(&mut self, now: Motion) {
        let members = now.members().into_iter().zip(self.last.members());
        for (all, (now, last)) in self.counted.motion.iter().zip(members) {
            // Wraps where it has become less, and comes out right.
            all.fetch_add(now.wrapping_sub(last), Ordering::Relaxed);
        }
        self.last = now;
    }

    /// Says what waits of subscriptions that do not keep up.
    pub(super) fn tell_behind(&self, now: [Behind; LAGGARDS]) {
        self.counted.behind_of_parts().insert(self.number, now);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.tell(Motion::default());
        self.counted.behind_of_parts().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_one_that_ends_is_taken_back() {
        let counted = Arc::new(Counted::default());
        let (mut one, mut other) = (Part::new(counted.clone()), Part::new(counted.clone()));
        let motion = |in_flight, shares| Motion {
            in_flight,
            shares,
            ..Motion::default()
        };
        one.tell(motion(5, 1));
        other.tell(motion(7, 1));
        one.tell(motion(2, 1));
        assert_eq!(counted.motion(), motion(9, 2));
        drop(other);
        assert_eq!(counted.motion(), motion(2, 1));
        drop(one);
        assert_eq!(counted.motion(), Motion::default());
    }
}

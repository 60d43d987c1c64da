//! Whom a bus tells that something became readable: those who follow everything, and those who follow one tenant.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidings_event::TenantId;
use tokio::sync::watch;

/// Tenants that nobody follows any more are looked for once there are so many, and then at each doubling.
const FIRST_SWEEP: usize = 64;

/// All who follow a bus.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    all: watch::Sender<u64>,
    followed: Mutex<Followed>,
}

#[derive(Debug, Default)]
struct Followed {
    by_tenant: HashMap<TenantId, watch::Sender<u64>>,
    /// How many were left after the last sweep.
    swept_to: usize,
}

impl Tails {
    /// Follows everything.
    pub(crate) fn all(&self) -> watch::Receiver<u64> {
        self.all.subscribe()
    }

    /// Follows one tenant.
    pub(crate) fn of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        let mut followed = self.followed();
        if followed.by_tenant.len() >= FIRST_SWEEP.max(2 * followed.swept_to) {
            followed
                .by_tenant
                .retain(|_, tail| tail.receiver_count() > 0);
            followed.swept_to = followed.by_tenant.len();
        }
        let tail = followed.by_tenant.entry(tenant.clone()).or_default();
        tail.subscribe()
    }

    /// Records of these tenants became readable.
    pub(crate) fn tell<'t>(&self, tenants: impl IntoIterator<Item = &'t TenantId>) {
        bump(&self.all);
        let followed = self.followed();
        if followed.by_tenant.is_empty() {
            return;
        }
        let mut last = None;
        for tenant in tenants {
            if last.replace(tenant) != Some(tenant)
                && let Some(tail) = followed.by_tenant.get(tenant)
            {
                bump(tail);
            }
        }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What only a bus needs that others append to as well.
#[cfg(feature = "kafka")]
impl Tails {
    /// Something became readable, and whose it is is not known.
    pub(crate) fn tell_everybody(&self) {
        bump(&self.all);
        self.followed().by_tenant.values().for_each(bump);
    }

    /// Whether anybody follows.
    pub(crate) fn are_followed(&self) -> bool {
        let followed = self.followed();
        let mut all = followed.by_tenant.values().chain([&self.all]);
        all.any(|tail| tail.receiver_count() > 0)
    }

    /// Whether somebody may follow one tenant.
    pub(crate) fn are_of_tenants(&self) -> bool {
        !self.followed().by_tenant.is_empty()
    }
}

fn bump(tail: &watch::Sender<u64>) {
    tail.send_modify(|changes| *changes = changes.wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_that_nobody_follows_any_more_are_forgotten() {
        let tails = Tails::default();
        let tenant = |n: usize| -> TenantId { format!("t{n}").parse().unwrap() };
        let kept = tails.of(&tenant(0));
        for n in 1..10 * FIRST_SWEEP {
            drop(tails.of(&tenant(n)));
        }
        assert!(tails.followed().by_tenant.len() <= FIRST_SWEEP);
        tails.tell([&tenant(0)]);
        assert!(kept.has_changed().unwrap());
    }
}

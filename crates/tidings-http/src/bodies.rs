//! What all request bodies hold together: an operation bounds its own, and this bounds their sum. Of it one tenant's large and
//! inflated bodies have a part at most, and once a quarter is held its small ones too.
//!
//! Nobody waits here: a body that finds no room is refused at once, and its client is told when to come again.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_event::TenantId;

/// A body up to so many bytes is a small one, in bytes.
const SMALL_BYTES: usize = 64 * 1024;
/// One part of so many is kept for small bodies: large ones that arrive slowly must not hold up every publish.
const KEPT_PART: usize = 8;
/// One tenant's bodies hold one part of so many at most, or what the largest takes if that is more …
const TENANTS_PART: usize = 2;
/// … which is a batch of 16 MiB, and what inflating it takes.
const LARGEST_BYTES: usize = 17 * 1024 * 1024;
/// The shortest time between two lines of the log that say how many bodies found no room.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The room that is left.
#[derive(Debug)]
pub(crate) struct Bodies {
    left: AtomicUsize,
    kept_for_small: usize,
    most_of_tenant: usize,
    /// Less than this is left: small bodies are counted by tenant too.
    scarce: usize,
    /// What each tenant's bodies hold, of those that are counted: to count each publish would cost it a lock.
    of_tenants: Mutex<HashMap<TenantId, usize>>,
    refused: Mutex<Refused>,
}

/// What the log says of bodies that found no room: each may cost its client little, and a line would fill the log.
#[derive(Debug, Default)]
struct Refused {
    told_at: Option<Instant>,
    since: u64,
}

impl Refused {
    /// Counts one. How many there were since the last line, which is so long ago, if it is time for another.
    fn count(&mut self, now: Instant) -> Option<(u64, Duration)> {
        self.since += 1;
        let ago = self.told_at.map(|at| now.duration_since(at));
        if ago.is_some_and(|ago| ago < TOLD_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some((std::mem::take(&mut self.since), ago.unwrap_or_default()))
    }
}

impl Bodies {
    /// For so many bytes in all.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(bytes),
            kept_for_small: bytes / KEPT_PART,
            scarce: bytes - bytes / 4,
            most_of_tenant: (bytes / TENANTS_PART).max(LARGEST_BYTES),
            of_tenants: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Says in the log that a body found no room, with how many others did since it last said so.
    pub(crate) fn tell_refused(&self) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bodies, ago)) = refused.count(Instant::now()) {
            tracing::warn!(
                bodies,
                within_s = ago.as_secs(),
                "bodies found no room: server.max_bodies_bytes are held"
            );
        }
    }

    /// The share of one body of a tenant's, or of an operator's, which has nothing yet.
    pub(crate) fn share(self: &Arc<Self>, tenant: Option<&TenantId>) -> Share {
        Share {
            bodies: Arc::clone(self),
            tenant: tenant.cloned(),
            bytes: 0,
            beside: 0,
            of_tenant: 0,
        }
    }

    fn of_tenants(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        let held = self.of_tenants.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one body holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Arc<Bodies>,
    tenant: Option<TenantId>,
    /// Of the body.
    bytes: usize,
    /// What reading it takes besides.
    beside: usize,
    /// What of both is counted as its tenant's.
    of_tenant: usize,
}

impl Share {
    /// Takes more, or nothing when there is no room; see [`no_room`].
    pub(crate) fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.take(bytes, self.bytes + bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Takes what reading the body needs besides, which makes it no larger.
    pub(crate) fn grow_beside(&mut self, bytes: usize) -> io::Result<()> {
        self.beside += bytes;
        let taken = self.take(bytes, self.bytes);
        if taken.is_err() {
            self.beside -= bytes;
        }
        taken
    }

    fn take(&mut self, bytes: usize, size: usize) -> io::Result<()> {
        let small = size <= SMALL_BYTES;
        let is_scarce = self.bodies.left.load(Ordering::Relaxed) < self.bodies.scarce;
        if !small || self.beside > 0 || is_scarce {
            self.take_of_tenant(size + self.beside)?;
        }
        let kept = if small { 0 } else { self.bodies.kept_for_small };
        let rest = |left: usize| left.checked_sub(bytes).filter(|rest| *rest >= kept);
        let left = &self.bodies.left;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(())
    }

    /// Counts all that the body will hold as its tenant's.
    fn take_of_tenant(&mut self, bytes: usize) -> io::Result<()> {
        let Some(tenant) = &self.tenant else {
            return Ok(());
        };
        let mut all = self.bodies.of_tenants();
        let held = all.get(tenant).copied().unwrap_or(0) + bytes - self.of_tenant;
        if held > self.bodies.most_of_tenant {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        all.insert(tenant.clone(), held);
        self.of_tenant = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = self.bytes + self.beside;
        self.bodies.left.fetch_add(taken, Ordering::Relaxed);
        if let (Some(tenant), 1..) = (&self.tenant, self.of_tenant) {
            let mut all = self.bodies.of_tenants();
            let held = all.get(tenant).copied().unwrap_or(0);
            if held > self.of_tenant {
                all.insert(tenant.clone(), held - self.of_tenant);
            } else {
                all.remove(tenant);
            }
        }
    }
}

/// Whether reading failed because there was no room.
pub(crate) fn no_room(error: &axum::BoxError) -> bool {
    let of_memory = |error: &io::Error| error.kind() == io::ErrorKind::OutOfMemory;
    error.downcast_ref().is_some_and(of_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(bodies: &Bodies) -> usize {
        bodies.left.load(Ordering::Relaxed)
    }

    #[test]
    fn bodies_that_find_no_room_share_a_line() {
        let (mut refused, begun) = (Refused::default(), Instant::now());
        assert_eq!(refused.count(begun), Some((1, Duration::ZERO)));
        let soon = begun + TOLD_EVERY / 2;
        for _ in 0..1_000 {
            assert_eq!(refused.count(soon), None);
        }
        assert_eq!(refused.count(begun + TOLD_EVERY), Some((1_001, TOLD_EVERY)));
        assert_eq!(refused.count(begun + TOLD_EVERY), None);
    }

    #[test]
    fn one_tenants_bodies_leave_others_their_part() {
        let bodies = Bodies::new(4 * LARGEST_BYTES);
        let (loud, quiet) = ("loud".parse().unwrap(), "quiet".parse().unwrap());
        let share = |tenant| bodies.share(Some(tenant));
        let mut first = share(&loud);
        first.grow(LARGEST_BYTES).unwrap();
        // Bodies that are inflated count though little has come of them.
        let mut inflated = Vec::new();
        while let Some(mut one) = Some(share(&loud)) {
            if one.grow_beside(SMALL_BYTES).is_err() {
                break;
            }
            inflated.push(one);
        }
        assert_eq!(inflated.len(), LARGEST_BYTES / SMALL_BYTES);
        assert!(share(&loud).grow(SMALL_BYTES + 1).is_err());
        assert!(share(&loud).grow(SMALL_BYTES).is_err());
        share(&quiet).grow(SMALL_BYTES).unwrap();
        share(&quiet).grow(LARGEST_BYTES).unwrap();
        inflated.clear();
        share(&loud).grow(LARGEST_BYTES).unwrap();
        drop(first);
        assert!(bodies.of_tenants().is_empty());
        assert_eq!(left(&bodies), 4 * LARGEST_BYTES);
    }

    #[test]
    fn large_bodies_leave_small_ones_their_part_and_all_give_back() {
        let whole = 16 * SMALL_BYTES;
        let bodies = Bodies::new(whole);
        let mut large = bodies.share(None);
        large.grow(14 * SMALL_BYTES).unwrap();
        let full: axum::BoxError = large.grow(1).unwrap_err().into();
        assert!(no_room(&full));
        let mut small: Vec<Share> = (0..3).map(|_| bodies.share(None)).collect();
        let took = small.iter_mut().map(|one| one.grow(SMALL_BYTES).is_ok());
        assert_eq!(took.collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(left(&bodies), 0);
        // What inflating takes makes no body a large one.
        drop(small.pop());
        assert!(
            small[0].grow_beside(SMALL_BYTES).is_err(),
            "there is no room at all"
        );
        small.push(bodies.share(None));
        // One that outgrows the small ones is a large one.
        drop(large);
        assert!(small[0].grow(12 * SMALL_BYTES).is_ok());
        assert!(small[1].grow(SMALL_BYTES).is_err());
        drop(small);
        assert_eq!(left(&bodies), whole);
    }
}

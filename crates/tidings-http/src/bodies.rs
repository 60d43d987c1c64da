//! What all request bodies hold together: an operation bounds its own, and this bounds their sum.
//!
//! Nobody waits here: a body that finds no room is refused at once, and its client is told when to come again.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A body up to so many bytes is a small one, in bytes.
const SMALL_BYTES: usize = 64 * 1024;
/// One part of so many is kept for small bodies: large ones that arrive slowly must not hold up every publish.
const KEPT_PART: usize = 8;
/// The shortest time between two lines of the log that say how many bodies found no room.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The room that is left.
#[derive(Debug)]
pub(crate) struct Bodies {
    left: AtomicUsize,
    kept_for_small: usize,
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

    /// The share of one body, which has nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share {
            bodies: Arc::clone(self),
            bytes: 0,
            beside: 0,
        }
    }
}

/// What one body holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Arc<Bodies>,
    /// Of the body.
    bytes: usize,
    /// What reading it takes besides.
    beside: usize,
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
        self.take(bytes, self.bytes)?;
        self.beside += bytes;
        Ok(())
    }

    fn take(&self, bytes: usize, size: usize) -> io::Result<()> {
        let small = size <= SMALL_BYTES;
        let kept = if small { 0 } else { self.bodies.kept_for_small };
        let rest = |left: usize| left.checked_sub(bytes).filter(|rest| *rest >= kept);
        let left = &self.bodies.left;
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        taken.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = self.bytes + self.beside;
        self.bodies.left.fetch_add(taken, Ordering::Relaxed);
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
    fn large_bodies_leave_small_ones_their_part_and_all_give_back() {
        let whole = 16 * SMALL_BYTES;
        let bodies = Bodies::new(whole);
        let mut large = bodies.share();
        large.grow(14 * SMALL_BYTES).unwrap();
        let full: axum::BoxError = large.grow(1).unwrap_err().into();
        assert!(no_room(&full));
        let mut small: Vec<Share> = (0..3).map(|_| bodies.share()).collect();
        let took = small.iter_mut().map(|one| one.grow(SMALL_BYTES).is_ok());
        assert_eq!(took.collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(left(&bodies), 0);
        // What inflating takes makes no body a large one.
        drop(small.pop());
        assert!(
            small[0].grow_beside(SMALL_BYTES).is_err(),
            "there is no room at all"
        );
        small.push(bodies.share());
        // One that outgrows the small ones is a large one.
        drop(large);
        assert!(small[0].grow(12 * SMALL_BYTES).is_ok());
        assert!(small[1].grow(SMALL_BYTES).is_err());
        drop(small);
        assert_eq!(left(&bodies), whole);
    }
}

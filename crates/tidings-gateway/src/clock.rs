//! Time and ids: the one place that asks for them. Everything else is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use uuid::{NoContext, Timestamp, Uuid};

/// The system's clock, or one that a test moves.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self(None)
    }

    /// One that stands still until it is [`set`](Self::set).
    pub fn manual(now_ms: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(now_ms))))
    }

    /// Moves a manual clock; the system's clock stays as it is.
    pub fn set(&self, now_ms: i64) {
        if let Some(clock) = &self.0 {
            clock.store(now_ms, Ordering::SeqCst);
        }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Some(clock) => clock.load(Ordering::SeqCst),
            None => jiff::Timestamp::now().as_millisecond(),
        }
    }

    /// A UUID v7: ordered within this process on the system's clock.
    pub fn new_id(&self) -> Uuid {
        if self.0.is_none() {
            return Uuid::now_v7();
        }
        let ms = u64::try_from(self.now_ms()).unwrap_or_default();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "below 10^9 by the remainder"
        )]
        let nanos = (ms % 1_000 * 1_000_000) as u32;
        Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1_000, nanos))
    }
}

/// Whether so much time has passed since one, in ms since 1970. A clock that was set back does not say how much has: what is
/// done so often is done then, and not when the clock has come there again.
pub(crate) fn has_passed(time: Duration, since_ms: i64, now_ms: i64) -> bool {
    let passed = now_ms.saturating_sub(since_ms);
    passed < 0 || passed >= i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

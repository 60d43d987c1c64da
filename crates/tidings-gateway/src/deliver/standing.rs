//! Where the time went: how long a queue as a whole could not go on, and how long each delivery has waited, for what.

use tidings_store::PendingRow;

use super::queue::{Delivery, Held};
use super::record::{Ledger, PendingDetail};

/// How long a queue has stood still so far, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stood {
    rate_limit: i64,
    breaker: i64,
}

/// Whether a queue stands still, and how long it has.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Why, and since when, in ms since 1970.
    now: Option<(Held, i64)>,
    past: Stood,
}

impl Standing {
    /// From now on it stands still for this, or goes on.
    pub(super) fn because(&mut self, held: Option<Held>, now_ms: i64) {
        self.past = self.until(now_ms);
        self.now = held.map(|held| (held, now_ms));
    }

    /// Why it stands still.
    pub(super) fn cause(&self) -> Option<Held> {
        self.now.map(|(held, _)| held)
    }

    /// How long it has stood still until a time.
    pub(super) fn until(&self, now_ms: i64) -> Stood {
        let mut stood = self.past;
        match self.now {
            Some((Held::RateLimit, since)) => stood.rate_limit += (now_ms - since).max(0),
            Some((Held::Breaker, since)) => stood.breaker += (now_ms - since).max(0),
            Some((Held::Key | Held::Batch, _)) | None => {}
        }
        stood
    }
}

impl Delivery {
    /// Adds the time since it came to hand, of which the queue has stood still for some.
    pub(super) fn account(&mut self, stood: Stood, now_ms: i64) {
        let waited = (now_ms - self.at_hand_ms).max(0);
        let rate_limit = stood.rate_limit - self.stood.rate_limit;
        let rate_limit = rate_limit.clamp(0, waited);
        let breaker = stood.breaker - self.stood.breaker;
        let breaker = breaker.clamp(0, waited - rate_limit);
        self.ledger.rate_limit += rate_limit;
        self.ledger.breaker += breaker;
        let rest = waited - rate_limit - breaker;
        add(&mut self.ledger, self.held, rest);
        self.at_hand_ms = now_ms;
        self.stood = stood;
    }
}

fn add(ledger: &mut Ledger, held: Option<Held>, time: i64) {
    match held {
        None => ledger.log += time,
        Some(Held::Key) => ledger.key += time,
        Some(Held::RateLimit) => ledger.rate_limit += time,
        Some(Held::Breaker) => ledger.breaker += time,
        Some(Held::Batch) => ledger.batch += time,
    }
}

/// A pending delivery's ledger with the time since it was left to the store. What it has waited beyond its time counts for
/// what its queue stands still for.
pub(crate) fn accounted(
    row: &PendingRow,
    detail: &PendingDetail,
    queue: Option<Held>,
    now_ms: i64,
) -> Ledger {
    let mut ledger = detail.ledger;
    if detail.left_ms == 0 {
        return ledger;
    }
    let waited = (now_ms - detail.left_ms).max(0);
    if row.state != "waiting" {
        ledger.key += waited;
        return ledger;
    }
    let planned = (row.next_at_ms - detail.left_ms).clamp(0, waited);
    if row.attempts > detail.base {
        ledger.back_off += planned;
    } else {
        // Nothing has failed that it would wait for: it is one of many at a rate.
        ledger.rate_limit += planned;
    }
    add(&mut ledger, queue, waited - planned);
    ledger
}

//! Where the time went: how long a queue as a whole could not go on, and how long each delivery has waited, for what.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_store::PendingRow;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Delivery, Held};
use super::record::{Ledger, PendingDetail};
use crate::by_id::IdMap;

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
            Some((Held::RateLimit | Held::InFlight, since)) => {
                stood.rate_limit += (now_ms - since).max(0);
            }
            Some((Held::Breaker | Held::Unable, since)) => stood.breaker += (now_ms - since).max(0),
            Some((Held::Key | Held::Batch, _)) | None => {}
        }
        stood
    }
}

/// The queues that stand still until a time, and what for, as far as this process delivers: for whoever asks why nothing is
/// sent. Nothing is decided by it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standstills(Arc<Mutex<IdMap<Uuid, Standstill>>>);

/// Why a queue stands still, and until when, in ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standstill {
    pub(crate) held: Held,
    pub(crate) until_ms: i64,
}

impl Standstills {
    fn known(&self) -> MutexGuard<'_, IdMap<Uuid, Standstill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of these queues that stand still at a time.
    pub(crate) fn of(&self, ids: &[Uuid], now_ms: i64) -> IdMap<Uuid, Standstill> {
        let known = self.known();
        let found = ids
            .iter()
            .filter_map(|id| Some((*id, known.get(id).copied()?)));
        found.filter(|(_, it)| now_ms < it.until_ms).collect()
    }
}

/// What one dispatcher has told there. What it leaves without a word is taken back.
pub(super) struct Announced {
    all: Standstills,
    own: IdMap<Uuid, Held>,
}

impl Announced {
    pub(super) fn to(all: Standstills) -> Self {
        let own = IdMap::default();
        Self { all, own }
    }

    fn stands_still(&mut self, id: Uuid, standstill: Standstill) {
        self.own.insert(id, standstill.held);
        self.all.known().insert(id, standstill);
    }

    /// A queue goes on, or is another from now on.
    pub(super) fn goes_on(&mut self, id: Uuid) {
        // Nearly always nothing stands still.
        if !self.own.is_empty() && self.own.remove(&id).is_some() {
            self.all.known().remove(&id);
        }
    }

    /// Fewer of a queue are on their way than may be. What else it stands still for, it still does.
    fn has_room(&mut self, id: Uuid) {
        if self.own.get(&id) == Some(&Held::InFlight) {
            self.goes_on(id);
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut known = self.all.known();
        for id in self.own.keys() {
            known.remove(id);
        }
    }
}

impl Dispatcher {
    /// Says of a queue that cannot go on before a time, in ms since 1970, what it waits for.
    pub(super) fn tell_standstill(&mut self, id: Uuid, until_ms: i64) {
        let cause = self.queues.get(&id).and_then(|it| it.standing.cause());
        match cause {
            Some(held @ (Held::RateLimit | Held::Breaker | Held::Unable)) => {
                let standstill = Standstill { held, until_ms };
                self.announced.stands_still(id, standstill);
            }
            Some(Held::Key | Held::Batch | Held::InFlight) | None => self.announced.goes_on(id),
        }
    }

    /// Says of a queue whether as many are on their way to its receiver as may be at once, those of its replays among them.
    pub(super) fn tell_in_flight(&mut self, id: Uuid, now_ms: i64) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let (beside, _) = self.of_the_original(id, now_ms);
        let on_the_way = queue.in_flight + queue.of_replays + beside;
        if on_the_way < queue.subscription.delivery.max_in_flight {
            self.announced.has_room(id);
        } else {
            let standstill = Standstill {
                held: Held::InFlight,
                // Until one has ended.
                until_ms: i64::MAX,
            };
            self.announced.stands_still(id, standstill);
        }
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
        Some(Held::RateLimit | Held::InFlight) => ledger.rate_limit += time,
        Some(Held::Breaker | Held::Unable) => ledger.breaker += time,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_still_is_known_until_it_goes_on_its_time_is_up_or_its_dispatcher_ends() {
        let all = Standstills::default();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut told = Announced::to(all.clone());
        let of = |held, until_ms| Standstill { held, until_ms };
        told.stands_still(one, of(Held::Breaker, 10));
        told.stands_still(two, of(Held::RateLimit, 20));
        let known = |now| all.of(&[one, two], now);
        assert_eq!(known(9)[&one], of(Held::Breaker, 10));
        assert_eq!(known(9).len(), 2);
        assert_eq!(
            known(10).into_keys().collect::<Vec<_>>(),
            [two],
            "its time is up"
        );
        told.goes_on(one);
        assert!(!known(9).contains_key(&one));
        told.has_room(two);
        assert_eq!(
            known(9)[&two],
            of(Held::RateLimit, 20),
            "it stands still for another"
        );
        told.stands_still(one, of(Held::InFlight, i64::MAX));
        told.has_room(one);
        assert!(!known(9).contains_key(&one));
        drop(told);
        assert!(known(9).is_empty());
    }
}

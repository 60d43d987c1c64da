//! When something of each subscription is due: as far as that is known, and never too late by more than a look.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::by_id::IdMap;

/// Subscriptions with pending deliveries, by the time of the next.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    at: IdMap<Uuid, i64>,
    order: BTreeSet<(i64, Uuid)>,
}

impl Waiting {
    /// Something of it is due at a time, in ms since 1970, if nothing is before.
    pub(super) fn sooner(&mut self, id: Uuid, at_ms: i64) {
        if self.at.get(&id).is_none_or(|known| at_ms < *known) {
            self.remove(id);
            self.at.insert(id, at_ms);
            self.order.insert((at_ms, id));
        }
    }

    /// It is looked at now, if it has anything.
    pub(super) fn wake(&mut self, id: Uuid, now_ms: i64) {
        if self.at.contains_key(&id) {
            self.sooner(id, now_ms);
        }
    }

    /// All are looked at now.
    pub(super) fn wake_all(&mut self, now_ms: i64) {
        let ids: Vec<Uuid> = self.at.keys().copied().collect();
        for id in ids {
            self.sooner(id, now_ms);
        }
    }

    /// Nothing of it is known to wait any more.
    pub(super) fn remove(&mut self, id: Uuid) {
        if let Some(at) = self.at.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    /// Takes out the one that has waited longest of those that are due.
    pub(super) fn take(&mut self, now_ms: i64) -> Option<Uuid> {
        let (_, id) = self
            .order
            .first()
            .copied()
            .filter(|(at, _)| *at <= now_ms)?;
        self.remove(id);
        Some(id)
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<i64> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_taken_and_each_stands_once() {
        let id = Uuid::from_u128;
        let mut waiting = Waiting::default();
        waiting.sooner(id(1), 20);
        waiting.sooner(id(2), 10);
        waiting.sooner(id(1), 5);
        waiting.sooner(id(1), 30);
        waiting.wake(id(3), 1);
        assert_eq!(waiting.first(), Some(5));
        assert_eq!(waiting.take(9), Some(id(1)));
        assert_eq!(waiting.take(9), None);
        waiting.wake(id(2), 9);
        assert_eq!(waiting.take(9), Some(id(2)));
        assert_eq!(waiting.first(), None);
    }
}

//! The deliveries of one queue that wait to be sent, in order.

use std::collections::VecDeque;

use super::queue::{Delivery, Held};

/// What waits in a queue. The bytes are counted here alone, so that nothing goes in or out without being counted.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
}

impl Backlog {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// The bytes of their events' data, together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All that wait, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// The same, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.deliveries.iter_mut()
    }

    /// Notes why the one at a place waits.
    pub(super) fn hold(&mut self, place: usize, held: Held) {
        self.deliveries[place].held = Some(held);
    }

    /// Puts a delivery at the end.
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.event.data.len();
        self.deliveries.push_back(delivery);
    }

    /// Takes out those at these places, which ascend.
    pub(super) fn take_at(&mut self, places: &[usize]) -> Vec<Delivery> {
        if let [place] = places {
            let taken: Vec<_> = self.deliveries.remove(*place).into_iter().collect();
            self.uncount(&taken);
            return taken;
        }
        let mut places = places.iter().copied().peekable();
        let mut place = 0..;
        self.take_where(|_| {
            places
                .next_if_eq(&place.next().unwrap_or_default())
                .is_some()
        })
    }

    /// Takes out those that are meant, in order.
    pub(super) fn take_where(
        &mut self,
        mut is_meant: impl FnMut(&Delivery) -> bool,
    ) -> Vec<Delivery> {
        let all = std::mem::take(&mut self.deliveries).into_iter();
        let (taken, kept): (Vec<_>, Vec<_>) = all.partition(|it| is_meant(it));
        self.deliveries = kept.into();
        self.uncount(&taken);
        taken
    }

    /// Takes out all of them.
    pub(super) fn clear(&mut self) -> Vec<Delivery> {
        self.take_where(|_| true)
    }

    fn uncount(&mut self, taken: &[Delivery]) {
        let bytes = taken.iter().map(|it| it.event.data.len());
        self.bytes -= bytes.sum::<usize>();
    }
}

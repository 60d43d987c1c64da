//! Which deliveries of a queue go next: one, or as many as its subscription takes in one message.
//!
//! A batch is gathered from whatever may go and goes when it is full, when its first has waited long enough, or when
//! nothing more fits into the queue. What failed together goes again together ([`Delivery::batch`]), and nothing
//! joins it. Within a batch events stand by their numbers, so that it is written the same way again.

use std::collections::HashSet;

use uuid::Uuid;

use super::queue::{Delivery, Held, Origin, Queue};
use super::retry::MOST_OF_QUEUE;
use super::schedule::{is_to_come, ms};
use super::target::batch::room_for;
use crate::subscription::{Batch, Format};

/// What goes next of a queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing may go.
    Nothing,
    /// These, by their places in line, ascending.
    Now(Vec<usize>),
    /// More may join them until this time, in ms since 1970.
    Later(i64),
}

/// What is gathered.
#[derive(Default)]
struct Gathered {
    indices: Vec<usize>,
    bytes: usize,
    /// When the first came to hand.
    since_ms: i64,
    full: bool,
}

/// Only what is alike goes together: a message is marked as replayed, and tried again, as a whole.
fn kind(delivery: &Delivery) -> (bool, Option<Uuid>, u32) {
    let replay = delivery.replay.map(|replay| replay.id);
    let attempts = delivery.attempts - delivery.base;
    (delivery.is_replayed(), replay, attempts)
}

impl Queue {
    /// What goes next. What waits for its key or for others is told why.
    pub(super) fn choose(&mut self, now: i64) -> Choice {
        let Some(rules) = self.subscription.delivery.batch else {
            let next = self.next();
            return next.map_or(Choice::Nothing, |index| Choice::Now(vec![index]));
        };
        if let Some(again) = self.failed_together() {
            return Choice::Now(again);
        }
        let gathered = self.gather(rules);
        if gathered.indices.is_empty() {
            return Choice::Nothing;
        }
        let until = gathered.since_ms + ms(rules.max_wait);
        let grows = self.has_room() && self.pending_at_hand() < MOST_OF_QUEUE;
        if gathered.full || !grows || !is_to_come(until, rules.max_wait, now) {
            return Choice::Now(gathered.indices);
        }
        for index in gathered.indices {
            self.backlog.hold(index, Held::Batch);
        }
        Choice::Later(until)
    }

    /// A batch that failed and may go again, whole.
    fn failed_together(&self) -> Option<Vec<usize>> {
        let lead_of = |it: &Delivery| it.batch.as_ref().map(|batch| batch.lead);
        let leads = self.backlog.iter().filter_map(lead_of);
        let mut seen = HashSet::new();
        leads.filter(|lead| seen.insert(*lead)).find_map(|lead| {
            let members = || {
                let all = self.backlog.iter().enumerate();
                all.filter(move |(_, it)| lead_of(it) == Some(lead))
            };
            let may_go = members().all(|(_, it)| self.is_let_go(it));
            may_go.then(|| members().map(|(index, _)| index).collect())
        })
    }

    fn gather(&mut self, rules: Batch) -> Gathered {
        let format = self.subscription.target.webhook();
        let format = format.map_or_else(Format::default, |webhook| webhook.format);
        let mut gathered = Gathered::default();
        let mut alike = None;
        // Whoever is behind one that stays stays, too.
        let mut staying: HashSet<String> = HashSet::new();
        let mut held = Vec::new();
        for (index, delivery) in self.backlog.iter().enumerate() {
            if !self.is_let_go(delivery) {
                held.push(index);
                continue;
            }
            let lane = delivery.lane.as_ref();
            let fits = *alike.get_or_insert_with(|| kind(delivery)) == kind(delivery);
            let stays = lane.is_some_and(|lane| staying.contains(lane));
            if delivery.batch.is_some() || !fits || stays {
                staying.extend(lane.cloned());
                continue;
            }
            let bytes = room_for(&delivery.event, format);
            // A body of one is as long as it is.
            if !gathered.indices.is_empty() && gathered.bytes + bytes > rules.max_bytes {
                gathered.full = true;
                break;
            }
            if gathered.indices.is_empty() {
                gathered.since_ms = delivery.at_hand_ms;
            }
            gathered.since_ms = gathered.since_ms.min(delivery.at_hand_ms);
            gathered.bytes += bytes;
            gathered.indices.push(index);
            if gathered.indices.len() == rules.max_events {
                gathered.full = true;
                break;
            }
        }
        for index in held {
            self.backlog.hold(index, Held::Key);
        }
        gathered
    }

    /// Whether its key lets a delivery go.
    pub(super) fn is_let_go(&self, delivery: &Delivery) -> bool {
        delivery.lane.as_ref().is_none_or(|lane| {
            let lane = self.lanes.get(lane).copied().unwrap_or_default();
            !lane.busy && (!lane.blocked || delivery.origin == Origin::Pending)
        })
    }

    /// Takes out what was chosen, to be sent in one message.
    pub(super) fn take(&mut self, chosen: &[usize]) -> Vec<Delivery> {
        let mut taken = self.backlog.take_at(chosen);
        taken.sort_by_key(|delivery| delivery.sequence);
        for delivery in &taken {
            self.take_out(delivery);
        }
        self.in_flight += 1;
        taken
    }
}

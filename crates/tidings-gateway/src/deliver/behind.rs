//! What waits of subscriptions that do not keep up, for whoever watches the installation: how much, and since when.
//! Nothing here decides anything.

use std::time::Duration;

use tidings_bus::{Read, ReadError};
use uuid::Uuid;

use super::Dispatcher;
use super::counted::{Behind, LAGGARDS, Laggard};
use super::queue::{Held, Queue, StreamId};
use super::read::SCAN;
use crate::clock::has_passed;
use crate::subscription::State;

/// How often is looked.
const LOOKED_EVERY: Duration = Duration::from_secs(10);
/// So many stretches of the log are read in one look, to find what a place is the first to wait at.
const MOST_READ: usize = 16;

/// The first event that waits at a place, as far as it has been looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    place: u64,
    /// Up to here there is none.
    looked_to: u64,
    /// When it was received, in ms since 1970.
    at_ms: Option<i64>,
}

impl Queue {
    /// Why it does not keep up. Nothing where it does.
    fn laggard(&self, is_behind: bool) -> Option<Laggard> {
        let waits = is_behind || !self.backlog.is_empty();
        let is_held = matches!(self.standing.cause(), Some(Held::Breaker | Held::Unable));
        match self.subscription.state {
            State::Paused if waits => Some(Laggard::Paused),
            State::Disabled if waits => Some(Laggard::Disabled),
            State::Active if self.lost.is_some() => Some(Laggard::Failing),
            State::Active if waits && (is_held || self.failing_since_ms.is_some()) => {
                Some(Laggard::Failing)
            }
            State::Active if is_behind => Some(Laggard::CatchingUp),
            _ => None,
        }
    }
}

impl Dispatcher {
    /// Says how much waits, now and then.
    pub(super) async fn tell_behind(&mut self) {
        let now = self.clock.now_ms();
        if !has_passed(LOOKED_EVERY, self.behind_looked_at_ms, now) {
            return;
        }
        self.behind_looked_at_ms = now;
        let ids: Vec<Uuid> = self.queues.keys().copied().collect();
        let (mut found, mut left) = ([Behind::default(); LAGGARDS], MOST_READ);
        for id in ids {
            let Some(queue) = self.queues.get(&id) else {
                continue;
            };
            let places = queue.places.iter().map(|(stream, place)| (*stream, *place));
            let behind = |(stream, place): &(StreamId, u64)| *place < self.streams[*stream].head;
            let places: Vec<_> = places.filter(behind).collect();
            let Some(laggard) = queue.laggard(!places.is_empty()) else {
                continue;
            };
            let offsets = places
                .iter()
                .map(|(it, place)| self.streams[*it].head - place);
            let events = queue.backlog.len() as u64 + offsets.sum::<u64>();
            let mut oldest_ms = queue.backlog.iter().map(|it| it.event.received_at_ms).min();
            // What is at hand came before what stands at a place of its own partition, and nearly always before all.
            if oldest_ms.is_none() {
                for place in places {
                    let first = self.first_at(id, place, &mut left).await;
                    oldest_ms = oldest_ms.into_iter().chain(first).min();
                }
            }
            found[laggard as usize].add(Behind {
                subscriptions: 1,
                events,
                oldest_ms,
            });
        }
        self.part.tell_behind(found);
    }

    /// When the first event of its tenant was received that stands at a subscription's place or behind it, as far as that
    /// is known.
    async fn first_at(
        &mut self,
        id: Uuid,
        (stream, place): (StreamId, u64),
        left: &mut usize,
    ) -> Option<i64> {
        let queue = self.queues.get(&id)?;
        let known = queue.first.get(&stream).filter(|it| it.place == place);
        let mut first = known.copied().unwrap_or(First {
            place,
            looked_to: place,
            at_ms: None,
        });
        let reads_on = first.looked_to < self.streams[stream].head && *left > 0;
        if first.at_ms.is_some() || !reads_on || self.is_left_alone(stream) {
            return first.at_ms;
        }
        *left -= 1;
        let read = Read {
            from: first.looked_to,
            tenant: Some(queue.subscription.tenant.clone()),
            limit: 1,
            scan: SCAN,
        };
        let partition = self.streams[stream].partition.clone();
        match self.bus.read(partition, read).await {
            Ok(page) => {
                first.looked_to = page.next.max(first.looked_to);
                first.at_ms = page.records.first().map(|it| it.timestamp_ms);
            }
            // Whoever reads it to deliver it says so.
            Err(ReadError::Damaged { offset, .. }) => first.looked_to = offset + 1,
            // It may have taken long to fail, and so may others.
            Err(error) => {
                tracing::debug!(%error, "how long a subscription waits is not known");
                *left = 0;
            }
        }
        self.queues.get_mut(&id)?.first.insert(stream, first);
        first.at_ms
    }
}

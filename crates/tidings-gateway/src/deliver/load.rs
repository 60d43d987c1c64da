//! What a dispatcher finds in the store when it begins, and goes on from.

use std::collections::HashMap;

use tidings_bus::{Partition, partition_of};
use tidings_event::Topic;
use tidings_store::{Found, ProgressRow};
use uuid::Uuid;

use super::Dispatcher;
use super::queue::{Numbers, Places, StreamId};
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

impl Dispatcher {
    /// The places of a subscription. One that cannot be read now keeps where it stands, in the store too: all others go on
    /// without it, and when it can be read again it is to get what came meanwhile.
    fn places_kept(
        &mut self,
        row: &ProgressRow,
        mut places: Places,
        topics: &[(Topic, u32)],
    ) -> Places {
        if !self.in_force.is_unreadable(row.subscription) {
            return places;
        }
        let before = places.at.len();
        for (topic, partitions) in topics {
            let number = partition_of(row.tenant.as_str().as_bytes(), *partitions);
            let stream = self.stream(Partition {
                topic: topic.clone(),
                number,
            });
            let stream = &self.streams[stream];
            let is_kept = |(of, at, _): &(String, u32, u64)| of == topic.as_str() && *at == number;
            if !stream.lost && !places.at[..before].iter().any(is_kept) {
                places.at.push((topic.to_string(), number, stream.head));
            }
        }
        if places.at.len() == before {
            return places;
        }
        self.flush.progress.push(ProgressRow {
            places: serde_json::to_string(&places).expect("plain members become JSON"),
            ..row.clone()
        });
        places
    }

    /// Leaves alone, for as long as this dispatcher lives, what has no sound cursor: any of these may be the one that is
    /// damaged, and nobody knows what of it was delivered.
    fn leave_lost(&mut self) {
        for stream in self.streams.iter_mut().filter(|it| it.saved.is_none()) {
            stream.lost = true;
            let (topic, partition) = (&stream.partition.topic, stream.partition.number);
            tracing::error!(
                share = %self.share, %topic, partition,
                "nothing of a partition is delivered: a cursor is damaged, and how far this one was read is not known"
            );
        }
    }

    /// Leaves alone, for as long as this dispatcher lives, the subscriptions whose progress is damaged: what they were sent and
    /// under which numbers is not known. Fails where it is not known either which subscriptions these are.
    fn leave_lost_subscriptions(&mut self, found: &Found<ProgressRow>) -> Result<(), Refusal> {
        for error in &found.damaged {
            self.count_damaged(error);
            let named = error.row().and_then(|row| row.parse().ok());
            let named = named.filter(|id| found.tells_all() && self.in_force.get(*id).is_some());
            let id = named
                .ok_or_else(|| Refusal::fault("Reading how far subscriptions have come", error))?;
            tracing::error!(
                share = %self.share, subscription = %id, %error,
                "nothing of a subscription is delivered: how far it had come is damaged"
            );
            self.lost.subscriptions.insert(id);
        }
        Ok(())
    }

    /// Reads cursors, places, numbers and lanes, and makes the queues that have something to catch up with.
    pub(super) async fn load(&mut self) -> Result<(), Refusal> {
        let topics = self.bus.topics().await.map_err(unreadable)?;
        for (topic, partitions) in &topics {
            for number in 0..*partitions {
                let topic = topic.clone();
                self.stream(Partition { topic, number });
            }
        }
        let store = self.store.clone();
        let rows = store.deliveries();
        let name = self.share.to_string();
        let cursors = rows.cursors().await;
        let damaged = cursors.iter().flat_map(|it| &it.damaged);
        self.lost.cursors = damaged
            .map(|error| error.row().unwrap_or_default().to_owned())
            .collect();
        let cursors = self.sound(cursors)?;
        let (own, others): (Vec<_>, Vec<_>) =
            cursors.into_iter().partition(|row| row.share == name);
        let mut known: HashMap<StreamId, u64> = HashMap::new();
        // Where tenants were shared out in another way, what all had come to is where this share goes on.
        for row in others {
            let (topic, number) = (row.topic, row.partition);
            let at = known.entry(self.stream(Partition { topic, number }));
            let at = at.or_insert(row.next_offset);
            *at = row.next_offset.min(*at);
        }
        for row in own {
            let (topic, number) = (row.topic, row.partition);
            let id = self.stream(Partition { topic, number });
            known.insert(id, row.next_offset);
            self.streams[id].saved = Some(row.next_offset);
        }
        if !self.lost.cursors.is_empty() {
            self.leave_lost();
        }
        let newest = rows.newest_attempt().await.map_err(store_fault)?;
        for (id, next_offset) in known {
            self.streams[id].sound_at_ms = newest;
            self.streams[id].head = next_offset;
            self.streams[id].recent.from = next_offset;
        }
        let share = self.share;
        let progress = rows.progress(share).await.map_err(store_fault)?;
        self.leave_lost_subscriptions(&progress)?;
        for row in progress.rows {
            let places = serde_json::from_str(&row.places);
            let places =
                places.map_err(|error| Refusal::fault("Reading a subscription's place", &error))?;
            let places = self.places_kept(&row, places, &topics);
            self.saved
                .insert(row.subscription, (Numbers::new(row.sequence), places));
        }
        let tried = rows.beyond_progress(share).await;
        for row in self.sound(tried)? {
            if let Some((numbers, _)) = self.saved.get_mut(&row.subscription) {
                numbers.known(row.event_id, row.sequence);
            }
        }
        let pending = rows.pending_beyond_progress(share).await;
        for row in self.sound(pending)? {
            if let Some((numbers, _)) = self.saved.get_mut(&row.subscription) {
                numbers.known(row.event_id, row.sequence);
            }
        }
        let lanes = rows.lanes(share).await;
        for (subscription, lane, headless) in self.sound(lanes)? {
            if headless {
                // Its first was settled, and the crash came before its next was taken to hand.
                self.lanes_to_advance.insert((subscription, lane.clone()));
            }
            self.saved_lanes.entry(subscription).or_default().push(lane);
        }
        while !self.look_who_waits().await? {}
        // Whoever has a place of its own wants to catch up from it.
        let behind = self
            .saved
            .iter()
            .filter(|(_, (_, places))| !places.at.is_empty());
        let behind: Vec<Uuid> = behind.map(|(id, _)| *id).collect();
        self.changes.take();
        let all = self.in_force.all();
        let partitions = self.partitions();
        for subscription in all.iter().filter(|it| share.holds(&it.tenant)) {
            if subscription.start.skipped.is_some() {
                self.skip(subscription.id);
            }
            // One that has never got anything begins at its start.
            let new = !self.saved.contains_key(&subscription.id);
            if new
                || behind.contains(&subscription.id)
                || !self.ahead(subscription, &partitions).is_empty()
            {
                self.queue(subscription);
            }
        }
        Ok(())
    }
}

//! Keys in order: what may follow once the first of a key is settled.

use tidings_store::PendingRow;
use uuid::Uuid;

use super::Dispatcher;
use super::queue::Queue;
use super::retry::MOST_OF_QUEUE;
use crate::clock::has_passed;
use crate::publish::refusal::Refusal;

/// A key behind which events wait though nothing of it is at hand is looked at this often: what it waited for may have
/// been dropped.
const LOOK_AT_LANE: std::time::Duration = std::time::Duration::from_secs(5);
/// So many keys are looked at so at once.
const LANES_AT_ONCE: usize = 64;
/// So many rows of a lane are read at once to find those that may go.
const LANE_PAGE: u32 = 128;

impl Dispatcher {
    /// Looks at keys behind which something may wait for nothing.
    pub(super) fn look_at_idle_lanes(&mut self, now: i64) {
        let mut found = Vec::new();
        for (id, queue) in &mut self.queues {
            let mut idle = Vec::new();
            for (name, lane) in &mut queue.lanes {
                if found.len() + idle.len() == LANES_AT_ONCE {
                    break;
                }
                let is_idle = lane.blocked && !lane.busy;
                if is_idle && has_passed(LOOK_AT_LANE, lane.looked_at_ms, now) {
                    lane.looked_at_ms = now;
                    idle.push((*id, name.clone()));
                }
            }
            found.extend(idle);
        }
        self.lanes_to_advance.extend(found);
    }

    /// Lets the next of each lane go whose first is settled and written.
    pub(super) async fn advance_lanes(&mut self) -> Result<(), Refusal> {
        if self.writing.is_some() || self.lanes_to_advance.is_empty() {
            return Ok(());
        }
        let mut lanes: Vec<_> = std::mem::take(&mut self.lanes_to_advance)
            .into_iter()
            .collect();
        while let Some((id, lane)) = lanes.pop() {
            if let Err(refusal) = self.advance(id, &lane).await {
                self.lanes_to_advance.extend(lanes);
                self.lanes_to_advance.insert((id, lane));
                return Err(refusal);
            }
        }
        Ok(())
    }

    async fn advance(&mut self, id: Uuid, lane: &str) -> Result<(), Refusal> {
        if self
            .queues
            .get(&id)
            .is_some_and(|queue| queue.works_on(lane))
        {
            return Ok(());
        }
        let mut next = self.unsettled_of(id, lane).await?.into_iter().peekable();
        let of_lane =
            |row: &PendingRow| row.subscription == id && row.lane.as_deref() == Some(lane);
        let unwritten = self.flush.pending.iter().any(of_lane);
        match next.peek() {
            // It has just failed: what was read is older, and it waits for its time.
            Some(row) if self.is_in_motion((id, row.sequence)) => {}
            Some(row) if row.state == "behind" => {
                let behind: Vec<_> = next.take_while(|row| row.state == "behind").collect();
                for row in behind {
                    let key = (id, row.sequence);
                    self.resume(row).await?;
                    // What comes behind one that cannot be had now waits with it.
                    if !self.at_hand.contains(&key) {
                        break;
                    }
                    let room = |queue: &Queue| {
                        let enough = queue.pending_at_hand() + 1 >= MOST_OF_QUEUE;
                        queue.has_room() && queue.works_on(lane) && !enough
                    };
                    if !self.queues.get(&id).is_some_and(room) {
                        break;
                    }
                }
            }
            // It waits for its time, or for somebody to release it.
            Some(_) => {}
            None if unwritten => {
                self.lanes_to_advance.insert((id, lane.to_owned()));
            }
            None => {
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.lanes.remove(lane);
                }
                self.line_up(id);
            }
        }
        Ok(())
    }

    /// The first rows of a lane that are not settled. What is settled since the last write is in the store yet.
    async fn unsettled_of(&mut self, id: Uuid, lane: &str) -> Result<Vec<PendingRow>, Refusal> {
        let mut after = 0;
        loop {
            let store = self.store.clone();
            let rows = store.deliveries();
            let found = rows.pending_of(id, Some(lane), after, LANE_PAGE).await;
            let found = self.sound(found)?;
            let full = found.len() == LANE_PAGE as usize;
            after = found.last().map_or(after, |row| row.sequence);
            let unsettled = found
                .into_iter()
                .filter(|row| !self.flush.settled.contains(&(id, row.sequence)));
            let unsettled: Vec<_> = unsettled.collect();
            if !unsettled.is_empty() || !full {
                return Ok(unsettled);
            }
        }
    }
}

//! Skip: what still waits of before a subscription was told to go on from elsewhere ends.

use std::collections::VecDeque;

use tidings_store::PendingRow;
use uuid::Uuid;

use super::record::PendingDetail;
use super::{Dispatcher, detail_of};
use crate::publish::refusal::Refusal;
use crate::subscription::Subscription;

/// So many rows are ended at once.
const PAGE: u32 = 500;
/// Why a delivery ended that its owner has skipped.
const SKIPPED: &str = "it was skipped: the subscription goes on from another place";

/// Subscriptions that have something to end, and the number that each has come to.
#[derive(Default)]
pub(super) struct Skipping(VecDeque<(Uuid, u64)>);

/// Whether a subscription's owner has skipped what such a delivery was routed for. What was asked to be sent again stays.
fn is_skipped(subscription: &Subscription, detail: &PendingDetail) -> bool {
    let skipped = subscription.start.skipped;
    let asked_for = detail.dead_letter.is_some() || detail.replay.is_some();
    !asked_for && skipped.is_some_and(|skipped| detail.revision < skipped)
}

impl Dispatcher {
    /// What has waited of one ends, all of it that does not go out at this moment.
    pub(super) fn skip(&mut self, id: Uuid) {
        self.put_back(id);
        self.skipping.0.retain(|(other, _)| *other != id);
        self.skipping.0.push_back((id, 0));
    }

    /// Ends a page of what was skipped.
    pub(super) async fn end_skipped(&mut self) -> Result<(), Refusal> {
        // What is being written would be missing from what is read.
        if self.writing.is_some() {
            return Ok(());
        }
        let Some((id, after)) = self.skipping.0.pop_front() else {
            return Ok(());
        };
        let Some(subscription) = self.in_force.get(id) else {
            return Ok(());
        };
        let store = self.store.clone();
        let page = store.deliveries().pending_of(id, None, after, PAGE).await;
        let page = match self.sound(page) {
            Ok(page) => page,
            Err(refusal) => {
                self.skipping.0.push_front((id, after));
                return Err(refusal);
            }
        };
        if page.len() == PAGE as usize {
            let last = page.last().map_or(after, |row| row.sequence);
            self.skipping.0.push_back((id, last));
        }
        self.read_to_end &= self.skipping.0.is_empty();
        let in_motion = self.in_motion_of(id);
        let all = std::mem::take(&mut self.flush.pending).into_iter();
        let (of_it, others): (Vec<_>, Vec<_>) = all.partition(|row| row.subscription == id);
        self.flush.pending = others;
        for row in of_it {
            if !self.ends_skipped(&subscription, &row) {
                self.flush.pending.push(row);
            }
        }
        for row in page {
            let is_elsewhere = self.at_hand.contains(&(id, row.sequence));
            if !is_elsewhere && !in_motion.contains(&row.sequence) {
                self.ends_skipped(&subscription, &row);
            }
        }
        Ok(())
    }

    /// Ends a pending delivery if it was skipped.
    pub(super) fn ends_skipped(&mut self, subscription: &Subscription, row: &PendingRow) -> bool {
        if !detail_of(row).is_ok_and(|detail| is_skipped(subscription, &detail)) {
            return false;
        }
        self.end_without_attempt(row, SKIPPED, self.clock.now_ms());
        self.flush.settled.push((row.subscription, row.sequence));
        if let Some(lane) = &row.lane {
            let lane = (row.subscription, lane.clone());
            self.lanes_to_advance.insert(lane);
        }
        true
    }
}

//! Dead letters that are sent again: those that a plan fits, and what becomes of them where nobody is there any more.

use std::collections::{HashMap, HashSet};

use tidings_event::TenantId;
use tidings_store::DeadLetterSummary;
use uuid::Uuid;

use super::Running;
use crate::dead_letters;
use crate::deliver::record::{AttemptDetail, PendingDetail};
use crate::deliver::{Dispatcher, detail_of};
use crate::publish::refusal::Refusal;
use crate::replays::DeadLetters;

/// So many rows of a deleted subscription are read at once.
const GONE_PAGE: u32 = 500;
/// So many letters are looked at in one turn beyond a page of which none can be sent: those take nothing of a rate, and a
/// page of a slow replay is short.
const FURTHER: usize = 500;

impl Dispatcher {
    pub(super) async fn feed_letters(
        &mut self,
        running: &mut Running,
        letters: &DeadLetters,
        room: usize,
    ) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        let tenant = running.row.tenant.clone();
        let mut found = self
            .letters_after(&tenant, letters, running.place.after, room)
            .await?;
        let mut ended = found.len() < room;
        let none = found.iter().all(|it| self.is_gone(it.subscription));
        if let Some(last) = found.last().filter(|_| none && !ended) {
            let further = self.letters_after(&tenant, letters, Some(last.id), FURTHER);
            let mut further = further.await?;
            ended = further.len() < FURTHER;
            // What may be sent is read up to as many as there is room for.
            let sendable = further.iter().enumerate();
            let mut sendable = sendable.filter(|(_, it)| !self.is_gone(it.subscription));
            if let Some((beyond, _)) = sendable.nth(room) {
                ended = false;
                further.truncate(beyond);
            }
            found.append(&mut further);
        }
        let mut last_attempts = self.last_attempts(&tenant, &found).await?;
        // From here on nothing fails: the place moves past a page only together with all that was found on it.
        running.place.exhausted = ended;
        if let Some(last) = found.last() {
            running.place.after = Some(last.id);
        }
        let (id, mut sent) = (running.row.id, 0);
        for letter in found {
            if self.is_gone(letter.subscription) {
                // It stays open.
                running.place.skipped += 1;
                continue;
            }
            let key = (letter.subscription, letter.sequence);
            if self.at_hand.contains(&key) || self.is_in_motion(key) {
                // Another letter of the same delivery is on its way; this one stays open.
                continue;
            }
            sent += 1;
            let at_ms = running.next_at(now);
            let last = last_attempts.remove(&(key.0, key.1, letter.event_id));
            let row = dead_letters::pending(&letter, last, (now, at_ms), Some(id));
            self.flush.pending.push(row);
            self.flush.dead_states.push((letter.id, "replaying"));
        }
        running.sent += sent;
        let step = self.flush.replay(id, now);
        step.sent += sent;
        step.place = Some(running.place.write());
        self.read_to_end &= running.place.exhausted || running.room(now) == 0;
        Ok(())
    }

    /// So many of a plan's letters after one.
    async fn letters_after(
        &mut self,
        tenant: &TenantId,
        letters: &DeadLetters,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<DeadLetterSummary>, Refusal> {
        let query = letters.query(after, u32::try_from(limit).unwrap_or(u32::MAX));
        let store = self.store.clone();
        let found = store.dead_letters().summaries(tenant, &query).await;
        self.sound(found)
    }

    /// What was written down of the last attempt for each of some dead letters, by subscription, number and event, as long
    /// as that is kept. One that cannot be read is told of, and its letter goes out without it.
    async fn last_attempts(
        &mut self,
        tenant: &TenantId,
        letters: &[DeadLetterSummary],
    ) -> Result<HashMap<(Uuid, u64, Uuid), AttemptDetail>, Refusal> {
        let store = self.store.clone();
        let rows = store.deliveries();
        let of = dead_letters::deliveries_of(letters);
        let found = self.sound(rows.last_attempts(tenant, &of).await)?;
        let mut details = HashMap::with_capacity(found.len());
        for row in found {
            match dead_letters::attempt_detail(&row) {
                Ok(detail) => {
                    details.insert((row.subscription, row.sequence, row.event_id), detail);
                }
                Err(refusal) => self.tell_damaged(&refusal.detail),
            }
        }
        Ok(details)
    }

    /// What was to be sent again to subscriptions that are deleted is given up, and its dead letters are open again.
    pub(super) async fn give_up_gone(&mut self) -> Result<(), Refusal> {
        // What is being written would be missing from what is read.
        if self.writing.is_some() {
            return Ok(());
        }
        // One page of one at a time: it may have been a large one, and others wait.
        let Some(id) = self.replays.gone.pop_front() else {
            return Ok(());
        };
        let store = self.store.clone();
        let page = store.deliveries().pending_of(id, None, 0, GONE_PAGE).await;
        let page = match self.sound(page) {
            Ok(page) => page,
            Err(refusal) => {
                self.replays.gone.push_front(id);
                return Err(refusal);
            }
        };
        let in_motion = self.flush.pending.iter().any(|row| row.subscription == id);
        if page.is_empty() && !in_motion {
            self.flush.forgotten.push(id);
            return Ok(());
        }
        let known: HashSet<u64> = self.flush.settled_of(id).collect();
        for row in page.iter().filter(|row| !known.contains(&row.sequence)) {
            // One that cannot be read goes with the others.
            let detail = detail_of(row).unwrap_or_default();
            if detail.dead_letter.is_some() {
                self.give_up_letter(&detail);
            }
            self.flush.settled.push((id, row.sequence));
        }
        self.replays.gone.push_back(id);
        Ok(())
    }

    /// A dead letter that had been made ready when its subscription went.
    pub(super) fn give_up_letter(&mut self, detail: &PendingDetail) {
        if let Some(dead) = detail.dead_letter {
            self.flush.dead_states.push((dead, "open"));
        }
        let running = detail
            .replay
            .and_then(|it| self.replays.running.get_mut(&it.id));
        if let Some(running) = running {
            running.place.abandoned += 1;
            let step = self.flush.replay(running.row.id, self.clock.now_ms());
            step.place = Some(running.place.write());
        }
        self.count_replayed(detail.replay, false);
    }
}

//! Keys of ordered subscriptions that wait for somebody: released in order, or without their head. And what a
//! subscription was to get from a number on, for a receiver that has missed some.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_bus::{Bus, ReadError};
use tidings_event::Event;
use tidings_store::{DeadLetterRow, Flush, PendingRow, Store, storable};
use uuid::Uuid;

use crate::access::Caller;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::deliver::record;
use crate::deliver::{detail_of, let_go};
use crate::envelope;
use crate::events::{Events, Placed, all_open_to, unreadable};
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscriptions::{Subscriptions, administered};

/// Why a delivery was given up that its owner has dropped.
const DROPPED: &str = "it was dropped from its parked key";

/// A key that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedKey {
    /// The key.
    pub key: String,
    /// The delivery that its attempts were used up for.
    pub head: PendingRow,
    /// How many wait behind it.
    pub behind: u64,
}

/// The room.
#[derive(Clone)]
pub struct Parked {
    store: Store,
    bus: Arc<dyn Bus>,
    subscriptions: Arc<Subscriptions>,
    clock: Clock,
}

impl Parked {
    pub(crate) fn new(
        store: Store,
        bus: Arc<dyn Bus>,
        subscriptions: Arc<Subscriptions>,
        clock: Clock,
    ) -> Self {
        Self {
            store,
            bus,
            subscriptions,
            clock,
        }
    }

    /// The parked keys of one of the tenant's subscriptions whose heads come after a sequence number, in the order of those;
    /// and the number to go on from, where there may be more. A page may have fewer than were asked for: the events of
    /// other heads are not open to the caller.
    pub async fn list(
        &self,
        caller: &Caller,
        events: &Events,
        id: Uuid,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<ParkedKey>, Option<u64>), Refusal> {
        self.subscriptions.get(caller, id)?;
        let rows = self.store.deliveries();
        let heads = sound(rows.parked(id, after, limit).await)?;
        let last = heads.last().filter(|_| heads.len() == limit as usize);
        let next = last.map(|last| last.sequence);
        let heads = self.open_to(caller, events, heads).await?;
        let lanes: Vec<&str> = heads.iter().filter_map(|it| it.lane.as_deref()).collect();
        let behind = rows.behind(id, &lanes).await.map_err(store_fault)?;
        let parked = heads.into_iter().filter_map(|head| {
            let key = head.lane.clone()?;
            let behind = behind.get(&key).copied().unwrap_or(0);
            Some(ParkedKey { key, head, behind })
        });
        Ok((parked.collect(), next))
    }

    /// Tries the head of a parked key again, from the beginning of its schedule; the others follow in order.
    pub async fn release(&self, caller: &Caller, id: Uuid, key: &str) -> Result<(), Refusal> {
        let mut rows = self.parked(caller, id, key).await?;
        let head = rows.remove(0);
        let mut detail = detail_of(&head)?;
        detail.base = head.attempts;
        detail.since_ms = self.clock.now_ms();
        let which = (id, head.sequence);
        let mut flush = Flush::default();
        flush
            .pending
            .push(let_go(head, detail, self.clock.now_ms()));
        self.go_on(which, &flush).await
    }

    /// Gives the head of a parked key up, as a dead letter; the others follow in order.
    pub async fn drop_head(&self, caller: &Caller, id: Uuid, key: &str) -> Result<(), Refusal> {
        let mut rows = self.parked(caller, id, key).await?;
        let head = rows.remove(0);
        let which = (id, head.sequence);
        let mut flush = Flush::default();
        flush.settled.push(which);
        if let Some(event) = self.event_of(&head).await? {
            flush.dead.push(DeadLetterRow {
                id: self.clock.new_id(),
                tenant: head.tenant,
                subscription: id,
                sequence: head.sequence,
                event_id: head.event_id,
                event_type: event.event_type.clone(),
                event: String::from_utf8(event.to_structured()).expect("JSON is UTF-8"),
                attempts: head.attempts,
                last_error: DROPPED.into(),
                created_at_ms: self.clock.now_ms(),
                state: "open".into(),
            });
        } else {
            // Without its event there is no dead letter; its attempts tell of it.
            let detail = detail_of(&head)?;
            let attempt = record::without_attempt(&head, detail, DROPPED, self.clock.now_ms());
            flush.attempts.push(attempt);
        }
        if let Some(next) = rows.into_iter().next() {
            let detail = detail_of(&next)?;
            flush
                .pending
                .push(let_go(next, detail, self.clock.now_ms()));
        }
        self.go_on(which, &flush).await
    }

    /// What a subscription was to get after a sequence number, as far as it was tried or waits; and the number to go on
    /// from, where there may be more.
    pub async fn missed(
        &self,
        caller: &Caller,
        events: &Events,
        id: Uuid,
        after: u64,
        limit: u32,
    ) -> Result<(Vec<(u64, Placed)>, Option<u64>), Refusal> {
        self.subscriptions.get(caller, id)?;
        let rows = self.store.deliveries();
        // Several attempts are of one delivery, so that some more rows are read than deliveries answered.
        let most = limit.saturating_mul(4);
        let tried = rows.attempts_of(id, (after, u32::MAX), most).await;
        let tried = sound(tried)?;
        let waiting = rows.pending_of(id, None, after, limit).await;
        let waiting = sound(waiting)?;
        // Behind the last that was read of either there may be others of its kind.
        let tried_to = tried.last().filter(|_| tried.len() == most as usize);
        let waits_to = waiting.last().filter(|_| waiting.len() == limit as usize);
        let ends = [
            tried_to.map(|row| row.sequence),
            waits_to.map(|row| row.sequence),
        ];
        let known_to = ends.into_iter().flatten().min();
        let tried = tried.into_iter().map(|row| (row.sequence, row.event_id));
        let waiting = waiting.into_iter().map(|row| (row.sequence, row.event_id));
        let mut all: BTreeMap<u64, Uuid> = waiting.chain(tried).collect();
        all.retain(|sequence, _| known_to.is_none_or(|last| *sequence <= last));
        let more = known_to.is_some() || all.len() > limit as usize;
        let mut found = Vec::new();
        let mut next = None;
        for (sequence, event_id) in all.into_iter().take(limit as usize) {
            next = Some(sequence).filter(|_| more);
            match events.get(caller, event_id).await {
                Ok(event) => found.push((sequence, event)),
                // The log no longer holds it.
                Err(refusal) if refusal.code == tidings_event::Code::NotFound => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok((found, next))
    }

    /// The heads whose events the caller may see, which the events themselves say: a key is made of what is in one.
    async fn open_to(
        &self,
        caller: &Caller,
        events: &Events,
        heads: Vec<PendingRow>,
    ) -> Result<Vec<PendingRow>, Refusal> {
        if all_open_to(caller) {
            return Ok(heads);
        }
        let mut open = Vec::new();
        for head in heads {
            let event = self.event_of(&head).await?;
            if event.is_some_and(|event| events.open_to(caller, &event)) {
                open.push(head);
            }
        }
        Ok(open)
    }

    /// The event of a head; none where the log has it no more, or not as it was written.
    async fn event_of(&self, head: &PendingRow) -> Result<Option<Event>, Refusal> {
        let found = self.bus.find(head.tenant.clone(), head.event_id).await;
        let found = match found {
            Err(error @ ReadError::Damaged { .. }) => {
                tracing::error!(%error, "a parked event cannot be read");
                None
            }
            found => found.map_err(unreadable)?,
        };
        Ok(found.as_ref().and_then(envelope::readable))
    }

    /// The deliveries of a key that is parked, its head first.
    async fn parked(
        &self,
        caller: &Caller,
        id: Uuid,
        key: &str,
    ) -> Result<Vec<PendingRow>, Refusal> {
        let tenant = administered(caller)?;
        self.subscriptions.get(caller, id)?;
        let key = storable(key);
        let rows = self
            .store
            .deliveries()
            .pending_of(id, Some(&key), 0, 2)
            .await;
        let rows = sound(rows)?;
        let parked = rows
            .first()
            .is_some_and(|head| head.state == "parked" && head.tenant == tenant);
        if parked {
            Ok(rows)
        } else {
            Err(Refusal::not_found("parked key"))
        }
    }

    /// Writes what becomes of a key's head, for the first who asks: it stands parked no more then. The dispatcher finds what
    /// is due.
    async fn go_on(&self, head: (Uuid, u64), flush: &Flush) -> Result<(), Refusal> {
        let written = self.store.deliveries().flush_of_parked(head, flush).await;
        if written.map_err(store_fault)? {
            return Ok(());
        }
        Err(Refusal::not_found("parked key"))
    }
}

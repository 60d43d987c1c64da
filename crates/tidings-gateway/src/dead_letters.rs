//! Deliveries that were given up: seen, sent again and removed by their tenant.

use std::sync::Arc;

use tidings_event::{Event, TenantId, cloudevents};
use tidings_store::{AttemptRow, Flush, PendingRow, Store};
pub use tidings_store::{DeadLetterQuery, DeadLetterRow, DeadLetterSummary, wrong_types};
use uuid::Uuid;

use crate::access::Caller;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::deliver::record::{AttemptDetail, PendingDetail, Replayed};
use crate::events::{Events, all_open_to};
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscriptions::{InForce, administered, reader};

/// So many events are read at once to see to whom they are open.
const EVENTS_AT_ONCE: u32 = 16;
/// A page ends when so many bytes of events were read for it.
const EVENTS_OF_PAGE: usize = 16 << 20;

/// The room.
#[derive(Clone)]
pub struct DeadLetters {
    store: Store,
    events: Events,
    in_force: Arc<InForce>,
    clock: Clock,
}

impl DeadLetters {
    pub(crate) fn new(store: Store, events: Events, in_force: Arc<InForce>, clock: Clock) -> Self {
        Self {
            store,
            events,
            in_force,
            clock,
        }
    }

    /// The tenant's that the caller may see, oldest first; and where the next page begins, if there may be one. A page may
    /// have fewer than were asked for: others are of workspaces that are not open to the caller.
    pub async fn list(
        &self,
        caller: &Caller,
        query: &DeadLetterQuery,
    ) -> Result<(Vec<DeadLetterSummary>, Option<Uuid>), Refusal> {
        let tenant = reader(caller)?;
        if !all_open_to(caller) {
            return self.list_open(caller, &tenant, query.clone()).await;
        }
        let letters = self.store.dead_letters().summaries(&tenant, query).await;
        let letters = sound(letters)?;
        let full = letters.len() == query.limit as usize;
        let next = letters.last().filter(|_| full).map(|last| last.id);
        Ok((letters, next))
    }

    /// Those whose events are open to the caller, which the events themselves say.
    async fn list_open(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        mut query: DeadLetterQuery,
    ) -> Result<(Vec<DeadLetterSummary>, Option<Uuid>), Refusal> {
        let (mut open, mut left, mut bytes) = (Vec::new(), query.limit, 0);
        loop {
            query.limit = EVENTS_AT_ONCE.min(left);
            left -= query.limit;
            let letters = self.store.dead_letters().list(tenant, &query).await;
            let letters = sound(letters)?;
            let full = letters.len() == query.limit as usize;
            for letter in letters {
                query.after = Some(letter.id);
                bytes += letter.event.len();
                if self.is_open_to(caller, &letter) {
                    open.push(letter.into());
                }
            }
            if !full {
                return Ok((open, None));
            }
            if left == 0 || bytes >= EVENTS_OF_PAGE {
                return Ok((open, query.after));
            }
        }
    }

    /// One of the tenant's.
    pub async fn get(&self, caller: &Caller, id: Uuid) -> Result<DeadLetterRow, Refusal> {
        let letter = self.owned(&reader(caller)?, id).await?;
        if self.is_open_to(caller, &letter) {
            return Ok(letter);
        }
        Err(Refusal::not_found("dead letter"))
    }

    /// It shows the event, which may be of a workspace that is not open to everybody.
    fn is_open_to(&self, caller: &Caller, letter: &DeadLetterRow) -> bool {
        event_of(letter).is_some_and(|event| self.events.open_to(caller, &event))
    }

    /// Sends one again, now, through the ordinary delivery and under its `webhook-id`. Success closes it. Answers the state
    /// that it is in then: one that is closed stays so.
    pub async fn replay(&self, caller: &Caller, id: Uuid) -> Result<String, Refusal> {
        let letter = self.owned(&administered(caller)?, id).await?;
        self.again(&letter.into()).await
    }

    /// Removes one.
    pub async fn delete(&self, caller: &Caller, id: Uuid) -> Result<(), Refusal> {
        self.delete_of(&administered(caller)?, id).await
    }

    pub(crate) async fn delete_of(&self, tenant: &TenantId, id: Uuid) -> Result<(), Refusal> {
        let removed = self.store.dead_letters().delete(tenant, id).await;
        if removed.map_err(store_fault)? {
            return Ok(());
        }
        Err(Refusal::not_found("dead letter"))
    }

    pub(crate) async fn owned(
        &self,
        tenant: &TenantId,
        id: Uuid,
    ) -> Result<DeadLetterRow, Refusal> {
        let letter = self.store.dead_letters().get(tenant, id).await;
        letter
            .map_err(store_fault)?
            .ok_or_else(|| Refusal::not_found("dead letter"))
    }

    /// One transaction: it is pending again, and replaying. The dispatcher finds it.
    pub(crate) async fn again(&self, letter: &DeadLetterSummary) -> Result<String, Refusal> {
        if letter.state != "open" {
            return Ok(letter.state.clone());
        }
        if self.in_force.get(letter.subscription).is_none() {
            let detail = "The subscription that it was for is gone; nothing can be sent to it.";
            return Err(Refusal::invalid("subscription", detail));
        }
        let now = self.clock.now_ms();
        let last = last_attempt(&self.store, letter).await?;
        let mut flush = Flush::default();
        flush.pending.push(pending(letter, last, (now, now), None));
        flush.dead_states.push((letter.id, "replaying"));
        let written = self.store.deliveries().flush(&flush).await;
        written.map_err(store_fault)?;
        Ok("replaying".to_owned())
    }
}

/// What was written down of the last attempt for a dead letter, as long as that is kept. Where it cannot be read, the letter
/// goes out without it.
async fn last_attempt(
    store: &Store,
    letter: &DeadLetterSummary,
) -> Result<Option<AttemptDetail>, Refusal> {
    let rows = store.deliveries();
    let of = deliveries_of(std::slice::from_ref(letter));
    let found = sound(rows.last_attempts(&letter.tenant, &of).await)?;
    let last = found.first().map(attempt_detail).transpose();
    Ok(last.unwrap_or_else(|refusal| {
        tracing::error!(detail = refusal.detail, "a damaged row is passed over");
        None
    }))
}

/// The deliveries that dead letters are of: subscription, number and event of each.
pub(crate) fn deliveries_of(letters: &[DeadLetterSummary]) -> Vec<(Uuid, u64, Uuid)> {
    let of = |it: &DeadLetterSummary| (it.subscription, it.sequence, it.event_id);
    letters.iter().map(of).collect()
}

/// What an attempt's row has besides its columns.
pub(crate) fn attempt_detail(row: &AttemptRow) -> Result<AttemptDetail, Refusal> {
    let detail = serde_json::from_str(&row.detail);
    detail.map_err(|error| Refusal::fault("Reading an attempt", &error))
}

/// A dead letter's delivery, to be tried again at a time from the beginning of its schedule; routed as it was.
pub(crate) fn pending(
    letter: &DeadLetterSummary,
    last: Option<AttemptDetail>,
    (now_ms, at_ms): (i64, i64),
    replay: Option<Uuid>,
) -> PendingRow {
    let (revision, ledger) = last.map(|it| (it.revision, it.ledger)).unwrap_or_default();
    let detail = PendingDetail {
        revision,
        ledger,
        base: letter.attempts,
        since_ms: now_ms,
        left_ms: now_ms,
        dead_letter: Some(letter.id),
        replay: replay.map(|id| Replayed {
            id,
            of: None,
            number: None,
            shadow: false,
        }),
        ..PendingDetail::default()
    };
    PendingRow {
        subscription: letter.subscription,
        sequence: letter.sequence,
        tenant: letter.tenant.clone(),
        event_id: letter.event_id,
        lane: None,
        attempts: letter.attempts,
        state: "waiting".into(),
        next_at_ms: at_ms,
        detail: serde_json::to_string(&detail).expect("plain members become JSON"),
    }
}

/// The event that a dead letter keeps, as it was.
pub(crate) fn event_of(letter: &DeadLetterRow) -> Option<Event> {
    let incoming = cloudevents::recorded(&letter.event).ok()?;
    let time = incoming.time?;
    Some(Event {
        event_id: letter.event_id,
        id: incoming.id,
        source: incoming.source,
        event_type: letter.event_type.clone(),
        tenant: letter.tenant.clone(),
        schema_version: incoming.schema_version.unwrap_or_default().parse().ok()?,
        received_at_ms: tidings_bus::time_of(letter.event_id)?,
        time,
        traceparent: incoming.traceparent,
        subject: incoming.subject,
        data_schema: incoming.data_schema,
        data_content_type: incoming.data_content_type,
        extensions: incoming.extensions,
        data: incoming.data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::user;
    use crate::in_memory;

    const NOW: i64 = 1_700_000_000_000;

    #[tokio::test]
    async fn a_page_for_whom_not_everything_is_open_ends_by_the_bytes_that_were_read() {
        let clock = Clock::manual(NOW);
        let store = Store::in_memory().await.unwrap();
        let bus = std::sync::Arc::new(in_memory::bus(&clock));
        let parts = in_memory::parts_on(bus, store.clone(), &clock).await;
        let gateway = crate::Gateway::open(parts).await.unwrap();
        let dead = (1..=20).map(|id| DeadLetterRow {
            id: Uuid::from_u128(id),
            tenant: "acme".parse().unwrap(),
            subscription: Uuid::from_u128(1),
            sequence: 1,
            event_id: Uuid::from_u128(id),
            event_type: "crm.a.b".parse().unwrap(),
            event: "x".repeat(1 << 20),
            attempts: 1,
            last_error: "no".to_owned(),
            created_at_ms: NOW,
            state: "open".to_owned(),
        });
        let flush = Flush {
            dead: dead.collect(),
            ..Flush::default()
        };
        store.deliveries().flush(&flush).await.unwrap();
        let pages = async |admin: bool| {
            let caller = user("acme", "ada", admin);
            let (mut pages, mut after) = (Vec::new(), None);
            loop {
                let query = DeadLetterQuery {
                    after,
                    limit: 100,
                    ..DeadLetterQuery::default()
                };
                let (page, next) = gateway.dead_letters.list(&caller, &query).await.unwrap();
                pages.push((page.len(), next.map(|id| id.as_u128())));
                let Some(next) = next else {
                    return pages;
                };
                after = Some(next);
            }
        };
        assert_eq!(pages(true).await, [(20, None)]);
        // What cannot be read as an event is open to nobody who is not to see everything.
        assert_eq!(pages(false).await, [(0, Some(16)), (0, None)]);
    }
}

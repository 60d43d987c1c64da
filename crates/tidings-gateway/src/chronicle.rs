//! What became of an event: each attempt, what has still to be delivered, and for every subscription that wants it and has
//! not got it, why. All of it is read from the store; what only a dispatcher knows is told where it runs in this process.

mod reason;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidings_event::TenantId;
pub use tidings_store::AttemptRow;
use tidings_store::{CursorRow, Found, PendingRow, ProgressRow, Store};
use uuid::Uuid;

pub use self::reason::{Reason, Why};
use self::reason::{Way, Within};
use crate::access::Caller;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::deliver::record::{Ledger, PendingDetail, Replayed};
use crate::deliver::{Places, Standstill, Standstills, accounted, detail_of, read_to};
use crate::events::Placed;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::{State, Subscription};
use crate::subscriptions::{Judged, Subscriptions, reader};

/// What became of an event.
#[derive(Debug)]
pub struct Course {
    /// Every attempt: by subscription, and in the order of their numbers.
    pub attempts: Vec<AttemptRow>,
    /// What has still to be delivered.
    pub waits: Vec<Waits>,
    /// Each subscription that the event may concern.
    pub routed: Vec<Routed>,
}

/// A delivery that has still to be made.
#[derive(Debug)]
pub struct Waits {
    /// As it is kept.
    pub row: PendingRow,
    /// The subscription's revision that routed the event.
    pub revision: u32,
    /// The replay that it is one of.
    pub replay: Option<Replayed>,
    /// Where the time went until now.
    pub ledger: Ledger,
    /// What it waits for.
    pub reason: Reason,
    /// When it is tried, in ms since 1970, where time is what it waits for.
    pub next_at_ms: Option<i64>,
}

/// A subscription, whether its filter wants the event, and why it has not got it where it does.
#[derive(Debug)]
pub struct Routed {
    /// Which, and the first clause that is not met.
    pub judged: Judged,
    /// Nothing where it is delivered, or not wanted.
    pub reason: Option<Reason>,
}

/// The room.
#[derive(Clone)]
pub struct Chronicle {
    store: Store,
    subscriptions: Arc<Subscriptions>,
    standstills: Standstills,
    attempts_retention: Duration,
    clock: Clock,
}

impl Chronicle {
    pub(crate) fn new(
        store: Store,
        subscriptions: Arc<Subscriptions>,
        standstills: Standstills,
        attempts_retention: Duration,
        clock: Clock,
    ) -> Self {
        Self {
            store,
            subscriptions,
            standstills,
            attempts_retention,
            clock,
        }
    }

    /// What became of an event that the caller may see.
    pub async fn of(&self, caller: &Caller, placed: &Placed) -> Result<Course, Refusal> {
        let tenant = reader(caller)?;
        let judged = self.subscriptions.judge(caller, &placed.event)?;
        let wanting = judged.iter().filter(|(_, verdict)| verdict.is_ok());
        let wanting: Vec<Uuid> = wanting.map(|(it, _)| it.id).collect();
        let rows = self.store.deliveries();
        // Before the rows: where a delivery is settled between the two, its row is seen.
        let cursors = rows.cursors_of(&placed.topic, placed.partition).await;
        let progress = rows.progress_of(&wanting).await;
        let reached = Reached::of(&tenant, cursors.map_err(store_fault)?, progress)?;
        // Before the attempts: what is given up between the two is seen by its attempt.
        let pending = sound(rows.pending_of_event(&tenant, placed.event.event_id).await)?;
        let attempts = rows.attempts_of_event(&tenant, placed.event.event_id).await;
        let attempts = sound(attempts)?;
        let now = self.clock.now_ms();
        let owed = pending.iter().map(|row| row.subscription);
        let asked: Vec<Uuid> = wanting.iter().copied().chain(owed).collect();
        let held = self.standstills.of(&asked, now);
        let mut waits = Vec::with_capacity(pending.len());
        for row in pending {
            let held = held.get(&row.subscription).copied();
            waits.push(self.waits(&tenant, row, held, now).await?);
        }
        let kept = i64::try_from(self.attempts_retention.as_millis()).unwrap_or(i64::MAX);
        let routed = judged.into_iter().map(|judged| {
            let (subscription, verdict) = &judged;
            let id = subscription.id;
            let tried = attempts.iter().rfind(|it| it.subscription == id);
            let reason = match (waits.iter().find(|it| it.row.subscription == id), tried) {
                _ if verdict.is_err() => None,
                (Some(waits), _) => Some(waits.reason.clone()),
                (None, Some(attempt)) => reason::of_attempt(attempt),
                (None, None) => Some(reason::of_none(&Way {
                    subscription,
                    placed,
                    reached: reached.place(subscription, placed),
                    held: held.get(&id).copied(),
                    kept_since_ms: now.saturating_sub(kept),
                })),
            };
            Routed { judged, reason }
        });
        Ok(Course {
            routed: routed.collect(),
            attempts,
            waits,
        })
    }

    /// The events that an event of the tenant has caused, oldest first.
    pub async fn caused_by(&self, caller: &Caller, event_id: Uuid) -> Result<Vec<Uuid>, Refusal> {
        let tenant = reader(caller)?;
        let rows = self.store.causes().of(&tenant, event_id).await;
        let rows = rows.map_err(store_fault)?;
        Ok(rows.into_iter().map(|row| row.event_id).collect())
    }

    async fn waits(
        &self,
        tenant: &TenantId,
        row: PendingRow,
        held: Option<Standstill>,
        now: i64,
    ) -> Result<Waits, Refusal> {
        let detail = detail_of(&row)?;
        let within = self.within(tenant, &row, &detail).await?;
        let reason = reason::of_pending(&row, &detail, &within, held, now);
        // Nothing else that it may wait for has a time of its own.
        let timed = matches!(reason.why, Why::Retry | Why::Due);
        Ok(Waits {
            revision: detail.revision,
            replay: detail.replay,
            ledger: accounted(&row, &detail, None, now),
            reason,
            next_at_ms: timed.then_some(row.next_at_ms),
            row,
        })
    }

    /// What decides whether a pending delivery goes at all, and what goes before it.
    async fn within(
        &self,
        tenant: &TenantId,
        row: &PendingRow,
        detail: &PendingDetail,
    ) -> Result<Within, Refusal> {
        let of_history = detail
            .replay
            .and_then(|replay| Some((replay.id, replay.of?)));
        if let Some((replay, _)) = of_history {
            let replay = self.store.replays().get(tenant, replay).await;
            let runs = |state: &str| matches!(state, "planned" | "running");
            if !replay
                .map_err(store_fault)?
                .is_some_and(|it| runs(&it.state))
            {
                return Ok(Within::StoppedReplay);
            }
        }
        let id = of_history.map_or(row.subscription, |(_, of)| of);
        let in_force = self.subscriptions.in_force();
        let Some(subscription) = in_force.get(id) else {
            let kept = in_force.is_unreadable(id);
            return Ok(if kept { Within::Unread } else { Within::Nobody });
        };
        let Some(lane) = row.lane.as_deref().filter(|_| row.state == "behind") else {
            return Ok(Within::Force(subscription));
        };
        let rows = self.store.deliveries();
        let first = sound(rows.pending_of(row.subscription, Some(lane), 0, 1).await)?;
        let before = first.into_iter().find(|it| it.sequence < row.sequence);
        Ok(match before {
            Some(before) if subscription.state == State::Active => {
                Within::Lane(subscription, before)
            }
            _ => Within::Force(subscription),
        })
    }
}

/// How far subscriptions have come in one partition.
struct Reached {
    /// The reading that all share; `None` where what is kept of it is damaged.
    shared: Option<u64>,
    own: HashMap<Uuid, Places>,
    damaged: HashSet<Uuid>,
}

impl Reached {
    fn of(
        tenant: &TenantId,
        cursors: Found<CursorRow>,
        progress: Result<Found<ProgressRow>, tidings_store::StoreError>,
    ) -> Result<Self, Refusal> {
        let progress = progress.map_err(store_fault)?;
        let damaged = progress.damaged.iter().filter_map(|it| it.row());
        let damaged = damaged.filter_map(|it| it.parse().ok()).collect();
        let shared = read_to(cursors.rows.iter(), tenant).unwrap_or(0);
        let shared = cursors.damaged.is_empty().then_some(shared);
        let read = |row: ProgressRow| {
            let places = serde_json::from_str(&row.places);
            let places =
                places.map_err(|error| Refusal::fault("Reading a subscription's place", &error))?;
            Ok((row.subscription, places))
        };
        Ok(Self {
            shared,
            own: progress
                .rows
                .into_iter()
                .map(read)
                .collect::<Result<_, Refusal>>()?,
            damaged,
        })
    }

    /// The next offset that a subscription gets; `None` where that is damaged.
    fn place(&self, subscription: &Subscription, placed: &Placed) -> Option<u64> {
        if self.damaged.contains(&subscription.id) {
            return None;
        }
        let own = self.own.get(&subscription.id);
        // What was moved since has not begun to read there.
        match own.filter(|places| places.start == subscription.start.number) {
            Some(own) => own.next_in(&placed.topic, placed.partition).or(self.shared),
            None => Some(subscription.start.place_in(&placed.topic)),
        }
    }
}

//! What became of an event: each attempt, what has still to be delivered, and for every subscription that wants it and has
//! not got it, why. All of it is read from the store; what only a dispatcher knows is told where it runs in this process.

mod kept;
mod reached;
mod reason;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidings_event::TenantId;
pub use tidings_store::AttemptRow;
use tidings_store::{PendingRow, Store};
use uuid::Uuid;

use self::kept::{Kept, Tried};
use self::reached::Reached;
pub use self::reason::{Reason, Why};
use self::reason::{Way, Within};
use crate::access::Caller;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::deliver::record::{AttemptDetail, Ledger, PendingDetail, Replayed};
use crate::deliver::{Standstill, Standstills, accounted};
use crate::events::Placed;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::State;
use crate::subscriptions::{Judged, Subscriptions, reader};

/// What became of an event.
#[derive(Debug)]
pub struct Course {
    /// Every attempt that can be read, with what it came to: by subscription, and in the order of their numbers.
    pub attempts: Vec<(AttemptRow, AttemptDetail)>,
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
    /// Whether anything is kept of a delivery to it: its own, or one of a replay's that does not go elsewhere.
    pub is_kept: bool,
    /// Whether any of those was taken.
    pub delivered: bool,
    /// That of the one which says most of it.
    pub state: Option<String>,
    /// Nothing where it has got it and nothing more is to come, or does not want it.
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
        let kept = Kept::of(&self.store, &tenant, placed.event.event_id).await?;
        let around = self.around(&tenant, &kept.pending).await?;
        let now = self.clock.now_ms();
        let owed = kept.pending.iter().map(|(row, _)| row.subscription);
        let asked: Vec<Uuid> = wanting.into_iter().chain(owed).collect();
        let held = self.standstills.of(&asked, now);
        let waits = kept.pending.iter().map(|(row, detail)| {
            let held = held.get(&row.subscription).copied();
            self.waits(row, detail, &around, held, now)
        });
        let waits: Vec<Waits> = waits.collect();
        let known: Vec<Uuid> = judged.iter().map(|(it, _)| it.id).collect();
        let retention = i64::try_from(self.attempts_retention.as_millis()).unwrap_or(i64::MAX);
        let (owed, tried) = (of_each(&waits), kept.tried());
        let routed = judged.into_iter().map(|judged| {
            let subscription = judged.0.clone();
            let id = subscription.id;
            let way = Way {
                subscription: &subscription,
                placed,
                reached: reached.place(&subscription, placed),
                held: held.get(&id).copied(),
                kept_since_ms: now.saturating_sub(retention),
                damage: kept.damage_of(id, &known),
            };
            let owed = owed.get(&id).map_or(&[][..], Vec::as_slice);
            let tried = tried.get(&id).map_or(&[][..], Vec::as_slice);
            routed(judged, &way, owed, tried)
        });
        Ok(Course {
            routed: routed.collect(),
            attempts: kept.attempts,
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

    fn waits(
        &self,
        row: &PendingRow,
        detail: &PendingDetail,
        around: &Around,
        held: Option<Standstill>,
        now: i64,
    ) -> Waits {
        let within = self.within(row, detail, around);
        let reason = reason::of_pending(row, detail, &within, held, now);
        // Nothing else that it may wait for has a time of its own.
        let timed = matches!(reason.why, Why::Retry | Why::Due);
        Waits {
            revision: detail.revision,
            replay: detail.replay,
            ledger: accounted(row, detail, held.map(|it| it.held), now),
            reason,
            next_at_ms: timed.then_some(row.next_at_ms),
            row: row.clone(),
        }
    }

    /// What decides whether pending deliveries of an event go that is not theirs alone, read once for all of them.
    async fn around(
        &self,
        tenant: &TenantId,
        pending: &[(PendingRow, PendingDetail)],
    ) -> Result<Around, Refusal> {
        let replays = pending.iter().filter_map(|(_, detail)| of_history(detail));
        let replays: BTreeSet<Uuid> = replays.map(|(replay, _)| replay).collect();
        let mut running = HashSet::new();
        for id in replays {
            let row = self.store.replays().get(tenant, id).await;
            let row = row.map_err(store_fault)?;
            if row.is_some_and(|it| matches!(&*it.state, "planned" | "running")) {
                running.insert(id);
            }
        }
        let behind = pending.iter().filter(|(row, _)| row.state == "behind");
        let lanes = behind.filter_map(|(row, _)| Some((row.subscription, row.lane.as_deref()?)));
        let lanes: Vec<_> = lanes.collect();
        let found = self.store.deliveries().first_of(&lanes).await;
        let unread = found.as_ref().is_ok_and(|it| !it.damaged.is_empty());
        let first = sound(found)?.into_iter();
        let first = first.filter_map(|row| Some(((row.subscription, row.lane.clone()?), row)));
        let first = first.collect();
        Ok(Around {
            running,
            first,
            unread,
        })
    }

    /// What decides whether a pending delivery goes at all, and what goes before it.
    fn within(&self, row: &PendingRow, detail: &PendingDetail, around: &Around) -> Within {
        let of_history = of_history(detail);
        if of_history.is_some_and(|(replay, _)| !around.running.contains(&replay)) {
            return Within::StoppedReplay;
        }
        let id = of_history.map_or(row.subscription, |(_, of)| of);
        let in_force = self.subscriptions.in_force();
        let Some(subscription) = in_force.get(id) else {
            let kept = in_force.is_unreadable(id);
            return if kept { Within::Unread } else { Within::Nobody };
        };
        let Some(lane) = row.lane.clone().filter(|_| row.state == "behind") else {
            return Within::Force(subscription);
        };
        if subscription.state != State::Active {
            return Within::Force(subscription);
        }
        match around.first.get(&(row.subscription, lane)) {
            Some(before) if before.sequence < row.sequence => {
                Within::Lane(subscription, before.clone())
            }
            None if around.unread => Within::LaneUnread,
            // It has just come to be the first.
            Some(_) | None => Within::Force(subscription),
        }
    }
}

/// What is read once for all pending deliveries of an event.
struct Around {
    /// The replays of history that run.
    running: HashSet<Uuid>,
    /// What is pending first of each key that one waits behind.
    first: HashMap<(Uuid, String), PendingRow>,
    /// Whether any of that cannot be read.
    unread: bool,
}

/// The replay of history that a delivery is one of, and its subscription.
fn of_history(detail: &PendingDetail) -> Option<(Uuid, Uuid)> {
    detail
        .replay
        .and_then(|replay| Some((replay.id, replay.of?)))
}

/// What waits for each subscription, its own first. What goes elsewhere is for none.
fn of_each(waits: &[Waits]) -> HashMap<Uuid, Vec<&Waits>> {
    let mut each: HashMap<Uuid, Vec<&Waits>> = HashMap::new();
    for it in waits.iter().filter(|it| !it.is_sent_again()) {
        each.entry(it.row.subscription).or_default().push(it);
    }
    for it in waits.iter().filter(|it| it.is_sent_again()) {
        let to = it.replay.filter(|replay| !replay.shadow);
        if let Some(of) = to.and_then(|replay| replay.of) {
            each.entry(of).or_default().push(it);
        }
    }
    each
}

impl Waits {
    /// Whether it is history that a replay sends again.
    fn is_sent_again(&self) -> bool {
        self.replay.is_some_and(|replay| replay.of.is_some())
    }
}

/// How an event stands to one subscription, by what waits for it and what was tried.
fn routed(judged: Judged, way: &Way<'_>, waits: &[&Waits], tried: &[Tried<'_>]) -> Routed {
    let is_kept = !waits.is_empty() || !tried.is_empty();
    let delivered = tried.iter().any(|it| it.row.outcome == "delivered");
    let own = waits.iter().find(|it| !it.is_sent_again());
    let goes = |it: &&&Waits| !delivered && it.reason.why != Why::ReplayStopped;
    let (state, reason) = if let Some(waits) = own.or_else(|| waits.iter().find(goes)) {
        let state = Some(waits.row.state.clone());
        (state, Some(waits.reason.clone()))
    } else if delivered {
        (Some("delivered".to_owned()), None)
    } else {
        let last = kept::last(tried);
        let state = last.map(|it| it.row.outcome.clone());
        (state, Some(reason::of_ended(way, tried)))
    };
    Routed {
        is_kept,
        delivered,
        state,
        reason: reason.filter(|_| judged.1.is_ok()),
        judged,
    }
}

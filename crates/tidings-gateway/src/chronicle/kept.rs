//! What is kept of an event's deliveries, and for which subscription each attempt was.

use std::collections::HashMap;

use tidings_event::TenantId;
use tidings_store::{AttemptRow, Found, PendingRow, Store, StoreError};
use uuid::Uuid;

use crate::dead_letters::attempt_detail;
use crate::deliver::detail_of;
use crate::deliver::record::{AttemptDetail, PendingDetail};
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// Whether anything of a subscription's deliveries of an event cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    None,
    /// A row that may be a replay's, or anybody's.
    Somewhere,
    /// A row of its own.
    Here,
}

/// What is kept of an event's deliveries.
pub(super) struct Kept {
    pub(super) pending: Vec<(PendingRow, PendingDetail)>,
    pub(super) attempts: Vec<(AttemptRow, AttemptDetail)>,
    damaged: Vec<Unread>,
}

/// A row that is not what was written, or holds what cannot be read.
struct Unread {
    /// Whose it is, as far as it says: a subscription's or a replay's.
    of: Option<Uuid>,
    why: String,
}

/// An attempt at bringing an event to a subscription.
#[derive(Clone, Copy)]
pub(super) struct Tried<'a> {
    pub(super) row: &'a AttemptRow,
    pub(super) detail: &'a AttemptDetail,
    /// Whether it was history that a replay sent again.
    pub(super) again: bool,
}

impl Kept {
    pub(super) async fn of(
        store: &Store,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Self, Refusal> {
        let mut kept = Self::read(store, tenant, event_id).await?;
        if kept.lacks_a_row() {
            // An attempt failed between the two readings, and its row was written after the first.
            kept = Self::read(store, tenant, event_id).await?;
        }
        for Unread { why, .. } in &kept.damaged {
            tracing::error!(error = why, "a damaged row is passed over");
        }
        Ok(kept)
    }

    async fn read(store: &Store, tenant: &TenantId, event_id: Uuid) -> Result<Self, Refusal> {
        let rows = store.deliveries();
        let mut damaged = Vec::new();
        // Before the attempts: what is given up between the two is seen by its attempt.
        let pending = rows.pending_of_event(tenant, event_id).await;
        let pending = noted(pending, &mut damaged)?.into_iter();
        let pending = pending.filter_map(|row| {
            let detail = detail_of(&row);
            let whose = ("pending delivery", row.subscription, row.sequence);
            Some((row, readable(detail, whose, &mut damaged)?))
        });
        let pending = pending.collect();
        let attempts = rows.attempts_of_event(tenant, event_id).await;
        let attempts = noted(attempts, &mut damaged)?.into_iter();
        let attempts = attempts.filter_map(|row| {
            let detail = attempt_detail(&row);
            let whose = ("attempt", row.subscription, row.sequence);
            Some((row, readable(detail, whose, &mut damaged)?))
        });
        let attempts = attempts.collect();
        Ok(Self {
            pending,
            attempts,
            damaged,
        })
    }

    /// Whether a delivery has failed, and what is to follow is not there.
    fn lacks_a_row(&self) -> bool {
        let mut attempts = self.attempts.iter().peekable();
        while let Some((attempt, _)) = attempts.next() {
            let of_it = (attempt.subscription, attempt.sequence);
            let is_last = attempts
                .peek()
                .is_none_or(|(next, _)| (next.subscription, next.sequence) != of_it);
            let mut pending = self.pending.iter();
            if is_last
                && attempt.outcome == "failed"
                && !pending.any(|(row, _)| (row.subscription, row.sequence) == of_it)
            {
                return true;
            }
        }
        false
    }

    /// The attempts at bringing the event to each subscription: its own, and those of replays of its history that went to
    /// itself.
    pub(super) fn tried(&self) -> HashMap<Uuid, Vec<Tried<'_>>> {
        let mut each: HashMap<Uuid, Vec<Tried<'_>>> = HashMap::new();
        for (row, detail) in &self.attempts {
            let history = detail
                .replay
                .and_then(|replay| Some((replay.of?, replay.shadow)));
            if history.is_some_and(|(_, shadow)| shadow) {
                continue;
            }
            let tried = Tried {
                row,
                detail,
                again: history.is_some(),
            };
            let to = history.map_or(row.subscription, |(of, _)| of);
            each.entry(to).or_default().push(tried);
        }
        each
    }

    /// Whether anything of this subscription's cannot be read, where these are all there are.
    pub(super) fn damage_of(&self, id: Uuid, all: &[Uuid]) -> Damage {
        let damaged = self.damaged.iter().map(|it| match it.of {
            Some(of) if of == id => Damage::Here,
            Some(of) if all.contains(&of) => Damage::None,
            _ => Damage::Somewhere,
        });
        damaged.max().unwrap_or(Damage::None)
    }
}

/// The sound rows. Of the others it is noted whose they are.
fn noted<T>(
    found: Result<Found<T>, StoreError>,
    damaged: &mut Vec<Unread>,
) -> Result<Vec<T>, Refusal> {
    let found = found.map_err(store_fault)?;
    let unread = found.damaged.iter().map(|error| {
        let row = error.row().and_then(|row| row.split_once('/'));
        Unread {
            of: row.and_then(|(of, _)| of.parse().ok()),
            why: error.to_string(),
        }
    });
    damaged.extend(unread);
    Ok(found.rows)
}

/// What a row holds, if it can be read. Of another it is noted whose it is.
fn readable<T>(
    detail: Result<T, Refusal>,
    (what, of, sequence): (&str, Uuid, u64),
    damaged: &mut Vec<Unread>,
) -> Option<T> {
    match detail {
        Ok(detail) => Some(detail),
        Err(refusal) => {
            let why = format!("{what} {of}/{sequence}: {}", refusal.detail);
            damaged.push(Unread { of: Some(of), why });
            None
        }
    }
}

/// The attempt that says how a subscription's deliveries of an event ended. One of a replay that failed says nothing: either
/// it goes on, or nobody wants it any more.
pub(super) fn last<'t, 'a>(tried: &'t [Tried<'a>]) -> Option<&'t Tried<'a>> {
    let ended = tried
        .iter()
        .filter(|it| !it.again || it.row.outcome != "failed");
    ended.max_by_key(|it| {
        (
            it.row.started_at_ms,
            it.again,
            it.row.sequence,
            it.row.number,
        )
    })
}

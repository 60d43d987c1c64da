//! What is kept of an event's deliveries, and for which subscription each attempt was.

use std::collections::HashMap;

use serde::Deserialize;
use tidings_event::TenantId;
use tidings_store::{AttemptRow, Found, PendingRow, Store, StoreError};
use uuid::Uuid;

use crate::damaged::sound;
use crate::deliver::detail_of;
use crate::deliver::record::{PendingDetail, Replayed};
use crate::publish::refusal::Refusal;

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
    pub(super) attempts: Vec<AttemptRow>,
    /// Whose the damaged rows are, as far as they say: a subscription's or a replay's.
    damaged: Vec<Option<Uuid>>,
}

/// An attempt at bringing an event to a subscription.
#[derive(Clone, Copy)]
pub(super) struct Tried<'a> {
    pub(super) row: &'a AttemptRow,
    /// The subscription's revision that routed the event; 0 where that cannot be read.
    pub(super) revision: u32,
    /// Whether it was history that a replay sent again.
    pub(super) again: bool,
}

/// What is asked of an attempt's detail.
#[derive(Default, Deserialize)]
struct Brief {
    revision: u32,
    #[serde(default)]
    replay: Option<Replayed>,
}

impl Kept {
    pub(super) async fn of(
        store: &Store,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Self, Refusal> {
        let kept = Self::read(store, tenant, event_id).await?;
        if !kept.lacks_a_row() {
            return Ok(kept);
        }
        // An attempt failed between the two readings, and its row was written after the first.
        Self::read(store, tenant, event_id).await
    }

    async fn read(store: &Store, tenant: &TenantId, event_id: Uuid) -> Result<Self, Refusal> {
        let rows = store.deliveries();
        let mut damaged = Vec::new();
        // Before the attempts: what is given up between the two is seen by its attempt.
        let pending = rows.pending_of_event(tenant, event_id).await;
        let pending = noted(pending, &mut damaged)?.into_iter().map(|row| {
            let detail = detail_of(&row)?;
            Ok((row, detail))
        });
        let pending = pending.collect::<Result<_, Refusal>>()?;
        let attempts = rows.attempts_of_event(tenant, event_id).await;
        let attempts = noted(attempts, &mut damaged)?;
        Ok(Self {
            pending,
            attempts,
            damaged,
        })
    }

    /// Whether a delivery has failed, and what is to follow is not there.
    fn lacks_a_row(&self) -> bool {
        let mut attempts = self.attempts.iter().peekable();
        while let Some(attempt) = attempts.next() {
            let of_it = (attempt.subscription, attempt.sequence);
            let is_last = attempts
                .peek()
                .is_none_or(|next| (next.subscription, next.sequence) != of_it);
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
        for row in &self.attempts {
            let brief: Brief = serde_json::from_str(&row.detail).unwrap_or_default();
            let history = brief
                .replay
                .and_then(|replay| Some((replay.of?, replay.shadow)));
            if history.is_some_and(|(_, shadow)| shadow) {
                continue;
            }
            let tried = Tried {
                row,
                revision: brief.revision,
                again: history.is_some(),
            };
            let to = history.map_or(row.subscription, |(of, _)| of);
            each.entry(to).or_default().push(tried);
        }
        each
    }

    /// Whether anything of this subscription's cannot be read, where these are all there are.
    pub(super) fn damage_of(&self, id: Uuid, all: &[Uuid]) -> Damage {
        let damaged = self.damaged.iter().map(|of| match of {
            Some(of) if *of == id => Damage::Here,
            Some(of) if all.contains(of) => Damage::None,
            _ => Damage::Somewhere,
        });
        damaged.max().unwrap_or(Damage::None)
    }
}

/// The sound rows. Of the others it is noted whose they are.
fn noted<T>(
    found: Result<Found<T>, StoreError>,
    damaged: &mut Vec<Option<Uuid>>,
) -> Result<Vec<T>, Refusal> {
    if let Ok(found) = &found {
        let whose = found.damaged.iter().map(|error| {
            let (of, _) = error.row()?.split_once('/')?;
            of.parse().ok()
        });
        damaged.extend(whose);
    }
    sound(found)
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

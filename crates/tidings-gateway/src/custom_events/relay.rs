//! What becomes of emits after they were accepted: those that the bus did not take are appended, and of those that it has
//! is found out whether every delivery that they matched has succeeded.
//!
//! Loop: [`relay`], which its caller spawns and joins. Replicas on one store take turns; should a turn be outlived, both do
//! the same, and what is appended twice is known to the bus by its key.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidings_event::Topic;
use tidings_store::{CursorRow, EmitPlace, EmitRow, EmitState, Replicas, Share, StoreError};
use uuid::Uuid;

use super::LifecycleEvent;
use super::emits::{Emits, FIRST_AGAIN_MS};
use crate::rulebook::Route;

/// How often it is looked for emits that are due.
const EVERY: Duration = Duration::from_millis(500);
/// How many are looked at in one go.
const PAGE: u32 = 200;
/// The longest wait before an emit is looked at again.
const LONGEST_WAIT_MS: i64 = 60_000;
/// How long a turn lasts that is not lengthened.
const TURN: Duration = Duration::from_secs(10);
/// What the turn is called in the store.
const TURN_NAME: &str = "emits";
/// How often old emits are removed.
const FORGET_EVERY_MS: i64 = 10 * 60 * 1_000;

/// Looks after emits until `stopped` is ready. Those older than `retention` are removed.
pub async fn relay(emits: Arc<Emits>, retention: Duration, stopped: impl Future<Output = ()>) {
    // Cut off anywhere it loses nothing: an emit stays due until something is noted of it.
    tokio::select! {
        () = stopped => {}
        () = work(&emits, retention) => {}
    }
}

async fn work(emits: &Emits, retention: Duration) {
    let turns = emits
        .store
        .replicas()
        .map(|turns| (turns, emits.clock.new_id()));
    let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let mut forgot_at_ms = 0;
    loop {
        match look(emits, turns.as_ref()).await {
            // What was noted comes in the next transaction, and would still be found due before it.
            Ok(_) => tokio::time::sleep(EVERY).await,
            Err(error) => {
                tracing::warn!(%error, "emits cannot be looked after now");
                tokio::time::sleep(4 * EVERY).await;
            }
        }
        let now = emits.clock.now_ms();
        if now - forgot_at_ms >= FORGET_EVERY_MS {
            forgot_at_ms = now;
            match emits
                .store
                .emits()
                .forget(now.saturating_sub(retention))
                .await
            {
                Ok(0) => {}
                Ok(forgotten) => tracing::info!(forgotten, "old emits are forgotten"),
                Err(error) => tracing::warn!(%error, "old emits stay for now"),
            }
        }
    }
}

/// Looks at every emit that is due; how many there were.
pub(super) async fn look(
    emits: &Emits,
    turns: Option<&(Replicas, Uuid)>,
) -> Result<usize, StoreError> {
    let now = emits.clock.now_ms();
    let due = emits.store.emits().due(now, PAGE).await?;
    if due.is_empty() {
        return Ok(0);
    }
    if let Some((turns, own)) = turns
        && !turns.take_turn(TURN_NAME, *own, TURN).await?
    {
        return Ok(0);
    }
    let count = due.len();
    let mut cursors = None;
    for row in due {
        match row.state {
            EmitState::Queued | EmitState::Failed => {
                // Noted either way; why it is still not appended stands in the row.
                let _ = emits.append(row).await;
            }
            EmitState::Relayed => {
                let cursors = match &cursors {
                    Some(cursors) => cursors,
                    None => cursors.insert(emits.store.deliveries().cursors().await?),
                };
                follow(emits, cursors, row, now).await?;
            }
            EmitState::Delivered | EmitState::Undelivered => {}
        }
    }
    Ok(count)
}

/// Finds out what has become of an emit's deliveries.
async fn follow(
    emits: &Emits,
    cursors: &[CursorRow],
    mut row: EmitRow,
    now: i64,
) -> Result<(), StoreError> {
    let before = EmitRow {
        next_at_ms: Some(now + FIRST_AGAIN_MS),
        ..row.clone()
    };
    let event = match fate(emits, cursors, &row).await? {
        Fate::Open => {
            let age = now - row.created_at_ms;
            row.next_at_ms = Some(now + (age / 4).clamp(FIRST_AGAIN_MS, LONGEST_WAIT_MS));
            emits.noted(row);
            return Ok(());
        }
        Fate::Delivered => {
            row.state = EmitState::Delivered;
            LifecycleEvent::EmitDelivered
        }
        Fate::GivenUp(error) => {
            row.state = EmitState::Undelivered;
            row.error = Some(error);
            LifecycleEvent::EmitDeliveryFailed
        }
    };
    if let Err(refusal) = emits.tell(&row, event).await {
        tracing::warn!(
            detail = refusal.detail,
            "what has become of an emit is told later"
        );
        row = before;
    } else {
        row.next_at_ms = None;
    }
    emits.noted(row);
    Ok(())
}

enum Fate {
    /// Something is still to be delivered.
    Open,
    /// Nothing is.
    Delivered,
    /// A delivery was given up: why.
    GivenUp(String),
}

async fn fate(emits: &Emits, cursors: &[CursorRow], row: &EmitRow) -> Result<Fate, StoreError> {
    let wanting = emits.in_force.wanting(&row.tenant, &row.event_type);
    let (Some(place), false) = (row.place, wanting.is_empty()) else {
        return Ok(Fate::Delivered);
    };
    let topic = Route::custom_events().topic;
    if !passed(cursors, row, &topic, place) {
        return Ok(Fate::Open);
    }
    let rows = emits.store.deliveries();
    let wanting: Vec<Uuid> = wanting.iter().map(|subscription| subscription.id).collect();
    for progress in rows.progress_of(&wanting).await? {
        if is_behind(&progress.places, &topic, place) {
            return Ok(Fate::Open);
        }
    }
    let attempts = rows.attempts_of_event(&row.tenant, row.event_id).await?;
    let done = |word: &'static str| {
        let ended = attempts.iter().filter(move |it| it.outcome == word);
        ended
            .map(|it| (it.subscription, it.sequence))
            .collect::<HashSet<_>>()
    };
    let (delivered, given_up) = (done("delivered"), done("gave-up"));
    if let Some((subscription, _)) = given_up.difference(&delivered).next() {
        return Ok(Fate::GivenUp(format!(
            "subscription {subscription} was given up"
        )));
    }
    let pending = rows.pending_of_event(&row.tenant, row.event_id).await?;
    Ok(if pending.is_empty() {
        Fate::Delivered
    } else {
        Fate::Open
    })
}

/// Whether the reading that all subscriptions share has gone past an emit. Tenants may have been shared out in another way
/// before: whoever has come furthest has read it.
fn passed(cursors: &[CursorRow], row: &EmitRow, topic: &Topic, place: EmitPlace) -> bool {
    let of_tenant = cursors.iter().filter(|cursor| {
        let share: Option<Share> = cursor.share.parse().ok();
        share.is_some_and(|share| share.holds(&row.tenant))
            && cursor.topic == *topic
            && cursor.partition == place.partition
    });
    of_tenant.map(|cursor| cursor.next_offset).max() > Some(place.offset)
}

/// Whether a subscription with places of its own has one before an emit.
fn is_behind(places: &str, topic: &Topic, place: EmitPlace) -> bool {
    let Ok(places) = serde_json::from_str::<crate::deliver::Places>(places) else {
        // Whoever delivers says what is wrong with it.
        return true;
    };
    places.at.iter().any(|(name, partition, offset)| {
        name == topic.as_str() && *partition == place.partition && *offset <= place.offset
    })
}

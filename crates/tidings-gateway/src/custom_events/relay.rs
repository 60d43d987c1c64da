//! What becomes of emits after they were accepted: those that the bus did not take are appended, and of those that it has
//! is found out whether every delivery that they matched has succeeded.
//!
//! Loop: [`relay`], which its caller spawns and joins. Replicas on one store take turns; should a turn be outlived, both do
//! the same, and what is appended twice is known to the bus by its key.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::ReadError;
use tidings_event::{Code, TenantId, Topic};
use tidings_store::{CursorRow, EmitNote, EmitPlace, EmitRow, EmitState, Replicas, StoreError};
use uuid::Uuid;

use super::LifecycleEvent;
use super::emits::{Emits, FIRST_AGAIN_MS, month};
use crate::clock::has_passed;
use crate::damaged::DAMAGED_AGAIN_MS;
use crate::deliver::{Places, read_to};
use crate::publish::refusal::Refusal;
use crate::rulebook::Route;

/// How often it is looked for emits that are due.
const EVERY: Duration = Duration::from_millis(500);
/// How many of a state are looked at in one go.
const PAGE: u32 = 200;
/// The longest wait before the deliveries of an emit are looked at again.
const LONGEST_WAIT_MS: i64 = 10 * 60 * 1_000;
/// The longest wait before the bus is asked again to take an emit.
pub(super) const LONGEST_HELD_MS: i64 = 60_000;
/// So long after an emit the bus knows its key for certain: it keeps keys for a day (source A).
const KEY_IS_KNOWN_MS: i64 = 20 * 60 * 60 * 1_000;
/// How long a turn lasts that is not lengthened.
const TURN: Duration = Duration::from_secs(10);
/// What the turn is called in the store.
const TURN_NAME: &str = "emits";
/// So many tenants fail one after the other before the bus is taken to be away: one alone may be on a partition that has
/// no leader.
const MOST_FAILED: usize = 4;
/// How often old emits are removed.
const FORGET_EVERY: Duration = Duration::from_mins(10);
/// How long the last notes may take when the process stops.
const LEAVING: Duration = Duration::from_secs(1);
/// So many notes are written at once: what the bus has taken and nothing notes is appended again, should the process die.
const NOTED_AT_ONCE: usize = 20;

/// With whom turns are taken, and as whom.
type Turns = (Replicas, Uuid);

/// What has become of emits, and is not written yet.
#[derive(Default)]
struct Notes(Vec<EmitNote>);

impl Notes {
    async fn add(&mut self, emits: &Emits, note: EmitNote) -> Result<(), StoreError> {
        self.0.push(note);
        if self.0.len() < NOTED_AT_ONCE {
            return Ok(());
        }
        self.write(emits).await
    }

    /// They are kept until they are written.
    async fn write(&mut self, emits: &Emits) -> Result<(), StoreError> {
        if !self.0.is_empty() {
            emits.store.emits().admit(&[], &self.0).await?;
            self.0.clear();
        }
        Ok(())
    }
}

/// Looks after emits until `stopped` is ready. Those older than `retention` are removed.
pub async fn relay(emits: Arc<Emits>, retention: Duration, stopped: impl Future<Output = ()>) {
    let turns = emits.store.replicas();
    let turns = turns.map(|turns| (turns, emits.clock.new_id()));
    let mut notes = Notes::default();
    // Cut off anywhere it loses nothing: an emit stays due until something is noted of it.
    tokio::select! {
        () = stopped => {}
        () = work(&emits, retention, turns.as_ref(), &mut notes) => {}
    }
    let left = leave(&emits, turns.as_ref(), &mut notes);
    if tokio::time::timeout(LEAVING, left).await.is_err() {
        tracing::warn!("what has become of some emits is found out by the next process");
    }
}

/// Writes down what is not written, and lets another replica go on at once.
async fn leave(emits: &Emits, turns: Option<&Turns>, notes: &mut Notes) {
    if let Err(error) = notes.write(emits).await {
        tracing::warn!(%error, "what has become of some emits is found out by the next process");
    }
    if let Some((turns, own)) = turns
        && let Err(error) = turns.end_turn(TURN_NAME, *own).await
    {
        tracing::warn!(%error, "the turn at looking after emits ends by itself");
    }
}

async fn work(emits: &Emits, retention: Duration, turns: Option<&Turns>, notes: &mut Notes) {
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let mut forgot_at_ms = 0;
    loop {
        match look(emits, turns, notes).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(EVERY).await,
            Err(error) => {
                tracing::warn!(%error, "emits cannot be looked after now");
                tokio::time::sleep(4 * EVERY).await;
            }
        }
        let now = emits.clock.now_ms();
        if has_passed(FORGET_EVERY, forgot_at_ms, now) {
            forgot_at_ms = now;
            let before = now.saturating_sub(retention_ms);
            match emits.store.emits().forget(before, &month(before)).await {
                Ok(0) => {}
                Ok(forgotten) => tracing::info!(forgotten, "old emits are forgotten"),
                Err(error) => tracing::warn!(%error, "old emits stay for now"),
            }
        }
    }
}

/// Tenants of whose emits the bus does not take any now.
#[derive(Default)]
struct Held {
    tenants: HashSet<TenantId>,
    /// How many have failed since one did not.
    in_a_row: usize,
}

impl Held {
    fn note(&mut self, tenant: &TenantId, away: bool) {
        if !away {
            self.in_a_row = 0;
        } else if self.tenants.insert(tenant.clone()) {
            self.in_a_row += 1;
        }
    }

    /// Whether the others would fare no better.
    fn is_everybody(&self) -> bool {
        self.in_a_row >= MOST_FAILED
    }
}

/// Looks at emits that are due, and writes down what has become of them, however it ends. Whether there may be more.
async fn look(emits: &Emits, turns: Option<&Turns>, notes: &mut Notes) -> Result<bool, StoreError> {
    let looked = look_at_due(emits, turns, notes).await;
    notes.write(emits).await?;
    looked
}

/// At those first that are not on the bus, so that nobody's slow deliveries keep them waiting.
async fn look_at_due(
    emits: &Emits,
    turns: Option<&Turns>,
    notes: &mut Notes,
) -> Result<bool, StoreError> {
    let waiting = [EmitState::Queued, EmitState::Failed];
    let (left, full) = due(emits, &waiting).await?;
    let mut held = Held::default();
    for row in left {
        if !has_turn(turns).await? {
            return Ok(false);
        }
        if held.tenants.contains(&row.tenant) {
            notes.add(emits, later(emits, &row)).await?;
            continue;
        }
        let (note, away) = brought(emits, &row).await;
        notes.add(emits, note).await?;
        held.note(&row.tenant, away);
        if held.is_everybody() {
            return Ok(false);
        }
    }
    let followed_states = [EmitState::Relayed, EmitState::Undelivered];
    let (relayed, more) = due(emits, &followed_states).await?;
    if relayed.is_empty() {
        return Ok(full || more);
    }
    let cursors = emits.store.deliveries().cursors().await?;
    for error in &cursors.damaged {
        tracing::error!(%error, "emits of a partition wait for its delivery cursor");
    }
    for row in relayed {
        if !has_turn(turns).await? {
            return Ok(false);
        }
        if held.tenants.contains(&row.tenant) {
            notes.add(emits, later(emits, &row)).await?;
            continue;
        }
        let note = followed(emits, &cursors.rows, &row, &mut held).await?;
        notes.add(emits, note).await?;
        if held.is_everybody() {
            return Ok(false);
        }
    }
    Ok(full || more)
}

/// What is to be noted of an emit of a tenant that is held: a page of them keeps nobody else's from being looked at.
fn later(emits: &Emits, row: &EmitRow) -> EmitNote {
    let now = emits.clock.now_ms();
    let wait_ms = (now - row.created_at_ms).clamp(FIRST_AGAIN_MS, LONGEST_HELD_MS);
    EmitNote {
        event_id: row.event_id,
        state: row.state,
        error: row.error.clone(),
        place: row.place,
        next_at_ms: Some(now + wait_ms),
    }
}

/// Whether a refusal says that the bus takes nothing of the tenant now, and not that something is wrong with the emit.
fn is_away(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::BrokerUnavailable | Code::StorageFull)
}

/// What is to be noted of an emit that was not known to be on the bus, and whether the bus is away for its tenant.
async fn brought(emits: &Emits, row: &EmitRow) -> (EmitNote, bool) {
    let now = emits.clock.now_ms();
    // Its process may have died between the append and the note of it, longer ago than the bus knows its key.
    let stands = if now - row.created_at_ms > KEY_IS_KNOWN_MS {
        emits.bus.find(row.tenant.clone(), row.event_id).await
    } else {
        Ok(None)
    };
    let note = |state, place, error, wait_ms| EmitNote {
        event_id: row.event_id,
        state,
        error,
        place,
        next_at_ms: Some(now + wait_ms),
    };
    match stands {
        Ok(None) => {
            let published = emits.appended(row).await;
            let away = published.as_ref().is_err_and(is_away);
            (emits.note_of(row, &published), away)
        }
        Ok(Some(stored)) => {
            let place = EmitPlace {
                partition: stored.partition,
                offset: stored.offset,
            };
            let note = note(EmitState::Relayed, Some(place), None, FIRST_AGAIN_MS);
            (note, false)
        }
        Err(error) => {
            tracing::warn!(event_id = %row.event_id, %error, "it is not known whether an emit is on the bus");
            let away = matches!(error, ReadError::Unavailable(_));
            let wait_ms = if away {
                FIRST_AGAIN_MS
            } else {
                DAMAGED_AGAIN_MS
            };
            let error = Some(error.to_string());
            (note(row.state, row.place, error, wait_ms), away)
        }
    }
}

/// Emits that are due in these states, and whether there may be more. What is damaged is said, and put off.
async fn due(emits: &Emits, states: &[EmitState]) -> Result<(Vec<EmitRow>, bool), StoreError> {
    let now = emits.clock.now_ms();
    let found = emits.store.emits().due(states, now, PAGE).await?;
    let full = found.len() >= PAGE as usize;
    let mut rows = Vec::with_capacity(found.len());
    for (event_id, row) in found {
        match row {
            Ok(row) => rows.push(row),
            Err(error) => {
                tracing::error!(event_id, %error, "an emit cannot be looked after");
                let again = now + DAMAGED_AGAIN_MS;
                emits.store.emits().put_off(&event_id, again).await?;
            }
        }
    }
    Ok((rows, full))
}

async fn has_turn(turns: Option<&Turns>) -> Result<bool, StoreError> {
    match turns {
        Some((turns, own)) => turns.take_turn(TURN_NAME, *own, TURN).await,
        None => Ok(true),
    }
}

/// What is to be noted of an emit's deliveries.
async fn followed(
    emits: &Emits,
    cursors: &[CursorRow],
    row: &EmitRow,
    held: &mut Held,
) -> Result<EmitNote, StoreError> {
    let now = emits.clock.now_ms();
    let open = |wait_ms: i64| EmitNote {
        event_id: row.event_id,
        state: row.state,
        error: row.error.clone(),
        place: row.place,
        next_at_ms: Some(now + wait_ms),
    };
    let age = now - row.created_at_ms;
    let fate = match fate(emits, cursors, row).await {
        Ok(fate) => fate,
        Err(error) if error.is_unavailable() => return Err(error),
        Err(error) => {
            tracing::error!(event_id = %row.event_id, %error, "what became of an emit cannot be read");
            return Ok(open(DAMAGED_AGAIN_MS));
        }
    };
    let (state, error, event) = match fate {
        Fate::Open => return Ok(open((age / 4).clamp(FIRST_AGAIN_MS, LONGEST_WAIT_MS))),
        Fate::Delivered => (EmitState::Delivered, None, LifecycleEvent::EmitDelivered),
        // One of several dead letters has been replayed: what was told of it still holds. A replay that ended while
        // this was found out is seen by one more look.
        Fate::GivenUp(_) if row.state == EmitState::Undelivered => {
            let looked_for = row.next_at_ms.is_some_and(|at_ms| at_ms > 0);
            let once_more = (!looked_for).then_some(now + LONGEST_WAIT_MS);
            return Ok(EmitNote {
                next_at_ms: once_more,
                ..open(0)
            });
        }
        Fate::GivenUp(error) => {
            let event = LifecycleEvent::EmitDeliveryFailed;
            (EmitState::Undelivered, Some(error), event)
        }
    };
    if let Err(refusal) = emits.tell(row, event).await {
        tracing::warn!(
            detail = refusal.detail,
            "what has become of an emit is told later"
        );
        held.note(&row.tenant, is_away(&refusal));
        return Ok(open(FIRST_AGAIN_MS));
    }
    let given_up = state == EmitState::Undelivered;
    Ok(EmitNote {
        event_id: row.event_id,
        state,
        error,
        place: row.place,
        next_at_ms: given_up.then_some(now + LONGEST_WAIT_MS),
    })
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
    for progress in rows.progress_of(&wanting).await?.whole()? {
        if is_behind(&progress.places, &topic, place) {
            return Ok(Fate::Open);
        }
    }
    // Before the attempts: what is given up between the two is seen by its attempt.
    let pending = rows
        .pending_of_event(&row.tenant, row.event_id)
        .await?
        .whole()?;
    let attempts = rows
        .attempts_of_event(&row.tenant, row.event_id)
        .await?
        .whole()?;
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
    Ok(if pending.is_empty() {
        Fate::Delivered
    } else {
        Fate::Open
    })
}

/// Whether the reading that all subscriptions share has gone past an emit.
fn passed(cursors: &[CursorRow], row: &EmitRow, topic: &Topic, place: EmitPlace) -> bool {
    let at = cursors
        .iter()
        .filter(|cursor| cursor.topic == *topic && cursor.partition == place.partition);
    read_to(at, &row.tenant) > Some(place.offset)
}

/// Whether a subscription with places of its own has one before an emit.
fn is_behind(places: &str, topic: &Topic, place: EmitPlace) -> bool {
    let Ok(places) = serde_json::from_str::<Places>(places) else {
        // Whoever delivers says what is wrong with it.
        return true;
    };
    let next = places.next_in(topic, place.partition);
    next.is_some_and(|next| next <= place.offset)
}

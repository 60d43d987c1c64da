//! The installation's own events, on their way from the change they tell of to the bus.
//!
//! A room writes a change and its events in one transaction of the store; here they are published
//! through the one way in, with the row's id as idempotency key, and taken out. A process that dies
//! in between publishes again at its next start, and the bus answers the repeat with the receipt it
//! has, for as long as it keeps keys (24 h).
//!
//! Replicas on one store take turns, so that events keep the order of their changes and are not sent by all
//! at once. A turn is a lease in the store, lengthened before each event: unlike a lock of a session it ends
//! also when its holder is cut off. Should one be outlived, an event is sent twice, and the second is a repeat.
//!
//! Loops: [`Outbox::relay`], which its caller spawns and joins. A room does not wait for it: before it answers it publishes
//! what waits, its own events last, and leaves to the relay what takes longer than a second.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidings_event::json::RawJson;
use tidings_event::{Data, EventType, Service, TenantId};
use tidings_store::{OutboxRow, Replicas, Store};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

use crate::access::on_behalf_of;
use crate::clock::Clock;
use crate::publish::Line;
use crate::publish::command::{Command, Custom, Draft};
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// How many rows are read at once.
const PAGE: u32 = 100;

/// The wait after a first failure; it doubles from then on.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a turn lasts that is not lengthened: longer than one publish and the statements around it may take.
const TURN: Duration = Duration::from_secs(10);

/// What the turn is called in the store.
const TURN_NAME: &str = "outbox";

/// How often a replica looks for what another has left, by dying or because the bus was away.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long a change may wait for what tells of it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// When so many tenants' events fail in a row it is taken for the bus's failing: those of a few may be of a partition that
/// nobody leads.
const MOST_IN_A_ROW: usize = 8;

/// Why events still wait.
enum Left {
    /// The bus or the store did not do its part.
    Refused(Refusal),
    /// Another replica is at it.
    NotOurTurn,
}

/// The way from the store's outbox to the bus.
pub struct Outbox {
    store: Store,
    line: Arc<Line>,
    clock: Clock,
    left: Notify,
    /// One delivery at a time: events keep the order of their changes. Which damaged rows were told of.
    delivering: Mutex<HashSet<i64>>,
    /// Who takes turns with other replicas, if there can be any.
    replica: Option<(Replicas, Uuid)>,
}

impl Outbox {
    /// Over the store, publishing by the line.
    pub(crate) fn new(store: Store, line: Arc<Line>, clock: Clock) -> Self {
        let replica = store.replicas().map(|turns| (turns, clock.new_id()));
        Self {
            store,
            line,
            clock,
            left: Notify::new(),
            delivering: Mutex::default(),
            replica,
        }
    }

    /// The time that a change made now has.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// An event of now, to be written with its change.
    pub(crate) fn row(
        &self,
        service: Service,
        tenant: TenantId,
        event_type: &str,
        data: &serde_json::Value,
    ) -> OutboxRow {
        OutboxRow {
            id: self.clock.new_id(),
            service,
            tenant,
            event_type: EventType::recorded(event_type).expect("a legal event type"),
            data: data.to_string(),
            created_at_ms: self.clock.now_ms(),
        }
    }

    /// What it publishes by.
    pub(crate) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Whether the line will take it: a change that could never be told of is better refused.
    pub(crate) fn check(&self, row: &OutboxRow) -> Result<(), Refusal> {
        self.line.check(command_of(row)?)
    }

    /// Publishes what waits, for a second at most. What the bus does not take by then is left to the relay.
    pub(crate) async fn deliver(&self) {
        // Cut off anywhere it loses nothing: a row stays until its event is on the bus.
        let drained = tokio::time::timeout(TOLD_WITHIN, self.drain()).await;
        if !matches!(drained, Ok(Ok(()))) {
            self.left.notify_one();
        }
    }

    /// Leaves what waits to the relay, at once: nobody waits for the bus.
    pub(crate) fn leave(&self) {
        self.left.notify_one();
    }

    /// Publishes what is left over, from an earlier process or an outage, until `stopped` is ready.
    pub async fn relay(&self, stopped: impl Future<Output = ()>) {
        tokio::select! {
            () = stopped => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            match self.drain().await {
                Ok(()) => {
                    wait = FIRST_WAIT;
                    self.more().await;
                }
                Err(Left::NotOurTurn) => tokio::time::sleep(FIRST_WAIT).await,
                Err(Left::Refused(refusal)) => {
                    let (detail, wait_ms) = (&refusal.detail, wait.as_millis());
                    tracing::warn!(detail, %wait_ms, "events of the installation wait for the bus");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Ready when there may be something left over.
    async fn more(&self) {
        if self.replica.is_none() {
            self.left.notified().await;
        } else {
            // Whether told or not: what another replica left, it tells nobody.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.left.notified()).await;
        }
    }

    async fn drain(&self) -> Result<(), Left> {
        let mut told = self.delivering.lock().await;
        if self.next(&mut 0, &mut told).await?.is_empty() {
            return Ok(());
        }
        self.take_turn().await?;
        let sent = self.send(&mut told).await;
        // Also after a failure: another replica may have a better way to the bus.
        let ended = self.end_turn().await;
        sent.and(ended)
    }

    /// Publishes all that waits. What the bus does not take holds up its own tenant's events alone, which keep their order.
    async fn send(&self, told: &mut HashSet<i64>) -> Result<(), Left> {
        let mut behind = 0;
        let mut held = HashSet::new();
        let (mut failed, mut in_a_row) = (Ok(()), 0);
        loop {
            let rows = self.next(&mut behind, told).await?;
            if rows.is_empty() {
                return failed;
            }
            for row in rows {
                if held.contains(&row.tenant) {
                    continue;
                }
                self.take_turn().await?;
                if let Err(refusal) = self.publish(&row).await {
                    failed = Err(Left::Refused(refusal));
                    held.insert(row.tenant);
                    in_a_row += 1;
                    if in_a_row == MOST_IN_A_ROW {
                        return failed;
                    }
                    continue;
                }
                in_a_row = 0;
                let removed = self.store.outbox().remove(row.id).await;
                removed.map_err(|error| Left::Refused(store_fault(error)))?;
            }
        }
    }

    /// The next events that wait behind a position, which moves; none at the end. A damaged one is told of once, and left
    /// where it stands for `tidings doctor` to find.
    async fn next(
        &self,
        behind: &mut i64,
        told: &mut HashSet<i64>,
    ) -> Result<Vec<OutboxRow>, Left> {
        loop {
            let page = self.store.outbox().waiting(*behind, PAGE).await;
            let page = page.map_err(|error| Left::Refused(store_fault(error)))?;
            let Some((last, _)) = page.last() else {
                return Ok(Vec::new());
            };
            *behind = *last;
            let mut rows = Vec::with_capacity(page.len());
            for (position, row) in page {
                match row {
                    Ok(row) => rows.push(row),
                    Err(error) if told.insert(position) => {
                        tracing::error!(%error, "an event of the installation is never published");
                    }
                    Err(_) => {}
                }
            }
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn take_turn(&self) -> Result<(), Left> {
        let Some((turns, own)) = &self.replica else {
            return Ok(());
        };
        match turns.take_turn(TURN_NAME, *own, TURN).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Left::NotOurTurn),
            Err(error) => Err(Left::Refused(store_fault(error))),
        }
    }

    async fn end_turn(&self) -> Result<(), Left> {
        let Some((turns, own)) = &self.replica else {
            return Ok(());
        };
        let ended = turns.end_turn(TURN_NAME, *own).await;
        ended.map_err(|error| Left::Refused(store_fault(error)))
    }

    /// Fails when trying again may help. An event that will never be taken must not hold up the
    /// others; it goes to the log instead, whole.
    async fn publish(&self, row: &OutboxRow) -> Result<(), Refusal> {
        let published = match command_of(row) {
            Ok(command) => self.line.publish(command).await.map(drop),
            Err(refusal) => Err(refusal),
        };
        match published {
            Err(refusal) if refusal.code.status() < 500 => {
                let (code, detail) = (refusal.code.as_str(), refusal.detail);
                tracing::error!(
                    code,
                    detail,
                    event_type = row.event_type.as_str(),
                    data = row.data,
                    "an event of the installation cannot be published"
                );
                Ok(())
            }
            outcome => outcome,
        }
    }
}

fn command_of(row: &OutboxRow) -> Result<Command, Refusal> {
    let (data, fingerprint) = RawJson::parse(&row.data)
        .map_err(|error| Refusal::invalid("data", format!("The event's data: {error}.")))?;
    let draft = Draft {
        event_type: row.event_type.as_str().to_owned(),
        schema_version: None,
        data: Data::Json(data),
        fingerprint,
        idempotency_key: Some(row.id.to_string()),
        cloud: None,
        workspace: None,
        cause: None,
        custom: row.event_type.is_lifecycle().then_some(Custom::Told),
    };
    let caller = on_behalf_of(row.service, row.tenant.clone());
    Ok(Command::one(caller, draft, None))
}

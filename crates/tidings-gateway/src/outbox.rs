//! The installation's own events, on their way from the change they tell of to the bus.
//!
//! A room writes a change and its events in one transaction of the store; here they are published
//! through the one way in, with the row's id as idempotency key, and taken out. A process that dies
//! in between publishes again at its next start, and the bus answers the repeat with the receipt it
//! has, for as long as it keeps keys (24 h).
//!
//! Loops: [`Outbox::relay`], which its caller spawns and joins. A room does not wait for it: it
//! delivers its own events before it answers, and leaves to the relay only what the bus would not
//! take.

use std::sync::Arc;
use std::time::Duration;

use tidings_event::json::RawJson;
use tidings_event::{Data, Service, TenantId};
use tidings_store::{OutboxRow, Store};
use tokio::sync::{Mutex, Notify};

use crate::access::on_behalf_of;
use crate::clock::Clock;
use crate::manifests::store_fault;
use crate::publish::Line;
use crate::publish::command::{Command, Draft};
use crate::publish::refusal::Refusal;

/// How many rows are read at once.
const PAGE: u32 = 100;

/// The wait after a first failure; it doubles from then on.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The way from the store's outbox to the bus.
pub struct Outbox {
    store: Store,
    line: Arc<Line>,
    clock: Clock,
    left: Notify,
    /// One delivery at a time: events keep the order of their changes.
    delivering: Mutex<()>,
}

impl Outbox {
    /// Over the store, publishing by the line.
    pub(crate) fn new(store: Store, line: Arc<Line>, clock: Clock) -> Self {
        Self {
            store,
            line,
            clock,
            left: Notify::new(),
            delivering: Mutex::default(),
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
            event_type: event_type.parse().expect("a legal event type"),
            data: data.to_string(),
            created_at_ms: self.clock.now_ms(),
        }
    }

    /// Whether the line will take it: a change that could never be told of is better refused.
    pub(crate) fn check(&self, row: &OutboxRow) -> Result<(), Refusal> {
        self.line.check(command_of(row)?)
    }

    /// Publishes what waits. What the bus does not take now is left to the relay.
    pub(crate) async fn deliver(&self) {
        if self.drain().await.is_err() {
            self.left.notify_one();
        }
    }

    /// Publishes what is left over, from an earlier process or an outage, until `stopped` is ready.
    pub async fn relay(&self, stopped: impl Future<Output = ()>) {
        // Cut off anywhere it loses nothing: a row stays until its event is on the bus.
        tokio::select! {
            () = stopped => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            let Err(refusal) = self.drain().await else {
                wait = FIRST_WAIT;
                self.left.notified().await;
                continue;
            };
            let (detail, wait_ms) = (&refusal.detail, wait.as_millis());
            tracing::warn!(detail, %wait_ms, "events of the installation wait for the bus");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn drain(&self) -> Result<(), Refusal> {
        let _alone = self.delivering.lock().await;
        let outbox = self.store.outbox();
        loop {
            let rows = outbox.waiting(PAGE).await.map_err(store_fault)?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                self.publish(&row).await?;
                outbox.remove(row.id).await.map_err(store_fault)?;
            }
        }
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
    };
    let caller = on_behalf_of(row.service, row.tenant.clone());
    Ok(Command::one(caller, draft, None))
}

//! How far deliveries have come: cursors, places, what still has to be delivered, and what each attempt came to.
//!
//! The dispatcher writes all of it in one transaction per [`Flush`], so that after a crash either an event lies at or
//! behind the cursor and is delivered again, or there is a row that says what became of it.

use sqlx::{Connection, QueryBuilder};
use tidings_event::{TenantId, Topic};
use uuid::Uuid;

use crate::dead_letters::DeadLetterRow;
use crate::pool::{Columns, Connections, on_either};
use crate::replays::ReplayStep;
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, whole};

/// How far one partition has been gone through for everybody without a place of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    /// The topic.
    pub topic: Topic,
    /// The partition's number.
    pub partition: u32,
    /// The first offset that is not settled.
    pub next_offset: u64,
}

/// How far one subscription has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressRow {
    /// Which.
    pub subscription: Uuid,
    /// The last sequence number that is settled, as are all before it.
    pub sequence: u64,
    /// Its places that differ from the cursors, as JSON of the gateway.
    pub places: String,
}

/// A delivery that did not succeed at once, or waits behind one that did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRow {
    /// Whose.
    pub subscription: Uuid,
    /// Its number there.
    pub sequence: u64,
    /// Whose event it is.
    pub tenant: TenantId,
    /// Which event.
    pub event_id: Uuid,
    /// The key whose order it keeps, if it keeps one.
    pub lane: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// `waiting` for its time, `behind` another of its lane, or `parked`.
    pub state: String,
    /// When it is due, in milliseconds since 1970.
    pub next_at_ms: i64,
    /// What the gateway keeps of it besides. JSON.
    pub detail: String,
}

/// What one hand-over came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Whose.
    pub subscription: Uuid,
    /// The delivery's number there.
    pub sequence: u64,
    /// Counts the attempts of the delivery, from 1.
    pub number: u32,
    /// Whose event it is.
    pub tenant: TenantId,
    /// Which event.
    pub event_id: Uuid,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: i64,
    /// `delivered`, `failed` or `gave-up`.
    pub outcome: String,
    /// Status, latency, response and times. JSON of the gateway.
    pub detail: String,
}

/// What has happened since the last one. Written whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct Flush {
    /// Attempts that ended.
    pub attempts: Vec<AttemptRow>,
    /// Deliveries that have to be tried (again).
    pub pending: Vec<PendingRow>,
    /// Pending deliveries that are none any more.
    pub settled: Vec<(Uuid, u64)>,
    /// Deliveries that were given up.
    pub dead: Vec<DeadLetterRow>,
    /// Dead letters that get another state: `open`, `replaying` or `closed`.
    pub dead_states: Vec<(Uuid, &'static str)>,
    /// Subscriptions that came further.
    pub progress: Vec<ProgressRow>,
    /// Partitions that came further.
    pub cursors: Vec<CursorRow>,
    /// Subscriptions that are deleted: nothing of them is pending, and they have no place.
    pub forgotten: Vec<Uuid>,
    /// Replays that came further.
    pub replays: Vec<ReplayStep>,
}

impl Flush {
    /// What is to be written of a replay.
    pub fn replay(&mut self, id: Uuid, at_ms: i64) -> &mut ReplayStep {
        let known = self.replays.iter().position(|step| step.id == id);
        let index = known.unwrap_or_else(|| {
            self.replays.push(ReplayStep::new(id, at_ms));
            self.replays.len() - 1
        });
        &mut self.replays[index]
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.pending.is_empty()
            && self.settled.is_empty()
            && self.dead.is_empty()
            && self.dead_states.is_empty()
            && self.progress.is_empty()
            && self.cursors.is_empty()
            && self.forgotten.is_empty()
            && self.replays.is_empty()
    }
}

/// The methods on deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Deliveries<'a> {
    connections: &'a Connections,
}

/// Rows of one statement: SQLite takes 32,766 values in one.
const ROWS: usize = 500;

pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes a flush with the connection of either database.
macro_rules! write_flush {
    ($transaction:expr, $flush:expr) => {
        for rows in $flush.attempts.chunks(ROWS) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO delivery_attempts (subscription, sequence, number, tenant, event_id, \
                 started_at_ms, outcome, detail, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(i64::from(row.number))
                    .push_bind(row.tenant.as_str())
                    .push_bind(row.event_id.to_string())
                    .push_bind(row.started_at_ms)
                    .push_bind(row.outcome.as_str())
                    .push_bind(row.detail.as_str())
                    .push_bind(row.seal());
            });
            // After a crash an attempt may be made again under the same number.
            builder.push(
                " ON CONFLICT (subscription, sequence, number) DO UPDATE SET \
                 started_at_ms = excluded.started_at_ms, outcome = excluded.outcome, \
                 detail = excluded.detail, crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for rows in $flush.pending.chunks(ROWS) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO pending_deliveries (subscription, sequence, tenant, event_id, lane, \
                 attempts, state, next_at_ms, detail, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(row.tenant.as_str())
                    .push_bind(row.event_id.to_string())
                    .push_bind(row.lane.as_deref())
                    .push_bind(i64::from(row.attempts))
                    .push_bind(row.state.as_str())
                    .push_bind(row.next_at_ms)
                    .push_bind(row.detail.as_str())
                    .push_bind(row.seal());
            });
            builder.push(
                " ON CONFLICT (subscription, sequence) DO UPDATE SET lane = excluded.lane, \
                 attempts = excluded.attempts, state = excluded.state, \
                 next_at_ms = excluded.next_at_ms, detail = excluded.detail, crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for (subscription, sequence) in &$flush.settled {
            let query = "DELETE FROM pending_deliveries WHERE subscription = $1 AND sequence = $2";
            sqlx::query(query)
                .bind(subscription.to_string())
                .bind(number(*sequence))
                .execute(&mut *$transaction)
                .await?;
        }
        for row in &$flush.dead {
            let query = "INSERT INTO dead_letter_event (id, tenant, subscription, sequence, \
                 event_id, event_type, event, attempts, last_error, created_at_ms, state, crc) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
            sqlx::query(query)
                .bind(row.id.to_string())
                .bind(row.tenant.as_str())
                .bind(row.subscription.to_string())
                .bind(number(row.sequence))
                .bind(row.event_id.to_string())
                .bind(row.event_type.as_str())
                .bind(row.event.as_str())
                .bind(i64::from(row.attempts))
                .bind(row.last_error.as_str())
                .bind(row.created_at_ms)
                .bind(row.state.as_str())
                .bind(row.seal())
                .execute(&mut *$transaction)
                .await?;
        }
        for (id, state) in &$flush.dead_states {
            sqlx::query("UPDATE dead_letter_event SET state = $1 WHERE id = $2")
                .bind(*state)
                .bind(id.to_string())
                .execute(&mut *$transaction)
                .await?;
        }
        for rows in $flush.progress.chunks(ROWS) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO delivery_progress (subscription, sequence, places, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(row.places.as_str())
                    .push_bind(row.seal());
            });
            builder.push(
                " ON CONFLICT (subscription) DO UPDATE SET sequence = excluded.sequence, \
                 places = excluded.places, crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for row in &$flush.cursors {
            let query = "INSERT INTO delivery_cursors (topic, partition, next_offset, crc) \
                 VALUES ($1, $2, $3, $4) ON CONFLICT (topic, partition) \
                 DO UPDATE SET next_offset = excluded.next_offset, crc = excluded.crc";
            sqlx::query(query)
                .bind(row.topic.as_str())
                .bind(i64::from(row.partition))
                .bind(number(row.next_offset))
                .bind(row.seal())
                .execute(&mut *$transaction)
                .await?;
        }
        for subscription in &$flush.forgotten {
            for query in [
                "DELETE FROM pending_deliveries WHERE subscription = $1",
                "DELETE FROM delivery_progress WHERE subscription = $1",
            ] {
                sqlx::query(query)
                    .bind(subscription.to_string())
                    .execute(&mut *$transaction)
                    .await?;
            }
        }
        for step in &$flush.replays {
            // A damaged one is reported to whoever reads it; deliveries go on.
            let _ = crate::replays::step!($transaction, step);
        }
    };
}

impl<'a> Deliveries<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Writes what has happened.
    pub async fn flush(&self, flush: &Flush) -> Result<(), StoreError> {
        on_either!(self.connections, "write deliveries", connection => {
            let mut transaction = connection.begin().await?;
            write_flush!(transaction, flush);
            transaction.commit().await
        })
    }

    /// Every cursor.
    pub async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        on_either!(self.connections, "read delivery cursors", connection => {
            sqlx::query(CursorRow::ALL)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CursorRow::from_row).collect())
        })?
    }

    /// How far every subscription has come that ever got anything.
    pub async fn progress(&self) -> Result<Vec<ProgressRow>, StoreError> {
        on_either!(self.connections, "read the progress of deliveries", connection => {
            sqlx::query(ProgressRow::ALL)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ProgressRow::from_row).collect())
        })?
    }

    /// First attempts of deliveries beyond their subscription's progress: what a crash would otherwise repeat.
    pub async fn beyond_progress(&self) -> Result<Vec<AttemptRow>, StoreError> {
        let query = "SELECT attempts.* FROM delivery_attempts AS attempts \
             JOIN delivery_progress AS progress ON progress.subscription = attempts.subscription \
             WHERE attempts.sequence > progress.sequence AND attempts.number = 1";
        on_either!(self.connections, "read recent attempts", connection => {
            sqlx::query(query)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })?
    }

    /// Pending deliveries beyond their subscription's progress, some of which were never tried.
    pub async fn pending_beyond_progress(&self) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT pending.* FROM pending_deliveries AS pending \
             JOIN delivery_progress AS progress ON progress.subscription = pending.subscription \
             WHERE pending.sequence > progress.sequence";
        on_either!(self.connections, "read pending deliveries", connection => {
            sqlx::query(query)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// Pending deliveries that are due, earliest first, beyond those that a dispatcher has at hand.
    pub async fn due(&self, now_ms: i64, limit: u32) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE state = 'waiting' AND next_at_ms <= $1 \
             ORDER BY next_at_ms, subscription, sequence LIMIT $2";
        on_either!(self.connections, "read what is due", connection => {
            sqlx::query(query)
                .bind(now_ms)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// When the next pending delivery is due that is not yet, in milliseconds since 1970.
    pub async fn next_due(&self, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let query = "SELECT MIN(next_at_ms) AS next_at_ms FROM pending_deliveries \
             WHERE state = 'waiting' AND next_at_ms > $1";
        on_either!(self.connections, "read when something is due", connection => {
            sqlx::query(query)
                .bind(now_ms)
                .fetch_one(connection)
                .await
                .and_then(|row| row.optional_integer("next_at_ms"))
        })
    }

    /// The lanes of every subscription that have something pending.
    pub async fn lanes(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        let query =
            "SELECT DISTINCT subscription, lane FROM pending_deliveries WHERE lane IS NOT NULL";
        let rows: Vec<(String, String)> = on_either!(self.connections, "read the lanes", connection => {
            sqlx::query(query).fetch_all(connection).await.and_then(|rows| {
                rows.iter().map(|row| Ok((row.text("subscription")?, row.text("lane")?))).collect()
            })
        })?;
        let lanes = rows.into_iter().map(|(id, lane)| {
            let parsed = Uuid::parse_str(&id).map_err(|fault| StoreError::Corrupt {
                row: id,
                column: "subscription",
                fault: fault.to_string(),
            });
            parsed.map(|id| (id, lane))
        });
        lanes.collect()
    }

    /// Pending deliveries of a subscription, in the order of their numbers; of one lane, if it is named.
    pub async fn pending_of(
        &self,
        subscription: Uuid,
        lane: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE subscription = $1 AND sequence > $2 \
             AND (CAST($3 AS TEXT) IS NULL OR lane = $3) ORDER BY sequence LIMIT $4";
        on_either!(self.connections, "read pending deliveries", connection => {
            sqlx::query(query)
                .bind(subscription.to_string())
                .bind(number(after))
                .bind(lane)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// Pending deliveries of an event of the tenant.
    pub async fn pending_of_event(
        &self,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE event_id = $1 AND tenant = $2 \
             ORDER BY subscription, sequence";
        on_either!(self.connections, "read pending deliveries", connection => {
            sqlx::query(query)
                .bind(event_id.to_string())
                .bind(tenant.as_str())
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// Every attempt to deliver an event of the tenant.
    pub async fn attempts_of_event(
        &self,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let query = "SELECT * FROM delivery_attempts WHERE event_id = $1 AND tenant = $2 \
             ORDER BY subscription, sequence, number";
        on_either!(self.connections, "read attempts", connection => {
            sqlx::query(query)
                .bind(event_id.to_string())
                .bind(tenant.as_str())
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })?
    }

    /// Attempts of a subscription after a sequence number, in order.
    pub async fn attempts_of(
        &self,
        subscription: Uuid,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let query = "SELECT * FROM delivery_attempts WHERE subscription = $1 AND sequence > $2 \
             ORDER BY sequence, number LIMIT $3";
        on_either!(self.connections, "read attempts", connection => {
            sqlx::query(query)
                .bind(subscription.to_string())
                .bind(number(after))
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })?
    }

    /// Forgets attempts that began before a time.
    pub async fn forget_attempts(&self, before_ms: i64) -> Result<u64, StoreError> {
        on_either!(self.connections, "forget old attempts", connection => {
            sqlx::query("DELETE FROM delivery_attempts WHERE started_at_ms < $1")
                .bind(before_ms)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
        })
    }
}

impl Sealed for CursorRow {
    const TABLE: &'static str = "delivery_cursors";
    const ALL: &'static str = "SELECT * FROM delivery_cursors";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.topic.as_str());
        let seal = seal.number(i64::from(self.partition));
        seal.number(number(self.next_offset)).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a cursor";
        Ok(Self {
            topic: parsed(row, name, "topic")?,
            partition: whole(row, name, "partition")?,
            next_offset: whole(row, name, "next_offset")?,
        })
    }
}

impl Sealed for ProgressRow {
    const TABLE: &'static str = "delivery_progress";
    const ALL: &'static str = "SELECT * FROM delivery_progress";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        seal.number(number(self.sequence))
            .text(&self.places)
            .finish()
    }

    fn name(&self) -> String {
        self.subscription.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a subscription's progress";
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            sequence: whole(row, name, "sequence")?,
            places: row.text("places").map_err(attempting("read progress"))?,
        })
    }
}

impl Sealed for PendingRow {
    const TABLE: &'static str = "pending_deliveries";
    const ALL: &'static str = "SELECT * FROM pending_deliveries";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        let seal = seal
            .number(number(self.sequence))
            .text(self.tenant.as_str());
        let seal = seal.bytes(self.event_id.as_bytes());
        let seal = seal.maybe(self.lane.as_deref(), Seal::text);
        let seal = seal.number(i64::from(self.attempts)).text(&self.state);
        seal.number(self.next_at_ms).text(&self.detail).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.subscription, self.sequence)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a pending delivery";
        let unread = || attempting("read a pending delivery");
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            sequence: whole(row, name, "sequence")?,
            tenant: parsed(row, name, "tenant")?,
            event_id: parsed(row, name, "event_id")?,
            lane: row.optional_text("lane").map_err(unread())?,
            attempts: whole(row, name, "attempts")?,
            state: row.text("state").map_err(unread())?,
            next_at_ms: row.integer("next_at_ms").map_err(unread())?,
            detail: row.text("detail").map_err(unread())?,
        })
    }
}

impl Sealed for AttemptRow {
    const TABLE: &'static str = "delivery_attempts";
    const ALL: &'static str = "SELECT * FROM delivery_attempts";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        let seal = seal
            .number(number(self.sequence))
            .number(i64::from(self.number));
        let seal = seal
            .text(self.tenant.as_str())
            .bytes(self.event_id.as_bytes());
        let seal = seal.number(self.started_at_ms).text(&self.outcome);
        seal.text(&self.detail).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.subscription, self.sequence, self.number)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of an attempt";
        let unread = || attempting("read an attempt");
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            sequence: whole(row, name, "sequence")?,
            number: whole(row, name, "number")?,
            tenant: parsed(row, name, "tenant")?,
            event_id: parsed(row, name, "event_id")?,
            started_at_ms: row.integer("started_at_ms").map_err(unread())?,
            outcome: row.text("outcome").map_err(unread())?,
            detail: row.text("detail").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests;

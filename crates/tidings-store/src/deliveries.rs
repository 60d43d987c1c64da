//! How far deliveries have come: cursors, places, what still has to be delivered, and what each attempt came to.
//!
//! The dispatcher writes all of it in one transaction per [`Flush`], so that after a crash either an event lies at or
//! behind the cursor and is delivered again, or there is a row that says what became of it.

mod batches;
mod rows;

use sqlx::{Connection, QueryBuilder};
use tidings_event::{TenantId, Topic, partition_of, slot_of};
use uuid::Uuid;

use crate::StoreError;
use crate::dead_letters::{DeadLetterRow, dead_letters};
use crate::pool::{Columns, Connections, forget, on_either, pieces};
use crate::replays::ReplayStep;
use crate::seal::Sealed;

/// A share of the tenants: those whose slot leaves this rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// 0 to `of` - 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl Share {
    /// All tenants.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// Whether a tenant is among them.
    pub fn holds(self, tenant: &TenantId) -> bool {
        partition_of(tenant.as_str().as_bytes(), self.of) == self.number
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// A text that is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a share is written as a number, a slash and how many there are")]
pub struct InvalidShare;

impl std::str::FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let (number, of) = text.split_once('/').ok_or(InvalidShare)?;
        let parse = |text: &str| text.parse().map_err(|_| InvalidShare);
        let share = Self {
            number: parse(number)?,
            of: parse(of)?,
        };
        (share.number < share.of)
            .then_some(share)
            .ok_or(InvalidShare)
    }
}

/// How far one partition has been gone through for everybody without a place of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    /// Of which share of the tenants, as [`Share`] is written.
    pub share: String,
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
    /// Whose it is.
    pub tenant: TenantId,
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

pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn slot(tenant: &TenantId) -> i64 {
    i64::from(slot_of(tenant.as_str().as_bytes()))
}

/// Writes a flush with the connection of either database.
macro_rules! write_flush {
    ($transaction:expr, $flush:expr) => {
        for rows in pieces(&$flush.attempts) {
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
        for rows in pieces(&$flush.pending) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO pending_deliveries (subscription, sequence, tenant, slot, event_id, lane, \
                 attempts, state, next_at_ms, detail, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(row.tenant.as_str())
                    .push_bind(slot(&row.tenant))
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
        dead_letters!($transaction, $flush);
        for rows in pieces(&$flush.progress) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO delivery_progress (subscription, tenant, slot, sequence, places, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(row.tenant.as_str())
                    .push_bind(slot(&row.tenant))
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
            let query = "INSERT INTO delivery_cursors (share, topic, partition, next_offset, crc) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (share, topic, partition) \
                 DO UPDATE SET next_offset = excluded.next_offset, crc = excluded.crc";
            sqlx::query(query)
                .bind(row.share.as_str())
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

    /// Every cursor, of every share.
    pub async fn cursors(&self) -> Result<Vec<CursorRow>, StoreError> {
        on_either!(self.connections, "read delivery cursors", connection => {
            sqlx::query(CursorRow::ALL)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CursorRow::from_row).collect())
        })?
    }

    /// How far every subscription of a share has come that ever got anything.
    pub async fn progress(&self, share: Share) -> Result<Vec<ProgressRow>, StoreError> {
        let query = "SELECT * FROM delivery_progress WHERE slot % $1 = $2";
        on_either!(self.connections, "read the progress of deliveries", connection => {
            sqlx::query(query)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ProgressRow::from_row).collect())
        })?
    }

    /// How far these subscriptions have come, those of them that ever got anything.
    pub async fn progress_of(
        &self,
        subscriptions: &[Uuid],
    ) -> Result<Vec<ProgressRow>, StoreError> {
        let mut found = Vec::new();
        for subscriptions in pieces(subscriptions) {
            let rows = on_either!(self.connections, "read the progress of deliveries", connection => {
                let mut builder =
                    QueryBuilder::new("SELECT * FROM delivery_progress WHERE subscription IN (");
                let mut listed = builder.separated(", ");
                for id in subscriptions {
                    listed.push_bind(id.to_string());
                }
                builder.push(")");
                builder
                    .build()
                    .fetch_all(connection)
                    .await
                    .map(|rows| rows.iter().map(ProgressRow::from_row).collect::<Result<Vec<_>, _>>())
            })?;
            found.extend(rows?);
        }
        Ok(found)
    }

    /// First attempts of deliveries beyond their subscription's progress: what a crash would otherwise repeat.
    pub async fn beyond_progress(&self, share: Share) -> Result<Vec<AttemptRow>, StoreError> {
        let query = "SELECT attempts.* FROM delivery_attempts AS attempts \
             JOIN delivery_progress AS progress ON progress.subscription = attempts.subscription \
             WHERE attempts.sequence > progress.sequence AND attempts.number = 1 \
             AND progress.slot % $1 = $2";
        on_either!(self.connections, "read recent attempts", connection => {
            sqlx::query(query)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })?
    }

    /// Pending deliveries beyond their subscription's progress, some of which were never tried.
    pub async fn pending_beyond_progress(
        &self,
        share: Share,
    ) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT pending.* FROM pending_deliveries AS pending \
             JOIN delivery_progress AS progress ON progress.subscription = pending.subscription \
             WHERE pending.sequence > progress.sequence AND progress.slot % $1 = $2";
        on_either!(self.connections, "read pending deliveries", connection => {
            sqlx::query(query)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// Pending deliveries of a share that are due, earliest first.
    pub async fn due(
        &self,
        share: Share,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE state = 'waiting' AND next_at_ms <= $1 \
             AND slot % $3 = $4 ORDER BY next_at_ms, subscription, sequence LIMIT $2";
        on_either!(self.connections, "read what is due", connection => {
            sqlx::query(query)
                .bind(now_ms)
                .bind(i64::from(limit))
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })?
    }

    /// When the next pending delivery of a share is due that is not yet, in milliseconds since 1970.
    pub async fn next_due(&self, share: Share, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let query = "SELECT MIN(next_at_ms) AS next_at_ms FROM pending_deliveries \
             WHERE state = 'waiting' AND next_at_ms > $1 AND slot % $2 = $3";
        on_either!(self.connections, "read when something is due", connection => {
            sqlx::query(query)
                .bind(now_ms)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_one(connection)
                .await
                .and_then(|row| row.optional_integer("next_at_ms"))
        })
    }

    /// The lanes of every subscription of a share that have something pending, each with whether all of it is
    /// behind something that is settled by now.
    pub async fn lanes(&self, share: Share) -> Result<Vec<(Uuid, String, bool)>, StoreError> {
        let query = "SELECT subscription, lane, \
             CAST(MIN(CASE state WHEN 'behind' THEN 1 ELSE 0 END) AS BIGINT) AS headless \
             FROM pending_deliveries WHERE lane IS NOT NULL AND slot % $1 = $2 \
             GROUP BY subscription, lane";
        let rows: Vec<(String, String, bool)> = on_either!(self.connections, "read the lanes", connection => {
            let query = sqlx::query(query).bind(i64::from(share.of)).bind(i64::from(share.number));
            query.fetch_all(connection).await.and_then(|rows| {
                let lanes = rows.iter().map(|row| {
                    let headless = row.integer("headless")? == 1;
                    Ok((row.text("subscription")?, row.text("lane")?, headless))
                });
                lanes.collect()
            })
        })?;
        let lanes = rows.into_iter().map(|(id, lane, headless)| {
            let parsed = Uuid::parse_str(&id).map_err(|fault| StoreError::Corrupt {
                row: id,
                column: "subscription",
                fault: fault.to_string(),
            });
            parsed.map(|id| (id, lane, headless))
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
        let query = "DELETE FROM delivery_attempts WHERE (subscription, sequence, number) IN (\
             SELECT subscription, sequence, number FROM delivery_attempts \
             WHERE started_at_ms < $1 LIMIT $2)";
        forget(self.connections, "forget old attempts", query, before_ms).await
    }
}

#[cfg(test)]
mod tests;

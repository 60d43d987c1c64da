//! How far deliveries have come: cursors, places, what still has to be delivered, and what each attempt came to.
//!
//! The dispatcher writes all of it in one transaction per [`Flush`], so that after a crash either an event lies at or
//! behind the cursor and is delivered again, or there is a row that says what became of it.

mod batches;
mod due;
mod flush;
mod parked;
mod rows;

use sqlx::QueryBuilder;
use tidings_event::{TenantId, Topic, partition_of, slot_of};
use uuid::Uuid;

use crate::StoreError;
use crate::found::{Found, page, placed};
use crate::pool::{Columns as _, Connections, forget, on_either, pieces};
use crate::seal::Sealed;

pub use due::{Due, Waiting};
pub use flush::{Flush, Reopened, Tenure};

/// A share of the tenants: those whose name falls on partition `number` of `of`.
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

impl<'a> Deliveries<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Every cursor, of every share.
    pub async fn cursors(&self) -> Result<Found<CursorRow>, StoreError> {
        on_either!(self.connections, "read delivery cursors", connection => {
            sqlx::query(CursorRow::ALL)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CursorRow::from_row).collect())
        })
    }

    /// How far every subscription of a share has come that ever got anything.
    pub async fn progress(&self, share: Share) -> Result<Found<ProgressRow>, StoreError> {
        let query = "SELECT * FROM delivery_progress WHERE slot % $1 = $2";
        on_either!(self.connections, "read the progress of deliveries", connection => {
            sqlx::query(query)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ProgressRow::from_row).collect())
        })
    }

    /// The cursors of one partition, of every share.
    pub async fn cursors_of(
        &self,
        topic: &Topic,
        partition: u32,
    ) -> Result<Found<CursorRow>, StoreError> {
        let query = "SELECT * FROM delivery_cursors WHERE topic = $1 AND partition = $2";
        on_either!(self.connections, "read delivery cursors", connection => {
            sqlx::query(query)
                .bind(topic.as_str())
                .bind(i64::from(partition))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CursorRow::from_row).collect())
        })
    }

    /// How far these subscriptions have come, those of them that ever got anything.
    pub async fn progress_of(
        &self,
        subscriptions: &[Uuid],
    ) -> Result<Found<ProgressRow>, StoreError> {
        let mut found = Found::nothing();
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
                    .map(|rows| rows.iter().map(ProgressRow::from_row).collect::<Vec<_>>())
            })?;
            found.extend(rows);
        }
        Ok(found)
    }

    /// First attempts of deliveries beyond their subscription's progress: what a crash would otherwise repeat.
    pub async fn beyond_progress(&self, share: Share) -> Result<Found<AttemptRow>, StoreError> {
        // SQLite keeps the order of a CROSS JOIN: the few places first, and of all attempts only what is beyond them.
        let query = "SELECT attempts.* FROM delivery_progress AS progress \
             CROSS JOIN delivery_attempts AS attempts \
             WHERE attempts.subscription = progress.subscription \
             AND attempts.sequence > progress.sequence AND attempts.number = 1 \
             AND progress.slot % $1 = $2";
        on_either!(self.connections, "read recent attempts", connection => {
            sqlx::query(query)
                .bind(i64::from(share.of))
                .bind(i64::from(share.number))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })
    }

    /// Pending deliveries beyond their subscription's progress, some of which were never tried.
    pub async fn pending_beyond_progress(
        &self,
        share: Share,
    ) -> Result<Found<PendingRow>, StoreError> {
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
        })
    }

    /// Pending deliveries of a subscription, in the order of their numbers; of one lane, if it is named.
    pub async fn pending_of(
        &self,
        subscription: Uuid,
        lane: Option<&str>,
        after: u64,
        limit: u32,
    ) -> Result<Found<PendingRow>, StoreError> {
        // The beginning of a key is what the index of PostgreSQL has of it.
        let query = match lane {
            None => {
                "SELECT * FROM pending_deliveries WHERE subscription = $1 AND sequence > $2 \
                 AND CAST($3 AS TEXT) IS NULL ORDER BY sequence LIMIT $4"
            }
            Some(_) => {
                "SELECT * FROM pending_deliveries WHERE subscription = $1 AND sequence > $2 \
                 AND lane = $3 AND substr(lane, 1, 100) = substr($3, 1, 100) \
                 ORDER BY sequence LIMIT $4"
            }
        };
        page(number(after), limit, async |after, limit| {
            on_either!(self.connections, "read pending deliveries", connection => {
                let rows = sqlx::query(query)
                    .bind(subscription.to_string())
                    .bind(after)
                    .bind(lane)
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                placed(&rows, |row| row.integer("sequence"))
            })
        })
        .await
    }

    /// Pending deliveries of an event of the tenant.
    pub async fn pending_of_event(
        &self,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Found<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE event_id = $1 AND tenant = $2 \
             ORDER BY subscription, sequence";
        on_either!(self.connections, "read pending deliveries", connection => {
            sqlx::query(query)
                .bind(event_id.to_string())
                .bind(tenant.as_str())
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(PendingRow::from_row).collect())
        })
    }

    /// Every attempt to deliver an event of the tenant.
    pub async fn attempts_of_event(
        &self,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Found<AttemptRow>, StoreError> {
        let query = "SELECT * FROM delivery_attempts WHERE event_id = $1 AND tenant = $2 \
             ORDER BY subscription, sequence, number";
        on_either!(self.connections, "read attempts", connection => {
            sqlx::query(query)
                .bind(event_id.to_string())
                .bind(tenant.as_str())
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
        })
    }

    /// The last attempt of each of some deliveries of the tenant, by subscription, number and event, as long as it is kept.
    pub async fn last_attempts(
        &self,
        tenant: &TenantId,
        deliveries: &[(Uuid, u64, Uuid)],
    ) -> Result<Found<AttemptRow>, StoreError> {
        let mut all = Found::nothing();
        for deliveries in pieces(deliveries) {
            let rows: Vec<Result<AttemptRow, StoreError>> = on_either!(self.connections, "read last attempts", connection => {
                let mut builder =
                    QueryBuilder::new("SELECT * FROM delivery_attempts AS attempts WHERE tenant = ");
                builder.push_bind(tenant.as_str()).push(
                    " AND number = (SELECT MAX(number) FROM delivery_attempts AS of_it \
                     WHERE of_it.subscription = attempts.subscription \
                     AND of_it.sequence = attempts.sequence AND of_it.event_id = attempts.event_id) AND (",
                );
                let mut any = builder.separated(" OR ");
                for (subscription, sequence, event_id) in deliveries {
                    any.push("(subscription = ");
                    any.push_bind_unseparated(subscription.to_string());
                    any.push_unseparated(" AND sequence = ");
                    any.push_bind_unseparated(number(*sequence));
                    any.push_unseparated(" AND event_id = ");
                    any.push_bind_unseparated(event_id.to_string());
                    any.push_unseparated(")");
                }
                builder.push(")");
                builder
                    .build()
                    .fetch_all(connection)
                    .await
                    .map(|rows| rows.iter().map(AttemptRow::from_row).collect())
            })?;
            all.extend(rows);
        }
        Ok(all)
    }

    /// When the newest attempt began, in milliseconds since 1970, if any is kept.
    pub async fn newest_attempt(&self) -> Result<Option<i64>, StoreError> {
        let query = "SELECT MAX(started_at_ms) AS newest FROM delivery_attempts";
        on_either!(self.connections, "read when the newest attempt began", connection => {
            let row = sqlx::query(query).fetch_one(connection).await?;
            row.optional_integer("newest")
        })
    }

    /// Attempts of a subscription after a sequence number and the number of an attempt of it, in order.
    pub async fn attempts_of(
        &self,
        subscription: Uuid,
        after: (u64, u32),
        limit: u32,
    ) -> Result<Found<AttemptRow>, StoreError> {
        let query = "SELECT * FROM delivery_attempts WHERE subscription = $1 \
             AND (sequence, number) > ($2, $3) ORDER BY sequence, number LIMIT $4";
        let after = (number(after.0), i64::from(after.1));
        page(after, limit, async |after, limit| {
            on_either!(self.connections, "read attempts", connection => {
                let rows = sqlx::query(query)
                    .bind(subscription.to_string())
                    .bind(after.0)
                    .bind(after.1)
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                placed(&rows, |row| Ok((row.integer("sequence")?, row.integer("number")?)))
            })
        })
        .await
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

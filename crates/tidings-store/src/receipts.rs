//! Idempotency keys of an installation whose log does not keep them: reserved, completed, withdrawn.
//!
//! PostgreSQL only: with the embedded log they stand in the log. Each method is one statement over arrays,
//! so that a batch costs one round trip and is decided whole. Rows are always locked in the order of the
//! primary key, so that batches with common keys cannot dead-lock. Time is the server's.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Executor, Pool, Postgres, Row};
use tidings_event::TenantId;
use uuid::Uuid;

use crate::pool::on_postgres;
use crate::{StoreError, attempting};

/// Expired rows that one statement deletes at most.
const SWEEP: i64 = 5_000;

/// Counters of one tenant: so many publishes of it commit without waiting for each other.
const SLOTS: u16 = 16;

const CLAIM: &str = include_str!("receipts/claim.sql");
const SETTLE: &str = include_str!("receipts/settle.sql");
const RELEASE: &str = include_str!("receipts/release.sql");
const SWEEP_SQL: &str = include_str!("receipts/sweep.sql");

/// Whose key, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptKey {
    /// The key itself.
    pub key: String,
    /// The tenant.
    pub tenant: TenantId,
    /// Who used it, within the tenant.
    pub principal: String,
}

/// A key to reserve.
#[derive(Debug, Clone, Copy)]
pub struct Reservation<'a> {
    /// The key.
    pub key: &'a ReceiptKey,
    /// Of the body.
    pub fingerprint: u128,
    /// The event to publish if nobody tried before.
    pub event_id: Uuid,
    /// Tells this attempt from others.
    pub token: Uuid,
}

/// Where a completed key's event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The event.
    pub event_id: Uuid,
    /// The topic's name.
    pub topic: String,
    /// Its partition's number.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
}

/// A key to complete.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a> {
    /// What was reserved, with the event that was appended.
    pub reservation: Reservation<'a>,
    /// Where it stands.
    pub place: &'a Place,
}

/// What one key was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// It is reserved for this token now.
    Held {
        /// The event to publish.
        event_id: Uuid,
        /// Whether an earlier attempt may have published it.
        inherited: bool,
    },
    /// It was completed with the same fingerprint.
    Completed(Place),
    /// It stands with another fingerprint.
    Reused,
    /// Another token has it at the moment.
    Busy,
}

/// The methods on idempotency keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Receipts {
    pool: Pool<Postgres>,
}

impl Receipts {
    pub(crate) fn new(pool: Pool<Postgres>) -> Self {
        Self { pool }
    }

    /// Reserves what is free, whose lease is over, or expired; one answer for each, in order.
    /// A key may be given once only.
    pub async fn claim(
        &self,
        wanted: &[Reservation<'_>],
        lease: Duration,
        time_to_live: Duration,
    ) -> Result<Vec<Reserved>, StoreError> {
        let query = keyed(CLAIM, wanted.iter().map(|wanted| wanted.key))
            .bind(column(wanted, |wanted| Uuid::from_u128(wanted.fingerprint)))
            .bind(column(wanted, |wanted| wanted.event_id))
            .bind(column(wanted, |wanted| wanted.token))
            .bind(millis(lease))
            .bind(millis(time_to_live));
        let rows = on_postgres!(&self.pool, "reserve idempotency keys", connection => connection.fetch_all(query).await)?;
        rows.iter()
            .zip(wanted)
            .map(|(row, wanted)| reserved(row, wanted))
            .collect()
    }

    /// Completes keys that their token still has, or that are gone; leaves the others. Each key that
    /// becomes completed counts for its tenant.
    pub async fn settle(
        &self,
        settled: &[Completion<'_>],
        time_to_live: Duration,
    ) -> Result<(), StoreError> {
        let too_far = |settled: &Completion<'_>| StoreError::Corrupt {
            row: settled.place.event_id.to_string(),
            column: "log_offset",
            fault: format!("{}", settled.place.offset),
        };
        let offsets = settled.iter();
        let offsets = offsets.map(|it| i64::try_from(it.place.offset).map_err(|_| too_far(it)));
        let offsets: Vec<i64> = offsets.collect::<Result<_, _>>()?;
        // Any token is as good as another to spread by.
        let slot = settled
            .first()
            .map_or(0, |it| it.reservation.token.as_bytes()[15]);
        let query = keyed(SETTLE, settled.iter().map(|it| it.reservation.key))
            .bind(column(settled, |it| {
                Uuid::from_u128(it.reservation.fingerprint)
            }))
            .bind(column(settled, |it| it.place.event_id))
            .bind(column(settled, |it| it.reservation.token))
            .bind(column(settled, |it| it.place.topic.as_str()))
            .bind(column(settled, |it| i64::from(it.place.partition)))
            .bind(offsets)
            .bind(millis(time_to_live))
            .bind(i16::try_from(u16::from(slot) % SLOTS).unwrap_or_default());
        let done = on_postgres!(&self.pool, "complete idempotency keys", connection => connection.execute(query).await);
        done.map(drop)
    }

    /// Gives up reservations that their token still has: removes them, or with `keep` ends their lease and
    /// keeps their event id.
    pub async fn release(&self, released: &[(Reservation<'_>, bool)]) -> Result<(), StoreError> {
        let query = keyed(RELEASE, released.iter().map(|(it, _)| it.key))
            .bind(column(released, |(it, _)| it.token))
            .bind(column(released, |(_, keep)| *keep));
        let done = on_postgres!(&self.pool, "release idempotency keys", connection => connection.execute(query).await);
        done.map(drop)
    }

    /// How many keys of the tenant were completed, ever.
    pub async fn count(&self, tenant: &TenantId) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "SELECT COALESCE(SUM(completed), 0)::bigint FROM receipt_counts WHERE tenant = $1",
        )
        .bind(tenant.as_str());
        let row = on_postgres!(&self.pool, "count idempotency keys", connection => connection.fetch_one(query).await)?;
        let completed: i64 = row
            .try_get(0)
            .map_err(attempting("count idempotency keys"))?;
        Ok(completed.unsigned_abs())
    }

    /// Deletes expired rows, a bounded number; answers how many.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let query = sqlx::query(SWEEP_SQL).bind(SWEEP);
        let done = on_postgres!(&self.pool, "delete expired idempotency keys", connection => connection.execute(query).await)?;
        Ok(done.rows_affected())
    }

    /// Whether the server answers.
    pub async fn health(&self) -> Result<(), StoreError> {
        let asked =
            on_postgres!(&self.pool, "answer", connection => connection.execute("SELECT 1").await);
        asked.map(drop)
    }
}

type Query<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

/// A statement whose first three arguments are tenants, principals and keys.
fn keyed<'q>(sql: &'static str, keys: impl Iterator<Item = &'q ReceiptKey> + Clone) -> Query<'q> {
    let column = |of: fn(&'q ReceiptKey) -> &'q str| keys.clone().map(of).collect::<Vec<_>>();
    sqlx::query(sql)
        .bind(column(|key| key.tenant.as_str()))
        .bind(column(|key| key.principal.as_str()))
        .bind(column(|key| key.key.as_str()))
}

fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn reserved(row: &PgRow, wanted: &Reservation<'_>) -> Result<Reserved, StoreError> {
    let unread = || attempting("read an idempotency key");
    if let Some(event_id) = row.try_get("held_event_id").map_err(unread())? {
        let inherited: Option<bool> = row.try_get("inherited").map_err(unread())?;
        let inherited = inherited.unwrap_or(true);
        return Ok(Reserved::Held {
            event_id,
            inherited,
        });
    }
    // What it was when the statement began. Nothing then, or expired: another came first just now.
    let fingerprint: Option<Uuid> = row.try_get("fingerprint").map_err(unread())?;
    match fingerprint {
        None => return Ok(Reserved::Busy),
        Some(print) if print.as_u128() != wanted.fingerprint => return Ok(Reserved::Reused),
        Some(_) => {}
    }
    let topic: Option<String> = row.try_get("topic").map_err(unread())?;
    let Some(topic) = topic else {
        return Ok(Reserved::Busy);
    };
    let number = |column: &'static str| {
        let number: i64 = row.try_get(column).map_err(unread())?;
        u64::try_from(number).map_err(|_| corrupt(wanted, column, number))
    };
    let partition = number("partition")?;
    Ok(Reserved::Completed(Place {
        event_id: row.try_get("event_id").map_err(unread())?,
        topic,
        partition: u32::try_from(partition).map_err(|_| corrupt(wanted, "partition", partition))?,
        offset: number("log_offset")?,
    }))
}

fn corrupt(wanted: &Reservation<'_>, column: &'static str, fault: impl ToString) -> StoreError {
    StoreError::Corrupt {
        row: wanted.key.key.clone(),
        column,
        fault: fault.to_string(),
    }
}

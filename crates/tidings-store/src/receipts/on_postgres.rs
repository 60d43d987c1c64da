//! Idempotency keys in PostgreSQL, shared by replicas.
//!
//! Each method is one statement over arrays, so that a batch costs one round trip and is decided whole. Rows are
//! always locked in the order of the primary key, so that batches with common keys cannot dead-lock. Time is the
//! server's.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Executor, Postgres, Row};
use tidings_event::TenantId;
use uuid::Uuid;

use super::{Completion, Place, ReceiptKey, Reservation, Reserved, SWEEP, corrupt, millis, offset};
use crate::pool::{OfPostgres, on_postgres};
use crate::{StoreError, attempting};

/// Counters of one tenant: so many publishes of it commit without waiting for each other.
const SLOTS: u16 = 16;

const CLAIM: &str = include_str!("claim.sql");
const LOOK_UP: &str = include_str!("look_up.sql");
const SETTLE: &str = include_str!("settle.sql");
const RELEASE: &str = include_str!("release.sql");
const SWEEP_SQL: &str = include_str!("sweep.sql");

/// The methods, on one pool.
#[derive(Debug, Clone)]
pub(super) struct OnPostgres {
    postgres: OfPostgres,
}

impl OnPostgres {
    pub(super) fn new(postgres: OfPostgres) -> Self {
        Self { postgres }
    }

    pub(super) async fn claim(
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
        let rows = on_postgres!(self.postgres, "reserve idempotency keys", connection => connection.fetch_all(query).await)?;
        rows.iter()
            .zip(wanted)
            .map(|(row, wanted)| reserved(row, wanted))
            .collect()
    }

    pub(super) async fn look_up(&self, wanted: &Reservation<'_>) -> Result<Reserved, StoreError> {
        let query = sqlx::query(LOOK_UP)
            .bind(wanted.key.tenant.as_str())
            .bind(wanted.key.principal.as_str())
            .bind(wanted.key.key.as_str())
            .bind(Uuid::from_u128(wanted.fingerprint));
        let row = on_postgres!(self.postgres, "look an idempotency key up", connection => connection.fetch_optional(query).await)?;
        row.map_or(
            Ok(Reserved::Held {
                event_id: wanted.event_id,
                inherited: false,
            }),
            |row| reserved(&row, wanted),
        )
    }

    pub(super) async fn settle(
        &self,
        settled: &[Completion<'_>],
        time_to_live: Duration,
    ) -> Result<(), StoreError> {
        let offsets: Vec<i64> = settled
            .iter()
            .map(|it| offset(it.place))
            .collect::<Result<_, _>>()?;
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
        let done = on_postgres!(self.postgres, "complete idempotency keys", connection => connection.execute(query).await);
        done.map(drop)
    }

    pub(super) async fn release(
        &self,
        released: &[(Reservation<'_>, bool)],
    ) -> Result<(), StoreError> {
        let query = keyed(RELEASE, released.iter().map(|(it, _)| it.key))
            .bind(column(released, |(it, _)| it.token))
            .bind(column(released, |(_, keep)| *keep));
        let done = on_postgres!(self.postgres, "release idempotency keys", connection => connection.execute(query).await);
        done.map(drop)
    }

    pub(super) async fn count(&self, tenant: &TenantId) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "SELECT COALESCE(SUM(completed), 0)::bigint FROM receipt_counts WHERE tenant = $1",
        )
        .bind(tenant.as_str());
        let row = on_postgres!(self.postgres, "count idempotency keys", connection => connection.fetch_one(query).await)?;
        let completed: i64 = row
            .try_get(0)
            .map_err(attempting("count idempotency keys"))?;
        Ok(completed.unsigned_abs())
    }

    pub(super) async fn sweep(&self) -> Result<u64, StoreError> {
        let query = sqlx::query(SWEEP_SQL).bind(SWEEP);
        let done = on_postgres!(self.postgres, "delete expired idempotency keys", connection => connection.execute(query).await)?;
        Ok(done.rows_affected())
    }

    pub(super) async fn health(&self) -> Result<(), StoreError> {
        let asked = on_postgres!(self.postgres, "answer", connection => connection.execute("SELECT 1").await);
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
        u64::try_from(number).map_err(|_| corrupt(&wanted.key.key, column, number))
    };
    let partition = number("partition")?;
    Ok(Reserved::Completed(Place {
        event_id: row.try_get("event_id").map_err(unread())?,
        topic,
        partition: u32::try_from(partition)
            .map_err(|_| corrupt(&wanted.key.key, "partition", partition))?,
        offset: number("log_offset")?,
    }))
}

//! Idempotency keys in the SQLite of a data folder, for the one process that has it.
//!
//! A call is one transaction over many keys: it reads their rows, decides in [`reserved`] and its like as the
//! statements on PostgreSQL do, and writes what changed with its checksum. Lists go in as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Executor, Pool, Row, Sqlite, SqliteConnection, Transaction};
use tidings_event::TenantId;
use uuid::Uuid;

use super::{Completion, Place, ReceiptKey, Reservation, Reserved, SWEEP, corrupt, millis, offset};
use crate::pool::{Columns, OfSqlite};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting};

const READ: &str = "SELECT CAST(ROUND(unixepoch('now', 'subsec') * 1000) AS INTEGER) AS now_ms, kept.* \
     FROM json_each($1) AS wanted LEFT JOIN receipts AS kept ON kept.key = wanted.value ->> 0 \
     AND kept.tenant = wanted.value ->> 1 AND kept.principal = wanted.value ->> 2 ORDER BY wanted.id";

const WRITE: &str = "INSERT INTO receipts (key, tenant, principal, fingerprint, event_id, token, inherited, \
     lease_ends_at_ms, expires_at_ms, topic, partition, log_offset, crc) \
     SELECT value ->> 0, value ->> 1, value ->> 2, unhex(value ->> 3), unhex(value ->> 4), unhex(value ->> 5), \
     value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12 \
     FROM json_each($1) WHERE TRUE \
     ON CONFLICT (key, tenant, principal) DO UPDATE SET fingerprint = excluded.fingerprint, \
     event_id = excluded.event_id, token = excluded.token, inherited = excluded.inherited, \
     lease_ends_at_ms = excluded.lease_ends_at_ms, expires_at_ms = excluded.expires_at_ms, \
     topic = excluded.topic, partition = excluded.partition, log_offset = excluded.log_offset, crc = excluded.crc";

const REMOVE: &str = "DELETE FROM receipts WHERE (key, tenant, principal) IN \
     (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each($1))";

const SWEEP_SQL: &str = "DELETE FROM receipts WHERE rowid IN (SELECT rowid FROM receipts \
     WHERE expires_at_ms <= unixepoch('now', 'subsec') * 1000 ORDER BY expires_at_ms LIMIT $1)";

const COUNT: &str = "INSERT INTO receipt_counts (tenant, completed, crc) VALUES ($1, $2, $3) \
     ON CONFLICT (tenant) DO UPDATE SET completed = excluded.completed, crc = excluded.crc";

/// Rows that a check holds at once: a day's keys may be millions.
const CHECKED_AT_ONCE: i64 = 10_000;

/// The methods, on the connections of the store.
#[derive(Debug, Clone)]
pub(super) struct OnSqlite {
    sqlite: OfSqlite,
}

/// A key as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReceiptRow {
    key: String,
    tenant: String,
    principal: String,
    fingerprint: u128,
    event_id: Uuid,
    token: Uuid,
    inherited: bool,
    lease_ends_at_ms: i64,
    expires_at_ms: i64,
    place: Option<(String, i64, i64)>,
}

/// How many keys a tenant has completed.
struct CountRow {
    tenant: String,
    completed: i64,
}

impl OnSqlite {
    pub(super) fn new(sqlite: OfSqlite) -> Self {
        Self { sqlite }
    }

    async fn to_write(&self, doing: &'static str) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.sqlite
            .acquire_to_write()
            .await
            .map_err(attempting(doing))
    }

    pub(super) async fn claim(
        &self,
        wanted: &[Reservation<'_>],
        lease: Duration,
        time_to_live: Duration,
    ) -> Result<Vec<Reserved>, StoreError> {
        let doing = "reserve idempotency keys";
        let mut connection = self.to_write(doing).await?;
        let mut transaction = begin(&mut connection, doing).await?;
        let rows = read(&mut transaction, wanted.iter().map(|it| it.key)).await?;
        let (mut answers, mut held) = (Vec::with_capacity(wanted.len()), Vec::new());
        for ((now_ms, kept), wanted) in rows.into_iter().zip(wanted) {
            let (answer, row) = reserved(kept, wanted, now_ms)?;
            answers.push(answer);
            held.extend(row.map(|row| ReceiptRow {
                lease_ends_at_ms: now_ms.saturating_add(millis(lease)),
                expires_at_ms: now_ms.saturating_add(millis(time_to_live)),
                ..row
            }));
        }
        write(&mut transaction, &held).await?;
        transaction.commit().await.map_err(attempting(doing))?;
        Ok(answers)
    }

    pub(super) async fn look_up(&self, wanted: &Reservation<'_>) -> Result<Reserved, StoreError> {
        let connection = self.sqlite.pool.acquire().await;
        let mut connection = connection.map_err(attempting("look an idempotency key up"))?;
        let rows = read(&mut connection, std::iter::once(wanted.key)).await?;
        // Of one key there is one row, with the time.
        let (now_ms, kept) = rows.into_iter().next().unwrap_or_default();
        reserved(kept, wanted, now_ms).map(|(answer, _)| answer)
    }

    pub(super) async fn settle(
        &self,
        settled: &[Completion<'_>],
        time_to_live: Duration,
    ) -> Result<(), StoreError> {
        let doing = "complete idempotency keys";
        let mut connection = self.to_write(doing).await?;
        let mut transaction = begin(&mut connection, doing).await?;
        let keys = settled.iter().map(|it| it.reservation.key);
        let rows = read(&mut transaction, keys).await?;
        let (mut done, mut counts) = (Vec::with_capacity(settled.len()), BTreeMap::new());
        for ((now_ms, kept), settled) in rows.into_iter().zip(settled) {
            let expires_at_ms = now_ms.saturating_add(millis(time_to_live));
            if let Some(row) = completed(kept, settled, now_ms, expires_at_ms)? {
                *counts.entry(row.tenant.clone()).or_default() += 1;
                done.push(row);
            }
        }
        write(&mut transaction, &done).await?;
        add(&mut transaction, counts).await?;
        transaction.commit().await.map_err(attempting(doing))
    }

    pub(super) async fn release(
        &self,
        released: &[(Reservation<'_>, bool)],
    ) -> Result<(), StoreError> {
        let doing = "release idempotency keys";
        let mut connection = self.to_write(doing).await?;
        let mut transaction = begin(&mut connection, doing).await?;
        let rows = read(&mut transaction, released.iter().map(|(it, _)| it.key)).await?;
        let (mut ended, mut removed) = (Vec::new(), Vec::new());
        for ((_, kept), (reservation, keep)) in rows.into_iter().zip(released) {
            let own = kept.filter(|row| row.place.is_none() && row.token == reservation.token);
            match own {
                Some(row) if *keep => ended.push(ReceiptRow {
                    lease_ends_at_ms: 0,
                    ..row
                }),
                Some(_) => removed.push(reservation.key),
                None => {}
            }
        }
        write(&mut transaction, &ended).await?;
        if !removed.is_empty() {
            let removing = sqlx::query(REMOVE).bind(listed(removed.into_iter()));
            let removing = transaction.execute(removing).await;
            removing.map_err(attempting(doing))?;
        }
        transaction.commit().await.map_err(attempting(doing))
    }

    pub(super) async fn count(&self, tenant: &TenantId) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT * FROM receipt_counts WHERE tenant = $1");
        let row = query
            .bind(tenant.as_str())
            .fetch_optional(&self.sqlite.pool)
            .await;
        let row = row.map_err(attempting("count idempotency keys"))?;
        let counted = row.as_ref().map(CountRow::from_row).transpose()?;
        Ok(counted.map_or(0, |row| row.completed.unsigned_abs()))
    }

    pub(super) async fn sweep(&self) -> Result<u64, StoreError> {
        let doing = "delete expired idempotency keys";
        let mut connection = self.to_write(doing).await?;
        let swept = sqlx::query(SWEEP_SQL).bind(SWEEP);
        let done = swept
            .execute(&mut *connection)
            .await
            .map_err(attempting(doing))?;
        Ok(done.rows_affected())
    }

    pub(super) async fn health(&self) -> Result<(), StoreError> {
        let asked = self.sqlite.pool.execute("SELECT 1").await;
        asked.map(drop).map_err(attempting("answer"))
    }
}

async fn begin<'c>(
    connection: &'c mut SqliteConnection,
    doing: &'static str,
) -> Result<Transaction<'c, Sqlite>, StoreError> {
    let begun = connection.begin_with("BEGIN IMMEDIATE").await;
    begun.map_err(attempting(doing))
}

/// What a key is to a claim, and its row if the claim has it; lease and expiry are the caller's to set.
fn reserved(
    kept: Option<ReceiptRow>,
    wanted: &Reservation<'_>,
    now_ms: i64,
) -> Result<(Reserved, Option<ReceiptRow>), StoreError> {
    let kept = kept.filter(|row| row.expires_at_ms > now_ms);
    let Some(row) = kept else {
        let held = Reserved::Held {
            event_id: wanted.event_id,
            inherited: false,
        };
        return Ok((held, Some(ReceiptRow::new(wanted))));
    };
    if row.fingerprint != wanted.fingerprint {
        return Ok((Reserved::Reused, None));
    }
    if let Some((topic, partition, offset)) = row.place {
        let bad = |column, number: i64| corrupt(&row.key, column, number);
        let place = Place {
            event_id: row.event_id,
            topic,
            partition: u32::try_from(partition).map_err(|_| bad("partition", partition))?,
            offset: u64::try_from(offset).map_err(|_| bad("log_offset", offset))?,
        };
        return Ok((Reserved::Completed(place), None));
    }
    let own = row.token == wanted.token;
    if !own && row.lease_ends_at_ms > now_ms {
        return Ok((Reserved::Busy, None));
    }
    let inherited = row.inherited || !own;
    let held = Reserved::Held {
        event_id: row.event_id,
        inherited,
    };
    let row = ReceiptRow {
        token: wanted.token,
        inherited,
        ..row
    };
    Ok((held, Some(row)))
}

/// The row of a key that becomes completed: its token has it, or it is gone.
fn completed(
    kept: Option<ReceiptRow>,
    settled: &Completion<'_>,
    now_ms: i64,
    expires_at_ms: i64,
) -> Result<Option<ReceiptRow>, StoreError> {
    let reservation = &settled.reservation;
    let row = match kept.filter(|row| row.expires_at_ms > now_ms) {
        None => ReceiptRow {
            expires_at_ms,
            ..ReceiptRow::new(reservation)
        },
        Some(row) if row.place.is_none() && row.token == reservation.token => row,
        Some(_) => return Ok(None),
    };
    let place = settled.place;
    Ok(Some(ReceiptRow {
        fingerprint: reservation.fingerprint,
        event_id: place.event_id,
        place: Some((
            place.topic.clone(),
            i64::from(place.partition),
            offset(place)?,
        )),
        ..row
    }))
}

/// Keys as JSON.
fn listed<'a>(keys: impl Iterator<Item = &'a ReceiptKey>) -> String {
    let keys = keys.map(|it| serde_json::json!([it.key, it.tenant.as_str(), it.principal]));
    serde_json::Value::Array(keys.collect()).to_string()
}

/// The time, and what stands under each key.
async fn read<'a>(
    connection: &mut SqliteConnection,
    keys: impl Iterator<Item = &'a ReceiptKey>,
) -> Result<Vec<(i64, Option<ReceiptRow>)>, StoreError> {
    let unread = || attempting("read idempotency keys");
    let rows = sqlx::query(READ).bind(listed(keys)).fetch_all(connection);
    let rows = rows.await.map_err(unread())?;
    let rows = rows.iter().map(|row: &SqliteRow| {
        let now_ms = row.try_get("now_ms").map_err(unread())?;
        let stands = row.optional_text("key").map_err(unread())?.is_some();
        let kept = stands.then(|| ReceiptRow::from_row(row)).transpose()?;
        Ok((now_ms, kept))
    });
    rows.collect()
}

async fn write(connection: &mut SqliteConnection, rows: &[ReceiptRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = rows.iter().map(|row| {
        let (topic, partition, offset) = match &row.place {
            Some((topic, partition, offset)) => (Some(topic), Some(partition), Some(offset)),
            None => (None, None, None),
        };
        serde_json::json!([
            row.key,
            row.tenant,
            row.principal,
            Uuid::from_u128(row.fingerprint).simple(),
            row.event_id.simple(),
            row.token.simple(),
            i64::from(row.inherited),
            row.lease_ends_at_ms,
            row.expires_at_ms,
            topic,
            partition,
            offset,
            row.seal()
        ])
    });
    let rows = serde_json::Value::Array(rows.collect()).to_string();
    let written = connection.execute(sqlx::query(WRITE).bind(rows)).await;
    written
        .map(drop)
        .map_err(attempting("write idempotency keys"))
}

/// Counts keys that became completed.
async fn add(
    connection: &mut SqliteConnection,
    counts: BTreeMap<String, i64>,
) -> Result<(), StoreError> {
    let failed = || attempting("count idempotency keys");
    for (tenant, more) in counts {
        let query = sqlx::query("SELECT * FROM receipt_counts WHERE tenant = $1").bind(&tenant);
        let row = query.fetch_optional(&mut *connection).await;
        let row = row.map_err(failed())?;
        let before = row.as_ref().map(CountRow::from_row).transpose()?;
        let completed = before.map_or(0, |row| row.completed).saturating_add(more);
        let row = CountRow { tenant, completed };
        let query = sqlx::query(COUNT)
            .bind(&row.tenant)
            .bind(row.completed)
            .bind(row.seal());
        connection.execute(query).await.map_err(failed())?;
    }
    Ok(())
}

/// What is wrong with any row. An older version's store has none.
pub(crate) async fn findings(pool: &Pool<Sqlite>) -> Result<Vec<String>, StoreError> {
    let failed = || attempting("check the store");
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'receipt_counts'";
    let there: i64 = sqlx::query_scalar(sql)
        .fetch_one(pool)
        .await
        .map_err(failed())?;
    if there == 0 {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(CountRow::ALL).fetch_all(pool).await;
    let rows = rows.map_err(failed())?;
    let bad = rows.iter().filter_map(|row| CountRow::from_row(row).err());
    let mut findings: Vec<String> = bad.map(|error| error.to_string()).collect();
    let mut seen = 0_i64;
    loop {
        let sql = "SELECT rowid, * FROM receipts WHERE rowid > $1 ORDER BY rowid LIMIT $2";
        let rows = sqlx::query(sql)
            .bind(seen)
            .bind(CHECKED_AT_ONCE)
            .fetch_all(pool);
        let rows = rows.await.map_err(failed())?;
        let Some(last) = rows.last() else {
            return Ok(findings);
        };
        seen = last.try_get("rowid").map_err(failed())?;
        let bad = rows
            .iter()
            .filter_map(|row| ReceiptRow::from_row(row).err());
        findings.extend(bad.map(|error| error.to_string()));
    }
}

impl ReceiptRow {
    fn new(wanted: &Reservation<'_>) -> Self {
        Self {
            key: wanted.key.key.clone(),
            tenant: wanted.key.tenant.as_str().to_owned(),
            principal: wanted.key.principal.clone(),
            fingerprint: wanted.fingerprint,
            event_id: wanted.event_id,
            token: wanted.token,
            inherited: false,
            lease_ends_at_ms: 0,
            expires_at_ms: 0,
            place: None,
        }
    }
}

impl Sealed for ReceiptRow {
    const TABLE: &'static str = "receipts";
    const ALL: &'static str = "SELECT * FROM receipts";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.key);
        let seal = seal.text(&self.tenant).text(&self.principal);
        let seal = seal.bytes(&self.fingerprint.to_be_bytes());
        let seal = seal.bytes(self.event_id.as_bytes());
        let seal = seal
            .bytes(self.token.as_bytes())
            .number(i64::from(self.inherited));
        let seal = seal
            .number(self.lease_ends_at_ms)
            .number(self.expires_at_ms);
        let place = self.place.as_ref();
        seal.maybe(place, |seal, (topic, partition, offset)| {
            seal.text(topic).number(*partition).number(*offset)
        })
        .finish()
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.tenant, self.principal, self.key)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read an idempotency key");
        let key = row.text("key").map_err(unread())?;
        let sixteen = |column: &'static str| {
            let bytes = row.bytes(column).map_err(unread())?;
            Uuid::from_slice(bytes).map_err(|fault| corrupt(&key, column, fault))
        };
        let (fingerprint, event_id, token) = (
            sixteen("fingerprint")?,
            sixteen("event_id")?,
            sixteen("token")?,
        );
        let topic = row.optional_text("topic").map_err(unread())?;
        let partition = row.optional_integer("partition").map_err(unread())?;
        let offset = row.optional_integer("log_offset").map_err(unread())?;
        let place = match (topic, partition, offset) {
            (Some(topic), Some(partition), Some(offset)) => Some((topic, partition, offset)),
            (None, None, None) => None,
            _ => return Err(corrupt(&key, "topic", "a place without all its parts")),
        };
        Ok(Self {
            tenant: row.text("tenant").map_err(unread())?,
            principal: row.text("principal").map_err(unread())?,
            fingerprint: fingerprint.as_u128(),
            event_id,
            token,
            inherited: row.integer("inherited").map_err(unread())? != 0,
            lease_ends_at_ms: row.integer("lease_ends_at_ms").map_err(unread())?,
            expires_at_ms: row.integer("expires_at_ms").map_err(unread())?,
            place,
            key,
        })
    }
}

impl Sealed for CountRow {
    const TABLE: &'static str = "receipt_counts";
    const ALL: &'static str = "SELECT * FROM receipt_counts";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.tenant);
        seal.number(self.completed).finish()
    }

    fn name(&self) -> String {
        self.tenant.clone()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("count idempotency keys");
        Ok(Self {
            tenant: row.text("tenant").map_err(unread())?,
            completed: row.integer("completed").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn a_changed_receipt_is_reported_and_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let store = Store::open(&file).await.unwrap();
        let key = ReceiptKey {
            key: "k-1".into(),
            tenant: "acme".parse().unwrap(),
            principal: "crm".into(),
        };
        let wanted = Reservation {
            key: &key,
            fingerprint: 7,
            event_id: Uuid::from_u128(1),
            token: Uuid::from_u128(2),
        };
        let place = Place {
            event_id: wanted.event_id,
            topic: "crm.events".into(),
            partition: 3,
            offset: 5,
        };
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        let receipts = store.receipts();
        receipts.claim(&[wanted], second, day).await.unwrap();
        let done = Completion {
            reservation: wanted,
            place: &place,
        };
        receipts.settle(&[done], day).await.unwrap();
        assert_eq!(Store::verify(&file).await.unwrap(), Vec::<String>::new());
        let pool =
            Pool::<Sqlite>::connect_with(sqlx::sqlite::SqliteConnectOptions::new().filename(&file))
                .await
                .unwrap();
        for damage in [
            "UPDATE receipts SET log_offset = 6",
            "UPDATE receipt_counts SET completed = 2",
        ] {
            pool.execute(damage).await.unwrap();
        }
        assert!(matches!(
            receipts.claim(&[wanted], second, day).await,
            Err(StoreError::Damaged { .. })
        ));
        assert!(receipts.count(&key.tenant).await.is_err());
        assert_eq!(Store::verify(&file).await.unwrap().len(), 2);
    }
}

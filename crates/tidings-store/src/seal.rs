//! A checksum in each row: what a disk has changed is reported and never served.
//!
//! The database's own checks see its pages and indexes, not what stands in a row. A row that is
//! gone as a whole they do see: each table has an index beside it that still names the row.

use sqlx::{Pool, Sqlite, SqliteConnection};

use crate::custom_events::{CustomEventRow, CustomEventTenantRow};
use crate::emits::UsageRow;
use crate::pool::Columns;
use crate::{
    ApiKeyRow, AttemptRow, CatalogRow, CauseRow, ChatMessageRow, CursorRow, DeadLetterRow, EmitRow,
    ExtensionRow, ExtensionSubscriptionRow, ManifestRow, MemberRow, OutboxRow, PendingRow,
    ProgressRow, ReplayRow, SessionRow, StoreError, SubscriptionRow, TenantRow, TopicRow,
    WorkspaceRow, attempting,
};

/// The CRC-32 of a row: its table and each field with its length, so that no two rows run into
/// one.
pub(crate) struct Seal(crc32fast::Hasher);

impl Seal {
    pub(crate) fn of(table: &str) -> Self {
        Self(crc32fast::Hasher::new()).text(table)
    }

    pub(crate) fn bytes(mut self, field: &[u8]) -> Self {
        self.0.update(&(field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    pub(crate) fn text(self, field: &str) -> Self {
        self.bytes(field.as_bytes())
    }

    pub(crate) fn number(self, field: i64) -> Self {
        self.bytes(&field.to_le_bytes())
    }

    /// A field that may be absent, which is not the same as empty.
    pub(crate) fn maybe<T>(self, field: Option<T>, add: impl FnOnce(Self, T) -> Self) -> Self {
        match field {
            None => self.bytes(&[0]),
            Some(field) => add(self.bytes(&[1]), field),
        }
    }

    pub(crate) fn finish(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

/// A row that carries its seal.
pub(crate) trait Sealed: Sized {
    const TABLE: &'static str;
    /// Selects every row.
    const ALL: &'static str;

    /// What the row's seal must be.
    fn seal(&self) -> i64;

    /// What it is called by, in messages and in its table.
    fn name(&self) -> String;

    /// From all its columns but the seal.
    fn from_columns(row: &impl Columns) -> Result<Self, StoreError>;

    /// From a row, when it is what was written.
    fn from_row(row: &impl Columns) -> Result<Self, StoreError> {
        let this = Self::from_columns(row)?;
        let seal = row.optional_integer("crc");
        let seal = seal.map_err(attempting("read a row"))?;
        if seal == Some(this.seal()) {
            return Ok(this);
        }
        Err(StoreError::Damaged {
            table: Self::TABLE,
            row: this.name(),
        })
    }
}

/// A row of a table that is older than seals.
pub(crate) trait SealedLate: Sealed {
    /// Writes the seal `$1` of the row that is [named](Sealed::name) `$2`.
    const SET: &'static str;
}

/// Seals the rows that were written before rows had seals.
pub(crate) async fn seal_old_rows(pool: &Pool<Sqlite>) -> Result<(), StoreError> {
    let failed = || attempting("seal its rows");
    let mut transaction = pool.begin().await.map_err(failed())?;
    // The write comes first, so that two processes cannot both begin.
    let unmark = sqlx::query("DELETE FROM unsealed").execute(&mut *transaction);
    if unmark.await.map_err(failed())?.rows_affected() == 0 {
        return Ok(());
    }
    seal_old::<ManifestRow>(&mut transaction).await?;
    seal_old::<ApiKeyRow>(&mut transaction).await?;
    seal_old::<OutboxRow>(&mut transaction).await?;
    transaction.commit().await.map_err(failed())
}

async fn seal_old<T: SealedLate>(transaction: &mut SqliteConnection) -> Result<(), StoreError> {
    let failed = || attempting("seal its rows");
    let rows = sqlx::query(T::ALL).fetch_all(&mut *transaction).await;
    for row in rows.map_err(failed())? {
        let row = T::from_columns(&row)?;
        let sealing = sqlx::query(T::SET).bind(row.seal()).bind(row.name());
        let sealing = sealing.execute(&mut *transaction).await;
        sealing.map_err(failed())?;
    }
    Ok(())
}

/// What is wrong with any row. A store that an older version wrote has no seals to check.
pub(crate) async fn findings(pool: &Pool<Sqlite>) -> Result<Vec<String>, StoreError> {
    let mut findings = Vec::new();
    if has_table(pool, "unsealed").await? {
        look_at::<ManifestRow>(pool, &mut findings).await?;
        look_at::<ApiKeyRow>(pool, &mut findings).await?;
        look_at::<OutboxRow>(pool, &mut findings).await?;
    }
    if has_table(pool, CatalogRow::TABLE).await? {
        look_at::<CatalogRow>(pool, &mut findings).await?;
    }
    if has_table(pool, SubscriptionRow::TABLE).await? {
        look_at::<SubscriptionRow>(pool, &mut findings).await?;
        look_at::<CursorRow>(pool, &mut findings).await?;
        look_at::<ProgressRow>(pool, &mut findings).await?;
        look_at::<PendingRow>(pool, &mut findings).await?;
        look_at::<AttemptRow>(pool, &mut findings).await?;
        look_at::<DeadLetterRow>(pool, &mut findings).await?;
    }
    if has_table(pool, TenantRow::TABLE).await? {
        look_at::<TenantRow>(pool, &mut findings).await?;
        look_at::<WorkspaceRow>(pool, &mut findings).await?;
        look_at::<MemberRow>(pool, &mut findings).await?;
        look_at::<SessionRow>(pool, &mut findings).await?;
        look_at::<ExtensionRow>(pool, &mut findings).await?;
        look_at::<ExtensionSubscriptionRow>(pool, &mut findings).await?;
    }
    if has_table(pool, ReplayRow::TABLE).await? {
        look_at::<ReplayRow>(pool, &mut findings).await?;
    }
    if has_table(pool, CauseRow::TABLE).await? {
        look_at::<CauseRow>(pool, &mut findings).await?;
        look_at::<ChatMessageRow>(pool, &mut findings).await?;
    }
    if has_table(pool, EmitRow::TABLE).await? {
        look_at::<EmitRow>(pool, &mut findings).await?;
        look_at::<UsageRow>(pool, &mut findings).await?;
    }
    if has_table(pool, CustomEventRow::TABLE).await? {
        look_at::<CustomEventRow>(pool, &mut findings).await?;
        look_at::<CustomEventTenantRow>(pool, &mut findings).await?;
    }
    if has_table(pool, TopicRow::TABLE).await? {
        look_at::<TopicRow>(pool, &mut findings).await?;
    }
    findings.extend(crate::receipts::findings(pool).await?);
    Ok(findings)
}

async fn has_table(pool: &Pool<Sqlite>, name: &str) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = $1").bind(name);
    let found = found.fetch_optional(pool).await;
    Ok(found.map_err(attempting("check the store"))?.is_some())
}

async fn look_at<T: Sealed>(pool: &Pool<Sqlite>, into: &mut Vec<String>) -> Result<(), StoreError> {
    let rows = sqlx::query(T::ALL).fetch_all(pool).await;
    let rows = rows.map_err(attempting("check the store"))?;
    let errors = rows.iter().filter_map(|row| T::from_row(row).err());
    into.extend(errors.map(|error| error.to_string()));
    Ok(())
}

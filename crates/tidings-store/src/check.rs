//! Whether a store file is whole: its pages, its indexes and the form of its tables. Rows prove themselves (`seal`).

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use sqlx::{Pool, Row as _, Sqlite};

use crate::pool::{Connections, OfSqlite};
use crate::{SQLITE_MIGRATIONS, Store, StoreError, attempting, reading};

/// What SQLite's own check finds.
pub(crate) async fn broken(pool: &Pool<Sqlite>) -> Result<Vec<String>, StoreError> {
    let lines = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(pool);
    let lines: Vec<String> = lines.await.map_err(attempting("check the store"))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Looks at a large file while it is in use. It ends by itself, and loses nothing when the process ends first.
pub(crate) async fn check_later(path: PathBuf, finding: Arc<OnceLock<(PathBuf, String)>>) {
    let looked = async {
        let pool = reading(&path).await?;
        let found = broken(&pool).await;
        pool.close().await;
        found
    };
    let found = match looked.await {
        Ok(found) => found.into_iter().next(),
        Err(error) => {
            tracing::warn!(%error, "whether the store is whole could not be looked at");
            return;
        }
    };
    if let Some(found) = found {
        tracing::error!(found, "the store is damaged; run `tidings doctor`");
        // Nobody else sets it.
        let _ = finding.set((path, found));
    }
}

/// The steps of its form that this version would not go on from.
pub(crate) async fn unknown_migrations(pool: &Pool<Sqlite>) -> Result<Vec<String>, StoreError> {
    let failed = || attempting("check the store's form");
    let sql = "SELECT version, checksum, success FROM _sqlx_migrations";
    let rows = sqlx::query(sql).fetch_all(pool).await.map_err(failed())?;
    let mut findings = Vec::new();
    for row in rows {
        let version: i64 = row.try_get("version").map_err(failed())?;
        let checksum: Vec<u8> = row.try_get("checksum").map_err(failed())?;
        let success: bool = row.try_get("success").map_err(failed())?;
        let known = SQLITE_MIGRATIONS
            .iter()
            .find(|known| known.version == version);
        if !success || known.is_none_or(|known| *known.checksum != checksum) {
            findings.push(format!(
                "store.db: migration {version} is not one of this version; a newer one wrote it, \
                 or it is damaged"
            ));
        }
    }
    Ok(findings)
}

/// Whether each step of this version's form is done.
pub(crate) async fn is_of_this_version(pool: &Pool<Sqlite>) -> Result<bool, StoreError> {
    let done = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(pool);
    let done: i64 = done.await.map_err(attempting("check the store's form"))?;
    Ok(usize::try_from(done).ok() == Some(SQLITE_MIGRATIONS.iter().count()))
}

/// Tables and indexes that are not as this version makes them: no checksum covers their description. A store that
/// an older version left has another form, which is not looked at.
pub(crate) async fn changed_form(pool: &Pool<Sqlite>) -> Result<Vec<String>, StoreError> {
    if !is_of_this_version(pool).await? {
        return Ok(Vec::new());
    }
    let fresh = Store::in_memory().await?;
    let Connections::Sqlite(OfSqlite { pool: fresh, .. }) = &fresh.connections else {
        return Ok(Vec::new());
    };
    let (found, wanted) = (form(pool).await?, form(fresh).await?);
    let same = found == wanted;
    let finding = "store.db: the description of its tables is not what was written";
    Ok((!same).then(|| finding.to_owned()).into_iter().collect())
}

/// The statements that made the tables and indexes.
async fn form(pool: &Pool<Sqlite>) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT CAST(sql AS BLOB) FROM sqlite_schema \
         WHERE sql IS NOT NULL AND tbl_name NOT IN ('_sqlx_migrations', 'sqlite_sequence') ORDER BY name";
    let rows = sqlx::query_scalar(sql).fetch_all(pool).await;
    rows.map_err(attempting("check the store's form"))
}

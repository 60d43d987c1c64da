//! Module manifests as they were written. They belong to the installation, not to a tenant.

use sqlx::Connection;
use tidings_event::ModuleId;

use crate::found::Found;
use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed, SealedLate};
use crate::{StoreError, attempting, parsed};

/// A manifest as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRow {
    /// Whose it is.
    pub module_id: ModuleId,
    /// The version it names.
    pub version: String,
    /// The document, as it was sent.
    pub document: String,
    /// When it was last written, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// The methods on manifests.
#[derive(Debug, Clone, Copy)]
pub struct Manifests<'a> {
    connections: &'a Connections,
}

impl<'a> Manifests<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Writes the module's manifest in place of the one before, with the events that tell of it.
    pub async fn put(
        &self,
        module_id: &ModuleId,
        version: &str,
        document: &str,
        at_ms: i64,
        events: &[OutboxRow],
    ) -> Result<(), StoreError> {
        let query = "INSERT INTO manifests (module_id, version, document, updated_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (module_id) DO UPDATE SET version = excluded.version, \
             document = excluded.document, updated_at_ms = excluded.updated_at_ms, \
             crc = excluded.crc";
        let crc = seal(module_id, version, document, at_ms);
        writing_on_either!(self.connections, "write a manifest", connection => {
            let mut transaction = connection.begin().await?;
            sqlx::query(query)
                .bind(module_id.as_str())
                .bind(version)
                .bind(document)
                .bind(at_ms)
                .bind(crc)
                .execute(&mut *transaction)
                .await?;
            outbox::write!(transaction, events);
            transaction.commit().await
        })
    }

    /// The module's manifest, if it has one.
    pub async fn get(&self, module_id: &ModuleId) -> Result<Option<ManifestRow>, StoreError> {
        on_either!(self.connections, "read a manifest", connection => {
            sqlx::query("SELECT * FROM manifests WHERE module_id = $1")
                .bind(module_id.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(ManifestRow::from_row))
        })?
        .transpose()
    }

    /// Every manifest, in the order of the modules' ids.
    pub async fn list(&self) -> Result<Found<ManifestRow>, StoreError> {
        on_either!(self.connections, "list the manifests", connection => {
            sqlx::query("SELECT * FROM manifests ORDER BY module_id")
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ManifestRow::from_row).collect())
        })
    }

    /// Removes the module's manifest, with the events that tell of it. False when there was none:
    /// then nothing is told either.
    pub async fn delete(
        &self,
        module_id: &ModuleId,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "remove a manifest", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query("DELETE FROM manifests WHERE module_id = $1")
                .bind(module_id.as_str())
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }
}

fn seal(module_id: &ModuleId, version: &str, document: &str, updated_at_ms: i64) -> i64 {
    let seal = Seal::of("manifests").text(module_id.as_str());
    let seal = seal.text(version).text(document);
    seal.number(updated_at_ms).finish()
}

impl SealedLate for ManifestRow {
    const SET: &'static str = "UPDATE manifests SET crc = $1 WHERE module_id = $2";
}

impl Sealed for ManifestRow {
    const TABLE: &'static str = "manifests";
    const ALL: &'static str = "SELECT * FROM manifests";

    fn seal(&self) -> i64 {
        let at_ms = self.updated_at_ms;
        seal(&self.module_id, &self.version, &self.document, at_ms)
    }

    fn name(&self) -> String {
        self.module_id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a manifest");
        Ok(Self {
            module_id: parsed(row, "of a manifest", "module_id")?,
            version: row.text("version").map_err(unread())?,
            document: row.text("document").map_err(unread())?,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn a_manifest_is_put_replaced_listed_and_deleted() {
        on_each_database(async |store| {
            let manifests = store.manifests();
            let (crm, abc) = ("crm".parse().unwrap(), "abc".parse().unwrap());
            assert_eq!(manifests.get(&crm).await.unwrap(), None);
            manifests
                .put(&crm, "1.0.0", "{\"a\":1}", 10, &[])
                .await
                .unwrap();
            manifests.put(&abc, "0.1.0", "{}", 11, &[]).await.unwrap();
            manifests
                .put(&crm, "1.1.0", "{\"a\": 2}", 12, &[])
                .await
                .unwrap();

            let row = manifests.get(&crm).await.unwrap().unwrap();
            assert_eq!(
                (row.version.as_str(), row.document.as_str()),
                ("1.1.0", "{\"a\": 2}")
            );
            assert_eq!(row.updated_at_ms, 12);
            let ids: Vec<_> = manifests
                .list()
                .await
                .unwrap()
                .rows
                .into_iter()
                .map(|row| row.module_id)
                .collect();
            assert_eq!(ids, [abc, crm.clone()]);

            assert!(manifests.delete(&crm, &[]).await.unwrap());
            assert!(!manifests.delete(&crm, &[]).await.unwrap());
            assert_eq!(manifests.list().await.unwrap().rows.len(), 1);
        })
        .await;
    }
}

//! Catalogues of topics as they were given. They belong to the installation, not to a tenant.

use sqlx::Connection;
use tidings_event::CatalogName;

use crate::found::Found;
use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed};

/// A catalogue as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogRow {
    /// What it is called by.
    pub name: CatalogName,
    /// The document, as it was sent.
    pub document: String,
    /// Whether publishes are held to it.
    pub enforce: bool,
    /// How often it was written since it was last absent; the first is 1.
    pub version: i64,
    /// When it was last written, in milliseconds since 1970.
    pub changed_at_ms: i64,
}

/// The methods on catalogues.
#[derive(Debug, Clone, Copy)]
pub struct Catalogs<'a> {
    connections: &'a Connections,
}

impl<'a> Catalogs<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Writes a catalogue in place of the version before it, with the events that tell of it. False when
    /// another version stands there, because somebody else wrote in between: then nothing is changed.
    pub async fn put(&self, row: &CatalogRow, events: &[OutboxRow]) -> Result<bool, StoreError> {
        self.write(row, false, events).await
    }

    /// The same in place of whatever stands there.
    pub async fn put_over(&self, row: &CatalogRow, events: &[OutboxRow]) -> Result<(), StoreError> {
        self.write(row, true, events).await.map(drop)
    }

    async fn write(
        &self,
        row: &CatalogRow,
        over: bool,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        let query = "INSERT INTO catalogs (name, document, enforce, version, changed_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (name) DO UPDATE SET document = excluded.document, \
             enforce = excluded.enforce, version = excluded.version, \
             changed_at_ms = excluded.changed_at_ms, crc = excluded.crc \
             WHERE $7 OR catalogs.version = excluded.version - 1";
        writing_on_either!(self.connections, "write a catalogue", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query(query)
                .bind(row.name.as_str())
                .bind(&row.document)
                .bind(i64::from(row.enforce))
                .bind(row.version)
                .bind(row.changed_at_ms)
                .bind(row.seal())
                .bind(over)
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// The catalogue of this name, if there is one.
    pub async fn get(&self, name: &CatalogName) -> Result<Option<CatalogRow>, StoreError> {
        on_either!(self.connections, "read a catalogue", connection => {
            sqlx::query("SELECT * FROM catalogs WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(CatalogRow::from_row))
        })?
        .transpose()
    }

    /// Every catalogue, in the order of their names.
    pub async fn list(&self) -> Result<Found<CatalogRow>, StoreError> {
        on_either!(self.connections, "list the catalogues", connection => {
            sqlx::query("SELECT * FROM catalogs ORDER BY name")
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CatalogRow::from_row).collect())
        })
    }

    /// Removes a catalogue, with the events that tell of it. False when there was none: then nothing is
    /// told either.
    pub async fn delete(
        &self,
        name: &CatalogName,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "remove a catalogue", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query("DELETE FROM catalogs WHERE name = $1")
                .bind(name.as_str())
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

impl Sealed for CatalogRow {
    const TABLE: &'static str = "catalogs";
    const ALL: &'static str = "SELECT * FROM catalogs";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.name.as_str());
        let seal = seal.text(&self.document).number(i64::from(self.enforce));
        seal.number(self.version)
            .number(self.changed_at_ms)
            .finish()
    }

    fn name(&self) -> String {
        self.name.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a catalogue");
        let name: CatalogName = parsed(row, "of a catalogue", "name")?;
        let enforce = match row.integer("enforce").map_err(unread())? {
            0 => false,
            1 => true,
            other => {
                return Err(StoreError::Corrupt {
                    row: name.to_string(),
                    column: "enforce",
                    fault: other.to_string(),
                });
            }
        };
        Ok(Self {
            name,
            document: row.text("document").map_err(unread())?,
            enforce,
            version: row.integer("version").map_err(unread())?,
            changed_at_ms: row.integer("changed_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tidings_event::{Service, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::suite::{on_each_database, waiting};

    fn row(name: &str, version: i64) -> CatalogRow {
        CatalogRow {
            name: name.parse().unwrap(),
            document: format!("asyncapi: 3.0.0 # {version}"),
            enforce: version % 2 == 1,
            version,
            changed_at_ms: 10 + version,
        }
    }

    fn told(id: u128) -> OutboxRow {
        OutboxRow {
            id: Uuid::from_u128(id),
            service: Service::Audit,
            tenant: TenantId::platform(),
            event_type: "audit.catalog.written".parse().unwrap(),
            data: "{}".into(),
            created_at_ms: 1,
        }
    }

    #[tokio::test]
    async fn a_catalogue_is_put_replaced_listed_and_deleted() {
        on_each_database(async |store| {
            let catalogs = store.catalogs();
            let (shop, abc) = (row("shop", 1), row("abc", 1));
            assert_eq!(catalogs.get(&shop.name).await.unwrap(), None);
            assert!(catalogs.put(&shop, &[]).await.unwrap());
            assert!(catalogs.put(&abc, &[]).await.unwrap());
            let second = row("shop", 2);
            assert!(catalogs.put(&second, &[]).await.unwrap());
            assert_eq!(
                catalogs.get(&shop.name).await.unwrap(),
                Some(second.clone())
            );
            assert_eq!(catalogs.list().await.unwrap().rows, [abc, second]);

            assert!(catalogs.delete(&shop.name, &[]).await.unwrap());
            assert!(!catalogs.delete(&shop.name, &[]).await.unwrap());
            assert_eq!(catalogs.list().await.unwrap().rows.len(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_write_over_another_version_changes_and_tells_nothing() {
        on_each_database(async |store| {
            let catalogs = store.catalogs();
            assert!(catalogs.put(&row("shop", 1), &[told(1)]).await.unwrap());
            for version in [1, 3] {
                let late = row("shop", version);
                assert!(!catalogs.put(&late, &[told(2)]).await.unwrap());
            }
            assert_eq!(catalogs.list().await.unwrap().rows, [row("shop", 1)]);
            assert_eq!(waiting(&store, 9).await, [told(1)]);
            let absent = "none".parse().unwrap();
            assert!(!catalogs.delete(&absent, &[told(3)]).await.unwrap());
            assert!(
                catalogs
                    .delete(&row("shop", 1).name, &[told(4)])
                    .await
                    .unwrap()
            );
            let waiting = waiting(&store, 9).await;
            assert_eq!(waiting, [told(1), told(4)]);
        })
        .await;
    }
}

//! Source C: what a workspace has installed, and which events it is to get.

use sqlx::Connection;
use tidings_event::{EventType, ExtensionId, WorkspaceId};
use uuid::Uuid;

use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, count_of, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, SubscriptionRow, attempting, parsed};

/// An extension as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionRow {
    /// Of which workspace.
    pub workspace: WorkspaceId,
    /// Its id there.
    pub id: ExtensionId,
    /// `EXTERNAL_SERVICE` or `IN_PROCESS`.
    pub kind: String,
    /// Where an external service is.
    pub service_base_url: Option<String>,
    /// Whether it is installed.
    pub installed: bool,
    /// Whether it is enabled.
    pub enabled: bool,
    /// When it was last written, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// A row of `ext_event_subscription`: an event that an extension is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionSubscriptionRow {
    /// Of which workspace.
    pub workspace: WorkspaceId,
    /// Which extension there.
    pub extension: ExtensionId,
    /// Which events.
    pub event_key: EventType,
    /// The subscription that delivers them. It is named here before it is made, so that it may not be there yet.
    pub subscription: Option<Uuid>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// An extension that a workspace has from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstExtension {
    /// The extension.
    pub row: ExtensionRow,
    /// What it is to get, each with the subscription that delivers it.
    pub gets: Vec<(ExtensionSubscriptionRow, SubscriptionRow)>,
}

pub(crate) const PUT: &str = "INSERT INTO workspace_extensions (workspace_id, extension_id, kind, \
     service_base_url, installed, enabled, updated_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (workspace_id, extension_id) DO UPDATE SET kind = excluded.kind, \
     service_base_url = excluded.service_base_url, installed = excluded.installed, \
     enabled = excluded.enabled, updated_at_ms = excluded.updated_at_ms, crc = excluded.crc";

pub(crate) const PUT_SUBSCRIPTION: &str = "INSERT INTO ext_event_subscription \
     (workspace_id, extension_id, event_key, subscription, created_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6) \
     ON CONFLICT (workspace_id, extension_id, event_key) DO UPDATE SET \
     subscription = excluded.subscription, created_at_ms = excluded.created_at_ms, \
     crc = excluded.crc";

/// Writes an extension on a connection or in a transaction of either database.
macro_rules! put {
    ($connection:expr, $row:expr) => {
        sqlx::query($crate::extensions::PUT)
            .bind($row.workspace.as_str())
            .bind($row.id.as_str())
            .bind(&$row.kind)
            .bind(&$row.service_base_url)
            .bind(i64::from($row.installed))
            .bind(i64::from($row.enabled))
            .bind($row.updated_at_ms)
            .bind($crate::seal::Sealed::seal($row))
            .execute($connection)
            .await
    };
}

/// The same of what one is to get.
macro_rules! put_subscription {
    ($connection:expr, $row:expr) => {
        sqlx::query($crate::extensions::PUT_SUBSCRIPTION)
            .bind($row.workspace.as_str())
            .bind($row.extension.as_str())
            .bind($row.event_key.as_str())
            .bind($row.subscription.map(|id| id.to_string()))
            .bind($row.created_at_ms)
            .bind($crate::seal::Sealed::seal($row))
            .execute($connection)
            .await
    };
}

pub(crate) use {put, put_subscription};

/// The methods on extensions.
#[derive(Debug, Clone, Copy)]
pub struct Extensions<'a> {
    connections: &'a Connections,
}

impl<'a> Extensions<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Writes an extension, with the events that tell of it.
    pub async fn put(&self, row: &ExtensionRow, events: &[OutboxRow]) -> Result<(), StoreError> {
        writing_on_either!(self.connections, "write an extension", connection => {
            let mut transaction = connection.begin().await?;
            put!(&mut *transaction, row)?;
            outbox::write!(transaction, events);
            transaction.commit().await
        })
    }

    /// The workspace's extension of this id.
    pub async fn get(
        &self,
        workspace: &WorkspaceId,
        id: &ExtensionId,
    ) -> Result<Option<ExtensionRow>, StoreError> {
        let query =
            "SELECT * FROM workspace_extensions WHERE workspace_id = $1 AND extension_id = $2";
        on_either!(self.connections, "read an extension", connection => {
            sqlx::query(query)
                .bind(workspace.as_str())
                .bind(id.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(ExtensionRow::from_row))
        })?
        .transpose()
    }

    /// How many extensions a workspace has.
    pub async fn count_of(&self, workspace: &WorkspaceId) -> Result<usize, StoreError> {
        let query = "SELECT count(*) FROM workspace_extensions WHERE workspace_id = $1";
        let of = workspace.as_str();
        count_of(self.connections, "count the extensions", query, of).await
    }

    /// Removes an extension and the rows of what it was to get, with the events that tell of it. False when
    /// there was none: then nothing is told.
    pub async fn delete(
        &self,
        workspace: &WorkspaceId,
        id: &ExtensionId,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "remove an extension", connection => {
            let mut transaction = connection.begin().await?;
            for query in [
                "DELETE FROM ext_event_subscription WHERE workspace_id = $1 AND extension_id = $2",
                "DELETE FROM workspace_extensions WHERE workspace_id = $1 AND extension_id = $2",
            ] {
                let done = sqlx::query(query)
                    .bind(workspace.as_str())
                    .bind(id.as_str())
                    .execute(&mut *transaction)
                    .await?;
                if query.contains("workspace_extensions") && done.rows_affected() == 0 {
                    return transaction.rollback().await.map(|()| false);
                }
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// Writes what an extension is to get.
    pub async fn put_subscription(&self, row: &ExtensionSubscriptionRow) -> Result<(), StoreError> {
        writing_on_either!(self.connections, "write what an extension gets", connection => {
            put_subscription!(connection, row).map(drop)
        })
    }

    /// What the extensions of a workspace are to get, or one of them.
    pub async fn subscriptions(
        &self,
        workspace: &WorkspaceId,
        extension: Option<&ExtensionId>,
    ) -> Result<Vec<ExtensionSubscriptionRow>, StoreError> {
        let query = "SELECT * FROM ext_event_subscription WHERE workspace_id = $1 \
             AND (CAST($2 AS TEXT) IS NULL OR extension_id = $2) ORDER BY extension_id, event_key";
        on_either!(self.connections, "read what extensions get", connection => {
            sqlx::query(query)
                .bind(workspace.as_str())
                .bind(extension.map(ExtensionId::as_str))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ExtensionSubscriptionRow::from_row).collect())
        })?
    }

    /// Removes a row of what an extension is to get.
    pub async fn delete_subscription(
        &self,
        workspace: &WorkspaceId,
        extension: &ExtensionId,
        event_key: &EventType,
    ) -> Result<bool, StoreError> {
        let query = "DELETE FROM ext_event_subscription \
             WHERE workspace_id = $1 AND extension_id = $2 AND event_key = $3";
        writing_on_either!(self.connections, "remove what an extension gets", connection => {
            sqlx::query(query)
                .bind(workspace.as_str())
                .bind(extension.as_str())
                .bind(event_key.as_str())
                .execute(connection)
                .await
                .map(|done| done.rows_affected() == 1)
        })
    }
}

impl Sealed for ExtensionRow {
    const TABLE: &'static str = "workspace_extensions";
    const ALL: &'static str = "SELECT * FROM workspace_extensions";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.workspace.as_str());
        let seal = seal.text(self.id.as_str()).text(&self.kind);
        let seal = seal.maybe(self.service_base_url.as_deref(), Seal::text);
        let seal = seal.number(i64::from(self.installed));
        let seal = seal.number(i64::from(self.enabled));
        seal.number(self.updated_at_ms).finish()
    }

    fn name(&self) -> String {
        format!("{} {}", self.workspace, self.id)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read an extension");
        let url = row.optional_text("service_base_url");
        Ok(Self {
            workspace: parsed(row, "of an extension", "workspace_id")?,
            id: parsed(row, "of an extension", "extension_id")?,
            kind: row.text("kind").map_err(unread())?,
            service_base_url: url.map_err(unread())?,
            installed: row.integer("installed").map_err(unread())? == 1,
            enabled: row.integer("enabled").map_err(unread())? == 1,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
        })
    }
}

impl Sealed for ExtensionSubscriptionRow {
    const TABLE: &'static str = "ext_event_subscription";
    const ALL: &'static str = "SELECT * FROM ext_event_subscription";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.workspace.as_str());
        let seal = seal
            .text(self.extension.as_str())
            .text(self.event_key.as_str());
        let id = self.subscription.map(|id| id.to_string());
        let seal = seal.maybe(id.as_deref(), Seal::text);
        seal.number(self.created_at_ms).finish()
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.workspace, self.extension, self.event_key)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read what an extension gets");
        let id = row.optional_text("subscription").map_err(unread())?;
        Ok(Self {
            workspace: parsed(row, "of an extension", "workspace_id")?,
            extension: parsed(row, "of an extension", "extension_id")?,
            event_key: parsed(row, "of an extension", "event_key")?,
            subscription: id
                .map(|_| parsed(row, "of an extension", "subscription"))
                .transpose()?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn an_extension_goes_with_what_it_was_to_get() {
        on_each_database(async |store| {
            let room = store.extensions();
            let row = ExtensionRow {
                workspace: "ws-1".parse().unwrap(),
                id: "crm".parse().unwrap(),
                kind: "IN_PROCESS".into(),
                service_base_url: None,
                installed: true,
                enabled: false,
                updated_at_ms: 1,
            };
            let (workspace, id) = (&row.workspace, &row.id);
            room.put(&row, &[]).await.unwrap();
            assert_eq!(room.get(workspace, id).await.unwrap(), Some(row.clone()));
            let gets = |event_key: &str| ExtensionSubscriptionRow {
                workspace: workspace.clone(),
                extension: id.clone(),
                event_key: event_key.parse().unwrap(),
                subscription: Some(Uuid::from_u128(1)),
                created_at_ms: 1,
            };
            let (one, two) = (gets("crm.deal.closed"), gets("crm.deal.opened"));
            for one in [&one, &two] {
                room.put_subscription(one).await.unwrap();
            }
            let all = room.subscriptions(workspace, None).await.unwrap();
            assert_eq!(all, [one.clone(), two.clone()]);
            let other = "chat".parse().unwrap();
            let none = room.subscriptions(workspace, Some(&other)).await.unwrap();
            assert_eq!(none, []);
            let gone = room.delete_subscription(workspace, id, &one.event_key);
            assert!(gone.await.unwrap());
            assert!(room.delete(workspace, id, &[]).await.unwrap());
            assert!(!room.delete(workspace, id, &[]).await.unwrap());
            let left = room.subscriptions(workspace, Some(id)).await.unwrap();
            assert_eq!(left, []);
        })
        .await;
    }
}

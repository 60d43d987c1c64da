//! Who wants which events, and where to. What a subscription says is the gateway's; here it is a document.

use sqlx::Connection;
use tidings_event::TenantId;
use uuid::Uuid;

use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, whole};

/// A subscription as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// What it is called by in URLs.
    pub id: Uuid,
    /// Whose events it is about.
    pub tenant: TenantId,
    /// What the tenant wrote, without secrets. JSON.
    pub document: String,
    /// Its secrets, encrypted by the gateway.
    pub secrets: String,
    /// `active`, `paused`, `disabled` or `deleted`.
    pub state: String,
    /// Why it is disabled, if it was not its owner.
    pub reason: Option<String>,
    /// Counts its changes, from 1.
    pub revision: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
    /// The number of its last change among all changes that replicas follow; 0 on SQLite.
    pub change: i64,
}

/// The methods on subscriptions.
#[derive(Debug, Clone, Copy)]
pub struct Subscriptions<'a> {
    connections: &'a Connections,
}

pub(crate) const PUT: &str = "INSERT INTO subscriptions \
     (id, tenant, document, secrets, state, reason, revision, created_at_ms, updated_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT (id) DO UPDATE SET document = excluded.document, secrets = excluded.secrets, \
     state = excluded.state, reason = excluded.reason, revision = excluded.revision, \
     updated_at_ms = excluded.updated_at_ms, crc = excluded.crc \
     WHERE subscriptions.revision = excluded.revision - 1";

/// Writes a subscription in a transaction of either database; no row is affected when the kept revision is not the one before.
macro_rules! put {
    ($transaction:expr, $row:expr) => {
        sqlx::query($crate::subscriptions::PUT)
            .bind($row.id.to_string())
            .bind($row.tenant.as_str())
            .bind($row.document.as_str())
            .bind($row.secrets.as_str())
            .bind($row.state.as_str())
            .bind($row.reason.as_deref())
            .bind(i64::from($row.revision))
            .bind($row.created_at_ms)
            .bind($row.updated_at_ms)
            .bind($crate::seal::Sealed::seal($row))
            .execute(&mut *$transaction)
            .await
    };
}

pub(crate) use put;

impl<'a> Subscriptions<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps a new subscription (revision 1), or the next revision of one, with the events that tell of it.
    /// False when the kept revision is not the one before: somebody else has changed it.
    pub async fn put(
        &self,
        row: &SubscriptionRow,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "keep a subscription", connection => {
            let mut transaction = connection.begin().await?;
            let done = put!(transaction, row)?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// The tenant's subscription of this id, unless it is deleted.
    pub async fn get(
        &self,
        tenant: &TenantId,
        id: Uuid,
    ) -> Result<Option<SubscriptionRow>, StoreError> {
        let query = "SELECT * FROM subscriptions \
             WHERE tenant = $1 AND id = $2 AND state <> 'deleted'";
        on_either!(self.connections, "read a subscription", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .bind(id.to_string())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(SubscriptionRow::from_row))
        })?
        .transpose()
    }

    /// The tenant's subscriptions after an id, in the order of their ids, which is that of their making.
    pub async fn list(
        &self,
        tenant: &TenantId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<SubscriptionRow>, StoreError> {
        let query = "SELECT * FROM subscriptions \
             WHERE tenant = $1 AND id > $2 AND state <> 'deleted' ORDER BY id LIMIT $3";
        let after = after.map_or_else(String::new, |id| id.to_string());
        on_either!(self.connections, "list subscriptions", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .bind(after.as_str())
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(SubscriptionRow::from_row).collect())
        })?
    }

    /// Everybody's, deleted ones too, after a change and an id, in that order. The installation delivers for all
    /// tenants; nothing of this is shown to any.
    pub async fn changed_after(
        &self,
        change: i64,
        id: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<SubscriptionRow>, StoreError> {
        let query = "SELECT * FROM subscriptions \
             WHERE change > $1 OR (change = $1 AND id > $2) ORDER BY change, id LIMIT $3";
        let id = id.map_or_else(String::new, |id| id.to_string());
        on_either!(self.connections, "read what subscriptions changed", connection => {
            sqlx::query(query)
                .bind(change)
                .bind(id.as_str())
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(SubscriptionRow::from_row).collect())
        })?
    }
}

impl Sealed for SubscriptionRow {
    const TABLE: &'static str = "subscriptions";
    const ALL: &'static str = "SELECT * FROM subscriptions";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.id.as_bytes());
        let seal = seal.text(self.tenant.as_str()).text(&self.document);
        let seal = seal.text(&self.secrets).text(&self.state);
        let seal = seal.maybe(self.reason.as_deref(), Seal::text);
        let seal = seal.number(i64::from(self.revision));
        seal.number(self.created_at_ms)
            .number(self.updated_at_ms)
            .finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a subscription");
        let id = row.text("id").map_err(unread())?;
        Ok(Self {
            id: parsed(row, &id, "id")?,
            tenant: parsed(row, &id, "tenant")?,
            document: row.text("document").map_err(unread())?,
            secrets: row.text("secrets").map_err(unread())?,
            state: row.text("state").map_err(unread())?,
            reason: row.optional_text("reason").map_err(unread())?,
            revision: whole(row, &id, "revision")?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
            change: row.integer("change").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;

    fn row(number: u8, tenant: &str) -> SubscriptionRow {
        SubscriptionRow {
            id: Uuid::from_u128(u128::from(number)),
            tenant: tenant.parse().unwrap(),
            document: "{}".into(),
            secrets: "x".into(),
            state: "active".into(),
            reason: None,
            revision: 1,
            created_at_ms: 1,
            updated_at_ms: 1,
            change: 0,
        }
    }

    fn ids(rows: &[SubscriptionRow]) -> Vec<u128> {
        rows.iter().map(|row| row.id.as_u128()).collect()
    }

    #[tokio::test]
    async fn a_tenant_sees_its_own_and_a_change_needs_the_revision_before() {
        on_each_database(async |store| {
            let room = store.subscriptions();
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            for row in [row(1, "acme"), row(2, "acme"), row(3, "globex")] {
                assert!(room.put(&row, &[]).await.unwrap());
            }
            assert_eq!(ids(&room.list(&acme, None, 9).await.unwrap()), [1, 2]);
            assert_eq!(
                ids(&room.list(&acme, Some(Uuid::from_u128(1)), 9).await.unwrap()),
                [2]
            );
            assert_eq!(room.get(&globex, Uuid::from_u128(1)).await.unwrap(), None);

            let mut next = room.get(&acme, Uuid::from_u128(1)).await.unwrap().unwrap();
            next.revision = 2;
            next.state = "deleted".into();
            assert!(room.put(&next, &[]).await.unwrap());
            assert!(!room.put(&next, &[]).await.unwrap());
            assert_eq!(ids(&room.list(&acme, None, 9).await.unwrap()), [2]);
            assert_eq!(room.get(&acme, Uuid::from_u128(1)).await.unwrap(), None);

            let all = room.changed_after(-1, None, 9).await.unwrap();
            assert_eq!(all.len(), 3);
            let last = all.last().unwrap();
            let later = room.changed_after(last.change, Some(last.id), 9).await;
            assert_eq!(later.unwrap(), []);
        })
        .await;
    }
}

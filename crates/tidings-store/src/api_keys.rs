//! API keys: whose they are, what they may, and the hash that a presented key is found by.

use sqlx::Connection;
use tidings_event::{ModuleId, TenantId};
use uuid::Uuid;

use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, on_either, pages, writing_on_either};
use crate::seal::{Seal, Sealed, SealedLate};
use crate::{StoreError, attempting, parsed};

/// An API key as it is kept. The key itself is nowhere, only its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// What it is called by in URLs.
    pub id: Uuid,
    /// The tenant it speaks for.
    pub tenant: TenantId,
    /// What its maker called it.
    pub name: String,
    /// The module whose manifest bounds it, if any.
    pub module: Option<ModuleId>,
    /// What it may do, as its maker wrote it.
    pub scopes: Vec<String>,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it ends by itself.
    pub expires_at_ms: Option<i64>,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
}

/// The methods on API keys.
#[derive(Debug, Clone, Copy)]
pub struct ApiKeys<'a> {
    connections: &'a Connections,
}

impl<'a> ApiKeys<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps a new key, with the events that tell of it.
    pub async fn insert(&self, key: &ApiKeyRow, events: &[OutboxRow]) -> Result<(), StoreError> {
        let query = "INSERT INTO api_keys (id, tenant, name, module, scopes, hash, created_at_ms, \
             expires_at_ms, revoked_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        writing_on_either!(self.connections, "keep an API key", connection => {
            let mut transaction = connection.begin().await?;
            sqlx::query(query)
                .bind(key.id.to_string())
                .bind(key.tenant.as_str())
                .bind(key.name.as_str())
                .bind(key.module.as_ref().map(ModuleId::as_str))
                .bind(scopes_text(key))
                .bind(key.hash.as_slice())
                .bind(key.created_at_ms)
                .bind(key.expires_at_ms)
                .bind(key.revoked_at_ms)
                .bind(key.seal())
                .execute(&mut *transaction)
                .await?;
            outbox::write!(transaction, events);
            transaction.commit().await
        })
    }

    /// The tenant's keys after an id, revoked and expired ones too, in the order of their ids, which is that of their
    /// making.
    pub async fn list(
        &self,
        tenant: &TenantId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<ApiKeyRow>, StoreError> {
        let query = "SELECT * FROM api_keys WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3";
        let after = after.map_or_else(String::new, |id| id.to_string());
        on_either!(self.connections, "list API keys", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .bind(after.as_str())
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ApiKeyRow::from_row).collect())
        })?
    }

    /// Ends a key of the tenant, with the events that tell of it. False when the tenant has no such
    /// key or it was revoked before: then nothing is told either.
    pub async fn revoke(
        &self,
        tenant: &TenantId,
        id: Uuid,
        at_ms: i64,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        let Some(mut key) = self.get(tenant, id).await? else {
            return Ok(false);
        };
        // Nothing else of a key ever changes, so the seal holds unless it is revoked already.
        key.revoked_at_ms = Some(at_ms);
        let crc = key.seal();
        let query = "UPDATE api_keys SET revoked_at_ms = $1, crc = $2 \
             WHERE tenant = $3 AND id = $4 AND revoked_at_ms IS NULL";
        writing_on_either!(self.connections, "revoke an API key", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query(query)
                .bind(at_ms)
                .bind(crc)
                .bind(tenant.as_str())
                .bind(id.to_string())
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    async fn get(&self, tenant: &TenantId, id: Uuid) -> Result<Option<ApiKeyRow>, StoreError> {
        on_either!(self.connections, "read an API key", connection => {
            sqlx::query("SELECT * FROM api_keys WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(ApiKeyRow::from_row))
        })?
        .transpose()
    }

    /// The key with this hash, revoked and expired ones too. Takes no tenant: the key tells it.
    pub async fn by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        on_either!(self.connections, "read an API key", connection => {
            sqlx::query("SELECT * FROM api_keys WHERE hash = $1")
                .bind(hash.as_slice())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(ApiKeyRow::from_row))
        })?
        .transpose()
    }

    /// Every tenant's keys that are not revoked and end after this time, in milliseconds since 1970, if they end: for
    /// the snapshot that authentication looks into.
    pub async fn in_force(&self, at_ms: i64) -> Result<Vec<ApiKeyRow>, StoreError> {
        // The time is text here, as what rows are named by is.
        let query = "SELECT * FROM api_keys WHERE revoked_at_ms IS NULL \
             AND (expires_at_ms IS NULL OR expires_at_ms > CAST($2 AS BIGINT)) \
             AND id > $3 ORDER BY id LIMIT $1";
        let key = |row: &ApiKeyRow| vec![at_ms.to_string(), row.id.to_string()];
        let first = vec![at_ms.to_string(), String::new()];
        pages(self.connections, "read the API keys", query, first, key).await
    }
}

/// The scopes as they are kept: a JSON array.
fn scopes_text(key: &ApiKeyRow) -> String {
    serde_json::Value::from(key.scopes.clone()).to_string()
}

impl SealedLate for ApiKeyRow {
    const SET: &'static str = "UPDATE api_keys SET crc = $1 WHERE id = $2";
}

impl Sealed for ApiKeyRow {
    const TABLE: &'static str = "api_keys";
    const ALL: &'static str = "SELECT * FROM api_keys";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.id.as_bytes());
        let seal = seal.text(self.tenant.as_str()).text(&self.name);
        let seal = seal.maybe(self.module.as_ref(), |seal, it| seal.text(it.as_str()));
        let seal = seal.text(&scopes_text(self)).bytes(&self.hash);
        let seal = seal.number(self.created_at_ms);
        let seal = seal.maybe(self.expires_at_ms, Seal::number);
        seal.maybe(self.revoked_at_ms, Seal::number).finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read an API key");
        let text = row.text("id").map_err(unread())?;
        let corrupt = |column: &'static str, fault: String| StoreError::Corrupt {
            row: text.clone(),
            column,
            fault,
        };
        let scopes = row.text("scopes").map_err(unread())?;
        let scopes =
            serde_json::from_str(&scopes).map_err(|fault| corrupt("scopes", fault.to_string()))?;
        let hash = row.bytes("hash").map_err(unread())?;
        let hash = hash
            .try_into()
            .map_err(|_| corrupt("hash", format!("{} bytes instead of 32", hash.len())))?;
        let module = row.optional_text("module").map_err(unread())?;
        Ok(Self {
            id: parsed(row, &text, "id")?,
            tenant: parsed(row, &text, "tenant")?,
            name: row.text("name").map_err(unread())?,
            module: module.map(|_| parsed(row, &text, "module")).transpose()?,
            scopes,
            hash,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            expires_at_ms: row.optional_integer("expires_at_ms").map_err(unread())?,
            revoked_at_ms: row.optional_integer("revoked_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;

    fn key(number: u8, tenant: &str) -> ApiKeyRow {
        ApiKeyRow {
            id: Uuid::from_u128(u128::from(number)),
            tenant: tenant.parse().unwrap(),
            name: format!("key {number}"),
            module: number.is_multiple_of(2).then(|| "crm".parse().unwrap()),
            scopes: vec!["publish:crm.**".into(), "events:read".into()],
            hash: [number; 32],
            created_at_ms: 100 - i64::from(number),
            expires_at_ms: (number == 1).then_some(500),
            revoked_at_ms: None,
        }
    }

    #[tokio::test]
    async fn a_key_comes_back_as_it_was_kept_and_only_to_its_tenant() {
        on_each_database(async |store| {
            let keys = store.api_keys();
            for kept in [key(1, "acme"), key(2, "acme"), key(3, "globex")] {
                keys.insert(&kept, &[]).await.unwrap();
            }
            let acme = "acme".parse().unwrap();
            assert_eq!(
                keys.list(&acme, None, 9).await.unwrap(),
                [key(1, "acme"), key(2, "acme")]
            );
            let first = keys.list(&acme, None, 1).await.unwrap();
            let after = keys.list(&acme, Some(first[0].id), 1).await.unwrap();
            assert_eq!((first, after), (vec![key(1, "acme")], vec![key(2, "acme")]));
            assert_eq!(
                keys.by_hash(&[3; 32]).await.unwrap(),
                Some(key(3, "globex"))
            );
            assert_eq!(keys.by_hash(&[9; 32]).await.unwrap(), None);
            assert!(keys.insert(&key(1, "acme"), &[]).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn what_has_ended_is_not_among_those_in_force() {
        on_each_database(async |store| {
            let keys = store.api_keys();
            let endless = key(2, "acme");
            for kept in [key(1, "acme"), endless.clone()] {
                keys.insert(&kept, &[]).await.unwrap();
            }
            assert_eq!(keys.in_force(499).await.unwrap().len(), 2);
            assert_eq!(keys.in_force(500).await.unwrap(), [endless]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_is_revoked_once_and_by_its_tenant_alone() {
        on_each_database(async |store| {
            let keys = store.api_keys();
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            let kept = key(1, "acme");
            keys.insert(&kept, &[]).await.unwrap();
            assert!(!keys.revoke(&globex, kept.id, 200, &[]).await.unwrap());
            assert_eq!(keys.in_force(0).await.unwrap().len(), 1);
            assert!(keys.revoke(&acme, kept.id, 201, &[]).await.unwrap());
            assert!(!keys.revoke(&acme, kept.id, 202, &[]).await.unwrap());
            assert!(keys.in_force(0).await.unwrap().is_empty());
            let listed = keys.list(&acme, None, 9).await.unwrap();
            assert_eq!(listed[0].revoked_at_ms, Some(201));
            assert_eq!(
                keys.by_hash(&kept.hash)
                    .await
                    .unwrap()
                    .unwrap()
                    .revoked_at_ms,
                Some(201)
            );
        })
        .await;
    }
}

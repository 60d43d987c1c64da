//! What replicas on one PostgreSQL tell each other: that something has changed, and whose turn it is.

use std::time::Duration;

use sqlx::{Executor, Row};
use uuid::Uuid;

use crate::pool::{OfPostgres, on_postgres};
use crate::{StoreError, attempting};

/// Time is the server's. A turn that has ended, or is the caller's already, is the caller's.
const TAKE: &str = "INSERT INTO turns AS kept (name, holder, ends_at_ms) \
     VALUES ($1, $2, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + $3::bigint) \
     ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, ends_at_ms = EXCLUDED.ends_at_ms \
     WHERE kept.holder = EXCLUDED.holder OR kept.ends_at_ms <= EXCLUDED.ends_at_ms - $3";

/// The methods between replicas. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    postgres: OfPostgres,
}

impl Replicas {
    pub(crate) fn new(postgres: OfPostgres) -> Self {
        Self { postgres }
    }

    /// Moves with each committed change of what replicas keep in memory: manifests, catalogues, API keys, tenants,
    /// workspaces and their members, subscriptions and registrations of custom events. A version read before the rows is
    /// never newer than they are.
    pub async fn version(&self) -> Result<i64, StoreError> {
        let asked = on_postgres!(self.postgres, "ask for changes", connection => {
            connection.fetch_one("SELECT version FROM changes").await
        });
        asked?
            .try_get("version")
            .map_err(attempting("ask for changes"))
    }

    /// Takes a turn, or lengthens it. False while another holder has it. It ends by itself, should its holder die.
    pub async fn take_turn(
        &self,
        name: &str,
        holder: Uuid,
        at_most: Duration,
    ) -> Result<bool, StoreError> {
        let length_ms = i64::try_from(at_most.as_millis()).unwrap_or(i64::MAX);
        let query = sqlx::query(TAKE).bind(name).bind(holder).bind(length_ms);
        let done = on_postgres!(self.postgres, "take a turn", connection => {
            connection.execute(query).await
        });
        Ok(done?.rows_affected() == 1)
    }

    /// Ends the holder's turn. Nothing happens when it has none.
    pub async fn end_turn(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM turns WHERE name = $1 AND holder = $2");
        let query = query.bind(name).bind(holder);
        let done = on_postgres!(self.postgres, "end a turn", connection => {
            connection.execute(query).await
        });
        done.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{key, on_postgres};
    use crate::{CatalogRow, Store, WorkspaceRow};

    #[tokio::test]
    async fn a_turn_has_one_holder_and_ends_by_itself() {
        let store = on_postgres().await;
        let replicas = store.replicas().unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let long = Duration::from_mins(1);
        assert!(replicas.take_turn("relay", one, long).await.unwrap());
        assert!(!replicas.take_turn("relay", two, long).await.unwrap());
        assert!(replicas.take_turn("another", two, long).await.unwrap());
        replicas.end_turn("relay", two).await.unwrap();
        assert!(!replicas.take_turn("relay", two, long).await.unwrap());
        replicas.end_turn("relay", one).await.unwrap();
        assert!(replicas.take_turn("relay", two, long).await.unwrap());
        // The holder dies with its turn: lengthening it to nothing is as good.
        assert!(
            replicas
                .take_turn("relay", two, Duration::ZERO)
                .await
                .unwrap()
        );
        assert!(replicas.take_turn("relay", one, long).await.unwrap());
    }

    #[tokio::test]
    async fn every_change_moves_the_version_and_nothing_else_does() {
        assert!(Store::in_memory().await.unwrap().replicas().is_none());
        let store = on_postgres().await;
        let replicas = store.replicas().unwrap();
        let mut before = replicas.version().await.unwrap();
        let mut moved = async || {
            let now = replicas.version().await.unwrap();
            let moved = now != before;
            before = now;
            moved
        };
        let (crm, acme) = ("crm".parse().unwrap(), "acme".parse().unwrap());
        let key = key();
        assert!(!moved().await);
        let manifests = store.manifests();
        manifests.put(&crm, "1.0.0", "{}", 1, &[]).await.unwrap();
        assert!(moved().await);
        manifests.put(&crm, "1.0.1", "{}", 1, &[]).await.unwrap();
        assert!(moved().await);
        manifests.delete(&crm, &[]).await.unwrap();
        assert!(moved().await);
        assert!(!manifests.delete(&crm, &[]).await.unwrap());
        assert!(!moved().await);
        let catalogs = store.catalogs();
        let catalog = CatalogRow {
            name: "shop".parse().unwrap(),
            document: "{}".into(),
            enforce: true,
            version: 1,
            changed_at_ms: 1,
        };
        assert!(catalogs.put(&catalog, &[]).await.unwrap());
        assert!(moved().await);
        catalogs.delete(&catalog.name, &[]).await.unwrap();
        assert!(moved().await);
        store.api_keys().insert(&key, &[]).await.unwrap();
        assert!(moved().await);
        assert!(
            store
                .api_keys()
                .revoke(&acme, key.id, 5, &[])
                .await
                .unwrap()
        );
        assert!(moved().await);
        let workspace = WorkspaceRow {
            id: "ws-1".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            created_at_ms: 1,
        };
        assert!(store.workspaces().add(&workspace, &[]).await.unwrap());
        assert!(moved().await);
        store.api_keys().list(&acme, None, 9).await.unwrap();
        assert!(!moved().await);
    }
}

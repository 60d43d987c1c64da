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

const VERSIONS: &str =
    "SELECT api_keys, manifests, catalogs, workspaces, subscriptions, custom_events FROM changes";

/// The versions of what replicas keep in memory, by kind. Zero is that there was no change yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of API keys.
    pub api_keys: i64,
    /// Of manifests.
    pub manifests: i64,
    /// Of catalogues.
    pub catalogs: i64,
    /// Of tenants, workspaces and their members.
    pub workspaces: i64,
    /// Of subscriptions.
    pub subscriptions: i64,
    /// Of registrations of custom events.
    pub custom_events: i64,
}

/// The methods between replicas. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Replicas {
    postgres: OfPostgres,
}

impl Replicas {
    pub(crate) fn new(postgres: OfPostgres) -> Self {
        Self { postgres }
    }

    /// The version of each kind of what replicas keep in memory. It moves with each committed change of that kind; one read
    /// before the rows is never newer than they are.
    pub async fn versions(&self) -> Result<Versions, StoreError> {
        let asked = on_postgres!(self.postgres, "ask for changes", connection => {
            connection.fetch_one(VERSIONS).await
        });
        let row = asked?;
        let of = |kind| row.try_get(kind).map_err(attempting("ask for changes"));
        Ok(Versions {
            api_keys: of("api_keys")?,
            manifests: of("manifests")?,
            catalogs: of("catalogs")?,
            workspaces: of("workspaces")?,
            subscriptions: of("subscriptions")?,
            custom_events: of("custom_events")?,
        })
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
    use tidings_event::TenantId;

    use super::*;
    use crate::suite::{key, on_postgres};
    use crate::{CatalogRow, CustomEventChange, MemberRow, Store, SubscriptionRow, WorkspaceRow};

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
    async fn every_change_moves_the_version_of_its_kind_and_nothing_else_does() {
        assert!(Store::in_memory().await.unwrap().replicas().is_none());
        let store = on_postgres().await;
        let replicas = store.replicas().unwrap();
        let mut before = replicas.versions().await.unwrap();
        assert_eq!(before, Versions::default());
        let mut moved = async || {
            let now = replicas.versions().await.unwrap();
            let was = std::mem::replace(&mut before, now);
            let kinds = [
                ("api keys", now.api_keys != was.api_keys),
                ("manifests", now.manifests != was.manifests),
                ("catalogues", now.catalogs != was.catalogs),
                ("workspaces", now.workspaces != was.workspaces),
                ("subscriptions", now.subscriptions != was.subscriptions),
                ("custom events", now.custom_events != was.custom_events),
            ];
            let moved = kinds
                .into_iter()
                .filter_map(|(kind, moved)| moved.then_some(kind));
            moved.collect::<Vec<_>>().join(", ")
        };
        let crm = "crm".parse().unwrap();
        let acme: TenantId = "acme".parse().unwrap();
        let key = key();
        assert_eq!(moved().await, "");
        let manifests = store.manifests();
        manifests.put(&crm, "1.0.0", "{}", 1, &[]).await.unwrap();
        assert_eq!(moved().await, "manifests");
        manifests.put(&crm, "1.0.1", "{}", 1, &[]).await.unwrap();
        assert_eq!(moved().await, "manifests");
        manifests.delete(&crm, &[]).await.unwrap();
        assert_eq!(moved().await, "manifests");
        assert!(!manifests.delete(&crm, &[]).await.unwrap());
        assert_eq!(moved().await, "");
        let catalogs = store.catalogs();
        let catalog = CatalogRow {
            name: "shop".parse().unwrap(),
            document: "{}".into(),
            enforce: true,
            version: 1,
            changed_at_ms: 1,
        };
        assert!(catalogs.put(&catalog, &[]).await.unwrap());
        assert_eq!(moved().await, "catalogues");
        catalogs.delete(&catalog.name, &[]).await.unwrap();
        assert_eq!(moved().await, "catalogues");
        store.api_keys().insert(&key, &[]).await.unwrap();
        assert_eq!(moved().await, "api keys");
        assert!(
            store
                .api_keys()
                .revoke(&acme, key.id, 5, &[])
                .await
                .unwrap()
        );
        assert_eq!(moved().await, "api keys");
        let workspace = WorkspaceRow {
            id: "ws-1".parse().unwrap(),
            tenant: acme.clone(),
            created_at_ms: 1,
        };
        assert!(store.workspaces().add(&workspace, &[]).await.unwrap());
        assert_eq!(moved().await, "workspaces");
        let member = MemberRow {
            workspace: workspace.id.clone(),
            user: "ada".into(),
            role: "ADMIN".into(),
            updated_at_ms: 1,
        };
        let workspaces = store.workspaces();
        workspaces.put_member(&member, &[]).await.unwrap();
        assert_eq!(moved().await, "workspaces");
        let subscription = SubscriptionRow {
            id: Uuid::from_u128(1),
            tenant: acme.clone(),
            document: "{}".into(),
            secrets: String::new(),
            state: "active".into(),
            reason: None,
            revision: 1,
            created_at_ms: 1,
            updated_at_ms: 1,
            change: 0,
        };
        let subscriptions = store.subscriptions();
        assert!(subscriptions.put(&subscription, &[]).await.unwrap());
        assert_eq!(moved().await, "subscriptions");
        let custom_events = store.custom_events();
        let change = CustomEventChange {
            revision: 0,
            added: None,
            changed: Vec::new(),
            events: Vec::new(),
        };
        assert!(custom_events.change(&acme, &change).await.unwrap());
        assert_eq!(moved().await, "custom events");
        store.api_keys().list(&acme, None, 9).await.unwrap();
        assert_eq!(moved().await, "");
    }
}

//! What replicas on one PostgreSQL tell each other: that something has changed, and whose turn it is.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{Executor, Row};
use uuid::Uuid;

use crate::pool::{Columns, OfPostgres, on_postgres};
use crate::seal::Sealed;
use crate::{MemberRow, StoreError, TenantRow, WorkspaceRow, attempting};

/// Time is the server's. A turn that has ended, or is the caller's already, is the caller's.
const TAKE: &str = "INSERT INTO turns AS kept (name, holder, ends_at_ms) \
     VALUES ($1, $2, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint + $3::bigint) \
     ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, ends_at_ms = EXCLUDED.ends_at_ms \
     WHERE kept.holder = EXCLUDED.holder OR kept.ends_at_ms <= EXCLUDED.ends_at_ms - $3";

const VERSIONS: &str = "SELECT api_keys, manifests, catalogs, workspaces, workspaces_removed, \
     subscriptions, custom_events, \
     (EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000)::bigint AS server FROM changes";

/// In the order of their numbers; all rows of one statement have one.
const CHANGED: &str = "SELECT kind, id, change FROM workspace_changes \
     WHERE (change, kind, id) > ($1, $2, $3) ORDER BY change, kind, id LIMIT $4";

const MEMBERS: &str = "SELECT * FROM workspace_members \
     WHERE workspace = ANY($1) AND (workspace, user_id) > ($2, $3) \
     ORDER BY workspace, user_id LIMIT $4";

/// So many changes are read at once, and so many members.
const PAGE: i64 = 500;

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
    /// Of the removal of tenants and workspaces, which is a change of them too.
    pub workspaces_removed: i64,
    /// Of subscriptions.
    pub subscriptions: i64,
    /// Of registrations of custom events.
    pub custom_events: i64,
}

/// Which server counts the [`Versions`], by when it began to run. Another one may count on from less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server(i64);

/// How far a replica has read what has changed of tenants and workspaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspacesRead {
    change: i64,
    kind: String,
    id: String,
}

/// Some of what has changed of tenants and workspaces.
#[derive(Debug, Default)]
pub struct WorkspacesChanged {
    /// Tenants as they are.
    pub tenants: Vec<TenantRow>,
    /// Workspaces as they are.
    pub workspaces: Vec<WorkspaceRow>,
    /// All members of these workspaces.
    pub members: Vec<MemberRow>,
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
    pub async fn versions(&self) -> Result<(Server, Versions), StoreError> {
        let asked = on_postgres!(self.postgres, "ask for changes", connection => {
            connection.fetch_one(VERSIONS).await
        });
        let row = asked?;
        let of = |kind| row.try_get(kind).map_err(attempting("ask for changes"));
        let versions = Versions {
            api_keys: of("api_keys")?,
            manifests: of("manifests")?,
            catalogs: of("catalogs")?,
            workspaces: of("workspaces")?,
            workspaces_removed: of("workspaces_removed")?,
            subscriptions: of("subscriptions")?,
            custom_events: of("custom_events")?,
        };
        Ok((Server(of("server")?), versions))
    }

    /// How far whoever now reads all tenants and workspaces will have read at least.
    pub async fn all_workspaces(&self) -> Result<WorkspacesRead, StoreError> {
        let query = "SELECT COALESCE(max(change), 0) FROM workspace_changes";
        let change = on_postgres!(self.postgres, "ask for the last change", connection => {
            sqlx::query_scalar(query).fetch_one(connection).await
        })?;
        Ok(WorkspacesRead {
            change,
            // Behind every kind.
            kind: "~".to_owned(),
            id: String::new(),
        })
    }

    /// What of tenants and workspaces has changed, the first first, with how far it goes; nothing when that is all. What
    /// was removed is not among it.
    pub async fn changed_workspaces(
        &self,
        read: &WorkspacesRead,
    ) -> Result<Option<(WorkspacesChanged, WorkspacesRead)>, StoreError> {
        let numbered = on_postgres!(self.postgres, "read what has changed", connection => {
            sqlx::query(CHANGED)
                .bind(read.change)
                .bind(read.kind.as_str())
                .bind(read.id.as_str())
                .bind(PAGE)
                .fetch_all(connection)
                .await
        })?;
        let (mut tenants, mut workspaces, mut until) = (Vec::new(), Vec::new(), None);
        for row in numbered {
            let unread = || attempting("read a change");
            let (kind, id) = (row.text("kind"), row.text("id"));
            let (kind, id) = (kind.map_err(unread())?, id.map_err(unread())?);
            let of_kind = if kind == "tenant" {
                &mut tenants
            } else {
                &mut workspaces
            };
            of_kind.push(id.clone());
            let change = row.integer("change").map_err(unread())?;
            until = Some(WorkspacesRead { change, kind, id });
        }
        let Some(until) = until else {
            return Ok(None);
        };
        let changed = WorkspacesChanged {
            tenants: self
                .of(
                    "SELECT * FROM tenants WHERE id = ANY($1) ORDER BY id",
                    &tenants,
                )
                .await?,
            workspaces: self
                .of(
                    "SELECT * FROM workspaces WHERE id = ANY($1) ORDER BY id",
                    &workspaces,
                )
                .await?,
            members: self.members(&workspaces).await?,
        };
        Ok(Some((changed, until)))
    }

    async fn of<T: Sealed>(
        &self,
        query: &'static str,
        ids: &[String],
    ) -> Result<Vec<T>, StoreError> {
        let found = on_postgres!(self.postgres, "read what has changed", connection => {
            sqlx::query(query).bind(ids).fetch_all(connection).await
        });
        rows(&found?)
    }

    async fn members(&self, workspaces: &[String]) -> Result<Vec<MemberRow>, StoreError> {
        let mut all: Vec<MemberRow> = Vec::new();
        loop {
            let last = all.last();
            let after = last.map_or(("", ""), |row| (row.workspace.as_str(), &*row.user));
            let found = on_postgres!(self.postgres, "read who are members", connection => {
                sqlx::query(MEMBERS)
                    .bind(workspaces)
                    .bind(after.0)
                    .bind(after.1)
                    .bind(PAGE)
                    .fetch_all(connection)
                    .await
            })?;
            if found.is_empty() {
                return Ok(all);
            }
            all.extend(rows::<MemberRow>(&found)?);
        }
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

fn rows<T: Sealed>(rows: &[PgRow]) -> Result<Vec<T>, StoreError> {
    rows.iter().map(T::from_row).collect()
}

#[cfg(test)]
mod tests {
    use tidings_event::TenantId;

    use super::*;
    use crate::pool::Connections;
    use crate::suite::{key, on_postgres};
    use crate::{CatalogRow, CustomEventChange, Store, SubscriptionRow};

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
    async fn connections_are_set_to_be_cut_off_where_they_stand_still_in_a_transaction() {
        let store = on_postgres().await;
        let Connections::Postgres(postgres) = &store.connections else {
            panic!("{store:?}");
        };
        let shown = "SHOW idle_in_transaction_session_timeout";
        let shown = sqlx::query_scalar(shown).fetch_one(&postgres.pool).await;
        let shown: String = shown.unwrap();
        assert_eq!(shown, "5s");
    }

    #[tokio::test]
    async fn what_has_changed_of_tenants_and_workspaces_is_read_alone() {
        let store = on_postgres().await;
        let (replicas, room) = (store.replicas().unwrap(), store.workspaces());
        let mut read = WorkspacesRead::default();
        let mut changed = async || {
            let mut all = Vec::new();
            while let Some((changed, until)) = replicas.changed_workspaces(&read).await.unwrap() {
                read = until;
                all.extend(changed.tenants.iter().map(|it| it.id.to_string()));
                for workspace in changed.workspaces {
                    let of_it = changed.members.iter();
                    let of_it = of_it.filter(|member| member.workspace == workspace.id);
                    let users: Vec<_> = of_it.map(|member| &*member.user).collect();
                    all.push(format!("{}: {}", workspace.id, users.join(" ")));
                }
            }
            all
        };
        let tenant = TenantRow {
            id: "acme".parse().unwrap(),
            slug: "acme".into(),
            plan: "FREE".into(),
            namespaces: "[]".into(),
            created_at_ms: 1,
            updated_at_ms: 1,
        };
        let workspace = |id: &str| WorkspaceRow {
            id: id.parse().unwrap(),
            tenant: tenant.id.clone(),
            created_at_ms: 1,
        };
        let member = |id: &str, user: &str| MemberRow {
            workspace: id.parse().unwrap(),
            user: user.into(),
            role: "ADMIN".into(),
            updated_at_ms: 1,
        };
        assert!(changed().await.is_empty());
        assert!(room.add_tenant(&tenant).await.unwrap());
        assert!(room.add(&workspace("ws-1"), None, &[]).await.unwrap());
        assert!(room.add(&workspace("ws-2"), None, &[]).await.unwrap());
        room.put_member(&member("ws-2", "ada"), &[]).await.unwrap();
        assert_eq!(changed().await, ["acme", "ws-1: ", "ws-2: ada"]);
        room.put_member(&member("ws-1", "ada"), &[]).await.unwrap();
        room.put_member(&member("ws-1", "bob"), &[]).await.unwrap();
        assert_eq!(changed().await, ["ws-1: ada bob"]);
        let ws_1 = workspace("ws-1").id;
        assert!(room.delete_member(&ws_1, "ada", &[]).await.unwrap());
        let enterprise = TenantRow {
            plan: "ENTERPRISE".into(),
            updated_at_ms: 2,
            ..tenant.clone()
        };
        assert!(
            room.put_tenant(&enterprise, Some(&tenant), &[])
                .await
                .unwrap()
        );
        assert_eq!(changed().await, ["acme", "ws-1: bob"]);
        assert!(changed().await.is_empty());
        let many = usize::try_from(PAGE).unwrap() * 2 + 1;
        for number in 0..many {
            let id = format!("many-{number}");
            assert!(room.add(&workspace(&id), None, &[]).await.unwrap());
        }
        assert_eq!(changed().await.len(), many);
        for number in 0..many {
            let user = format!("user-{number}");
            room.put_member(&member("ws-2", &user), &[]).await.unwrap();
        }
        let of_one = changed().await;
        assert_eq!(of_one.len(), 1);
        assert_eq!(of_one[0].split(' ').count(), 1 + 1 + many, "{of_one:?}");
        let Connections::Postgres(postgres) = &store.connections else {
            panic!("{store:?}");
        };
        // As where one statement changes all.
        let together =
            "UPDATE workspace_changes SET change = (SELECT max(change) + 1 FROM workspace_changes)";
        postgres.pool.execute(together).await.unwrap();
        assert_eq!(changed().await.len(), 3 + many);

        // What is removed, by hand, is no row any more; what is written as it was is no change.
        let (_, before) = replicas.versions().await.unwrap();
        let same =
            "UPDATE tenants SET slug = slug; UPDATE workspace_members SET role = role WHERE false";
        postgres.pool.execute(same).await.unwrap();
        assert_eq!(replicas.versions().await.unwrap().1, before);
        for table in ["workspaces", "tenants"] {
            let delete = sqlx::AssertSqlSafe(format!("DELETE FROM {table}"));
            postgres.pool.execute(delete).await.unwrap();
        }
        let (_, after) = replicas.versions().await.unwrap();
        assert_eq!(after.workspaces_removed, before.workspaces_removed + 2);
        assert_eq!(after.workspaces, before.workspaces + 2);
        assert!(changed().await.is_empty());
    }

    #[tokio::test]
    async fn every_change_moves_the_version_of_its_kind_and_nothing_else_does() {
        assert!(Store::in_memory().await.unwrap().replicas().is_none());
        let store = on_postgres().await;
        let replicas = store.replicas().unwrap();
        let (_, mut before) = replicas.versions().await.unwrap();
        assert_eq!(before, Versions::default());
        let mut moved = async || {
            let (_, now) = replicas.versions().await.unwrap();
            let was = std::mem::replace(&mut before, now);
            let kinds = [
                ("api keys", now.api_keys != was.api_keys),
                ("manifests", now.manifests != was.manifests),
                ("catalogues", now.catalogs != was.catalogs),
                ("workspaces", now.workspaces != was.workspaces),
                ("subscriptions", now.subscriptions != was.subscriptions),
                ("custom events", now.custom_events != was.custom_events),
            ];
            let kinds = kinds.into_iter();
            let moved = kinds.filter_map(|(kind, moved)| moved.then_some(kind));
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
        assert!(store.workspaces().add(&workspace, None, &[]).await.unwrap());
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

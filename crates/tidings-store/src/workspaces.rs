//! Who the installation serves: tenants, their workspaces (source C), and who is a member of one.

use sqlx::Connection;
use tidings_event::{TenantId, WorkspaceId};

use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, count_of, on_either, pages, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{FirstExtension, StoreError, attempting, extensions, parsed, subscriptions};

/// A tenant as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id, as in credentials.
    pub id: TenantId,
    /// Its namespace while it is given none.
    pub slug: String,
    /// `FREE`, `BASIC`, `PRO` or `ENTERPRISE`.
    pub plan: String,
    /// What it may name events under, as a JSON array.
    pub namespaces: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was last written, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// A workspace as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// Its id, unique in the installation.
    pub id: WorkspaceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// A member of a workspace as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// Of which workspace.
    pub workspace: WorkspaceId,
    /// The `sub` of its tokens.
    pub user: String,
    /// `ADMIN` or `MEMBER`.
    pub role: String,
    /// When it was last written, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// On PostgreSQL whoever writes a tenant waits here for the one before, and then sees its slug. SQLite has one writer.
const TENANTS_ALONE: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.tenants', 0))";

/// The methods on tenants and workspaces.
#[derive(Debug, Clone, Copy)]
pub struct Workspaces<'a> {
    connections: &'a Connections,
}

impl<'a> Workspaces<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps a tenant unless there is one of its id, or another with its slug. False when there is.
    pub async fn add_tenant(&self, row: &TenantRow) -> Result<bool, StoreError> {
        self.put_tenant(row, None, &[]).await
    }

    /// Writes a tenant, with the events that tell of it. False when it is not as it was `before`, by then, and `None` is
    /// that there was none, or when its slug is new and another's by then: then nothing is written.
    pub async fn put_tenant(
        &self,
        row: &TenantRow,
        before: Option<&TenantRow>,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        let query = match before {
            None => {
                "INSERT INTO tenants (id, slug, plan, namespaces, created_at_ms, updated_at_ms, crc) \
                 SELECT $1, $2, $3, $4, $5, $6, $7 \
                 WHERE NOT EXISTS (SELECT 1 FROM tenants WHERE slug = $2 AND id <> $1) \
                 ON CONFLICT (id) DO NOTHING"
            }
            Some(_) => {
                "UPDATE tenants SET slug = $2, plan = $3, namespaces = $4, created_at_ms = $5, \
                 updated_at_ms = $6, crc = $7 WHERE id = $1 AND slug = $8 AND plan = $9 \
                 AND namespaces = $10 AND updated_at_ms = $11 AND ($2 = $8 \
                 OR NOT EXISTS (SELECT 1 FROM tenants WHERE slug = $2 AND id <> $1))"
            }
        };
        let alone = match self.connections {
            Connections::Sqlite(_) => None,
            Connections::Postgres(_) => Some(TENANTS_ALONE),
        };
        writing_on_either!(self.connections, "write a tenant", connection => {
            let mut transaction = connection.begin().await?;
            if let Some(alone) = alone {
                sqlx::query(alone).execute(&mut *transaction).await?;
            }
            let mut writing = sqlx::query(query)
                .bind(row.id.as_str())
                .bind(&row.slug)
                .bind(&row.plan)
                .bind(&row.namespaces)
                .bind(row.created_at_ms)
                .bind(row.updated_at_ms)
                .bind(row.seal());
            if let Some(before) = before {
                writing = writing
                    .bind(&before.slug)
                    .bind(&before.plan)
                    .bind(&before.namespaces)
                    .bind(before.updated_at_ms);
            }
            if writing.execute(&mut *transaction).await?.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// The tenant of this id.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<TenantRow>, StoreError> {
        let query = "SELECT * FROM tenants WHERE id = $1";
        on_either!(self.connections, "read a tenant", connection => {
            sqlx::query(query)
                .bind(id.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(TenantRow::from_row))
        })?
        .transpose()
    }

    /// Every tenant.
    pub async fn tenants(&self) -> Result<Vec<TenantRow>, StoreError> {
        let query = "SELECT * FROM tenants WHERE id > $2 ORDER BY id LIMIT $1";
        let key = |row: &TenantRow| vec![row.id.to_string()];
        let first = vec![String::new()];
        pages(self.connections, "list the tenants", query, first, key).await
    }

    /// Keeps a workspace with the extension that it has from the beginning, if any, and the events that tell of both. False
    /// when an id is taken: then nothing is written.
    pub async fn add(
        &self,
        row: &WorkspaceRow,
        first: Option<&FirstExtension>,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        let query = "INSERT INTO workspaces (id, tenant, created_at_ms, crc) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";
        writing_on_either!(self.connections, "write a workspace", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query(query)
                .bind(row.id.as_str())
                .bind(row.tenant.as_str())
                .bind(row.created_at_ms)
                .bind(row.seal())
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            if let Some(first) = first {
                extensions::put!(&mut *transaction, &first.row)?;
                for (gets, subscription) in &first.gets {
                    extensions::put_subscription!(&mut *transaction, gets)?;
                    if subscriptions::put!(transaction, subscription)?.rows_affected() == 0 {
                        return transaction.rollback().await.map(|()| false);
                    }
                }
            }
            outbox::write!(transaction, events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// Everybody's workspaces.
    pub async fn all(&self) -> Result<Vec<WorkspaceRow>, StoreError> {
        let query = "SELECT * FROM workspaces WHERE id > $2 ORDER BY id LIMIT $1";
        let key = |row: &WorkspaceRow| vec![row.id.to_string()];
        let first = vec![String::new()];
        pages(self.connections, "list the workspaces", query, first, key).await
    }

    /// How many workspaces a tenant has.
    pub async fn count_of(&self, tenant: &TenantId) -> Result<usize, StoreError> {
        let query = "SELECT count(*) FROM workspaces WHERE tenant = $1";
        count_of(
            self.connections,
            "count the workspaces",
            query,
            tenant.as_str(),
        )
        .await
    }

    /// A workspace.
    pub async fn get(&self, id: &WorkspaceId) -> Result<Option<WorkspaceRow>, StoreError> {
        let query = "SELECT * FROM workspaces WHERE id = $1";
        on_either!(self.connections, "read a workspace", connection => {
            sqlx::query(query)
                .bind(id.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(WorkspaceRow::from_row))
        })?
        .transpose()
    }

    /// Everybody's members.
    pub async fn members(&self) -> Result<Vec<MemberRow>, StoreError> {
        let query = "SELECT * FROM workspace_members WHERE (workspace, user_id) > ($2, $3) \
             ORDER BY workspace, user_id LIMIT $1";
        let first = vec![String::new(); 2];
        pages(
            self.connections,
            "list the members",
            query,
            first,
            member_key,
        )
        .await
    }

    /// The members of a workspace.
    pub async fn members_of(&self, id: &WorkspaceId) -> Result<Vec<MemberRow>, StoreError> {
        let query = "SELECT * FROM workspace_members WHERE workspace = $2 AND user_id > $3 \
             ORDER BY user_id LIMIT $1";
        let first = vec![id.to_string(), String::new()];
        pages(
            self.connections,
            "list the members of a workspace",
            query,
            first,
            member_key,
        )
        .await
    }

    /// Writes a member, with the events that tell of it.
    pub async fn put_member(
        &self,
        row: &MemberRow,
        events: &[OutboxRow],
    ) -> Result<(), StoreError> {
        let query = "INSERT INTO workspace_members (workspace, user_id, role, updated_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (workspace, user_id) DO UPDATE SET \
             role = excluded.role, updated_at_ms = excluded.updated_at_ms, crc = excluded.crc";
        writing_on_either!(self.connections, "write a member", connection => {
            let mut transaction = connection.begin().await?;
            sqlx::query(query)
                .bind(row.workspace.as_str())
                .bind(&row.user)
                .bind(&row.role)
                .bind(row.updated_at_ms)
                .bind(row.seal())
                .execute(&mut *transaction)
                .await?;
            outbox::write!(transaction, events);
            transaction.commit().await
        })
    }

    /// Removes a member, with the events that tell of it. False when there was none: then nothing is told.
    pub async fn delete_member(
        &self,
        workspace: &WorkspaceId,
        user: &str,
        events: &[OutboxRow],
    ) -> Result<bool, StoreError> {
        let query = "DELETE FROM workspace_members WHERE workspace = $1 AND user_id = $2";
        writing_on_either!(self.connections, "remove a member", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query(query)
                .bind(workspace.as_str())
                .bind(user)
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

fn member_key(row: &MemberRow) -> Vec<String> {
    vec![row.workspace.to_string(), row.user.clone()]
}

impl Sealed for TenantRow {
    const TABLE: &'static str = "tenants";
    const ALL: &'static str = "SELECT * FROM tenants";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.id.as_str());
        let seal = seal.text(&self.slug).text(&self.plan);
        let seal = seal.text(&self.namespaces).number(self.created_at_ms);
        seal.number(self.updated_at_ms).finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a tenant");
        Ok(Self {
            id: parsed(row, "of a tenant", "id")?,
            slug: row.text("slug").map_err(unread())?,
            plan: row.text("plan").map_err(unread())?,
            namespaces: row.text("namespaces").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
        })
    }
}

impl Sealed for WorkspaceRow {
    const TABLE: &'static str = "workspaces";
    const ALL: &'static str = "SELECT * FROM workspaces";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.id.as_str());
        seal.text(self.tenant.as_str())
            .number(self.created_at_ms)
            .finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a workspace");
        Ok(Self {
            id: parsed(row, "of a workspace", "id")?,
            tenant: parsed(row, "of a workspace", "tenant")?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
        })
    }
}

impl Sealed for MemberRow {
    const TABLE: &'static str = "workspace_members";
    const ALL: &'static str = "SELECT * FROM workspace_members";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.workspace.as_str());
        let seal = seal.text(&self.user).text(&self.role);
        seal.number(self.updated_at_ms).finish()
    }

    fn name(&self) -> String {
        format!("{} {}", self.workspace, self.user)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a member");
        Ok(Self {
            workspace: parsed(row, "of a member", "workspace")?,
            user: row.text("user_id").map_err(unread())?,
            role: row.text("role").map_err(unread())?,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use uuid::Uuid;

    use super::*;
    use crate::suite::on_each_database;
    use crate::{ExtensionRow, ExtensionSubscriptionRow, SubscriptionRow};

    #[tokio::test]
    async fn all_that_there_are_come_by_pages_and_once() {
        on_each_database(async |store| {
            let room = store.workspaces();
            let (mut tenants, mut workspaces, mut members) = (Vec::new(), Vec::new(), Vec::new());
            for name in ["a", "b", "c", "d", "e"] {
                let tenant = TenantRow {
                    id: name.parse().unwrap(),
                    slug: name.into(),
                    plan: "FREE".into(),
                    namespaces: "[]".into(),
                    created_at_ms: 1,
                    updated_at_ms: 1,
                };
                assert!(room.add_tenant(&tenant).await.unwrap());
                let workspace = WorkspaceRow {
                    id: name.parse().unwrap(),
                    tenant: tenant.id.clone(),
                    created_at_ms: 1,
                };
                assert!(room.add(&workspace, None, &[]).await.unwrap());
                tenants.push(tenant);
                for user in ["x", "y", "z"] {
                    let member = MemberRow {
                        workspace: workspace.id.clone(),
                        user: user.into(),
                        role: "MEMBER".into(),
                        updated_at_ms: 1,
                    };
                    room.put_member(&member, &[]).await.unwrap();
                    members.push(member);
                }
                workspaces.push(workspace);
            }
            assert_eq!(room.tenants().await.unwrap(), tenants);
            assert_eq!(room.all().await.unwrap(), workspaces);
            assert_eq!(room.members().await.unwrap(), members);
            let third = &workspaces[2];
            assert_eq!(room.count_of(&third.tenant).await.unwrap(), 1);
            let nobody = "nobody".parse().unwrap();
            assert_eq!(room.count_of(&nobody).await.unwrap(), 0);
            assert_eq!(room.members_of(&third.id).await.unwrap(), members[6..9]);
            assert_eq!(room.get(&third.id).await.unwrap().as_ref(), Some(third));
            assert_eq!(room.get(&"f".parse().unwrap()).await.unwrap(), None);
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slug_has_one_tenant_however_many_ask_for_it_at_once() {
        on_each_database(async |store| {
            let tenant = |id: &str, slug: &str| TenantRow {
                id: id.parse().unwrap(),
                slug: slug.into(),
                plan: "FREE".into(),
                namespaces: "[]".into(),
                created_at_ms: 1,
                updated_at_ms: 1,
            };
            for round in 0..10 {
                let slug = format!("slug-{round}");
                let asking = (0..4).map(|number| {
                    let (store, row) = (store.clone(), tenant(&format!("{slug}.{number}"), &slug));
                    tokio::spawn(async move { store.workspaces().add_tenant(&row).await.unwrap() })
                });
                let mut added = 0;
                for asked in asking.collect::<Vec<_>>() {
                    added += usize::from(asked.await.unwrap());
                }
                assert_eq!(added, 1, "{slug}");
            }
            let room = store.workspaces();
            let (other, taken) = (tenant("other", "other"), tenant("other", "slug-1"));
            assert!(room.add_tenant(&other).await.unwrap());
            let renamed = room.put_tenant(&taken, Some(&other), &[]).await;
            assert!(!renamed.unwrap());
            let upgraded = TenantRow {
                plan: "PRO".into(),
                ..other.clone()
            };
            let kept = room.put_tenant(&upgraded, Some(&other), &[]).await;
            assert!(kept.unwrap());
        })
        .await;
    }

    #[tokio::test]
    async fn a_workspace_is_kept_with_its_first_extension_or_not_at_all() {
        on_each_database(async |store| {
            let (tenant, id) = ("acme".parse().unwrap(), Uuid::from_u128(1));
            let workspace = |id: &str| WorkspaceRow {
                id: id.parse().unwrap(),
                tenant: "acme".parse().unwrap(),
                created_at_ms: 1,
            };
            let first = |workspace: &WorkspaceRow| FirstExtension {
                row: ExtensionRow {
                    workspace: workspace.id.clone(),
                    id: "chat".parse().unwrap(),
                    kind: "IN_PROCESS".into(),
                    service_base_url: None,
                    installed: true,
                    enabled: true,
                    updated_at_ms: 1,
                },
                gets: vec![(
                    ExtensionSubscriptionRow {
                        workspace: workspace.id.clone(),
                        extension: "chat".parse().unwrap(),
                        event_key: "platform.notification".parse().unwrap(),
                        subscription: Some(id),
                        created_at_ms: 1,
                    },
                    SubscriptionRow {
                        id,
                        tenant: workspace.tenant.clone(),
                        document: "{}".into(),
                        secrets: "x".into(),
                        state: "active".into(),
                        reason: None,
                        revision: 1,
                        created_at_ms: 1,
                        updated_at_ms: 1,
                        change: 0,
                    },
                )],
            };
            let (room, extensions) = (store.workspaces(), store.extensions());
            let (one, other) = (workspace("ws-1"), workspace("ws-2"));
            let has = first(&one);
            assert!(room.add(&one, Some(&has), &[]).await.unwrap());
            let kept = extensions.get(&one.id, &has.row.id).await.unwrap();
            assert_eq!(kept.as_ref(), Some(&has.row));
            let gets = extensions.subscriptions(&one.id, None).await.unwrap();
            assert_eq!(gets, [has.gets[0].0.clone()]);
            let subscription = store.subscriptions().get(&tenant, id).await.unwrap();
            assert_eq!(subscription.unwrap().state, "active");
            // A repeat brings nothing back.
            assert!(extensions.delete(&one.id, &has.row.id, &[]).await.unwrap());
            assert!(!room.add(&one, Some(&has), &[]).await.unwrap());
            assert_eq!(extensions.get(&one.id, &has.row.id).await.unwrap(), None);
            // The subscription's id is taken: there is no workspace without it.
            let taken = room.add(&other, Some(&first(&other)), &[]).await;
            assert!(!taken.unwrap());
            assert_eq!(room.all().await.unwrap(), [one]);
            assert_eq!(extensions.count_of(&other.id).await.unwrap(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn tenants_workspaces_and_members_are_kept_and_an_id_is_taken_once() {
        on_each_database(async |store| {
            let room = store.workspaces();
            let tenant = |slug: &str| TenantRow {
                id: "acme".parse().unwrap(),
                slug: slug.into(),
                plan: "FREE".into(),
                namespaces: "[]".into(),
                created_at_ms: 1,
                updated_at_ms: 1,
            };
            assert!(room.add_tenant(&tenant("first")).await.unwrap());
            assert!(!room.add_tenant(&tenant("second")).await.unwrap());
            let (first, third) = (tenant("first"), tenant("third"));
            let written = room.put_tenant(&third, Some(&first), &[]).await;
            assert!(written.unwrap());
            // Whoever has seen it as it was comes too late.
            for seen in [Some(&first), None] {
                let late = room.put_tenant(&tenant("fourth"), seen, &[]).await;
                assert!(!late.unwrap());
            }
            assert_eq!(room.tenants().await.unwrap(), slice::from_ref(&third));
            assert_eq!(room.tenant(&third.id).await.unwrap(), Some(third));
            let globex = "globex".parse().unwrap();
            assert_eq!(room.tenant(&globex).await.unwrap(), None);

            let workspace = |tenant: &str| WorkspaceRow {
                id: "ws-1".parse().unwrap(),
                tenant: tenant.parse().unwrap(),
                created_at_ms: 1,
            };
            assert!(room.add(&workspace("acme"), None, &[]).await.unwrap());
            assert!(!room.add(&workspace("globex"), None, &[]).await.unwrap());
            assert_eq!(room.all().await.unwrap(), [workspace("acme")]);

            let member = |role: &str| MemberRow {
                workspace: "ws-1".parse().unwrap(),
                user: "ada".into(),
                role: role.into(),
                updated_at_ms: 1,
            };
            room.put_member(&member("MEMBER"), &[]).await.unwrap();
            room.put_member(&member("ADMIN"), &[]).await.unwrap();
            assert_eq!(room.members().await.unwrap(), [member("ADMIN")]);
            let workspace = member("ADMIN").workspace;
            assert!(room.delete_member(&workspace, "ada", &[]).await.unwrap());
            assert!(!room.delete_member(&workspace, "ada", &[]).await.unwrap());
        })
        .await;
    }
}

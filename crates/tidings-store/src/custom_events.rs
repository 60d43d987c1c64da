//! Source D: what tenants have registered, version by version. What a status or a schema means is the gateway's.

use sqlx::{Connection, QueryBuilder};
use tidings_event::TenantId;

use crate::outbox::{self, OutboxRow};
use crate::pool::{Columns, Connections, on_either, storable, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, whole};

/// A version's three numbers.
pub type VersionNumbers = [u32; 3];

/// A version of a custom event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomEventRow {
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it is registered.
    pub namespace: String,
    /// What it is called there.
    pub name: String,
    /// Which version.
    pub version: VersionNumbers,
    /// `draft`, `published`, `archived` or `superseded`.
    pub status: String,
    /// What it tells of.
    pub description: Option<String>,
    /// Its schema, as JSON. It never changes.
    pub payload_schema: String,
    /// A payload that fits, as JSON.
    pub payload_example: Option<String>,
    /// SHA-256 of the schema's canonical form, in hexadecimal.
    pub schema_hash: String,
    /// Which dialect the schema is written in.
    pub schema_flavour: String,
    /// Which step the version was.
    pub semver_bump: String,
    /// When it was registered, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was last changed, in milliseconds since 1970.
    pub updated_at_ms: i64,
}

/// Where a version stands in the order of all of its tenant.
pub type CustomEventPlace = (String, String, VersionNumbers);

/// Which versions are asked for.
#[derive(Debug, Clone, Default)]
pub struct CustomEventQuery {
    /// In this namespace only.
    pub namespace: Option<String>,
    /// Of this name only.
    pub name: Option<String>,
    /// With this status only.
    pub status: Option<String>,
    /// Of an event's published versions the latest alone is told as published, the others as superseded.
    pub latest_alone: bool,
    /// After this place.
    pub after: Option<CustomEventPlace>,
    /// At most so many.
    pub limit: u32,
}

/// A change of a tenant's registrations, made whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct CustomEventChange {
    /// The revision that it was decided on, 0 for the first.
    pub revision: i64,
    /// A new version.
    pub added: Option<CustomEventRow>,
    /// Versions whose status, description and time are new.
    pub changed: Vec<CustomEventRow>,
    /// What tells of it.
    pub events: Vec<OutboxRow>,
}

/// That a tenant's registrations changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomEventsChanged {
    /// Whose.
    pub tenant: TenantId,
    /// The number of the change among those of all tenants.
    pub change: i64,
}

/// The methods on custom events.
#[derive(Debug, Clone, Copy)]
pub struct CustomEvents<'a> {
    connections: &'a Connections,
}

const INSERT: &str = "INSERT INTO custom_event (tenant, namespace, name, major, minor, patch, status, description, \
     payload_schema, payload_example, schema_hash, schema_flavour, semver_bump, created_at_ms, updated_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

const UPDATE: &str = "UPDATE custom_event SET status = $7, description = $8, updated_at_ms = $9, crc = $10 \
     WHERE tenant = $1 AND namespace = $2 AND name = $3 AND major = $4 AND minor = $5 AND patch = $6";

/// What is told of a version where the latest published one of its event is in force alone.
const IN_FORCE: &str = "CASE WHEN status = 'published' AND EXISTS (SELECT 1 FROM custom_event AS later \
     WHERE later.tenant = custom_event.tenant AND later.namespace = custom_event.namespace \
     AND later.name = custom_event.name AND later.status = 'published' \
     AND (later.major, later.minor, later.patch) > (custom_event.major, custom_event.minor, custom_event.patch)) \
     THEN 'superseded' ELSE status END";

/// Comes first: the row is locked until the change is committed. Nothing is written over another revision.
const REVISE: &str = "INSERT INTO custom_event_tenant (tenant, revision, change, crc) VALUES ($1, $2, 1, $3) \
     ON CONFLICT (tenant) DO UPDATE SET revision = excluded.revision, \
     change = custom_event_tenant.change + 1, crc = excluded.crc \
     WHERE custom_event_tenant.revision = excluded.revision - 1";

impl<'a> CustomEvents<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// How often the tenant's registrations have changed. Read before what is decided on, it is never newer.
    pub async fn revision(&self, tenant: &TenantId) -> Result<i64, StoreError> {
        let row = on_either!(self.connections, "read a tenant's registrations", connection => {
            sqlx::query("SELECT * FROM custom_event_tenant WHERE tenant = $1")
                .bind(tenant.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(CustomEventTenantRow::from_row))
        })?;
        Ok(row.transpose()?.map_or(0, |row| row.revision))
    }

    /// How many distinct events the tenant has registered.
    pub async fn count(&self, tenant: &TenantId) -> Result<u64, StoreError> {
        let query = "SELECT COUNT(*) AS events FROM \
             (SELECT DISTINCT namespace, name FROM custom_event WHERE tenant = $1) AS registered";
        let count = on_either!(self.connections, "count custom events", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .fetch_one(connection)
                .await
                .and_then(|row| row.integer("events"))
        })?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// All versions of an event of the tenant, the oldest first.
    pub async fn versions(
        &self,
        tenant: &TenantId,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<CustomEventRow>, StoreError> {
        let query = "SELECT * FROM custom_event WHERE tenant = $1 AND namespace = $2 AND name = $3 \
             ORDER BY major, minor, patch";
        on_either!(self.connections, "read the versions of a custom event", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .bind(storable(namespace))
                .bind(storable(name))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CustomEventRow::from_row).collect())
        })?
    }

    /// The tenant's versions that are asked for, in the order of namespace, name and version.
    pub async fn list(
        &self,
        tenant: &TenantId,
        query: &CustomEventQuery,
    ) -> Result<Vec<CustomEventRow>, StoreError> {
        on_either!(self.connections, "list custom events", connection => {
            let told = if query.latest_alone { IN_FORCE } else { "status" };
            let mut builder = QueryBuilder::new("SELECT custom_event.*, ");
            builder.push(told).push(" AS told FROM custom_event WHERE tenant = ");
            builder.push_bind(tenant.as_str());
            let wanted = [
                ("namespace", &query.namespace),
                ("name", &query.name),
                (told, &query.status),
            ];
            for (column, value) in wanted {
                if let Some(value) = value {
                    builder.push(" AND ").push(column).push(" = ").push_bind(value.as_str());
                }
            }
            if let Some((namespace, name, numbers)) = &query.after {
                builder.push(" AND (namespace, name, major, minor, patch) > (");
                let mut place = builder.separated(", ");
                place.push_bind(namespace.as_str()).push_bind(name.as_str());
                for number in numbers {
                    place.push_bind(i64::from(*number));
                }
                builder.push(")");
            }
            builder.push(" ORDER BY namespace, name, major, minor, patch LIMIT ");
            builder.push_bind(i64::from(query.limit));
            let rows = builder.build().fetch_all(connection).await;
            rows.map(|rows| rows.iter().map(as_told).collect())
        })?
    }

    /// Makes a change of the tenant's registrations, with the events that tell of it. False when they have changed
    /// since the revision that it was decided on: then nothing is changed or told.
    pub async fn change(
        &self,
        tenant: &TenantId,
        change: &CustomEventChange,
    ) -> Result<bool, StoreError> {
        let revised = CustomEventTenantRow {
            tenant: tenant.clone(),
            revision: change.revision + 1,
        };
        writing_on_either!(self.connections, "change a tenant's registrations", connection => {
            let mut transaction = connection.begin().await?;
            let done = sqlx::query(REVISE)
                .bind(tenant.as_str())
                .bind(revised.revision)
                .bind(revised.seal())
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return transaction.rollback().await.map(|()| false);
            }
            if let Some(row) = &change.added {
                sqlx::query(INSERT)
                    .bind(tenant.as_str())
                    .bind(row.namespace.as_str())
                    .bind(row.name.as_str())
                    .bind(i64::from(row.version[0]))
                    .bind(i64::from(row.version[1]))
                    .bind(i64::from(row.version[2]))
                    .bind(row.status.as_str())
                    .bind(row.description.as_deref())
                    .bind(row.payload_schema.as_str())
                    .bind(row.payload_example.as_deref())
                    .bind(row.schema_hash.as_str())
                    .bind(row.schema_flavour.as_str())
                    .bind(row.semver_bump.as_str())
                    .bind(row.created_at_ms)
                    .bind(row.updated_at_ms)
                    .bind(row.seal())
                    .execute(&mut *transaction)
                    .await?;
            }
            for row in &change.changed {
                sqlx::query(UPDATE)
                    .bind(tenant.as_str())
                    .bind(row.namespace.as_str())
                    .bind(row.name.as_str())
                    .bind(i64::from(row.version[0]))
                    .bind(i64::from(row.version[1]))
                    .bind(i64::from(row.version[2]))
                    .bind(row.status.as_str())
                    .bind(row.description.as_deref())
                    .bind(row.updated_at_ms)
                    .bind(row.seal())
                    .execute(&mut *transaction)
                    .await?;
            }
            outbox::write!(transaction, &change.events);
            transaction.commit().await.map(|()| true)
        })
    }

    /// Whose registrations changed after a change, the first of them first. The installation keeps what it knows of
    /// all tenants; nothing of this is shown to any.
    pub async fn changed_after(
        &self,
        change: i64,
        limit: u32,
    ) -> Result<Vec<CustomEventsChanged>, StoreError> {
        let query = "SELECT tenant, change FROM custom_event_tenant WHERE change > $1 \
             ORDER BY change LIMIT $2";
        let doing = "read whose registrations changed";
        on_either!(self.connections, doing, connection => {
            sqlx::query(query)
                .bind(change)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(changed).collect())
        })?
    }

    /// The number of the last change of all tenants.
    pub async fn last_change(&self) -> Result<i64, StoreError> {
        let query = "SELECT COALESCE(MAX(change), 0) AS change FROM custom_event_tenant";
        on_either!(self.connections, "read what registrations changed last", connection => {
            sqlx::query(query)
                .fetch_one(connection)
                .await
                .and_then(|row| row.integer("change"))
        })
    }
}

fn as_told(row: &impl Columns) -> Result<CustomEventRow, StoreError> {
    let status = row.text("told").map_err(attempting("read a custom event"));
    Ok(CustomEventRow {
        status: status?,
        ..CustomEventRow::from_row(row)?
    })
}

fn changed(row: &impl Columns) -> Result<CustomEventsChanged, StoreError> {
    let change = row.integer("change");
    Ok(CustomEventsChanged {
        tenant: parsed(row, "of a tenant's registrations", "tenant")?,
        change: change.map_err(attempting("read whose registrations changed"))?,
    })
}

impl Sealed for CustomEventRow {
    const TABLE: &'static str = "custom_event";
    const ALL: &'static str = "SELECT * FROM custom_event";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.tenant.as_str());
        let seal = seal.text(&self.namespace).text(&self.name);
        let numbers = self.version.into_iter().map(i64::from);
        let seal = numbers.fold(seal, Seal::number).text(&self.status);
        let seal = seal.maybe(self.description.as_deref(), Seal::text);
        let seal = seal.text(&self.payload_schema);
        let seal = seal.maybe(self.payload_example.as_deref(), Seal::text);
        let seal = seal.text(&self.schema_hash).text(&self.schema_flavour);
        seal.text(&self.semver_bump)
            .number(self.created_at_ms)
            .number(self.updated_at_ms)
            .finish()
    }

    fn name(&self) -> String {
        let [major, minor, patch] = self.version;
        format!(
            "{} {}.{}@{major}.{minor}.{patch}",
            self.tenant, self.namespace, self.name
        )
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a custom event");
        let name = row.text("name").map_err(unread())?;
        Ok(Self {
            tenant: parsed(row, &name, "tenant")?,
            namespace: row.text("namespace").map_err(unread())?,
            version: [
                whole(row, &name, "major")?,
                whole(row, &name, "minor")?,
                whole(row, &name, "patch")?,
            ],
            name,
            status: row.text("status").map_err(unread())?,
            description: row.optional_text("description").map_err(unread())?,
            payload_schema: row.text("payload_schema").map_err(unread())?,
            payload_example: row.optional_text("payload_example").map_err(unread())?,
            schema_hash: row.text("schema_hash").map_err(unread())?,
            schema_flavour: row.text("schema_flavour").map_err(unread())?,
            semver_bump: row.text("semver_bump").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            updated_at_ms: row.integer("updated_at_ms").map_err(unread())?,
        })
    }
}

/// How often a tenant's registrations have changed.
pub(crate) struct CustomEventTenantRow {
    tenant: TenantId,
    revision: i64,
}

impl Sealed for CustomEventTenantRow {
    const TABLE: &'static str = "custom_event_tenant";
    const ALL: &'static str = "SELECT * FROM custom_event_tenant";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.tenant.as_str());
        seal.number(self.revision).finish()
    }

    fn name(&self) -> String {
        self.tenant.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let revision = row.integer("revision");
        Ok(Self {
            tenant: parsed(row, "of a tenant's registrations", "tenant")?,
            revision: revision.map_err(attempting("read a tenant's registrations"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{on_each_database, waiting};

    fn row(name: &str, version: VersionNumbers, status: &str) -> CustomEventRow {
        CustomEventRow {
            tenant: "acme".parse().unwrap(),
            namespace: "lettings".into(),
            name: name.into(),
            version,
            status: status.into(),
            description: None,
            payload_schema: "{}".into(),
            payload_example: Some("{\"a\":1}".into()),
            schema_hash: "00".into(),
            schema_flavour: "json-schema-2020-12".into(),
            semver_bump: "initial".into(),
            created_at_ms: 1,
            updated_at_ms: 1,
        }
    }

    fn told(id: u128) -> OutboxRow {
        OutboxRow {
            id: uuid::Uuid::from_u128(id),
            service: tidings_event::Service::Tidings,
            tenant: "acme".parse().unwrap(),
            event_type: tidings_event::EventType::recorded("CUSTOM_EVENT_PERSISTED").unwrap(),
            data: "{}".into(),
            created_at_ms: 1,
        }
    }

    fn adding(revision: i64, row: CustomEventRow, event: u128) -> CustomEventChange {
        CustomEventChange {
            revision,
            added: Some(row),
            changed: Vec::new(),
            events: vec![told(event)],
        }
    }

    #[tokio::test]
    async fn versions_are_kept_changed_counted_and_listed_in_order() {
        on_each_database(async |store| {
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            let room = store.custom_events();
            let rows = [
                row("made", [1, 10, 0], "draft"),
                row("made", [1, 9, 0], "published"),
                row("gone", [2, 0, 0], "published"),
            ];
            for (revision, row) in rows.iter().enumerate() {
                let revision = i64::try_from(revision).unwrap();
                assert_eq!(room.revision(&acme).await.unwrap(), revision);
                let change = adding(revision, row.clone(), revision.unsigned_abs().into());
                assert!(room.change(&acme, &change).await.unwrap());
            }
            assert_eq!(room.count(&acme).await.unwrap(), 2);
            assert_eq!(room.count(&globex).await.unwrap(), 0);
            let [newer, older, gone] = rows;
            let both = [older.clone(), newer.clone()];
            let versions = async |tenant| room.versions(tenant, "lettings", "made").await.unwrap();
            assert_eq!(versions(&acme).await, both);
            assert_eq!(versions(&globex).await, []);
            assert_eq!(room.versions(&acme, "a\0", "b").await.unwrap(), []);

            let query = |limit, after: Option<&CustomEventRow>| CustomEventQuery {
                after: after.map(|row| (row.namespace.clone(), row.name.clone(), row.version)),
                limit,
                ..CustomEventQuery::default()
            };
            let all = [gone.clone(), older.clone(), newer.clone()];
            assert_eq!(room.list(&acme, &query(9, None)).await.unwrap(), all);
            assert_eq!(room.list(&acme, &query(2, None)).await.unwrap(), all[..2]);
            let rest = room.list(&acme, &query(9, Some(&older))).await.unwrap();
            assert_eq!(rest, all[2..]);
            let drafts = CustomEventQuery {
                namespace: Some("lettings".into()),
                name: Some("made".into()),
                status: Some("draft".into()),
                ..query(9, None)
            };
            assert_eq!(room.list(&acme, &drafts).await.unwrap(), both[1..]);
            assert_eq!(room.list(&globex, &query(9, None)).await.unwrap(), []);

            let superseded = CustomEventRow {
                status: "superseded".into(),
                description: Some("was".into()),
                updated_at_ms: 2,
                ..older
            };
            let change = CustomEventChange {
                revision: 3,
                changed: vec![superseded.clone()],
                ..CustomEventChange::default()
            };
            assert!(room.change(&acme, &change).await.unwrap());
            assert_eq!(versions(&acme).await, [superseded, newer]);
        })
        .await;
    }

    #[tokio::test]
    async fn where_the_latest_is_in_force_alone_others_are_told_as_superseded() {
        on_each_database(async |store| {
            let acme = "acme".parse().unwrap();
            let room = store.custom_events();
            let rows = [
                row("made", [1, 9, 0], "published"),
                row("made", [1, 10, 0], "published"),
                row("made", [2, 0, 0], "draft"),
                row("sold", [1, 0, 0], "published"),
            ];
            for (revision, row) in rows.iter().enumerate() {
                let change = adding(revision.try_into().unwrap(), row.clone(), revision as u128);
                assert!(room.change(&acme, &change).await.unwrap());
            }
            let list = async |status: Option<&str>| {
                let query = CustomEventQuery {
                    status: status.map(str::to_owned),
                    latest_alone: true,
                    limit: 9,
                    ..CustomEventQuery::default()
                };
                room.list(&acme, &query).await.unwrap()
            };
            let [older, latest, draft, sold] = rows;
            let superseded = CustomEventRow {
                status: "superseded".into(),
                ..older
            };
            let alone = list(Some("superseded")).await;
            assert_eq!(alone, std::slice::from_ref(&superseded));
            assert_eq!(
                list(Some("published")).await,
                [latest.clone(), sold.clone()]
            );
            assert_eq!(list(None).await, [superseded, latest, draft, sold]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_decided_on_another_revision_changes_and_tells_nothing() {
        on_each_database(async |store| {
            let acme = "acme".parse().unwrap();
            let room = store.custom_events();
            let first = adding(0, row("made", [1, 0, 0], "draft"), 1);
            assert!(room.change(&acme, &first).await.unwrap());
            for revision in [0, 2] {
                let late = adding(revision, row("other", [1, 0, 0], "draft"), 2);
                assert!(!room.change(&acme, &late).await.unwrap());
            }
            assert_eq!(room.count(&acme).await.unwrap(), 1);
            assert_eq!(waiting(&store, 9).await, [told(1)]);
            // The key is taken: nothing of the change is made, and the revision stays.
            let again = adding(1, row("made", [1, 0, 0], "draft"), 3);
            assert!(room.change(&acme, &again).await.is_err());
            assert_eq!(room.revision(&acme).await.unwrap(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn whose_registrations_changed_is_told_in_the_order_of_the_changes() {
        on_each_database(async |store| {
            let room = store.custom_events();
            assert_eq!(room.last_change().await.unwrap(), 0);
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            let empty = |revision| CustomEventChange {
                revision,
                ..CustomEventChange::default()
            };
            for (tenant, revision) in [(&acme, 0), (&globex, 0), (&acme, 1)] {
                assert!(room.change(tenant, &empty(revision)).await.unwrap());
            }
            let changed = room.changed_after(0, 9).await.unwrap();
            assert_eq!(changed.len(), 2);
            let last = changed.last().unwrap();
            assert_eq!(last.change, room.last_change().await.unwrap());
            assert!(room.changed_after(last.change, 9).await.unwrap().is_empty());
            if store.replicas().is_some() {
                assert_eq!(last.tenant, acme);
            }
        })
        .await;
    }
}

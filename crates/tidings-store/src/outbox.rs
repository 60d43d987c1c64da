//! Events of the installation itself that wait to be published. A row is written in the transaction
//! of the change it tells of, so that there is never one without the other.

use sqlx::Connection;
use tidings_event::{EventType, Service, TenantId};
use uuid::Uuid;

use crate::found::placed;
use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed, SealedLate};
use crate::{StoreError, attempting, parsed, recorded};

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its idempotency key on the bus.
    pub id: Uuid,
    /// The service it is published as.
    pub service: Service,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// What happened.
    pub event_type: EventType,
    /// A JSON object.
    pub data: String,
    /// When the change was made, in milliseconds since 1970.
    pub created_at_ms: i64,
}

pub(crate) const INSERT: &str = "INSERT INTO outbox (id, service, tenant, event_type, data, created_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// Adds the events of a change to its transaction, of whichever database it is.
macro_rules! write {
    ($transaction:expr, $events:expr) => {
        for event in $events {
            sqlx::query($crate::outbox::INSERT)
                .bind(event.id.to_string())
                .bind(event.service.as_str())
                .bind(event.tenant.as_str())
                .bind(event.event_type.as_str())
                .bind(event.data.as_str())
                .bind(event.created_at_ms)
                .bind($crate::seal::Sealed::seal(event))
                .execute(&mut *$transaction)
                .await?;
        }
    };
}

pub(crate) use write;

/// The methods on what waits. Takes no tenant: the installation publishes for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Outbox<'a> {
    connections: &'a Connections,
}

impl<'a> Outbox<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Adds events that tell of no change, all or none.
    pub async fn add(&self, events: &[OutboxRow]) -> Result<(), StoreError> {
        writing_on_either!(self.connections, "write to the outbox", connection => {
            let mut transaction = connection.begin().await?;
            write!(transaction, events);
            transaction.commit().await
        })
    }

    /// The oldest events that wait behind a position, at most so many, each with its own; of one that is damaged, what is
    /// wrong with it. The first position is 1.
    pub async fn waiting(
        &self,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<(i64, Result<OutboxRow, StoreError>)>, StoreError> {
        on_either!(self.connections, "read the outbox", connection => {
            let query = "SELECT * FROM outbox WHERE position > $1 ORDER BY position LIMIT $2";
            let rows = sqlx::query(query)
                .bind(behind)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await?;
            placed(&rows, |row| row.integer("position"))
        })
    }

    /// Takes out an event that is on the bus. Nothing happens when it is gone already.
    pub async fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        writing_on_either!(self.connections, "clear the outbox", connection => {
            sqlx::query("DELETE FROM outbox WHERE id = $1")
                .bind(id.to_string())
                .execute(connection)
                .await
                .map(drop)
        })
    }
}

impl SealedLate for OutboxRow {
    const SET: &'static str = "UPDATE outbox SET crc = $1 WHERE id = $2";
}

impl Sealed for OutboxRow {
    const TABLE: &'static str = "outbox";
    const ALL: &'static str = "SELECT * FROM outbox";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.id.as_bytes());
        let seal = seal.text(self.service.as_str()).text(self.tenant.as_str());
        let seal = seal.text(self.event_type.as_str()).text(&self.data);
        seal.number(self.created_at_ms).finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read the outbox");
        let id = row.text("id").map_err(unread())?;
        Ok(Self {
            id: parsed(row, &id, "id")?,
            service: parsed(row, &id, "service")?,
            tenant: parsed(row, &id, "tenant")?,
            event_type: recorded(row, &id)?,
            data: row.text("data").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tidings_event::ModuleId;

    use super::*;
    use crate::suite::{key, on_each_database, waiting};

    fn event(number: u8) -> OutboxRow {
        OutboxRow {
            id: Uuid::from_u128(u128::from(number)),
            service: Service::Audit,
            tenant: "acme".parse().unwrap(),
            event_type: "audit.manifest.written".parse().unwrap(),
            data: format!("{{\"n\":{number}}}"),
            created_at_ms: 100 - i64::from(number),
        }
    }

    #[tokio::test]
    async fn events_wait_in_the_order_of_their_changes_until_they_are_removed() {
        on_each_database(async |store| {
            let crm: ModuleId = "crm".parse().unwrap();
            let manifests = store.manifests();
            manifests
                .put(&crm, "1.0.0", "{}", 1, &[event(1)])
                .await
                .unwrap();
            let acme = "acme".parse().unwrap();
            store.api_keys().insert(&key(), &[event(2)]).await.unwrap();
            let revoked = store
                .api_keys()
                .revoke(&acme, key().id, 2, &[event(3)])
                .await;
            assert!(revoked.unwrap());
            assert!(manifests.delete(&crm, &[event(4), event(5)]).await.unwrap());
            let outbox = store.outbox();
            outbox.add(&[event(6), event(7)]).await.unwrap();
            assert!(outbox.add(&[event(8), event(7)]).await.is_err());
            let all = [1, 2, 3, 4, 5, 6, 7].map(event);
            assert_eq!(waiting(&store, 9).await, all);
            assert_eq!(waiting(&store, 2).await, all[..2]);
            outbox.remove(event(2).id).await.unwrap();
            outbox.remove(event(2).id).await.unwrap();
            assert_eq!(waiting(&store, 2).await, [event(1), event(3)]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_damaged_event_stands_in_nobodys_way() {
        on_each_database(async |store| {
            let outbox = store.outbox();
            outbox.add(&[event(1), event(2), event(3)]).await.unwrap();
            let damaged = writing_on_either!(&store.connections, "damage a row", connection => {
                let damage = "UPDATE outbox SET data = '{}' WHERE position = 2";
                sqlx::query(damage).execute(connection).await.map(drop)
            });
            damaged.unwrap();
            let waiting = outbox.waiting(0, 9).await.unwrap();
            let sound: Vec<_> = waiting.iter().map(|(_, row)| row.as_ref().ok()).collect();
            assert_eq!(sound, [Some(&event(1)), None, Some(&event(3))]);
            let behind = outbox.waiting(waiting[1].0, 9).await.unwrap();
            assert_eq!(behind.len(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn what_changes_nothing_tells_nothing() {
        on_each_database(async |store| {
            let crm: ModuleId = "crm".parse().unwrap();
            assert!(!store.manifests().delete(&crm, &[event(1)]).await.unwrap());
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            store.api_keys().insert(&key(), &[]).await.unwrap();
            let foreign = store
                .api_keys()
                .revoke(&globex, key().id, 2, &[event(2)])
                .await;
            assert!(!foreign.unwrap());
            assert!(
                store
                    .api_keys()
                    .revoke(&acme, key().id, 2, &[])
                    .await
                    .unwrap()
            );
            let again = store
                .api_keys()
                .revoke(&acme, key().id, 3, &[event(3)])
                .await;
            assert!(!again.unwrap());
            assert_eq!(waiting(&store, 9).await, []);
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_whose_event_cannot_be_kept_does_not_happen() {
        on_each_database(async |store| {
            let (crm, abc): (ModuleId, ModuleId) = ("crm".parse().unwrap(), "abc".parse().unwrap());
            let manifests = store.manifests();
            manifests
                .put(&crm, "1.0.0", "{}", 1, &[event(1)])
                .await
                .unwrap();
            // The id is taken: the second statement of each transaction fails.
            assert!(
                manifests
                    .put(&abc, "1.0.0", "{}", 2, &[event(1)])
                    .await
                    .is_err()
            );
            assert!(
                manifests
                    .put(&crm, "2.0.0", "{}", 2, &[event(1)])
                    .await
                    .is_err()
            );
            assert!(manifests.delete(&crm, &[event(1)]).await.is_err());
            assert!(store.api_keys().insert(&key(), &[event(1)]).await.is_err());
            let rows = manifests.list().await.unwrap().rows;
            assert_eq!((rows.len(), rows[0].version.as_str()), (1, "1.0.0"));
            assert!(store.api_keys().in_force(0).await.unwrap().is_empty());
            assert_eq!(waiting(&store, 9).await, [event(1)]);
        })
        .await;
    }
}

//! Which event was published because of which.

use tidings_event::TenantId;
use uuid::Uuid;

use crate::pool::{Columns, Connections, forget, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed};

/// That an event caused another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CauseRow {
    /// The one that caused it.
    pub cause: Uuid,
    /// The one that was caused.
    pub event_id: Uuid,
    /// Whose events they are.
    pub tenant: TenantId,
    /// When the second was published, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// The methods on causes.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a> {
    connections: &'a Connections,
}

impl<'a> Causes<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps it. Nothing changes when it is kept already.
    pub async fn put(&self, row: &CauseRow) -> Result<(), StoreError> {
        let query = "INSERT INTO event_causes (cause, event_id, tenant, created_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (cause, event_id) DO NOTHING";
        writing_on_either!(self.connections, "write what caused an event", connection => {
            sqlx::query(query)
                .bind(row.cause.to_string())
                .bind(row.event_id.to_string())
                .bind(row.tenant.as_str())
                .bind(row.created_at_ms)
                .bind(row.seal())
                .execute(connection)
                .await
                .map(drop)
        })
    }

    /// What an event of the tenant has caused, oldest first.
    pub async fn of(&self, tenant: &TenantId, cause: Uuid) -> Result<Vec<CauseRow>, StoreError> {
        let query = "SELECT * FROM event_causes WHERE cause = $1 AND tenant = $2 ORDER BY event_id";
        on_either!(self.connections, "read what an event caused", connection => {
            sqlx::query(query)
                .bind(cause.to_string())
                .bind(tenant.as_str())
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(CauseRow::from_row).collect())
        })?
    }

    /// Forgets what was written before a time.
    pub async fn forget(&self, before_ms: i64) -> Result<u64, StoreError> {
        let query = "DELETE FROM event_causes WHERE (cause, event_id) IN (\
             SELECT cause, event_id FROM event_causes WHERE created_at_ms < $1 LIMIT $2)";
        forget(self.connections, "forget old causes", query, before_ms).await
    }
}

impl Sealed for CauseRow {
    const TABLE: &'static str = "event_causes";
    const ALL: &'static str = "SELECT * FROM event_causes";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.cause.to_string());
        let seal = seal.text(&self.event_id.to_string());
        seal.text(self.tenant.as_str())
            .number(self.created_at_ms)
            .finish()
    }

    fn name(&self) -> String {
        format!("{} {}", self.cause, self.event_id)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read what an event caused");
        Ok(Self {
            cause: parsed(row, "of a cause", "cause")?,
            event_id: parsed(row, "of a cause", "event_id")?,
            tenant: parsed(row, "of a cause", "tenant")?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn what_an_event_caused_is_its_tenants_to_see_until_it_is_forgotten() {
        on_each_database(async |store| {
            let room = store.causes();
            let row = |event: u128, at: i64| CauseRow {
                cause: Uuid::from_u128(1),
                event_id: Uuid::from_u128(event),
                tenant: "acme".parse().unwrap(),
                created_at_ms: at,
            };
            let (one, two) = (row(2, 10), row(3, 20));
            for row in [&two, &one, &one] {
                room.put(row).await.unwrap();
            }
            let (acme, umbrella) = (&one.tenant, "umbrella".parse().unwrap());
            let all = room.of(acme, one.cause).await.unwrap();
            assert_eq!(all, [one.clone(), two.clone()]);
            assert_eq!(room.of(&umbrella, one.cause).await.unwrap(), []);
            assert_eq!(room.forget(20).await.unwrap(), 1);
            assert_eq!(room.of(acme, one.cause).await.unwrap(), [two]);
        })
        .await;
    }
}

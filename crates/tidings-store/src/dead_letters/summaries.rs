//! Dead letters without their events, which may have a megabyte each: for lists, counts and whoever sends them again.

use sqlx::QueryBuilder;
use tidings_event::{EventType, TenantId};
use uuid::Uuid;

use super::types::Types;
use super::{DeadLetterQuery, DeadLetterRow, DeadLetters, conditions};
use crate::StoreError;
use crate::found::Found;
use crate::pool::{Columns, on_either};

/// A dead letter without its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSummary {
    /// What it is called by in URLs.
    pub id: Uuid,
    /// Whose event it is.
    pub tenant: TenantId,
    /// Who did not get it.
    pub subscription: Uuid,
    /// Its number there.
    pub sequence: u64,
    /// Which event.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: EventType,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last try came to.
    pub last_error: String,
    /// When it was given up, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// `open`, `replaying` or `closed`.
    pub state: String,
}

impl From<DeadLetterRow> for DeadLetterSummary {
    fn from(row: DeadLetterRow) -> Self {
        Self {
            id: row.id,
            tenant: row.tenant,
            subscription: row.subscription,
            sequence: row.sequence,
            event_id: row.event_id,
            event_type: row.event_type,
            attempts: row.attempts,
            last_error: row.last_error,
            created_at_ms: row.created_at_ms,
            state: row.state,
        }
    }
}

impl DeadLetters<'_> {
    /// The tenant's dead letters that a query asks for, without their events, oldest first.
    pub async fn summaries(
        &self,
        tenant: &TenantId,
        query: &DeadLetterQuery,
    ) -> Result<Found<DeadLetterSummary>, StoreError> {
        self.found(tenant, query).await
    }

    /// How many there are of the tenant's that a query asks for, counted to its limit.
    pub async fn count(
        &self,
        tenant: &TenantId,
        query: &DeadLetterQuery,
    ) -> Result<u64, StoreError> {
        let counted: i64 = on_either!(self.connections, "count dead letters", connection => {
            let mut builder = QueryBuilder::new(
                "SELECT COUNT(*) AS counted FROM (SELECT 1 AS one FROM dead_letter_event WHERE tenant = ",
            );
            builder.push_bind(tenant.as_str());
            conditions!(builder, query);
            builder.push(" LIMIT ").push_bind(i64::from(query.limit)).push(") AS found");
            let row = builder.build().fetch_one(connection).await;
            row.and_then(|row| row.integer("counted"))
        })?;
        Ok(counted.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;
    use crate::{AttemptRow, Flush};

    fn letter(id: u128, event: u128, state: &str) -> DeadLetterRow {
        DeadLetterRow {
            id: Uuid::from_u128(id),
            tenant: "acme".parse().unwrap(),
            subscription: Uuid::from_u128(1),
            sequence: 7,
            event_id: Uuid::from_u128(event),
            event_type: "crm.a.b".parse().unwrap(),
            event: "{}".to_owned(),
            attempts: 2,
            last_error: "no".to_owned(),
            created_at_ms: 10,
            state: state.to_owned(),
        }
    }

    fn flush(letters: &[DeadLetterRow]) -> Flush {
        let attempts = letters.iter().map(|letter| AttemptRow {
            subscription: letter.subscription,
            sequence: letter.sequence,
            number: 1,
            tenant: letter.tenant.clone(),
            event_id: letter.event_id,
            started_at_ms: 1,
            outcome: "gave-up".to_owned(),
            detail: "{}".to_owned(),
        });
        Flush {
            attempts: attempts.collect(),
            dead: letters.to_vec(),
            ..Flush::default()
        }
    }

    #[tokio::test]
    async fn one_number_of_two_topics_is_two_deliveries_and_each_keeps_its_letter() {
        on_each_database(async |store| {
            let (tenant, rows) = ("acme".parse().unwrap(), store.deliveries());
            let both = [letter(1, 11, "open"), letter(2, 12, "open")];
            for one in &both {
                rows.flush(&flush(std::slice::from_ref(one))).await.unwrap();
            }
            let room = store.dead_letters();
            let query = DeadLetterQuery {
                state: Some("open"),
                limit: 9,
                ..DeadLetterQuery::default()
            };
            let found = room.summaries(&tenant, &query).await.unwrap();
            assert_eq!(found.rows, both.clone().map(DeadLetterSummary::from));
            for (limit, counted) in [(1, 1), (9, 2)] {
                let query = DeadLetterQuery {
                    limit,
                    ..query.clone()
                };
                assert_eq!(room.count(&tenant, &query).await.unwrap(), counted);
            }
            // The row of the attempt is whole, and the second one's.
            let [_, second] = both;
            let attempts = rows.attempts_of_event(&tenant, second.event_id).await;
            assert_eq!(attempts.unwrap().rows, flush(&[second]).attempts);
        })
        .await;
    }

    #[tokio::test]
    async fn old_letters_are_forgotten_when_they_are_closed() {
        on_each_database(async |store| {
            let letters = [
                letter(1, 11, "closed"),
                letter(2, 12, "open"),
                letter(3, 13, "replaying"),
            ];
            let rows = store.deliveries();
            for one in &letters {
                rows.flush(&flush(std::slice::from_ref(one))).await.unwrap();
            }
            let room = store.dead_letters();
            assert_eq!(room.forget(10).await.unwrap(), 0);
            assert_eq!(room.forget(11).await.unwrap(), 1);
            let (tenant, query) = (
                "acme".parse().unwrap(),
                DeadLetterQuery {
                    limit: 9,
                    ..DeadLetterQuery::default()
                },
            );
            let left = room.list(&tenant, &query).await.unwrap();
            assert_eq!(left.rows, letters[1..]);
        })
        .await;
    }
}

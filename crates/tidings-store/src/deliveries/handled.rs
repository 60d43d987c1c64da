//! What is known of events that were handled: for a dispatcher whose cursor says nothing.

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{AttemptRow, Deliveries, PendingRow};
use crate::StoreError;
use crate::found::Found;
use crate::pool::{Columns as _, on_either, pieces};
use crate::seal::Sealed as _;

/// A delivery that an event has come to: it was tried, or waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handled {
    /// Whose.
    pub subscription: Uuid,
    /// Its number there.
    pub sequence: u64,
    /// Which event.
    pub event_id: Uuid,
}

impl Deliveries<'_> {
    /// What these events have come to, as far as attempts are kept: each that was tried, and each that waits.
    pub async fn handled(&self, events: &[Uuid]) -> Result<Found<Handled>, StoreError> {
        let mut found = Vec::new();
        for events in pieces(events) {
            let rows = on_either!(self.connections, "read what events came to", connection => {
                let mut builder =
                    QueryBuilder::new("SELECT * FROM delivery_attempts WHERE event_id IN (");
                let mut listed = builder.separated(", ");
                for id in events {
                    listed.push_bind(id.to_string());
                }
                builder.push(")");
                let tried = builder.build().fetch_all(&mut *connection).await?;
                let mut builder =
                    QueryBuilder::new("SELECT * FROM pending_deliveries WHERE event_id IN (");
                let mut listed = builder.separated(", ");
                for id in events {
                    listed.push_bind(id.to_string());
                }
                builder.push(")");
                let waits = builder.build().fetch_all(&mut *connection).await?;
                let tried = tried.iter().map(|row| AttemptRow::from_row(row).map(|it| Handled {
                    subscription: it.subscription,
                    sequence: it.sequence,
                    event_id: it.event_id,
                }));
                let waits = waits.iter().map(|row| PendingRow::from_row(row).map(|it| Handled {
                    subscription: it.subscription,
                    sequence: it.sequence,
                    event_id: it.event_id,
                }));
                Ok(tried.chain(waits).collect::<Vec<_>>())
            })?;
            found.extend(rows);
        }
        Ok(found.into_iter().collect())
    }

    /// The last number that a subscription is known to have given out; 0 if it is known of none.
    pub async fn last_number(&self, subscription: Uuid) -> Result<u64, StoreError> {
        let query = "SELECT COALESCE(MAX(sequence), 0) AS last FROM (\
             SELECT MAX(sequence) AS sequence FROM delivery_attempts WHERE subscription = $1 \
             UNION ALL \
             SELECT MAX(sequence) AS sequence FROM pending_deliveries WHERE subscription = $1) AS both_of_them";
        let last = on_either!(self.connections, "read the last number of a subscription", connection => {
            let row = sqlx::query(query)
                .bind(subscription.to_string())
                .fetch_one(connection)
                .await?;
            row.integer("last")
        })?;
        Ok(u64::try_from(last).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Flush;
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn what_was_tried_and_what_waits_is_known() {
        on_each_database(async |store| {
            let room = store.deliveries();
            let (one, event) = (Uuid::from_u128(1), |id| Uuid::from_u128(id));
            assert_eq!(room.last_number(one).await.unwrap(), 0);
            let attempt = AttemptRow {
                subscription: one,
                sequence: 7,
                number: 1,
                tenant: "acme".parse().unwrap(),
                event_id: event(10),
                started_at_ms: 5,
                outcome: "delivered".into(),
                detail: "{}".into(),
            };
            let pending = PendingRow {
                subscription: one,
                sequence: 9,
                tenant: "acme".parse().unwrap(),
                event_id: event(11),
                lane: None,
                attempts: 0,
                state: "behind".into(),
                next_at_ms: 5,
                detail: "{}".into(),
            };
            let flush = Flush {
                attempts: vec![attempt],
                pending: vec![pending],
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            let found = room.handled(&[event(9), event(10), event(11)]).await;
            let of = |sequence, event_id| Handled {
                subscription: one,
                sequence,
                event_id,
            };
            assert_eq!(found.unwrap().rows, [of(7, event(10)), of(9, event(11))]);
            assert_eq!(room.handled(&[]).await.unwrap().rows, []);
            assert_eq!(room.last_number(one).await.unwrap(), 9);
            assert_eq!(room.last_number(event(2)).await.unwrap(), 0);
        })
        .await;
    }
}

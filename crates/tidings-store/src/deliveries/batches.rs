//! Pending deliveries that failed together, to be read together.

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{Deliveries, PendingRow, number};
use crate::StoreError;
use crate::found::Found;
use crate::pool::{on_either, pieces};
use crate::seal::Sealed as _;

impl Deliveries<'_> {
    /// Those of these pending deliveries of a subscription that there are, in the order of their numbers, which are
    /// asked for in that order.
    pub async fn pending_among(
        &self,
        subscription: Uuid,
        sequences: &[u64],
    ) -> Result<Found<PendingRow>, StoreError> {
        let mut found = Found::nothing();
        for sequences in pieces(sequences) {
            let rows = on_either!(self.connections, "read pending deliveries", connection => {
                let mut builder =
                    QueryBuilder::new("SELECT * FROM pending_deliveries WHERE subscription = ");
                builder.push_bind(subscription.to_string()).push(" AND sequence IN (");
                let mut listed = builder.separated(", ");
                for sequence in sequences {
                    listed.push_bind(number(*sequence));
                }
                builder.push(") ORDER BY sequence");
                builder
                    .build()
                    .fetch_all(connection)
                    .await
                    .map(|rows| rows.iter().map(PendingRow::from_row).collect::<Vec<_>>())
            })?;
            found.extend(rows);
        }
        Ok(found)
    }
}

//! What is due, read by subscription, so that whoever has much pending keeps nobody else's from being found.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{Deliveries, PendingRow, Share};
use crate::found::{Found, page};
use crate::pool::{Columns, on_either, writing_on_either};
use crate::seal::Sealed as _;
use crate::{StoreError, parsed, whole};

/// So many rows are read at once to find the lanes.
const LANES_PAGE: u32 = 5_000;

/// A subscription that something is waiting for its time of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub subscription: Uuid,
    /// The time of the earliest, in milliseconds since 1970.
    pub next_at_ms: i64,
    /// Where its tenant falls: modulo the number of shares it names the share.
    slot: i64,
}

impl Waiting {
    /// Whether it is of a share.
    pub fn is_of(&self, share: Share) -> bool {
        self.slot % i64::from(share.of) == i64::from(share.number)
    }
}

/// A pending delivery whose time has come, or is the next to come.
#[derive(Debug)]
pub struct Due {
    /// Whose, as the row has it.
    pub subscription: String,
    /// Its number there, as the row has it.
    pub sequence: i64,
    /// Its time, in milliseconds since 1970.
    pub next_at_ms: i64,
    /// The row, or what is wrong with it.
    pub row: Result<PendingRow, StoreError>,
}

impl Due {
    fn read(row: &impl Columns) -> Result<Self, sqlx::Error> {
        Ok(Self {
            subscription: row.text("subscription")?,
            sequence: row.integer("sequence")?,
            next_at_ms: row.integer("next_at_ms")?,
            row: PendingRow::from_row(row),
        })
    }
}

impl Deliveries<'_> {
    /// Subscriptions after an id that have something waiting for its time, in the order of their ids, of every share.
    /// Costs as much for one with a million rows as for one with a single row.
    pub async fn waiting(
        &self,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Found<Waiting>, StoreError> {
        let query = "WITH RECURSIVE found (subscription, place) AS ( \
               SELECT MIN(subscription), 1 FROM pending_deliveries \
               WHERE state = 'waiting' AND subscription > $1 \
             UNION ALL \
               SELECT (SELECT MIN(later.subscription) FROM pending_deliveries AS later \
                 WHERE later.state = 'waiting' AND later.subscription > found.subscription), \
                 found.place + 1 \
               FROM found WHERE found.subscription IS NOT NULL AND found.place < $2) \
             SELECT subscription, \
               (SELECT MIN(next_at_ms) FROM pending_deliveries AS its \
                 WHERE its.state = 'waiting' AND its.subscription = found.subscription) AS next_at_ms, \
               (SELECT slot FROM pending_deliveries AS its \
                 WHERE its.subscription = found.subscription LIMIT 1) AS slot \
             FROM found WHERE subscription IS NOT NULL";
        let after = after.map_or_else(String::new, |id| id.to_string());
        page(after, limit, async |after: String, limit| {
            on_either!(self.connections, "read who waits", connection => {
                let rows = sqlx::query(query)
                    .bind(after.as_str())
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                let rows = rows
                    .iter()
                    .map(|row| Ok((row.text("subscription")?, waiting(row))));
                rows.collect::<Result<Vec<_>, sqlx::Error>>()
            })
        })
        .await
    }

    /// Pending deliveries that are due, of each of these subscriptions the earliest, at most as many as are named with
    /// it; and after them the first that is not due yet, from which the next time is known. A damaged one is found
    /// again and again, and takes the place of another, until it is [put off](Self::put_off).
    pub async fn due(
        &self,
        subscriptions: &[(Uuid, u32)],
        now_ms: i64,
    ) -> Result<Vec<Due>, StoreError> {
        if subscriptions.is_empty() {
            return Ok(Vec::new());
        }
        on_either!(self.connections, "read what is due", connection => {
            let mut builder = QueryBuilder::new("");
            for (index, (subscription, limit)) in subscriptions.iter().enumerate() {
                for (compared, limit) in [(" AND next_at_ms <= ", *limit), (" AND next_at_ms > ", 1)] {
                    builder.push(if index == 0 && compared.ends_with("<= ") { "" } else { " UNION ALL " });
                    builder
                        .push("SELECT * FROM (SELECT * FROM pending_deliveries \
                             WHERE state = 'waiting' AND subscription = ")
                        .push_bind(subscription.to_string())
                        .push(compared)
                        .push_bind(now_ms)
                        .push(" ORDER BY next_at_ms, sequence LIMIT ")
                        .push_bind(i64::from(limit))
                        .push(") AS one");
                }
            }
            let rows = builder.build().fetch_all(connection).await?;
            rows.iter().map(Due::read).collect::<Result<Vec<_>, _>>()
        })
    }

    /// Looks at a pending delivery again at a time, whatever its row says.
    pub async fn put_off(
        &self,
        subscription: &str,
        sequence: i64,
        next_at_ms: i64,
    ) -> Result<(), StoreError> {
        let query = "UPDATE pending_deliveries SET next_at_ms = $3 \
             WHERE subscription = $1 AND sequence = $2";
        writing_on_either!(self.connections, "put a pending delivery off", connection => {
            sqlx::query(query)
                .bind(subscription)
                .bind(sequence)
                .bind(next_at_ms)
                .execute(connection)
                .await
                .map(drop)
        })
    }

    /// The lanes of every subscription of a share that have something pending, each with whether all of it is
    /// behind something that is settled by now. Read in pages, since there may be any number of rows.
    pub async fn lanes(&self, share: Share) -> Result<Found<(Uuid, String, bool)>, StoreError> {
        let query = "SELECT subscription, sequence, lane, state FROM pending_deliveries \
             WHERE (subscription, sequence) > ($1, $2) AND lane IS NOT NULL AND slot % $3 = $4 \
             ORDER BY subscription, sequence LIMIT $5";
        let mut lanes = BTreeMap::new();
        let mut after = (String::new(), 0);
        loop {
            let rows: Vec<(String, i64, String, String)> = on_either!(self.connections, "read the lanes", connection => {
                let query = sqlx::query(query)
                    .bind(after.0.as_str())
                    .bind(after.1)
                    .bind(i64::from(share.of))
                    .bind(i64::from(share.number))
                    .bind(i64::from(LANES_PAGE));
                query.fetch_all(connection).await.and_then(|rows| {
                    let rows = rows.iter().map(|row| Ok((
                        row.text("subscription")?,
                        row.integer("sequence")?,
                        row.text("lane")?,
                        row.text("state")?,
                    )));
                    rows.collect()
                })
            })?;
            let full = rows.len() == LANES_PAGE as usize;
            for (id, sequence, lane, state) in rows {
                let headless = lanes.entry((id.clone(), lane)).or_insert(true);
                *headless &= state == "behind";
                after = (id, sequence);
            }
            if !full {
                break;
            }
        }
        let lanes = lanes.into_iter().map(|((id, lane), headless)| {
            let parsed = Uuid::parse_str(&id).map_err(|fault| StoreError::Corrupt {
                row: id,
                column: "subscription",
                fault: fault.to_string(),
            });
            parsed.map(|id| (id, lane, headless))
        });
        Ok(lanes.collect())
    }
}

fn waiting(row: &impl Columns) -> Result<Waiting, StoreError> {
    let name = "of a pending delivery";
    Ok(Waiting {
        subscription: parsed(row, name, "subscription")?,
        next_at_ms: whole(row, name, "next_at_ms")?,
        slot: whole(row, name, "slot")?,
    })
}

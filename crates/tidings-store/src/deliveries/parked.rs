//! Keys: which are parked, how much waits behind each, and what of each goes first.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{Deliveries, PendingRow, number};
use crate::StoreError;
use crate::found::{Found, page, placed};
use crate::pool::{Columns, on_either, pieces};
use crate::seal::Sealed as _;

impl Deliveries<'_> {
    /// The parked heads of a subscription's keys after a sequence number, in the order of their numbers.
    pub async fn parked(
        &self,
        subscription: Uuid,
        after: u64,
        limit: u32,
    ) -> Result<Found<PendingRow>, StoreError> {
        let query = "SELECT * FROM pending_deliveries WHERE state = 'parked' AND subscription = $1 \
             AND sequence > $2 AND lane IS NOT NULL ORDER BY sequence LIMIT $3";
        page(number(after), limit, async |after, limit| {
            on_either!(self.connections, "read parked keys", connection => {
                let rows = sqlx::query(query)
                    .bind(subscription.to_string())
                    .bind(after)
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                placed(&rows, |row| row.integer("sequence"))
            })
        })
        .await
    }

    /// How many of a subscription's deliveries are behind others of these keys; a key that has none is not answered.
    pub async fn behind(
        &self,
        subscription: Uuid,
        lanes: &[&str],
    ) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut behind = BTreeMap::new();
        for lanes in pieces(lanes) {
            let counted: Vec<(String, i64)> = on_either!(self.connections, "count what is behind", connection => {
                let mut builder = QueryBuilder::new(
                    "SELECT lane, COUNT(*) AS behind FROM pending_deliveries \
                     WHERE state = 'behind' AND subscription = ",
                );
                builder.push_bind(subscription.to_string()).push(" AND lane IN (");
                let mut listed = builder.separated(", ");
                for lane in lanes {
                    listed.push_bind(*lane);
                }
                // The beginning of a key is what the index of PostgreSQL has of it.
                builder.push(") AND substr(lane, 1, 100) IN (");
                let mut listed = builder.separated(", ");
                for lane in lanes {
                    listed.push_bind(lane.chars().take(100).collect::<String>());
                }
                builder.push(") GROUP BY lane");
                let rows = builder.build().fetch_all(connection).await;
                rows.and_then(|rows| {
                    let rows = rows.iter().map(|row| Ok((row.text("lane")?, row.integer("behind")?)));
                    rows.collect()
                })
            })?;
            let counted = counted.into_iter();
            behind.extend(counted.map(|(lane, count)| (lane, count.unsigned_abs())));
        }
        Ok(behind)
    }

    /// What is pending first of each of these keys, by subscription and key; a key that has nothing is not answered.
    pub async fn first_of(&self, keys: &[(Uuid, &str)]) -> Result<Found<PendingRow>, StoreError> {
        let mut found = Found::nothing();
        for keys in pieces(keys) {
            let rows = on_either!(self.connections, "read what goes first", connection => {
                let mut builder = QueryBuilder::new("");
                for (index, (subscription, lane)) in keys.iter().enumerate() {
                    if index > 0 {
                        builder.push(" UNION ALL ");
                    }
                    builder
                        .push("SELECT * FROM (SELECT * FROM pending_deliveries WHERE subscription = ")
                        .push_bind(subscription.to_string())
                        .push(" AND lane = ")
                        .push_bind(*lane)
                        // The beginning of a key is what the index of PostgreSQL has of it.
                        .push(" AND substr(lane, 1, 100) = ")
                        .push_bind(lane.chars().take(100).collect::<String>())
                        .push(" ORDER BY sequence LIMIT 1) AS of_key");
                }
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::Flush;
    use crate::pool::Connections;
    use crate::suite::on_each_database;

    fn row(sequence: u64, lane: &str, state: &str) -> PendingRow {
        PendingRow {
            subscription: Uuid::from_u128(1),
            sequence,
            tenant: "acme".parse().unwrap(),
            event_id: Uuid::from_u128(sequence.into()),
            lane: Some(lane.to_owned()),
            attempts: 1,
            state: state.to_owned(),
            next_at_ms: 10,
            detail: "{}".to_owned(),
        }
    }

    #[tokio::test]
    async fn parked_keys_are_found_page_by_page_whatever_else_is_pending() {
        on_each_database(async |store| {
            let room = store.deliveries();
            let waits = (1..20).map(|sequence| row(sequence, "w", "waiting"));
            let parked = [row(30, "b", "parked"), row(31, "a", "parked")];
            let behind = [
                row(32, "b", "behind"),
                row(33, "b", "behind"),
                row(34, "w", "behind"),
            ];
            let flush = Flush {
                pending: waits.chain(parked.clone()).chain(behind).collect(),
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            let one = Uuid::from_u128(1);
            let [first, second] = parked;
            assert_eq!(room.parked(one, 0, 1).await.unwrap().rows, [first]);
            assert_eq!(room.parked(one, 30, 9).await.unwrap().rows, [second]);
            let behind = room.behind(one, &["a", "b"]).await.unwrap();
            assert_eq!(
                behind.into_iter().collect::<Vec<_>>(),
                [("b".to_owned(), 2)]
            );
            assert_eq!(
                room.behind(Uuid::from_u128(2), &["b"]).await.unwrap().len(),
                0
            );
        })
        .await;
    }

    #[tokio::test]
    async fn what_goes_first_is_found_for_many_keys_at_once() {
        on_each_database(async |store| {
            let room = store.deliveries();
            let names: Vec<String> = (0..300).map(|n| format!("k{n}")).collect();
            let two = names
                .iter()
                .zip(1_u64..)
                .flat_map(|(name, n)| [row(n, name, "waiting"), row(n + 1_000, name, "behind")]);
            let flush = Flush {
                pending: two.collect(),
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
            let keys = names.iter().map(|name| (one, name.as_str()));
            let keys: Vec<_> = keys.chain([(one, "none"), (other, "k1")]).collect();
            let first = room.first_of(&keys).await.unwrap().whole().unwrap();
            let mut numbers: Vec<u64> = first.iter().map(|it| it.sequence).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
            assert_eq!(room.first_of(&[]).await.unwrap().rows, []);
        })
        .await;
    }

    #[tokio::test]
    async fn of_those_who_let_a_parked_key_go_one_writes() {
        on_each_database(async |store| {
            let room = store.deliveries();
            let flush = Flush {
                pending: vec![row(1, "a", "parked"), row(2, "a", "behind")],
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            let of = Uuid::from_u128(1);
            let dropped = Flush {
                settled: vec![(of, 1)],
                pending: vec![row(2, "a", "waiting")],
                ..Flush::default()
            };
            let drops = (0..8).map(|_| room.flush_of_parked((of, 1), &dropped));
            let done = join_all(drops).await;
            assert_eq!(
                done.into_iter()
                    .filter_map(Result::ok)
                    .filter(|it| *it)
                    .count(),
                1
            );
            let left = room.pending_of(of, None, 0, 9).await.unwrap();
            assert_eq!(left.rows, [row(2, "a", "waiting")]);
            assert!(
                !room.flush_of_parked((of, 2), &dropped).await.unwrap(),
                "it waits"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_key_longer_than_an_index_takes_is_kept_and_counted() {
        on_each_database(async |store| {
            let room = store.deliveries();
            let (one, long) = (Uuid::from_u128(1), "é".repeat(20_000));
            let other = format!("{long}x");
            let rows = [
                row(1, &long, "parked"),
                row(2, &long, "behind"),
                row(3, &other, "behind"),
            ];
            let flush = Flush {
                pending: rows.to_vec(),
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            let behind = room.behind(one, &[&long]).await.unwrap();
            assert_eq!(behind.into_iter().collect::<Vec<_>>(), [(long.clone(), 1)]);
            let of_key = room.pending_of(one, Some(&long), 0, 9).await.unwrap();
            assert_eq!(of_key.rows, rows[..2]);
            let all = room.pending_of(one, None, 0, 9).await.unwrap();
            assert_eq!(all.rows, rows);
        })
        .await;
    }

    /// How either database finds what is behind others of a key.
    async fn plan(store: &crate::Store) -> String {
        let question = "SELECT lane, COUNT(*) FROM pending_deliveries WHERE state = 'behind' \
             AND subscription = 's' AND lane IN ('k') AND substr(lane, 1, 100) IN ('k') GROUP BY lane";
        match store.deliveries().connections {
            Connections::Sqlite(sqlite) => {
                let asked = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {question}"));
                let rows = sqlx::query(asked).fetch_all(&sqlite.pool).await.unwrap();
                let lines = rows.iter().map(|row| row.text("detail").unwrap());
                lines.collect::<Vec<_>>().join("\n")
            }
            Connections::Postgres(postgres) => {
                let mut connection = postgres.pool.acquire().await.unwrap();
                // A table of a few rows is read as a whole, whatever indexes it has.
                for off in ["enable_seqscan", "enable_bitmapscan"] {
                    let set = sqlx::AssertSqlSafe(format!("SET {off} = off"));
                    sqlx::query(set).execute(&mut *connection).await.unwrap();
                }
                let asked = sqlx::AssertSqlSafe(format!("EXPLAIN {question}"));
                let rows = sqlx::query(asked).fetch_all(&mut *connection).await;
                let rows = rows.unwrap();
                let lines = rows.iter().map(|row| row.text("QUERY PLAN").unwrap());
                lines.collect::<Vec<_>>().join("\n")
            }
        }
    }

    #[tokio::test]
    async fn what_is_behind_a_key_is_counted_among_its_rows_alone() {
        on_each_database(async |store| {
            let plan = plan(&store).await;
            assert!(plan.contains("pending_of_lane"), "{plan}");
        })
        .await;
    }
}

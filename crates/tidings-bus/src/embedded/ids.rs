//! Where events stand, by their ids: the tables `ids_<bucket>`.
//!
//! Ids begin with the time at which they were made. Those of one commit are nearly of one time, so they share rows: a row
//! has those of [`ROW_MS`] at most, under the first of them. A look-up reads the rows of the [`ROW_MS`] before an id.
//!
//! | column | holds |
//! | --- | --- |
//! | `first` | the lowest id |
//! | `position` | where its event stands |
//! | `more` | [`ENTRY_BYTES`] for each of the others in their order: id and position (little-endian) |
//!
//! Nothing here is sealed: an entry is proved by the event it points to, and one that is missing is found by `verify`.

use bytes::{Buf, BufMut};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::fault::Fault;

/// The ids of one row are made within so many ms.
const ROW_MS: u64 = 100;
/// More would run over the part of a row that SQLite keeps in its page.
const ROW_IDS: usize = 40;
const ENTRY_BYTES: usize = 16 + 8;

/// An id and where its event stands.
pub(super) type Entry = (Uuid, i64);

/// Adds what a commit has appended.
pub(super) fn insert(
    connection: &Connection,
    bucket: i64,
    mut entries: Vec<Entry>,
) -> Result<(), Fault> {
    entries.sort_unstable();
    let sql = format!("INSERT INTO ids_{bucket} (first, position, more) VALUES (?, ?, ?)");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut more = Vec::with_capacity(ROW_IDS * ENTRY_BYTES);
    let mut left = &entries[..];
    while let Some((first, position)) = left.first() {
        let until_ms = made_ms(*first) + ROW_MS;
        let count = left
            .iter()
            .take(ROW_IDS)
            .take_while(|(id, _)| made_ms(*id) < until_ms)
            .count();
        let (row, rest) = left.split_at(count);
        left = rest;
        more.clear();
        for (id, position) in &row[1..] {
            more.put_slice(id.as_bytes());
            more.put_i64_le(*position);
        }
        statement.execute((&first.as_bytes()[..], position, &more))?;
    }
    Ok(())
}

/// Where a bucket has events of an id: mostly nowhere, or in one place.
pub(super) fn positions_of(
    connection: &Connection,
    bucket: i64,
    id: Uuid,
) -> Result<Vec<i64>, Fault> {
    let sql = format!("{} WHERE first >= ? AND first <= ?", select(bucket));
    let mut statement = connection.prepare_cached(&sql)?;
    let earliest_ms = (made_ms(id) + 1).saturating_sub(ROW_MS);
    let earliest = (u128::from(earliest_ms) << 80).to_be_bytes();
    let mut rows = statement.query((&earliest[..], &id.as_bytes()[..]))?;
    let mut positions = Vec::new();
    while let Some(row) = rows.next()? {
        let same = IdsRow::of(row)?.entries().filter(|entry| entry.0 == id);
        positions.extend(same.map(|(_, position)| position));
    }
    Ok(positions)
}

/// All entries of a bucket, in no certain order, and the first ids of rows that hold something else too.
pub(super) fn all(connection: &Connection, bucket: i64) -> Result<(Vec<Entry>, Vec<Uuid>), Fault> {
    let mut statement = connection.prepare(&select(bucket))?;
    let mut rows = statement.query([])?;
    let (mut entries, mut odd) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let row = IdsRow::of(row)?;
        entries.extend(row.entries());
        if !row.more.len().is_multiple_of(ENTRY_BYTES) {
            odd.push(row.first.0);
        }
    }
    Ok((entries, odd))
}

fn select(bucket: i64) -> String {
    format!("SELECT first, position, more FROM ids_{bucket}")
}

struct IdsRow<'r> {
    first: Entry,
    more: &'r [u8],
}

impl<'r> IdsRow<'r> {
    fn of(row: &'r Row<'_>) -> rusqlite::Result<Self> {
        let first = (Uuid::from_bytes(row.get(0)?), row.get(1)?);
        let more = row.get_ref(2)?.as_blob()?;
        Ok(Self { first, more })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> + use<'r> {
        let more = self.more.chunks_exact(ENTRY_BYTES).map(|mut entry| {
            let id = Uuid::from_u128(entry.get_u128());
            (id, entry.get_i64_le())
        });
        std::iter::once(self.first).chain(more)
    }
}

/// When an id of version 7 was made, in ms since 1970. Any other has some number there too.
fn made_ms(id: Uuid) -> u64 {
    u64::try_from(id.as_u128() >> 80).expect("48 bits fit")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::embedded::schema::bucket_tables;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        for (_, sql) in bucket_tables(1) {
            connection.execute_batch(&sql).unwrap();
        }
        connection
    }

    /// Few different times and ends, so that some ids are the same.
    fn ids() -> impl Strategy<Value = Vec<u128>> {
        let ms = prop_oneof![0..400_u128, (1_u128 << 48) - 400..1 << 48];
        let id = (ms, 0..4_u128).prop_map(|(ms, end)| ms << 80 | end);
        proptest::collection::vec(id, 0..100)
    }

    proptest! {
        #[test]
        fn every_id_of_every_commit_is_found(commits in proptest::collection::vec(ids(), 1..4)) {
            let connection = connection();
            let mut all_entries = Vec::new();
            for commit in commits {
                let after = i64::try_from(all_entries.len()).unwrap();
                let ids = commit.into_iter().map(Uuid::from_u128);
                let entries: Vec<Entry> = ids.zip(after..).collect();
                insert(&connection, 1, entries.clone()).unwrap();
                all_entries.extend(entries);
            }
            for (id, _) in &all_entries {
                let mut found = positions_of(&connection, 1, *id).unwrap();
                found.sort_unstable();
                let same = all_entries.iter().filter(|(other, _)| other == id);
                prop_assert_eq!(found, same.map(|(_, position)| *position).collect::<Vec<_>>());
            }
            let absent = Uuid::from_u128(500 << 80);
            prop_assert!(positions_of(&connection, 1, absent).unwrap().is_empty());
            let (mut read, odd) = all(&connection, 1).unwrap();
            read.sort_unstable();
            all_entries.sort_unstable();
            prop_assert_eq!((read, odd), (all_entries, vec![]));
        }
    }

    #[test]
    fn ids_of_one_time_share_rows_that_fit_a_page() {
        let connection = connection();
        let ids: Vec<Entry> = (0..100)
            .map(|position| (Uuid::now_v7(), position))
            .collect();
        insert(&connection, 1, ids).unwrap();
        let sql = "SELECT count(*), max(length(more)) FROM ids_1";
        let rows: (i64, i64) = connection
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(rows, (3, 39 * 24));
    }
}

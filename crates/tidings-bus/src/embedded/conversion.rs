//! Brings a log of format 1 to the present one, at its first start with this version.
//!
//! In format 1 each event had a row of its own in `events_<bucket>`, and so had each id. What is in them is packed piece by
//! piece, each in a transaction of its own: that takes little memory, and what was interrupted goes on at the next start. The
//! table of a bucket goes when all of it stands in blocks. What cannot be read is told of, leaves a gap that readers are told
//! of as of any damage, and keeps the table, as `kept_events_<bucket>`.

use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::block::{ENTRY_BYTES, Event, Packing};
use super::fault::{Fault, is_damage};
use super::reader::DAMAGED;
use super::schema::{FORMAT, bucket_tables, seal};
use super::{checkpoint, ids};

/// The format that is brought to the present one.
pub(super) const FORMER: i64 = 1;
/// What begins the name of a table that is kept for what could not be converted.
pub(super) const KEPT: &str = "kept_";
/// A piece ends with so many rows …
const PIECE_ROWS: usize = 4096;
/// … or bytes: pages that are not committed stay in memory.
const PIECE_BYTES: usize = 16 << 20;

/// Makes the present tables beside those of format 1, in one transaction that touches no row.
pub(super) fn begin(connection: &Connection) -> Result<(), Fault> {
    let transaction = connection.unchecked_transaction()?;
    for bucket in left(&transaction)? {
        let sql = format!("ALTER TABLE ids_{bucket} RENAME TO former_ids_{bucket}");
        transaction.execute_batch(&sql)?;
        for (_, sql) in bucket_tables(bucket) {
            transaction.execute_batch(&sql)?;
        }
    }
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()?;
    Ok(())
}

/// The buckets that still have events in rows of their own.
pub(super) fn left(connection: &Connection) -> Result<Vec<i64>, Fault> {
    let sql = "SELECT CAST(substr(name, 8) AS INTEGER) AS bucket FROM sqlite_schema \
               WHERE type = 'table' AND name GLOB 'events_[0-9]*' ORDER BY bucket";
    let mut statement = connection.prepare(sql)?;
    let buckets = statement.query_map([], |row| row.get(0))?;
    Ok(buckets.collect::<Result<_, _>>()?)
}

/// Converts what is left.
pub(super) fn finish(connection: &Connection) -> Result<(), Fault> {
    let buckets = left(connection)?;
    for (number, bucket) in (1..).zip(&buckets) {
        let of = buckets.len();
        tracing::info!("the log is converted to format {FORMAT}, once: part {number} of {of}");
        let mut conversion = Conversion::resume(connection, *bucket)?;
        while conversion.piece()? {
            checkpoint::checkpoint(connection, "PASSIVE")?;
        }
        conversion.end()?;
        checkpoint::checkpoint(connection, "PASSIVE")?;
    }
    Ok(())
}

/// Of one bucket.
struct Conversion<'c> {
    connection: &'c Connection,
    bucket: i64,
    /// The last row that was looked at.
    last: i64,
    /// Ids of rows that were looked at, and are not written yet.
    ids: Vec<ids::Entry>,
}

impl<'c> Conversion<'c> {
    /// Begins behind what is packed already.
    fn resume(connection: &'c Connection, bucket: i64) -> Result<Self, Fault> {
        let sql = format!(
            "SELECT coalesce(max(position) + length(directory) / {ENTRY_BYTES}, 0) - 1 \
             FROM blocks_{bucket}"
        );
        let last = connection.query_row(&sql, [], |row| row.get(0))?;
        Ok(Self {
            connection,
            bucket,
            last,
            ids: Vec::new(),
        })
    }

    /// Packs the next rows. Whether there may be more.
    fn piece(&mut self) -> Result<bool, Fault> {
        // Outside a transaction: within one SQLite writes nothing more once it has met damage.
        let sql = format!(
            "SELECT position, crc, id, tenant, key, timestamp_ms, headers, value \
             FROM events_{} WHERE position > ? ORDER BY position",
            self.bucket
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([self.last])?;
        let (mut packing, mut blocks) = (Packing::default(), Vec::new());
        let (mut count, mut bytes) = (0, 0);
        let mut is_last = false;
        while count < PIECE_ROWS && bytes < PIECE_BYTES {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => {
                    is_last = true;
                    break;
                }
                Err(error) if is_damage(&error) => {
                    tracing::error!(%error, "events_{}: behind position {} nothing can be read", self.bucket, self.last);
                    is_last = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            self.last = row.get(0)?;
            count += 1;
            // Of a damaged one too: whoever looks for it is told of the damage.
            self.ids.extend(id_of(row).map(|id| (id, self.last)));
            let Some(event) = event(row, self.last) else {
                tracing::error!("events_{}: position {}: {DAMAGED}", self.bucket, self.last);
                continue;
            };
            bytes += event.headers.len() + event.value.len();
            blocks.extend(packing.push(&event));
        }
        drop(rows);
        // Ids go with the events behind which the next start would begin.
        if !packing.is_empty() {
            blocks.push(packing);
            let transaction = self.connection.unchecked_transaction()?;
            for block in &blocks {
                block.insert(&transaction, self.bucket)?;
            }
            ids::insert(&transaction, self.bucket, std::mem::take(&mut self.ids))?;
            transaction.commit()?;
        }
        Ok(!is_last)
    }

    /// Lets go of what is packed, or keeps it for what could not be.
    fn end(&self) -> Result<(), Fault> {
        let (events, ids) = (
            format!("events_{}", self.bucket),
            format!("ids_{}", self.bucket),
        );
        if self.is_whole()? {
            match self.end_with(&format!("DROP TABLE {events}; DROP TABLE former_{ids}")) {
                Err(Fault::Sqlite(error)) if is_damage(&error) => {}
                ended => return ended,
            }
        }
        tracing::error!(
            "what cannot be read of the log is in the table {KEPT}{events}; restore a backup"
        );
        self.end_with(&format!(
            "ALTER TABLE {events} RENAME TO {KEPT}{events}; \
             ALTER TABLE former_{ids} RENAME TO {KEPT}{ids}"
        ))
    }

    /// Writes what is left of the ids, and runs statements with it.
    fn end_with(&self, sql: &str) -> Result<(), Fault> {
        let transaction = self.connection.unchecked_transaction()?;
        ids::insert(&transaction, self.bucket, self.ids.clone())?;
        transaction.execute_batch(sql)?;
        transaction.commit()?;
        Ok(())
    }

    fn is_whole(&self) -> Result<bool, Fault> {
        let bucket = self.bucket;
        let sql = format!(
            "SELECT (SELECT count(*) FROM events_{bucket}) = \
             (SELECT coalesce(sum(length(directory)), 0) / {ENTRY_BYTES} FROM blocks_{bucket})"
        );
        match self.connection.query_row(&sql, [], |row| row.get(0)) {
            Err(error) if is_damage(&error) => Ok(false),
            is_whole => Ok(is_whole?),
        }
    }
}

fn id_of(row: &Row<'_>) -> Option<Uuid> {
    Uuid::from_slice(row.get_ref(2).ok()?.as_blob().ok()?).ok()
}

/// A row of format 1, if it is what was written.
fn event<'r>(row: &'r Row<'_>, position: i64) -> Option<Event<'r>> {
    let event = Event {
        position,
        id: id_of(row)?,
        tenant: row.get_ref(3).ok()?.as_str().ok()?,
        key: row.get_ref(4).ok()?.as_str().ok()?,
        timestamp_ms: row.get(5).ok()?,
        headers: row.get_ref(6).ok()?.as_str().ok()?,
        value: row.get_ref(7).ok()?.as_blob().ok()?,
    };
    (row.get(1) == Ok(former_seal(&event))).then_some(event)
}

fn former_seal(event: &Event<'_>) -> i64 {
    seal(&[
        &event.position.to_le_bytes(),
        event.id.as_bytes(),
        &event.timestamp_ms.to_le_bytes(),
        event.tenant.as_bytes(),
        event.key.as_bytes(),
        event.headers.as_bytes(),
        event.value,
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::params;

    use super::*;
    use crate::embedded::block::{Block, COLUMNS};
    use crate::embedded::schema::{FILE, open_writer};
    use crate::embedded::tests::{Manual, clean, config, content, open, record};
    use crate::embedded::{Config, Embedded, VerifyError, verify};
    use crate::{Bus, ReadError};

    /// Makes of a log what format 1 would have had.
    fn write_back(folder: &Path) {
        let connection = open_writer(folder).unwrap();
        let transaction = connection.unchecked_transaction().unwrap();
        let sql = "SELECT id FROM buckets";
        let buckets: Vec<i64> = {
            let mut statement = transaction.prepare(sql).unwrap();
            let buckets = statement.query_map([], |row| row.get(0)).unwrap();
            buckets.map(Result::unwrap).collect()
        };
        for bucket in buckets {
            let tables = format!(
                "CREATE TABLE events_{bucket} (position INTEGER PRIMARY KEY, crc INTEGER NOT NULL, \
                 id BLOB NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, \
                 timestamp_ms INTEGER NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL) STRICT; \
                 DROP TABLE ids_{bucket}; \
                 CREATE TABLE ids_{bucket} (id BLOB NOT NULL PRIMARY KEY, position INTEGER NOT NULL) \
                 STRICT, WITHOUT ROWID"
            );
            transaction.execute_batch(&tables).unwrap();
            let sql = format!("SELECT {COLUMNS} FROM blocks_{bucket}");
            let mut statement = transaction.prepare(&sql).unwrap();
            let mut rows = statement.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let block = Block::of(row).unwrap();
                for event in (0..block.len()).map(|number| block.event(number).unwrap()) {
                    insert_former(&transaction, bucket, &event);
                }
            }
            drop(rows);
            drop(statement);
            transaction
                .execute_batch(&format!("DROP TABLE blocks_{bucket}"))
                .unwrap();
        }
        transaction
            .pragma_update(None, "user_version", FORMER)
            .unwrap();
        transaction.commit().unwrap();
        // No free page has anything left in it.
        connection.execute_batch("VACUUM").unwrap();
        checkpoint::checkpoint(&connection, "TRUNCATE").unwrap();
    }

    fn insert_former(connection: &Connection, bucket: i64, event: &Event<'_>) {
        let id = &event.id.as_bytes()[..];
        let sql = format!("INSERT INTO events_{bucket} VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
        let row = params![
            event.position,
            former_seal(event),
            id,
            event.tenant,
            event.key,
            event.timestamp_ms,
            event.headers,
            event.value
        ];
        connection.execute(&sql, row).unwrap();
        let sql = format!("INSERT INTO ids_{bucket} VALUES (?, ?)");
        connection
            .execute(&sql, params![id, event.position])
            .unwrap();
    }

    /// Two buckets, one of more than a piece.
    async fn filled(folder: &Path, clock: &Manual) -> Vec<crate::Stored> {
        let bus = open(folder, clock);
        for n in 0..10 {
            let batch = (0..500).map(|m| record(500 * n + m, 200)).collect();
            bus.append(batch).await.unwrap();
        }
        clock.advance(25 * 3600 * 1000);
        bus.append((0..20).map(|n| record(n, 9_000)).collect())
            .await
            .unwrap();
        let content = content(&bus).await.unwrap();
        bus.close();
        write_back(folder);
        content
    }

    #[tokio::test]
    async fn a_log_of_the_former_format_is_served_as_it_was() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
        let expected = filled(folder.path(), &clock).await;
        let unread = verify(folder.path()).unwrap_err();
        assert!(matches!(unread, VerifyError::Unread(_)), "{unread}");
        let bus = open(folder.path(), &clock);
        assert_eq!(content(&bus).await.unwrap(), expected);
        for stored in expected.iter().step_by(97) {
            let found = bus.find(stored.tenant.clone(), stored.event_id).await;
            assert_eq!(found.unwrap().as_ref(), Some(stored));
        }
        bus.append(vec![record(1, 10)]).await.unwrap();
        bus.close();
        clean(folder.path());
    }

    #[tokio::test]
    async fn an_interrupted_conversion_goes_on() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
        let expected = filled(folder.path(), &clock).await;
        let connection = open_writer(folder.path()).unwrap();
        begin(&connection).unwrap();
        assert!(Conversion::resume(&connection, 1).unwrap().piece().unwrap());
        drop(connection);
        let unread = verify(folder.path()).unwrap_err();
        assert!(matches!(unread, VerifyError::Unread(_)), "{unread}");
        let bus = open(folder.path(), &clock);
        assert_eq!(content(&bus).await.unwrap(), expected);
        bus.close();
        clean(folder.path());
    }

    #[tokio::test]
    async fn a_damaged_event_is_still_told_of() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
        let expected = filled(folder.path(), &clock).await;
        let damaged = &expected[7];
        let connection = open_writer(folder.path()).unwrap();
        let sql = "UPDATE events_1 SET tenant = 'other' WHERE id = ?";
        let changed = connection.execute(sql, [&damaged.event_id.as_bytes()[..]]);
        assert_eq!(changed, Ok(1));
        drop(connection);
        let bus = Embedded::open(config(folder.path(), &clock)).unwrap();
        let read = content(&bus).await.unwrap_err();
        let found = bus.find(damaged.tenant.clone(), damaged.event_id).await;
        for error in [read, found.unwrap_err()] {
            assert!(
                matches!(error, ReadError::Damaged { offset, .. } if offset == damaged.offset),
                "{error}"
            );
        }
        bus.close();
        let findings = verify(folder.path()).unwrap().findings;
        let is_named = |name: &str| findings.iter().any(|finding| finding.contains(name));
        assert!(
            is_named("kept_events_1") && !is_named("events_2"),
            "{findings:?}"
        );
    }

    #[tokio::test]
    async fn a_damaged_page_keeps_nobody_from_the_rest() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
        let expected = filled(folder.path(), &clock).await;
        let file = folder.path().join(FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        // The page of an event in the middle of the first table; the ids stand in pages of another kind.
        let id = expected[expected.len() / 2].event_id;
        let mut pages = bytes.chunks_exact_mut(4096);
        let page =
            pages.find(|page| page[0] == 13 && page.windows(16).any(|it| it == id.as_bytes()));
        page.unwrap().fill(0);
        std::fs::write(&file, bytes).unwrap();
        assert!(!verify(folder.path()).unwrap().findings.is_empty());

        let bus = open(folder.path(), &clock);
        let first = bus
            .find(expected[0].tenant.clone(), expected[0].event_id)
            .await;
        assert_eq!(first.unwrap().as_ref(), Some(&expected[0]));
        bus.append(vec![record(1, 10)]).await.unwrap();
        bus.close();
        let findings = verify(folder.path()).unwrap().findings;
        assert!(
            findings.iter().any(|it| it.contains("kept_events_1")),
            "{findings:?}"
        );
    }

    /// Written by the last version of that format.
    #[tokio::test]
    async fn what_the_former_version_wrote_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.db");
        std::fs::copy(fixture, folder.path().join(FILE)).unwrap();
        let bus = Embedded::open(Config::new(folder.path(), Manual::new().clock())).unwrap();
        let content = content(&bus).await.unwrap();
        assert_eq!(content.len(), 5);
        for stored in &content {
            let found = bus.find(stored.tenant.clone(), stored.event_id).await;
            assert_eq!(found.unwrap().as_ref(), Some(stored));
        }
        let greetings = content.iter().filter(|it| it.tenant.as_str() == "acme");
        let values: Vec<_> = greetings
            .map(|it| String::from_utf8_lossy(&it.value))
            .collect();
        assert!(
            values.len() == 3 && values[1].contains(r#""hello 2""#),
            "{values:?}"
        );
        bus.close();
        clean(folder.path());
    }
}

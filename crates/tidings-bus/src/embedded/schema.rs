//! The tables of `bus.db`: their SQL, how positions are encoded, how rows are sealed, how
//! connections open.
//!
//! | table | one row is |
//! | --- | --- |
//! | `topics` | a topic: its first slot and number of partitions; a *slot* is one topic-partition |
//! | `heads` | a slot: the offsets it holds, `start..next` |
//! | `spans` | up to 4,096 neighbouring offsets of a slot: their bucket, their newest time |
//! | `counters` | a tenant: how many events it ever appended |
//! | `buckets` | a stretch of time: `blocks_<id>` and `ids_<id>`, which retention drops whole |
//! | `generations` | one key lifetime: the table `keys_<id>` that expiry drops whole |
//!
//! What stands in a row of `blocks_<id>` is told in [`block`](super::block), of `ids_<id>` in [`ids`](super::ids). Every row of
//! the other tables carries a CRC-32 of all its fields.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;

/// The file, in its folder.
pub(super) const FILE: &str = "bus.db";
/// Locked while a process has the folder open.
pub(super) const LOCK_FILE: &str = "bus.lock";
/// The layout below, in `PRAGMA user_version`. A change of it is a [conversion](super::conversion).
pub(super) const FORMAT: i64 = 2;
/// "tdng", so that `file` and `verify` can tell whose database this is.
pub(super) const APPLICATION_ID: i64 = 0x7464_6e67;
/// The size of a page, fixed when the file is made.
pub(super) const PAGE_BYTES: u32 = 4096;
/// Offsets take the low bits of a position, slots the bits above them.
const OFFSET_BITS: u32 = 40;
/// How many slots fit above the offsets.
pub(super) const MAX_SLOTS: usize = 1 << (63 - OFFSET_BITS);
/// What the writer keeps of the file: the ends of its tables, and keys that are not UUIDs v7 for a while.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// How long a connection waits for another one's lock.
const BUSY: Duration = Duration::from_secs(5);

/// The tables that are always there, in the order of their making.
pub(super) const FIXED: [(&str, &str); 6] = [
    (
        "topics",
        "CREATE TABLE topics (first_slot INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, \
         partitions INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT",
    ),
    (
        "heads",
        "CREATE TABLE heads (slot INTEGER PRIMARY KEY, start INTEGER NOT NULL, \
         next INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT",
    ),
    (
        "spans",
        "CREATE TABLE spans (slot INTEGER NOT NULL, first INTEGER NOT NULL, \
         bucket INTEGER NOT NULL, max_ms INTEGER NOT NULL, crc INTEGER NOT NULL, \
         PRIMARY KEY (slot, first)) STRICT, WITHOUT ROWID",
    ),
    (
        "counters",
        "CREATE TABLE counters (tenant TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL, \
         crc INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ),
    (
        "buckets",
        "CREATE TABLE buckets (id INTEGER PRIMARY KEY, opened_ms INTEGER NOT NULL, \
         bytes INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT",
    ),
    (
        "generations",
        "CREATE TABLE generations (id INTEGER PRIMARY KEY, opened_ms INTEGER NOT NULL, \
         crc INTEGER NOT NULL) STRICT",
    ),
];

/// The two tables of a bucket, with their names.
pub(super) fn bucket_tables(id: i64) -> [(String, String); 2] {
    let blocks = format!("blocks_{id}");
    let ids = format!("ids_{id}");
    // The directory stands before the content, which may run over many overflow pages.
    let blocks_sql = format!(
        "CREATE TABLE {blocks} (position INTEGER PRIMARY KEY, directory BLOB NOT NULL, \
         content BLOB NOT NULL) STRICT"
    );
    let ids_sql = format!(
        "CREATE TABLE {ids} (first BLOB NOT NULL, position INTEGER NOT NULL, more BLOB NOT NULL, \
         PRIMARY KEY (first, position)) STRICT, WITHOUT ROWID"
    );
    [(blocks, blocks_sql), (ids, ids_sql)]
}

/// The table of a generation of keys, with its name.
pub(super) fn generation_table(id: i64) -> (String, String) {
    let keys = format!("keys_{id}");
    // Clustered by key first: keys made by UUID v7 then append instead of landing anywhere.
    let sql = format!(
        "CREATE TABLE {keys} (key TEXT NOT NULL, tenant TEXT NOT NULL, principal TEXT NOT NULL, \
         fingerprint BLOB NOT NULL, event_id BLOB NOT NULL, position INTEGER NOT NULL, \
         at_ms INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (key, tenant, principal)) \
         STRICT, WITHOUT ROWID"
    );
    (keys, sql)
}

/// Where an offset of a slot stands in a bucket.
pub(super) fn position(slot: usize, offset: u64) -> i64 {
    assert!(
        slot < MAX_SLOTS && offset < 1 << OFFSET_BITS,
        "slot {slot}, offset {offset}"
    );
    i64::try_from(slot << OFFSET_BITS).expect("63 bits fit") | offset.cast_signed()
}

/// The slot and offset of a position; a negative one, which damage can make, is nobody's slot.
pub(super) fn slot_and_offset(position: i64) -> (usize, u64) {
    let bits = position.cast_unsigned();
    let slot = usize::try_from(bits >> OFFSET_BITS).unwrap_or(usize::MAX);
    (slot, bits & ((1 << OFFSET_BITS) - 1))
}

/// The CRC-32 of a row: each field with its length, so that no two rows run into one.
pub(super) fn seal(fields: &[&[u8]]) -> i64 {
    let mut hasher = crc32fast::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    i64::from(hasher.finalize())
}

/// The CRC-32 of a row of integers.
pub(super) fn seal_numbers(table: &str, numbers: &[i64]) -> i64 {
    let bytes: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    seal(&[table.as_bytes(), &bytes])
}

/// The connection that writes.
pub(super) fn open_writer(folder: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(
        folder.join(FILE),
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A commit that splits a page has SQLite walk over all of it.
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // Without spilling, the WAL never holds frames of a transaction that was rolled back, on which
    // the check of a WAL after a crash relies; and nothing reaches the disk before the commit.
    connection.pragma_update(None, "cache_spill", false)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", 128 << 20)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The connection that only moves pages from the WAL to the file.
pub(super) fn open_checkpointer(folder: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(
        folder.join(FILE),
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// A connection that cannot write.
pub(super) fn open_reader(folder: &Path) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(
        folder.join(FILE),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The same for whoever looks at a log that may lie where nothing can be written. Where not even what readers share can be made
/// beside it, the file is read alone, if it alone holds everything.
pub(super) fn open_to_look(folder: &Path) -> Result<Connection, Fault> {
    // To open it may read it already.
    let fault = match open_reader(folder) {
        Ok(connection) => {
            let looked = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
            match looked.map_err(Fault::from) {
                Err(fault) if fault.is_unshared() => fault,
                // Whatever else is wrong is found by whoever reads on.
                _ => return Ok(connection),
            }
        }
        Err(fault) if fault.is_unshared() => fault,
        Err(fault) => return Err(fault),
    };
    let file = folder.join(FILE);
    let wal = folder.join(format!("{FILE}-wal"));
    if wal.metadata().is_ok_and(|wal| wal.len() > 0) {
        return Err(Fault::Unread(format!(
            "{FILE}: it cannot be read where nothing can be written ({fault}): writes wait in {FILE}-wal, which is read \
             through a third file; copy the folder to where it can be written, or have it mounted so"
        )));
    }
    let Some(file) = file.to_str() else {
        return Err(fault);
    };
    let file = file.replace('%', "%25");
    let file = file.replace('?', "%3f").replace('#', "%23");
    let connection = Connection::open_with_flags(
        format!("file:{file}?immutable=1"),
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI,
    )?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// What `user_version` and `application_id` say; both are 0 in a file that was just made.
pub(super) fn identity(connection: &Connection) -> Result<(i64, i64), Fault> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok((version, application))
}

/// Makes the fixed tables, in one transaction.
pub(super) fn create(connection: &Connection) -> Result<(), Fault> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for (_, sql) in FIXED {
        connection.execute_batch(sql)?;
    }
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", FORMAT)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// A reader's or the writer's place for messages.
pub(super) fn place(table: &str, topic: &str, partition: u32, offset: u64) -> String {
    format!("{table}: topic {topic}, partition {partition}, offset {offset}")
}

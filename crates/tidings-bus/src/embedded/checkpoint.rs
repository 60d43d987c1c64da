//! Moves pages from the WAL to the file, on a thread and connection of its own.
//!
//! The passive kind never waits for anybody, and syncs the file only where nothing was appended meanwhile, so what was moved is
//! synced here. When a WAL over its bound has been moved but for what was appended meanwhile, the writer moves that rest itself,
//! with little left to sync: its next commit then begins the WAL anew and, unlike after a restart from here, it keeps its page
//! cache. Only where readers prevent that for long is the WAL restarted from here, which waits for them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode};

use super::Shared;
use super::fault::Fault;
use super::schema::open_checkpointer;

/// A WAL of more frames than this is begun anew by the writer: 64 MiB.
const RENEW_FRAMES: i64 = 16_384;
/// One of more frames than this is restarted from here, whatever it costs: 256 MiB.
const RESTART_FRAMES: i64 = 4 * RENEW_FRAMES;

/// The thread, and how to wake it.
pub(super) struct Checkpointer {
    wake: SyncSender<()>,
    caught_up: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// `file` is the log's own, open for as long as any connection to it.
    pub(super) fn start(
        folder: &Path,
        file: Arc<File>,
        shared: Arc<Shared>,
    ) -> Result<Self, Fault> {
        let connection = open_checkpointer(folder)?;
        let (wake, woken) = sync_channel(1);
        let caught_up = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&caught_up);
        let thread = std::thread::Builder::new()
            .name("bus-checkpoint".into())
            .spawn(move || run(&connection, &file, &woken, &shared, &tell))
            .expect("the system can start a thread");
        Ok(Self {
            wake,
            caught_up,
            thread,
        })
    }

    /// Asks for a checkpoint. One that is asked for already will do.
    pub(super) fn wake(&self) {
        let _asked_already = self.wake.try_send(());
    }

    /// Whether a large WAL has just been moved, so that it is the writer's turn to move the rest.
    pub(super) fn take_caught_up(&self) -> bool {
        self.caught_up.swap(false, Ordering::Relaxed)
    }

    /// Waits until the thread has ended.
    pub(super) fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the checkpoint thread of the bus panicked");
        }
    }
}

fn run(
    connection: &Connection,
    file: &File,
    woken: &Receiver<()>,
    shared: &Shared,
    caught_up: &AtomicBool,
) {
    while woken.recv().is_ok() {
        if shared.is_poisoned() {
            continue;
        }
        match moved(connection, file) {
            Ok(is_renewed) => caught_up.store(is_renewed, Ordering::Relaxed),
            Err(fault) => report(&fault, shared),
        }
    }
}

/// Moves what can be moved; whether the writer is to move the rest, and to begin the WAL anew.
fn moved(connection: &Connection, file: &File) -> Result<bool, Fault> {
    let walked = checkpoint(connection, "PASSIVE")?;
    file.sync_data().map_err(Fault::Unsynced)?;
    // With a reader on old frames (a backup) a restart would only hold up the writer.
    if walked.copied < walked.frames || walked.frames <= RENEW_FRAMES {
        return Ok(false);
    }
    if walked.frames > RESTART_FRAMES {
        checkpoint(connection, "RESTART")?;
        return Ok(false);
    }
    // The writer waits for what it moves: only for what comes from now on, not for what came during the sync.
    let walked = checkpoint(connection, "PASSIVE")?;
    Ok(walked.copied >= walked.frames)
}

/// How far a checkpoint came.
pub(super) struct Walked {
    /// Frames in the WAL.
    pub(super) frames: i64,
    /// Frames that are in the database.
    pub(super) copied: i64,
}

/// Runs one.
pub(super) fn checkpoint(connection: &Connection, kind: &str) -> Result<Walked, Fault> {
    let sql = format!("PRAGMA wal_checkpoint({kind})");
    let walked = |row: &rusqlite::Row<'_>| {
        Ok(Walked {
            frames: row.get(1)?,
            copied: row.get(2)?,
        })
    };
    Ok(connection.query_row(&sql, [], walked)?)
}

/// After a failed sync the pages that did not reach the disk count as clean: a second try would
/// seem to succeed, and the WAL that still has them would be overwritten.
pub(super) fn report(fault: &Fault, shared: &Shared) {
    match fault.codes() {
        Some((ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _)) => {}
        Some((ErrorCode::DiskFull, _)) => {
            tracing::warn!("no room to move the bus's WAL into its file; it is kept");
        }
        _ => shared.poison(&format!("a checkpoint of the bus failed: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Connection, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = Connection::open(&path).unwrap();
        let begun = connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF; \
             CREATE TABLE pages (page BLOB)",
        );
        begun.unwrap();
        (folder, connection, File::open(path).unwrap())
    }

    fn write_frames(connection: &Connection, many: i64) {
        let pages = "WITH RECURSIVE numbers (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1) \
             INSERT INTO pages SELECT zeroblob(4000) FROM numbers";
        connection.execute(pages, [many]).unwrap();
    }

    #[test]
    fn only_a_large_wal_that_is_moved_whole_is_for_the_writer_to_renew() {
        let (folder, connection, file) = log();
        write_frames(&connection, 9);
        assert!(!moved(&connection, &file).unwrap());
        let reader = Connection::open(folder.path().join("x.db")).unwrap();
        let reading = reader.unchecked_transaction().unwrap();
        let read = reading.query_row("SELECT count(*) FROM pages", [], |row| row.get(0));
        assert_eq!(read, Ok(9));
        write_frames(&connection, RENEW_FRAMES);
        assert!(
            !moved(&connection, &file).unwrap(),
            "somebody reads old frames"
        );
        reading.finish().unwrap();
        assert!(moved(&connection, &file).unwrap());
    }

    #[test]
    fn a_failed_sync_is_a_failed_checkpoint() {
        let (_folder, connection, _file) = log();
        write_frames(&connection, 1);
        // It cannot be synced.
        let unsynced = moved(&connection, &File::open("/proc/version").unwrap());
        assert!(matches!(unsynced, Err(Fault::Unsynced(_))));
    }
}

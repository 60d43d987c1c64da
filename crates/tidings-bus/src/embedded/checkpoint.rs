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
const RENEW_FRAMES: i64 = if cfg!(test) { 256 } else { 16_384 };
/// One of more frames than this is restarted from here, whatever it costs: 256 MiB.
const RESTART_FRAMES: i64 = 4 * RENEW_FRAMES;

/// The thread, and how to wake it.
pub(super) struct Checkpointer {
    wake: SyncSender<()>,
    writers_turn: Arc<AtomicBool>,
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
        let writers_turn = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&writers_turn);
        let thread = std::thread::Builder::new()
            .name("bus-checkpoint".into())
            .spawn(move || run(&connection, &file, &woken, &shared, &tell))
            .expect("the system can start a thread");
        Ok(Self {
            wake,
            writers_turn,
            thread,
        })
    }

    /// Asks for a checkpoint. One that is asked for already will do.
    pub(super) fn wake(&self) {
        let _asked_already = self.wake.try_send(());
    }

    /// Moves the rest of a large WAL on the writer's connection, where it is the writer's turn to do so.
    pub(super) fn move_rest(&self, connection: &Connection) -> Result<(), Fault> {
        if self.writers_turn.load(Ordering::Relaxed) {
            let moved = checkpoint(connection, "PASSIVE");
            let is_done = !matches!(moved, Ok(None));
            self.writers_turn.store(!is_done, Ordering::Relaxed);
            moved?;
        }
        Ok(())
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
    writers_turn: &AtomicBool,
) {
    while woken.recv().is_ok() {
        // Of two checkpoints at once SQLite refuses the second: the writer's, were this to go on.
        if shared.is_poisoned() || writers_turn.load(Ordering::Relaxed) {
            continue;
        }
        match move_pages(connection, file) {
            Ok(renewable) => writers_turn.store(renewable, Ordering::Relaxed),
            Err(fault) => report(&fault, shared),
        }
    }
}

/// Moves what can be moved; whether the writer is to move the rest, and so to begin the WAL anew.
fn move_pages(connection: &Connection, file: &File) -> Result<bool, Fault> {
    let moved = checkpoint(connection, "PASSIVE")?;
    file.sync_data().map_err(Fault::Unsynced)?;
    // With a reader on old frames (a backup) a restart would only hold up the writer.
    let frames = moved.filter(Walked::is_whole).map_or(0, |it| it.frames);
    if frames > RESTART_FRAMES {
        checkpoint(connection, "RESTART")?;
        return Ok(false);
    }
    if frames <= RENEW_FRAMES {
        return Ok(false);
    }
    // What came during the sync: the writer then moves little, and syncs no more than that and this.
    let moved = checkpoint(connection, "PASSIVE")?;
    Ok(moved.is_some_and(|it| it.is_whole()))
}

/// How far a checkpoint came.
pub(super) struct Walked {
    /// Frames in the WAL.
    frames: i64,
    /// Frames that are in the database.
    copied: i64,
}

impl Walked {
    fn is_whole(&self) -> bool {
        self.copied >= self.frames
    }
}

/// Runs one. Nothing while another runs.
pub(super) fn checkpoint(connection: &Connection, kind: &str) -> Result<Option<Walked>, Fault> {
    let sql = format!("PRAGMA wal_checkpoint({kind})");
    let walked = |row: &rusqlite::Row<'_>| {
        let walked = Walked {
            frames: row.get(1)?,
            copied: row.get(2)?,
        };
        // SQLite counts -1 then.
        Ok((walked.frames >= 0).then_some(walked))
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
    use std::time::Duration;

    use rusqlite::Transaction;

    use super::super::image::Image;
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

    /// Reads all of so many rows, and no later ones until it is finished.
    fn begin_reading(connection: &Connection, rows: i64) -> Transaction<'_> {
        let reading = connection.unchecked_transaction().unwrap();
        let read = reading.query_row("SELECT count(*) FROM pages", [], |row| row.get(0));
        assert_eq!(read, Ok(rows));
        reading
    }

    #[test]
    fn only_a_large_wal_that_is_moved_whole_is_for_the_writer_to_renew() {
        let (folder, connection, file) = log();
        write_frames(&connection, 9);
        assert!(!move_pages(&connection, &file).unwrap());
        write_frames(&connection, 1);
        let reader = Connection::open(folder.path().join("x.db")).unwrap();
        let reading = begin_reading(&reader, 10);
        write_frames(&connection, RENEW_FRAMES);
        let moved = checkpoint(&connection, "PASSIVE").unwrap().unwrap();
        assert!(
            0 < moved.copied && moved.copied < moved.frames,
            "some of it is read"
        );
        assert!(!move_pages(&connection, &file).unwrap());
        reading.finish().unwrap();
        assert!(move_pages(&connection, &file).unwrap());
        write_frames(&connection, RESTART_FRAMES);
        assert!(!move_pages(&connection, &file).unwrap(), "it is restarted");
    }

    #[test]
    fn where_another_checkpoint_runs_there_is_none() {
        let (folder, connection, _file) = log();
        write_frames(&connection, 1);
        let another = || Connection::open(folder.path().join("x.db")).unwrap();
        let (reader, waiting) = (another(), another());
        let reading = begin_reading(&reader, 1);
        write_frames(&connection, 1);
        waiting.busy_timeout(Duration::from_mins(1)).unwrap();
        // Until it is the one that runs.
        let restart = move || checkpoint(&waiting, "RESTART").unwrap();
        let waits = std::thread::spawn(move || std::iter::repeat_with(restart).flatten().next());
        while checkpoint(&connection, "PASSIVE").unwrap().is_some() {
            assert!(!waits.is_finished(), "it waits for the reader");
        }
        reading.finish().unwrap();
        assert!(waits.join().unwrap().is_some_and(|it| it.is_whole()));
    }

    #[test]
    fn a_failed_sync_ends_all_writing() {
        let (_folder, connection, _file) = log();
        write_frames(&connection, 1);
        // It cannot be synced.
        let unsynced = move_pages(&connection, &File::open("/proc/version").unwrap());
        let fault = unsynced.unwrap_err();
        assert!(matches!(fault, Fault::Unsynced(_)));
        let shared = Shared::new(&Image::default());
        report(&fault, &shared);
        assert!(shared.is_poisoned());
    }
}

//! Moves pages from the WAL to the file, on a thread and connection of its own.
//!
//! The passive kind never waits for anybody. When a WAL over its bound has been moved but for what was
//! appended meanwhile, the writer moves that rest itself: its next commit then begins the WAL anew and,
//! unlike after a restart from here, it keeps its page cache. Only where readers prevent that for long
//! is the WAL restarted from here, which waits for them.

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
    pub(super) fn start(folder: &Path, shared: Arc<Shared>) -> Result<Self, Fault> {
        let connection = open_checkpointer(folder)?;
        let (wake, woken) = sync_channel(1);
        let caught_up = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&caught_up);
        let thread = std::thread::Builder::new()
            .name("bus-checkpoint".into())
            .spawn(move || run(&connection, &woken, &shared, &tell))
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

fn run(connection: &Connection, woken: &Receiver<()>, shared: &Shared, caught_up: &AtomicBool) {
    while woken.recv().is_ok() {
        if shared.is_poisoned() {
            continue;
        }
        let done = checkpoint(connection, "PASSIVE").and_then(|walked| {
            // With a reader on old frames (a backup) a restart would only hold up the writer.
            if walked.copied < walked.frames {
                Ok(())
            } else if walked.frames > RESTART_FRAMES {
                checkpoint(connection, "RESTART").map(drop)
            } else {
                caught_up.store(walked.frames > RENEW_FRAMES, Ordering::Relaxed);
                Ok(())
            }
        });
        if let Err(fault) = done {
            report(&fault, shared);
        }
    }
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

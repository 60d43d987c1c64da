//! What goes wrong below the port: damage that was recognised, and what SQLite reports.
//!
//! Readers, the writer and `verify` each turn a [`Fault`] into their own error; which reports of
//! SQLite count as damage is decided here and nowhere else.

use std::io;

use rusqlite::{Error, ErrorCode, ffi};

use crate::ReadError;

/// A failure while reading or writing `bus.db`.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// A row is not what was written. The text names table and row.
    #[error("{0}")]
    Corrupt(String),
    /// One event is not what was written. The text names its table and place.
    #[error("{fault}")]
    Damaged { offset: u64, fault: String },
    /// It cannot be read here or by whoever only looks. Nothing is known to be damaged. The text says what to do.
    #[error("{0}")]
    Unread(String),
    /// What was written may not be on the disk.
    #[error("a sync failed: {0}")]
    Unsynced(#[source] io::Error),
    /// SQLite's own report.
    #[error("{0}")]
    Sqlite(#[from] Error),
}

impl Fault {
    /// As a reader reports it, naming the place.
    pub(super) fn into_read(self, place: &str) -> ReadError {
        match self {
            Self::Corrupt(text) => ReadError::Corrupt(text),
            Self::Damaged { offset, fault } => ReadError::Damaged { offset, fault },
            Self::Sqlite(error) if is_damage(&error) => {
                ReadError::Corrupt(format!("{place}: {error}"))
            }
            Self::Unread(text) => ReadError::Unavailable(text),
            fault => ReadError::Unavailable(format!("{place}: {fault}")),
        }
    }

    /// SQLite's main and extended result code, if this is its report.
    pub(super) fn codes(&self) -> Option<(ErrorCode, i32)> {
        match self {
            Self::Sqlite(Error::SqliteFailure(failure, _)) => {
                Some((failure.code, failure.extended_code))
            }
            _ => None,
        }
    }

    /// Whether SQLite could not make, beside a file, what it shares with others that have it open.
    pub(super) fn is_unshared(&self) -> bool {
        self.codes()
            .is_some_and(|(code, _)| matches!(code, ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    }

    /// Whether the shared WAL index could not grow. During a commit this happens *after* the frames
    /// were synced, so that a crash right then would bring the transaction back.
    pub(super) fn is_index_growth(&self) -> bool {
        let growth = [
            ffi::SQLITE_IOERR_SHMSIZE,
            ffi::SQLITE_IOERR_SHMMAP,
            ffi::SQLITE_IOERR_SHMOPEN,
        ];
        self.codes()
            .is_some_and(|(_, extended)| growth.contains(&extended))
    }
}

/// Whether what is stored is damaged, rather than out of reach.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        // A file that ends before its last page: SQLite calls that an I/O error, but no retry helps.
        Error::SqliteFailure(failure, _)
            if failure.extended_code == ffi::SQLITE_IOERR_SHORT_READ =>
        {
            true
        }
        // The generic code means that a table or column which the schema must have is not there.
        Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown
        ),
        // What is left are values of another type than was written.
        _ => true,
    }
}

//! Why the store could not do what was asked, and what follows from it.

use std::borrow::Cow;
use std::path::PathBuf;

/// SQLite's primary result code for "database or disk is full".
const SQLITE_FULL: i32 = 13;
/// SQLite's primary result code for "database is locked" by another connection.
const SQLITE_BUSY: i32 = 5;
/// SQLite's primary result code for "attempt to write a readonly database".
const SQLITE_READONLY: i32 = 8;
/// SQLite's primary result code for "unable to open database file", or one that it needs beside it.
const SQLITE_CANTOPEN: i32 = 14;

/// PostgreSQL's code for a disk that is full.
const POSTGRES_FULL: &str = "53100";

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened.
    #[error("the store {path} cannot be opened: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: sqlx::Error,
    },
    /// PostgreSQL cannot be reached, or what it is reached by cannot be read. The password is not in here.
    #[error("the store on PostgreSQL cannot be opened: {0}")]
    Connect(#[source] sqlx::Error),
    /// The tables could not be brought to this version's form; a newer version may have written
    /// them.
    #[error("the store's tables cannot be brought up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("the store cannot {doing}: {source}")]
    Statement {
        /// What was attempted.
        doing: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// A row holds what no version of Tidings writes.
    #[error("the store's row {row} cannot be read: {column} holds {fault}")]
    Corrupt {
        /// Which row.
        row: String,
        /// Which column.
        column: &'static str,
        /// What is wrong with it.
        fault: String,
    },
    /// What is stored is not what was written.
    #[error("the store is damaged: store.db: {table}: row {row}: it is not what was written")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// What the row is called by.
        row: String,
    },
    /// The database's own check found pages or indexes that are not whole.
    #[error("the store {} is damaged: {finding}; run `tidings doctor` for all there is to know", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The first thing found.
        finding: String,
    },
    /// It can be read, and takes no writes. The text says why.
    #[error("the store can be read, but takes no writes: {0}")]
    ReadOnly(String),
    /// Somebody else has taken up this share of the deliveries.
    #[error("share {0} of the deliveries was taken up by another")]
    Taken(String),
    /// What is in the WAL beside the file cannot be read.
    #[error(
        "the store {} cannot be read where nothing can be written: writes wait in the -wal file beside it, which is read \
         through a third file; copy the folder to where it can be written, or have it mounted so", .0.display()
    )]
    Unshared(PathBuf),
    /// The backup could not be written.
    #[error("the backup {path} cannot be written: {reason}")]
    Backup {
        /// The target.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl StoreError {
    /// What the row is called by that cannot be read, where it is one row that cannot.
    pub fn row(&self) -> Option<&str> {
        match self {
            Self::Corrupt { row, .. } | Self::Damaged { row, .. } => Some(row),
            _ => None,
        }
    }

    /// What the database calls the failure of a statement.
    fn code(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Statement {
                source: sqlx::Error::Database(fault),
                ..
            } => fault.code(),
            _ => None,
        }
    }

    /// Whether it is this failure of SQLite, by its primary result code. PostgreSQL's codes are longer.
    fn is_of_sqlite(&self, primary: i32) -> bool {
        let code = self.code().and_then(|code| code.parse::<i32>().ok());
        code.is_some_and(|code| code < 10_000 && code & 0xff == primary)
    }

    /// Whether SQLite could not make, beside a file, what it shares with others that have it open.
    pub(crate) fn is_unshared(&self) -> bool {
        self.is_of_sqlite(SQLITE_CANTOPEN) || self.is_of_sqlite(SQLITE_READONLY)
    }

    /// Whether the disk has no room: what to tell the caller differs from other failures.
    pub fn is_full(&self) -> bool {
        self.is_of_sqlite(SQLITE_FULL) || self.code().as_deref() == Some(POSTGRES_FULL)
    }

    /// Whether the database will never take what it was given: a text that it cannot hold, a rule that it breaks.
    pub fn is_refused(&self) -> bool {
        // PostgreSQL's classes of data exceptions, integrity constraints and exceeded limits; SQLite's rows that are too
        // big, constraints and mismatches.
        let code = self.code().unwrap_or_default();
        let of_postgres = ["22", "23", "54"]
            .iter()
            .any(|class| code.starts_with(class));
        match code.parse::<i32>() {
            Ok(code) if code < 10_000 => matches!(code & 0xff, 18..=20),
            _ => code.len() == 5 && of_postgres,
        }
    }

    /// Whether the server cannot be reached or is ending, or another connection writes for longer than is waited for: the
    /// same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        if self.is_of_sqlite(SQLITE_BUSY) {
            return true;
        }
        let Self::Statement { source, .. } = self else {
            return matches!(self, Self::Connect(_));
        };
        match source {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
            // PostgreSQL's classes of failed connections, too many of them, and a server that is shut down; a transaction that
            // stood still for too long, and one of two that waited for each other.
            sqlx::Error::Database(fault) => fault.code().is_some_and(|code| {
                code.starts_with("08")
                    || code.starts_with("57P0")
                    || matches!(&*code, "53300" | "25P03" | "40P01")
            }),
            _ => false,
        }
    }
}

//! Idempotency keys of an installation whose log does not keep them: reserved, completed, withdrawn.
//!
//! In PostgreSQL replicas share them; in the SQLite of a data folder they are those of one process.

mod on_postgres;
mod on_sqlite;

use std::time::Duration;

use tidings_event::TenantId;
use uuid::Uuid;

use crate::StoreError;
use crate::pool::{OfPostgres, OfSqlite};
use on_postgres::OnPostgres;
use on_sqlite::OnSqlite;
pub(crate) use on_sqlite::findings;

/// Expired rows that one statement deletes at most.
const SWEEP: i64 = 5_000;

/// Whose key, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptKey {
    /// The key itself.
    pub key: String,
    /// The tenant.
    pub tenant: TenantId,
    /// Who used it, within the tenant.
    pub principal: String,
}

/// A key to reserve.
#[derive(Debug, Clone, Copy)]
pub struct Reservation<'a> {
    /// The key.
    pub key: &'a ReceiptKey,
    /// Of the body.
    pub fingerprint: u128,
    /// The event to publish if nobody tried before.
    pub event_id: Uuid,
    /// Tells this attempt from others.
    pub token: Uuid,
}

/// Where a completed key's event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The event.
    pub event_id: Uuid,
    /// The topic's name.
    pub topic: String,
    /// Its partition's number.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
}

/// A key to complete.
#[derive(Debug, Clone, Copy)]
pub struct Completion<'a> {
    /// What was reserved, with the event that was appended.
    pub reservation: Reservation<'a>,
    /// Where it stands.
    pub place: &'a Place,
}

/// What one key was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// It is reserved for this token now.
    Held {
        /// The event to publish.
        event_id: Uuid,
        /// Whether an earlier attempt may have published it.
        inherited: bool,
    },
    /// It was completed with the same fingerprint.
    Completed(Place),
    /// It stands with another fingerprint.
    Reused,
    /// Another token has it at the moment.
    Busy,
}

/// The methods on idempotency keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Receipts(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Postgres(OnPostgres),
    Sqlite(OnSqlite),
}

/// The same method of whichever database it is.
macro_rules! either {
    ($kept:expr, $rows:ident => $call:expr) => {
        match $kept {
            Kept::Postgres($rows) => $call.await,
            Kept::Sqlite($rows) => $call.await,
        }
    };
}

impl Receipts {
    pub(crate) fn on_postgres(postgres: OfPostgres) -> Self {
        Self(Kept::Postgres(OnPostgres::new(postgres)))
    }

    pub(crate) fn on_sqlite(sqlite: OfSqlite) -> Self {
        Self(Kept::Sqlite(OnSqlite::new(sqlite)))
    }

    /// How many calls gain from running at once. SQLite has one writer: there what comes meanwhile is
    /// better put into one call.
    pub fn at_once(&self) -> usize {
        match &self.0 {
            Kept::Postgres(_) => 4,
            Kept::Sqlite(_) => 1,
        }
    }

    /// Reserves what is free, whose lease is over, or expired; one answer for each, in order.
    /// A key may be given once only.
    pub async fn claim(
        &self,
        wanted: &[Reservation<'_>],
        lease: Duration,
        time_to_live: Duration,
    ) -> Result<Vec<Reserved>, StoreError> {
        either!(&self.0, rows => rows.claim(wanted, lease, time_to_live))
    }

    /// What a claim would be answered now. Reserves nothing.
    pub async fn look_up(&self, wanted: &Reservation<'_>) -> Result<Reserved, StoreError> {
        either!(&self.0, rows => rows.look_up(wanted))
    }

    /// Completes keys that their token still has, or that are gone; leaves the others. Each key that
    /// becomes completed counts for its tenant. A key may be given once only.
    pub async fn settle(
        &self,
        settled: &[Completion<'_>],
        time_to_live: Duration,
    ) -> Result<(), StoreError> {
        either!(&self.0, rows => rows.settle(settled, time_to_live))
    }

    /// Gives up reservations that their token still has: removes them, or with `keep` ends their lease and
    /// keeps their event id.
    pub async fn release(&self, released: &[(Reservation<'_>, bool)]) -> Result<(), StoreError> {
        either!(&self.0, rows => rows.release(released))
    }

    /// How many keys of the tenant were completed, ever.
    pub async fn count(&self, tenant: &TenantId) -> Result<u64, StoreError> {
        either!(&self.0, rows => rows.count(tenant))
    }

    /// Deletes expired rows, a bounded number; answers how many.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        either!(&self.0, rows => rows.sweep())
    }

    /// Whether the database answers.
    pub async fn health(&self) -> Result<(), StoreError> {
        either!(&self.0, rows => rows.health())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// An offset as both databases keep it.
fn offset(place: &Place) -> Result<i64, StoreError> {
    i64::try_from(place.offset).map_err(|_| StoreError::Corrupt {
        row: place.event_id.to_string(),
        column: "log_offset",
        fault: place.offset.to_string(),
    })
}

fn corrupt(key: &str, column: &'static str, fault: impl ToString) -> StoreError {
    StoreError::Corrupt {
        row: key.to_owned(),
        column,
        fault: fault.to_string(),
    }
}

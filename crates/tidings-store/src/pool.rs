//! One pool of connections, to SQLite or to PostgreSQL, and how a statement that both understand runs on it.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Pool, Postgres, Row, Sqlite};
use tidings_event::EventType;

use crate::{StoreError, attempting};

/// How long a caller waits for PostgreSQL, connecting included: the gateway has promised an answer within 2 s.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);

/// Connections to the store.
#[derive(Debug, Clone)]
pub(crate) enum Connections {
    Sqlite(Pool<Sqlite>),
    Postgres(Pool<Postgres>),
}

/// Runs an expression with a connection of PostgreSQL, at most for [`PATIENCE`]. A connection that let it down
/// is not used again. Yields a `Result<_, StoreError>`; the expression, one of sqlx.
macro_rules! on_postgres {
    ($pool:expr, $doing:expr, $connection:ident => $body:expr) => {{
        let deadline = tokio::time::Instant::now() + $crate::pool::PATIENCE;
        let late = |_| $crate::attempting($doing)(sqlx::Error::PoolTimedOut);
        match tokio::time::timeout_at(deadline, $pool.acquire()).await {
            Err(elapsed) => Err(late(elapsed)),
            Ok(Err(error)) => Err($crate::attempting($doing)(error)),
            Ok(Ok(mut acquired)) => {
                let done = {
                    let $connection = &mut *acquired;
                    tokio::time::timeout_at(deadline, async { $body }).await
                };
                if done.is_err() {
                    acquired.close_on_drop();
                }
                match done {
                    Err(elapsed) => Err(late(elapsed)),
                    Ok(done) => done.map_err($crate::attempting($doing)),
                }
            }
        }
    }};
}

/// Runs an expression with a connection of whichever database it is.
macro_rules! on_either {
    ($connections:expr, $doing:expr, $connection:ident => $body:expr) => {
        match $connections {
            $crate::pool::Connections::Sqlite(pool) => match pool.acquire().await {
                Err(error) => Err($crate::attempting($doing)(error)),
                Ok(mut acquired) => {
                    let $connection = &mut *acquired;
                    async { $body }.await.map_err($crate::attempting($doing))
                }
            },
            $crate::pool::Connections::Postgres(pool) => {
                $crate::pool::on_postgres!(pool, $doing, $connection => $body)
            }
        }
    };
}

pub(crate) use {on_either, on_postgres};

/// What the columns of our tables hold, in a row of whichever database it is.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String, sqlx::Error>;
    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn integer(&self, column: &str) -> Result<i64, sqlx::Error>;
    fn optional_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn bytes(&self, column: &str) -> Result<&[u8], sqlx::Error>;
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn text(&self, column: &str) -> Result<String, sqlx::Error> {
                self.try_get(column)
            }
            fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
                self.try_get(column)
            }
            fn integer(&self, column: &str) -> Result<i64, sqlx::Error> {
                self.try_get(column)
            }
            fn optional_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }
            fn bytes(&self, column: &str) -> Result<&[u8], sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}

columns_of!(SqliteRow);
columns_of!(PgRow);

/// A text column that holds a value of our own.
pub(crate) fn parsed<T>(row: &impl Columns, id: &str, column: &'static str) -> Result<T, StoreError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let text = row.text(column).map_err(attempting("read a row"))?;
    text.parse().map_err(|fault: T::Err| StoreError::Corrupt {
        row: id.to_owned(),
        column,
        fault: fault.to_string(),
    })
}

/// The column of an event's type. The names of custom events and of what tells of their life are among them.
pub(crate) fn recorded(row: &impl Columns, id: &str) -> Result<EventType, StoreError> {
    let text = row.text("event_type").map_err(attempting("read a row"))?;
    EventType::recorded(&text).map_err(|fault| StoreError::Corrupt {
        row: id.to_owned(),
        column: "event_type",
        fault: fault.to_string(),
    })
}

/// A column that holds a whole number of ours.
pub(crate) fn whole<T>(row: &impl Columns, id: &str, column: &'static str) -> Result<T, StoreError>
where
    T: TryFrom<i64, Error: std::fmt::Display>,
{
    let number = row.integer(column).map_err(attempting("read a row"))?;
    T::try_from(number).map_err(|fault| StoreError::Corrupt {
        row: id.to_owned(),
        column,
        fault: fault.to_string(),
    })
}

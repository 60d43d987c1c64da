//! One pool of connections, to SQLite or to PostgreSQL, and how a statement that both understand runs on it.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Pool, Postgres, Row, Sqlite, SqliteConnection};
use tidings_event::EventType;
use tokio::time::Instant;

use crate::seal::Sealed;
use crate::writing::Room;
use crate::{StoreError, attempting};

/// How long a caller waits for PostgreSQL, connecting included: the gateway has promised an answer within 2 s.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);

/// The same while a process starts: nobody waits for its answer yet, and PostgreSQL may be starting too.
pub(crate) const PATIENCE_AT_START: Duration = Duration::from_secs(30);

/// How long a statement of SQLite waits for another process's write, and a caller for a connection.
pub(crate) const SQLITE_PATIENCE: Duration = Duration::from_secs(5);

/// How long after the network let a start down it is tried again.
const AGAIN: Duration = Duration::from_millis(250);

/// The most rows of one statement: SQLite takes 32,766 values in one.
const ROWS: usize = 256;

/// Rows in pieces of sizes that recur, all powers of two: a statement is text of its own for each size, and to prepare a
/// long one costs more than to run it.
pub(crate) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = 1 << rows.len().checked_ilog2()?;
        let piece;
        (piece, rows) = rows.split_at(size.min(ROWS));
        Some(piece)
    })
}

/// A text from outside as any store takes it, to be kept or to ask for rows by: PostgreSQL has no NUL, and it is written as
/// in JSON. Two texts may become one.
pub fn storable(text: impl Into<String>) -> String {
    let text = text.into();
    if text.contains('\0') {
        text.replace('\0', "\\u0000")
    } else {
        text
    }
}

/// Connections to the store.
#[derive(Debug, Clone)]
pub(crate) enum Connections {
    Sqlite(OfSqlite),
    Postgres(OfPostgres),
}

impl Connections {
    /// A write has succeeded.
    pub(crate) fn have_written(&self) {
        if let Self::Postgres(postgres) = self {
            postgres.room.is_there();
        }
    }
}

/// Connects, within so much time: again where the network, or a name that is not known yet, stands in the way. In a cluster
/// the server's name comes with the server. `connect` is told how much time is left.
pub(crate) async fn reached<T, F>(
    patience: Duration,
    connect: impl Fn(Duration) -> F,
) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match connect(left).await {
            Err(sqlx::Error::Io(error)) if left > AGAIN => {
                tracing::warn!(%error, "PostgreSQL cannot be reached yet");
                tokio::time::sleep(AGAIN).await;
            }
            ended => return ended,
        }
    }
}

/// Connections to PostgreSQL, and how long callers wait for it.
#[derive(Debug, Clone)]
pub(crate) struct OfPostgres {
    pub(crate) pool: Pool<Postgres>,
    at_start: Duration,
    started: Arc<AtomicBool>,
    pub(crate) room: Arc<Room>,
}

impl OfPostgres {
    pub(crate) fn new(pool: Pool<Postgres>, at_start: Duration) -> Self {
        Self {
            pool,
            at_start,
            started: Arc::default(),
            room: Arc::default(),
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        if self.started.load(Ordering::Relaxed) {
            PATIENCE
        } else {
            self.at_start
        }
    }

    /// From now on callers, of all clones, want their answers in time.
    pub(crate) fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }
}

/// Connections to SQLite: some to read on, and the one that writes.
#[derive(Debug, Clone)]
pub(crate) struct OfSqlite {
    pub(crate) pool: Pool<Sqlite>,
    /// SQLite takes one writer at a time, and has others look again in steps of up to 100 ms; those that wait for a
    /// connection go on at once, in their order, and hold none that a reader could use. What it holds of the file in memory
    /// stays right, since nobody else of this process writes.
    writing: Pool<Sqlite>,
}

impl OfSqlite {
    pub(crate) fn new(pool: Pool<Sqlite>, writing: Pool<Sqlite>) -> Self {
        Self { pool, writing }
    }

    /// One pool for both.
    pub(crate) fn on(pool: Pool<Sqlite>) -> Self {
        Self::new(pool.clone(), pool)
    }

    /// A connection to read on.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        acquired(&self.pool).await
    }

    /// The connection to write on, once nobody else of this store writes.
    pub(crate) async fn acquire_to_write(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        acquired(&self.writing).await
    }

    /// Lets running statements end, those that write last.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
        self.writing.close().await;
    }
}

/// One that is idle is taken as it is: no network can have cut it off.
///
/// To wait for one is boxed here, as with PostgreSQL: it would make each future that asks the store 15 KB large.
async fn acquired(pool: &Pool<Sqlite>) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
    match pool.try_acquire() {
        Some(connection) => Ok(connection),
        None => Box::pin(pool.acquire()).await,
    }
}

/// Whether a connection of SQLite may be used again: no transaction is open on it.
///
/// Where the disk is full SQLite ends a transaction by itself. The driver's own `ROLLBACK` then fails, it goes on to count
/// the transaction as open, and what is next committed on the connection would be a savepoint: answered, holding the
/// file's write lock, and gone with the process.
pub(crate) async fn is_whole(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !connection.is_in_transaction() {
        return Ok(true);
    }
    // A rollback may be on its way to the connection's thread; this is answered behind it.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Runs an expression with a connection of PostgreSQL, for as long as its callers wait. A connection that let it down
/// is not used again. Yields a `Result<_, StoreError>`; the expression, one of sqlx.
macro_rules! on_postgres {
    ($postgres:expr, $doing:expr, $connection:ident => $body:expr) => {{
        let deadline = tokio::time::Instant::now() + $postgres.patience();
        let late = |_| $crate::attempting($doing)(sqlx::Error::PoolTimedOut);
        match tokio::time::timeout_at(deadline, Box::pin($postgres.pool.acquire())).await {
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
                    Ok(done) => done.map_err(|error| {
                        let error = $crate::attempting($doing)(error);
                        $postgres.room.note(&error);
                        error
                    }),
                }
            }
        }
    }};
}

/// Runs an expression that reads with a connection of whichever database it is.
macro_rules! on_either {
    ($connections:expr, $doing:expr, $connection:ident => $body:expr) => {
        $crate::pool::on_acquired!(acquire, $connections, $doing, $connection => $body)
    };
}

/// Runs an expression that may write.
macro_rules! writing_on_either {
    ($connections:expr, $doing:expr, $connection:ident => $body:expr) => {
        match $crate::pool::on_acquired!(acquire_to_write, $connections, $doing, $connection => $body) {
            Ok(done) => {
                $connections.have_written();
                Ok(done)
            }
            Err(error) => Err(error),
        }
    };
}

/// Runs an expression with a connection of whichever database it is, SQLite's by one of its methods.
macro_rules! on_acquired {
    ($acquire:ident, $connections:expr, $doing:expr, $connection:ident => $body:expr) => {
        match $connections {
            $crate::pool::Connections::Sqlite(sqlite) => match sqlite.$acquire().await {
                Err(error) => Err($crate::attempting($doing)(error)),
                Ok(mut acquired) => {
                    let $connection = &mut *acquired;
                    async { $body }.await.map_err($crate::attempting($doing))
                }
            },
            $crate::pool::Connections::Postgres(postgres) => {
                $crate::pool::on_postgres!(postgres, $doing, $connection => $body)
            }
        }
    };
}

pub(crate) use {on_acquired, on_either, on_postgres, writing_on_either};

/// So many rows at once: each page of them comes in time, however many there are.
const PAGE: u16 = if cfg!(test) { 2 } else { 1_000 };

/// How many rows there are of one: what the query counts, which has this one's id as its only parameter.
pub(crate) async fn count_of(
    connections: &Connections,
    doing: &'static str,
    query: &'static str,
    of: &str,
) -> Result<usize, StoreError> {
    let count: i64 = on_either!(connections, doing, connection => {
        sqlx::query_scalar(query).bind(of).fetch_one(connection).await
    })?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// All rows of a query that answers a page: as many as its first parameter says, of those that come after what the others
/// name. `first` is what comes before all, and `key` what a row is named by.
pub(crate) async fn pages<T: Sealed>(
    connections: &Connections,
    doing: &'static str,
    query: &'static str,
    first: Vec<String>,
    key: impl Fn(&T) -> Vec<String>,
) -> Result<Vec<T>, StoreError> {
    let mut all: Vec<T> = Vec::new();
    let mut after = first;
    loop {
        let page: Vec<T> = on_either!(connections, doing, connection => {
            let mut query = sqlx::query(query).bind(i64::from(PAGE));
            for part in &after {
                query = query.bind(part.as_str());
            }
            query
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(T::from_row).collect::<Result<_, _>>())
        })??;
        let is_last = page.len() < usize::from(PAGE);
        after = page.last().map_or(after, &key);
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}

/// So many rows are removed by one statement: it ends in time, and nobody else's writing waits for long.
const REMOVED_AT_ONCE: i64 = 1_000;

/// Removes what is older than a limit by a statement with two values, the limit and how many rows it may remove; answers
/// how many there were.
pub(crate) async fn forget<'q, T>(
    connections: &Connections,
    doing: &'static str,
    query: &'static str,
    before: T,
) -> Result<u64, StoreError>
where
    T: Copy
        + Send
        + sqlx::Encode<'q, Sqlite>
        + sqlx::Type<Sqlite>
        + sqlx::Encode<'q, Postgres>
        + sqlx::Type<Postgres>
        + 'q,
{
    let mut forgotten = 0;
    loop {
        let removed = writing_on_either!(connections, doing, connection => {
            sqlx::query(query)
                .bind(before)
                .bind(REMOVED_AT_ONCE)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
        })?;
        forgotten += removed;
        if removed < REMOVED_AT_ONCE.unsigned_abs() {
            return Ok(forgotten);
        }
    }
}

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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use super::*;

    #[test]
    fn pieces_are_all_rows_in_sizes_that_recur() {
        for count in 0..1_000 {
            let rows: Vec<usize> = (0..count).collect();
            assert_eq!(pieces(&rows).collect::<Vec<_>>().concat(), rows);
        }
        let sizes = pieces(&[(); 555]).map(<[()]>::len);
        assert_eq!(sizes.collect::<Vec<_>>(), [256, 256, 32, 8, 2, 1]);
    }

    async fn tried(
        patience: Duration,
        failing: impl Fn(u32) -> Option<sqlx::Error>,
    ) -> (Result<(), sqlx::Error>, u32) {
        let times = Cell::new(0);
        let connected = reached(patience, |left| {
            assert!(left <= patience);
            times.set(times.get() + 1);
            std::future::ready(failing(times.get()).map_or(Ok(()), Err))
        });
        (connected.await, times.get())
    }

    fn unknown_name() -> sqlx::Error {
        sqlx::Error::Io(io::Error::other("failed to lookup address information"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_known_yet_is_asked_for_again() {
        let (connected, times) = tried(PATIENCE, |time| (time < 4).then(unknown_name)).await;
        assert!(connected.is_ok() && times == 4, "{times}");
        let (connected, times) = tried(PATIENCE, |_| Some(unknown_name())).await;
        assert!(
            matches!(connected, Err(sqlx::Error::Io(_))),
            "{connected:?}"
        );
        assert!(times > 4, "{times}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waiting_does_not_change_ends_it() {
        let (connected, times) = tried(PATIENCE, |_| Some(sqlx::Error::PoolClosed)).await;
        assert!(matches!(connected, Err(sqlx::Error::PoolClosed)));
        assert_eq!(times, 1);
    }
}

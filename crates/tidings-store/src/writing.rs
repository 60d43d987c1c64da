//! Whether the store takes writes: a disk that is full or read-only, and a server in recovery, still answer readers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::Executor as _;
use tokio::time::{Instant, timeout};

use crate::pool::{Connections, on_postgres, writing_on_either};
use crate::{Store, StoreError};

/// A file is written to no more often than this to find out: each time is a sync of its disk.
const EVERY: Duration = Duration::from_secs(10);
/// Whoever asks does not wait longer behind the writes of others.
const WITHIN: Duration = Duration::from_secs(1);

/// The writes that are made to find out.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<Last>);

/// The last of them.
#[derive(Debug, Default)]
struct Last {
    /// When it began.
    at: Option<Instant>,
    /// What was wrong with it.
    wrong: Option<String>,
}

impl Looked {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So long a server's full disk is told of at most that nothing has been written to since.
const FULL_FOR: Duration = Duration::from_mins(1);

/// Whether a server has room, as far as writes have shown: it cannot be asked.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<Option<(Instant, String)>>);

impl Room {
    fn full(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a failure that is for want of room.
    pub(crate) fn note(&self, error: &StoreError) {
        if error.is_full() {
            *self.full() = Some((Instant::now(), error.to_string()));
        }
    }

    /// Something was written.
    pub(crate) fn is_there(&self) {
        *self.full() = None;
    }

    /// What the last write met, if it was that.
    fn wants(&self) -> Option<String> {
        let full = self.full();
        let (_, said) = full.as_ref().filter(|(at, _)| at.elapsed() < FULL_FOR)?;
        Some(said.clone())
    }
}

impl Store {
    /// Whether it answers and takes writes: [`StoreError::ReadOnly`] if it only answers. PostgreSQL is asked; that its disk is
    /// full is known of the last write, for a minute. To a file
    /// nothing is written but what stands there, and at most every 10 s, so that a failure is told of for as long.
    pub async fn takes_writes(&self) -> Result<(), StoreError> {
        self.takes_writes_by(EVERY).await
    }

    async fn takes_writes_by(&self, every: Duration) -> Result<(), StoreError> {
        let wrong = match &self.connections {
            Connections::Sqlite(_) => {
                self.health().await?;
                self.written_lately(every).await
            }
            Connections::Postgres(postgres) => {
                let said = on_postgres!(postgres, "say whether it takes writes", connection => {
                    sqlx::query_scalar("SELECT current_setting('transaction_read_only')")
                        .fetch_one(connection)
                        .await
                });
                let said: String = said?;
                (said == "on")
                    .then(|| "the server is in recovery, or set to be read-only".to_owned())
                    .or_else(|| postgres.room.wants())
            }
        };
        wrong.map_or(Ok(()), |wrong| Err(StoreError::ReadOnly(wrong)))
    }

    /// What was wrong with the last write, of those made to find out. Who asks while one is made is told of the one before.
    async fn written_lately(&self, every: Duration) -> Option<String> {
        {
            let mut last = self.looked.last();
            if last.at.is_some_and(|at| at.elapsed() < every) {
                return last.wrong.clone();
            }
            last.at = Some(Instant::now());
        }
        let written = timeout(WITHIN, Box::pin(self.write_the_same())).await;
        let mut last = self.looked.last();
        match written {
            Ok(Ok(())) => last.wrong = None,
            Ok(Err(error)) if !error.is_unavailable() => last.wrong = Some(error.to_string()),
            // Others write: it says nothing.
            Ok(Err(_)) | Err(_) => {}
        }
        last.wrong.clone()
    }

    /// Writes the file's header as it is: the version that a user may give it, which nothing reads here.
    async fn write_the_same(&self) -> Result<(), StoreError> {
        writing_on_either!(&self.connections, "be written", connection => {
            connection.execute("PRAGMA user_version = 0").await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;
    use crate::MemberRow;
    use crate::pool::{OfPostgres, PATIENCE};
    use crate::suite::{new_schema, of_sqlite, on_each_database};

    fn refuses(said: Result<(), StoreError>, why: &str) {
        match said {
            Err(StoreError::ReadOnly(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_store_takes_writes() {
        on_each_database(async |store| {
            for _ in 0..2 {
                store.takes_writes_by(Duration::ZERO).await.unwrap();
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_file_that_takes_no_writes_says_so_until_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = Store::open(&path).await.unwrap();
        let wal = path.with_extension("db-wal");
        let written = || std::fs::metadata(&wal).unwrap().len();
        let before = written();
        store.takes_writes().await.unwrap();
        let after = written();
        assert!(after > before, "nothing was written");
        store.takes_writes().await.unwrap();
        assert_eq!(written(), after, "it is written now and then");

        let reader = Store::open_to_read(&path).await.unwrap().unwrap();
        reader.health().await.unwrap();
        refuses(reader.takes_writes().await, "readonly");
        // As it was, without another write.
        refuses(reader.takes_writes().await, "readonly");
        *reader.looked.last() = Last::default();
        let mended = Store {
            looked: reader.looked.clone(),
            ..store.clone()
        };
        mended.takes_writes().await.unwrap();
        reader.takes_writes().await.unwrap();
        reader.close().await;
        store.close().await;
    }

    #[tokio::test]
    async fn while_others_write_it_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.db")).await.unwrap();
        let mut writer = of_sqlite(&store).acquire_to_write().await.unwrap();
        writer.execute("BEGIN IMMEDIATE").await.unwrap();
        store.looked.last().wrong = Some("it is full".to_owned());
        refuses(store.takes_writes_by(Duration::ZERO).await, "full");
        writer.execute("ROLLBACK").await.unwrap();
        drop(writer);
        store.takes_writes_by(Duration::ZERO).await.unwrap();
        store.close().await;
    }

    #[tokio::test]
    async fn a_server_that_takes_no_writes_says_so() {
        let url = new_schema().await;
        let options = PgConnectOptions::from_str(&url).unwrap();
        let options = options.options([("default_transaction_read_only", "on")]);
        let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
        let store = Store::on(Connections::Postgres(OfPostgres::new(pool, PATIENCE)));
        store.health().await.unwrap();
        refuses(store.takes_writes().await, "recovery");
        store.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_room_is_told_of_until_something_is_written_or_for_a_minute() {
        let room = Room::default();
        room.note(&StoreError::ReadOnly("it is in recovery".to_owned()));
        assert_eq!(room.wants(), None, "it says nothing of room");
        *room.full() = Some((Instant::now(), "no space".to_owned()));
        assert_eq!(room.wants().as_deref(), Some("no space"));
        room.is_there();
        assert_eq!(room.wants(), None);
        *room.full() = Some((Instant::now(), "no space".to_owned()));
        tokio::time::advance(FULL_FOR).await;
        assert_eq!(room.wants(), None);
    }

    #[tokio::test]
    async fn a_server_whose_disk_is_full_says_so_until_it_takes_a_write() {
        let store = Store::connect(&new_schema().await).await.unwrap();
        let Connections::Postgres(postgres) = &store.connections else {
            unreachable!("it is one");
        };
        let full = "CREATE FUNCTION full_up() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
             CREATE TRIGGER full_up BEFORE INSERT ON workspace_members EXECUTE FUNCTION full_up()";
        postgres.pool.execute(full).await.unwrap();
        let member = MemberRow {
            workspace: "ws-1".parse().unwrap(),
            user: "ada".into(),
            role: "MEMBER".into(),
            updated_at_ms: 1,
        };
        let rooms = store.workspaces();
        let error = rooms.put_member(&member, &[]).await.unwrap_err();
        assert!(error.is_full(), "{error}");
        refuses(store.takes_writes().await, "could not extend file");
        rooms.members().await.unwrap();
        refuses(store.takes_writes().await, "could not extend file");
        let mended = "DROP TRIGGER full_up ON workspace_members";
        postgres.pool.execute(mended).await.unwrap();
        rooms.put_member(&member, &[]).await.unwrap();
        store.takes_writes().await.unwrap();
        store.close().await;
    }
}

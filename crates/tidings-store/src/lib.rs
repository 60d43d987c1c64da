#![doc = include_str!("../README.md")]

pub mod api_keys;
pub mod catalogs;
pub mod causes;
pub mod chat;
mod check;
pub mod custom_events;
pub mod dead_letters;
pub mod deliveries;
pub mod emits;
mod error;
pub mod extensions;
mod found;
pub mod manifests;
pub mod outbox;
mod pool;
pub mod receipts;
pub mod replays;
pub mod replicas;
mod seal;
pub mod sessions;
pub mod subscriptions;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
pub mod topics;
pub mod workspaces;
mod writing;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use check::{broken, changed_form, check_later, is_of_this_version, unknown_migrations};
use pool::{
    Connections, OfPostgres, OfSqlite, PATIENCE, PATIENCE_AT_START, SQLITE_PATIENCE, on_either,
};
pub(crate) use pool::{parsed, recorded, whole};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Executor, PgConnection, Pool, Sqlite};

pub use api_keys::{ApiKeyRow, ApiKeys};
pub use catalogs::{CatalogRow, Catalogs};
pub use causes::{CauseRow, Causes};
pub use chat::{Chat, ChatMessageRow};
pub use custom_events::{CustomEventChange, CustomEventQuery, CustomEventRow, CustomEvents};
pub use dead_letters::{
    DeadLetterQuery, DeadLetterRow, DeadLetterSummary, DeadLetters, wrong_types,
};
pub use deliveries::{
    AttemptRow, CursorRow, Deliveries, Due, Flush, PendingRow, ProgressRow, Reopened, Share, Tenure,
};
pub use emits::{Admission, Admitted, EmitNote, EmitPlace, EmitQuery, EmitRow, EmitState, Emits};
pub use error::StoreError;
pub use extensions::{ExtensionRow, ExtensionSubscriptionRow, Extensions, FirstExtension};
pub use found::Found;
pub use manifests::{ManifestRow, Manifests};
pub use outbox::{Outbox, OutboxRow};
pub use pool::storable;
pub use receipts::Receipts;
pub use replays::{ReplayRow, ReplayStep, Replays};
pub use replicas::{Replicas, Server, Versions, WorkspacesChanged, WorkspacesRead};
pub use sessions::{SessionRow, Sessions};
pub use subscriptions::{SubscriptionRow, Subscriptions};
pub use topics::{TopicRow, Topics};
pub use workspaces::{MemberRow, TenantRow, WorkspaceRow, Workspaces};
use writing::Looked;

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
/// Run under an advisory lock: of replicas that start together, the first migrates.
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Readers beside the one writer that SQLite allows; requests beyond wait for a connection.
const SQLITE_CONNECTIONS: u32 = 3;

/// Statements that the writer keeps prepared: those that write many rows are one for each number of rows.
const WRITING_STATEMENTS: usize = 256;

/// Connections to PostgreSQL of one process: six replicas fit into its default limit of 100.
const POSTGRES_CONNECTIONS: u32 = 16;

/// What a process has locked that stands still in the middle of a transaction, or whose machine is gone, is free soon: no
/// transaction here waits for anything but the server.
const GIVEN_UP: &str = "SET idle_in_transaction_session_timeout = '5s'";

/// A file of more bytes is looked at whole after it is opened: a start must not wait for that.
const CHECKED_FIRST_BYTES: u64 = 64 << 20;

/// The open store. Cheap to clone; all clones are one pool of connections.
#[derive(Debug, Clone)]
pub struct Store {
    connections: Connections,
    /// What was found to be broken after the file was opened.
    broken: Arc<OnceLock<(PathBuf, String)>>,
    /// Whether it takes writes.
    looked: Arc<Looked>,
}

impl Store {
    /// Whether [`connect`](Self::connect) can make sense of a URL. Asks no server.
    pub fn check_url(url: &str) -> Result<(), StoreError> {
        let options = PgConnectOptions::from_str(url);
        options.map(drop).map_err(StoreError::Connect)
    }

    /// Opens the store that replicas share, on PostgreSQL, by a URL such as `postgres://user:password@host/name`,
    /// and brings its tables up to date. Calls answer within 2 s when the server is gone, and work again
    /// once it is back.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_within(url, PATIENCE).await
    }

    /// The same for a process that starts, perhaps along with the server: this and each call wait up to 30 s for it,
    /// until [`started`](Self::started).
    pub async fn connect_at_start(url: &str) -> Result<Self, StoreError> {
        Self::connect_within(url, PATIENCE_AT_START).await
    }

    async fn connect_within(url: &str, patience: Duration) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(StoreError::Connect)?;
        let options = options.application_name("tidings");
        let pool = pool::reached(patience, |left| {
            PgPoolOptions::new()
                .max_connections(POSTGRES_CONNECTIONS)
                .acquire_timeout(left)
                .after_connect(|connection, _| {
                    Box::pin(async move { connection.execute(GIVEN_UP).await.map(drop) })
                })
                .connect_with(options.clone())
        });
        let pool = pool.await.map_err(StoreError::Connect)?;
        let migrated = POSTGRES_MIGRATIONS.run(&pool).await;
        migrated.map_err(StoreError::Migrate)?;
        let postgres = OfPostgres::new(pool, patience);
        Ok(Self::on(Connections::Postgres(postgres)))
    }

    /// From now on callers want their answers in time.
    pub fn started(&self) {
        if let Connections::Postgres(postgres) = &self.connections {
            postgres.started();
        }
    }

    /// Whether the server behind such a URL answers. Changes nothing there, not even its tables.
    pub async fn reach(url: &str) -> Result<(), StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(StoreError::Connect)?;
        let asked = tokio::time::timeout(PATIENCE, async {
            let mut connection = PgConnection::connect_with(&options).await?;
            connection.ping().await?;
            connection.close().await
        });
        let late = |_| StoreError::Connect(sqlx::Error::PoolTimedOut);
        asked.await.map_err(late)?.map_err(StoreError::Connect)
    }

    /// Opens the file, making it if there is none, and brings its tables up to date. Refuses one
    /// whose pages or indexes are not whole, or says so in its [`health`](Self::health) soon after, where the file is
    /// too large to be read at each start; a row is proved whenever it is read.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_checking(path.as_ref(), CHECKED_FIRST_BYTES).await
    }

    async fn open_checking(path: &Path, at_most: u64) -> Result<Self, StoreError> {
        let bytes = tokio::fs::metadata(path).await.map_or(0, |file| file.len());
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // The WAL then never holds what was rolled back, on which its check relies.
            .pragma("cache_spill", "0")
            .busy_timeout(SQLITE_PATIENCE);
        let connected = |connections, options| {
            // No network can have cut one off that is idle.
            let pool = SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(SQLITE_PATIENCE)
                .test_before_acquire(false)
                .after_release(|connection, _| Box::pin(pool::is_whole(connection)));
            pool.connect_with(options)
        };
        let unopened = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let pool = connected(SQLITE_CONNECTIONS, options.clone());
        let pool = pool.await.map_err(unopened)?;
        let at_once = bytes <= at_most;
        if at_once && let Some(finding) = broken(&pool).await?.into_iter().next() {
            let path = path.to_owned();
            return Err(StoreError::Broken { path, finding });
        }
        migrate(&pool).await?;
        if let Some(finding) = changed_form(&pool).await?.into_iter().next() {
            let path = path.to_owned();
            return Err(StoreError::Broken { path, finding });
        }
        // After the migration: what one prepares before it, it prepares again.
        let writing = options.statement_cache_capacity(WRITING_STATEMENTS);
        let writing = connected(1, writing).await.map_err(unopened)?;
        let store = Self::on(Connections::Sqlite(OfSqlite::new(pool, writing)));
        if !at_once {
            tokio::spawn(check_later(path.to_owned(), store.broken.clone()));
        }
        Ok(store)
    }

    /// What is wrong with a store file: its pages, its indexes, its rows. Only reads; the file may
    /// be in use.
    pub async fn verify(path: &Path) -> Result<Vec<String>, StoreError> {
        let pool = reading(path).await?;
        let mut findings = broken(&pool).await?;
        findings.extend(unknown_migrations(&pool).await?);
        findings.extend(changed_form(&pool).await?);
        findings.extend(seal::findings(&pool).await?);
        pool.close().await;
        Ok(findings)
    }

    /// A store that is gone when dropped, for tests and the sandbox.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let path = PathBuf::from(":memory:");
        let options = SqliteConnectOptions::from_str("sqlite::memory:")
            .map_err(|source| StoreError::Open {
                path: path.clone(),
                source,
            })?
            .foreign_keys(true);
        // Each connection to `:memory:` is a database of its own: one, kept for good.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path, source })?;
        migrate(&pool).await?;
        Ok(Self::on(Connections::Sqlite(OfSqlite::on(pool))))
    }

    fn on(connections: Connections) -> Self {
        Self {
            connections,
            broken: Arc::default(),
            looked: Arc::default(),
        }
    }

    /// Opens a file to read what is in it, which may be in use. Nothing where an older version wrote it: its tables stay as
    /// they are.
    pub async fn open_to_read(path: &Path) -> Result<Option<Self>, StoreError> {
        let pool = reading(path).await?;
        let readable = is_of_this_version(&pool).await?;
        Ok(readable.then(|| Self::on(Connections::Sqlite(OfSqlite::on(pool)))))
    }

    /// Which event was published because of which.
    pub fn causes(&self) -> Causes<'_> {
        Causes::new(&self.connections)
    }

    /// How many partitions of each topic on Kafka count.
    pub fn topics(&self) -> Topics<'_> {
        Topics::new(&self.connections)
    }

    /// Emits of custom events.
    pub fn emits(&self) -> Emits<'_> {
        Emits::new(&self.connections)
    }

    /// What was posted to the channels of workspaces.
    pub fn chat(&self) -> Chat<'_> {
        Chat::new(&self.connections)
    }

    /// What modules declare.
    pub fn manifests(&self) -> Manifests<'_> {
        Manifests::new(&self.connections)
    }

    /// Which topics there are.
    pub fn catalogs(&self) -> Catalogs<'_> {
        Catalogs::new(&self.connections)
    }

    /// The keys that servers and tools authenticate with.
    pub fn api_keys(&self) -> ApiKeys<'_> {
        ApiKeys::new(&self.connections)
    }

    /// Who is served: tenants and their workspaces.
    pub fn workspaces(&self) -> Workspaces<'_> {
        Workspaces::new(&self.connections)
    }

    /// What workspaces have installed.
    pub fn extensions(&self) -> Extensions<'_> {
        Extensions::new(&self.connections)
    }

    /// What tenants have registered.
    pub fn custom_events(&self) -> CustomEvents<'_> {
        CustomEvents::new(&self.connections)
    }

    /// Browser sessions.
    pub fn sessions(&self) -> Sessions<'_> {
        Sessions::new(&self.connections)
    }

    /// Events that wait to be published.
    pub fn outbox(&self) -> Outbox<'_> {
        Outbox::new(&self.connections)
    }

    /// Who wants which events.
    pub fn subscriptions(&self) -> Subscriptions<'_> {
        Subscriptions::new(&self.connections)
    }

    /// How far deliveries have come.
    pub fn deliveries(&self) -> Deliveries<'_> {
        Deliveries::new(&self.connections)
    }

    /// Deliveries that were given up.
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters::new(&self.connections)
    }

    /// What is sent again.
    pub fn replays(&self) -> Replays<'_> {
        Replays::new(&self.connections)
    }

    /// Idempotency keys, for a log that does not keep them itself. On SQLite they are those of one process.
    pub fn receipts(&self) -> Receipts {
        match &self.connections {
            Connections::Sqlite(sqlite) => Receipts::on_sqlite(sqlite.clone()),
            Connections::Postgres(postgres) => Receipts::on_postgres(postgres.clone()),
        }
    }

    /// What replicas on one PostgreSQL tell each other. None on SQLite, which has one process.
    pub fn replicas(&self) -> Option<Replicas> {
        match &self.connections {
            Connections::Sqlite(_) => None,
            Connections::Postgres(postgres) => Some(Replicas::new(postgres.clone())),
        }
    }

    /// Whether the store answers. Within 2 s when PostgreSQL is gone.
    pub async fn health(&self) -> Result<(), StoreError> {
        if let Some((path, finding)) = self.broken.get().cloned() {
            return Err(StoreError::Broken { path, finding });
        }
        on_either!(&self.connections, "answer", connection => {
            connection.execute("SELECT 1").await.map(drop)
        })
    }

    /// Writes a consistent copy of a store file, which may be in use by any version of Tidings, and is only read. The target
    /// must not exist; once this returns well the copy is durable, and after a failure no part of one is left.
    pub async fn copy(file: &Path, target: &Path) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::Backup {
            path: target.to_owned(),
            reason,
        };
        let text = target
            .to_str()
            .ok_or_else(|| failed("its name is not UTF-8".into()))?;
        // `VACUUM INTO` would fill an empty file that stands there already.
        if tokio::fs::try_exists(target)
            .await
            .map_err(|error| failed(error.to_string()))?
        {
            return Err(failed(
                "a file of this name exists; name one that does not".into(),
            ));
        }
        let pool = reading(file).await?;
        let copied = sqlx::query("VACUUM INTO $1").bind(text).execute(&pool);
        let copied = copied.await;
        pool.close().await;
        if let Err(error) = copied {
            // The failure is reported; that an incomplete copy may stay behind changes nothing
            // about it.
            let _ = tokio::fs::remove_file(target).await;
            return Err(failed(error.to_string()));
        }
        sync(target)
            .await
            .map_err(|error| failed(error.to_string()))
    }

    /// Lets running statements end and closes the file. Later calls fail.
    pub async fn close(&self) {
        match &self.connections {
            Connections::Sqlite(sqlite) => sqlite.close().await,
            Connections::Postgres(postgres) => postgres.pool.close().await,
        }
    }
}

/// Brings the tables of a file up to date.
async fn migrate(pool: &Pool<Sqlite>) -> Result<(), StoreError> {
    let prepare = || attempting("prepare the migration of the store");
    let mut connection = pool.acquire().await.map_err(prepare())?;
    // A migration may write more than memory should hold. What an interrupted one leaves in the WAL has no commit, and
    // so stands in nobody's way.
    let spilling = connection.execute("PRAGMA cache_spill = 1").await;
    spilling.map_err(prepare())?;
    let migrated = SQLITE_MIGRATIONS.run(&mut *connection).await;
    migrated.map_err(StoreError::Migrate)?;
    let spilling = connection.execute("PRAGMA cache_spill = 0").await;
    spilling.map_err(prepare())?;
    drop(connection);
    seal::seal_old_rows(pool).await
}

/// A connection that only reads a store file. Where not even what readers share can be made beside it, the file is read alone,
/// if it alone holds everything.
async fn reading(path: &Path) -> Result<Pool<Sqlite>, StoreError> {
    let opened = opened_to_read(path, false).await;
    if !opened.as_ref().is_err_and(StoreError::is_unshared) {
        return opened;
    }
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    match tokio::fs::metadata(&wal).await {
        Ok(wal) if wal.len() > 0 => Err(StoreError::Unshared(path.to_owned())),
        _ => opened_to_read(path, true).await,
    }
}

async fn opened_to_read(path: &Path, immutable: bool) -> Result<Pool<Sqlite>, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(immutable)
        .busy_timeout(SQLITE_PATIENCE);
    let pool = SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options).await;
    let pool = pool.map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })?;
    // SQLite looks at the file when it is first asked.
    let looked = pool.execute("SELECT count(*) FROM sqlite_schema").await;
    match looked.map_err(attempting("be read")) {
        Err(error) if error.is_unshared() => Err(error),
        // Whatever else is wrong is found by whoever reads on.
        _ => Ok(pool),
    }
}

/// Flushes the file and the folder's entry for it to the disk: `VACUUM INTO` promises neither.
async fn sync(path: &Path) -> std::io::Result<()> {
    tokio::fs::File::open(path).await?.sync_all().await?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    tokio::fs::File::open(folder.unwrap_or(Path::new(".")))
        .await?
        .sync_all()
        .await
}

/// Turns a failure of the database into one that says what was being done.
fn attempting(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Statement { doing, source }
}

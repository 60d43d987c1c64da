//! The log of one machine: SQLite in the data folder, durable by group commit.
//!
//! One thread [writes](writer), one [moves the WAL](checkpoint) into the file, a few connections
//! [read](reader). The batches of one thread's tasks are [gathered](gathering) and wait in a bounded queue
//! until the writer takes all that waits and commits it once. The tables are described in [`schema`], [`block`] and [`ids`], what
//! a commit does in [`group`], what is dropped when in [`retention`], and how damage is found in [`verify`] and [`wal`].

mod backup;
mod block;
mod checkpoint;
mod conversion;
mod fault;
mod files;
mod gathering;
mod group;
mod ids;
mod image;
mod reader;
mod retention;
mod schema;
#[cfg(test)]
mod tests;
mod verify;
pub mod wal;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_event::{TenantId, Topic};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::{
    AppendError, Appended, Bounds, Bus, Health, Known, Once, Page, Partition, Pending, Read,
    ReadError, Record, Stored, tails::Tails,
};
use fault::Fault;
use gathering::{Gathering, Queued};
use image::{Image, Place};
use reader::{Readers, Target};
use writer::{Batch, Job, RETRY_AFTER, Writer};

pub use backup::{BackupError, backup};
pub use files::{check_wal, lock};
pub use verify::{Report, VerifyError, verify};

/// Tells the time in ms since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// So many jobs wait for the writer at most: more than there may be batches.
const QUEUE_JOBS: usize = 10_000;

/// Where the log is and what it keeps.
#[derive(Clone)]
pub struct Config {
    /// The folder that `bus.db` is in; made if it is not there.
    pub folder: PathBuf,
    /// How many partitions a new topic gets.
    pub partitions: u32,
    /// Events older than this are dropped.
    pub retention_age: Option<Duration>,
    /// The oldest events are dropped when there are more bytes than this.
    pub retention_bytes: Option<u64>,
    /// How long an idempotency key is honoured.
    pub key_ttl: Duration,
    /// The time.
    pub now_ms: Clock,
}

impl Config {
    /// 12 partitions, keys for 24 h, events for ever.
    pub fn new(folder: impl Into<PathBuf>, now_ms: Clock) -> Self {
        Self {
            folder: folder.into(),
            partitions: 12,
            retention_age: None,
            retention_bytes: None,
            key_ttl: Duration::from_hours(24),
            now_ms,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or read.
    #[error("the data folder {} cannot be used", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("another process has the data folder {} open; stop it first", path.display())]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// Acknowledged events in the write-ahead log are damaged, and SQLite would drop what follows
    /// them.
    #[error("{} is damaged in frame {frame}; restore a backup", path.display())]
    DamagedWal {
        /// The file.
        path: PathBuf,
        /// The frame, counted from 1; 0 is the file's header.
        frame: u64,
    },
    /// What is stored is not what was written.
    #[error("the log is damaged: {0}; run `tidings doctor` for all there is to know")]
    Corrupt(String),
    /// The file is of another program or of a version that this one cannot read.
    #[error("{} is not a log that this version can read (format {found})", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// SQLite could not open it.
    #[error("{} cannot be opened", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A setting makes no sense.
    #[error("a topic needs 1 to 1,000 partitions, not {0}")]
    Partitions(u32),
}

/// What the threads and callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    tails: Tails,
    health: Mutex<Health>,
    names: RwLock<Arc<Names>>,
    /// What each slot holds, as of the last commit.
    heads: RwLock<Vec<Bounds>>,
    queued: Queued,
}

/// The topics that are committed.
#[derive(Debug, Default)]
struct Names {
    by_name: BTreeMap<Topic, Place>,
    by_slot: Vec<(Place, Topic)>,
}

impl Shared {
    fn new(image: &Image) -> Self {
        let this = Self {
            tails: Tails::default(),
            health: Mutex::new(Health::Ready),
            names: RwLock::default(),
            heads: RwLock::default(),
            queued: Queued::default(),
        };
        this.publish(image);
        this
    }

    /// Makes known what was just committed.
    fn publish(&self, image: &Image) {
        // Before the names: whoever knows a topic finds what it holds.
        self.note_heads(image);
        if self.names().by_slot.len() != image.names.len() {
            let by_name = image
                .topics
                .iter()
                .map(|(topic, place)| (topic.clone(), *place))
                .collect();
            let names = Arc::new(Names {
                by_name,
                by_slot: image.names.clone(),
            });
            *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
        }
    }

    fn note_heads(&self, image: &Image) {
        let mut heads = self.heads.write().unwrap_or_else(PoisonError::into_inner);
        heads.clear();
        let bounds = image.slots.iter().map(|slot| Bounds {
            start: slot.start,
            end: slot.next,
        });
        heads.extend(bounds);
    }

    /// What a partition holds. A reader that asks again at each commit costs no look at the file.
    fn bounds(&self, target: &Target) -> Bounds {
        let heads = self.heads.read().unwrap_or_else(PoisonError::into_inner);
        heads[target.slot]
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn target(&self, partition: Partition) -> Option<Target> {
        let place = *self.names().by_name.get(&partition.topic)?;
        Target::new(partition.topic, place, partition.number)
    }

    fn health(&self) -> Health {
        self.health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn is_poisoned(&self) -> bool {
        matches!(self.health(), Health::Poisoned(_))
    }

    /// For ever, in this process.
    fn poison(&self, why: &str) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*health, Health::Poisoned(_)) {
            tracing::error!(
                why,
                "the storage of the bus failed; it refuses all writes until a restart"
            );
            *health = Health::Poisoned(why.to_owned());
        }
    }

    /// Until the next commit.
    fn degrade(&self, to: Health) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if *health == Health::Ready {
            tracing::warn!(health = ?to, "the storage of the bus cannot be written");
            *health = to;
        }
    }

    fn recovered(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*health, Health::Degraded(_)) {
            tracing::info!("the storage of the bus can be written again");
            *health = Health::Ready;
        }
    }
}

/// The embedded bus. Dropping it drains what waits, moves the WAL into the file and joins its
/// threads.
pub struct Embedded {
    folder: PathBuf,
    clock: Clock,
    key_ttl_ms: i64,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    gathering: Option<Arc<Gathering>>,
    writer: Option<JoinHandle<()>>,
    /// What checkpoints sync. Closed after all connections: with any descriptor of a file go all POSIX locks that the process
    /// has on it, SQLite's among them.
    to_sync: Arc<File>,
    /// Let go of last.
    _lock: File,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the log in a folder, making it if it is new. Blocks while a WAL is read back.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        if !(1..=1000).contains(&config.partitions) {
            return Err(OpenError::Partitions(config.partitions));
        }
        let folder = config.folder;
        std::fs::create_dir_all(&folder).map_err(|source| OpenError::Folder {
            path: folder.clone(),
            source,
        })?;
        let lock = lock(&folder.join(schema::LOCK_FILE)).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Locked {
                path: folder.clone(),
            },
            TryLockError::Error(source) => OpenError::Folder {
                path: folder.clone(),
                source,
            },
        })?;
        let file = folder.join(schema::FILE);
        check_wal(&file)?;
        let opened = prepare(&folder).map_err(|fault| match fault {
            Fault::Sqlite(source) if !fault::is_damage(&source) => OpenError::Storage {
                path: file.clone(),
                source,
            },
            fault => OpenError::Corrupt(fault.to_string()),
        })?;
        let (connection, image) = match opened {
            Ok(opened) => opened,
            Err(found) => return Err(OpenError::Format { path: file, found }),
        };
        let shared = Arc::new(Shared::new(&image));
        let to_sync = File::open(&file).map_err(|source| OpenError::Folder {
            path: file.clone(),
            source,
        })?;
        let to_sync = Arc::new(to_sync);
        let checkpointer =
            checkpoint::Checkpointer::start(&folder, Arc::clone(&to_sync), Arc::clone(&shared))
                .map_err(|fault| OpenError::Corrupt(fault.to_string()))?;
        let (sender, queue) = sync_channel(QUEUE_JOBS);
        let limits =
            retention::Limits::new(config.retention_age, config.retention_bytes, config.key_ttl);
        let writer = Writer {
            connection,
            image,
            queue,
            shared: Arc::clone(&shared),
            limits,
            partitions: config.partitions,
            clock: Arc::clone(&config.now_ms),
            checkpointer,
            unmoved_bytes: 0,
            behind_since_ms: None,
        };
        let writer = std::thread::Builder::new()
            .name("bus-writer".into())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Folder {
                path: folder.clone(),
                source,
            })?;
        let readers = Readers::new(&folder, Arc::clone(&to_sync));
        let gathering = Some(Gathering::new(sender, Arc::clone(&shared)));
        Ok(Self {
            folder,
            clock: config.now_ms,
            key_ttl_ms: limits.key_ttl_ms,
            shared,
            readers,
            gathering,
            writer: Some(writer),
            to_sync,
            _lock: lock,
        })
    }

    /// How many events a tenant ever appended, whatever retention has dropped of them.
    pub async fn count(&self, tenant: &TenantId) -> Result<u64, ReadError> {
        let tenant = tenant.clone();
        self.readers
            .run(move |connection| reader::count(connection, &tenant))
            .await
    }

    /// Drops what retention and key expiry no longer keep, as happens by itself with every commit.
    pub async fn sweep(&self) {
        let (done, waits) = oneshot::channel();
        let gathering = self.gathering.as_ref();
        if gathering.is_some_and(|it| it.ask(Job::Sweep(done))) {
            let _stopping = waits.await;
        }
    }

    /// Drains what waits and closes the file. The same as dropping it; it blocks.
    pub fn close(self) {
        drop(self);
    }

    /// Copies the log, as it stands at one moment, to `bus.db` in another folder while it is in
    /// use.
    pub async fn backup(&self, target: &Path) -> Result<(), BackupError> {
        let (source, target) = (self.folder.clone(), target.to_owned());
        let file = Arc::clone(&self.to_sync);
        let copy = tokio::task::spawn_blocking(move || {
            let copied = backup::backup(&source, &target);
            drop(file);
            copied
        });
        copy.await
            .map_err(|error| BackupError::Copy(error.to_string()))?
    }

    fn submit(
        &self,
        records: Vec<Record>,
    ) -> Result<oneshot::Receiver<group::Outcome>, AppendError> {
        if self.shared.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        let unavailable = AppendError::Unavailable {
            retry_after: RETRY_AFTER,
        };
        let bytes = records.iter().map(group::size).sum();
        if !self.shared.queued.add(bytes) {
            return Err(unavailable);
        }
        let (reply, answer) = oneshot::channel();
        let gathering = self.gathering.as_ref().ok_or(unavailable)?;
        gathering.add(Batch {
            records,
            bytes,
            reply,
        });
        Ok(answer)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.gathering = None;
        self.readers.close();
        if let Some(writer) = self.writer.take() {
            // It tells of a panic itself.
            let _ = writer.join();
        }
    }
}

/// Opens the file for writing and reads what the writer must know; the inner error is a foreign
/// format.
fn prepare(folder: &Path) -> Result<Result<(rusqlite::Connection, Image), i64>, Fault> {
    let connection = schema::open_writer(folder)?;
    match schema::identity(&connection)? {
        (schema::FORMAT, schema::APPLICATION_ID) => conversion::finish(&connection)?,
        (conversion::FORMER, schema::APPLICATION_ID) => {
            conversion::begin(&connection)?;
            conversion::finish(&connection)?;
        }
        (0, 0) => {
            let tables = "SELECT count(*) FROM sqlite_schema";
            if connection.query_row(tables, [], |row| row.get::<_, i64>(0))? > 0 {
                return Ok(Err(0));
            }
            schema::create(&connection)?;
            // The file's name must survive a power cut as its content does.
            let _unsupported = File::open(folder).and_then(|folder| folder.sync_all());
        }
        (found, _) => return Ok(Err(found)),
    }
    let image = Image::load(&connection)?;
    Ok(Ok((connection, image)))
}

impl Bus for Embedded {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        Box::pin(async move {
            let answer = self.submit(records)?;
            let lost = |_| AppendError::Unknown("the writer stopped".into());
            answer.await.map_err(lost)?
        })
    }

    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        Box::pin(async move {
            let Some(target) = self.shared.target(partition) else {
                return Ok(Page {
                    next: read.from,
                    ..Page::default()
                });
            };
            let bounds = self.shared.bounds(&target);
            if read.from >= bounds.end {
                return Ok(Page {
                    next: read.from.max(bounds.start),
                    start: bounds.start,
                    end: bounds.end,
                    ..Page::default()
                });
            }
            self.readers
                .run(move |connection| reader::read(connection, &target, &read))
                .await
        })
    }

    fn find(
        &self,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        Box::pin(async move {
            let names = self.shared.names();
            self.readers
                .run(move |connection| reader::find(connection, &names.by_slot, &tenant, event_id))
                .await
        })
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        let names = self.shared.names();
        let topics = names
            .by_name
            .iter()
            .map(|(topic, place)| (topic.clone(), place.partitions));
        let topics = topics.collect();
        Box::pin(async move { Ok(topics) })
    }

    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        let bounds = match self.shared.target(partition) {
            Some(target) => self.shared.bounds(&target),
            None => Bounds { start: 0, end: 0 },
        };
        Box::pin(async move { Ok(bounds) })
    }

    fn offset_at(&self, partition: Partition, time_ms: i64) -> Pending<'_, Result<u64, ReadError>> {
        Box::pin(async move {
            let Some(target) = self.shared.target(partition) else {
                return Ok(0);
            };
            self.readers
                .run(move |connection| reader::offset_at(connection, &target, time_ms))
                .await
        })
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.shared.tails.all()
    }

    fn tail_of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        self.shared.tails.of(tenant)
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn keeps_receipts(&self) -> bool {
        true
    }

    fn known(&self, tenant: TenantId, once: Once) -> Pending<'_, Result<Option<Known>, ReadError>> {
        let forgotten_ms = (self.clock)().saturating_sub(self.key_ttl_ms);
        Box::pin(self.readers.run(move |connection| {
            let known = group::known(connection, forgotten_ms, tenant.as_str(), &once);
            known.map_err(|fault| fault.into_read("keys"))
        }))
    }
}

#![doc = include_str!("../README.md")]

pub mod conformance;
pub mod disabled;
pub mod embedded;
mod group;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
mod record;
mod stretches;
mod tails;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use tidings_event::partition_of;
use tidings_event::{TenantId, Topic};
use tokio::sync::watch;
use uuid::Uuid;

pub use group::{Desk, Membership, Shares};
pub use record::{Headers, Known, Once, Receipt, Record, Stored, time_of};
pub use stretches::{Met, Stretches};

/// A future that a [`Bus`] returns, so that a bus can be chosen at start.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// 0 to the topic's number of partitions.
    pub number: u32,
}

/// Where a record stands within its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition's number.
    pub partition: u32,
    /// The offset in the partition; the first is 0 and no number is left out.
    pub offset: u64,
}

/// What became of one record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// It is durable here.
    At(Position),
    /// Its [`Once`] key stood in the log already (or earlier in this batch); this was appended then.
    Repeat(Receipt),
    /// It was not kept: the bus is [disabled].
    Skipped,
}

/// The offsets a partition holds: `start..end`. Below `start` retention has removed everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that can be read.
    pub start: u64,
    /// The offset that the next record will get.
    pub end: u64,
}

/// A stretch of a partition.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the order of their offsets.
    pub records: Vec<Stored>,
    /// Where to read on; more than the last record's offset + 1 when records of other tenants followed it.
    pub next: u64,
    /// The first offset that could be read then: where it is more than what was asked for, retention has removed what was
    /// between.
    pub start: u64,
    /// Whether the partition went on there when it was read: the page ended at a limit, of [`Read`] or the bus's own.
    pub more: bool,
    /// The offset that the next record would have got when it was read; 0 of an unknown partition. Less than what was asked
    /// for where the log is another than the one that the asker knows.
    pub end: u64,
}

/// What one [`Bus::read`] asks for.
#[derive(Debug, Clone)]
pub struct Read {
    /// The first offset wanted. Below the partition's start, reading begins at the start.
    pub from: u64,
    /// Only records of this tenant.
    pub tenant: Option<TenantId>,
    /// At most so many records are returned.
    pub limit: usize,
    /// At most so many records are looked at, so that a page costs the same however rare the tenant's are.
    pub scan: usize,
}

/// Why an append did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended: these keys stand in the log (or earlier in this batch) with another fingerprint.
    #[error("an idempotency key was used before for another body")]
    KeyReused(Vec<usize>),
    /// Nothing was appended: the storage has no room.
    #[error("the storage is full")]
    Full,
    /// Nothing was appended: a record is larger than the bus takes.
    #[error("the record is larger than the bus takes")]
    TooLarge,
    /// Nothing was appended: the bus cannot be reached or is shutting down. A retry can help.
    #[error("the bus is not available")]
    Unavailable {
        /// When a retry may be worth it.
        retry_after: Duration,
    },
    /// Nothing was appended, because an earlier failed sync has made the storage untrustworthy: nothing is
    /// acknowledged until a restart.
    #[error("the storage failed to sync and refuses all further writes")]
    Poisoned,
    /// It is not known whether the batch was appended. A retry must carry the same event ids and keys.
    #[error("the outcome of the append is unknown: {0}")]
    Unknown(String),
}

/// Why a read did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// What is stored is not what was written. The text names the place; nothing of it is served.
    #[error("the log is damaged: {0}")]
    Corrupt(String),
    /// One record is not what was written, or is gone. Those before it and behind it can be read.
    #[error("the log is damaged: {fault}")]
    Damaged {
        /// Which, in its partition. A stretch that begins there answers this, one before it ends there.
        offset: u64,
        /// The place, and what is wrong with it.
        fault: String,
    },
    /// The bus cannot be reached.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
}

/// Whether the bus can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// It will be able to again without a restart (broker gone, disk full). The text says what is wrong.
    Degraded(String),
    /// It takes no further write before a restart. The text says why.
    Poisoned(String),
}

/// An append-only log of topics and partitions.
///
/// # Contract
/// - **Durable.** When [`append`](Self::append) answers `Ok`, every record of the batch survives a crash of
///   the process and of the machine. Records of a batch that share a topic and partition are appended
///   atomically, adjacent and in order. A reader never sees a record that a crash could take back.
/// - **Partitioned.** A topic is created when first appended to, with the bus's configured number of
///   partitions. A record's partition is [`partition_of`] its key: Kafka's default partitioner.
/// - **Gap-free.** Offsets of a partition count 0, 1, 2, … in the order of appends.
/// - **Asynchronous.** Appends of several callers may be acknowledged in any order and together. A caller
///   that stops waiting learns nothing of the outcome: the batch may be appended or not, but never in part
///   of a partition.
/// - **Unknown outcomes.** [`AppendError::Unknown`] is the one error after which records may stand in the
///   log; all others promise that nothing was appended.
/// - **Once.** Where [`keeps_receipts`](Self::keeps_receipts) is true, key, record and tenant counter are
///   decided in one atomic step: a record whose [`Once`] is known is not appended and answers
///   [`Appended::Repeat`]; one whose key is known with another fingerprint refuses the whole batch. Keys are
///   forgotten after their time to live (24 h, source A). Where it is false, `once` is ignored and whoever
///   appends has claimed the keys before.
/// - **Ours.** Where others write to the log too, what is not ours, or cannot be read as a record of ours, is passed
///   over, the latter with a line in the log: no page holds it, and no page fails for it.
/// - **Heard.** Whatever becomes readable after [`tail`](Self::tail) or [`tail_of`](Self::tail_of) was asked for changes
///   what they gave, be its topic new and the append another process's. A tail may change in vain too, but that of a tenant
///   does not with each append of others: thousands may follow a tenant that is quiet.
/// - **Nothing blocks.** No method blocks its thread; what is slow happens elsewhere.
pub trait Bus: Send + Sync + 'static {
    /// Appends 1 to 1,000 records and answers when all are durable, in the order given.
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>>;

    /// Reads a stretch of one partition. An unknown partition is empty.
    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>>;

    /// The record of this event, if the log still holds it and it belongs to the tenant. Only the partition that its
    /// tenant's name as a key falls on is sure to be looked at, in each topic.
    fn find(
        &self,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Pending<'_, Result<Option<Stored>, ReadError>>;

    /// Every topic with its number of partitions, in the order of their names.
    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>>;

    /// The offsets that a partition holds. An unknown partition is `0..0`.
    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>>;

    /// The first offset whose record was appended at or after a time in ms since 1970, or the end.
    fn offset_at(&self, partition: Partition, time_ms: i64) -> Pending<'_, Result<u64, ReadError>>;

    /// Changes whenever something became readable.
    fn tail(&self) -> watch::Receiver<u64>;

    /// Changes whenever a record of this tenant became readable, in whichever topic.
    fn tail_of(&self, tenant: &TenantId) -> watch::Receiver<u64>;

    /// Whether the bus can do its work, without asking anybody.
    fn health(&self) -> Health;

    /// Counts these topics among ours, whether they exist yet or not. A bus whose topics are all its own has
    /// nothing to do.
    fn carry(&self, _topics: Vec<Topic>) {}

    /// Joins the processes that share a topic's partitions among them, each partition looked after by one at a
    /// time. `None` for a bus that has one process, which looks after everything.
    fn join(&self, _group: &str, _topic: &Topic) -> Option<Membership> {
        None
    }

    /// Whether this bus decides [`Record::once`] itself.
    fn keeps_receipts(&self) -> bool;

    /// What an append with this key would find; `None` where the key is free. Changes nothing. A bus that does not
    /// [keep receipts](Self::keeps_receipts) knows of no key.
    fn known(
        &self,
        _tenant: TenantId,
        _once: Once,
    ) -> Pending<'_, Result<Option<Known>, ReadError>> {
        Box::pin(async { Ok(None) })
    }

    /// Whether this bus keeps nothing, and answers every append with [`Appended::Skipped`].
    fn is_disabled(&self) -> bool {
        false
    }
}

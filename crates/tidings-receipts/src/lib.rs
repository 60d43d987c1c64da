#![doc = include_str!("../README.md")]

mod claiming;
pub mod conformance;
mod gathered;
mod in_memory;
mod in_store;
mod in_valkey;

use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{Known, Once, Pending, Receipt};
use tidings_event::TenantId;
use tidings_event::json::Fingerprint;
use uuid::Uuid;

pub use in_memory::InMemory;
pub use in_store::InStore;
pub use in_valkey::InValkey;

/// When a retry may be worth it while a home is gone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One key that a publish wants to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose event it is.
    pub tenant: TenantId,
    /// The key, who uses it, and the fingerprint of the body.
    pub once: Once,
    /// The event to publish, if nobody has tried to with this key before.
    pub event_id: Uuid,
}

/// Whose key, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Who {
    key: String,
    tenant: TenantId,
    principal: String,
}

impl Who {
    fn of(wanted: &Wanted) -> Self {
        Self {
            key: wanted.once.key.clone(),
            tenant: wanted.tenant.clone(),
            principal: wanted.once.principal.clone(),
        }
    }
}

/// A key held for one publish, until it is settled, released, or its lease is over.
///
/// Dropped, it stays reserved until the lease is over, as if its process had died.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that is neither settled nor released keeps its key reserved until the lease is over"]
pub struct Hold {
    who: Arc<Who>,
    fingerprint: Fingerprint,
    token: Uuid,
    event_id: Uuid,
    /// Whether an earlier holder may have appended the event already.
    inherited: bool,
}

impl Hold {
    /// The id to publish under: the wanted one, or that of an earlier attempt whose outcome is unknown.
    pub fn event_id(&self) -> Uuid {
        self.event_id
    }
}

/// What a wanted key was found to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is held for the caller, who appends now.
    Fresh(Hold),
    /// It was completed before, with this fingerprint. Nothing is to be appended.
    Replayed(Receipt),
    /// It stands with another fingerprint. Nothing may be appended.
    Reused,
}

/// What became of an append that was not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It certainly appended nothing: the key is free again.
    NothingAppended,
    /// It may have appended: the key stays with its event id, and the next claim goes on with that.
    Unknown,
}

/// How long keys are held and honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long a hold lasts that is neither settled nor released. Longer than an append may take, or two
    /// publishes append at once; a crash keeps its keys waiting for as long.
    pub lease: Duration,
    /// After a claim; then the key is forgotten.
    pub time_to_live: Duration,
}

impl Default for Terms {
    /// 5 s, above the 2 s that a bus may take, and the 24 h of source A.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            time_to_live: Duration::from_hours(24),
        }
    }
}

/// Why receipts could not be asked. Nothing may be appended then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptsError {
    /// The home cannot be reached, or refuses to work. Holds of a failed call end with their lease.
    #[error("the home of the idempotency keys is not available")]
    Unavailable {
        /// When a retry may be worth it.
        retry_after: Duration,
    },
    /// Other publishes with the same key kept it for longer than a caller can wait.
    #[error("an idempotency key is still held by another publish")]
    Busy {
        /// When a retry may be worth it.
        retry_after: Duration,
    },
    /// The caller's mistake: one claim wants this key (by its index) a second time.
    #[error("the key at index {0} is wanted twice in one claim")]
    Twice(usize),
    /// What stands there was not written by Tidings. The text says what.
    #[error("an idempotency key cannot be read: {0}")]
    Unreadable(String),
    /// What the home is to be reached by. Told when it is made, never later.
    #[error("the URL of the idempotency keys cannot be used: {0}")]
    Url(String),
}

/// Who holds an idempotency key, and what was answered to it.
///
/// # Contract
/// - **Reserve, produce, complete.** [`claim`](Self::claim) reserves, the caller appends,
///   [`settle`](Self::settle) completes; [`release`](Self::release) undoes a claim whose append failed.
///   When `claim` answers, reservations are as durable as the home keeps anything; the same is true of
///   `settle` and `release`.
/// - **One at a time.** At any moment one holder at most has a key, unless one outlives its lease. A holder
///   is known by a random token: `settle` and `release` change nothing that another token has taken over.
/// - **One event id.** A holder that vanishes (crash, [`Release::Unknown`], outlived lease) may have
///   appended. Its reservation stays; the next holder gets the same event id, so that whoever removes
///   duplicates by id sees one event. That remains true when the next holder says
///   [`Release::NothingAppended`], which speaks for itself alone.
/// - **One body.** A key that stands with another fingerprint is [`Claim::Reused`], reserved or completed.
/// - **Waiting.** A claim of a key that another holds with the same fingerprint waits, with short polls,
///   until it is completed ([`Claim::Replayed`]), free, or its lease is over; within 2 s it answers
///   [`ReceiptsError::Busy`] instead, so a key whose holder died is refused until its lease ends. Batches that want each other's keys do not dead-lock.
/// - **A home that forgets** (flushed, restarted empty) makes held keys free. `settle` then writes the
///   completed receipt anew.
/// - **Time to live.** A key is forgotten 24 h after its last claim ([`Terms::time_to_live`]).
/// - **Counted.** Each key that becomes completed counts once for its tenant, in the same atomic step.
/// - **Fails closed.** When the home is gone each question answers [`ReceiptsError::Unavailable`] within
///   2 s, and works again without a restart once it is back. A call that failed may have taken effect.
/// - **Scoped.** Equal keys of other tenants or other principals are other keys.
pub trait Receipts: Send + Sync + 'static {
    /// Claims 1 to 1,000 keys, each once; answers one claim for each, in order. What is [`Claim::Fresh`]
    /// is held also when another key of the batch is refused: whoever appends none of it releases it.
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>>;

    /// What a claim would find now; `None` where the key is free, and [`ReceiptsError::Busy`] where another holds it for the
    /// same body. Reserves nothing and does not wait.
    fn look_up(&self, wanted: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>>;

    /// Completes held keys with what was appended.
    fn settle(&self, settled: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>>;

    /// Gives up held keys after an append that was not acknowledged.
    fn release(&self, holds: Vec<Hold>, outcome: Release)
    -> Pending<'_, Result<(), ReceiptsError>>;

    /// How many keys of the tenant were ever completed, across all replicas.
    fn count(&self, tenant: TenantId) -> Pending<'_, Result<u64, ReceiptsError>>;

    /// Whether the home answers, by asking it.
    fn health(&self) -> Pending<'_, Result<(), ReceiptsError>>;
}

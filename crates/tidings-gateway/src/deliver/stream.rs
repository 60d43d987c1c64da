//! A partition of the log, as far as it has been read, and what was read of it last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quick_cache::Weighter;
use tidings_bus::Partition;
use tidings_event::TenantId;
use uuid::Uuid;

use super::target::Carried;

/// The most events of a partition that are kept at hand for those who are behind a little.
pub(super) const RECENT: usize = 4_096;
/// The most bytes of them.
pub(super) const RECENT_BYTES: usize = 4 * 1024 * 1024;

/// One partition, as far as it has been read.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) partition: Partition,
    /// The next offset to read for all.
    pub(super) head: u64,
    /// The cursor as it is saved.
    pub(super) saved: Option<u64>,
    /// When the log last reached as far as was read of it, in ms since 1970; after a start, when the last attempt was made.
    pub(super) sound_at_ms: Option<i64>,
    /// Offsets below the head that are not ticked off, each with how often.
    pub(super) outstanding: BTreeMap<u64, u32>,
    /// Whether a tenant with subscriptions has its events here. Others are not read.
    pub(super) wanted: bool,
    /// Whether nobody knows how far it was read, because what the store says of it is damaged. It is not read then.
    pub(super) lost: bool,
    /// Whether there may be more than was read.
    pub(super) more: bool,
    /// Not read before this time, in ms since 1970: the last reading failed.
    pub(super) again_at_ms: i64,
    /// What was read last, for those who are behind a little.
    pub(super) recent: Recent,
}

/// Events that somebody wanted, the newest of a partition.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Every event from this offset on that a subscription's types fit is here.
    pub(super) from: u64,
    pub(super) events: VecDeque<(u64, Arc<Carried>)>,
    pub(super) bytes: usize,
}

impl Recent {
    /// Adds the next; what is too much goes.
    pub(super) fn push(&mut self, offset: u64, event: &Arc<Carried>) {
        self.bytes += event.data.len();
        self.events.push_back((offset, event.clone()));
        while self.bytes > RECENT_BYTES || self.events.len() > RECENT {
            let Some((offset, event)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= event.data.len();
            self.from = offset + 1;
        }
    }

    /// Begins anew: what is here may lack what somebody wants now.
    pub(super) fn clear(&mut self, head: u64) {
        *self = Self {
            from: head,
            ..Self::default()
        };
    }
}

/// What an event takes in memory, roughly.
#[derive(Debug, Clone)]
pub(super) struct BySize;

impl Weighter<(TenantId, Uuid), Arc<Carried>> for BySize {
    fn weight(&self, _key: &(TenantId, Uuid), event: &Arc<Carried>) -> u64 {
        event.data.len() as u64 + 512
    }
}

impl Stream {
    /// The first offset that is not settled.
    pub(super) fn cursor(&self) -> u64 {
        let first = self.outstanding.keys().next();
        first.copied().unwrap_or(self.head)
    }
}

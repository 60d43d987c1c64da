//! How many partitions of a topic count.

use std::error::Error;
use std::fmt;

use crate::Pending;

/// Keeps how many partitions each topic had when it was first found, for all who place events in it.
///
/// A tenant's events stand in the partition that its key falls on among all. Where a topic with events gets more
/// partitions, a tenant's next events would stand elsewhere than those before, and lists, streams and deliveries would miss
/// one or the other. So the first count stays, and the new partitions stay empty.
pub trait Counts: fmt::Debug + Send + Sync + 'static {
    /// How many count, where brokers have `found` so many now: as many as when this was first asked. One that is `new`, made
    /// a moment ago, holds nothing, so all of its count. The topic is called as it is on the brokers.
    fn count(
        &self,
        topic: String,
        found: u32,
        new: bool,
    ) -> Pending<'_, Result<u32, Box<dyn Error + Send + Sync>>>;
}

//! How many partitions of each topic count, as the store has it.

use std::error::Error;

use tidings_bus::Pending;
use tidings_bus::kafka::Counts;
use tidings_store::Store;

/// All replicas share a store, so they agree.
#[derive(Debug)]
pub(super) struct InStore(pub(super) Store);

impl Counts for InStore {
    fn count(
        &self,
        topic: String,
        found: u32,
    ) -> Pending<'_, Result<u32, Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { Ok(self.0.topics().count(&topic, found).await?) })
    }
}

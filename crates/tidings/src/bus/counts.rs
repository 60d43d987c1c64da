//! How many partitions of each topic count, as the store has it.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use tidings_bus::Pending;
use tidings_bus::kafka::Counts;
use tidings_store::Store;

/// All replicas share a store, so they agree. It is opened after the bus, which must first have accepted its configuration,
/// and before anything asks.
#[derive(Debug)]
pub(super) struct InStore(pub(super) Arc<OnceLock<Store>>);

impl Counts for InStore {
    fn count(
        &self,
        topic: String,
        found: u32,
        new: bool,
    ) -> Pending<'_, Result<u32, Box<dyn Error + Send + Sync>>> {
        Box::pin(async move {
            let store = self.0.get().ok_or("the store is not open yet")?;
            Ok(store.topics().count(&topic, found, new).await?)
        })
    }
}

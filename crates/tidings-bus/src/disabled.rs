//! No log at all (source E, `KAFKA_ENABLED=false`): what is appended is skipped, nothing can be read.

use tidings_event::{TenantId, Topic};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    AppendError, Appended, Bounds, Bus, Health, Page, Partition, Pending, Read, ReadError, Record,
    Stored,
};

/// The bus that keeps nothing. It is the one kind outside the contract: an append is never durable, and
/// says so with [`Appended::Skipped`].
#[derive(Debug)]
pub struct Disabled(watch::Sender<u64>);

impl Default for Disabled {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Bus for Disabled {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        Box::pin(async move { Ok(vec![Appended::Skipped; records.len()]) })
    }

    fn read(&self, _: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        Box::pin(async move {
            Ok(Page {
                next: read.from,
                ..Page::default()
            })
        })
    }

    fn find(&self, _: TenantId, _: Uuid) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        Box::pin(async { Ok(None) })
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn bounds(&self, _: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        Box::pin(async { Ok(Bounds { start: 0, end: 0 }) })
    }

    fn offset_at(&self, _: Partition, _: i64) -> Pending<'_, Result<u64, ReadError>> {
        Box::pin(async { Ok(0) })
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn tail_of(&self, _: &TenantId) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn is_disabled(&self) -> bool {
        true
    }

    fn keeps_receipts(&self) -> bool {
        true
    }
}

//! A bus in memory, for tests: the contract in its plainest form, and the model that others are
//! held against.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tidings_event::{TenantId, Topic, json::Fingerprint};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    AppendError, Appended, Bounds, Bus, Health, Known, Once, Page, Partition, Pending, Position,
    Read, ReadError, Receipt, Record, Stored, partition_of, tails::Tails,
};

/// Keys are honoured for 24 h.
const KEY_TTL_MS: i64 = 24 * 3600 * 1000;

/// The bus.
pub struct Memory {
    partitions: u32,
    now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    log: Mutex<Log>,
    tails: Tails,
}

/// When it was used, in ms since 1970, for what, and with which outcome.
type Kept = (Fingerprint, i64, Receipt);
type Keys = HashMap<(TenantId, String, String), Kept>;

#[derive(Debug, Clone, Default)]
struct Log {
    topics: BTreeMap<Topic, Vec<Vec<Stored>>>,
    keys: Keys,
}

impl Memory {
    /// An empty one whose topics have so many partitions.
    pub fn new(partitions: u32, now_ms: Arc<dyn Fn() -> i64 + Send + Sync>) -> Self {
        Self {
            partitions,
            now_ms,
            log: Mutex::default(),
            tails: Tails::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Log) -> T) -> T {
        act(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stretch<T>(&self, partition: &Partition, act: impl FnOnce(&[Stored]) -> T) -> T {
        self.with(|log| {
            let topic = log.topics.get(&partition.topic);
            act(topic
                .and_then(|topic| topic.get(partition.number as usize))
                .map_or(&[], Vec::as_slice))
        })
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Decides the whole batch before any of it is inserted.
    fn append(
        &mut self,
        records: Vec<Record>,
        partitions: u32,
        now_ms: i64,
    ) -> Result<Vec<Appended>, AppendError> {
        self.keys
            .retain(|_, (_, at_ms, _)| now_ms < *at_ms + KEY_TTL_MS);
        let mut ends: HashMap<(Topic, u32), u64> = HashMap::new();
        let mut keys = Keys::new();
        let (mut appended, mut reused) = (Vec::new(), Vec::new());
        for (index, record) in records.iter().enumerate() {
            let partition = partition_of(record.key.as_bytes(), partitions);
            let topic = &record.topic;
            let end = ends.entry((topic.clone(), partition)).or_insert_with(|| {
                self.topics
                    .get(topic)
                    .map_or(0, |topic| topic[partition as usize].len() as u64)
            });
            let receipt = Receipt {
                event_id: record.event_id,
                topic: topic.clone(),
                partition,
                offset: *end,
            };
            if let Some(once) = &record.once {
                let key = (
                    record.tenant.clone(),
                    once.principal.clone(),
                    once.key.clone(),
                );
                let kept = self.keys.get(&key).or_else(|| keys.get(&key));
                match kept.map(|kept| meaning(kept, once)) {
                    Some(Known::Reused) => reused.push(index),
                    Some(Known::Used(receipt)) => appended.push(Appended::Repeat(receipt)),
                    None => {
                        keys.insert(key, (once.fingerprint, now_ms, receipt));
                        appended.push(Appended::At(Position {
                            partition,
                            offset: *end,
                        }));
                        *end += 1;
                    }
                }
            } else {
                appended.push(Appended::At(Position {
                    partition,
                    offset: *end,
                }));
                *end += 1;
            }
        }
        if !reused.is_empty() {
            return Err(AppendError::KeyReused(reused));
        }
        self.keys.extend(keys);
        for (record, outcome) in records.into_iter().zip(&appended) {
            if let Appended::At(at) = outcome {
                self.insert(record, *at, partitions);
            }
        }
        Ok(appended)
    }

    fn insert(&mut self, record: Record, at: Position, partitions: u32) {
        let topic = self.topics.entry(record.topic.clone());
        let topic = topic.or_insert_with(|| vec![Vec::new(); partitions as usize]);
        topic[at.partition as usize].push(Stored {
            topic: record.topic,
            partition: at.partition,
            offset: at.offset,
            key: record.key,
            tenant: record.tenant,
            event_id: record.event_id,
            timestamp_ms: record.timestamp_ms,
            headers: record.headers,
            value: record.value,
        });
    }
}

/// What a key that is there means for a body.
fn meaning((fingerprint, _, receipt): &Kept, once: &Once) -> Known {
    if *fingerprint == once.fingerprint {
        Known::Used(receipt.clone())
    } else {
        Known::Reused
    }
}

impl Bus for Memory {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        Box::pin(async move {
            let now_ms = (self.now_ms)();
            let tenants: Vec<TenantId> = records.iter().map(|it| it.tenant.clone()).collect();
            let appended = self.with(|log| log.append(records, self.partitions, now_ms))?;
            self.tails.tell(&tenants);
            Ok(appended)
        })
    }

    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        let page = self.stretch(&partition, |log| {
            let mut page = Page {
                next: read.from,
                ..Page::default()
            };
            let from = usize::try_from(read.from).unwrap_or(usize::MAX);
            for stored in log.iter().skip(from).take(read.scan) {
                if page.records.len() == read.limit {
                    break;
                }
                page.next = stored.offset + 1;
                if read
                    .tenant
                    .as_ref()
                    .is_none_or(|tenant| *tenant == stored.tenant)
                {
                    page.records.push(stored.clone());
                }
            }
            page.end = log.len() as u64;
            page.more = page.next < page.end;
            page
        });
        Box::pin(async move { Ok(page) })
    }

    fn find(
        &self,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        let found = self.with(|log| {
            let mut all = log.topics.values().flatten().flatten();
            all.find(|stored| stored.event_id == event_id && stored.tenant == tenant)
                .cloned()
        });
        Box::pin(async move { Ok(found) })
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        let partitions = self.partitions;
        let topics = self.with(|log| {
            log.topics
                .keys()
                .map(|topic| (topic.clone(), partitions))
                .collect()
        });
        Box::pin(async move { Ok(topics) })
    }

    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        let end = self.stretch(&partition, |log| log.len() as u64);
        Box::pin(async move { Ok(Bounds { start: 0, end }) })
    }

    fn offset_at(&self, partition: Partition, time_ms: i64) -> Pending<'_, Result<u64, ReadError>> {
        let offset = self.stretch(&partition, |log| {
            let first = log.iter().position(|stored| stored.timestamp_ms >= time_ms);
            first.unwrap_or(log.len()) as u64
        });
        Box::pin(async move { Ok(offset) })
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.tails.all()
    }

    fn tail_of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        self.tails.of(tenant)
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn keeps_receipts(&self) -> bool {
        true
    }

    fn known(&self, tenant: TenantId, once: Once) -> Pending<'_, Result<Option<Known>, ReadError>> {
        let now_ms = (self.now_ms)();
        let key = (tenant, once.principal.clone(), once.key.clone());
        let known = self.with(|log| {
            let kept = log.keys.get(&key);
            let kept = kept.filter(|(_, at_ms, _)| now_ms < *at_ms + KEY_TTL_MS);
            kept.map(|kept| meaning(kept, &once))
        });
        Box::pin(async move { Ok(known) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        crate::conformance::suite(async || {
            Arc::new(Memory::new(12, Arc::new(|| 1_000_000))) as Arc<dyn Bus>
        })
        .await;
    }
}

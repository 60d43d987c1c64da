//! A gateway for tests, on a bus and a store in memory and with a clock that a test moves; and a bus that gives trouble.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings_bus::memory::Memory;
use tidings_bus::{
    AppendError, Appended, Bounds, Bus, Health, Page, Partition, Pending, Read, ReadError, Record,
    Stored,
};
use tidings_event::json::RawJson;
use tidings_event::{Data, TenantId, Topic};
use tidings_store::Store;
use tokio::sync::watch;
use uuid::Uuid;

use crate::access::{Access, AccessConfig};
use crate::clock::Clock;
use crate::deliver::{Config, target};
use crate::limits::Limits;
use crate::publish::command::Draft;
use crate::secrets::Vault;
use crate::{Gateway, Parts};

/// A gateway at the clock's time.
pub(crate) async fn gateway(clock: &Clock) -> Gateway {
    Gateway::open(parts(clock).await).await.unwrap()
}

/// What it is made of.
pub(crate) async fn parts(clock: &Clock) -> Parts {
    let store = Store::in_memory().await.unwrap();
    parts_on(Arc::new(bus(clock)), store, clock).await
}

/// The same on a bus and a store that the test has made.
pub(crate) async fn parts_on(bus: Arc<dyn Bus>, store: Store, clock: &Clock) -> Parts {
    let folder = tempfile::tempdir().unwrap();
    let config = AccessConfig::default();
    let access = Access::new(config, store.clone(), folder.path(), clock.now_ms()).await;
    Parts {
        bus,
        receipts: None,
        partitions: 3,
        store,
        access: Arc::new(access.unwrap()),
        routes: Vec::new(),
        limits: Limits::default(),
        egress: target::webhook::to_loopback(),
        origin: "tidings.example".into(),
        vault: Vault::new(&[7; 32]),
        delivery: Config::default(),
        auto_create: true,
        plugins: Vec::new(),
        clock: clock.clone(),
    }
}

/// The bus of a gateway.
pub(crate) fn bus(clock: &Clock) -> Memory {
    let at = clock.clone();
    Memory::new(3, Arc::new(move || at.now_ms()))
}

/// All that stands on a bus, partition by partition.
pub(crate) async fn records(bus: &dyn Bus) -> Vec<Stored> {
    let mut all = Vec::new();
    for (topic, partitions) in bus.topics().await.unwrap() {
        for number in 0..partitions {
            let topic = topic.clone();
            let read = Read {
                from: 0,
                tenant: None,
                limit: 1_000,
                scan: 1_000,
            };
            let page = bus.read(Partition { topic, number }, read).await.unwrap();
            all.extend(page.records);
        }
    }
    all
}

/// An event of service `audit` with this data.
pub(crate) fn draft(data: &str) -> Draft {
    let (data, fingerprint) = RawJson::parse(data).unwrap();
    Draft {
        event_type: "audit.test.made".into(),
        schema_version: None,
        data: Data::Json(data),
        fingerprint,
        idempotency_key: None,
        workspace: None,
        cause: None,
        custom: None,
        cloud: None,
    }
}

/// A bus that does as the one behind it, but for the trouble that a test makes.
pub(crate) struct Troubled {
    bus: Arc<dyn Bus>,
    away: AtomicBool,
    refused: AtomicUsize,
    panics: AtomicBool,
    unled: Mutex<Option<u32>>,
    without: Mutex<Option<TenantId>>,
    out_of_reach: Mutex<Option<Topic>>,
    damaged: Mutex<HashSet<Uuid>>,
    hangs: AtomicBool,
    finds_nothing: AtomicBool,
    gives_up: AtomicBool,
    read_for_all_from: Mutex<Vec<u64>>,
}

impl Troubled {
    /// Without any yet.
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            away: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            unled: Mutex::default(),
            without: Mutex::default(),
            out_of_reach: Mutex::default(),
            damaged: Mutex::default(),
            hangs: AtomicBool::new(false),
            finds_nothing: AtomicBool::new(false),
            gives_up: AtomicBool::new(false),
            read_for_all_from: Mutex::default(),
        }
    }

    /// The offsets at which it was read for whatever tenant.
    pub(crate) fn read_for_all_from(&self) -> Vec<u64> {
        self.read_for_all_from.lock().unwrap().clone()
    }

    /// It finds no event by its id any more.
    pub(crate) fn finds_nothing(&self) {
        self.finds_nothing.store(true, Ordering::SeqCst);
    }

    /// It searches for no event by its id to the end any more.
    pub(crate) fn gives_up(&self) {
        self.gives_up.store(true, Ordering::SeqCst);
    }

    /// It answers no append, and keeps no receipts either.
    pub(crate) fn hangs(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Partitions of this number cannot be read.
    pub(crate) fn has_no_leader_of(&self, number: Option<u32>) {
        *self.unled.lock().unwrap() = number;
    }

    /// It takes nothing of this tenant.
    pub(crate) fn takes_nothing_of(&self, tenant: Option<&str>) {
        *self.without.lock().unwrap() = tenant.map(|tenant| tenant.parse().unwrap());
    }

    /// This topic cannot be read.
    pub(crate) fn is_without(&self, topic: Option<&str>) {
        *self.out_of_reach.lock().unwrap() = topic.map(|topic| topic.parse().unwrap());
    }

    /// The record of this event is not what was written.
    pub(crate) fn damages(&self, event_id: Uuid) {
        self.damaged.lock().unwrap().insert(event_id);
    }

    fn damage_at(&self, record: &Stored) -> Option<ReadError> {
        let is_damaged = self.damaged.lock().unwrap().contains(&record.event_id);
        is_damaged.then(|| ReadError::Damaged {
            offset: record.offset,
            fault: format!("offset {}", record.offset),
        })
    }

    /// It takes nothing while it is away.
    pub(crate) fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// How often it has refused to take something.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Once.
    pub(crate) fn panics_at_next_reading(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }
}

impl Bus for Troubled {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        let without = self.without.lock().unwrap().clone();
        let left_out = without.is_some_and(|tenant| records.iter().any(|it| it.tenant == tenant));
        if left_out || self.away.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let retry_after = Duration::from_secs(1);
            return Box::pin(async move { Err(AppendError::Unavailable { retry_after }) });
        }
        if self.hangs.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.bus.append(records)
    }

    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "as it was told");
        if read.tenant.is_none() {
            self.read_for_all_from.lock().unwrap().push(read.from);
        }
        let unled = *self.unled.lock().unwrap() == Some(partition.number);
        if unled || *self.out_of_reach.lock().unwrap() == Some(partition.topic.clone()) {
            return Box::pin(async { Err(ReadError::Unavailable("no leader".into())) });
        }
        Box::pin(async move {
            let mut page = self.bus.read(partition, read.clone()).await?;
            let mut records = page.records.iter();
            let Some(place) = records.position(|it| self.damage_at(it).is_some()) else {
                return Ok(page);
            };
            let record = page.records.split_off(place).remove(0);
            if record.offset > read.from {
                (page.next, page.more) = (record.offset, true);
                return Ok(page);
            }
            Err(self.damage_at(&record).unwrap())
        })
    }

    fn find(&self, of: TenantId, id: Uuid) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        if self.gives_up.load(Ordering::SeqCst) {
            let gave_up = ReadError::Unavailable("the search took too long".into());
            return Box::pin(async { Err(gave_up) });
        }
        if self.finds_nothing.load(Ordering::SeqCst) {
            return Box::pin(async { Ok(None) });
        }
        Box::pin(async move {
            let found = self.bus.find(of, id).await?;
            let damage = found.as_ref().and_then(|it| self.damage_at(it));
            damage.map_or(Ok(found), Err)
        })
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        self.bus.topics()
    }

    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        self.bus.bounds(partition)
    }

    fn offset_at(&self, partition: Partition, at_ms: i64) -> Pending<'_, Result<u64, ReadError>> {
        self.bus.offset_at(partition, at_ms)
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.bus.tail()
    }

    fn tail_of(&self, tenant: &TenantId) -> watch::Receiver<u64> {
        self.bus.tail_of(tenant)
    }

    fn health(&self) -> Health {
        self.bus.health()
    }

    fn keeps_receipts(&self) -> bool {
        self.bus.keeps_receipts() && !self.hangs.load(Ordering::SeqCst)
    }
}

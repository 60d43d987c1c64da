//! A gateway for tests, on a bus and a store in memory and with a clock that a test moves.

use std::sync::Arc;

use tidings_bus::memory::Memory;
use tidings_store::Store;

use crate::access::{Access, AccessConfig};
use crate::clock::Clock;
use crate::deliver::{Config, target};
use crate::limits::Limits;
use crate::secrets::Vault;
use crate::{Gateway, Parts};

/// A gateway at the clock's time.
pub(crate) async fn gateway(clock: &Clock) -> Gateway {
    Gateway::open(parts(clock).await).await.unwrap()
}

/// What it is made of.
pub(crate) async fn parts(clock: &Clock) -> Parts {
    let store = Store::in_memory().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = AccessConfig::default();
    let access = Access::new(config, store.clone(), folder.path(), clock.now_ms()).await;
    let at = clock.clone();
    Parts {
        bus: Arc::new(Memory::new(3, Arc::new(move || at.now_ms()))),
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

//! What panics takes nothing down but itself.

use std::sync::atomic::{AtomicBool, Ordering};

use tidings_bus::{
    AppendError, Appended, Bounds, Health, Page, Partition, Pending, Read, ReadError, Record,
    Stored,
};
use tidings_event::Topic;
use tokio::sync::oneshot;

use super::*;

/// A log whose next reading panics, once it is told to.
struct Panicky {
    bus: Arc<dyn Bus>,
    panics: AtomicBool,
}

impl Bus for Panicky {
    fn append(&self, records: Vec<Record>) -> Pending<'_, Result<Vec<Appended>, AppendError>> {
        self.bus.append(records)
    }

    fn read(&self, partition: Partition, read: Read) -> Pending<'_, Result<Page, ReadError>> {
        assert!(
            !self.panics.swap(false, Ordering::Relaxed),
            "as it was told"
        );
        self.bus.read(partition, read)
    }

    fn find(
        &self,
        tenant: TenantId,
        event_id: Uuid,
    ) -> Pending<'_, Result<Option<Stored>, ReadError>> {
        self.bus.find(tenant, event_id)
    }

    fn topics(&self) -> Pending<'_, Result<Vec<(Topic, u32)>, ReadError>> {
        self.bus.topics()
    }

    fn bounds(&self, partition: Partition) -> Pending<'_, Result<Bounds, ReadError>> {
        self.bus.bounds(partition)
    }

    fn offset_at(&self, partition: Partition, ms: i64) -> Pending<'_, Result<u64, ReadError>> {
        self.bus.offset_at(partition, ms)
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.bus.tail()
    }

    fn health(&self) -> Health {
        self.bus.health()
    }

    fn keeps_receipts(&self) -> bool {
        self.bus.keeps_receipts()
    }
}

#[tokio::test]
async fn a_dispatcher_that_panics_is_replaced_and_counted() {
    let house = House::new().await;
    house.subscribe("acme", json!({})).await;
    let mut means = house.gateway.deliveries().means();
    means.target = house.target.clone();
    let (sender, came) = oneshot::channel();
    let sender = Mutex::new(Some(sender));
    house.answer(move |_| {
        let sender = sender.lock().unwrap().take();
        sender.map(|sender| sender.send(()));
        Verdict::Delivered
    });
    let panicky = Panicky {
        bus: means.bus.clone(),
        panics: AtomicBool::new(true),
    };
    means.bus = Arc::new(panicky);
    let counted = means.counted.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(Deliveries::new(means).run(async { drop(stopped.await) }));
    house.publish("acme", json!({ "n": 1 })).await;
    came.await.unwrap();
    assert_eq!(counted.restarts(), 1);
    drop(stop);
    running.await.unwrap();
    assert_eq!(counted.attempts(counted::Word::Delivered), 1);
}

#[tokio::test]
async fn a_target_that_panics_fails_its_delivery_which_is_tried_again() {
    let mut house = House::new().await;
    house.answer(|got| {
        assert!(got.at_ms > NOW, "as it was told");
        Verdict::Delivered
    });
    house.subscribe("acme", json!({ "maxInFlight": 1 })).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    house.answer(|_| Verdict::Delivered);
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.got().len(), 1);
    house.publish("acme", json!({ "n": 2 })).await;
    house.settle().await;
    assert_eq!(
        house.got().len(),
        2,
        "its place among those at once is free"
    );
}

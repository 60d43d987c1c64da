//! Another log under the same store, or an older one: what can be proved to have been delivered does not come again, and
//! everything else does.

use tidings_bus::{Read, Record};
use tidings_store::Store;

use super::*;

fn place_of(tenant: &str) -> Partition {
    Partition {
        topic: crate::rulebook::Route::fallback().topic,
        number: tidings_bus::partition_of(tenant.as_bytes(), 3),
    }
}

impl House {
    /// All of the process anew, on another log that holds the first so many records of each partition of the one before.
    async fn restore(&mut self, first: usize) {
        let dispatcher = self.dispatcher.take().unwrap();
        let (before, store) = (dispatcher.bus.clone(), dispatcher.store.clone());
        drop(dispatcher);
        let bus = Arc::new(crate::in_memory::bus(&self.clock));
        for number in 0..3 {
            let partition = Partition {
                number,
                ..place_of("acme")
            };
            let read = Read {
                from: 0,
                tenant: None,
                limit: 10_000,
                scan: 10_000,
            };
            let records = before.read(partition, read).await.unwrap().records;
            for stored in records.into_iter().take(first) {
                let record = Record {
                    topic: stored.topic,
                    key: stored.key,
                    tenant: stored.tenant,
                    event_id: stored.event_id,
                    timestamp_ms: stored.timestamp_ms,
                    headers: stored.headers,
                    value: stored.value,
                    once: None,
                };
                bus.append(vec![record]).await.unwrap();
            }
        }
        self.open_on(bus, store).await;
    }

    async fn open_on(&mut self, bus: Arc<dyn Bus>, store: Store) {
        let parts = crate::in_memory::parts_on(bus, store, &self.clock).await;
        self.gateway = Gateway::open(parts).await.unwrap();
        self.crash().await;
    }

    fn take_numbers(&self) -> Vec<u64> {
        let got = std::mem::take(&mut *self.target.got.lock().unwrap());
        got.into_iter().map(|got| got.n).collect()
    }

    fn losses(&self) -> u64 {
        self.dispatcher.as_ref().unwrap().part.counted().damages()
    }
}

async fn delivered(house: &mut House, numbers: std::ops::Range<u64>) {
    for n in numbers.clone() {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.take_numbers(), numbers.collect::<Vec<_>>());
}

#[tokio::test]
async fn another_log_is_delivered_from_its_beginning() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..500).await;
    house.restore(0).await;
    // Before anybody looks.
    for n in 500..503 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.take_numbers(), [500, 501, 502]);
    assert_eq!(house.losses(), 1, "it is counted once");
    house.crash().await;
    delivered(&mut house, 503..505).await;
    assert_eq!(house.losses(), 1);
}

#[tokio::test]
async fn an_older_log_is_delivered_behind_what_it_held() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..500).await;
    house.restore(400).await;
    for n in 500..520 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.take_numbers(), (500..520).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_that_is_made_anew_while_it_is_read_is_delivered() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..100).await;
    let dispatcher = house.dispatcher.as_mut().unwrap();
    let store = dispatcher.store.clone();
    let bus: Arc<dyn Bus> = Arc::new(crate::in_memory::bus(&house.clock));
    dispatcher.bus = bus.clone();
    dispatcher.tail = bus.tail();
    let parts = crate::in_memory::parts_on(bus, store, &house.clock).await;
    house.gateway = Gateway::open(parts).await.unwrap();
    house.publish("acme", json!({ "n": 100 })).await;
    house.dispatcher.as_mut().unwrap().tail.mark_changed();
    house.settle().await;
    assert_eq!(house.take_numbers(), [100]);
    house.crash().await;
    house.settle().await;
    assert_eq!(house.take_numbers(), [0; 0]);
}

#[tokio::test]
async fn one_that_was_paused_goes_on_in_another_log_with_what_stands_there() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..50).await;
    house.change("acme", id, Change::Pause).await;
    house.settle().await;
    house.restore(0).await;
    for n in 50..53 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.take_numbers(), [0; 0]);
    house.change("acme", id, Change::Resume).await;
    house.settle().await;
    assert_eq!(house.take_numbers(), [50, 51, 52]);
}

#[tokio::test]
async fn one_that_nobody_had_delivered_to_yet_gets_what_another_log_holds() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..50).await;
    // It has come when nobody delivers, and the log is gone before anybody does.
    let late = house.subscribe("acme", json!({})).await;
    house.restore(0).await;
    house.clock.set(NOW + 1);
    house.publish("acme", json!({ "n": 50 })).await;
    house.settle().await;
    assert_eq!(house.take_numbers(), [50, 50]);
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let attempts = store.deliveries().attempts_of(late, (0, 0), 9).await;
    assert_eq!(attempts.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn a_partition_that_is_not_there_for_a_while_is_not_read_again() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    delivered(&mut house, 0..50).await;
    let dispatcher = house.dispatcher.as_ref().unwrap();
    let (bus, store) = (dispatcher.bus.clone(), dispatcher.store.clone());
    house.restore(0).await;
    house.settle().await;
    assert_eq!(house.losses(), 0);
    house.open_on(bus, store).await;
    delivered(&mut house, 50..52).await;
}

//! A log that ends before what was read of it: it was removed and made again, or brought back from a backup.

use super::*;

impl House {
    /// All of the process anew, on the same store and on a log that has nothing, or only what an older copy has.
    async fn on_another_log(&mut self, older: u64) {
        let dispatcher = self.dispatcher.take().unwrap();
        let store = dispatcher.store.clone();
        drop(dispatcher);
        let bus = Arc::new(crate::in_memory::bus(&self.clock));
        let parts = crate::in_memory::parts_on(bus, store, &self.clock).await;
        self.gateway = Gateway::open(parts).await.unwrap();
        let now = self.clock.now_ms();
        self.clock.set(NOW);
        for n in 0..older {
            self.publish("acme", json!({ "n": n })).await;
        }
        self.clock.set(now);
        self.crash().await;
    }
}

#[tokio::test]
async fn what_comes_in_another_log_is_delivered_and_what_was_before_is_not_again() {
    for older in [0, 3] {
        let mut house = House::new().await;
        house.subscribe("acme", json!({})).await;
        let paused = house.subscribe("acme", json!({})).await;
        for n in 0..9 {
            house.publish("acme", json!({ "n": n })).await;
        }
        house.settle().await;
        house.change("acme", paused, Change::Pause).await;
        house.pass(Duration::from_hours(1)).await;
        house.publish("acme", json!({ "n": 9 })).await;
        house.settle().await;
        house.target.got.lock().unwrap().clear();

        house.pass(Duration::from_hours(1)).await;
        house.on_another_log(older).await;
        house.change("acme", paused, Change::Resume).await;
        for n in 10..13 {
            house.publish("acme", json!({ "n": n })).await;
        }
        house.pass(Duration::from_hours(1)).await;
        let mut got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
        got.sort_unstable();
        assert_eq!(got, [10, 10, 11, 11, 12, 12], "by both, once each");
    }
}

//! A clock that is set back holds up nothing that is done every so often.

use super::*;

#[tokio::test]
async fn a_clock_that_is_set_back_holds_up_no_rate_no_batch_and_no_write() {
    let mut house = House::new().await;
    let rate = json!({ "rateLimit": { "perSecond": 1 } });
    let at_a_rate = house.subscribe("acme", rate).await;
    let together = json!({ "batch": { "maxEvents": 10, "maxWait": "5s" } });
    let in_batches = house.subscribe("globex", together).await;
    for n in 0..3 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.publish("globex", json!({ "n": 9 })).await;
    house.settle().await;
    assert_eq!(house.got().len(), 1, "the others wait");
    house.clock.set(NOW - 3_600_000);
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.turn().await.unwrap();
    house.pass(Duration::from_secs(10)).await;
    let mut got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 9]);
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    for id in [at_a_rate, in_batches] {
        let attempts = store.deliveries().attempts_of(id, (0, 0), 9).await;
        assert!(!attempts.unwrap().rows.is_empty());
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_partition_unread_and_nothing_unwritten() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    let bus = super::unled::troubled(&mut house).await;
    bus.has_no_leader_of(Some(tidings_bus::partition_of(b"acme", 3)));
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    bus.has_no_leader_of(None);
    house.clock.set(NOW - 3_600_000);
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.moved.insert(id);
    dispatcher.turn().await.unwrap();
    assert_eq!(dispatcher.in_flight.len(), 1, "it is read");
    assert!(dispatcher.writing.is_some(), "and what is known is written");
}

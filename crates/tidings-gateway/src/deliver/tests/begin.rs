//! Where reading begins.

use super::unled::troubled;
use super::*;

/// The end of the partition of a tenant's events.
async fn end_of(house: &House, tenant: &str) -> u64 {
    let bus = house.gateway.deliveries().means().bus;
    let number = tidings_bus::partition_of(tenant.as_bytes(), 3);
    let topic = crate::rulebook::Route::fallback().topic;
    let bounds = bus.bounds(Partition { topic, number }).await;
    bounds.unwrap().end
}

#[tokio::test]
async fn the_first_who_wants_a_partition_does_not_wait_for_what_was_there_before() {
    let mut house = House::new().await;
    for n in 0..700 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let bus = troubled(&mut house).await;
    let before = end_of(&house, "acme").await;
    let id = house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 700 })).await;
    house.settle().await;
    assert_eq!(house.numbers(), [700]);
    let first = bus.read_for_all_from().into_iter().min();
    assert!(first >= Some(before), "{first:?} of {before}");
    // The same when all have gone meanwhile, and somebody comes again.
    let room = house.gateway.subscriptions.clone();
    room.delete(&caller("acme"), id).await.unwrap();
    house.settle().await;
    for n in 701..1_300 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let before = end_of(&house, "acme").await;
    let read = bus.read_for_all_from().len();
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1_300 })).await;
    house.settle().await;
    assert_eq!(house.numbers(), [700, 1_300]);
    let first = bus.read_for_all_from().split_off(read).into_iter().min();
    assert!(first >= Some(before), "{first:?} of {before}");
}

#[tokio::test]
async fn one_that_is_made_before_its_topic_is_seen_begins_where_it_was_made() {
    for crashes in 0..3 {
        let mut house = House::new().await;
        house.publish("acme", json!({ "n": 0 })).await;
        // The dispatcher has not looked at the log since.
        house.subscribe("acme", json!({})).await;
        let dispatcher = house.dispatcher.as_mut().unwrap();
        if crashes == 1 {
            dispatcher.take_changes();
            dispatcher.read().await.unwrap();
            house.crash().await;
        } else if crashes == 2 {
            // It has written down that it knows of the subscription, and of no place.
            dispatcher.take_changes();
            dispatcher.write_now();
            let written = dispatcher.writing.take().unwrap().await;
            dispatcher.written(written);
            house.crash().await;
        }
        house.publish("acme", json!({ "n": 1 })).await;
        house.settle().await;
        assert_eq!(house.numbers(), [1], "crashes: {crashes}");
    }
}

#[tokio::test]
async fn what_is_published_after_the_first_subscription_comes_whenever_it_crashes() {
    for crashes in 0..4 {
        let mut house = House::new().await;
        for n in 0..5 {
            house.publish("acme", json!({ "n": n })).await;
        }
        house.settle().await;
        house.subscribe("acme", json!({})).await;
        if crashes == 1 {
            house.crash().await;
        }
        house.publish("acme", json!({ "n": 5 })).await;
        if crashes == 2 {
            house.crash().await;
        }
        if crashes == 3 {
            // It has come to the place, and nothing of that is written down.
            house.dispatcher.as_mut().unwrap().take_changes();
            house.dispatcher.as_mut().unwrap().read().await.unwrap();
            house.crash().await;
        }
        house.publish("acme", json!({ "n": 6 })).await;
        house.settle().await;
        assert_eq!(house.numbers(), [5, 6], "crash {crashes}");
        house.crash().await;
        house.settle().await;
        assert_eq!(house.numbers(), [5, 6], "crash {crashes}");
    }
}

#[tokio::test]
async fn one_that_begins_at_the_beginning_gets_everything_beside_one_that_does_not() {
    let mut house = House::new().await;
    for n in 0..5 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let document = json!({
        "name": "s", "filter": { "types": ["audit.test.*"] },
        "target": { "kind": "webhook", "url": "http://127.0.0.1:1/h" },
    });
    let room = house.gateway.subscriptions.clone();
    let acme = caller("acme");
    let made = room.create(&acme, document, From::Beginning).await;
    made.unwrap();
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 5 })).await;
    house.settle().await;
    let mut got = house.numbers();
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 5]);
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_read_of_it_is_told_of_once() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    for n in 0..5 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    // The same store beside another bus.
    let dispatcher = house.dispatcher.take().unwrap();
    let store = dispatcher.store.clone();
    drop(dispatcher);
    let bus = Arc::new(crate::in_memory::bus(&house.clock));
    let parts = crate::in_memory::parts_on(bus, store, &house.clock).await;
    house.gateway = Gateway::open(parts).await.unwrap();
    house.crash().await;
    for n in 5..8 {
        house.publish("acme", json!({ "n": n })).await;
        house.settle().await;
    }
    let damages = house.dispatcher.as_ref().unwrap().part.counted().damages();
    assert_eq!(damages, 1);
}

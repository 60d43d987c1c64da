//! Changes of subscriptions while their events are on the way.

use super::*;

#[tokio::test]
async fn what_is_published_behind_a_change_is_sent_as_changed() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.settle().await;
    // Both come while a turn is on its way.
    let change = Change::Patch(json!({ "name": "another" }));
    let subscriptions = &house.gateway.subscriptions;
    let changed = subscriptions.change(&caller("acme"), id, change).await;
    house.publish("acme", json!({ "n": 1 })).await;
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.read().await.unwrap();
    dispatcher.catch_up().await;
    dispatcher.start();
    let ended = dispatcher.in_flight.join_next().await.unwrap();
    dispatcher.ended(ended);
    let got = house.got();
    assert_eq!((got.len(), got[0].revision), (1, changed.unwrap().revision));
}

//! What waits of subscriptions that do not keep up.

use super::*;
use crate::deliver::counted::Laggard;

#[tokio::test]
async fn how_much_waits_and_since_when_is_told_by_why_it_does() {
    let mut house = House::new().await;
    let paused = house.subscribe("acme", json!({})).await;
    house.subscribe("globex", json!({})).await;
    house.answer(|got| match got.tenant.as_str() {
        "globex" => failed(),
        _ => Verdict::Delivered,
    });
    house.settle().await;
    let room = house.gateway.subscriptions.clone();
    room.change(&caller("acme"), paused, Change::Pause)
        .await
        .unwrap();
    house.settle().await;
    for n in 0..3 {
        house.clock.set(NOW + 1_000 * (n + 1));
        house.publish("acme", json!({ "n": n })).await;
    }
    // More than its breaker lets through at once.
    for n in 0..30 {
        house.publish("globex", json!({ "n": n })).await;
    }
    house.pass(Duration::from_secs(12)).await;
    let behind = |house: &House, laggard| {
        let counted = house.dispatcher.as_ref().unwrap().part.counted();
        counted.behind(laggard)
    };
    let of_paused = behind(&house, Laggard::Paused);
    assert_eq!((of_paused.subscriptions, of_paused.events), (1, 3));
    assert_eq!(of_paused.oldest_ms, Some(NOW + 1_000));
    let failing = behind(&house, Laggard::Failing);
    assert_eq!(
        (failing.subscriptions, failing.oldest_ms),
        (1, Some(NOW + 3_000))
    );
    assert!((1..30).contains(&failing.events), "{failing:?}");

    // It knows nothing in memory any more; what is resumed is told of no longer.
    house.crash().await;
    house.pass(Duration::from_secs(12)).await;
    assert_eq!(behind(&house, Laggard::Paused), of_paused);
    room.change(&caller("acme"), paused, Change::Resume)
        .await
        .unwrap();
    house.pass(Duration::from_secs(12)).await;
    assert_eq!(behind(&house, Laggard::Paused).subscriptions, 0);
}

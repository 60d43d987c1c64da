//! What waits of subscriptions that do not keep up.

use super::damaged::events_of;
use super::unled::troubled;
use super::*;
use crate::deliver::counted::{Behind, Laggard};

fn behind(house: &House, laggard: Laggard) -> Behind {
    let counted = house.dispatcher.as_ref().unwrap().part.counted();
    counted.behind(laggard)
}

async fn change(house: &House, subscription: Uuid, change: Change) {
    let room = house.gateway.subscriptions.clone();
    let changed = room.change(&caller("acme"), subscription, change).await;
    changed.unwrap();
}

/// Pauses a subscription of acme, and publishes three events a second apart.
async fn three_wait(house: &mut House, subscription: Uuid) {
    change(house, subscription, Change::Pause).await;
    house.settle().await;
    for n in 0..3 {
        house.clock.set(NOW + 1_000 * (n + 1));
        house.publish("acme", json!({ "n": n })).await;
    }
}

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
    three_wait(&mut house, paused).await;
    // More than its breaker lets through at once.
    for n in 0..30 {
        house.publish("globex", json!({ "n": n })).await;
    }
    house.pass(Duration::from_secs(12)).await;
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
    change(&house, paused, Change::Resume).await;
    house.pass(Duration::from_secs(12)).await;
    assert_eq!(behind(&house, Laggard::Paused).subscriptions, 0);
}

#[tokio::test]
async fn what_is_damaged_does_not_hide_since_when_the_others_wait() {
    let mut house = House::new().await;
    let paused = house.subscribe("acme", json!({})).await;
    house.settle().await;
    three_wait(&mut house, paused).await;
    let bus = troubled(&mut house).await;
    for damaged in &events_of(&house).await[..2] {
        bus.damages(*damaged);
    }
    house.pass(Duration::from_secs(35)).await;
    assert_eq!(behind(&house, Laggard::Paused).oldest_ms, Some(NOW + 3_000));
}

//! What cannot be sent for want of something of our own.

use super::*;
use crate::chronicle::Why;
use crate::deliver::counted::AttemptOutcome;

#[tokio::test]
async fn what_we_lack_ourselves_is_no_attempt_and_counts_against_nobody() {
    let mut house = House::new().await;
    let over = NOW + 20_000;
    house.answer(move |got| match got.at_ms {
        at if at < over => Verdict::Unable,
        _ => Verdict::Delivered,
    });
    let id = house
        .subscribe("acme", json!({ "ordered": true, "key": "/key" }))
        .await;
    for n in 0..15 {
        let data = json!({ "n": n, "key": format!("k{}", n % 5) });
        house.publish("acme", data).await;
    }
    house.pass(Duration::from_secs(19)).await;
    let dispatcher = house.dispatcher.as_ref().unwrap();
    assert_eq!(dispatcher.queues[&id].failing_since_ms, None);
    let tried = house.got().len();
    assert!((19..100).contains(&tried), "{tried}: one at a time");
    let counted = dispatcher.part.counted();
    assert_eq!(counted.unables(), tried as u64);
    assert_eq!(counted.attempts(AttemptOutcome::Failed), 0);
    house.pass(Duration::from_secs(10)).await;
    let counted = house.dispatcher.as_ref().unwrap().part.counted();
    assert_eq!(counted.attempts(AttemptOutcome::Delivered), 15);
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let attempts = store.deliveries().attempts_of(id, (0, 0), 100).await;
    let attempts = attempts.unwrap().whole().unwrap();
    assert!(attempts.iter().all(|it| it.number == 1), "{attempts:?}");
    assert_eq!(attempts.len(), 15);
}

#[tokio::test]
async fn what_we_lack_ourselves_is_not_told_as_the_receivers_breaker() {
    let mut house = House::new().await;
    house.answer(|_| Verdict::Unable);
    let id = house.subscribe("acme", json!({ "maxInFlight": 1 })).await;
    for n in 1..=2 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let said = "lacks files or memory to send with";
    house.assert_why(2, id, Why::CircuitOpen, said).await;
}

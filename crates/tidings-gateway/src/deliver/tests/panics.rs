//! What panics takes nothing down but itself.

use tokio::sync::oneshot;

use super::*;
use crate::in_memory::Troubled;

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
    let troubled = Troubled::new(means.bus.clone());
    troubled.panics_at_next_reading();
    means.bus = Arc::new(troubled);
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

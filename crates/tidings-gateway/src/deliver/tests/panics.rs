//! What panics takes nothing down but itself.

use tokio::sync::oneshot;

use super::*;
use crate::deliver::leave::End;
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
    assert_eq!(counted.attempts(counted::AttemptOutcome::Delivered), 1);
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

/// Answers when it is told to, by the end of the dispatcher.
struct AtTheEnd(tokio::sync::Notify);

impl Target for AtTheEnd {
    fn hand_over(&self, _handover: Handover) -> BoxFuture<'_, Outcome> {
        Box::pin(async {
            self.0.notified().await;
            Outcome::delivered()
        })
    }
}

#[tokio::test]
async fn a_dispatcher_that_panics_as_it_ends_has_ended() {
    let house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    let target = Arc::new(AtTheEnd(tokio::sync::Notify::new()));
    let mut means = house.gateway.deliveries().means();
    means.target = target.clone();
    let mut dispatcher = Dispatcher::open(means, Share::ALL).await.unwrap();
    dispatcher.turn().await.unwrap();
    assert_eq!(dispatcher.in_flight.len(), 1);
    // What is wrong with the memory of it comes out when its attempt has ended.
    dispatcher.queues.get_mut(&id).unwrap().in_flight = 0;
    let end = dispatcher.run(async { target.0.notify_one() }).await;
    assert_eq!(end, End::Told);
}

//! Subscriptions that are disabled for what was met, and how old a delivery may get.

use super::*;
use crate::subscription::State;

impl House {
    /// Waits until it is disabled: that is a task of its own.
    async fn until_disabled(&mut self, tenant: &str, id: Uuid) {
        let disabled = async {
            while self.subscription(tenant, id).state != State::Disabled {
                self.settle().await;
                tokio::task::yield_now().await;
            }
        };
        let most = Duration::from_secs(30);
        tokio::time::timeout(most, disabled).await.unwrap();
        // Whatever else there is to disable it would do so now.
        for _ in 0..10 {
            self.settle().await;
        }
    }

    fn subscription(&self, tenant: &str, id: Uuid) -> Arc<crate::subscription::Subscription> {
        self.gateway.subscriptions.get(&caller(tenant), id).unwrap()
    }
}

#[tokio::test]
async fn what_fails_for_five_days_is_disabled_once_though_the_process_restarts() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    let id = house.subscribe("acme", json!({})).await;
    for day in 0..5 {
        house.publish("acme", json!({ "n": day })).await;
        house.pass(Duration::from_hours(24)).await;
        house.crash().await;
        let kept = house.subscription("acme", id);
        assert_eq!(kept.state, State::Active, "day {day}");
    }
    let patch = Change::Patch(json!({ "name": "other" }));
    let room = house.gateway.subscriptions.clone();
    room.change(&caller("acme"), id, patch).await.unwrap();
    for n in 5..8 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.pass(Duration::from_hours(1)).await;
    house.until_disabled("acme", id).await;
    let kept = house.subscription("acme", id);
    assert_eq!((kept.state, kept.revision), (State::Disabled, 3));
    let sent = house.got().len();
    house.pass(Duration::from_hours(1)).await;
    assert_eq!(house.got().len(), sent);

    // Resumed, it has its five days again, whoever looks after it now.
    house.crash().await;
    room.change(&caller("acme"), id, Change::Resume)
        .await
        .unwrap();
    house.pass(Duration::from_hours(24)).await;
    assert!(house.got().len() > sent);
    assert_eq!(house.subscription("acme", id).state, State::Active);
}

#[tokio::test]
async fn one_success_begins_the_five_days_anew() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    for n in 0..10 {
        let taken = n % 4 == 3;
        house.answer(move |_| if taken { Verdict::Delivered } else { failed() });
        house.publish("acme", json!({ "n": n })).await;
        house.pass(Duration::from_hours(24)).await;
        house.crash().await;
    }
    assert_eq!(house.subscription("acme", id).state, State::Active);
}

#[tokio::test]
async fn many_answers_that_it_is_gone_disable_once_and_late_ones_not_what_has_changed() {
    let mut house = House::new().await;
    house.answer(|_| Verdict::Gone);
    let id = house.subscribe("acme", json!({})).await;
    for n in 0..16 {
        house.publish("acme", json!({ "n": n })).await;
    }
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.turn().await.unwrap();
    assert_eq!(dispatcher.in_flight.len(), 16);
    house.until_disabled("acme", id).await;
    let kept = house.subscription("acme", id);
    assert_eq!((kept.state, kept.revision), (State::Disabled, 2));
    let room = house.gateway.subscriptions.clone();
    room.change(&caller("acme"), id, Change::Resume)
        .await
        .unwrap();
    let tenant = "acme".parse().unwrap();
    room.disable(&tenant, id, 1, "an answer to what was sent before")
        .await
        .unwrap();
    assert_eq!(house.subscription("acme", id).state, State::Active);
}

#[tokio::test]
async fn no_attempt_begins_later_than_its_greatest_age() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    house
        .subscribe("acme", json!({ "retry": { "maxAge": "1h" } }))
        .await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.pass(Duration::from_hours(50)).await;
    let last = house.got().last().unwrap().at_ms - NOW;
    assert_eq!(house.got().len(), 4);
    assert!(last < ms(Duration::from_hours(1)), "{last}");
    let query = crate::dead_letters::DeadLetterQuery {
        limit: 9,
        ..Default::default()
    };
    let owner = caller("acme");
    let letters = house.gateway.dead_letters.list(&owner, &query);
    assert_eq!(letters.await.unwrap().0.len(), 1);
}

//! Why an event has not come to a subscription: one reason, and no more than is known.

use tokio::sync::Semaphore;

use super::replays::all;
use super::*;
use crate::chronicle::{Course, Why};
use crate::events::{Placed, Query};
use crate::replays::Routing;
use crate::replays::history::Wanted;

impl House {
    /// The event with this number, where it stands.
    async fn placed(&self, n: u64) -> Placed {
        let query = Query {
            limit: 999,
            ..Query::default()
        };
        let events = &self.gateway.events;
        let page = events.list(&caller("acme"), &query).await.unwrap();
        let is_meant = |placed: &Placed| {
            let data: Value = serde_json::from_slice(placed.event.data.as_bytes()).unwrap();
            data["n"] == n
        };
        page.items.into_iter().find(is_meant).unwrap()
    }

    pub(super) async fn told(&self, n: u64) -> Course {
        let placed = self.placed(n).await;
        let chronicle = self.gateway.chronicle();
        chronicle.of(&caller("acme"), &placed).await.unwrap()
    }

    /// Why it has not come to a subscription; nothing where it has.
    pub(super) async fn why(&self, n: u64, id: Uuid) -> Option<(Why, String)> {
        let told = self.told(n).await;
        let mut routed = told.routed.into_iter();
        let one = routed.find(|it| it.judged.0.id == id).unwrap();
        one.reason.map(|reason| (reason.why, reason.detail))
    }

    /// That this is why, and said with these words.
    pub(super) async fn assert_why(&self, n: u64, id: Uuid, why: Why, said: &str) {
        let (found, detail) = self.why(n, id).await.unwrap();
        assert_eq!(found, why, "{detail}");
        assert!(detail.contains(said), "{said:?} is not in {detail:?}");
    }

    /// What is told of it and a subscription: whether it is delivered, in which state, whether anything is kept, and why not.
    async fn stands(&self, n: u64, id: Uuid) -> (bool, Option<String>, bool, Option<Why>) {
        let mut routed = self.told(n).await.routed.into_iter();
        let it = routed.find(|it| it.judged.0.id == id).unwrap();
        let why = it.reason.map(|reason| reason.why);
        (it.delivered, it.state, it.is_kept, why)
    }

    /// Has all history sent again, until that is done.
    async fn replay_all(&mut self, id: Uuid, shadow: Option<&str>) {
        let wanted = Wanted {
            shadow: shadow.map(|url| url.parse().unwrap()),
            ..all()
        };
        let (room, owner) = (self.gateway.replays.clone(), caller("acme"));
        room.of_history(&owner, id, wanted).await.unwrap();
        self.pass(3 * LOOK_AGAIN).await;
    }

    /// When what waits of an event is tried, in ms after the beginning.
    async fn next_at(&self, n: u64) -> Option<i64> {
        let told = self.told(n).await;
        assert_eq!(told.waits.len(), 1);
        told.waits[0].next_at_ms.map(|at_ms| at_ms - NOW)
    }
}

#[tokio::test]
async fn one_that_begins_behind_an_event_says_so_until_it_is_moved_before_it() {
    let mut house = House::new().await;
    house.publish("acme", json!({ "n": 1 })).await;
    let id = house.subscribe("acme", json!({})).await;
    house
        .assert_why(1, id, Why::BeforeStart, "routing 'now'")
        .await;
    house.settle().await;
    house
        .assert_why(1, id, Why::BeforeStart, "routing 'now'")
        .await;
    house.publish("acme", json!({ "n": 2 })).await;
    house
        .assert_why(2, id, Why::NotReached, "nothing is written down yet")
        .await;
    house.settle().await;
    assert_eq!(house.why(2, id).await, None, "it is delivered");
    house
        .change("acme", id, Change::Seek(From::Beginning))
        .await;
    house
        .assert_why(1, id, Why::NotReached, "come to offset 0")
        .await;
    house.settle().await;
    assert_eq!(house.why(1, id).await, None);
}

#[tokio::test]
async fn one_that_is_paused_or_disabled_says_since_when_and_what_is_skipped_stays_so() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.settle().await;
    house.clock.set(NOW + 1_000);
    house.change("acme", id, Change::Pause).await;
    house.publish("acme", json!({ "n": 1 })).await;
    let paused = "paused since 2023-11-14T22:13:21.000Z: nothing is sent until it is resumed";
    for _ in 0..2 {
        house.assert_why(1, id, Why::Paused, paused).await;
        house.settle().await;
    }
    house.clock.set(NOW + 2_000);
    let name = json!({ "name": "another" });
    house.change("acme", id, Change::Patch(name)).await;
    house.assert_why(1, id, Why::Paused, paused).await;
    let why = Change::Disable("it was too slow".into());
    house.change("acme", id, why).await;
    let disabled = "disabled since 2023-11-14T22:13:22.000Z (it was too slow)";
    house.assert_why(1, id, Why::Disabled, disabled).await;
    house.change("acme", id, Change::Seek(From::Now)).await;
    for _ in 0..2 {
        house
            .assert_why(1, id, Why::Skipped, "told to go on from offset")
            .await;
        house.change("acme", id, Change::Resume).await;
        house.settle().await;
    }
    assert_eq!(house.got().len(), 0);
}

#[tokio::test]
async fn what_failed_has_a_time_for_as_long_as_its_subscription_gets_anything() {
    let mut house = House::new().await;
    let delivery = json!({ "retry": { "schedule": ["5s", "5s"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    let again = house.next_at(1).await;
    assert!(again.is_some_and(|at| (5_000..5_600).contains(&at)));
    let said = "Attempt 1 has failed; the next is due at";
    house.assert_why(1, id, Why::Retry, said).await;
    house.change("acme", id, Change::Pause).await;
    for (state, change) in [
        (Why::Paused, Change::Disable("it was too slow".into())),
        (Why::Disabled, Change::Resume),
    ] {
        house.settle().await;
        house.assert_why(1, id, state, "until it is resumed").await;
        assert_eq!(house.next_at(1).await, None);
        house.change("acme", id, change).await;
    }
    assert_eq!(house.next_at(1).await, again);
    house.clock.set(NOW + 6_000);
    house.assert_why(1, id, Why::Due, "it can").await;
    house.pass(Duration::from_mins(1)).await;
    house.assert_why(1, id, Why::GaveUp, "given up").await;
    assert_eq!(house.told(1).await.waits.len(), 0);
}

#[tokio::test]
async fn what_waits_behind_its_key_names_what_goes_first() {
    let mut house = House::new().await;
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["5s"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    for n in 1..=3 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.settle().await;
    house
        .assert_why(3, id, Why::BehindKey, "number 1, which is tried again at")
        .await;
    assert_eq!(house.next_at(3).await, None);
    house.pass(Duration::from_mins(1)).await;
    house.assert_why(1, id, Why::Parked, "parked since").await;
    house
        .assert_why(2, id, Why::BehindKey, "number 1, which is parked")
        .await;
    house.change("acme", id, Change::Pause).await;
    house
        .assert_why(1, id, Why::Parked, "The subscription is paused since")
        .await;
    house.assert_why(2, id, Why::Paused, "paused").await;
}

#[tokio::test]
async fn what_an_open_breaker_or_a_rate_keeps_back_says_until_when() {
    let mut house = House::new().await;
    let delivery = json!({ "maxInFlight": 1, "retry": { "schedule": ["1s"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|got| {
        if got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    for n in 1..=12 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.got().len(), 10);
    let until = "before about 2023-11-14T22:13:25.000Z";
    house.assert_why(11, id, Why::CircuitOpen, until).await;
    house.assert_why(1, id, Why::Retry, "Attempt 1").await;
    assert!(house.next_at(1).await.is_some());
    house.clock.set(NOW + 2_000);
    house.settle().await;
    house.assert_why(1, id, Why::CircuitOpen, until).await;
    assert_eq!(house.next_at(1).await, None, "its own time is over");
    house.crash().await;
    // Another dispatcher knows of no failure, and sends at once.
    let (why, _) = house.why(11, id).await.unwrap();
    assert_eq!(why, Why::NotReached);
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.why(11, id).await, None);

    let mut house = House::new().await;
    let delivery = json!({ "rateLimit": { "perSecond": 1 } });
    let id = house.subscribe("acme", delivery).await;
    for n in 1..=3 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.why(1, id).await, None);
    for n in 2..=3 {
        let until = "rate limit lets nothing through before 2023-11-14T22:13:21.000Z";
        house.assert_why(n, id, Why::RateLimit, until).await;
    }
    house.pass(Duration::from_secs(5)).await;
    assert_eq!(house.why(3, id).await, None);
}

#[tokio::test]
async fn what_deliveries_went_past_says_what_has_changed_as_long_as_that_is_known() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.settle().await;
    let other = json!({ "n": 1 });
    house.publish_as("audit.other.made", "acme", other).await;
    house.settle().await;
    let routed = house.told(1).await.routed;
    assert!(
        routed[0].judged.1.is_err() && routed[0].reason.is_none(),
        "its filter says why"
    );
    house.clock.set(NOW + 1_000);
    let filter = json!({ "filter": { "types": ["audit.**"] } });
    house.change("acme", id, Change::Patch(filter)).await;
    house.settle().await;
    let changed = "last changed at 2023-11-14T22:13:21.000Z";
    house.assert_why(1, id, Why::ChangedSince, changed).await;
    house.pass(Duration::from_hours(31 * 24)).await;
    house
        .assert_why(1, id, Why::Forgotten, "delivery.attempts_retention")
        .await;
}

#[tokio::test]
async fn history_whose_replay_does_not_run_has_no_time() {
    let mut house = House::new().await;
    let delivery = json!({ "retry": { "schedule": ["1h"] } });
    let id = house.subscribe("acme", delivery).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    house.answer(|_| failed());
    let wanted = Wanted {
        routing: Routing::Then,
        ..all()
    };
    let (room, owner) = (house.gateway.replays.clone(), caller("acme"));
    let replay = room.of_history(&owner, id, wanted).await.unwrap().id;
    house.pass(2 * LOOK_AGAIN).await;
    assert_eq!(house.told(1).await.waits[0].reason.why, Why::Retry);
    assert!(house.next_at(1).await.is_some());
    room.cancel(&owner, replay).await.unwrap();
    let waits = house.told(1).await.waits;
    assert_eq!(
        (waits[0].reason.why, waits[0].next_at_ms),
        (Why::ReplayStopped, None)
    );
}

#[tokio::test]
async fn what_a_replay_brought_is_delivered_unless_it_went_to_a_shadow() {
    let mut house = House::new().await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    let id = house.subscribe("acme", json!({})).await;
    house.settle().await;
    let late = (false, None, false, Some(Why::BeforeStart));
    assert_eq!(house.stands(1, id).await, late);
    house
        .replay_all(id, Some("http://127.0.0.1:1/shadow"))
        .await;
    assert_eq!(house.got().len(), 1);
    assert_eq!(house.stands(1, id).await, late, "it went elsewhere");
    house.replay_all(id, None).await;
    assert_eq!(house.got().len(), 2);
    let delivered = (true, Some("delivered".into()), true, None);
    assert_eq!(house.stands(1, id).await, delivered);
    house.answer(|_| failed());
    house.replay_all(id, None).await;
    assert_eq!(house.stands(1, id).await, delivered, "it has got it");
}

#[tokio::test]
async fn what_a_replay_has_still_to_bring_waits_as_any_other() {
    let mut house = House::new().await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    let delivery = json!({ "retry": { "schedule": ["1h"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    house.replay_all(id, None).await;
    let waits = (false, Some("waiting".into()), true, Some(Why::Retry));
    assert_eq!(house.stands(1, id).await, waits);
    house.pass(Duration::from_hours(3)).await;
    let (_, state, _, why) = house.stands(1, id).await;
    assert_eq!(
        (state.as_deref(), why),
        (Some("gave-up"), Some(Why::GaveUp))
    );
}

#[tokio::test]
async fn what_was_given_up_comes_again_where_its_subscription_is_told_to_go_back() {
    let mut house = House::new().await;
    let delivery = json!({ "retry": { "schedule": [] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    house.assert_why(1, id, Why::GaveUp, "given up").await;
    house.change("acme", id, Change::Pause).await;
    house.settle().await;
    house.assert_why(1, id, Why::GaveUp, "given up").await;
    house
        .change("acme", id, Change::Seek(From::Beginning))
        .await;
    house.settle().await;
    house.assert_why(1, id, Why::Paused, "resumed").await;
    house.change("acme", id, Change::Resume).await;
    house.assert_why(1, id, Why::NotReached, "come to").await;
    house.settle().await;
    assert_eq!(house.got().len(), 2);
    house.assert_why(1, id, Why::GaveUp, "given up").await;
}

#[tokio::test]
async fn what_has_failed_and_has_no_row_says_so() {
    let mut house = House::new().await;
    let delivery = json!({ "retry": { "schedule": ["1h"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    house.assert_why(1, id, Why::Retry, "Attempt 1").await;
    let flush = tidings_store::Flush {
        settled: vec![(id, 1)],
        ..tidings_store::Flush::default()
    };
    house.store().deliveries().flush(&flush).await.unwrap();
    let said = "nothing is kept of what is to follow";
    house.assert_why(1, id, Why::Passed, said).await;
}

/// Takes as many as it is let.
struct Slow(Semaphore);

impl Target for Slow {
    fn hand_over(&self, _: Handover) -> BoxFuture<'_, Outcome> {
        Box::pin(async {
            self.0.acquire().await.unwrap().forget();
            Outcome::delivered()
        })
    }
}

#[tokio::test]
async fn where_as_many_are_on_their_way_as_may_be_it_says_so_until_one_has_ended() {
    let mut house = House::new().await;
    let target = Arc::new(Slow(Semaphore::new(0)));
    let mut means = house.gateway.deliveries().means();
    means.target = target.clone();
    house.dispatcher = Some(Dispatcher::open(means, Share::ALL).await.unwrap());
    let id = house.subscribe("acme", json!({ "maxInFlight": 2 })).await;
    house.settle().await;
    house.publish("acme", json!({ "n": 1 })).await;
    let turn = async |house: &mut House| {
        for _ in 0..5 {
            house.dispatcher.as_mut().unwrap().turn().await.unwrap();
        }
    };
    turn(&mut house).await;
    house
        .assert_why(1, id, Why::NotReached, "written down")
        .await;
    house.publish("acme", json!({ "n": 2 })).await;
    house.publish("acme", json!({ "n": 3 })).await;
    turn(&mut house).await;
    assert_eq!(house.dispatcher.as_ref().unwrap().in_flight.len(), 2);
    for n in 1..=3 {
        let said = "(delivery.maxInFlight); what comes behind them waits";
        house.assert_why(n, id, Why::InFlight, said).await;
    }
    target.0.add_permits(3);
    house.settle().await;
    for n in 1..=3 {
        assert_eq!(house.why(n, id).await, None, "it is delivered");
    }
    // With room, nothing of it is left.
    house.publish("acme", json!({ "n": 4 })).await;
    house
        .assert_why(4, id, Why::NotReached, "written down")
        .await;
}

//! What is sent again: what goes wrong on the way costs neither the rest of it nor its end.

use tidings_store::Flush;

use super::*;
use crate::dead_letters::DeadLetterQuery;
use crate::replays::history::{Place, Wanted};
use crate::replays::{DeadLetters, Routing};

/// All history, as it is routed now.
pub(super) fn all() -> Wanted {
    Wanted {
        from: From::Beginning,
        until_ms: None,
        types: Vec::new(),
        rate: None,
        routing: Routing::Now,
        shadow: None,
    }
}

impl House {
    async fn state_of(&self, replay: Uuid) -> (String, u64, u64) {
        let room = &self.gateway.replays;
        let row = room.get(&caller("acme"), replay).await.unwrap();
        (row.state, row.sent, row.delivered)
    }
}

#[tokio::test]
async fn letters_go_out_though_what_is_kept_of_an_attempt_cannot_be_read() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    let id = house
        .subscribe("acme", json!({ "retry": { "schedule": ["5s"] } }))
        .await;
    for n in 1..=3 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.got().len(), 6);
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let mut attempts = Vec::new();
    for place in [(1, 1), (2, 1)] {
        let last = store.deliveries().attempts_of(id, place, 1).await;
        let mut last = last.unwrap().whole().unwrap();
        assert_eq!((last[0].sequence, last[0].number), (place.0, 2));
        last[0].detail = "no JSON".into();
        attempts.append(&mut last);
    }
    let flush = Flush {
        attempts,
        ..Flush::default()
    };
    store.deliveries().flush(&flush).await.unwrap();
    house.answer(|_| Verdict::Delivered);
    let room = house.gateway.replays.clone();
    let owner = caller("acme");
    let letters = house.gateway.dead_letters.clone();
    let query = DeadLetterQuery {
        limit: 9,
        ..DeadLetterQuery::default()
    };
    let (listed, _) = letters.list(&owner, &query).await.unwrap();
    let first = listed.iter().find(|it| it.sequence == 1).unwrap();
    let alone = letters.replay(&owner, first.id).await;
    assert_eq!(alone.unwrap(), "replaying");
    let replay = room.of_dead_letters(&owner, DeadLetters::default()).await;
    let replay = replay.unwrap().id;
    house.pass(Duration::from_mins(1)).await;
    let again: BTreeSet<u64> = house.got()[6..].iter().map(|got| got.n).collect();
    assert_eq!(again, (1..=3).collect());
    house.pass(2 * LOOK_AGAIN).await;
    assert_eq!(house.state_of(replay).await, ("done".into(), 2, 2));
}

#[tokio::test]
async fn a_replay_that_is_resumed_before_its_last_attempt_has_ended_goes_on() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({ "maxInFlight": 1 })).await;
    let megabyte = "x".repeat(1_000_000);
    for n in 1..=8 {
        house
            .publish("acme", json!({ "n": n, "x": megabyte }))
            .await;
    }
    house.settle().await;
    assert_eq!(house.got().len(), 8);
    let (room, owner) = (house.gateway.replays.clone(), caller("acme"));
    let replay = room.of_history(&owner, id, all()).await.unwrap().id;
    let (clock, second) = (house.clock.clone(), ms(LOOK_AGAIN));
    let dispatcher = house.dispatcher.as_mut().unwrap();
    clock.set(clock.now_ms() + second);
    dispatcher.replay().await.unwrap();
    dispatcher.write_now();
    let written = dispatcher.writing.take().unwrap().await;
    dispatcher.written(written);
    // One is on its way, and as much at hand as there is room for.
    for _ in 0..2 {
        dispatcher.due().await.unwrap();
        dispatcher.start();
        clock.set(clock.now_ms() + second);
    }
    let queue = &dispatcher.queues[&replay];
    assert_eq!((queue.in_flight, queue.has_room()), (1, false));
    room.cancel(&owner, replay).await.unwrap();
    dispatcher.replay().await.unwrap();
    room.resume(&owner, replay).await.unwrap();
    clock.set(clock.now_ms() + second);
    dispatcher.replay().await.unwrap();
    assert_eq!(dispatcher.queues[&replay].in_flight, 1, "the same queue");
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.state_of(replay).await, ("done".into(), 8, 8));
}

#[tokio::test]
async fn letters_whose_subscription_is_gone_are_passed_over_whenever_it_went() {
    for crashes in [false, true] {
        let mut house = House::new().await;
        house.answer(|_| failed());
        let once = json!({ "retry": { "schedule": [] } });
        let (gone, going) = (
            house.subscribe("acme", once.clone()).await,
            house.subscribe("acme", once).await,
        );
        for n in 1..=2 {
            house.publish("acme", json!({ "n": n })).await;
        }
        house.pass(Duration::from_mins(1)).await;
        let (room, owner) = (house.gateway.replays.clone(), caller("acme"));
        let subscriptions = house.gateway.subscriptions.clone();
        subscriptions.delete(&owner, gone).await.unwrap();
        house.settle().await;
        // What is made ready waits for longer than the subscription lives.
        let slow = json!({ "delivery": { "retry": { "schedule": ["1h"] } } });
        house.change("acme", going, Change::Patch(slow)).await;
        let begun = room.of_dead_letters(&owner, DeadLetters::default()).await;
        let replay = begun.unwrap().id;
        house.pass(2 * LOOK_AGAIN).await;
        if crashes {
            house.crash().await;
        }
        house.pass(2 * LOOK_AGAIN).await;
        let row = room.get(&owner, replay).await.unwrap();
        let place = Place::read(&row.place).unwrap();
        assert_eq!((row.total, row.sent, row.failed), (Some(4), 2, 0));
        assert_eq!((place.skipped, place.abandoned), (2, 0), "they went before");
        subscriptions.delete(&owner, going).await.unwrap();
        house.pass(Duration::from_hours(2)).await;
        let row = room.get(&owner, replay).await.unwrap();
        let place = Place::read(&row.place).unwrap();
        assert_eq!((&*row.state, row.sent, row.failed), ("done", 2, 2));
        assert_eq!((place.skipped, place.abandoned), (2, 2));
    }
}

#[tokio::test]
async fn a_replay_that_waits_for_its_rate_and_ends_stands_still_for_nobody() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    for n in 1..=9 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let slow = json!({ "delivery": { "rateLimit": { "perSecond": 1 } } });
    house.change("acme", id, Change::Patch(slow)).await;
    let (room, owner) = (house.gateway.replays.clone(), caller("acme"));
    let replay = room.of_history(&owner, id, all()).await.unwrap().id;
    house.pass(2 * LOOK_AGAIN).await;
    let standstills = house.gateway.deliveries().means().standstills;
    assert!(standstills.of(&[replay], NOW).contains_key(&replay));
    room.cancel(&owner, replay).await.unwrap();
    house.pass(2 * LOOK_AGAIN).await;
    assert!(!standstills.of(&[replay], NOW).contains_key(&replay));
}

#[tokio::test]
async fn a_slow_replay_passes_over_letters_that_nobody_is_there_for_in_a_few_turns() {
    let mut house = House::new().await;
    house.answer(|_| Verdict::Failed {
        retry_after: None,
        unreachable: false,
    });
    let once = json!({ "retry": { "schedule": [] } });
    let gone = house.subscribe("acme", once.clone()).await;
    for n in 1..=60 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let stays = house.subscribe("acme", once).await;
    // Letters of one millisecond are in no order.
    house.clock.set(NOW + 10);
    for n in 61..=64 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let (room, owner) = (house.gateway.replays.clone(), caller("acme"));
    let subscriptions = house.gateway.subscriptions.clone();
    subscriptions.delete(&owner, gone).await.unwrap();
    house.settle().await;
    house.answer(|_| Verdict::Delivered);
    let slow = DeadLetters {
        rate: Some(1),
        ..DeadLetters::default()
    };
    let replay = room.of_dead_letters(&owner, slow).await.unwrap().id;
    let before = house.got().len();
    house.clock.set(NOW + 2 * ms(LOOK_AGAIN));
    let dispatcher = house.dispatcher.as_mut().unwrap();
    for _ in 0..4 {
        dispatcher.turn().await.unwrap();
        if dispatcher.writing.is_none() {
            dispatcher.write_now();
        }
        if let Some(writing) = dispatcher.writing.take() {
            let written = writing.await;
            dispatcher.written(written);
        }
    }
    let row = room.get(&owner, replay).await.unwrap();
    let skipped = Place::read(&row.place).unwrap().skipped;
    assert!(skipped >= 60, "{skipped}");
    assert!(row.sent <= 2, "{}: its rate", row.sent);
    house.pass(Duration::from_secs(20)).await;
    let row = room.get(&owner, replay).await.unwrap();
    let place = Place::read(&row.place).unwrap();
    assert_eq!((&*row.state, row.sent, place.skipped), ("done", 4, 64));
    let again: Vec<_> = house.got()[before..].iter().map(|got| got.at_ms).collect();
    assert!(again.windows(2).all(|two| two[1] - two[0] >= 1_000));
    assert!(house.gateway.subscriptions.standing(stays).is_some());
}

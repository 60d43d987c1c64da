//! What a subscription's owner has skipped is not tried again.

use futures_util::future::join_all;
use tidings_event::Code;

use super::*;
use crate::dead_letters::{DeadLetterQuery, DeadLetterSummary};
use crate::parked::ParkedKey;
use crate::publish::refusal::Refusal;

/// Three of a key and one of another, the first of each in vain.
async fn failing(house: &mut House) -> Uuid {
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["1s", "1h"] } });
    let id = house.subscribe("acme", delivery).await;
    house.answer(|_| failed());
    for (n, key) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        house.publish("acme", json!({ "n": n, "key": key })).await;
    }
    house.settle().await;
    assert_eq!(house.pending_of(id).await.len(), 4);
    house.target.got.lock().unwrap().clear();
    id
}

impl House {
    async fn skip(&self, id: Uuid) {
        self.change("acme", id, Change::Seek(From::Now)).await;
    }

    pub(super) async fn parked(&self, id: Uuid) -> Result<Vec<ParkedKey>, Refusal> {
        let (room, events) = (&self.gateway.parked, &self.gateway.events);
        let (keys, _) = room.list(&caller("acme"), events, id, 0, 9).await?;
        Ok(keys)
    }

    async fn dead_letters(&self) -> Vec<DeadLetterSummary> {
        let query = DeadLetterQuery {
            limit: 9,
            ..Default::default()
        };
        let room = &self.gateway.dead_letters;
        room.list(&caller("acme"), &query).await.unwrap().0
    }

    /// That nothing but a new event comes, of the key that was stuck.
    async fn assert_goes_on(&mut self, id: Uuid) {
        self.answer(|_| Verdict::Delivered);
        self.settle().await;
        assert_eq!(self.pending_of(id).await, [], "whatever its time was");
        self.publish("acme", json!({ "n": 5, "key": "a" })).await;
        self.pass(Duration::from_hours(3)).await;
        let got: Vec<u64> = self.got().iter().map(|got| got.n).collect();
        assert_eq!(got, [5]);
        let store = &self.dispatcher.as_ref().unwrap().store;
        let rows = store.deliveries().attempts_of(id, (0, 0), 99).await;
        let rows = rows.unwrap().rows.into_iter();
        let skipped =
            rows.filter(|it| it.outcome == "gave-up" && it.detail.contains("it was skipped"));
        assert_eq!(skipped.count(), 4, "each says so");
    }
}

#[tokio::test]
async fn what_waits_ends_when_it_is_skipped() {
    let mut house = House::new().await;
    let id = failing(&mut house).await;
    house.skip(id).await;
    house.assert_goes_on(id).await;
}

#[tokio::test]
async fn what_waits_is_tried_again_where_its_subscription_goes_on_from_now() {
    for crash in [false, true] {
        let mut house = House::new().await;
        let id = failing(&mut house).await;
        house.change("acme", id, Change::Pause).await;
        house.publish("acme", json!({ "n": 5, "key": "b" })).await;
        house.settle().await;
        house.change("acme", id, Change::GoOn(From::Now)).await;
        house.change("acme", id, Change::Resume).await;
        if crash {
            house.crash().await;
        }
        house.answer(|_| Verdict::Delivered);
        house.publish("acme", json!({ "n": 6, "key": "a" })).await;
        house.pass(Duration::from_hours(3)).await;
        let mut got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3, 4, 6], "all but what came meanwhile");
    }
}

#[tokio::test]
async fn what_is_skipped_while_nobody_delivers_ends_too() {
    let mut house = House::new().await;
    let id = failing(&mut house).await;
    house.skip(id).await;
    house.crash().await;
    house.assert_goes_on(id).await;
}

#[tokio::test]
async fn what_is_skipped_of_a_subscription_that_nothing_was_at_hand_of_ends_too() {
    let mut house = House::new().await;
    let id = failing(&mut house).await;
    house.crash().await;
    house.skip(id).await;
    house.assert_goes_on(id).await;
}

#[tokio::test]
async fn what_is_at_hand_and_unwritten_ends_too() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.answer(|_| failed());
    house.publish("acme", json!({ "n": 1 })).await;
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.turn().await.unwrap();
    while let Some(ended) = dispatcher.in_flight.join_next().await {
        dispatcher.ended(ended);
    }
    assert_eq!(dispatcher.flush.pending.len(), 1);
    house.skip(id).await;
    house.pass(Duration::from_mins(10)).await;
    assert_eq!(house.got().len(), 1);
    assert_eq!(house.pending_of(id).await, []);
}

#[tokio::test]
async fn a_parked_key_is_free_and_what_was_asked_for_again_still_goes_out() {
    let mut house = House::new().await;
    let id = failing(&mut house).await;
    house.pass(Duration::from_hours(2)).await;
    let parked = house.parked(id).await;
    assert_eq!(parked.unwrap().len(), 2);
    let room = house.gateway.parked.clone();
    room.drop_head(&caller("acme"), id, "b").await.unwrap();
    let found = house.dead_letters().await;
    let letters = house.gateway.dead_letters.clone();
    letters.replay(&caller("acme"), found[0].id).await.unwrap();
    house.skip(id).await;
    house.answer(|_| Verdict::Delivered);
    house.target.got.lock().unwrap().clear();
    house.pass(Duration::from_mins(1)).await;
    let got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(got, [4]);
    let parked = house.parked(id).await;
    assert_eq!(parked.unwrap(), []);
}

#[tokio::test]
async fn of_those_who_drop_a_parked_head_at_once_one_does() {
    let mut house = House::new().await;
    let id = failing(&mut house).await;
    house.pass(Duration::from_hours(2)).await;
    let (room, owner) = (house.gateway.parked.clone(), caller("acme"));
    let drops = (0..8).map(|_| room.drop_head(&owner, id, "a"));
    let dropped = join_all(drops).await;
    let refused = dropped.iter().filter_map(|it| it.as_ref().err());
    assert!(
        refused
            .clone()
            .all(|refusal| refusal.code == Code::NotFound)
    );
    assert_eq!(refused.count(), 7);
    assert_eq!(house.dead_letters().await.len(), 1);
    let both = [false, true].map(async |drops| {
        if drops {
            room.drop_head(&owner, id, "b").await
        } else {
            room.release(&owner, id, "b").await
        }
    });
    let done = join_all(both).await;
    assert_eq!(done.iter().filter(|it| it.is_ok()).count(), 1);
}

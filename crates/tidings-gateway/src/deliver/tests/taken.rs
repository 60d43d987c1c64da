//! Two dispatchers of one share: the one from which it was taken, because it stood still, say, and its follower.

use super::*;
use crate::deliver::leave::End;

impl House {
    async fn settled(&self, id: Uuid) -> u64 {
        let store = self.store();
        let progress = store.deliveries().progress_of(&[id]).await.unwrap();
        progress.rows.first().map_or(0, |row| row.sequence)
    }
}

#[tokio::test]
async fn one_whose_share_was_taken_writes_nothing_more_and_ends() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 0 })).await;
    house.settle().await;
    let mut before = house.dispatcher.take().unwrap();
    house.publish("acme", json!({ "n": 1 })).await;
    before.turn().await.unwrap();
    while let Some(ended) = before.in_flight.join_next().await {
        before.ended(ended);
    }
    assert_eq!(house.numbers(), [0, 1]);

    house.crash().await;
    house.publish("acme", json!({ "n": 2 })).await;
    house.settle().await;
    // What the other had not written down comes again, under its number.
    assert_eq!(house.numbers(), [0, 1, 1, 2]);
    house.assert_numbers_are_kept(3);
    assert_eq!(house.settled(id).await, 3);

    before.write_now();
    let end = before.run(std::future::pending()).await;
    assert_eq!(end, End::Taken);
    assert_eq!(house.settled(id).await, 3);
    house.publish("acme", json!({ "n": 3 })).await;
    house.settle().await;
    assert_eq!(house.settled(id).await, 4);
}

#[tokio::test]
async fn one_whose_share_was_taken_ends_without_a_word_when_it_is_told_to() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    let mut before = house.dispatcher.take().unwrap();
    before.turn().await.unwrap();
    house.crash().await;
    assert_eq!(before.run(std::future::ready(())).await, End::Told);
    assert_eq!(house.settled(id).await, 0);
    house.settle().await;
    assert_eq!(house.settled(id).await, 1);
}

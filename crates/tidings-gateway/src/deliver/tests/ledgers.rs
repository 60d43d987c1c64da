//! Where the time went: all of it is told, and for what it went.

use super::*;
use crate::chronicle::Why;
use crate::deliver::record::{AttemptDetail, Ledger};

impl House {
    /// The last ledger of each event with how long its delivery took, by what is in it.
    async fn ledgers(&self, id: Uuid) -> BTreeMap<u64, (Ledger, i64)> {
        let store = &self.dispatcher.as_ref().unwrap().store;
        let rows = store.deliveries().attempts_of(id, (0, 0), 9_999).await;
        let mut found = BTreeMap::new();
        for row in rows.unwrap().rows {
            let detail: AttemptDetail = serde_json::from_str(&row.detail).unwrap();
            let received = tidings_bus::time_of(row.event_id).unwrap();
            let took = row.started_at_ms + detail.latency_ms - received;
            found.insert(row.sequence, (detail.ledger, took));
        }
        found
    }
}

fn total(ledger: &Ledger) -> i64 {
    let Ledger {
        log,
        key,
        rate_limit,
        breaker,
        batch,
        back_off,
        connect,
        subscriber,
    } = *ledger;
    log + key + rate_limit + breaker + batch + back_off + connect + subscriber
}

/// All of the time is in it, but for what a turn of the test takes.
fn is_whole(ledgers: &BTreeMap<u64, (Ledger, i64)>) {
    for (sequence, (ledger, took)) in ledgers {
        let missing = took - total(ledger);
        assert!(
            (-20..=20).contains(&missing),
            "{sequence}: {ledger:?} of {took}"
        );
    }
}

#[tokio::test]
async fn an_event_behind_its_key_says_so_and_the_one_before_it_that_it_backed_off() {
    let mut house = House::new().await;
    house.answer(|got| {
        if got.at_ms < NOW + 6_000 {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    let delivery =
        json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["5s", "60s"] } });
    let id = house.subscribe("acme", delivery).await;
    for n in 0..2 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.pass(Duration::from_mins(5)).await;
    let ledgers = house.ledgers(id).await;
    is_whole(&ledgers);
    assert!(
        (65_000..72_000).contains(&ledgers[&1].0.back_off),
        "{ledgers:?}"
    );
    assert!((65_000..72_000).contains(&ledgers[&2].0.key), "{ledgers:?}");
    assert_eq!((ledgers[&1].0.key, ledgers[&2].0.back_off), (0, 0));
}

#[tokio::test]
async fn each_that_a_rate_or_an_attempt_holds_up_says_so_not_only_the_first() {
    for delivery in [
        json!({ "rateLimit": { "perSecond": 1 } }),
        json!({ "maxInFlight": 1 }),
    ] {
        let mut house = House::new().await;
        let id = house.subscribe("acme", delivery.clone()).await;
        for n in 0..5 {
            house.publish("acme", json!({ "n": n })).await;
        }
        if delivery["maxInFlight"] == 1 {
            let dispatcher = house.dispatcher.as_mut().unwrap();
            dispatcher.turn().await.unwrap();
            assert_eq!(dispatcher.in_flight.len(), 1);
            house.clock.set(NOW + 3_000);
        }
        house.pass(Duration::from_secs(20)).await;
        let ledgers = house.ledgers(id).await;
        is_whole(&ledgers);
        let last = ledgers[&5].0;
        assert!(last.rate_limit >= 2_900, "{delivery}: {last:?}");
        assert_eq!((last.log, last.key, last.breaker), (0, 0, 0));
    }
}

#[tokio::test]
async fn each_that_an_open_breaker_holds_up_says_so() {
    let mut house = House::new().await;
    house.answer(|got| {
        if got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    let id = house
        .subscribe(
            "acme",
            json!({ "maxInFlight": 1, "retry": { "schedule": ["1s"] } }),
        )
        .await;
    for n in 0..20 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.pass(Duration::from_mins(1)).await;
    let ledgers = house.ledgers(id).await;
    is_whole(&ledgers);
    assert_eq!(ledgers.len(), 20);
    for sequence in 11..=20 {
        let ledger = ledgers[&sequence].0;
        assert!(
            (4_900..=6_000).contains(&ledger.breaker),
            "{sequence}: {ledger:?}"
        );
    }
}

#[tokio::test]
async fn what_waits_for_a_breaker_tells_so_in_its_ledger_as_in_its_reason() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    let delivery = json!({ "maxInFlight": 1, "retry": { "schedule": ["1s", "1s"] } });
    let id = house.subscribe("acme", delivery).await;
    for n in 0..20 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    house.clock.set(NOW + 3_000);
    let store = &house.dispatcher.as_ref().unwrap().store;
    let pending = store
        .deliveries()
        .pending_of(id, None, 1, 30)
        .await
        .unwrap();
    let (rooms, owner) = (&house.gateway, caller("acme"));
    let failed = pending.rows.iter().find(|row| row.attempts > 0).unwrap();
    let placed = rooms.events.get(&owner, failed.event_id).await.unwrap();
    let told = rooms.chronicle().of(&owner, &placed).await.unwrap();
    let waits = &told.waits[0];
    assert_eq!(waits.reason.why, Why::CircuitOpen);
    assert!(waits.ledger.breaker > 0, "{:?}", waits.ledger);
    assert_eq!(waits.ledger.log, 0);
}

#[tokio::test]
async fn what_was_never_tried_tells_its_revision_and_how_long_it_has_waited() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    let delivery = json!({ "ordered": true, "key": "/key" });
    house.subscribe("acme", delivery).await;
    for n in 0..2 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.settle().await;
    house.clock.set(NOW + 3_000);
    let store = &house.dispatcher.as_ref().unwrap().store;
    let id = house.gateway.subscriptions.list(&caller("acme")).unwrap()[0].id;
    let rows = store
        .deliveries()
        .pending_of(id, None, 1, 9)
        .await
        .unwrap()
        .rows;
    let (rooms, owner) = (&house.gateway, caller("acme"));
    let placed = rooms.events.get(&owner, rows[0].event_id).await.unwrap();
    let told = rooms.chronicle().of(&owner, &placed).await.unwrap();
    let waits = &told.waits[0];
    assert_eq!((waits.revision, waits.ledger.key), (1, 3_000));
}

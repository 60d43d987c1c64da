//! Much that is pending, and subscriptions that get nothing.

use super::*;

impl House {
    pub(super) async fn change(&self, tenant: &str, id: Uuid, change: Change) {
        let room = &self.gateway.subscriptions;
        room.change(&caller(tenant), id, change).await.unwrap();
    }

    pub(super) async fn pending_of(&self, id: Uuid) -> Vec<tidings_store::PendingRow> {
        let store = &self.dispatcher.as_ref().unwrap().store;
        let rows = store.deliveries().pending_of(id, None, 0, 9_999).await;
        rows.unwrap().whole().unwrap()
    }
}

#[tokio::test]
async fn what_waits_of_one_that_gets_nothing_is_neither_read_nor_written_and_flows_when_it_resumes()
{
    let mut house = House::new().await;
    let id = house
        .subscribe("acme", json!({ "retry": { "schedule": ["5s", "5s"] } }))
        .await;
    let other = house
        .subscribe("globex", json!({ "retry": { "schedule": ["5s"] } }))
        .await;
    house.answer(|got| {
        if got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    for n in 0..400 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    house.change("acme", id, Change::Pause).await;
    house.settle().await;
    let before = house.pending_of(id).await;
    let earlier = house.got().len();
    house.publish("globex", json!({ "n": 0 })).await;
    house.pass(Duration::from_mins(2)).await;
    assert_eq!(
        house.pending_of(id).await,
        before,
        "nothing of it was touched"
    );
    assert_eq!(before.len(), earlier);
    let of_other: Vec<i64> = house.got()[earlier..]
        .iter()
        .map(|got| got.at_ms - NOW)
        .collect();
    assert_eq!(of_other.len(), 2, "{of_other:?}");
    assert!((5_000..5_600).contains(&of_other[1]), "{of_other:?}");
    assert!(house.pending_of(other).await.is_empty());
    house.change("acme", id, Change::Resume).await;
    house.pass(Duration::from_secs(1)).await;
    let last: BTreeMap<u64, i64> = house.got().iter().map(|got| (got.n, got.at_ms)).collect();
    assert_eq!(last.len(), 400);
    assert!(house.pending_of(id).await.is_empty());
}

#[tokio::test]
async fn a_retry_comes_in_time_though_another_subscription_has_many_due() {
    let mut house = House::new().await;
    let retry = json!({ "maxInFlight": 1, "rateLimit": { "perSecond": 1 }, "retry": { "schedule": ["5s"] } });
    let loud = house.subscribe("loud", retry).await;
    house
        .subscribe("quiet", json!({ "retry": { "schedule": ["5s"] } }))
        .await;
    house.answer(|got| {
        if got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    // As after an outage: far more is due than is taken.
    let mut rows = Vec::new();
    for sequence in 1..=2_000 {
        rows.push(tidings_store::PendingRow {
            subscription: loud,
            sequence,
            tenant: "loud".parse().unwrap(),
            event_id: Uuid::from_u128(u128::from(sequence)),
            lane: None,
            attempts: 1,
            state: "waiting".into(),
            next_at_ms: NOW - 1_000,
            detail: "{}".into(),
        });
    }
    house.publish("loud", json!({ "n": 0 })).await;
    house.publish("quiet", json!({ "n": 1 })).await;
    house.settle().await;
    let event_id = house
        .pending_of(loud)
        .await
        .first()
        .map(|row| (row.event_id, row.detail.clone()));
    let (event_id, detail) = event_id.unwrap();
    for row in &mut rows {
        (row.event_id, row.detail) = (event_id, detail.clone());
    }
    let flush = tidings_store::Flush {
        pending: rows.split_off(1),
        ..Default::default()
    };
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    store.deliveries().flush(&flush).await.unwrap();
    house.crash().await;
    house.pass(Duration::from_secs(7)).await;
    let quiet: Vec<i64> = house
        .got()
        .iter()
        .filter(|got| got.tenant == "quiet")
        .map(|got| got.at_ms - NOW)
        .collect();
    assert_eq!(quiet.len(), 2);
    assert!((5_000..5_600).contains(&quiet[1]), "{quiet:?}");
    let at_hand = house.dispatcher.as_ref().unwrap().at_hand.len();
    assert!(at_hand < 300, "{at_hand}");
}

#[tokio::test]
async fn what_is_left_of_a_deleted_subscription_goes_in_pieces() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.answer(|_| failed());
    for n in 0..3 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let one = house.pending_of(id).await.remove(0);
    let more = (10..2_010).map(|sequence| tidings_store::PendingRow {
        sequence,
        ..one.clone()
    });
    let flush = tidings_store::Flush {
        pending: more.collect(),
        ..Default::default()
    };
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    store.deliveries().flush(&flush).await.unwrap();
    house
        .gateway
        .subscriptions
        .delete(&caller("acme"), id)
        .await
        .unwrap();
    house.settle().await;
    assert!(house.pending_of(id).await.is_empty());
    let progress = store.deliveries().progress_of(&[id]).await;
    assert_eq!(progress.unwrap().whole().unwrap(), []);
}

#[tokio::test]
async fn a_key_with_a_nul_is_one_that_any_store_takes() {
    let mut house = House::new().await;
    let id = house
        .subscribe("acme", json!({ "ordered": true, "key": "/key" }))
        .await;
    house.answer(|_| failed());
    house
        .publish("acme", json!({ "n": 0, "key": "a\u{0}" }))
        .await;
    house.settle().await;
    let rows = house.pending_of(id).await;
    assert_eq!(rows[0].lane.as_deref(), Some("a\\u0000"));
}

#[tokio::test]
async fn a_row_that_the_store_never_takes_ends_its_delivery_and_nothing_else() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.answer(|_| failed());
    for n in 0..2 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let row = house.pending_of(id).await.remove(0);
    let piece = Flush {
        pending: vec![row.clone()],
        ..Flush::default()
    };
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.written(Ok(Ok(vec![(piece, "a text with NUL".into())])));
    house.settle().await;
    let store = &house.dispatcher.as_ref().unwrap().store;
    let tenant = "acme".parse().unwrap();
    let attempts = store
        .deliveries()
        .attempts_of_event(&tenant, row.event_id)
        .await;
    let words: Vec<_> = attempts
        .unwrap()
        .rows
        .into_iter()
        .map(|it| it.outcome)
        .collect();
    assert_eq!(words, ["failed", "gave-up"]);
}

/// A delivery of tenant `acme` that the store says is due, though no dispatcher has left it there.
async fn left_waiting(
    store: &tidings_store::Store,
    subscription: Uuid,
    event_id: Uuid,
    attempts: u32,
) -> tidings_store::PendingRow {
    let row = tidings_store::PendingRow {
        subscription,
        sequence: 1,
        tenant: "acme".parse().unwrap(),
        event_id,
        lane: None,
        attempts,
        state: "waiting".into(),
        next_at_ms: NOW,
        detail: "{}".into(),
    };
    let flush = Flush {
        pending: vec![row.clone()],
        ..Flush::default()
    };
    store.deliveries().flush(&flush).await.unwrap();
    row
}

#[tokio::test]
async fn one_that_cannot_be_read_gets_nothing_loses_nothing_and_hides_no_other() {
    let mut house = House::new().await;
    let good = house.subscribe("acme", json!({})).await;
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let bad = tidings_store::SubscriptionRow {
        id: Uuid::from_u128(1),
        tenant: "acme".parse().unwrap(),
        document: "{}".into(),
        secrets: "not what it was".into(),
        state: "active".into(),
        reason: None,
        revision: 1,
        created_at_ms: NOW,
        updated_at_ms: NOW,
        change: 0,
    };
    assert!(store.subscriptions().put(&bad, &[]).await.unwrap());
    let mut from = (-1, None);
    house.gateway.subscriptions.follow(&mut from).await.unwrap();
    assert_eq!(from.1, Some(good), "it went on to the last");
    house.publish("acme", json!({ "n": 0 })).await;
    house.settle().await;
    let row = left_waiting(&store, bad.id, Uuid::from_u128(2), 1).await;
    house.crash().await;
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.pending_of(bad.id).await, [row]);
    assert_eq!(house.got().len(), 1);
    assert_eq!(
        house
            .gateway
            .subscriptions
            .list(&caller("acme"))
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn one_that_cannot_be_read_for_a_while_gets_what_came_meanwhile() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    house.subscribe("globex", json!({})).await;
    house.publish("acme", json!({ "n": 0 })).await;
    house.settle().await;
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let rows = store
        .subscriptions()
        .changed_after(-1, None, 10)
        .await
        .unwrap();
    let row = rows.into_iter().find(|row| row.id == id).unwrap();
    let bad = tidings_store::SubscriptionRow {
        secrets: "not what it was".into(),
        revision: row.revision + 1,
        ..row.clone()
    };
    assert!(store.subscriptions().put(&bad, &[]).await.unwrap());
    house.reopen().await;
    for n in 1..4 {
        house.publish("acme", json!({ "n": n })).await;
        house.settle().await;
    }
    assert_eq!(house.got().len(), 1);
    let good = tidings_store::SubscriptionRow {
        revision: row.revision + 2,
        ..row
    };
    assert!(store.subscriptions().put(&good, &[]).await.unwrap());
    house.reopen().await;
    house.settle().await;
    let sequences: Vec<u64> = house.got().iter().map(|got| got.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[tokio::test]
async fn what_the_log_no_longer_holds_ends_with_an_attempt_that_says_so() {
    let mut house = House::new().await;
    let id = house.subscribe("acme", json!({})).await;
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let event_id = Uuid::from_u128(3);
    let row = left_waiting(&store, id, event_id, 2).await;
    house.crash().await;
    house.settle().await;
    assert_eq!(house.pending_of(id).await, []);
    let attempts = store
        .deliveries()
        .attempts_of_event(&row.tenant, event_id)
        .await
        .unwrap()
        .rows;
    let told: Vec<_> = attempts
        .iter()
        .map(|it| (it.number, it.outcome.as_str()))
        .collect();
    assert_eq!(told, [(3, "gave-up")]);
}

#[tokio::test]
async fn an_earlier_row_of_one_that_the_store_does_not_take_goes_and_its_key_goes_on() {
    let mut house = House::new().await;
    let id = house
        .subscribe("acme", json!({ "ordered": true, "key": "/key" }))
        .await;
    house.answer(|_| failed());
    for n in 0..3 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.settle().await;
    let row = house.pending_of(id).await.remove(0);
    let later = tidings_store::PendingRow {
        attempts: row.attempts + 1,
        ..row
    };
    let piece = Flush {
        pending: vec![later],
        ..Flush::default()
    };
    house.answer(|_| Verdict::Delivered);
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.written(Ok(Ok(vec![(piece, "it is too large".into())])));
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.pending_of(id).await, []);
    let got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(
        got,
        [0, 1, 2],
        "the first was tried before, and is not again"
    );
}

#[tokio::test]
async fn large_messages_on_their_way_are_bounded_by_their_bytes() {
    let mut house = House::new().await;
    for tenant in ["acme", "globex"] {
        for _ in 0..10 {
            house.subscribe(tenant, json!({})).await;
        }
        for n in 0..5 {
            let data = json!({ "n": n, "text": "x".repeat(1_000_000) });
            house.publish(tenant, data).await;
        }
    }
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.turn().await.unwrap();
    // A quarter of what is free for each of them, a sixth of 64 MiB, and not 50 messages.
    assert_eq!(dispatcher.in_flight.len(), 2 * 12);
    house.settle().await;
    assert_eq!(house.got().len(), 2 * 10 * 5);
}

#[tokio::test]
async fn a_long_backlog_of_which_little_is_wanted_keeps_no_other_tenants_from_being_read() {
    let mut house = House::new().await;
    let create = async |house: &House, tenant: &str, least: u64| {
        let filter =
            json!({ "types": ["audit.test.*"], "data": [{ "pointer": "/n", "gte": least }] });
        let document = json!({
            "name": "s", "filter": filter,
            "target": { "kind": "webhook", "url": "http://127.0.0.1:1/h" },
        });
        let (room, owner) = (house.gateway.subscriptions.clone(), caller(tenant));
        let made = room.create(&owner, document, From::Beginning).await;
        made.unwrap().0.id
    };
    for n in 0..300 {
        house.publish("loud", json!({ "n": n })).await;
    }
    house.publish("quiet", json!({ "n": 0 })).await;
    for _ in 0..40 {
        create(&house, "loud", 1_000).await;
    }
    house.clock.set(NOW + 1);
    let quiet = create(&house, "quiet", 0).await;
    house.crash().await;
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.read().await.unwrap();
    for stream in &mut dispatcher.streams {
        stream.recent.clear(stream.head);
    }
    dispatcher.catch_up().await;
    assert!(!dispatcher.read_to_end);
    assert!(!dispatcher.queues[&quiet].backlog.is_empty());
    house.settle().await;
    assert_eq!(house.got().len(), 1);
}

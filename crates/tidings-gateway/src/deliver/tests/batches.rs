//! Several events in one message: when it goes, what is in it, and what becomes of it when it fails.

use super::*;
use crate::dead_letters::DeadLetterQuery;
use crate::subscriptions::Change;

impl House {
    async fn publish_all(&mut self, keys: &[(u64, &str)]) {
        for (n, key) in keys {
            self.publish("acme", json!({ "n": n, "key": key })).await;
        }
        self.settle().await;
    }

    /// The messages that were sent, each by the events in it.
    fn messages(&self) -> Vec<Vec<u64>> {
        let mut messages = Vec::new();
        let got = self.got();
        let mut rest = got.as_slice();
        while let Some(first) = rest.first() {
            let (message, others) = rest.split_at(first.batch.len());
            messages.push(message.iter().map(|got| got.n).collect());
            rest = others;
        }
        messages
    }

    async fn open_letters(&self) -> Vec<(u64, u32)> {
        let query = DeadLetterQuery {
            limit: 100,
            ..DeadLetterQuery::default()
        };
        let caller = caller("acme");
        let letters = self.gateway.dead_letters.list(&caller, &query);
        let (letters, _) = letters.await.unwrap();
        let mut letters: Vec<_> = letters
            .iter()
            .map(|it| (it.sequence, it.attempts))
            .collect();
        letters.sort_unstable();
        letters
    }
}

fn of(keys: std::ops::Range<u64>) -> Vec<(u64, &'static str)> {
    keys.map(|n| (n, if n % 2 == 0 { "even" } else { "odd" }))
        .collect()
}

#[tokio::test]
async fn a_message_goes_when_it_is_full_or_its_first_has_waited() {
    let mut house = House::new().await;
    let batch = json!({ "batch": { "maxEvents": 3, "maxWait": "500ms" } });
    house.subscribe("acme", batch).await;
    house.publish_all(&of(0..7)).await;
    assert_eq!(house.messages(), [[0, 1, 2], [3, 4, 5]]);
    house.pass(Duration::from_millis(499)).await;
    assert_eq!(house.messages().len(), 2);
    house.pass(Duration::from_millis(1)).await;
    assert_eq!(house.messages()[2], [6]);
    let sequences: Vec<u64> = house.got().iter().map(|got| got.sequence).collect();
    assert_eq!(sequences, (1..=7).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_body_ends_before_it_is_too_long() {
    let mut house = House::new().await;
    let batch = json!({ "batch": { "maxEvents": 100, "maxBytes": 4_096, "maxWait": "1s" } });
    house.subscribe("acme", batch).await;
    for n in 0..9 {
        let padding = "x".repeat(if n == 8 { 10_000 } else { 1_000 });
        let data = json!({ "n": n, "padding": padding });
        house.publish("acme", data).await;
    }
    house.pass(Duration::from_secs(1)).await;
    assert_eq!(
        house.messages(),
        [vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7], vec![8]]
    );
}

#[tokio::test]
async fn what_failed_goes_again_as_it_was_even_after_a_crash_and_nothing_joins_it() {
    let mut house = House::new().await;
    house.answer(|got| match got.at_ms {
        at if at < NOW + 7_000 => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({
        "batch": { "maxEvents": 3, "maxWait": "100ms" }, "retry": { "schedule": ["3s", "9s"] },
    });
    house.subscribe("acme", delivery).await;
    house.publish_all(&of(0..2)).await;
    house.pass(Duration::from_secs(1)).await;
    house.publish_all(&of(2..3)).await;
    house.crash().await;
    house.pass(Duration::from_secs(3)).await;
    house.crash().await;
    house.pass(Duration::from_mins(1)).await;
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut tries: BTreeMap<u64, usize> = BTreeMap::new();
    for got in house.got() {
        ids.entry(got.n).or_default().insert(got.message);
        *tries.entry(got.n).or_default() += 1;
    }
    assert_eq!(ids[&0], ids[&1]);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    assert!(tries.values().all(|tries| *tries == 3), "{tries:?}");
    assert_eq!(house.open_letters().await, []);
}

#[tokio::test]
async fn what_is_given_up_is_a_dead_letter_for_each_event() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    let delivery = json!({
        "batch": { "maxEvents": 3, "maxWait": "100ms" }, "retry": { "schedule": ["1s"] },
    });
    house.subscribe("acme", delivery).await;
    house.publish_all(&of(0..3)).await;
    house.pass(Duration::from_secs(10)).await;
    assert_eq!(house.open_letters().await, [(1, 2), (2, 2), (3, 2)]);
    assert_eq!(house.messages(), [[0, 1, 2], [0, 1, 2]]);
}

#[tokio::test]
async fn a_message_that_fails_parks_its_keys_and_holds_none_that_is_parked() {
    let mut house = House::new().await;
    house.answer(|got| match got.n {
        0 => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({
        "ordered": true, "key": "/key", "retry": { "schedule": ["1s"] },
        "batch": { "maxEvents": 3, "maxWait": "100ms" },
    });
    let id = house.subscribe("acme", delivery).await;
    house.publish_all(&[(0, "a"), (1, "a"), (2, "b")]).await;
    house
        .publish_all(&[(3, "c"), (4, "a"), (5, "b"), (6, "c")])
        .await;
    house.pass(Duration::from_secs(30)).await;
    // Those behind have waited for those of their key that failed, and the others flow.
    assert_eq!(house.messages(), [vec![0, 1, 2], vec![3, 6], vec![0, 1, 2]]);
    house.answer(|_| Verdict::Delivered);
    let owner = caller("acme");
    let release = house.gateway.parked.release(&owner, id, "a");
    release.await.unwrap();
    for _ in 0..6 {
        // Who it was is seen by looking, and each message waits for more.
        house.pass(Duration::from_secs(5)).await;
    }
    let after: Vec<u64> = house.messages()[3..].concat();
    assert_eq!(after, [0, 1, 4], "in the order of the key");
    let release = house.gateway.parked.release(&owner, id, "b");
    release.await.unwrap();
    for _ in 0..6 {
        // Who it was is seen by looking, and each message waits for more.
        house.pass(Duration::from_secs(5)).await;
    }
    assert_eq!(house.messages()[4..].concat(), [1, 4, 2, 5]);
}

#[tokio::test]
async fn a_large_backlog_goes_in_full_messages() {
    let mut house = House::new().await;
    let batch = json!({ "batch": { "maxEvents": 400, "maxWait": "10s" } });
    let id = house.subscribe("acme", batch).await;
    let room = house.gateway.subscriptions.clone();
    let caller = caller("acme");
    room.change(&caller, id, Change::Pause).await.unwrap();
    for n in 0..1_000 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    room.change(&caller, id, Change::Resume).await.unwrap();
    house.pass(Duration::from_secs(11)).await;
    let sizes: Vec<usize> = house.messages().iter().map(Vec::len).collect();
    assert_eq!(sizes, [400, 400, 200]);
    let all: BTreeSet<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(all, (0..1_000).collect());
}

#[tokio::test]
async fn a_crash_at_any_time_loses_nothing_of_a_batch_and_changes_no_number() {
    let mut house = House::new().await;
    house.answer(|got| {
        let fails = got.n % 5 == 0 && got.at_ms < NOW + 2_000;
        if fails { failed() } else { Verdict::Delivered }
    });
    let delivery = json!({
        "batch": { "maxEvents": 4, "maxWait": "1s" }, "retry": { "schedule": ["1s", "1s", "9s"] },
    });
    house.subscribe("acme", delivery).await;
    house.publish_among_crashes(200).await;
    house.pass(Duration::from_mins(10)).await;
    house.assert_numbers_are_kept(200);
    assert_eq!(house.open_letters().await, []);
}

#[tokio::test]
async fn keys_keep_their_order_in_messages_whatever_fails_and_whenever_it_crashes() {
    let mut house = House::new().await;
    let tried: Mutex<HashMap<String, u32>> = Mutex::default();
    let failures: Arc<Mutex<BTreeSet<(String, i64)>>> = Arc::default();
    let noted = failures.clone();
    house.answer(move |got| {
        let mut tried = tried.lock().unwrap();
        let times = tried.entry(got.message.clone()).or_default();
        *times += 1;
        if got.n % 4 != 1 || *times > 2 {
            return Verdict::Delivered;
        }
        let mut failures = noted.lock().unwrap();
        failures.insert((got.message.clone(), got.at_ms));
        failed()
    });
    let delivery = json!({
        "ordered": true, "key": "/key", "maxInFlight": 4,
        "batch": { "maxEvents": 5, "maxWait": "2s" },
    });
    house.subscribe("acme", delivery).await;
    for n in 0..90 {
        let data = json!({ "n": n, "key": format!("k{}", n % 7) });
        house.publish("acme", data).await;
        if n % 10 == 9 {
            house.settle().await;
        }
        if n % 20 == 19 {
            house.crash().await;
        }
    }
    house.pass(Duration::from_hours(4)).await;
    let failures = failures.lock().unwrap();
    assert!(failures.len() > 3, "{failures:?}");
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for got in house.got() {
        if failures.contains(&(got.message.clone(), got.at_ms)) {
            continue;
        }
        let last = last.entry(got.n % 7).or_default();
        assert!(got.n >= *last, "{} after {last}", got.n);
        *last = got.n;
        assert!(seen.insert(got.n), "{} was taken twice", got.n);
    }
    assert_eq!(seen, (0..90).collect());
}

#[tokio::test]
async fn keys_keep_their_order_though_batches_are_switched_off_while_a_message_waits() {
    let mut house = House::new().await;
    house.answer(|got| match got.at_ms {
        at if at < NOW + 6_000 => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({
        "ordered": true, "key": "/key", "retry": { "schedule": ["2s", "2s", "2s", "2s"] },
        "batch": { "maxEvents": 3, "maxWait": "100ms" },
    });
    let id = house.subscribe("acme", delivery).await;
    house.publish_all(&[(0, "a"), (1, "a"), (2, "b")]).await;
    assert_eq!(house.messages(), [[0, 1, 2]]);
    let off = json!({ "delivery": { "batch": null } });
    let owner = caller("acme");
    let changed = house
        .gateway
        .subscriptions
        .change(&owner, id, Change::Patch(off));
    changed.await.unwrap();
    for _ in 0..12 {
        house.pass(Duration::from_secs(5)).await;
    }
    let got = house.got();
    let delivered = got.iter().filter(|got| got.at_ms >= NOW + 6_000);
    let delivered: Vec<u64> = delivered.map(|got| got.n).collect();
    let place = |n: u64| delivered.iter().position(|it| *it == n);
    assert!(place(0).unwrap() < place(1).unwrap(), "{delivered:?}");
    assert_eq!(delivered.len(), 3, "{delivered:?}");
    let singly = &house.messages()[1..];
    assert!(singly.iter().all(|message| message.len() == 1));
    let early = got
        .iter()
        .any(|got| got.n == 1 && got.batch.len() == 1 && got.at_ms < NOW + 6_000);
    assert!(!early, "it waits behind the one of its key that fails");
}

#[tokio::test]
async fn what_is_too_old_to_be_tried_again_takes_nothing_younger_with_it() {
    let mut house = House::new().await;
    house.answer(|got| match got.at_ms {
        at if at < NOW + 14_000 => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({
        "batch": { "maxEvents": 2, "maxWait": "10s" },
        "retry": { "schedule": ["4s", "4s", "4s"], "maxAge": "15s" },
    });
    house.subscribe("acme", delivery).await;
    house.publish_all(&of(0..1)).await;
    house.pass(Duration::from_secs(9)).await;
    house.publish_all(&of(1..2)).await;
    for _ in 0..8 {
        house.pass(Duration::from_secs(3)).await;
    }
    assert_eq!(house.messages()[..2], [[0, 1], [0, 1]]);
    let letters = house.open_letters().await;
    assert_eq!(letters.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1]);
    let last = house.got().pop().unwrap();
    assert_eq!((last.n, last.batch.len()), (1, 1));
}

//! What is damaged, in the store or in the log, holds up nothing that is sound.

use std::path::{Path, PathBuf};

use tidings_store::{ReplayRow, Store};

use super::unled::troubled;
use super::*;
use crate::chronicle::Why;

impl House {
    /// Another process on the same log, and on this file of a store.
    async fn move_to(&mut self, path: &Path) {
        let bus = self.dispatcher.take().unwrap().bus.clone();
        let store = Store::open(path).await.unwrap();
        let parts = crate::in_memory::parts_on(bus, store, &self.clock).await;
        self.gateway = Gateway::open(parts).await.unwrap();
        self.crash().await;
    }

    /// One whose store is a file, with the folder that it is in.
    async fn on_a_file() -> (tempfile::TempDir, PathBuf, Self) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut house = Self::new().await;
        house.move_to(&path).await;
        (folder, path, house)
    }

    /// Another process on the file, where the first text has become the second meanwhile.
    async fn goes_on_after(&mut self, path: &Path, (text, other): (&str, &str)) {
        self.store().close().await;
        overwrite(path, text, other);
        self.move_to(path).await;
    }

    fn damages(&self) -> u64 {
        self.dispatcher.as_ref().unwrap().part.counted().damages()
    }
}

/// Writes another text of the same length wherever one stands in a file.
fn overwrite(path: &Path, text: &str, other: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let found = |bytes: &[u8]| {
        bytes
            .windows(text.len())
            .position(|it| it == text.as_bytes())
    };
    let mut times = 0;
    while let Some(at) = found(&bytes) {
        bytes[at..at + text.len()].copy_from_slice(other.as_bytes());
        times += 1;
    }
    assert!(times > 0);
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_row_stops_the_retries_of_nobody_else() {
    let (_folder, path, mut house) = House::on_a_file().await;
    let id = house
        .subscribe("acme", json!({ "ordered": true, "key": "/key" }))
        .await;
    house.subscribe("globex", json!({})).await;
    house.answer(|got| {
        if got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    for (tenant, n, key) in [
        ("acme", 1, "lane-1"),
        ("acme", 2, "lane-2"),
        ("globex", 3, "k"),
    ] {
        house.publish(tenant, json!({ "n": n, "key": key })).await;
    }
    house.settle().await;
    assert_eq!(house.got().len(), 3);
    // An index holds the key too: it keeps its place there.
    house.goes_on_after(&path, ("lane-1", "lane-0")).await;
    house.pass(Duration::from_mins(2)).await;
    let mut retried = house.numbers().split_off(3);
    retried.sort_unstable();
    assert_eq!(retried, [2, 3]);
    assert!(house.damages() > 0);

    let store = house.store();
    let pending = store.deliveries().pending_of(id, None, 0, 9).await.unwrap();
    assert_eq!(
        (pending.rows.len(), pending.damaged.len()),
        (0, 1),
        "it is kept"
    );
    let due = store.deliveries().due(&[(id, 9)], i64::MAX).await.unwrap();
    assert!(due[0].next_at_ms > NOW + 60 * 60 * 1_000, "and put off");
    // What is asked for is answered, without it.
    let parked = house.parked(id).await;
    assert_eq!(parked.unwrap(), []);
}

#[tokio::test]
async fn a_replay_that_cannot_be_read_stops_no_delivery() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    let row = ReplayRow {
        id: Uuid::from_u128(5),
        tenant: "acme".parse().unwrap(),
        subscription: None,
        plan: "{}".into(),
        state: "running".into(),
        place: "neither a place".into(),
        total: None,
        sent: 0,
        delivered: 0,
        failed: 0,
        created_at_ms: NOW,
        started_at_ms: None,
        ended_at_ms: None,
    };
    let without_plan = ReplayRow {
        id: Uuid::from_u128(6),
        plan: "nor a plan".into(),
        place: "{}".into(),
        ..row.clone()
    };
    for row in [row, without_plan] {
        house.store().replays().insert(&row, 9).await.unwrap();
    }
    house.pass(Duration::from_secs(5)).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.pass(Duration::from_secs(5)).await;
    assert_eq!(house.numbers(), [1]);
    assert_eq!(house.damages(), 2, "each is told of once");
}

/// The events of the tenant, in their order.
pub(super) async fn events_of(house: &House) -> Vec<Uuid> {
    let query = crate::events::Query {
        limit: 99,
        ..Default::default()
    };
    let list = house.gateway.events.list(&caller("acme"), &query).await;
    let items = list.unwrap().items.into_iter();
    let ours = items.filter(|it| it.event.event_type.as_str() == "audit.test.made");
    ours.map(|it| it.event.event_id).collect()
}

#[tokio::test]
async fn what_stands_around_a_damaged_record_is_delivered() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    let paused = house.subscribe("acme", json!({})).await;
    let room = house.gateway.subscriptions.clone();
    room.change(&caller("acme"), paused, Change::Pause)
        .await
        .unwrap();
    house.settle().await;
    for n in 0..5 {
        house.publish("acme", json!({ "n": n })).await;
    }
    let damaged = events_of(&house).await[2];
    let bus = troubled(&mut house).await;
    bus.damages(damaged);
    house.settle().await;
    assert_eq!(house.numbers(), [0, 1, 3, 4]);
    assert_eq!(house.damages(), 1);
    // One that catches up from its place goes around it too.
    bus.damages(damaged);
    house.crash_on(bus).await;
    room.change(&caller("acme"), paused, Change::Resume)
        .await
        .unwrap();
    house.settle().await;
    assert_eq!(house.numbers()[4..], [0, 1, 3, 4]);
}

#[tokio::test]
async fn a_damaged_stretch_is_one_thing_to_tell_of() {
    let mut house = House::new().await;
    house.subscribe("acme", json!({})).await;
    house.settle().await;
    for n in 0..8 {
        house.publish("acme", json!({ "n": n })).await;
    }
    let events = events_of(&house).await;
    let bus = troubled(&mut house).await;
    for damaged in &events[2..6] {
        bus.damages(*damaged);
    }
    house.settle().await;
    assert_eq!(house.numbers(), [0, 1, 6, 7]);
    assert_eq!(house.damages(), 4, "each is counted");
    let stretches = &house.dispatcher.as_ref().unwrap().told.stretches;
    assert!(!stretches.is_open(), "its end was told of");
}

#[tokio::test]
async fn a_retry_beside_a_damaged_record_goes_on_and_one_of_it_ends() {
    let mut house = House::new().await;
    let id = house
        .subscribe("acme", json!({ "ordered": true, "key": "/key" }))
        .await;
    house.answer(|_| failed());
    for n in 0..4 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.settle().await;
    house.answer(|_| Verdict::Delivered);
    let events = events_of(&house).await;
    let bus = troubled(&mut house).await;
    bus.damages(events[1]);
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(house.numbers()[1..], [0, 2, 3]);
    let rows = house.store();
    let rows = rows.deliveries().attempts_of(id, (1, u32::MAX), 1).await;
    let told = rows.unwrap().rows.remove(0);
    assert_eq!(
        (told.event_id, told.outcome.as_str()),
        (events[1], "gave-up")
    );
    assert!(
        told.detail.contains("the log is damaged"),
        "{}",
        told.detail
    );
}

#[tokio::test]
async fn a_damaged_cursor_holds_up_its_partition_alone_and_is_left_as_it_is() {
    let (_folder, path, mut house) = House::on_a_file().await;
    for (tenant, events) in [("acme", 40), ("globex", 50)] {
        house.subscribe(tenant, json!({})).await;
        for n in 0..events {
            house.publish(tenant, json!({ "n": n })).await;
        }
    }
    house.settle().await;
    assert_eq!(house.got().len(), 90);
    let query = crate::events::Query {
        types: Some("audit.test.made".parse().unwrap()),
        limit: 1,
        ..Default::default()
    };
    let list = house.gateway.events.list(&caller("acme"), &query).await;
    let topic = list.unwrap().items.remove(0).topic;
    let cursors = house.store().deliveries().cursors().await.unwrap().rows;
    let next_of = |partition: u32| {
        let mut of_topic = cursors.iter().filter(|it| it.topic == topic);
        let cursor = of_topic.find(|it| it.partition == partition).unwrap();
        u8::try_from(cursor.next_offset).unwrap()
    };
    let (next, other) = (next_of(0), next_of(1));
    assert!((40..50).contains(&next) && other >= 50, "{next}, {other}");
    // The numbers of these two partitions take no room in a row, so that the next offset stands beside the topic.
    let cursor = |next: u8| format!("{topic}{}", char::from(next));
    let (written, damaged) = (cursor(next), cursor(next - 1));
    house.goes_on_after(&path, (&written, &damaged)).await;
    for (tenant, n) in [("acme", 70), ("globex", 80)] {
        house.publish(tenant, json!({ "n": n })).await;
    }
    house.pass(Duration::from_secs(5)).await;
    assert_eq!(house.numbers()[90..], [80]);
    assert_eq!(house.damages(), 1);
    let kept = house.store().deliveries().cursors().await.unwrap();
    assert_eq!(kept.damaged.len(), 1);

    // Brought back, it is gone on from.
    house.goes_on_after(&path, (&damaged, &written)).await;
    house.settle().await;
    assert_eq!(house.numbers()[90..], [80, 70]);
}

#[tokio::test]
async fn a_subscription_whose_progress_is_damaged_gets_nothing_alone_and_is_left_as_it_is() {
    let (_folder, path, mut house) = House::on_a_file().await;
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 2 })).await;
    house.settle().await;
    assert_eq!(house.numbers(), [1, 2, 2]);
    // The number of what the first got last stands before its places.
    let row = |last: char| format!("{last}{{\"start\"");
    let (written, damaged) = (row('\u{2}'), row('\u{3}'));
    house.goes_on_after(&path, (&written, &damaged)).await;
    house.publish("acme", json!({ "n": 3 })).await;
    house.pass(Duration::from_secs(5)).await;
    assert_eq!(house.numbers()[3..], [3]);
    assert_eq!(house.damages(), 1);
    let kept = house.store().deliveries().progress(Share::ALL).await;
    assert_eq!(kept.unwrap().damaged.len(), 1);

    let held = |house: &House| {
        let streams = &house.dispatcher.as_ref().unwrap().streams;
        streams.iter().any(|it| !it.outstanding.is_empty())
    };
    assert!(held(&house));

    // Brought back, it gets what the other has got meanwhile, and that gets it once.
    house.goes_on_after(&path, (&damaged, &written)).await;
    house.publish("acme", json!({ "n": 4 })).await;
    house.settle().await;
    let mut numbers = house.numbers().split_off(4);
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4, 4]);
    assert!(!held(&house));
}

#[tokio::test]
async fn the_cursor_is_held_for_a_lost_subscription_until_it_is_deleted() {
    let (_folder, path, mut house) = House::on_a_file().await;
    let id = house.subscribe("acme", json!({})).await;
    for n in 1..=2 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    house
        .goes_on_after(&path, ("\u{2}{\"start\"", "\u{3}{\"start\""))
        .await;
    house.publish("acme", json!({ "n": 3 })).await;
    house.pass(Duration::from_secs(1)).await;
    let cursors = async |house: &House| {
        let rows = house.store().deliveries().cursors().await.unwrap().rows;
        rows.iter().map(|it| it.next_offset).sum::<u64>()
    };
    let before = cursors(&house).await;
    let room = house.gateway.subscriptions.clone();
    room.delete(&caller("acme"), id).await.unwrap();
    house.pass(Duration::from_secs(5)).await;
    assert!(cursors(&house).await > before, "{before}");
    assert_eq!(house.numbers(), [1, 2]);
}

#[tokio::test]
async fn an_event_that_waits_for_a_place_that_is_damaged_says_so() {
    let (_folder, path, mut house) = House::on_a_file().await;
    let id = house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.settle().await;
    let places = ("{\"start\":1", "{\"start\":9");
    house.goes_on_after(&path, places).await;
    house.publish("acme", json!({ "n": 2 })).await;
    house.settle().await;
    assert_eq!(house.numbers(), [1]);
    assert_eq!(house.why(1, id).await, None, "its attempt is kept");
    let said = "whether the event was sent is not known";
    house.assert_why(2, id, Why::Damaged, said).await;
}

#[tokio::test]
async fn an_event_of_which_an_attempt_or_what_is_to_follow_is_damaged_says_so() {
    let (_folder, path, mut house) = House::on_a_file().await;
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["1h"] } });
    let id = house.subscribe("acme", delivery).await;
    house.subscribe("globex", json!({})).await;
    house.answer(|got| match got.n {
        1 => Verdict::Delivered,
        _ => failed(),
    });
    for (n, key) in [(1, "lane-1"), (2, "lane-2"), (3, "lane-2")] {
        house.publish("acme", json!({ "n": n, "key": key })).await;
    }
    house.settle().await;
    assert_eq!(house.why(1, id).await, None);
    let said = "whether it was sent is not known";
    house.goes_on_after(&path, ("lane-1", "lane-0")).await;
    house.assert_why(1, id, Why::Damaged, said).await;
    house.assert_why(2, id, Why::Retry, "Attempt 1").await;
    house.goes_on_after(&path, ("lane-2", "lane-0")).await;
    house.assert_why(2, id, Why::Damaged, said).await;
    house.assert_why(3, id, Why::Damaged, said).await;
}

#[tokio::test]
async fn what_is_sound_and_holds_what_cannot_be_read_leaves_the_rest_of_a_course() {
    let mut house = House::new().await;
    let delivery = json!({ "retry": { "schedule": ["1h"] } });
    let id = house.subscribe("acme", delivery.clone()).await;
    let other = house.subscribe("acme", delivery).await;
    house.answer(|got| match got.n {
        1 => Verdict::Delivered,
        _ => failed(),
    });
    for n in 1..=2 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let store = house.store();
    let rows = store.deliveries();
    let mut attempts = rows.attempts_of(id, (0, 0), 1).await.unwrap().rows;
    let mut pending = house.pending_of(id).await;
    let mut progress = rows.progress_of(&[id]).await.unwrap().rows;
    attempts[0].detail = "no attempt".into();
    pending[0].detail = "nothing pending".into();
    progress[0].places = "no places".into();
    let flush = tidings_store::Flush {
        attempts,
        pending,
        progress,
        ..Default::default()
    };
    rows.flush(&flush).await.unwrap();

    let said = "whether it was sent is not known";
    house.assert_why(1, id, Why::Damaged, said).await;
    assert_eq!(house.why(1, other).await, None);
    house.assert_why(2, id, Why::Damaged, said).await;
    house.assert_why(2, other, Why::Retry, "Attempt 1").await;
    house.publish("acme", json!({ "n": 3 })).await;
    let said = "How far its deliveries had come is damaged";
    house.assert_why(3, id, Why::Damaged, said).await;
    let said = "nothing is written down yet";
    house.assert_why(3, other, Why::NotReached, said).await;
    let kept = async |n: u64| {
        let told = house.told(n).await;
        (told.attempts.len(), told.waits.len())
    };
    assert_eq!((kept(1).await, kept(2).await), ((1, 0), (2, 1)));
}

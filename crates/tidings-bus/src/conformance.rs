//! The contract of [`Bus`], as a suite that every kind of bus runs.
//!
//! Each case uses topics of its own with names that are new in every run, and counts on nothing
//! else about the bus: another program may append to it meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidings_event::{TenantId, Topic, json::Fingerprint};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    AppendError, Appended, Bus, Headers, Known, Once, Partition, Position, Read, Record, Stored,
    partition_of, time_of,
};

/// How long a case waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every case on a bus that `make` gives: a new one each time, or the same.
///
/// # Panics
/// When the bus breaks its contract.
pub async fn suite(make: impl AsyncFn() -> Arc<dyn Bus>) {
    a_batch_stands_adjacent_and_in_order(&*make().await).await;
    a_record_comes_back_whole(&*make().await).await;
    concurrent_appends_leave_no_gap(make().await).await;
    pages_respect_their_limits(&*make().await).await;
    an_event_is_found_by_its_tenant_only(&*make().await).await;
    an_offset_is_found_by_time(&*make().await).await;
    the_unknown_is_empty(&*make().await).await;
    an_append_wakes_the_tail(&*make().await).await;
    a_tenants_tail_is_woken_by_its_records(&*make().await).await;
    an_abandoned_batch_is_never_torn(make().await).await;
    if make().await.keeps_receipts() {
        a_repeated_key_appends_once(&*make().await).await;
        a_reused_key_refuses_the_batch(&*make().await).await;
        a_key_twice_in_a_batch_is_a_repeat(&*make().await).await;
        concurrent_appends_of_a_key_append_once(make().await).await;
        keys_are_scoped_by_tenant_and_principal(&*make().await).await;
    }
}

fn topic(case: &str) -> Topic {
    format!("conformance.{case}.{}", Uuid::now_v7())
        .parse()
        .expect("a legal topic")
}

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a legal tenant")
}

fn record(topic: &Topic, key: &str, value: &str) -> Record {
    let event_id = Uuid::now_v7();
    Record {
        topic: topic.clone(),
        key: key.to_owned(),
        tenant: tenant("acme"),
        event_id,
        timestamp_ms: time_of(event_id).expect("it is a UUID v7"),
        headers: Headers::default(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        once: None,
    }
}

fn once(mut record: Record, key: &str, body: &str) -> Record {
    let fingerprint = Fingerprint::of_bytes(body.as_bytes());
    record.once = Some(Once {
        principal: "crm".into(),
        key: key.into(),
        fingerprint,
    });
    record
}

/// A key that no run before has used.
fn fresh_key() -> String {
    Uuid::now_v7().to_string()
}

async fn append(bus: &dyn Bus, records: Vec<Record>) -> Vec<Appended> {
    bus.append(records).await.expect("the append succeeds")
}

fn position(appended: &Appended) -> Position {
    match appended {
        Appended::At(position) => *position,
        other => panic!("not appended: {other:?}"),
    }
}

async fn partitions(bus: &dyn Bus, topic: &Topic) -> u32 {
    let topics = bus.topics().await.expect("topics can be listed");
    let found = topics.into_iter().find(|(name, _)| name == topic);
    found
        .expect("the topic is listed once it was appended to")
        .1
}

fn all(from: u64) -> Read {
    Read {
        from,
        tenant: None,
        limit: 1000,
        scan: 10_000,
    }
}

/// Everything in a partition, page by page, with the promise of gap-free offsets checked.
async fn read_partition(bus: &dyn Bus, partition: &Partition) -> Vec<Stored> {
    let bounds = bus
        .bounds(partition.clone())
        .await
        .expect("bounds can be read");
    let (mut records, mut next) = (Vec::new(), bounds.start);
    while next < bounds.end {
        let page = bus
            .read(partition.clone(), all(next))
            .await
            .expect("the log can be read");
        assert!(
            page.next > next,
            "a page ends where it began, at {next} of {bounds:?}"
        );
        assert!(page.more || page.next >= bounds.end, "{page:?}");
        assert!(page.end >= bounds.end, "{page:?}");
        records.extend(page.records);
        next = page.next;
    }
    let offsets: Vec<u64> = records.iter().map(|stored| stored.offset).collect();
    let expected: Vec<u64> = (bounds.start..bounds.end).collect();
    assert_eq!(offsets, expected, "offsets of {partition:?}");
    let beyond = bus.read(partition.clone(), all(bounds.end + 1_000));
    let beyond = beyond.await.expect("where it ends can be asked");
    let is_told = (bounds.end..bounds.end + 1_000).contains(&beyond.end);
    assert!(is_told && beyond.records.is_empty(), "{beyond:?}");
    records
}

async fn read_topic(bus: &dyn Bus, topic: &Topic) -> Vec<Stored> {
    let mut records = Vec::new();
    for number in 0..partitions(bus, topic).await {
        records.extend(
            read_partition(
                bus,
                &Partition {
                    topic: topic.clone(),
                    number,
                },
            )
            .await,
        );
    }
    records
}

fn values(records: &[Stored]) -> Vec<&str> {
    records
        .iter()
        .map(|stored| std::str::from_utf8(&stored.value).expect("text"))
        .collect()
}

async fn a_batch_stands_adjacent_and_in_order(bus: &dyn Bus) {
    let topic = topic("batch");
    let keys = ["a", "b", "c", "d"];
    let batch: Vec<Record> = (0..200)
        .map(|n| record(&topic, keys[n % 4], &format!("{n}")))
        .collect();
    let appended = append(bus, batch.clone()).await;
    assert_eq!(appended.len(), 200);
    let count = partitions(bus, &topic).await;
    let mut next = vec![0; count as usize];
    for (record, outcome) in batch.iter().zip(&appended) {
        let at = position(outcome);
        assert_eq!(at.partition, partition_of(record.key.as_bytes(), count));
        assert_eq!(
            at.offset, next[at.partition as usize],
            "adjacent and in order"
        );
        next[at.partition as usize] += 1;
    }
    for (record, outcome) in batch.iter().zip(&appended) {
        let at = position(outcome);
        let partition = Partition {
            topic: topic.clone(),
            number: at.partition,
        };
        let records = read_partition(bus, &partition).await;
        let offset = usize::try_from(at.offset).expect("small");
        assert_eq!(records[offset].event_id, record.event_id);
    }
}

async fn a_record_comes_back_whole(bus: &dyn Bus) {
    let topic = topic("whole");
    let mut sent = record(&topic, "ключ", "");
    sent.value = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    sent.headers.push("ce_type", "demo.greeting.sent");
    sent.headers.push("ce_subject", "größe: x");
    let at = position(&append(bus, vec![sent.clone()]).await[0]);
    let partition = Partition {
        topic: topic.clone(),
        number: at.partition,
    };
    let expected = Stored {
        topic,
        partition: at.partition,
        offset: at.offset,
        key: sent.key,
        tenant: sent.tenant,
        event_id: sent.event_id,
        timestamp_ms: sent.timestamp_ms,
        headers: sent.headers,
        value: sent.value,
    };
    assert_eq!(read_partition(bus, &partition).await, [expected]);
}

async fn concurrent_appends_leave_no_gap(bus: Arc<dyn Bus>) {
    let topic = topic("concurrent");
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (bus, topic) = (Arc::clone(&bus), topic.clone());
            tokio::spawn(async move {
                for batch in 0..8 {
                    let name = format!("{task}/{batch}");
                    append(&*bus, vec![record(&topic, "same", &name); 3]).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    let records = read_topic(&*bus, &topic).await;
    assert_eq!(records.len(), 16 * 8 * 3);
    let values = values(&records);
    assert!(
        values
            .chunks(3)
            .all(|batch| batch[0] == batch[1] && batch[1] == batch[2])
    );
    for task in 0..16 {
        let own = values
            .iter()
            .filter(|value| value.starts_with(&format!("{task}/")));
        assert!(own.is_sorted(), "each caller's batches stand in its order");
    }
}

async fn pages_respect_their_limits(bus: &dyn Bus) {
    let topic = topic("pages");
    let batch = (0..100_usize).map(|n| {
        let mut record = record(&topic, "same", &format!("{n}"));
        record.tenant = tenant(if n.is_multiple_of(10) { "rare" } else { "loud" });
        record
    });
    let at = position(&append(bus, batch.collect()).await[0]);
    let partition = Partition {
        topic,
        number: at.partition,
    };
    let read = async |from, tenant: Option<&str>, limit, scan| {
        let tenant = tenant.map(self::tenant);
        let page = bus
            .read(
                partition.clone(),
                Read {
                    from,
                    tenant,
                    limit,
                    scan,
                },
            )
            .await;
        let page = page.expect("the log can be read");
        (
            page.records
                .iter()
                .map(|stored| stored.offset)
                .collect::<Vec<_>>(),
            page.next,
            page.more,
        )
    };
    assert_eq!(read(0, None, 3, 1000).await, (vec![0, 1, 2], 3, true));
    assert_eq!(read(98, None, 10, 1000).await, (vec![98, 99], 100, false));
    assert_eq!(read(100, None, 10, 1000).await, (vec![], 100, false));
    assert_eq!(read(0, None, 10, 4).await, (vec![0, 1, 2, 3], 4, true));
    assert_eq!(
        read(1, Some("rare"), 2, 1000).await,
        (vec![10, 20], 21, true)
    );
    assert_eq!(read(1, Some("rare"), 2, 5).await, (vec![], 6, true));
    assert_eq!(read(91, Some("rare"), 2, 1000).await, (vec![], 100, false));
    assert_eq!(read(0, Some("nobody"), 2, 1000).await, (vec![], 100, false));
}

async fn an_event_is_found_by_its_tenant_only(bus: &dyn Bus) {
    let topic = topic("find");
    let sent = record(&topic, "acme", "x");
    append(bus, vec![record(&topic, "acme", "before"), sent.clone()]).await;
    let found = bus
        .find(tenant("acme"), sent.event_id)
        .await
        .expect("find works");
    assert_eq!(found.expect("its tenant finds it").event_id, sent.event_id);
    assert_eq!(bus.find(tenant("globex"), sent.event_id).await, Ok(None));
    assert_eq!(bus.find(tenant("acme"), Uuid::now_v7()).await, Ok(None));
}

async fn an_offset_is_found_by_time(bus: &dyn Bus) {
    let topic = topic("time");
    let start = 1_700_000_000_000;
    let batch = (0..10).map(|n| {
        let mut record = record(&topic, "same", "x");
        record.timestamp_ms = start + n * 1000;
        record
    });
    let at = position(&append(bus, batch.collect()).await[0]);
    let partition = Partition {
        topic,
        number: at.partition,
    };
    for (time_ms, offset) in [(0, 0), (0, 0), (3000, 3), (3001, 4), (9000, 9), (9001, 10)] {
        assert_eq!(
            bus.offset_at(partition.clone(), start + time_ms).await,
            Ok(offset)
        );
    }
    assert_eq!(bus.offset_at(partition, 0).await, Ok(0));
}

async fn the_unknown_is_empty(bus: &dyn Bus) {
    let partition = Partition {
        topic: topic("unknown"),
        number: 3,
    };
    let bounds = bus
        .bounds(partition.clone())
        .await
        .expect("bounds of the unknown");
    assert_eq!((bounds.start, bounds.end), (0, 0));
    let page = bus
        .read(partition.clone(), all(0))
        .await
        .expect("the unknown can be read");
    assert!(page.records.is_empty() && page.next == 0);
    assert_eq!(bus.offset_at(partition, 5).await, Ok(0));
}

async fn an_append_wakes_the_tail(bus: &dyn Bus) {
    let topic = topic("tail");
    let mut tail = bus.tail();
    tail.mark_unchanged();
    append(bus, vec![record(&topic, "a", "x")]).await;
    is_woken(&mut tail).await;
    assert_eq!(read_topic(bus, &topic).await.len(), 1);
}

async fn a_tenants_tail_is_woken_by_its_records(bus: &dyn Bus) {
    const APPENDS: u64 = 50;
    let [quiet, loud] = ["quiet", "loud"].map(|name| tenant(&format!("{name}-{}", Uuid::now_v7())));
    let of = |tenant: &TenantId, topic: &Topic| {
        let mut record = record(topic, tenant.as_str(), "x");
        record.tenant = tenant.clone();
        record
    };
    let mut idle = bus.tail_of(&quiet);
    let mut tails = [(); 2].map(|()| bus.tail_of(&loud));
    let (topic, before) = (topic("loud"), *idle.borrow());
    for _ in 0..APPENDS {
        for tail in &mut tails {
            tail.mark_unchanged();
        }
        append(bus, vec![of(&loud, &topic)]).await;
        for tail in &mut tails {
            is_woken(tail).await;
        }
    }
    let in_vain = *idle.borrow_and_update() - before;
    assert!(in_vain < APPENDS / 5, "woken {in_vain} times by others");
    let topic = self::topic("quiet");
    append(bus, vec![of(&loud, &topic), of(&quiet, &topic)]).await;
    is_woken(&mut idle).await;
}

async fn is_woken(tail: &mut watch::Receiver<u64>) {
    let woken = tokio::time::timeout(PATIENCE, tail.changed()).await;
    woken
        .expect("the tail is woken in time")
        .expect("the bus is there");
}

async fn an_abandoned_batch_is_never_torn(bus: Arc<dyn Bus>) {
    let topic = topic("abandoned");
    for batch in 0..20 {
        let records = vec![record(&topic, "same", &format!("{batch}")); 50];
        let task = {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move { bus.append(records).await })
        };
        if batch % 2 == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _cancelled_or_done = task.await;
    }
    append(&*bus, vec![record(&topic, "same", "last")]).await;
    let records = read_topic(&*bus, &topic).await;
    let values = values(&records);
    for batch in 0..20 {
        let count = values
            .iter()
            .filter(|value| **value == format!("{batch}"))
            .count();
        assert!(count == 0 || count == 50, "{count} of batch {batch}");
    }
    assert!(values.is_sorted_by_key(|value| value.parse::<u32>().unwrap_or(u32::MAX)));
}

async fn a_repeated_key_appends_once(bus: &dyn Bus) {
    let (topic, key) = (topic("repeat"), fresh_key());
    let first = once(record(&topic, "a", "x"), &key, "body");
    let at = position(&append(bus, vec![first.clone()]).await[0]);
    let again = once(record(&topic, "a", "x"), &key, "body");
    let other = once(record(&topic, "a", "y"), &fresh_key(), "body");
    let outcomes = append(bus, vec![again, other]).await;
    let Appended::Repeat(receipt) = &outcomes[0] else {
        panic!("appended twice")
    };
    assert_eq!((receipt.event_id, &receipt.topic), (first.event_id, &topic));
    assert_eq!(
        (receipt.partition, receipt.offset),
        (at.partition, at.offset)
    );
    assert_eq!(position(&outcomes[1]).offset, at.offset + 1);
    assert_eq!(values(&read_topic(bus, &topic).await), ["x", "y"]);
    let key = first.once.clone().expect("a record with a key");
    let known = bus.known(first.tenant.clone(), key).await;
    assert_eq!(known, Ok(Some(Known::Used(receipt.clone()))));
}

async fn a_reused_key_refuses_the_batch(bus: &dyn Bus) {
    let (topic, used, new) = (topic("reused"), fresh_key(), fresh_key());
    append(bus, vec![once(record(&topic, "a", "x"), &used, "body")]).await;
    let batch = vec![
        once(record(&topic, "a", "1"), &new, "body"),
        once(record(&topic, "a", "2"), &used, "another"),
        record(&topic, "a", "3"),
        once(record(&topic, "a", "4"), &new, "a third"),
    ];
    assert_eq!(
        bus.append(batch.clone()).await,
        Err(AppendError::KeyReused(vec![1, 3]))
    );
    assert_eq!(values(&read_topic(bus, &topic).await), ["x"]);
    assert_eq!(bus.find(tenant("acme"), batch[0].event_id).await, Ok(None));
    let look_up = async |record: &Record| {
        let once = record.once.clone().expect("a record with a key");
        bus.known(record.tenant.clone(), once).await
    };
    assert_eq!(look_up(&batch[0]).await, Ok(None));
    assert_eq!(look_up(&batch[1]).await, Ok(Some(Known::Reused)));
    // The refused batch has not used its other keys up.
    let outcomes = append(bus, vec![once(record(&topic, "a", "5"), &new, "a third")]).await;
    assert_eq!(position(&outcomes[0]).offset, 1);
}

async fn a_key_twice_in_a_batch_is_a_repeat(bus: &dyn Bus) {
    let (topic, key) = (topic("twice"), fresh_key());
    let first = once(record(&topic, "a", "x"), &key, "body");
    let second = once(record(&topic, "a", "x"), &key, "body");
    let outcomes = append(bus, vec![first.clone(), second]).await;
    let at = position(&outcomes[0]);
    let Appended::Repeat(receipt) = &outcomes[1] else {
        panic!("appended twice")
    };
    assert_eq!(
        (receipt.event_id, receipt.offset),
        (first.event_id, at.offset)
    );
    assert_eq!(read_topic(bus, &topic).await.len(), 1);
}

async fn concurrent_appends_of_a_key_append_once(bus: Arc<dyn Bus>) {
    let (topic, key) = (topic("race"), fresh_key());
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let bus = Arc::clone(&bus);
            let record = once(record(&topic, "a", "x"), &key, "body");
            tokio::spawn(async move {
                let id = record.event_id;
                match append(&*bus, vec![record]).await.remove(0) {
                    Appended::At(_) => (true, id),
                    Appended::Repeat(receipt) => (false, receipt.event_id),
                    Appended::Skipped => panic!("skipped"),
                }
            })
        })
        .collect();
    let (mut appended, mut ids) = (0, HashSet::new());
    for task in tasks {
        let (fresh, id) = task.await.expect("no task panics");
        appended += u32::from(fresh);
        ids.insert(id);
    }
    assert_eq!((appended, ids.len()), (1, 1));
    assert_eq!(read_topic(&*bus, &topic).await.len(), 1);
}

async fn keys_are_scoped_by_tenant_and_principal(bus: &dyn Bus) {
    let (topic, key) = (topic("scope"), fresh_key());
    let own = once(record(&topic, "a", "1"), &key, "one");
    let mut foreign = once(record(&topic, "a", "2"), &key, "two");
    foreign.tenant = tenant("globex");
    let mut colleague = once(record(&topic, "a", "3"), &key, "three");
    if let Some(once) = &mut colleague.once {
        once.principal = "shop".into();
    }
    let outcomes = append(bus, vec![own, foreign, colleague]).await;
    let offsets: Vec<u64> = outcomes
        .iter()
        .map(|outcome| position(outcome).offset)
        .collect();
    assert_eq!(offsets, [0, 1, 2]);
}

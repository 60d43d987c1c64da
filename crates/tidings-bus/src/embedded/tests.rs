//! What the embedded bus promises beyond the contract that every bus keeps.

mod damage;
mod gathering;
mod renewal;
mod retention;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use tidings_event::json::Fingerprint;

use super::writer::{Injection, Job};
use super::*;
use crate::memory::Memory;
use crate::{Headers, Once, Position};

const START_MS: i64 = 1_700_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A clock that tests move.
#[derive(Clone)]
pub(super) struct Manual(Arc<AtomicI64>);

impl Manual {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START_MS)))
    }

    pub(super) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    pub(super) fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Arc::new(move || time.load(Ordering::SeqCst))
    }
}

pub(super) fn config(folder: &Path, clock: &Manual) -> Config {
    Config {
        partitions: 3,
        ..Config::new(folder, clock.clock())
    }
}

pub(super) fn open(folder: &Path, clock: &Manual) -> Embedded {
    Embedded::open(config(folder, clock)).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

pub(super) fn record(n: u32, size: usize) -> Record {
    Record {
        topic: "t".parse().unwrap(),
        key: format!("k{}", n % 5),
        tenant: format!("tenant{}", n % 2).parse().unwrap(),
        event_id: Uuid::now_v7(),
        timestamp_ms: START_MS + i64::from(n),
        headers: Headers::from_text("a: b\n".into()),
        value: Bytes::from(vec![u8::try_from(n % 251).unwrap(); size]),
        once: None,
    }
}

fn keyed(n: u32, key: &str) -> Record {
    let fingerprint = Fingerprint(u128::from(n));
    let once = Once {
        principal: "crm".into(),
        key: key.into(),
        fingerprint,
    };
    Record {
        once: Some(once),
        ..record(n, 20)
    }
}

/// Everything that can be read, or the first error.
pub(super) async fn content(bus: &dyn Bus) -> Result<Vec<Stored>, ReadError> {
    let mut content = Vec::new();
    for (topic, partitions) in bus.topics().await? {
        for number in 0..partitions {
            let partition = Partition {
                topic: topic.clone(),
                number,
            };
            let bounds = bus.bounds(partition.clone()).await?;
            let mut from = bounds.start;
            while from < bounds.end {
                let read = Read {
                    from,
                    tenant: None,
                    limit: 100,
                    scan: 1000,
                };
                let page = bus.read(partition.clone(), read).await?;
                content.extend(page.records);
                from = page.next;
            }
        }
    }
    Ok(content)
}

#[tokio::test]
async fn a_page_of_one_tenant_looks_at_no_more_of_anothers_large_events_than_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    let of = |tenant: &str, size| Record {
        key: "same".into(),
        tenant: tenant.parse().unwrap(),
        ..record(1, size)
    };
    for _ in 0..20 {
        bus.append(vec![of("loud", 1 << 20)]).await.unwrap();
    }
    bus.append(vec![of("quiet", 10)]).await.unwrap();
    let mut partition = Partition {
        topic: "t".parse().unwrap(),
        number: 0,
    };
    partition.number = crate::partition_of(b"same", 3);
    let read = |from| Read {
        from,
        tenant: Some("quiet".parse().unwrap()),
        limit: 10,
        scan: 10_000,
    };
    let first = bus.read(partition.clone(), read(0)).await.unwrap();
    assert!(
        first.records.is_empty() && (1..20).contains(&first.next),
        "{}",
        first.next
    );
    let second = bus.read(partition, read(first.next)).await.unwrap();
    assert_eq!((second.records.len(), second.next), (1, 21));
}

pub(super) fn clean(folder: &Path) {
    assert_eq!(verify(folder).unwrap().findings, Vec::<String>::new());
}

fn inject(bus: &Embedded, injection: Injection) {
    assert!(bus.gathering.as_ref().unwrap().ask(Job::Inject(injection)));
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let number = AtomicI64::new(0);
    let clock = Manual::new();
    crate::conformance::suite(async || {
        let folder = root
            .path()
            .join(number.fetch_add(1, Ordering::SeqCst).to_string());
        Arc::new(open(&folder, &clock)) as Arc<dyn Bus>
    })
    .await;
    for folder in fs::read_dir(root.path()).unwrap() {
        let folder = folder.unwrap().path();
        clean(&folder);
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(folder.path(), &clock);
    let second = Embedded::open(config(folder.path(), &clock));
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    bus.close();
    open(folder.path(), &clock);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(folder.path(), &clock);
    for n in 0..10 {
        bus.append((0..20).map(|m| record(20 * n + m, 500)).collect())
            .await
            .unwrap();
    }
    let before = content(&bus).await.unwrap();
    bus.close();
    let bus = open(folder.path(), &clock);
    assert_eq!(content(&bus).await.unwrap(), before);
    assert_eq!(before.len(), 200);
    assert_eq!(bus.count(&"tenant1".parse().unwrap()).await, Ok(100));
    for stored in before {
        let found = bus
            .find(stored.tenant.clone(), stored.event_id)
            .await
            .unwrap();
        assert_eq!(found, Some(stored));
    }
    assert_eq!(verify(folder.path()).unwrap().events, 200);
    clean(folder.path());
}

#[tokio::test]
async fn a_key_is_honoured_to_the_millisecond() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let mut bus = open(folder.path(), &clock);
    clock.advance(1000);
    // The generation opens with its first key; this one comes later, so that it outlives the turn.
    bus.append(vec![keyed(0, "other")]).await.unwrap();
    clock.advance(DAY_MS / 2);
    bus.append(vec![keyed(1, "key")]).await.unwrap();
    for step in [DAY_MS / 2, DAY_MS / 2 - 1] {
        clock.advance(step);
        let again = bus.append(vec![keyed(1, "key")]).await.unwrap();
        assert!(matches!(again[0], Appended::Repeat(_)), "{step}");
        let reused = bus.append(vec![keyed(3, "key")]).await;
        assert_eq!(reused, Err(AppendError::KeyReused(vec![0])));
        bus.close();
        bus = open(folder.path(), &clock);
    }
    clock.advance(1);
    let fresh = bus.append(vec![keyed(3, "key")]).await.unwrap();
    assert!(matches!(fresh[0], Appended::At(_)));
    clock.advance(2 * DAY_MS);
    bus.append(vec![keyed(3, "third")]).await.unwrap();
    bus.sweep().await;
    assert_eq!(verify(folder.path()).unwrap().keys, 2, "too early");
    clock.advance(DAY_MS);
    bus.sweep().await;
    assert_eq!(
        verify(folder.path()).unwrap().keys,
        1,
        "expired generations are dropped"
    );
    clean(folder.path());
}

#[tokio::test]
async fn a_full_disk_refuses_whole_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(folder.path(), &clock);
    bus.append(vec![keyed(0, "first")]).await.unwrap();
    let before = content(&bus).await.unwrap();
    inject(&bus, Injection::MaxPages(1));
    let batch: Vec<Record> = (0..50)
        .map(|n| record(n, 1000))
        .chain([keyed(1, "new")])
        .collect();
    assert_eq!(bus.append(batch.clone()).await, Err(AppendError::Full));
    assert!(matches!(bus.health(), Health::Degraded(_)));
    assert_eq!(content(&bus).await.unwrap(), before, "reads go on");
    inject(&bus, Injection::MaxPages(1 << 30));
    let appended = bus.append(batch).await.unwrap();
    assert!(
        appended
            .iter()
            .all(|outcome| matches!(outcome, Appended::At(_)))
    );
    assert_eq!(bus.health(), Health::Ready);
    assert_eq!(content(&bus).await.unwrap().len(), 52);
    bus.close();
    clean(folder.path());
}

#[tokio::test]
async fn a_writer_that_panics_poisons_the_storage() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    inject(&bus, Injection::Panic);
    while bus.health() == Health::Ready {
        tokio::task::yield_now().await;
    }
    let poisoned = Health::Poisoned("the writer panicked".into());
    assert_eq!(bus.health(), poisoned);
    let refused = bus.append(vec![record(0, 10)]).await;
    assert_eq!(refused, Err(AppendError::Poisoned));
}

#[tokio::test]
async fn after_a_failed_commit_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(folder.path(), &clock);
    bus.append(vec![record(0, 10)]).await.unwrap();
    inject(&bus, Injection::FailCommit);
    let first = bus.append(vec![record(1, 10)]).await;
    assert!(matches!(first, Err(AppendError::Unknown(_))), "{first:?}");
    for n in 2..4 {
        assert_eq!(
            bus.append(vec![record(n, 10)]).await,
            Err(AppendError::Poisoned)
        );
    }
    assert!(matches!(bus.health(), Health::Poisoned(_)));
    assert_eq!(content(&bus).await.unwrap().len(), 1, "reads go on");
    bus.close();
    let bus = open(folder.path(), &clock);
    let at = bus.append(vec![record(0, 10)]).await.unwrap();
    assert!(matches!(at[0], Appended::At(Position { offset: 1, .. })));
}

#[tokio::test]
async fn a_backup_made_in_use_equals_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(&folder.path().join("a"), &clock);
    bus.append((0..100).map(|n| record(n, 300)).collect())
        .await
        .unwrap();
    let target = folder.path().join("b");
    bus.backup(&target).await.unwrap();
    let expected = content(&bus).await.unwrap();
    bus.append(vec![record(0, 300)]).await.unwrap();
    assert!(matches!(
        bus.backup(&target).await,
        Err(BackupError::Exists(_))
    ));
    clean(&target);
    let copy = open(&target, &clock);
    assert_eq!(content(&copy).await.unwrap(), expected);
    copy.append(vec![record(0, 300)]).await.unwrap();
}

/// A copy of the folder of a running bus is what a crash leaves.
fn crashed(folder: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in [schema::FILE, "bus.db-wal"] {
        fs::copy(folder.join(name), to.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_crash_loses_nothing_and_damage_of_the_wal_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(&root.path().join("live"), &clock);
    for n in 0..10 {
        bus.append(vec![record(n, 3000)]).await.unwrap();
    }
    let expected = content(&bus).await.unwrap();
    let whole = root.path().join("whole");
    crashed(&root.path().join("live"), &whole);
    clean(&whole);
    assert_eq!(content(&open(&whole, &clock)).await.unwrap(), expected);

    let torn = root.path().join("torn");
    crashed(&root.path().join("live"), &torn);
    let wal = fs::read(torn.join("bus.db-wal")).unwrap();
    fs::write(torn.join("bus.db-wal"), &wal[..wal.len() - 100]).unwrap();
    assert_eq!(content(&open(&torn, &clock)).await.unwrap().len(), 9);

    let damaged = root.path().join("damaged");
    crashed(&root.path().join("live"), &damaged);
    let mut wal = wal;
    let middle = wal.len() / 2;
    wal[middle] ^= 4;
    fs::write(damaged.join("bus.db-wal"), &wal).unwrap();
    let opened = Embedded::open(config(&damaged, &clock));
    assert!(matches!(opened, Err(OpenError::DamagedWal { .. })));
    assert!(!verify(&damaged).unwrap().findings.is_empty());
}

/// Each flip is reported by reading or by `verify`, or lies in bytes that nothing is read from.
#[tokio::test]
async fn flipped_bits_are_reported_wherever_they_are() {
    let root = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let folder = root.path().join("whole");
    let bus = open(&folder, &clock);
    bus.append((0..30).map(|n| keyed(n, &format!("key{n}"))).collect())
        .await
        .unwrap();
    bus.append(vec![record(1, 9000), record(2, 100)])
        .await
        .unwrap();
    let expected = content(&bus).await.unwrap();
    bus.close();
    let file = fs::read(folder.join(schema::FILE)).unwrap();
    let (mut silent, mut total) = (0, 0);
    let mut random = 0x9e37_79b9_u32;
    for page in 0..file.len() / 4096 {
        let spread = (0..24).map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random as usize % 4096
        });
        let places: Vec<usize> = (0..12).chain((100..108).chain(spread)).collect();
        for place in places {
            let mut damaged = file.clone();
            damaged[page * 4096 + place] ^= 1 << (place % 8);
            let copy = root.path().join("copy");
            fs::create_dir_all(&copy).unwrap();
            fs::write(copy.join(schema::FILE), &damaged).unwrap();
            total += 1;
            if verify(&copy).unwrap().findings.is_empty() {
                silent += 1;
                let bus = Embedded::open(config(&copy, &clock)).unwrap();
                let read = content(&bus).await.unwrap();
                assert_eq!(read, expected, "page {page}, byte {place}");
                for stored in read {
                    let found = bus
                        .find(stored.tenant.clone(), stored.event_id)
                        .await
                        .unwrap();
                    assert_eq!(found, Some(stored), "page {page}, byte {place}");
                }
            } else if let Ok(bus) = Embedded::open(config(&copy, &clock))
                && let Ok(read) = content(&bus).await
            {
                assert_eq!(read, expected, "served damaged: page {page}, byte {place}");
            }
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(silent < total, "{silent} of {total}");
}

/// What the shadow model is driven by.
#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u32, Option<(u8, u8)>)>),
    Advance(i64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0_u32..8, proptest::option::of((0_u8..6, 0_u8..5)));
    let step = prop_oneof![
        8 => proptest::collection::vec(record, 1..8).prop_map(Step::Append),
        2 => (0..DAY_MS).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..30)
}

fn model_record(n: u32, once: Option<(u8, u8)>) -> Record {
    let once = once.map(|(key, body)| Once {
        principal: "p".into(),
        key: format!("key{key}"),
        // Mostly the same body, so that repeats are more frequent than refusals.
        fingerprint: Fingerprint(u128::from(body / 4)),
    });
    Record {
        once,
        ..record(n, 30)
    }
}

async fn agrees_with_the_model(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let model = Memory::new(3, clock.clock());
    let mut bus = open(folder.path(), &clock);
    for step in steps {
        match step {
            Step::Append(batch) => {
                let batch: Vec<_> = batch
                    .into_iter()
                    .map(|(n, once)| model_record(n, once))
                    .collect();
                assert_eq!(bus.append(batch.clone()).await, model.append(batch).await);
            }
            Step::Advance(ms) => clock.advance(ms),
            Step::Reopen => {
                bus.close();
                bus = open(folder.path(), &clock);
            }
        }
    }
    assert_eq!(content(&bus).await, content(&model).await);
    bus.close();
    clean(folder.path());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_agrees_with_the_model(steps in steps()) {
        runtime().block_on(agrees_with_the_model(steps));
    }
}

/// A folder as `kill -9` leaves it, with a WAL that was not moved.
async fn killed(folder: &Path, clock: &Manual) {
    let running = tempfile::tempdir().unwrap();
    let bus = open(running.path(), clock);
    for n in 0..40 {
        bus.append(vec![record(n, 5_000)]).await.unwrap();
    }
    bus.close();
    let bus = open(running.path(), clock);
    bus.append(vec![record(40, 10)]).await.unwrap();
    for name in [schema::FILE, "bus.db-wal"] {
        fs::copy(running.path().join(name), folder.join(name)).unwrap();
    }
}

#[tokio::test]
async fn an_emptied_file_is_refused_and_its_wal_is_kept() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
    killed(folder.path(), &clock).await;
    for rest in ["", "S"] {
        fs::write(folder.path().join(schema::FILE), rest).unwrap();
        let findings = verify(folder.path()).unwrap().findings;
        assert!(
            findings
                .iter()
                .any(|line| line.contains("bus.db: it is empty")),
            "{findings:?}"
        );
        let refused = Embedded::open(config(folder.path(), &clock)).unwrap_err();
        assert!(
            refused.to_string().contains("bus.db is empty or gone"),
            "{refused}"
        );
        assert!(
            fs::metadata(folder.path().join("bus.db-wal"))
                .unwrap()
                .len()
                > 0
        );
    }
}

#[tokio::test]
async fn a_file_that_ends_early_is_damaged_and_not_just_out_of_reach() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
    killed(folder.path(), &clock).await;
    let file = fs::File::options()
        .write(true)
        .open(folder.path().join(schema::FILE));
    let file = file.unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    match Embedded::open(config(folder.path(), &clock)) {
        Err(error) => assert!(matches!(error, OpenError::Corrupt(_)), "{error}"),
        Ok(bus) => {
            let error = content(&bus).await.unwrap_err();
            let is_damage = matches!(error, ReadError::Corrupt(_) | ReadError::Damaged { .. });
            assert!(is_damage, "{error}");
        }
    }
}

//! Whatever has become of a log's files: opening it refuses with a reason, or what it serves is
//! what was written. Runs a few seconds as a test, and as long as wanted with `make fuzz`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bolero::check;
use bytes::Bytes;
use tidings_bus::embedded::{Config, Embedded, OpenError, verify};
use tidings_bus::{AppendError, Bus, Headers, Once, Partition, Read, ReadError, Record, Stored};
use tidings_event::json::Fingerprint;
use tokio::runtime::Runtime;
use uuid::Uuid;

const PAGE: usize = 4096;
/// The header of a frame of the WAL and its page.
const FRAME: usize = 24 + PAGE;
/// Opening a log syncs, so a second is not many cases.
const AS_A_TEST: Duration = Duration::from_secs(5);

/// Events in the file, and events that are only in the WAL.
const MOVED: usize = 60;
const UNMOVED: usize = 30;

type Log = BTreeMap<(u32, u64), Stored>;

/// A log as `kill -9` leaves it: part of it in the file, part of it only in the WAL.
struct Sound {
    runtime: Runtime,
    file: Vec<u8>,
    wal: Vec<u8>,
    written: Log,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let append = |bus: &Embedded, numbers: std::ops::Range<usize>| {
        for number in numbers {
            let number = u32::try_from(number).unwrap();
            runtime.block_on(bus.append(vec![record(number)])).unwrap();
        }
    };
    let bus = open(folder.path()).unwrap();
    append(&bus, 0..MOVED);
    drop(bus);
    let bus = open(folder.path()).unwrap();
    append(&bus, MOVED..MOVED + UNMOVED);
    let read = |name| fs::read(folder.path().join(name)).unwrap();
    let (file, wal) = (read("bus.db"), read("bus.db-wal"));
    let written = runtime.block_on(served(&bus)).unwrap();
    assert_eq!(written.len(), MOVED + UNMOVED);
    assert!(wal.len() > UNMOVED * FRAME, "{}", wal.len());
    drop(bus);
    Sound {
        runtime,
        file,
        wal,
        written,
    }
});

fn open(folder: &Path) -> Result<Embedded, OpenError> {
    let now = Arc::new(|| 1_700_000_000_000);
    Embedded::open(Config {
        partitions: 3,
        ..Config::new(folder, now)
    })
}

fn record(number: u32) -> Record {
    let once = Once {
        principal: "crm".into(),
        key: format!("once-{number}"),
        fingerprint: Fingerprint(u128::from(number)),
    };
    // Every seventh spills over several pages.
    let size = if number.is_multiple_of(7) {
        10_000
    } else {
        200
    };
    Record {
        topic: "t".parse().unwrap(),
        key: format!("k{number}"),
        tenant: format!("tenant{}", number % 2).parse().unwrap(),
        event_id: Uuid::now_v7(),
        timestamp_ms: 1_700_000_000_000 + i64::from(number),
        headers: Headers::from_text("a: b\n".into()),
        value: Bytes::from(vec![u8::try_from(number).unwrap(); size]),
        once: Some(once),
    }
}

async fn served(bus: &Embedded) -> Result<Log, ReadError> {
    let mut log = Log::new();
    for (topic, partitions) in bus.topics().await? {
        for number in 0..partitions {
            let topic = topic.clone();
            let partition = Partition { topic, number };
            let mut from = 0;
            while from < bus.bounds(partition.clone()).await?.end {
                let read = Read {
                    from,
                    tenant: None,
                    limit: 100,
                    scan: 1000,
                };
                let page = bus.read(partition.clone(), read).await?;
                let records = page.records.into_iter();
                log.extend(records.map(|stored| ((number, stored.offset), stored)));
                assert!(page.next > from, "reading must move on");
                from = page.next;
            }
        }
    }
    Ok(log)
}

/// Reads a fuzzer's bytes as choices.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = (0..4).fold(0, |number, _| number << 8 | usize::from(self.next()));
        number % bound.max(1)
    }

    /// Changes a file as a disk, a crash or a clumsy copy might.
    fn damage(&mut self, bytes: &mut Vec<u8>, block: usize, header: usize) {
        let blocks = bytes.len().saturating_sub(header) / block;
        let start = |index: usize| header + index * block;
        let (one, other) = (start(self.below(blocks)), start(self.below(blocks)));
        let at = self.below(bytes.len());
        let kind = self.next() % 9;
        match kind {
            0 => bytes.truncate(at),
            1 => bytes.truncate(one),
            _ if blocks == 0 => bytes.push(self.next()),
            2 | 3 => bytes[at] ^= 1 << (self.next() % 8),
            4 => bytes[at] = self.next(),
            5 => bytes[one..one + block].fill(self.next() & 1),
            6 => bytes.copy_within(one..one + block, other),
            7 => {
                let kept = bytes[one..one + block].to_vec();
                bytes.copy_within(other..other + block, one);
                bytes[other..other + block].copy_from_slice(&kept);
            }
            // Near the beginning of a page stands what SQLite believes.
            _ => bytes[one + at % 100] ^= 1 << (self.next() % 8),
        }
    }
}

/// What is served, where nothing stands in the way.
async fn judge(bus: &Embedded, is_clean: bool, least: usize) {
    let written = &SOUND.written;
    let log = match served(bus).await {
        Ok(log) => log,
        Err(ReadError::Corrupt(why) | ReadError::Damaged { fault: why, .. }) => {
            assert!(!why.is_empty() && !is_clean, "clean to verify, but: {why}");
            return;
        }
        Err(other) => panic!("damage is called something else: {other}"),
    };
    for (place, stored) in &log {
        assert_eq!(Some(stored), written.get(place));
    }
    let count = log.len();
    assert!(count >= least, "{count} events, and readers are not told");
    for (place, stored) in written {
        let found = bus.find(stored.tenant.clone(), stored.event_id).await;
        match found {
            Ok(Some(found)) => assert_eq!(found, *stored),
            Ok(None) => assert!(
                !is_clean || !log.contains_key(place),
                "{place:?} is not found"
            ),
            Err(ReadError::Corrupt(_) | ReadError::Damaged { .. }) => {
                assert!(!is_clean, "{found:?}");
            }
            Err(other) => panic!("damage is called something else: {other}"),
        }
    }
    let repeat = bus.append(vec![record(200)]).await;
    let stopped = AppendError::Unknown("the writer stopped".into());
    assert_ne!(repeat, Err(stopped), "the writer panicked");
}

fn recover(file: &[u8], wal: Option<&[u8]>, least: usize) {
    // In memory where there is such a folder: nothing here asks what survives a power cut.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.unwrap();
    fs::write(folder.path().join("bus.db"), file).unwrap();
    if let Some(wal) = wal {
        fs::write(folder.path().join("bus.db-wal"), wal).unwrap();
    }
    let report = verify(folder.path()).unwrap();
    let is_clean = report.findings.is_empty();
    match open(folder.path()) {
        Ok(bus) => SOUND.runtime.block_on(judge(&bus, is_clean, least)),
        Err(error) => {
            let why = error.to_string();
            let is_named = why.contains("bus.db") || why.contains("the log is damaged: ");
            assert!(is_named && !is_clean, "{why}");
        }
    }
}

#[test]
fn a_sound_log_is_recovered_whole() {
    recover(&SOUND.file, Some(&SOUND.wal), MOVED + UNMOVED);
}

#[test]
fn a_damaged_file() {
    check!().with_test_time(AS_A_TEST).for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let mut file = SOUND.file.clone();
        for _ in 0..=choices.next() % 3 {
            choices.damage(&mut file, PAGE, 0);
        }
        recover(&file, Some(&SOUND.wal), MOVED + UNMOVED);
    });
}

#[test]
fn a_damaged_wal() {
    check!().with_test_time(AS_A_TEST).for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let mut wal = SOUND.wal.clone();
        for _ in 0..=choices.next() % 3 {
            choices.damage(&mut wal, FRAME, 32);
        }
        // Damage of its end cannot be told from a torn end: then less is served, but nothing else.
        recover(&SOUND.file, Some(&wal), MOVED);
    });
}

#[test]
fn arbitrary_files() {
    check!()
        .with_test_time(Duration::from_secs(2))
        .for_each(|input: &[u8]| {
            let (file, wal) = input.split_at(input.len() / 2);
            // Behind a right header more of it is believed.
            let begun = [&SOUND.file[..100], file].concat();
            let begun_wal = [&SOUND.wal[..32], wal].concat();
            match input.len() % 4 {
                0 => recover(file, Some(wal), 0),
                1 => recover(&begun, None, 0),
                2 => recover(&begun, Some(&begun_wal), 0),
                _ => recover(&SOUND.file, Some(&begun_wal), MOVED),
            }
        });
}

//! Looks at everything a log holds and lists what is not as it was written. Never changes anything.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::block::{Block, COLUMNS, Event};
use super::check_wal;
use super::conversion;
use super::fault::Fault;
use super::files::is_empty;
use super::group::key_of;
use super::ids;
use super::image::{Image, Span, load_counter, name_of, span_of};
use super::reader::DAMAGED;
use super::schema::{self, slot_and_offset};

/// A damaged file can have as many findings as rows; this many tell enough.
const MAX_FINDINGS: usize = 1000;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each names the table and row, and what is wrong.
    pub findings: Vec<String>,
    /// How many events were read.
    pub events: u64,
    /// How many idempotency keys were read.
    pub keys: u64,
}

impl Report {
    fn add(&mut self, finding: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no log.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// It cannot be read here, and nothing is known to be wrong with it. The text says what to do.
    #[error("{0}")]
    Unread(String),
}

/// Reads all of a folder's log, also while it is in use.
pub fn verify(folder: &Path) -> Result<Report, VerifyError> {
    let file = folder.join(schema::FILE);
    if !file.exists() {
        return Err(VerifyError::Missing(file));
    }
    let mut report = Report::default();
    // A WAL that is being written looks torn; only one that nobody writes can be judged.
    // No lock file is made: nobody writes where there is none.
    let lock = match File::open(folder.join(schema::LOCK_FILE)) {
        Ok(file) => file.try_lock().map(|()| Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TryLockError::Error(error)),
    };
    match lock {
        Ok(_held) => {
            if let Err(error) = check_wal(&file) {
                report.add(error.to_string());
            }
        }
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => {
            report.add(format!("{}: {error}", schema::LOCK_FILE));
        }
    }
    if is_empty(&file) {
        // SQLite would delete the WAL beside it, even for a reader.
        report.add(format!("{}: it is empty", schema::FILE));
    } else {
        match look(folder, &mut report) {
            Err(Fault::Unread(why)) => return Err(VerifyError::Unread(why)),
            looked => looked.unwrap_or_else(|fault| report.add(fault.to_string())),
        }
    }
    Ok(report)
}

fn look(folder: &Path, report: &mut Report) -> Result<(), Fault> {
    let connection = schema::open_to_look(folder)?;
    let connection = connection.unchecked_transaction()?;
    let identity = schema::identity(&connection)?;
    let (format, application) = identity;
    let is_ours = application == schema::APPLICATION_ID;
    if !is_ours || ![conversion::FORMER, schema::FORMAT].contains(&format) {
        report.add(format!(
            "{}: header: format and application are {identity:?}",
            schema::FILE
        ));
    }
    each(report, schema::FILE, |report| {
        look_at_pages(&connection, report)
    });
    let is_former = format == conversion::FORMER || !conversion::left(&connection)?.is_empty();
    if is_former && is_ours {
        return if report.findings.is_empty() {
            Err(Fault::Unread(format!(
                "{}: its pages are sound; it is of an earlier version, so no more is looked at until a start of the gateway \
                 has converted it",
                schema::FILE
            )))
        } else {
            Ok(())
        };
    }
    let image = Image::load(&connection)?;
    look_at_schema(&connection, &image, report)?;
    let spans = look_at_spans(&connection, &image, report)?;
    let mut expected: Vec<u64> = image.slots.iter().map(|slot| slot.start).collect();
    for bucket in &image.buckets {
        let events = Events {
            image: &image,
            spans: &spans,
            bucket: bucket.id,
        };
        let mut index = None;
        each(report, &format!("ids_{}", bucket.id), |report| {
            index = Some(Index::load(&connection, bucket.id, report)?);
            Ok(())
        });
        each(report, &format!("blocks_{}", bucket.id), |report| {
            events.look(&connection, index.as_mut(), &mut expected, report)
        });
        if let Some(index) = index {
            index.report_rest(bucket.id, report);
        }
    }
    for (slot, (head, read)) in image.slots.iter().zip(expected).enumerate() {
        if head.next != read {
            report.add(format!(
                "heads: slot {slot}: it ends at {}, its events at {read}",
                head.next
            ));
        }
    }
    for generation in &image.generations {
        each(report, &format!("keys_{}", generation.id), |report| {
            look_at_keys(&connection, &image, generation.id, report)
        });
    }
    look_at_counters(&connection, &image, report)
}

/// A table that cannot be read is a finding; the others are read all the same.
fn each(report: &mut Report, table: &str, look: impl FnOnce(&mut Report) -> Result<(), Fault>) {
    if let Err(fault) = look(report) {
        report.add(format!("{table}: {fault}"));
    }
}

fn look_at_pages(connection: &Connection, report: &mut Report) -> Result<(), Fault> {
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            report.add(format!("{}: {line}", schema::FILE));
        }
    }
    Ok(())
}

fn look_at_schema(
    connection: &Connection,
    image: &Image,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut expected: HashMap<String, String> = schema::FIXED
        .iter()
        .map(|(name, sql)| ((*name).into(), (*sql).into()))
        .collect();
    expected.extend(
        image
            .buckets
            .iter()
            .flat_map(|bucket| schema::bucket_tables(bucket.id)),
    );
    expected.extend(
        image
            .generations
            .iter()
            .map(|keys| schema::generation_table(keys.id)),
    );
    let mut statement =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        if name.starts_with(conversion::KEPT) {
            let fault = "it is kept for what could not be converted of an earlier version's log";
            report.add(format!("sqlite_schema: {name}: {fault}"));
        } else if expected
            .remove(&name)
            .is_none_or(|expected| expected != sql)
        {
            report.add(format!("sqlite_schema: {name}: {DAMAGED}"));
        }
    }
    for name in expected.keys() {
        report.add(format!("sqlite_schema: {name}: it is missing"));
    }
    Ok(())
}

type Spans = HashMap<usize, Vec<Span>>;

fn look_at_spans(
    connection: &Connection,
    image: &Image,
    report: &mut Report,
) -> Result<Spans, Fault> {
    let mut spans = Spans::new();
    let sql = "SELECT first, bucket, max_ms, crc, slot FROM spans ORDER BY slot, first";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let slot = usize::try_from(row.get::<_, i64>(4)?).unwrap_or(usize::MAX);
        match (image.slots.get(slot), span_of(slot, row)) {
            (_, Err(fault)) => report.add(fault.to_string()),
            (Some(head), Ok(span)) if (head.start..head.next).contains(&span.first) => {
                spans.entry(slot).or_default().push(span);
            }
            (_, Ok(span)) => {
                report.add(format!(
                    "spans: slot {slot}, first {}: it covers nothing",
                    span.first
                ));
            }
        }
    }
    Ok(spans)
}

/// The events of one bucket.
struct Events<'a> {
    image: &'a Image,
    spans: &'a Spans,
    bucket: i64,
}

impl Events<'_> {
    fn look(
        &self,
        connection: &Connection,
        mut index: Option<&mut Index>,
        expected: &mut [u64],
        report: &mut Report,
    ) -> Result<(), Fault> {
        let table = format!("blocks_{}", self.bucket);
        let sql = format!("SELECT {COLUMNS} FROM {table} ORDER BY position");
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let position = row.get(0)?;
            let Ok(block) = Block::of(row) else {
                report.add(format!("{table}: position {position}: {DAMAGED}"));
                continue;
            };
            let (slot, offset) = slot_and_offset(position);
            let Some((topic, partition)) = name_of(&self.image.names, slot) else {
                report.add(format!("{table}: slot {slot}: there is no such topic"));
                continue;
            };
            let place = |offset| schema::place(&table, topic.as_str(), partition, offset);
            if !block.is_filled() {
                let fault = "the directory of its block does not fit the content";
                report.add(format!("{}: {fault}", place(offset)));
            }
            for (number, offset) in (0..block.len()).zip(offset..) {
                report.events += 1;
                let event = block.event(number);
                let is_whole = |event: &Event<'_>| event.stored(topic, partition).is_some();
                match event.filter(is_whole) {
                    None => {
                        if let Some(index) = index.as_mut() {
                            let at = i64::try_from(number).ok();
                            let at = at.and_then(|number| number.checked_add(position));
                            let told = report.findings.len();
                            index.damaged.extend(at.map(|at| (at, told)));
                        }
                        report.add(format!("{}: {DAMAGED}", place(offset)));
                    }
                    Some(event) => {
                        if !self.is_covered(slot, offset, event.timestamp_ms) {
                            let fault = "its span names another bucket or an older time";
                            report.add(format!("{}: {fault}", place(offset)));
                        }
                        let entry = (event.id, event.position);
                        if index.as_mut().is_some_and(|index| !index.take(entry)) {
                            let fault = format!("its id {} does not lead to it", event.id);
                            report.add(format!("{}: {fault}", place(offset)));
                        }
                    }
                }
                let due = &mut expected[slot];
                if offset != *due {
                    let before = offset.wrapping_sub(1);
                    let fault = format!("the offset before it is not {before}");
                    report.add(format!("{}: {fault}", place(offset)));
                }
                *due = offset + 1;
            }
        }
        Ok(())
    }

    fn is_covered(&self, slot: usize, offset: u64, timestamp_ms: i64) -> bool {
        let spans = self.spans.get(&slot).map_or(&[][..], Vec::as_slice);
        let after = spans.partition_point(|span| span.first <= offset);
        let span = after.checked_sub(1).and_then(|index| spans.get(index));
        span.is_some_and(|span| span.bucket == self.bucket && span.max_ms >= timestamp_ms)
    }
}

/// The ids of one bucket.
struct Index {
    /// In their order.
    entries: Vec<ids::Entry>,
    /// Whether the event of each was met.
    met: Vec<bool>,
    /// The positions of events that are told of as damaged, and which finding tells of each.
    damaged: HashMap<i64, usize>,
}

impl Index {
    fn load(connection: &Connection, bucket: i64, report: &mut Report) -> Result<Self, Fault> {
        let (mut entries, odd) = ids::all(connection, bucket)?;
        for first in odd {
            report.add(format!("ids_{bucket}: row {first}: {DAMAGED}"));
        }
        entries.sort_unstable();
        let met = vec![false; entries.len()];
        Ok(Self {
            entries,
            met,
            damaged: HashMap::new(),
        })
    }

    /// Whether there is such an entry. It counts for one event.
    fn take(&mut self, entry: ids::Entry) -> bool {
        let place = self.entries.binary_search(&entry);
        place.is_ok_and(|place| !std::mem::replace(&mut self.met[place], true))
    }

    fn report_rest(self, bucket: i64, report: &mut Report) {
        let entries = self.entries.into_iter().zip(self.met);
        for ((id, position), _) in entries.filter(|(_, met)| !met) {
            if let Some(told) = self.damaged.get(&position) {
                if let Some(finding) = report.findings.get_mut(*told) {
                    finding.push_str("; it is event ");
                    finding.push_str(&id.to_string());
                }
                continue;
            }
            report.add(format!(
                "ids_{bucket}: event {id}: it points to position {position}, which is not its event"
            ));
        }
    }
}

fn look_at_keys(
    connection: &Connection,
    image: &Image,
    id: i64,
    report: &mut Report,
) -> Result<(), Fault> {
    let sql = format!(
        "SELECT key, tenant, principal, fingerprint, event_id, position, at_ms, crc FROM keys_{id}"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.keys += 1;
        let (key, tenant, principal): (String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let rest = (row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?);
        match key_of(&key, &tenant, &principal, rest, row.get(7)?) {
            Err(fault) => report.add(format!("keys_{id}: {fault}")),
            Ok(row) if name_of(&image.names, slot_and_offset(row.position).0).is_none() => {
                report.add(format!(
                    "keys_{id}: key {key:?}: it is of a topic that is not there"
                ));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn look_at_counters(
    connection: &Connection,
    image: &Image,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut statement = connection.prepare("SELECT tenant FROM counters")?;
    let mut rows = statement.query([])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        let tenant: String = row.get(0)?;
        match load_counter(connection, &tenant) {
            Ok(count) => sum += count.cast_unsigned(),
            Err(fault) => report.add(fault.to_string()),
        }
    }
    let appended: u64 = image.slots.iter().map(|slot| slot.next).sum();
    if sum != appended {
        report.add(format!(
            "counters: they sum to {sum}, but {appended} events were appended"
        ));
    }
    Ok(())
}

//! The one thread that writes: takes all that waits, commits once, answers all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::checkpoint::{self, Checkpointer};
use super::fault::Fault;
use super::gathering::Gathered;
use super::group::{self, Outcome, Terms};
use super::image::Image;
use super::retention::{self, Limits};
use super::{Clock, Shared};
use crate::{AppendError, Health, Record};

/// A commit takes no further batch once it has so many records …
const GROUP_RECORDS: usize = 4096;
/// … or bytes: pages that are not committed stay in memory.
const GROUP_BYTES: usize = 16 << 20;
/// How much is written between two checkpoints. They take a processor for as long as there is to move, and others wait.
const CHECKPOINT_BYTES: usize = if cfg!(test) { 1 << 20 } else { 4 << 20 };
/// So many batches of one thread are answered from within its runtime.
const LARGE_GROUP: usize = 8;
/// What a commit writes besides its records: the pages of heads, spans, counters, inner nodes.
const COMMIT_BYTES: usize = 32 << 10;
/// How often an idle writer looks for what retention should drop.
const IDLE: Duration = Duration::from_secs(30);
/// A clock that goes back by less is waited for.
const STEP_BACK_MS: i64 = 5 * 60 * 1000;
/// A clock that stays behind for so long is right: one that is wrong after a start is set within minutes.
const BELIEVED_AFTER_MS: i64 = 60 * 60 * 1000;
/// When a caller may try again after a passing failure.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What callers ask of the writer.
pub(super) enum Job {
    /// Append batches.
    Append(Gathered),
    /// Drop what retention and expiry no longer keep, now.
    Sweep(oneshot::Sender<()>),
    /// Fail as a disk would.
    #[cfg(test)]
    Inject(Injection),
}

/// A fault that a test can provoke.
#[cfg(test)]
pub(super) enum Injection {
    /// The file can grow to so many pages.
    MaxPages(u32),
    /// The next commit fails.
    FailCommit,
    /// The writer has a defect.
    Panic,
}

/// What one caller appends.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// Answers all, many of one thread from within their runtime: there a wake-up needs neither lock nor system call, and the
/// records are freed by the thread that made them.
fn answer(group: Vec<Gathered>, outcomes: Vec<Outcome>) {
    let mut outcomes = outcomes.into_iter();
    for Gathered { batches, home, .. } in group {
        let large = batches.len() >= LARGE_GROUP;
        let of_these: Vec<_> = outcomes.by_ref().take(batches.len()).collect();
        let answer = move || {
            for (batch, outcome) in batches.into_iter().zip(of_these) {
                let _nobody_waits = batch.reply.send(outcome);
            }
        };
        match home {
            // It ends by itself at once, so nobody needs to join it.
            Some(home) if large => drop(home.spawn(async move { answer() })),
            _ => answer(),
        }
    }
}

/// Where in the transaction a failure came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Write,
    Commit,
}

/// Everything the thread owns.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) image: Image,
    pub(super) queue: Receiver<Job>,
    pub(super) shared: Arc<Shared>,
    pub(super) limits: Limits,
    pub(super) partitions: u32,
    pub(super) clock: Clock,
    pub(super) checkpointer: Checkpointer,
    pub(super) unmoved_bytes: usize,
    /// Since when the clock has been far behind the latest time.
    pub(super) behind_since_ms: Option<i64>,
}

impl Writer {
    /// Serves until every sender is gone. Should it panic, the storage is poisoned: nobody else would notice.
    pub(super) fn run(self) {
        let shared = Arc::clone(&self.shared);
        if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            shared.poison("the writer panicked");
        }
    }

    fn work(mut self) {
        loop {
            match self.queue.recv_timeout(IDLE) {
                Ok(job) => self.serve(job),
                Err(RecvTimeoutError::Timeout) => self.sweep(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let Self {
            connection,
            shared,
            checkpointer,
            ..
        } = self;
        checkpointer.stop();
        if !shared.is_poisoned()
            && let Err(fault) = checkpoint::checkpoint(&connection, "TRUNCATE")
        {
            checkpoint::report(&fault, &shared);
        }
    }

    fn serve(&mut self, first: Job) {
        let mut group = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(Job::Append(gathered)) = next {
            self.shared.queued.take(&gathered);
            records += gathered.records;
            bytes += gathered.bytes;
            group.push(gathered);
            let room = records < GROUP_RECORDS && bytes < GROUP_BYTES;
            next = if room {
                self.queue.try_recv().ok()
            } else {
                None
            };
        }
        if !group.is_empty() {
            self.commit(group);
            self.note_written(bytes);
            self.sweep();
        }
        match next {
            None | Some(Job::Append(_)) => {}
            Some(Job::Sweep(done)) => {
                self.sweep();
                let _nobody_waits = done.send(());
            }
            #[cfg(test)]
            Some(Job::Inject(injection)) => self.inject(&injection),
        }
    }

    /// Commits a group and answers its callers. One that no longer waits is not told.
    fn commit(&mut self, group: Vec<Gathered>) {
        let terms = Terms {
            now_ms: self.now(),
            key_ttl_ms: self.limits.key_ttl_ms,
            partitions: self.partitions,
        };
        let batches = group.iter().flat_map(|gathered| &gathered.batches);
        let limits = self.limits;
        let outcomes = self.transact(|connection, image| {
            retention::roll(connection, image, limits, terms.now_ms)?;
            let records = batches.clone().map(|batch| &batch.records[..]);
            group::append(connection, image, terms, records)
        });
        match outcomes {
            Ok(outcomes) => {
                self.shared.publish(&self.image);
                let records = batches.flat_map(|batch| &batch.records);
                self.shared.tails.tell(records.map(|record| &record.tenant));
                answer(group, outcomes);
            }
            Err(error) => {
                for batch in group.into_iter().flat_map(|gathered| gathered.batches) {
                    let _nobody_waits = batch.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Runs one transaction. When it fails nothing of it is left, in the file and in the image.
    fn transact<T>(
        &mut self,
        body: impl FnOnce(&Connection, &mut Image) -> Result<T, Fault>,
    ) -> Result<T, AppendError> {
        if self.shared.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        let (connection, image) = (&self.connection, &mut self.image);
        let written = connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(Fault::from)
            .and_then(|()| body(connection, image))
            .map_err(|fault| (Stage::Write, fault))
            .and_then(|value| match connection.execute_batch("COMMIT") {
                Ok(()) => Ok(value),
                Err(error) => Err((Stage::Commit, error.into())),
            });
        match written {
            // A checkpoint may have poisoned the storage meanwhile: what was committed is not
            // acknowledged.
            Ok(_) if self.shared.is_poisoned() => {
                Err(AppendError::Unknown("the storage failed".into()))
            }
            Ok(value) => {
                self.shared.recovered();
                Ok(value)
            }
            Err((stage, fault)) => Err(self.fail(stage, &fault)),
        }
    }

    fn fail(&mut self, stage: Stage, fault: &Fault) -> AppendError {
        let error = self.judge(stage, fault);
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            self.shared.poison(&format!("a rollback failed: {error}"));
        }
        if !self.shared.is_poisoned() {
            match Image::load(&self.connection) {
                Ok(mut image) => {
                    image.latest_ms = image.latest_ms.max(self.image.latest_ms);
                    self.image = image;
                }
                Err(fault) => self.shared.poison(&format!("reading back failed: {fault}")),
            }
        }
        error
    }

    /// What a failure means to callers and to the bus's health.
    fn judge(&self, stage: Stage, fault: &Fault) -> AppendError {
        let degraded = |why: String| self.shared.degrade(Health::Degraded(why));
        match fault.codes() {
            Some((ErrorCode::DiskFull, _)) => {
                degraded("the storage is full".into());
                AppendError::Full
            }
            _ if fault.is_index_growth() => {
                degraded(format!(
                    "the storage has no room for the WAL's index: {fault}"
                ));
                if stage == Stage::Commit {
                    AppendError::Unknown(fault.to_string())
                } else {
                    AppendError::Full
                }
            }
            Some((
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory,
                _,
            )) if stage == Stage::Write => {
                degraded(format!("the storage is busy: {fault}"));
                AppendError::Unavailable {
                    retry_after: RETRY_AFTER,
                }
            }
            _ => {
                self.shared.poison(&fault.to_string());
                // Frames that were written but not synced may come back after a restart.
                match stage {
                    Stage::Commit => AppendError::Unknown(fault.to_string()),
                    Stage::Write => AppendError::Poisoned,
                }
            }
        }
    }

    /// Drops what is due, a bucket and a generation at a time.
    fn sweep(&mut self) {
        let (limits, now_ms) = (self.limits, self.now());
        while retention::is_due(&self.image, limits, now_ms) {
            let dropped = self.transact(|connection, image| {
                retention::drop_oldest(connection, image, limits, now_ms)
            });
            if let Err(error) = dropped {
                tracing::warn!(%error, "retention could not drop what is due");
                return;
            }
            self.shared.note_heads(&self.image);
            self.note_written(CHECKPOINT_BYTES);
        }
    }

    fn note_written(&mut self, bytes: usize) {
        if let Err(fault) = self.checkpointer.move_rest(&self.connection) {
            checkpoint::report(&fault, &self.shared);
        }
        // Pages are written whole and index pages besides: about twice what the records have.
        self.unmoved_bytes += 2 * bytes + COMMIT_BYTES;
        if self.unmoved_bytes >= CHECKPOINT_BYTES {
            self.unmoved_bytes = 0;
            self.checkpointer.wake();
        }
    }

    /// The time. It stands still while the clock goes back a little, or for a while. A clock that was far ahead is followed
    /// back, or keys and events that should go would stay for as long as it was ahead.
    fn now(&mut self) -> i64 {
        let now_ms = (self.clock)();
        let ahead_ms = self.image.latest_ms.saturating_sub(now_ms);
        if self.image.latest_ms == i64::MIN || ahead_ms <= STEP_BACK_MS {
            self.behind_since_ms = None;
        } else {
            let since_ms = self
                .behind_since_ms
                .map_or(now_ms, |since| since.min(now_ms));
            self.behind_since_ms = Some(since_ms);
            if now_ms - since_ms >= BELIEVED_AFTER_MS {
                tracing::warn!(ahead_ms, "the clock was ahead; the log follows it back");
                self.image.latest_ms = now_ms;
            }
        }
        self.image.latest_ms = self.image.latest_ms.max(now_ms);
        self.image.latest_ms
    }

    #[cfg(test)]
    fn inject(&self, injection: &Injection) {
        match injection {
            Injection::MaxPages(pages) => {
                let sql = format!("PRAGMA max_page_count = {pages}");
                self.connection.query_row(&sql, [], |_| Ok(())).unwrap();
            }
            Injection::FailCommit => {
                self.connection.commit_hook(Some(|| true)).unwrap();
            }
            Injection::Panic => panic!("a defect"),
        }
    }
}

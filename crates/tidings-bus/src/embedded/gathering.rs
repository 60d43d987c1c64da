//! What the tasks of one thread append at about the same time goes to the writer together.
//!
//! The first of them sees to it, once the others that are ready have run: so a thread that has nothing else to do hands over
//! at once, and the more it has to do, the more there is for one commit, for one message and for one wake-up.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use thread_local::ThreadLocal;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::Shared;
use super::writer::{Batch, Job, RETRY_AFTER};
use crate::AppendError;

/// What is handed over without waiting for others: so many records …
const MANY_RECORDS: usize = 1024;
/// … or bytes.
const MANY_BYTES: usize = 4 << 20;

/// So many batches wait for the writer at most …
const QUEUE_BATCHES: usize = 8192;
/// … and so many bytes.
const QUEUE_BYTES: usize = 64 << 20;

/// How much waits for the writer.
#[derive(Debug, Default)]
pub(super) struct Queued {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

impl Queued {
    /// Counts a batch in, if there is room. One that is larger than the bound may still pass while nothing waits.
    pub(super) fn add(&self, bytes: usize) -> bool {
        let batches = self.batches.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = batches < QUEUE_BATCHES && (before == 0 || before + bytes <= QUEUE_BYTES);
        if !room {
            self.forget(1, bytes);
        }
        room
    }

    /// Counts out what the writer has taken, or will not take.
    pub(super) fn take(&self, gathered: &Gathered) {
        self.forget(gathered.batches.len(), gathered.bytes);
    }

    fn forget(&self, batches: usize, bytes: usize) {
        self.batches.fetch_sub(batches, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Batches on their way to the writer.
pub(super) struct Gathering {
    of_threads: ThreadLocal<Arc<Waiting>>,
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

/// What the tasks of one thread have appended since it was handed over last.
#[derive(Default)]
struct Waiting(Mutex<Gathered>);

/// Batches that are handed over together.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) batches: Vec<Batch>,
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Where their callers run; nothing outside of a runtime.
    pub(super) home: Option<Handle>,
}

impl fmt::Debug for Gathering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").finish_non_exhaustive()
    }
}

impl Gathered {
    fn add(&mut self, batch: Batch) {
        self.records += batch.records.len();
        self.bytes += batch.bytes;
        self.batches.push(batch);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Gathered {
        std::mem::take(&mut self.lock())
    }
}

impl Gathering {
    pub(super) fn new(queue: SyncSender<Job>, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            of_threads: ThreadLocal::new(),
            queue,
            shared,
        })
    }

    /// Adds a batch, from within a runtime. Threads that take tasks over from each other do not wait for their others: on one
    /// that is busy nobody could help with the hand-over.
    pub(super) fn add(self: &Arc<Self>, batch: Batch) {
        let runtime = Handle::current();
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            let mut alone = Gathered::default();
            alone.add(batch);
            return self.hand_over(alone);
        }
        let waiting = self.of_threads.get_or_default();
        let mut gathered = waiting.lock();
        gathered.add(batch);
        let is_first = gathered.batches.len() == 1;
        let many = gathered.records >= MANY_RECORDS || gathered.bytes >= MANY_BYTES;
        let many = many.then(|| std::mem::take(&mut *gathered));
        // A runtime that ends drops at once what it is given, which takes the lock.
        drop(gathered);
        if let Some(many) = many {
            self.hand_over(many);
        } else if is_first {
            let first = First {
                gathering: Arc::downgrade(self),
                waiting: waiting.clone(),
            };
            // It ends by itself at once, so nobody needs to join it.
            drop(runtime.spawn(async move {
                let _first = first;
                tokio::task::yield_now().await;
            }));
        }
    }

    /// Asks the writer for something else. False when it is too busy, or gone.
    pub(super) fn ask(&self, job: Job) -> bool {
        self.queue.try_send(job).is_ok()
    }

    fn hand_over(&self, gathered: Gathered) {
        if gathered.batches.is_empty() {
            return;
        }
        let home = Handle::try_current().ok();
        let job = Job::Append(Gathered { home, ..gathered });
        let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.queue.try_send(job)
        else {
            return;
        };
        if let Job::Append(gathered) = job {
            self.shared.queued.take(&gathered);
            for batch in gathered.batches {
                let unavailable = AppendError::Unavailable {
                    retry_after: RETRY_AFTER,
                };
                let _nobody_waits = batch.reply.send(Err(unavailable));
            }
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let waiting: Vec<_> = self.of_threads.iter().cloned().collect();
        for one in waiting {
            self.hand_over(one.take());
        }
    }
}

/// Hands over when it is dropped: also where the runtime ends before its turn comes.
struct First {
    /// Weak, as the writer ends when nobody can hand over any more.
    gathering: Weak<Gathering>,
    waiting: Arc<Waiting>,
}

impl Drop for First {
    fn drop(&mut self) {
        if let Some(gathering) = self.gathering.upgrade() {
            gathering.hand_over(self.waiting.take());
        }
    }
}

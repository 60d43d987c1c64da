//! What the tasks of one thread append at about the same time goes to the writer together.
//!
//! The first of them sees to it, once the others that are ready have run: so a thread that has nothing else to do hands over
//! at once, and the more it has to do, the more there is for one commit, for one message and for one wake-up.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use thread_local::ThreadLocal;
use tokio::runtime::Handle;

use super::Shared;
use super::writer::{Batch, Job, RETRY_AFTER};
use crate::AppendError;

/// What is handed over without waiting for others: so many records …
const MANY_RECORDS: usize = 1024;
/// … or bytes.
const MANY_BYTES: usize = 4 << 20;

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

impl Waiting {
    fn take(&self) -> Gathered {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

    /// Adds a batch, from within a runtime.
    pub(super) fn add(self: &Arc<Self>, batch: Batch) {
        let waiting = self.of_threads.get_or_default();
        let mut gathered = waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.records += batch.records.len();
        gathered.bytes += batch.bytes;
        gathered.batches.push(batch);
        if gathered.records >= MANY_RECORDS || gathered.bytes >= MANY_BYTES {
            let many = std::mem::take(&mut *gathered);
            drop(gathered);
            self.hand_over(many);
        } else if gathered.batches.len() == 1 {
            let first = First {
                gathering: Arc::downgrade(self),
                waiting: waiting.clone(),
            };
            // It ends by itself at once, so nobody needs to join it.
            drop(tokio::spawn(async move {
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
        if let Job::Append(Gathered { batches, bytes, .. }) = job {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            for batch in batches {
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

//! What handlers that ran before an acknowledgement came to, where the store did not take it at once. It is written by
//! tasks that the gateway knows of, and waits for when it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidings_store::{Flush, Store};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// So many publishes' outcomes wait to be written at most.
const MOST: usize = 1_000;
/// How often each is tried again, and at what distance.
const TRIES: u32 = 300;
const BETWEEN: Duration = Duration::from_secs(1);

/// The writes that are still to be made.
#[derive(Debug)]
pub struct LateWrites {
    /// None when they have ended: nothing more is taken.
    tasks: Mutex<Option<JoinSet<()>>>,
    /// Dead letters among what waits.
    letters: Arc<AtomicUsize>,
    between: Duration,
}

impl Default for LateWrites {
    fn default() -> Self {
        Self::every(BETWEEN)
    }
}

impl LateWrites {
    fn every(between: Duration) -> Self {
        Self {
            tasks: Mutex::new(Some(JoinSet::new())),
            letters: Arc::default(),
            between,
        }
    }

    /// Writes again what could not be written, without holding up its publish.
    pub(crate) fn write(&self, store: Store, flush: Flush) {
        let failed = flush.dead.len();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tasks) = tasks.as_mut() else {
            tracing::error!(
                failed,
                "what handlers came to is forgotten: the process ends"
            );
            return;
        };
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MOST {
            tracing::error!(
                failed,
                "what handlers came to is forgotten: too much waits to be written"
            );
            return;
        }
        let (letters, between) = (self.letters.clone(), self.between);
        letters.fetch_add(failed, Ordering::Relaxed);
        tasks.spawn(async move {
            let mut written = false;
            for _ in 0..TRIES {
                tokio::time::sleep(between).await;
                written = store.deliveries().flush(&flush).await.is_ok();
                if written {
                    break;
                }
            }
            letters.fetch_sub(failed, Ordering::Relaxed);
            if !written {
                tracing::error!(failed, "what handlers came to could not be written down");
            }
        });
    }

    /// Waits until all is written, or for a time. What is not written then is told of and given up, and nothing more is
    /// taken. Answers whether all was written or given up before.
    pub async fn end(&self, within: Duration) -> bool {
        let tasks = self.tasks.lock();
        let tasks = tasks.unwrap_or_else(PoisonError::into_inner).take();
        let mut tasks = tasks.unwrap_or_default();
        let until = Instant::now() + within;
        loop {
            match tokio::time::timeout_at(until, tasks.join_next()).await {
                Ok(None) => return true,
                Ok(Some(_)) => {}
                Err(_) => break,
            }
        }
        let (publishes, failed) = (tasks.len(), self.letters.load(Ordering::Relaxed));
        tasks.shutdown().await;
        tracing::error!(
            publishes,
            failed,
            "what handlers came to is not written down, and forgotten: the process ends"
        );
        false
    }
}

#[cfg(test)]
mod tests {
    use tidings_store::ProgressRow;
    use uuid::Uuid;

    use super::*;

    fn flush() -> Flush {
        let progress = ProgressRow {
            subscription: Uuid::from_u128(1),
            tenant: "acme".parse().unwrap(),
            sequence: 1,
            places: "{}".into(),
        };
        Flush {
            progress: vec![progress],
            ..Flush::default()
        }
    }

    #[tokio::test]
    async fn the_end_waits_for_what_is_to_be_written() {
        let store = Store::in_memory().await.unwrap();
        let late = LateWrites::every(Duration::from_millis(1));
        late.write(store.clone(), flush());
        assert!(late.end(Duration::from_mins(1)).await);
        let written = store.deliveries().progress_of(&[Uuid::from_u128(1)]).await;
        assert_eq!(written.unwrap().rows.len(), 1);
    }

    #[tokio::test]
    async fn the_end_gives_up_what_the_store_does_not_take_and_takes_nothing_more() {
        let store = Store::in_memory().await.unwrap();
        store.close().await;
        let late = LateWrites::every(Duration::from_hours(1));
        late.write(store.clone(), flush());
        assert!(!late.end(Duration::ZERO).await);
        late.write(store, flush());
        assert!(late.end(Duration::ZERO).await, "nothing waits");
    }
}

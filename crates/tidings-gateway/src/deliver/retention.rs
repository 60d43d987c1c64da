//! Retention: what is older than it is kept for is forgotten, kind by kind.

use std::time::Duration;

use tidings_store::{Store, StoreError};

use super::Dispatcher;
use super::schedule::ms;
use crate::chat;
use crate::clock::has_passed;

/// How often what is old is forgotten.
const EVERY: Duration = Duration::from_mins(10);

impl Dispatcher {
    /// Forgets attempts, causes, replays, closed dead letters and chat messages that are older than they are kept for.
    pub(super) fn forget_old(&mut self) {
        let now = self.clock.now_ms();
        // One does it for all.
        if self.share.number != 0 || !has_passed(EVERY, self.forgot_at_ms, now) {
            return;
        }
        // What there is may take long, and nobody waits for it. It ends by itself, or when the store is closed.
        if self.forgetting.as_ref().is_some_and(|it| !it.is_finished()) {
            return;
        }
        self.forgot_at_ms = now;
        let before = now - ms(self.config.attempts_retention);
        let messages_before = now - ms(chat::KEPT);
        let store = self.store.clone();
        self.forgetting = Some(tokio::spawn(async move {
            forget(&store, before, messages_before).await;
        }));
    }
}

/// Forgets what is older than two times, in ms since 1970. Each kind by itself: one that cannot be forgotten now keeps no
/// other.
async fn forget(store: &Store, before_ms: i64, messages_before_ms: i64) {
    told(
        "attempts",
        store.deliveries().forget_attempts(before_ms).await,
    );
    told("causes", store.causes().forget(before_ms).await);
    told("replays", store.replays().forget(before_ms).await);
    told(
        "closed dead letters",
        store.dead_letters().forget(before_ms).await,
    );
    told(
        "chat messages",
        store.chat().forget(messages_before_ms).await,
    );
}

/// Says how many of a kind were forgotten, or why they stay.
fn told(kind: &'static str, forgotten: Result<u64, StoreError>) {
    match forgotten {
        Ok(0) => {}
        Ok(rows) => tracing::info!(kind, rows, "what was old is forgotten"),
        Err(error) => tracing::warn!(kind, %error, "what is old stays for now"),
    }
}

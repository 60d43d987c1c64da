//! Disable: a subscription to which nothing gets through gets nothing more until its owner resumes it.

use std::collections::hash_map::Entry;

use tokio::time::Instant;
use uuid::Uuid;

use super::Dispatcher;
use super::attempt::Ended;

impl Dispatcher {
    /// Has a subscription disabled for what an attempt came to; it keeps its place. One task at a time does that for a
    /// subscription, however many attempts fail meanwhile.
    pub(super) fn disable(&mut self, id: Uuid, ended: &Ended, reason: &'static str) {
        self.disabling.retain(|_, task| !task.is_finished());
        let Entry::Vacant(place) = self.disabling.entry(id) else {
            return;
        };
        let (room, tenant) = (self.subscriptions.clone(), ended.tenant.clone());
        let revision = ended.revision;
        place.insert(tokio::spawn(async move {
            if let Err(refusal) = room.disable(&tenant, id, revision, reason).await {
                tracing::error!(subscription = %id, detail = refusal.detail, "it could not be disabled");
            }
        }));
    }

    /// Waits until those are disabled that are about to be, or for a time. What is not done then is done when another
    /// attempt fails.
    pub(super) async fn end_disabling(&mut self, until: Instant) {
        for (id, mut task) in self.disabling.drain() {
            match tokio::time::timeout_at(until, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(subscription = %id, %error, "it could not be disabled");
                }
                Err(_) => {
                    task.abort();
                    tracing::warn!(subscription = %id, "it is not disabled yet");
                }
            }
        }
    }
}

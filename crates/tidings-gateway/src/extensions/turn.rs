//! Whose turn it is to change an extension: an extension and its subscriptions are several rows, and any replica may be
//! asked to change them.

use std::time::Duration;

use tidings_event::ExtensionId;
use tidings_store::{Replicas, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::publish::refusal::Refusal;
use crate::rulebook::Workspace;
use crate::storing::{store_fault, store_late};

/// How long a turn lasts that is not lengthened: what a replica leaves behind that dies.
const TURN: Duration = Duration::from_secs(5);
/// How often it is lengthened while a change lasts.
const LENGTHENED_EVERY: Duration = Duration::from_secs(1);
/// How often it is asked for while another has it.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// How long it is asked for at most: longer than a dead replica's lasts.
const PATIENCE: Duration = Duration::from_secs(7);

/// One change of an extension at a time.
pub(super) struct Turns {
    /// On a store that no other process writes to.
    changing: Mutex<()>,
    /// On one that several may.
    replicas: Option<Replicas>,
    clock: Clock,
}

impl Turns {
    pub(super) fn new(store: &Store, clock: Clock) -> Self {
        Self {
            changing: Mutex::default(),
            replicas: store.replicas(),
            clock,
        }
    }

    /// Makes a change while no other is made of this extension, here or at another replica.
    pub(super) async fn alone<T>(
        &self,
        workspace: &Workspace,
        id: &ExtensionId,
        change: impl Future<Output = Result<T, Refusal>> + Send + Unpin,
    ) -> Result<T, Refusal> {
        let Some(turns) = &self.replicas else {
            let _alone = self.changing.lock().await;
            return change.await;
        };
        // A holder for each change: those of one replica take turns too.
        let holder = self.clock.new_id();
        let name = format!("extension {} {id}", workspace.id);
        let deadline = Instant::now() + PATIENCE;
        let take = || turns.take_turn(&name, holder, TURN);
        while !take().await.map_err(store_fault)? {
            if Instant::now() > deadline {
                return Err(store_late());
            }
            tokio::time::sleep(ASKED_EVERY).await;
        }
        let outlived = async {
            loop {
                tokio::time::sleep(LENGTHENED_EVERY).await;
                // Should the store be away, the change fails by itself.
                if let Ok(false) = take().await {
                    return store_late();
                }
            }
        };
        let made = tokio::select! {
            made = change => made,
            refusal = outlived => Err(refusal),
        };
        if let Err(error) = turns.end_turn(&name, holder).await {
            tracing::warn!(%error, "a turn ends by itself");
        }
        made
    }
}

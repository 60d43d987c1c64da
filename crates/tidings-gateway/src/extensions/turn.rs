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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::*;
    use crate::replicas::tests::new_schema;

    fn workspace() -> Workspace {
        Workspace {
            id: "ws-1".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            members: std::collections::BTreeMap::new(),
        }
    }

    fn crm() -> ExtensionId {
        "crm".parse().unwrap()
    }

    /// A change that is made at once.
    async fn change(turns: &Turns, extension: &str) -> Result<(), Refusal> {
        let id = extension.parse().unwrap();
        let change = Box::pin(async { Ok(()) });
        turns.alone(&workspace(), &id, change).await
    }

    /// The turns of two replicas on one PostgreSQL.
    async fn two() -> [Arc<Turns>; 2] {
        let url = new_schema();
        let turns = async || {
            let store = Store::connect(&url).await.unwrap();
            Arc::new(Turns::new(&store, Clock::system()))
        };
        [turns().await, turns().await]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_of_an_extension_follow_each_other_whichever_replica_makes_them() {
        let replicas = two().await;
        let (inside, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let changing = (0..10).map(|index| {
            let turns = replicas[index % 2].clone();
            let (inside, done) = (inside.clone(), done.clone());
            tokio::spawn(async move {
                let change = Box::pin(async {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "not alone");
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                });
                turns.alone(&workspace(), &crm(), change).await
            })
        });
        for change in changing.collect::<Vec<_>>() {
            change.await.unwrap().unwrap();
        }
        assert_eq!(done.load(Ordering::SeqCst), 10);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_turn_lasts_as_long_as_its_change_and_others_are_told_to_come_back() {
        let [one, two] = two().await;
        let (begun, has_begun) = oneshot::channel();
        let (end, ends) = oneshot::channel::<()>();
        let long = tokio::spawn(async move {
            let change = Box::pin(async {
                begun.send(()).unwrap();
                ends.await.unwrap();
                Ok(())
            });
            one.alone(&workspace(), &crm(), change).await
        });
        has_begun.await.unwrap();
        change(&two, "erp").await.unwrap();
        // It is asked for longer than a turn lasts that nobody lengthens.
        let late = change(&two, "crm").await;
        assert_eq!(late.unwrap_err().code, store_late().code);
        end.send(()).unwrap();
        long.await.unwrap().unwrap();
        change(&two, "crm").await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_turn_of_a_replica_that_died_ends() {
        let [one, two] = two().await;
        let replicas = two.replicas.clone().unwrap();
        let name = "extension ws-1 crm";
        let dead = Uuid::from_u128(1);
        let left = replicas.take_turn(name, dead, Duration::from_millis(200));
        assert!(left.await.unwrap());
        change(&one, "crm").await.unwrap();
    }
}

//! What the dispatcher matches events against, changed by difference since there may be a million.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tidings_event::{EventType, TenantId};
use tidings_filter::Index;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::subscription::Subscription;

/// The subscriptions in force.
#[derive(Default)]
pub struct InForce {
    known: RwLock<Known>,
    changed: Mutex<Vec<Uuid>>,
    wake: Notify,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<Uuid, Arc<Subscription>>,
    index: Index<Uuid>,
}

impl InForce {
    /// The subscriptions of a tenant one of whose type patterns fits. Their filters may still say no.
    pub(crate) fn wanting(
        &self,
        tenant: &TenantId,
        event_type: &EventType,
    ) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let ids = known.index.wanting(tenant, event_type);
        ids.iter().map(|id| known.by_id[id].clone()).collect()
    }

    pub(crate) fn get(&self, id: Uuid) -> Option<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.get(&id).cloned()
    }

    /// Everybody's.
    pub(crate) fn all(&self) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.values().cloned().collect()
    }

    /// Every subscription of a tenant.
    pub(crate) fn of(&self, tenant: &TenantId) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known
            .by_id
            .values()
            .filter(|it| it.tenant == *tenant)
            .cloned()
            .collect();
        all.sort_unstable_by_key(|it| it.id);
        all
    }

    /// Puts a subscription in force, or takes it out. An older revision than the known one is passed over.
    pub(super) fn put(&self, id: Uuid, subscription: Option<Subscription>) {
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let before = known.by_id.get(&id).cloned();
            let revision = subscription.as_ref().map_or(u32::MAX, |it| it.revision);
            if before
                .as_ref()
                .is_some_and(|before| before.revision >= revision)
            {
                return;
            }
            if let Some(before) = before {
                known.by_id.remove(&id);
                known
                    .index
                    .remove(&before.tenant, before.filter.types(), &id);
            }
            if let Some(subscription) = subscription {
                known
                    .index
                    .insert(&subscription.tenant, subscription.filter.types(), &id);
                known.by_id.insert(id, Arc::new(subscription));
            }
        }
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.push(id);
        self.wake.notify_one();
    }

    /// The ids that have changed since this was last asked.
    pub(crate) fn take_changed(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ready when something has changed.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

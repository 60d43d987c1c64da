//! What the dispatcher matches events against: every subscription, changed by difference.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use tidings_event::{EventType, TenantId};
use tidings_filter::Index;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::by_id::{IdMap, IdSet};
use crate::subscription::Subscription;

/// So many that were taken out are remembered: far more than are deleted while a single change is on its way.
const MOST_GONE: usize = 10_000;

/// The subscriptions in force.
#[derive(Default)]
pub struct InForce {
    known: RwLock<Known>,
    followers: Mutex<Vec<Weak<News>>>,
}

/// What one follower has not heard yet.
#[derive(Debug, Default)]
struct News {
    changed: Mutex<Vec<Uuid>>,
    wake: Notify,
}

/// The ids of subscriptions that have changed, for one who follows.
#[derive(Debug, Clone)]
pub(crate) struct Changes(Arc<News>);

impl Changes {
    /// Those since this was last asked.
    pub(crate) fn take(&self) -> Vec<Uuid> {
        let changed = self.0.changed.lock();
        std::mem::take(&mut *changed.unwrap_or_else(PoisonError::into_inner))
    }

    /// Ready when there are some.
    pub(crate) async fn made(&self) {
        self.0.wake.notified().await;
    }
}

/// Those that were taken out last: what was read or written of them before that comes too late, and an id is never given
/// again.
#[derive(Default)]
struct Gone {
    ids: IdSet<Uuid>,
    oldest_first: VecDeque<Uuid>,
}

impl Gone {
    fn add(&mut self, id: Uuid) {
        if !self.ids.insert(id) {
            return;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > MOST_GONE
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[derive(Default)]
struct Known {
    by_id: IdMap<Uuid, Arc<Subscription>>,
    by_tenant: HashMap<TenantId, BTreeSet<ById>>,
    gone: Gone,
    /// Those that are kept and cannot be read: they get nothing, and nothing of theirs is thrown away.
    unreadable: IdSet<Uuid>,
    index: Index<ById>,
    version: u64,
}

/// A subscription among others, in the order of their ids.
#[derive(Clone)]
struct ById(Arc<Subscription>);

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl InForce {
    /// The subscriptions of a tenant one of whose type patterns fits. Their filters may still say no.
    pub(crate) fn wanting(
        &self,
        tenant: &TenantId,
        event_type: &EventType,
    ) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let wanting = known.index.wanting(tenant, event_type).into_iter();
        wanting.map(|ById(subscription)| subscription).collect()
    }

    /// A number that every change makes another.
    pub(crate) fn version(&self) -> u64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.version
    }

    pub(crate) fn get(&self, id: Uuid) -> Option<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.get(&id).cloned()
    }

    /// The tenants that have any.
    pub(crate) fn tenants(&self) -> Vec<TenantId> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.index.tenants().cloned().collect()
    }

    /// Everybody's.
    pub(crate) fn all(&self) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.values().cloned().collect()
    }

    /// Every subscription of a tenant.
    pub(crate) fn of(&self, tenant: &TenantId) -> Vec<Arc<Subscription>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let all = known.by_tenant.get(tenant).into_iter().flatten();
        all.map(|ById(subscription)| subscription.clone()).collect()
    }

    /// Takes note of one that is kept and cannot be read. As far as it was known before, it stays as it was.
    pub(super) fn put_unreadable(&self, id: Uuid) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.unreadable.insert(id);
    }

    /// Whether it is kept, and cannot be read.
    pub(crate) fn is_unreadable(&self, id: Uuid) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.unreadable.contains(&id)
    }

    /// Whether some are, and no other is known.
    pub(super) fn has_only_unreadable(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_id.is_empty() && !known.unreadable.is_empty()
    }

    /// Puts a subscription in force, or takes it out for good. An older revision than the known one is passed over.
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
            if subscription.is_none() {
                known.gone.add(id);
            } else if known.gone.ids.contains(&id) {
                return;
            }
            known.version += 1;
            known.unreadable.remove(&id);
            if let Some(before) = before.map(ById) {
                let (tenant, types) = (&before.0.tenant, before.0.filter.types());
                known.by_id.remove(&id);
                if let Some(all) = known.by_tenant.get_mut(tenant) {
                    all.remove(&before);
                    if all.is_empty() {
                        known.by_tenant.remove(tenant);
                    }
                }
                known.index.remove(tenant, types, &before);
            }
            if let Some(subscription) = subscription.map(Arc::new).map(ById) {
                let (tenant, types) = (&subscription.0.tenant, subscription.0.filter.types());
                known.index.insert(tenant, types, &subscription);
                let of_tenant = known.by_tenant.entry(tenant.clone()).or_default();
                of_tenant.insert(subscription.clone());
                known.by_id.insert(id, subscription.0);
            }
        }
        let followers = self.followers.lock();
        followers
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|follower| {
                let Some(news) = follower.upgrade() else {
                    return false;
                };
                let changed = news.changed.lock();
                changed.unwrap_or_else(PoisonError::into_inner).push(id);
                news.wake.notify_one();
                true
            });
    }

    /// Tells of every change from now on, until what is returned is dropped.
    pub(crate) fn follow(&self) -> Changes {
        let news = Arc::new(News::default());
        let followers = self.followers.lock();
        let mut followers = followers.unwrap_or_else(PoisonError::into_inner);
        followers.push(Arc::downgrade(&news));
        Changes(news)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::access::user;
    use crate::clock::Clock;
    use crate::in_memory;
    use crate::subscriptions::From;

    #[tokio::test]
    async fn what_was_read_before_a_subscription_was_deleted_does_not_bring_it_back() {
        let gateway = in_memory::gateway(&Clock::manual(1_700_000_000_000)).await;
        let (room, owner) = (&gateway.subscriptions, user("acme", "ada", true));
        let document = json!({
            "name": "orders", "target": { "kind": "webhook", "url": "http://127.0.0.1:9" },
        });
        let (made, _) = room.create(&owner, document, From::Now).await.unwrap();
        room.delete(&owner, made.id).await.unwrap();
        room.in_force.put(made.id, Some((*made).clone()));
        assert!(room.in_force.get(made.id).is_none());
        assert_eq!(room.in_force.of(&made.tenant).len(), 0);
    }

    #[test]
    fn so_many_that_are_gone_are_remembered_and_no_more() {
        let mut gone = Gone::default();
        for id in 0..=MOST_GONE as u128 {
            gone.add(Uuid::from_u128(id));
            gone.add(Uuid::from_u128(id));
        }
        assert!(!gone.ids.contains(&Uuid::from_u128(0)));
        assert!(gone.ids.contains(&Uuid::from_u128(1)));
        assert_eq!(
            (gone.ids.len(), gone.oldest_first.len()),
            (MOST_GONE, MOST_GONE)
        );
    }
}

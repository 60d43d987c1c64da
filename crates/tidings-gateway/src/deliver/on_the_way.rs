//! What is on its way: how much of it there may be, by number and by bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings_event::TenantId;

use super::queue::Delivery;

/// The most attempts on their way, of one share.
const MOST: usize = 1_024;
/// A tenant may have as many as this part of what is free: where the receivers of up to a thousand tenants of a share are
/// silent, room is left for the others'. It is 205 for one alone; of 16 that take all they get, 51 or 52 each, and 41 for
/// whoever comes next.
const PART_OF_FREE: usize = 4;
/// No attempt begins while this many bytes of data are on their way, of all shares of the process.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The bytes of data on their way, of all shares of the process together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes(Arc<AtomicUsize>);

/// What a share has on its way.
#[derive(Debug)]
pub(super) struct OnTheWay {
    all: Bytes,
    attempts: usize,
    bytes: usize,
    /// Attempts and their bytes.
    tenants: HashMap<TenantId, (usize, usize)>,
}

/// The bytes of a message's data.
fn weight(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|it| it.event.data.len()).sum()
}

impl OnTheWay {
    pub(super) fn new(all: Bytes) -> Self {
        Self {
            all,
            attempts: 0,
            bytes: 0,
            tenants: HashMap::new(),
        }
    }

    /// Whether another attempt may begin. One always may, whatever other shares have.
    pub(super) fn has_room(&self) -> bool {
        self.attempts == 0
            || (self.attempts < MOST && self.all.0.load(Ordering::Relaxed) < MOST_BYTES)
    }

    /// Whether it may be one of this tenant. Of a share that has none, it may be anybody's.
    pub(super) fn has_room_for(&self, tenant: &TenantId) -> bool {
        let (attempts, bytes) = self.of(tenant);
        let free = MOST_BYTES.saturating_sub(self.all.0.load(Ordering::Relaxed));
        self.attempts == 0
            || (attempts < self.part_of_free() && bytes < free.div_ceil(PART_OF_FREE))
    }

    /// Whether a tenant has half of the attempts that it may have.
    pub(super) fn is_crowded(&self, tenant: &TenantId) -> bool {
        self.of(tenant).0 >= self.part_of_free().div_ceil(2)
    }

    fn part_of_free(&self) -> usize {
        MOST.saturating_sub(self.attempts).div_ceil(PART_OF_FREE)
    }

    /// Attempts of a tenant, and the bytes of their data.
    fn of(&self, tenant: &TenantId) -> (usize, usize) {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// An attempt begins.
    pub(super) fn begins(&mut self, tenant: &TenantId, deliveries: &[Delivery]) {
        self.add(tenant, weight(deliveries));
    }

    /// An attempt has ended.
    pub(super) fn ends(&mut self, tenant: &TenantId, deliveries: &[Delivery]) {
        self.remove(tenant, weight(deliveries));
    }

    fn add(&mut self, tenant: &TenantId, bytes: usize) {
        let of_tenant = self.tenants.entry(tenant.clone()).or_default();
        of_tenant.0 += 1;
        of_tenant.1 += bytes;
        self.attempts += 1;
        self.bytes += bytes;
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&mut self, tenant: &TenantId, bytes: usize) {
        let Some(of_tenant) = self.tenants.get_mut(tenant) else {
            return;
        };
        of_tenant.0 -= 1;
        of_tenant.1 -= bytes;
        if of_tenant.0 == 0 {
            self.tenants.remove(tenant);
        }
        self.attempts -= 1;
        self.bytes -= bytes;
        self.all.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(count: usize) -> Vec<TenantId> {
        let names = (0..count).map(|n| format!("t{n}").parse().unwrap());
        names.collect()
    }

    /// Begins what may begin of a tenant, and says how much that was.
    fn fill(share: &mut OnTheWay, tenant: &TenantId, bytes: usize) -> usize {
        let mut begun = 0;
        while share.has_room() && share.has_room_for(tenant) {
            share.add(tenant, bytes);
            begun += 1;
        }
        begun
    }

    #[test]
    fn bytes_are_bounded_over_all_shares_and_one_message_always_goes() {
        let all = Bytes::default();
        let (mut one, mut other) = (OnTheWay::new(all.clone()), OnTheWay::new(all.clone()));
        let tenants = tenants(6);
        for tenant in &tenants {
            assert!(one.has_room() && one.has_room_for(tenant));
            one.add(tenant, MOST_BYTES / PART_OF_FREE);
            assert!(!one.has_room_for(tenant), "it has its part");
            if !one.has_room() {
                break;
            }
        }
        assert!(
            other.has_room() && other.has_room_for(&tenants[0]),
            "whoever has none sends one"
        );
        other.add(&tenants[0], 1);
        assert!(!one.has_room() && !other.has_room());
        one.remove(&tenants[0], MOST_BYTES / PART_OF_FREE);
        assert!(one.has_room() && one.has_room_for(&tenants[0]));
        assert_eq!(one.of(&tenants[0]), (0, 0));
        drop((one, other));
        assert_eq!(
            all.0.load(Ordering::Relaxed),
            0,
            "a share that ends leaves none"
        );
    }

    #[test]
    fn attempts_are_bounded_whatever_they_weigh() {
        let mut share = OnTheWay::new(Bytes::default());
        let tenants = tenants(MOST + 1);
        assert_eq!(fill(&mut share, &tenants[0], 0), 205);
        assert!(share.has_room() && share.is_crowded(&tenants[0]));
        for tenant in &tenants {
            fill(&mut share, tenant, 0);
        }
        assert_eq!(share.attempts, MOST);
        assert!(!share.has_room());
    }

    #[test]
    fn tenants_that_take_all_they_get_leave_room_for_the_next() {
        let mut share = OnTheWay::new(Bytes::default());
        let (greedy, next) = (tenants(16), "next".parse().unwrap());
        for tenant in &greedy {
            fill(&mut share, tenant, 0);
        }
        assert!(
            share.has_room_for(&next),
            "also before any of theirs has ended"
        );
        // Each attempt ends at some time, and whoever may takes its place.
        for tenant in greedy.iter().cycle().take(20 * greedy.len()) {
            for _ in 0..share.of(tenant).0 {
                share.remove(tenant, 0);
            }
            fill(&mut share, tenant, 0);
        }
        assert_eq!(fill(&mut share, &next, 0), 41);
        let most = greedy.iter().map(|tenant| share.of(tenant).0).max();
        assert_eq!(most, Some(52));
    }
}

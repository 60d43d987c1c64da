//! What is on its way: how much of it there may be, by number and by bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidings_event::TenantId;

use super::queue::Delivery;

/// The most attempts on their way, of one share.
const MOST: usize = 1_024;
/// The most of one tenant, so that silent receivers of one cannot take all.
pub(super) const MOST_OF_TENANT: usize = 256;
/// No attempt begins while this many bytes of data are on their way, of all shares of the process.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Nor one of a tenant while it has this many.
const MOST_BYTES_OF_TENANT: usize = MOST_BYTES / 4;

/// The bytes of data on their way, of all shares of the process together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes(Arc<AtomicUsize>);

/// What a share has on its way.
#[derive(Debug)]
pub(super) struct OnTheWay {
    all: Bytes,
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
            bytes: 0,
            tenants: HashMap::new(),
        }
    }

    /// Whether another attempt may begin, beside so many. One always may, whatever other shares have.
    pub(super) fn has_room(&self, attempts: usize) -> bool {
        attempts == 0 || (attempts < MOST && self.all.0.load(Ordering::Relaxed) < MOST_BYTES)
    }

    /// Whether it may be one of this tenant.
    pub(super) fn has_room_for(&self, tenant: &TenantId) -> bool {
        let (attempts, bytes) = self.of(tenant);
        attempts < MOST_OF_TENANT && bytes < MOST_BYTES_OF_TENANT
    }

    /// Attempts of a tenant, and the bytes of their data.
    pub(super) fn of(&self, tenant: &TenantId) -> (usize, usize) {
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

    #[test]
    fn bytes_are_bounded_over_all_shares_and_one_message_always_goes() {
        let all = Bytes::default();
        let (mut one, other) = (OnTheWay::new(all.clone()), OnTheWay::new(all.clone()));
        let tenants: Vec<TenantId> = (0..4).map(|n| format!("t{n}").parse().unwrap()).collect();
        for tenant in &tenants {
            assert!(one.has_room(1) && one.has_room_for(tenant));
            one.add(tenant, MOST_BYTES_OF_TENANT);
            assert!(!one.has_room_for(tenant), "it has its share");
        }
        assert!(!one.has_room(4) && !other.has_room(1));
        assert!(other.has_room(0), "whoever has none sends one");
        one.remove(&tenants[0], MOST_BYTES_OF_TENANT);
        assert!(one.has_room(3) && one.has_room_for(&tenants[0]));
        assert_eq!(one.of(&tenants[0]), (0, 0));
        drop(one);
        assert_eq!(
            all.0.load(Ordering::Relaxed),
            0,
            "a share that ends leaves none"
        );
    }

    #[test]
    fn attempts_are_bounded_whatever_they_weigh() {
        let mut share = OnTheWay::new(Bytes::default());
        let tenant: TenantId = "acme".parse().unwrap();
        for _ in 0..MOST_OF_TENANT {
            assert!(share.has_room_for(&tenant));
            share.add(&tenant, 0);
        }
        assert!(!share.has_room_for(&tenant) && share.has_room(MOST - 1));
        assert!(!share.has_room(MOST));
    }
}

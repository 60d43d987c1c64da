//! What one tenant may ask for: requests a second, and streams at once, so that a loud tenant leaves room
//! for the others.
//!
//! Operators are never held back, even in a tenant's name: they are who can end a flood. A batch is one request,
//! whatever it holds; its size has a limit of its own.
//!
//! Rates follow GCRA (the crate `governor`), which keeps one number for each tenant. They are measured on the
//! monotonic clock: a wall clock set back would lock tenants out.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tidings_event::{Code, TenantId};

use crate::access::Caller;
use crate::publish::refusal::{Refusal, Rule};

/// After so many requests, tenants that could use their whole burst again are forgotten.
const SWEEP_EVERY: u32 = 4_096;
/// When asking for a stream again may be worth it: nobody knows when one ends.
const STREAM_RETRY: Duration = Duration::from_secs(10);
/// When asking for something again may be worth it that somebody has to make room for.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// The limits of each tenant, and what each uses of them.
pub struct Limits {
    rates: Option<Rates<MonotonicClock>>,
    streams: Streams,
    subscriptions: usize,
    workspaces: usize,
    members: usize,
}

impl Default for Limits {
    /// No rate, 100 streams, 1,000 subscriptions, 1,000 workspaces and 10,000 members of each.
    fn default() -> Self {
        Self::new(0, 0, 100, 1_000)
    }
}

impl Limits {
    /// So many requests a second (0: any number), `burst` of them at once (0: those of one second), so many
    /// open streams, and so many subscriptions, of its own and as many again of its workspaces' extensions.
    pub fn new(requests_per_second: u32, burst: u32, streams: usize, subscriptions: usize) -> Self {
        let rates = NonZeroU32::new(requests_per_second)
            .map(|rate| Rates::new(rate, burst, MonotonicClock));
        Self {
            rates,
            streams: Streams {
                limit: streams,
                open: Arc::default(),
            },
            subscriptions,
            workspaces: 1_000,
            members: 10_000,
        }
    }

    /// The same with so many workspaces, and so many members of each.
    #[must_use]
    pub const fn with_workspaces(mut self, workspaces: usize, members: usize) -> Self {
        (self.workspaces, self.members) = (workspaces, members);
        self
    }

    /// How many workspaces a tenant may have, and how many members each of them.
    pub(crate) const fn workspaces(&self) -> (usize, usize) {
        (self.workspaces, self.members)
    }

    /// How many subscriptions of one kind a tenant may have.
    pub(crate) const fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Counts a request of the caller's tenant, or refuses it.
    pub fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        match (&self.rates, counted(caller)) {
            (Some(rates), Some(tenant)) => rates.admit(tenant),
            _ => Ok(()),
        }
    }

    /// A place for one more stream of the caller's tenant. It is free again when the place is dropped.
    pub fn place(&self, caller: &Caller) -> Result<StreamPlace, Refusal> {
        self.streams.place(counted(caller))
    }
}

/// The tenant whose share a caller uses.
fn counted(caller: &Caller) -> Option<&TenantId> {
    caller.tenant().filter(|_| !caller.is_operator())
}

struct Rates<C: Clock> {
    limiter: RateLimiter<TenantId, HashMapStateStore<TenantId>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    rate: NonZeroU32,
    asked: AtomicU32,
}

impl<C: Clock + Clone> Rates<C> {
    fn new(rate: NonZeroU32, burst: u32, clock: C) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(rate);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()),
            clock,
            rate,
            asked: AtomicU32::new(0),
        }
    }

    fn admit(&self, tenant: &TenantId) -> Result<(), Refusal> {
        if self.asked.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(tenant).map_err(|early| {
            let wait = early.wait_time_from(self.clock.now());
            let rate = self.rate;
            limited(format!(
                "Tenant '{tenant}' sends more than its {rate} requests a second; wait for Retry-After."
            ))
            .retry_after(wait)
        })
    }
}

/// How many streams each tenant has; one that has none has no entry.
type Open = Arc<Mutex<HashMap<TenantId, usize>>>;

struct Streams {
    limit: usize,
    open: Open,
}

impl Streams {
    fn place(&self, tenant: Option<&TenantId>) -> Result<StreamPlace, Refusal> {
        let Some(tenant) = tenant else {
            return Ok(StreamPlace(None));
        };
        let mut open = locked(&self.open);
        let count = open.get(tenant).copied().unwrap_or_default();
        if count >= self.limit {
            let limit = self.limit;
            return Err(limited(format!(
                "Tenant '{tenant}' has {count} open streams; {limit} is the limit. Close one, or share one."
            ))
            .limit(limit, count + 1)
            .retry_after(STREAM_RETRY));
        }
        open.insert(tenant.clone(), count + 1);
        Ok(StreamPlace(Some((tenant.clone(), self.open.clone()))))
    }
}

/// One open stream, as long as it lives.
#[derive(Debug)]
pub struct StreamPlace(Option<(TenantId, Open)>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let Some((tenant, open)) = &self.0 else {
            return;
        };
        let mut open = locked(open);
        match open.get_mut(tenant) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(tenant)),
        }
    }
}

/// A count is whole whatever panicked while it was held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As much as there may be of something is there. Who asks again sooner learns nothing new.
pub(crate) fn full(detail: String, most: usize) -> Refusal {
    limited(detail).limit(most, most + 1).retry_after(ASK_AGAIN)
}

fn limited(detail: String) -> Refusal {
    Refusal::new(Code::RateLimited, Rule::RateLimit, detail)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use tidings_event::Service;

    use super::*;
    use crate::access::on_behalf_of;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn rates(rate: u32, burst: u32) -> (Rates<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = NonZeroU32::new(rate).unwrap();
        (Rates::new(rate, burst, clock.clone()), clock)
    }

    #[test]
    fn a_tenant_at_its_rate_waits_and_another_does_not() {
        let (rates, clock) = rates(2, 3);
        let (loud, quiet) = (tenant("loud"), tenant("quiet"));
        for _ in 0..3 {
            rates.admit(&loud).unwrap();
        }
        let refusal = rates.admit(&loud).unwrap_err();
        assert_eq!(refusal.code, Code::RateLimited);
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(500)));
        rates.admit(&quiet).unwrap();
        clock.advance(Duration::from_millis(499));
        rates.admit(&loud).unwrap_err();
        clock.advance(Duration::from_millis(1));
        rates.admit(&loud).unwrap();
        rates.admit(&loud).unwrap_err();
    }

    #[test]
    fn without_a_burst_a_second_s_requests_may_come_at_once() {
        let (rates, _) = rates(5, 0);
        let admitted = (0..20).filter(|_| rates.admit(&tenant("acme")).is_ok());
        assert_eq!(admitted.count(), 5);
    }

    #[test]
    fn idle_tenants_are_forgotten() {
        let (rates, clock) = rates(1, 1);
        for number in 0..20 * SWEEP_EVERY {
            rates.admit(&tenant(&format!("t{number}"))).unwrap();
            clock.advance(Duration::from_secs(1));
        }
        let kept = rates.limiter.len();
        assert!(kept <= SWEEP_EVERY as usize, "{kept} tenants are kept");
    }

    #[test]
    fn off_means_any_number() {
        let limits = Limits::default();
        let caller = on_behalf_of(Service::Audit, tenant("acme"));
        assert!((0..10_000).all(|_| limits.admit(&caller).is_ok()));
    }

    #[test]
    fn a_stream_s_place_is_free_again_when_it_ends() {
        let limits = Limits::new(0, 0, 2, 1);
        let [acme, other] =
            ["acme", "other"].map(|name| on_behalf_of(Service::Audit, tenant(name)));
        let first = limits.place(&acme).unwrap();
        let second = limits.place(&acme).unwrap();
        let refusal = limits.place(&acme).unwrap_err();
        assert_eq!(refusal.code, Code::RateLimited);
        assert_eq!(refusal.retry_after, Some(STREAM_RETRY));
        drop(limits.place(&other).unwrap());
        drop(first);
        let third = limits.place(&acme).unwrap();
        limits.place(&acme).unwrap_err();
        drop((second, third));
        assert!(locked(&limits.streams.open).is_empty());
    }
}

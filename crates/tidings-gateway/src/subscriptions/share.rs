//! How many subscriptions a tenant may have: each of its events is held against all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidings_event::{Code, TenantId};

use super::Subscriptions;
use crate::publish::refusal::{Refusal, Rule};

/// Who asks again sooner learns nothing new.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_mins(1);

/// Of a tenant: its own, or those that stand for its workspaces' extensions (true).
type Kind = (TenantId, bool);

/// The share of each tenant, and what is about to be made of it.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    begun: Arc<Mutex<HashMap<Kind, usize>>>,
}

impl Shares {
    /// So many of each kind.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            begun: Arc::default(),
        }
    }

    /// Room for one more beside so many. It is taken until it is dropped.
    fn take(&self, kind: Kind, there_are: usize) -> Option<Taken> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let others = begun.get(&kind).copied().unwrap_or_default();
        if there_are + others >= self.most {
            return None;
        }
        begun.insert(kind.clone(), others + 1);
        Some(Taken {
            kind,
            begun: self.begun.clone(),
        })
    }
}

/// Room for a subscription that is being made.
#[derive(Debug)]
pub(super) struct Taken {
    kind: Kind,
    begun: Arc<Mutex<HashMap<Kind, usize>>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let left = begun.get_mut(&self.kind).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            begun.remove(&self.kind);
        }
    }
}

impl Subscriptions {
    /// Room for one more of the tenant's own, or of those that stand for its workspaces' extensions.
    pub(super) fn room_for(&self, tenant: &TenantId, extensions: bool) -> Result<Taken, Refusal> {
        let all = self.in_force.of(tenant);
        let alike = all
            .iter()
            .filter(|it| it.start.owner.is_some() == extensions);
        let taken = self
            .shares
            .take((tenant.clone(), extensions), alike.count());
        taken.ok_or_else(|| {
            let whose = if extensions {
                "extensions of its workspaces have"
            } else {
                "it has"
            };
            let most = self.shares.most;
            let detail = format!(
                "Tenant '{tenant}' gets no further subscription: {whose} the {most} that it may have; delete one."
            );
            let refusal = Refusal::new(Code::RateLimited, Rule::Shape, detail);
            refusal.limit(most, most + 1).retry_after(ASK_AGAIN)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_counts_until_it_is_done() {
        let shares = Shares::new(3);
        let own = || ("acme".parse().unwrap(), false);
        let one = shares.take(own(), 1).unwrap();
        let two = shares.take(own(), 1).unwrap();
        assert!(shares.take(own(), 1).is_none());
        let extensions = ("acme".parse().unwrap(), true);
        assert!(shares.take(extensions, 1).is_some());
        drop(one);
        assert!(shares.take(own(), 2).is_none(), "it was made");
        drop(two);
        assert!(shares.take(own(), 2).is_some());
        assert!(shares.begun.lock().unwrap().is_empty());
    }
}

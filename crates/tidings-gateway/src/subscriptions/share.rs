//! How many subscriptions a tenant may have: each of its events is held against all of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tidings_event::TenantId;
use uuid::Uuid;

use super::Subscriptions;
use crate::chat;
use crate::limits::full;
use crate::publish::refusal::Refusal;
use crate::subscription::{Receiver, Subscription};

/// Of a tenant: its own, or those that stand for its workspaces' extensions (true).
type Kind = (TenantId, bool);

/// The share of each tenant, and what is about to be made of it.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    begun: Arc<Mutex<Begun>>,
}

/// The ids of what is about to be made.
type Begun = HashMap<Kind, HashSet<Uuid>>;

impl Shares {
    /// So many of each kind.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            begun: Arc::default(),
        }
    }

    /// Room for some more beside those that are there. It is taken until it is dropped; what is there by then counts once.
    fn take(&self, kind: Kind, there: &HashSet<Uuid>, new: &[Uuid]) -> Option<Taken> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let others = begun.get(&kind);
        let others = others.map_or(0, |others| others.difference(there).count());
        if there.len() + others + new.len() > self.most {
            return None;
        }
        begun.entry(kind.clone()).or_default().extend(new);
        Some(Taken {
            kind,
            ids: new.to_vec(),
            begun: self.begun.clone(),
        })
    }
}

/// Room for subscriptions that are being made.
#[derive(Debug)]
pub(crate) struct Taken {
    kind: Kind,
    ids: Vec<Uuid>,
    begun: Arc<Mutex<Begun>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(others) = begun.get_mut(&self.kind) else {
            return;
        };
        for id in &self.ids {
            others.remove(id);
        }
        if others.is_empty() {
            begun.remove(&self.kind);
        }
    }
}

impl Subscriptions {
    /// Room for these new ones of the tenant's own, or of those that stand for its workspaces' extensions; for all or none.
    /// Those of the shipped chat need none: each workspace has it, and those are counted.
    pub(crate) fn room_for(
        &self,
        tenant: &TenantId,
        extensions: bool,
        new: &[Uuid],
    ) -> Result<Taken, Refusal> {
        let all = self.in_force.of(tenant);
        let alike = all
            .iter()
            .filter(|it| it.start.owner.is_some() == extensions && !is_chats(it));
        let there = alike.map(|it| it.id).collect();
        let taken = self.shares.take((tenant.clone(), extensions), &there, new);
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
            let wanted = (there.len() + new.len()).max(most + 1);
            full(detail, most).limit(most, wanted)
        })
    }
}

fn is_chats(subscription: &Subscription) -> bool {
    matches!(&subscription.target, Receiver::InProcess { extension, .. } if extension.as_str() == chat::ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_counts_until_it_is_done_and_once() {
        let shares = Shares::new(3);
        let own = || ("acme".parse().unwrap(), false);
        let id = Uuid::from_u128;
        let there = |ids: &[u128]| ids.iter().copied().map(id).collect::<HashSet<_>>();
        let one = shares.take(own(), &there(&[1]), &[id(2)]).unwrap();
        let two = shares.take(own(), &there(&[1]), &[id(3)]).unwrap();
        assert!(shares.take(own(), &there(&[1]), &[id(4)]).is_none());
        let extensions = ("acme".parse().unwrap(), true);
        assert!(shares.take(extensions, &there(&[1]), &[id(4)]).is_some());
        drop(one);
        let made = there(&[1, 2]);
        assert!(shares.take(own(), &made, &[id(4)]).is_none(), "it was made");
        // Another has gone meanwhile, and the second stands there before its room is let go.
        let made = there(&[2, 3]);
        assert!(shares.take(own(), &made, &[id(4)]).is_some());
        drop(two);
        assert!(shares.take(own(), &made, &[id(4), id(5)]).is_none());
        assert!(shares.take(own(), &made, &[id(4)]).is_some());
        assert!(shares.begun.lock().unwrap().is_empty());
    }
}

//! How far subscriptions have come.

use std::collections::{HashMap, HashSet};

use tidings_event::TenantId;
use tidings_store::{CursorRow, Found, ProgressRow};
use uuid::Uuid;

use crate::deliver::{Places, read_to};
use crate::events::Placed;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::Subscription;

/// How far subscriptions have come in one partition.
pub(super) struct Reached {
    /// The reading that all share; `None` where what is kept of it is damaged.
    shared: Option<u64>,
    own: HashMap<Uuid, Places>,
    damaged: HashSet<Uuid>,
}

impl Reached {
    pub(super) fn of(
        tenant: &TenantId,
        cursors: Found<CursorRow>,
        progress: Result<Found<ProgressRow>, tidings_store::StoreError>,
    ) -> Result<Self, Refusal> {
        let progress = progress.map_err(store_fault)?;
        let damaged = progress.damaged.iter().filter_map(|it| it.row());
        let mut damaged: HashSet<Uuid> = damaged.filter_map(|it| it.parse().ok()).collect();
        let shared = read_to(cursors.rows.iter(), tenant).unwrap_or(0);
        let shared = cursors.damaged.is_empty().then_some(shared);
        let mut own = HashMap::new();
        for row in progress.rows {
            let id = row.subscription;
            match serde_json::from_str(&row.places) {
                Ok(places) => {
                    own.insert(id, places);
                }
                Err(error) => {
                    tracing::error!(subscription = %id, %error, "a subscription's place cannot be read");
                    damaged.insert(id);
                }
            }
        }
        Ok(Self {
            shared,
            own,
            damaged,
        })
    }

    /// The next offset that a subscription gets; `None` where that is damaged.
    pub(super) fn place(&self, subscription: &Subscription, placed: &Placed) -> Option<u64> {
        if self.damaged.contains(&subscription.id) {
            return None;
        }
        let own = self.own.get(&subscription.id);
        // What was moved since has not begun to read there.
        match own.filter(|places| places.start == subscription.start.number) {
            Some(own) => own.next_in(&placed.topic, placed.partition).or(self.shared),
            None => Some(subscription.start.place_in(&placed.topic)),
        }
    }
}

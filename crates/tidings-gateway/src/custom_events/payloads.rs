//! Whether what a tenant has really emitted would fit a schema.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tidings_bus::{Partition, Read};
use tidings_contract::custom::{EventPath, Schema};
use tidings_event::TenantId;
use tidings_store::EmitQuery;
use uuid::Uuid;

use super::Emits;
use super::registry::reader;
use crate::access::Caller;
use crate::envelope;
use crate::events::unreadable;
use crate::manifests::store_fault;
use crate::publish::refusal::Refusal;
use crate::rulebook::Route;

/// So many of the last payloads are tried.
const LAST: u32 = 1_000;
/// The most records that are read at once.
const PAGE: usize = 500;
/// The most records of anybody that are looked at for one page.
const SCAN: usize = 5_000;
/// The most pages: what lies further back is not tried.
const PAGES: usize = 20;

/// How real payloads fit a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fit {
    /// How many were tried: the last 1,000 emits of the event, as far as the log still has them.
    pub tried: usize,
    /// How many of those the schema refuses.
    pub failing: usize,
}

impl Emits {
    /// Tries the last payloads that the caller's tenant has emitted of an event, whatever version, on a schema.
    pub async fn fit(
        &self,
        caller: &Caller,
        path: &EventPath,
        schema: &Schema,
    ) -> Result<Fit, Refusal> {
        let tenant = reader(caller)?;
        let query = EmitQuery {
            name: Some(path.to_string()),
            newest_first: true,
            limit: LAST,
            ..EmitQuery::default()
        };
        let rows = self.store.emits().list(&tenant, &query).await;
        // A tenant's emits stand in one partition, unless their number was changed.
        let mut standing: HashMap<u32, (u64, HashSet<Uuid>)> = HashMap::new();
        for row in rows.map_err(store_fault)? {
            if let Some(place) = row.place {
                let (from, ids) = standing
                    .entry(place.partition)
                    .or_insert((u64::MAX, HashSet::new()));
                *from = place.offset.min(*from);
                ids.insert(row.event_id);
            }
        }
        let mut fit = Fit::default();
        for (partition, (from, ids)) in standing {
            self.try_from(&tenant, partition, from, ids, schema, &mut fit)
                .await?;
        }
        Ok(fit)
    }

    async fn try_from(
        &self,
        tenant: &TenantId,
        number: u32,
        mut from: u64,
        mut ids: HashSet<Uuid>,
        schema: &Schema,
        fit: &mut Fit,
    ) -> Result<(), Refusal> {
        for _ in 0..PAGES {
            if ids.is_empty() {
                break;
            }
            let partition = Partition {
                topic: Route::custom_events().topic,
                number,
            };
            let read = Read {
                from,
                tenant: Some(tenant.clone()),
                limit: PAGE,
                scan: SCAN,
            };
            let page = self.bus.read(partition, read).await.map_err(unreadable)?;
            if page.next <= from {
                break;
            }
            from = page.next;
            for record in &page.records {
                if !ids.remove(&record.event_id) {
                    continue;
                }
                let event = envelope::read(record);
                let event = event.map_err(|error| Refusal::fault("Reading an emit", &error))?;
                let payload: Value = serde_json::from_slice(event.data.as_bytes())
                    .map_err(|error| Refusal::fault("Reading an emit", &error))?;
                fit.tried += 1;
                fit.failing += usize::from(!schema.accepts(&payload));
            }
        }
        Ok(())
    }
}

//! Whether what a tenant has really emitted would fit a schema.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::Value;
use tidings_bus::{Partition, Read, Stored};
use tidings_contract::custom::{EventPath, Schema};
use tidings_event::TenantId;
use tidings_store::EmitQuery;
use uuid::Uuid;

use super::Emits;
use super::registry::aside;
use crate::access::Caller;
use crate::envelope;
use crate::events::{reader, unreadable};
use crate::publish::refusal::Refusal;
use crate::rulebook::Route;
use crate::storing::store_fault;

/// So many of the last payloads are tried.
const LAST: u32 = 1_000;
/// The most records of anybody that are looked at in one page, and how many pages: what lies further back than the
/// newest of the payloads by more than that is not tried.
const SCAN: usize = 5_000;
const PAGES: usize = 20;
/// So many steps are made in all, some hundred milliseconds: what is left then is not tried.
const STEPS: usize = 20_000_000;

/// How real payloads fit a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fit {
    /// How many were tried: the last 1,000 emits of the event, as far as the log still has them, and fewer where they or
    /// the schema are so large that it would take long.
    pub tried: usize,
    /// How many of those the schema refuses.
    pub failing: usize,
}

impl Emits {
    /// Tries the last payloads that the caller's tenant has emitted of an event, whatever version, on a schema. `None` to a
    /// caller that may not read events: what fits a schema of one's own says what is in them.
    pub async fn fit(
        &self,
        caller: &Caller,
        path: &EventPath,
        schema: &Schema,
    ) -> Result<Option<Fit>, Refusal> {
        let Ok(tenant) = reader(caller) else {
            return Ok(None);
        };
        let query = EmitQuery {
            name: Some(path.to_string()),
            newest_first: true,
            limit: LAST,
            ..EmitQuery::default()
        };
        let rows = self.store.emits().list(&tenant, &query).await;
        // A tenant's emits stand in one partition, unless their number was changed.
        let mut standing: HashMap<u32, HashMap<Uuid, u64>> = HashMap::new();
        // Until it is noted where an emit stands, its row has what it carries.
        let mut newest = Vec::new();
        for row in rows.map_err(store_fault)? {
            if let Some(place) = row.place {
                let ids = standing.entry(place.partition).or_default();
                ids.insert(row.event_id, place.offset);
            } else {
                newest.extend(row.payload);
            }
        }
        let own = schema.clone();
        let newest = aside("Trying payloads", move || {
            tried(newest.iter().map(read), &own, STEPS)
        });
        let (mut fit, mut steps) = newest.await?;
        for (partition, mut places) in standing {
            let newest = places.values().copied().max().unwrap_or_default();
            let oldest = newest.saturating_sub((SCAN * PAGES) as u64 - 1);
            places.retain(|_, offset| *offset >= oldest);
            let from = places.values().copied().min().unwrap_or_default();
            let ids = places.into_keys().collect();
            let span = from..newest + 1;
            let partition = Partition {
                topic: Route::custom_events().topic,
                number: partition,
            };
            let more = self.try_in(&tenant, (partition, span), ids, (schema, &mut steps));
            let more = more.await?;
            fit.tried += more.tried;
            fit.failing += more.failing;
        }
        Ok(Some(fit))
    }

    /// Tries the payloads of some emits, those of the newest stretch first.
    async fn try_in(
        &self,
        tenant: &TenantId,
        (partition, span): (Partition, Range<u64>),
        mut ids: HashSet<Uuid>,
        (schema, steps): (&Schema, &mut usize),
    ) -> Result<Fit, Refusal> {
        let mut fit = Fit::default();
        let (mut from, mut end) = (span.end, span.end);
        let mut stretch = span.end;
        for _ in 0..2 * PAGES {
            if from >= end {
                end = stretch;
                stretch = stretch.saturating_sub(SCAN as u64).max(span.start);
                from = stretch;
            }
            if ids.is_empty() || *steps == 0 || from >= end {
                break;
            }
            let read = Read {
                from,
                tenant: Some(tenant.clone()),
                limit: SCAN,
                scan: usize::try_from(end - from).unwrap_or(SCAN),
            };
            let page = self
                .bus
                .read(partition.clone(), read)
                .await
                .map_err(unreadable)?;
            if page.next <= from {
                break;
            }
            from = page.next;
            let mut records = page.records;
            records.retain(|record| ids.remove(&record.event_id));
            let (schema, left) = (schema.clone(), *steps);
            let more;
            (more, *steps) = aside("Trying payloads", move || {
                tried(records.iter().map(carried), &schema, left)
            })
            .await?;
            fit.tried += more.tried;
            fit.failing += more.failing;
        }
        Ok(fit)
    }
}

/// What an emit on the bus carries.
fn carried(record: &Stored) -> Result<Value, Refusal> {
    let event = envelope::read(record);
    let event = event.map_err(|error| Refusal::fault("Reading an emit", &error))?;
    read(event.data.as_bytes())
}

fn read(payload: impl AsRef<[u8]>) -> Result<Value, Refusal> {
    let read = serde_json::from_slice(payload.as_ref());
    read.map_err(|error| Refusal::fault("Reading an emit", &error))
}

/// How payloads fit, as long as there are steps left; and how many then are.
fn tried(
    payloads: impl IntoIterator<Item = Result<Value, Refusal>>,
    schema: &Schema,
    mut left: usize,
) -> Result<(Fit, usize), Refusal> {
    let mut fit = Fit::default();
    for payload in payloads {
        if left == 0 {
            break;
        }
        fit.tried += 1;
        let (fits, effort) = schema.tried(&payload?);
        fit.failing += usize::from(!fits);
        left = left.saturating_sub(effort.unwrap_or(left));
    }
    Ok((fit, left))
}

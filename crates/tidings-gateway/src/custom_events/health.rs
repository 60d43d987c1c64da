//! What a tenant may look up of its emits: what became of each, and how much of its plan is used.

use tidings_event::TenantId;
use tidings_store::{EmitQuery, EmitRow, EmitState};

use super::emits::month;
use super::{Emits, Plan};
use crate::access::Caller;
use crate::events::may_read;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// How many failures health shows (source D).
const RECENT_FAILURES: u32 = 10;

/// How much of its plan a tenant has used.
#[derive(Debug, Clone)]
pub struct Health {
    /// The plan.
    pub plan: Plan,
    /// How many distinct events it has registered.
    pub registrations: u64,
    /// How many emits were accepted in this month.
    pub emits: u64,
    /// Its last emits that failed, the newest first; none where the caller may not read events.
    pub recent_failures: Vec<EmitRow>,
}

impl Emits {
    /// The tenant's emits that are asked for.
    pub async fn list(&self, caller: &Caller, query: &EmitQuery) -> Result<Vec<EmitRow>, Refusal> {
        let tenant = crate::events::reader(caller)?;
        let rows = self.store.emits().list(&tenant, query).await;
        rows.map_err(store_fault)
    }

    /// How much of its plan the caller's tenant has used, or for an operator the one that it names.
    pub async fn health(&self, caller: &Caller, of: Option<&TenantId>) -> Result<Health, Refusal> {
        let tenant = match of {
            Some(of) => self.registry.workspaces.tenant(caller, of)?.id.clone(),
            None if caller.is_operator() && caller.tenant().is_none() => {
                let detail = "An operator names the tenant whose use is asked for.";
                return Err(Refusal::invalid("tenantId", detail));
            }
            None => super::registry::reader(caller)?,
        };
        let failed = EmitQuery {
            states: vec![EmitState::Failed, EmitState::Undelivered],
            newest_first: true,
            limit: RECENT_FAILURES,
            ..EmitQuery::default()
        };
        let emits = self.store.emits();
        let recent_failures = if may_read(caller) {
            emits.list(&tenant, &failed).await.map_err(store_fault)?
        } else {
            Vec::new()
        };
        let month = month(self.clock.now_ms());
        Ok(Health {
            plan: self.registry.plan(&tenant),
            registrations: self.registry.used(&tenant).await?,
            emits: emits.usage(&tenant, &month).await.map_err(store_fault)?,
            recent_failures,
        })
    }
}

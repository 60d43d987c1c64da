//! What is told of an emit that was refused.

use serde_json::{Value, json};
use tidings_contract::custom::EventPath;
use tidings_event::{Code, TenantId};

use super::{Emits, month};
use crate::custom_events::lifecycle::clipped;
use crate::custom_events::{EmitRequest, LifecycleEvent};
use crate::publish::command::MAX_DEPTH;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

impl Emits {
    /// Tells of an emit that was refused for what it says or for its plan.
    pub(super) async fn tell_refused(
        &self,
        tenant: &TenantId,
        (path, request): (&EventPath, &EmitRequest),
        refusal: &Refusal,
    ) -> Result<(), Refusal> {
        let Some(event) = tells(refusal).filter(|event| self.registry.may_tell(tenant, *event))
        else {
            return Ok(());
        };
        let data = self.what_is_told(tenant, (path, request), refusal).await?;
        let told = [event.row(&self.outbox, tenant, &data)];
        self.store.outbox().add(&told).await.map_err(store_fault)?;
        self.outbox.leave();
        Ok(())
    }

    async fn what_is_told(
        &self,
        tenant: &TenantId,
        (path, request): (&EventPath, &EmitRequest),
        refusal: &Refusal,
    ) -> Result<Value, Refusal> {
        let (namespace, name) = (path.namespace.as_str(), path.name.as_str());
        match refusal.code {
            Code::MonthlyEmitQuotaExceeded => {
                let plan = self.registry.plan(tenant);
                let month = month(self.clock.now_ms());
                let used = self.store.emits().usage(tenant, &month).await;
                Ok(json!({
                    "quota": "emits", "plan": plan.as_str(), "limit": plan.monthly_emits(),
                    "used": used.map_err(store_fault)?, "namespace": namespace, "name": name,
                }))
            }
            Code::ChainDepthExceeded => Ok(json!({
                "namespace": namespace, "name": name, "causationId": request.causation_id,
                "depth": MAX_DEPTH + 1,
            })),
            code => {
                let mut data = json!({
                    "namespace": namespace, "name": name, "code": code.as_str(), "detail": refusal.detail,
                });
                if let Some(version) = &request.version {
                    data["version"] = json!(clipped(version));
                }
                Ok(data)
            }
        }
    }
}

/// What tells of a refusal; nothing of what nobody has looked at, or is no refusal.
fn tells(refusal: &Refusal) -> Option<LifecycleEvent> {
    match refusal.code {
        Code::MonthlyEmitQuotaExceeded => Some(LifecycleEvent::QuotaExceeded),
        Code::ChainDepthExceeded => Some(LifecycleEvent::ChainTruncated),
        Code::EventNotRegistered
        | Code::EventNotPublished
        | Code::PlanUpgradeRequired
        | Code::PayloadInvalid
        | Code::PayloadTooLarge => Some(LifecycleEvent::EmitRejected),
        _ => None,
    }
}

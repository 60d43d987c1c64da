//! What the audit trail says of an administrative action: an event `audit.<noun>.<verb>` of service
//! `audit`, in the tenant whose thing it is. It never holds a secret.

use serde_json::{Value, json};
use tidings_event::event::rfc3339;
use tidings_event::{Event, Service, TenantId};
use tidings_store::OutboxRow;

use crate::access::{Caller, Principal};
use crate::outbox::Outbox;

/// Every action, `<noun>.<verb>`.
pub(crate) const ACTIONS: [&str; 19] = [
    "api-key.created",
    "api-key.revoked",
    "catalog.deleted",
    "catalog.written",
    "extension.removed",
    "extension.written",
    "manifest.removed",
    "manifest.written",
    "subscription.created",
    "subscription.deleted",
    "subscription.disabled",
    "subscription.paused",
    "subscription.resumed",
    "subscription.rotated",
    "subscription.updated",
    "tenant.written",
    "workspace-member.removed",
    "workspace-member.written",
    "workspace.created",
];

/// Who did it.
#[derive(Debug, Clone)]
pub(crate) enum Actor {
    /// Whoever asked.
    Caller(Caller),
    /// Nobody who asked: the manifests folder, or the sample of a first start.
    Installation,
}

impl Actor {
    fn describe(&self) -> Value {
        let Self::Caller(caller) = self else {
            return json!({ "kind": "installation", "name": "tidings" });
        };
        let mut actor = match caller.principal() {
            Principal::Module(module) => json!({ "kind": "module", "name": module.as_str() }),
            Principal::Service(service) => json!({ "kind": "service", "name": service.as_str() }),
            Principal::User(sub) => json!({ "kind": "user", "name": sub }),
            Principal::Operator(sub) => json!({ "kind": "operator", "name": sub }),
            Principal::Extension { workspace, id } => {
                json!({ "kind": "extension", "workspace": workspace.as_str(), "name": id.as_str() })
            }
            Principal::ApiKey { id, name, .. } => {
                json!({ "kind": "api-key", "name": name, "id": id })
            }
        };
        if let Some(tenant) = caller.tenant() {
            actor["tenant"] = tenant.as_str().into();
        }
        actor
    }
}

/// Whether an event is one of the audit trail.
pub(crate) fn is_of(event: &Event) -> bool {
    event.event_type.as_str().starts_with("audit.")
}

/// The workspace that an event of the audit trail is about, if it is about one.
pub(crate) fn workspace_of(event: &Event) -> Option<String> {
    let data: Value = serde_json::from_slice(event.data.as_bytes()).ok()?;
    let target = &data["target"];
    let id = match target["kind"].as_str() {
        Some("workspace") => &target["id"],
        _ => &target["workspace"],
    };
    id.as_str().map(str::to_owned)
}

/// The event of an action, one of [`ACTIONS`].
pub(crate) fn row(
    outbox: &Outbox,
    tenant: TenantId,
    action: &str,
    actor: &Actor,
    target: &Value,
) -> OutboxRow {
    debug_assert!(ACTIONS.contains(&action), "{action}");
    let at = rfc3339(outbox.now_ms());
    let data = json!({ "action": action, "actor": actor.describe(), "target": target, "at": at });
    outbox.row(Service::Audit, tenant, &format!("audit.{action}"), &data)
}

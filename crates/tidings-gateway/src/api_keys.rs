//! API keys for servers: issued once, kept hashed, revocable, each of one tenant.

use std::sync::Arc;

use serde_json::json;
use tidings_event::{ModuleId, TenantId};
use tidings_store::ApiKeyRow;
use uuid::Uuid;

use crate::access::{Access, ApiKeyError, Caller, NewApiKey};
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::limits::full;
use crate::outbox::Outbox;
use crate::publish::refusal::Refusal;
use crate::storing::{store_fault, to_its_end};

/// A key as its owner may see it. The secret itself is shown once, when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What it is revoked by.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// For people.
    pub name: String,
    /// The module it publishes as, if any.
    pub module: Option<ModuleId>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it was made, in ms since 1970.
    pub created_at_ms: i64,
    /// When it ends, in ms since 1970.
    pub expires_at_ms: Option<i64>,
    /// When it was revoked, in ms since 1970.
    pub revoked_at_ms: Option<i64>,
}

/// The room.
pub struct ApiKeys {
    access: Arc<Access>,
    outbox: Arc<Outbox>,
    clock: Clock,
}

impl ApiKeys {
    /// Over the keys that `access` holds.
    pub(crate) fn new(access: Arc<Access>, outbox: Arc<Outbox>, clock: Clock) -> Self {
        Self {
            access,
            outbox,
            clock,
        }
    }

    /// Makes a key and answers it with its secret, for ADMINs of the tenant and operators.
    ///
    /// `tenant` is for operators, who have none of their own.
    pub async fn create(
        &self,
        caller: &Caller,
        tenant: Option<TenantId>,
        new: NewApiKey,
    ) -> Result<(ApiKey, String), Refusal> {
        let tenant = administered(caller, tenant)?;
        let (access, outbox) = (self.access.clone(), self.outbox.clone());
        let (now, of) = (self.clock.now_ms(), tenant.clone());
        let actor = Actor::Caller(caller.clone());
        let created = to_its_end(async move {
            let events = |row: &ApiKeyRow| {
                let target = json!({
                    "kind": "api-key",
                    "id": row.id,
                    "name": row.name,
                    "module": row.module.as_ref().map(ModuleId::as_str),
                    "scopes": row.scopes,
                });
                vec![audit::row(
                    &outbox,
                    of.clone(),
                    "api-key.created",
                    &actor,
                    &target,
                )]
            };
            let created = access.api_keys().create(&of, new, now, events).await;
            outbox.deliver().await;
            created.map_err(refused)
        });
        let (row, secret) = created.await?;
        tracing::info!(%tenant, key = %row.id, by = caller.describe(), "api key created");
        Ok((row.into(), secret))
    }

    /// So many of the tenant's keys after an id, oldest first, without their secrets, ended ones too; and where the next
    /// page begins, if there are more.
    pub async fn page(
        &self,
        caller: &Caller,
        tenant: Option<TenantId>,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<(Vec<ApiKey>, Option<Uuid>), Refusal> {
        let tenant = administered(caller, tenant)?;
        let keys = self.access.api_keys();
        let rows = keys.list(&tenant, after, limit.saturating_add(1)).await;
        let mut page: Vec<ApiKey> = rows
            .map_err(refused)?
            .into_iter()
            .map(ApiKey::from)
            .collect();
        let more = page.len() > limit as usize;
        page.truncate(limit as usize);
        let next = page.last().filter(|_| more).map(|last| last.id);
        Ok((page, next))
    }

    /// Ends a key at once.
    pub async fn revoke(
        &self,
        caller: &Caller,
        tenant: Option<TenantId>,
        id: Uuid,
    ) -> Result<(), Refusal> {
        let tenant = administered(caller, tenant)?;
        let (access, now, of) = (self.access.clone(), self.clock.now_ms(), tenant.clone());
        let (outbox, actor) = (self.outbox.clone(), Actor::Caller(caller.clone()));
        let revoked = to_its_end(async move {
            let target = json!({ "kind": "api-key", "id": id });
            let event = audit::row(&outbox, of.clone(), "api-key.revoked", &actor, &target);
            let revoked = access.api_keys().revoke(&of, id, now, &[event]).await;
            outbox.deliver().await;
            revoked.map_err(refused)
        });
        if !revoked.await? {
            return Err(Refusal::not_found("API key"));
        }
        tracing::info!(%tenant, key = %id, by = caller.describe(), "api key revoked");
        Ok(())
    }
}

fn refused(error: ApiKeyError) -> Refusal {
    let field = match error {
        ApiKeyError::Name => "name",
        ApiKeyError::Scopes => "scopes",
        ApiKeyError::Expiry => "expiresAt",
        ApiKeyError::TooMany(most) => {
            let detail = format!("No further API key is made: {error}.");
            return full(detail, most);
        }
        ApiKeyError::Store(error) => return store_fault(error),
        ApiKeyError::Random(_) => return Refusal::fault("Making an API key", &error),
    };
    Refusal::invalid(field, format!("{error}."))
}

/// The tenant whose keys the caller may manage.
fn administered(caller: &Caller, tenant: Option<TenantId>) -> Result<TenantId, Refusal> {
    match (caller.tenant(), tenant) {
        (None, Some(tenant)) if caller.is_operator() => Ok(tenant),
        (None, None) if caller.is_operator() => Err(Refusal::invalid(
            "tenantId",
            "An operator names the tenant that the key is for.",
        )),
        (Some(own), None) if caller.is_admin() => Ok(own.clone()),
        (Some(own), Some(tenant)) if caller.is_admin() && *own == tenant => Ok(tenant),
        _ => Err(Refusal::forbidden(
            "API keys are managed with the role ADMIN of the tenant, or by an operator.",
        )),
    }
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.id,
            tenant: row.tenant,
            name: row.name,
            module: row.module,
            scopes: row.scopes,
            created_at_ms: row.created_at_ms,
            expires_at_ms: row.expires_at_ms,
            revoked_at_ms: row.revoked_at_ms,
        }
    }
}

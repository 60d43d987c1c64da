//! API keys for servers: issued once, kept hashed, revocable, each of one tenant.

use std::sync::Arc;

use tidings_event::{ModuleId, TenantId};
use tidings_store::Store;
use uuid::Uuid;

use crate::access::{Access, Caller, Scope};
use crate::clock::Clock;
use crate::manifests::store_fault;
use crate::publish::refusal::Refusal;

/// The most scopes of one key.
const MAX_SCOPES: usize = 100;

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

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// For operators, who have no tenant of their own.
    pub tenant: Option<TenantId>,
    /// 1 to 100 characters.
    pub name: String,
    /// The module it publishes as.
    pub module: Option<ModuleId>,
    /// `publish:<type or pattern>` or `events:read`.
    pub scopes: Vec<String>,
    /// When it ends, in ms since 1970.
    pub expires_at_ms: Option<i64>,
}

/// The room.
pub struct ApiKeys {
    store: Store,
    access: Arc<Access>,
    clock: Clock,
}

impl ApiKeys {
    /// Over the store, putting the keys it holds in force.
    pub async fn open(store: Store, access: Arc<Access>, clock: Clock) -> Result<Self, Refusal> {
        let room = Self { store, access, clock };
        room.put_in_force().await?;
        Ok(room)
    }

    /// Makes a key and answers it with its secret, for ADMINs of the tenant and operators.
    pub async fn create(&self, caller: &Caller, wanted: Wanted) -> Result<(ApiKey, String), Refusal> {
        let tenant = administered(caller, wanted.tenant)?;
        if !(1..=100).contains(&wanted.name.chars().count()) || wanted.name.chars().any(char::is_control) {
            return Err(Refusal::invalid("name", "A key's name has 1 to 100 characters, none of them control characters."));
        }
        if !(1..=MAX_SCOPES).contains(&wanted.scopes.len()) {
            return Err(Refusal::invalid("scopes", format!("A key has 1 to {MAX_SCOPES} scopes.")));
        }
        for (index, scope) in wanted.scopes.iter().enumerate() {
            scope.parse::<Scope>().map_err(|error| {
                Refusal::invalid(format!("scopes[{index}]"), format!("{error}"))
            })?;
        }
        let now = self.clock.now_ms();
        if wanted.expires_at_ms.is_some_and(|end| end <= now) {
            return Err(Refusal::invalid("expiresAt", "The key would have expired already."));
        }
        let (secret, hash) = crate::access::new_api_key();
        let row = tidings_store::ApiKeyRow {
            id: self.clock.new_id(),
            tenant,
            name: wanted.name,
            module: wanted.module,
            scopes: wanted.scopes,
            hash,
            created_at_ms: now,
            expires_at_ms: wanted.expires_at_ms,
            revoked_at_ms: None,
        };
        self.store.api_keys().insert(&row).await.map_err(store_fault)?;
        self.put_in_force().await?;
        tracing::info!(tenant = %row.tenant, key = %row.id, by = %caller.describe(), "api key created");
        Ok((row.into(), secret))
    }

    /// All keys of the tenant, without their secrets.
    pub async fn list(&self, caller: &Caller, tenant: Option<TenantId>) -> Result<Vec<ApiKey>, Refusal> {
        let tenant = administered(caller, tenant)?;
        let rows = self.store.api_keys().list(&tenant).await.map_err(store_fault)?;
        Ok(rows.into_iter().map(ApiKey::from).collect())
    }

    /// Ends a key at once.
    pub async fn revoke(&self, caller: &Caller, tenant: Option<TenantId>, id: Uuid) -> Result<(), Refusal> {
        let tenant = administered(caller, tenant)?;
        let now = self.clock.now_ms();
        if !self.store.api_keys().revoke(&tenant, id, now).await.map_err(store_fault)? {
            return Err(Refusal::not_found("API key"));
        }
        self.put_in_force().await?;
        tracing::info!(%tenant, key = %id, by = %caller.describe(), "api key revoked");
        Ok(())
    }

    async fn put_in_force(&self) -> Result<(), Refusal> {
        let rows = self.store.api_keys().all_active().await.map_err(store_fault)?;
        self.access.replace_api_keys(rows).map_err(|error| Refusal::fault("Reading API keys", &error))
    }
}

/// The tenant whose keys the caller may manage.
fn administered(caller: &Caller, tenant: Option<TenantId>) -> Result<TenantId, Refusal> {
    match (caller.tenant(), tenant) {
        (None, Some(tenant)) if caller.is_operator() => Ok(tenant),
        (None, None) if caller.is_operator() => {
            Err(Refusal::invalid("tenantId", "An operator names the tenant that the key is for."))
        }
        (Some(own), None) if caller.is_admin() => Ok(own.clone()),
        (Some(own), Some(tenant)) if caller.is_admin() && *own == tenant => Ok(tenant),
        _ => Err(Refusal::forbidden("API keys are managed with the role ADMIN of the tenant, or by an operator.")),
    }
}

impl From<tidings_store::ApiKeyRow> for ApiKey {
    fn from(row: tidings_store::ApiKeyRow) -> Self {
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

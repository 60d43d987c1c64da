//! API keys: made here, shown once, kept as a hash, looked up in memory.
//!
//! A key is `tdk_` and 32 random bytes. With that much randomness a plain SHA-256 is a safe hash,
//! and one that is fast enough for every request. The snapshot that requests look into is read from
//! the store at start and changed with it: a revoked key is refused from the moment its revocation
//! is durable. Replicas follow each other (`replicas.rs`). An expired key stays in the snapshot for a day, so that its user
//! is told what has happened to it, and is as good as unknown then; the store keeps the rows of all.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tidings_event::{ModuleId, TenantId};
use tidings_store::{ApiKeyRow, OutboxRow, Store, StoreError};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::caller::{Caller, Principal, Scope};
use super::token::Unauthenticated;

/// What every key begins with, so that people and secret scanners recognise one.
pub const PREFIX: &str = "tdk_";

/// `tdk_` and 32 bytes in base64url.
const LENGTH: usize = 47;

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 100;

/// The most scopes of one key.
const MAX_SCOPES: usize = 100;

/// For how long an expired key is still said to be expired, in ms: a day.
const TOLD_MS: i64 = 24 * 60 * 60 * 1_000;

/// The key that someone asks for.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What to call it.
    pub name: String,
    /// The module whose manifest is to bound it.
    pub module: Option<ModuleId>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it is to end by itself.
    pub expires_at_ms: Option<i64>,
}

/// Why a key was not made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The name is empty, too long or has control characters.
    #[error("an API key needs a name of 1 to {MAX_NAME_BYTES} bytes without control characters")]
    Name,
    /// No scopes, or too many.
    #[error("an API key needs 1 to {MAX_SCOPES} scopes")]
    Scopes,
    /// It would be expired from the start.
    #[error("the API key's expiry lies in the past")]
    Expiry,
    /// The tenant has as many as it may have.
    #[error(
        "the tenant has the {0} API keys that it may have, those that expired within a day included; revoke one"
    )]
    TooMany(usize),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The keys of all tenants.
pub struct ApiKeys {
    store: Store,
    active: ArcSwap<HashMap<[u8; 32], Active>>,
    most: usize,
    /// One change at a time, so that a reading that began before a change does not undo it.
    changing: Mutex<()>,
}

#[derive(Clone)]
struct Active {
    id: Uuid,
    hash: [u8; 32],
    caller: Caller,
    expires_at_ms: i64,
}

impl ApiKeys {
    /// Reads the keys from the store. A tenant may have `most` of them, any number if that is not said.
    pub(super) async fn load(
        store: Store,
        most: Option<usize>,
        now_ms: i64,
    ) -> Result<Self, StoreError> {
        let keys = Self {
            store,
            active: ArcSwap::default(),
            most: most.unwrap_or(usize::MAX),
            changing: Mutex::default(),
        };
        keys.reload(now_ms).await?;
        Ok(keys)
    }

    /// Puts in force what the store holds: another replica may have changed it.
    pub(crate) async fn reload(&self, now_ms: i64) -> Result<(), StoreError> {
        let _alone = self.changing.lock().await;
        let rows = self.store.api_keys().in_force(now_ms - TOLD_MS).await?;
        let active = rows
            .iter()
            .filter_map(Active::new)
            .map(|key| (key.hash, key))
            .collect();
        self.active.store(Arc::new(active));
        Ok(())
    }

    /// Makes a key for the tenant, with the events that tell of it. The text is given out here and
    /// never again.
    pub async fn create(
        &self,
        tenant: &TenantId,
        new: NewApiKey,
        now_ms: i64,
        events: impl FnOnce(&ApiKeyRow) -> Vec<OutboxRow>,
    ) -> Result<(ApiKeyRow, String), ApiKeyError> {
        check(&new, now_ms)?;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(ApiKeyError::Random)?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        let row = ApiKeyRow {
            id: Uuid::now_v7(),
            tenant: tenant.clone(),
            name: new.name,
            module: new.module,
            scopes: new.scopes.iter().map(Scope::to_string).collect(),
            hash: hash_of(&text),
            created_at_ms: now_ms,
            expires_at_ms: new.expires_at_ms,
            revoked_at_ms: None,
        };
        let events = events(&row);
        let _alone = self.changing.lock().await;
        self.change(now_ms, |_| {});
        let active = self.active.load_full();
        let theirs = active
            .values()
            .filter(|key| key.caller.tenant() == Some(tenant));
        if theirs.count() >= self.most {
            return Err(ApiKeyError::TooMany(self.most));
        }
        self.store.api_keys().insert(&row, &events).await?;
        if let Some(key) = Active::new(&row) {
            self.change(now_ms, |active| {
                active.insert(key.hash, key.clone());
            });
        }
        Ok((row, text))
    }

    /// So many of the tenant's keys after an id, oldest first, ended ones too.
    pub async fn list(
        &self,
        tenant: &TenantId,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<ApiKeyRow>, ApiKeyError> {
        Ok(self.store.api_keys().list(tenant, after, limit).await?)
    }

    /// Ends the tenant's key, with the events that tell of it. False when it has no such key, or
    /// ended it before.
    pub async fn revoke(
        &self,
        tenant: &TenantId,
        id: Uuid,
        now_ms: i64,
        events: &[OutboxRow],
    ) -> Result<bool, ApiKeyError> {
        let _alone = self.changing.lock().await;
        let keys = self.store.api_keys();
        let revoked = keys.revoke(tenant, id, now_ms, events).await?;
        self.change(now_ms, |active| {
            active.retain(|_, key| key.id != id || key.caller.tenant() != Some(tenant));
        });
        Ok(revoked)
    }

    /// Whose key this is.
    pub(super) fn authenticate(&self, text: &str, now_ms: i64) -> Result<Caller, Unauthenticated> {
        if text.len() != LENGTH {
            return Err(Unauthenticated::ApiKey);
        }
        let hash = hash_of(text);
        let active = self.active.load();
        let key = active.get(&hash).ok_or(Unauthenticated::ApiKey)?;
        // The map compares in variable time, though only hashes, which nobody can steer; this does
        // not.
        if !bool::from(key.hash.ct_eq(&hash)) {
            return Err(Unauthenticated::ApiKey);
        }
        if key.expires_at_ms <= now_ms {
            return Err(Unauthenticated::ApiKeyExpired);
        }
        Ok(key.caller.clone())
    }

    /// Changes the snapshot, and forgets who expired long ago.
    fn change(&self, now_ms: i64, edit: impl Fn(&mut HashMap<[u8; 32], Active>)) {
        self.active.rcu(|active| {
            let mut active = HashMap::clone(active);
            active.retain(|_, key| key.expires_at_ms > now_ms - TOLD_MS);
            edit(&mut active);
            Arc::new(active)
        });
    }
}

impl Active {
    /// `None` for a key with a scope that this version does not know: better none of it than part
    /// of it.
    fn new(row: &ApiKeyRow) -> Option<Self> {
        let scopes: Result<Vec<Scope>, _> = row.scopes.iter().map(|text| text.parse()).collect();
        let scopes = scopes
            .inspect_err(|error| tracing::warn!(api_key = %row.id, %error, "API key not in force"))
            .ok()?;
        let principal = Principal::ApiKey {
            id: row.id,
            name: row.name.clone(),
            module: row.module.clone(),
            scopes,
        };
        let caller = Caller::new(principal, Some(row.tenant.clone()), false);
        let expires_at_ms = row.expires_at_ms.unwrap_or(i64::MAX);
        Some(Self {
            id: row.id,
            hash: row.hash,
            caller,
            expires_at_ms,
        })
    }
}

fn check(new: &NewApiKey, now_ms: i64) -> Result<(), ApiKeyError> {
    let name_length = 1..=MAX_NAME_BYTES;
    if !name_length.contains(&new.name.len()) || new.name.chars().any(char::is_control) {
        return Err(ApiKeyError::Name);
    }
    if new.scopes.is_empty() || new.scopes.len() > MAX_SCOPES {
        return Err(ApiKeyError::Scopes);
    }
    if new.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
        return Err(ApiKeyError::Expiry);
    }
    Ok(())
}

fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn none(_: &ApiKeyRow) -> Vec<OutboxRow> {
        Vec::new()
    }

    fn wanted(expires_at_ms: Option<i64>) -> NewApiKey {
        NewApiKey {
            name: "ci".into(),
            module: Some("crm".parse().unwrap()),
            scopes: vec!["publish:crm.**".parse().unwrap(), Scope::ReadEvents],
            expires_at_ms,
        }
    }

    #[tokio::test]
    async fn the_life_of_a_key() {
        let store = Store::in_memory().await.unwrap();
        let keys = ApiKeys::load(store.clone(), None, NOW).await.unwrap();
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let (row, text) = keys
            .create(&acme, wanted(Some(NOW + 10)), NOW, none)
            .await
            .unwrap();
        assert_eq!((text.len(), text.starts_with(PREFIX)), (LENGTH, true));

        let caller = keys.authenticate(&text, NOW).unwrap();
        assert_eq!(
            (caller.tenant(), caller.receipt_scope()),
            (Some(&acme), "module:crm")
        );
        assert!(!caller.is_admin());
        let Principal::ApiKey { scopes, .. } = caller.principal() else {
            panic!("{caller:?}")
        };
        assert_eq!(scopes, &wanted(None).scopes);

        let expired = keys.authenticate(&text, NOW + 10).unwrap_err();
        assert_eq!(expired, Unauthenticated::ApiKeyExpired);
        assert!(!keys.revoke(&globex, row.id, NOW, &[]).await.unwrap());
        assert!(keys.authenticate(&text, NOW).is_ok());
        // What another process of this installation sees at its start.
        let elsewhere = ApiKeys::load(store.clone(), None, NOW).await.unwrap();
        assert!(elsewhere.authenticate(&text, NOW).is_ok());

        assert!(keys.revoke(&acme, row.id, NOW + 1, &[]).await.unwrap());
        assert!(!keys.revoke(&acme, row.id, NOW + 2, &[]).await.unwrap());
        assert_eq!(
            keys.authenticate(&text, NOW).unwrap_err(),
            Unauthenticated::ApiKey
        );
        let later = ApiKeys::load(store, None, NOW).await.unwrap();
        assert_eq!(
            later.authenticate(&text, NOW).unwrap_err(),
            Unauthenticated::ApiKey
        );
        assert_eq!(
            keys.list(&acme, None, 9).await.unwrap()[0].revoked_at_ms,
            Some(NOW + 1)
        );
        assert!(keys.list(&globex, None, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_tenant_has_so_many_and_an_expired_one_is_forgotten_after_a_day() {
        let store = Store::in_memory().await.unwrap();
        let keys = ApiKeys::load(store.clone(), Some(2), NOW).await.unwrap();
        let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let make = async |tenant: &TenantId, ends: Option<i64>, now: i64| {
            keys.create(tenant, wanted(ends), now, none).await
        };
        let (_, short) = make(&acme, Some(NOW + 10), NOW).await.unwrap();
        let (long, _) = make(&acme, None, NOW).await.unwrap();
        let refused = make(&acme, None, NOW).await.unwrap_err();
        assert!(matches!(refused, ApiKeyError::TooMany(2)), "{refused}");
        make(&globex, None, NOW).await.unwrap();
        // One that is ended leaves room for another.
        assert!(keys.revoke(&acme, long.id, NOW, &[]).await.unwrap());
        make(&acme, None, NOW).await.unwrap();

        let last_day = NOW + 9 + TOLD_MS;
        assert!(make(&acme, None, last_day).await.is_err());
        let elsewhere = ApiKeys::load(store.clone(), None, last_day).await.unwrap();
        for keys in [&keys, &elsewhere] {
            let told = keys.authenticate(&short, last_day).unwrap_err();
            assert_eq!(told, Unauthenticated::ApiKeyExpired);
        }
        let later = last_day + 1;
        make(&acme, None, later).await.unwrap();
        elsewhere.reload(later).await.unwrap();
        for (keys, held) in [(&keys, 3), (&elsewhere, 3)] {
            let told = keys.authenticate(&short, later).unwrap_err();
            assert_eq!(told, Unauthenticated::ApiKey);
            assert_eq!(keys.active.load().len(), held);
        }
        assert_eq!(keys.list(&acme, None, 9).await.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused_alike() {
        let store = Store::in_memory().await.unwrap();
        let keys = ApiKeys::load(store, None, NOW).await.unwrap();
        let acme = "acme".parse().unwrap();
        let (_, text) = keys.create(&acme, wanted(None), NOW, none).await.unwrap();
        let foreign = format!("{PREFIX}{}", "A".repeat(43));
        let longer = format!("{text}A");
        for bad in ["tdk_", &text[..46], &longer, &foreign, &text.to_uppercase()] {
            assert_eq!(
                keys.authenticate(bad, NOW).unwrap_err(),
                Unauthenticated::ApiKey,
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_that_makes_no_sense_is_not_made() {
        let store = Store::in_memory().await.unwrap();
        let keys = ApiKeys::load(store, None, NOW).await.unwrap();
        let acme = "acme".parse().unwrap();
        let nameless = NewApiKey {
            name: String::new(),
            ..wanted(None)
        };
        let forging = NewApiKey {
            name: "a\nb".into(),
            ..wanted(None)
        };
        let powerless = NewApiKey {
            scopes: vec![],
            ..wanted(None)
        };
        for bad in [nameless, forging, powerless, wanted(Some(NOW))] {
            assert!(
                keys.create(&acme, bad.clone(), NOW, none).await.is_err(),
                "{bad:?}"
            );
        }
        assert!(keys.list(&acme, None, 9).await.unwrap().is_empty());
    }
}

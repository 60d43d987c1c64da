//! The room at the door: from an `Authorization` header to a [`Caller`].
//!
//! Cast: [`Access`] asks either the API keys (`api_key`) or, for a JWT, a cache of tokens verified
//! before and then `token`, which holds a token against the keys in force (`jwks`) and the
//! configured rules. Without a configured key set or secret the data folder's own key (`local_key`)
//! is in force; with one it is off.
//!
//! A caller known from before is found by one hash and one lookup, and nothing is awaited. The one
//! thing that is ever awaited is a newer key set, when a token names a key that is not known.
//! Nothing fails open: an outage of the issuer leaves the keys as they are, and what cannot be
//! verified is refused.
//!
//! Not needed for correctness: the cache. An entry ends with its token and with the key set it was
//! verified by.

mod api_key;
#[cfg(test)]
mod attacks;
mod caller;
mod jwks;
#[cfg(test)]
mod key_life;
mod local_key;
mod session;
mod token;

use std::path::Path;

use jsonwebtoken::DecodingKey;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tidings_store::{Store, StoreError};
use zeroize::Zeroizing;

pub use api_key::{ApiKeyError, ApiKeys, NewApiKey, PREFIX as API_KEY_PREFIX};
pub(crate) use caller::of_extension;
pub use caller::{Caller, InvalidScope, Principal, Scope, on_behalf_of};
#[cfg(test)]
pub(crate) use caller::{operator, user};
pub use jwks::{Fetch, KeySource};
pub use local_key::{Claims, FILE_NAME as LOCAL_KEY_FILE_NAME, LocalKey, LocalKeyError};
pub use session::{NewSession, Sessions};
pub use token::Unauthenticated;

use jwks::Keys;
use token::{Rules, Verified};

/// How much memory verified tokens may take.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// What an entry takes beside the token.
const ENTRY_BYTES: u64 = 256;

/// RFC 7518 wants a secret at least as long as the hash of HS256.
const MIN_SECRET_BYTES: usize = 32;

/// Whom to trust. Nothing configured: the data folder's own key.
#[derive(Default)]
pub struct AccessConfig {
    /// Where the issuer's keys are.
    pub keys: Option<KeySource>,
    /// The secret of HS256 tokens.
    pub shared_secret: Option<Zeroizing<Vec<u8>>>,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// What `aud` must be or contain.
    pub audience: Option<String>,
    /// How many API keys a tenant may have. Not said: any number.
    pub api_keys_per_tenant: Option<usize>,
}

impl AccessConfig {
    /// Refuses what a door cannot be set up with, as far as no issuer has to be asked.
    pub fn check(&self) -> Result<(), AccessError> {
        if let Some(secret) = &self.shared_secret {
            decoding_key(secret)?;
        }
        let keys = self.keys.as_ref();
        keys.map_or(Ok(()), KeySource::check)
            .map_err(AccessError::KeySet)
    }
}

/// Why the door cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The key set's file is missing or holds no key set.
    #[error("the configured key set cannot be used: {0}")]
    KeySet(String),
    /// A guessable secret is no secret.
    #[error(
        "the configured shared secret is {0} bytes long; use {MIN_SECRET_BYTES} or more random ones"
    )]
    ShortSecret(usize),
    /// The data folder's key.
    #[error(transparent)]
    LocalKey(#[from] LocalKeyError),
    /// The API keys cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Tells who is calling.
pub struct Access {
    api_keys: ApiKeys,
    sessions: Sessions,
    keys: Keys,
    rules: Rules,
    local_key: Option<LocalKey>,
    verified: Cache<Box<str>, Remembered, ByTokenSize>,
}

#[derive(Clone)]
struct Remembered {
    caller: Caller,
    until_ms: i64,
    generation: u64,
}

#[derive(Clone)]
struct ByTokenSize;

impl Weighter<Box<str>, Remembered> for ByTokenSize {
    fn weight(&self, token: &Box<str>, _: &Remembered) -> u64 {
        token.len() as u64 + ENTRY_BYTES
    }
}

impl Access {
    /// Sets the door up. A key set in a file must be there; one behind a URL may come later.
    pub async fn new(
        config: AccessConfig,
        store: Store,
        data_folder: &Path,
        now_ms: i64,
    ) -> Result<Self, AccessError> {
        let secret = config
            .shared_secret
            .map(|secret| decoding_key(&secret))
            .transpose()?;
        let local = config.keys.is_none() && secret.is_none();
        let local_key = local
            .then(|| LocalKey::load_or_create(data_folder))
            .transpose()?;
        let keys = match (&local_key, config.keys) {
            (Some(key), _) => Keys::fixed(key.key_set()),
            (None, None) => Keys::fixed(jwks::KeySet::empty()),
            (None, Some(source)) => first_keys(source, now_ms).await?,
        };
        let items = usize::try_from(CACHE_BYTES / 1024).unwrap_or(usize::MAX);
        Ok(Self {
            sessions: Sessions::new(store.clone()),
            api_keys: ApiKeys::load(store, config.api_keys_per_tenant, now_ms).await?,
            keys,
            rules: Rules {
                issuer: config.issuer,
                audience: config.audience,
                secret,
            },
            local_key,
            verified: Cache::with_weighter(items, CACHE_BYTES, ByTokenSize),
        })
    }

    /// The keys made for servers and tools.
    pub fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// The data folder's key, while it is in force.
    pub fn local_key(&self) -> Option<&LocalKey> {
        self.local_key.as_ref()
    }

    /// What people with browsers authenticate with.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Who sends this `Authorization` header.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
        now_ms: i64,
    ) -> Result<Caller, Unauthenticated> {
        let verified = self.verified(authorization, now_ms).await;
        verified.map(|verified| verified.caller)
    }

    /// The same, with the time at which the credential ends; an API key is taken for one without.
    async fn verified(
        &self,
        authorization: Option<&str>,
        now_ms: i64,
    ) -> Result<Verified, Unauthenticated> {
        let credential = bearer(authorization.ok_or(Unauthenticated::Missing)?)?;
        if credential.starts_with(API_KEY_PREFIX) {
            let caller = self.api_keys.authenticate(credential, now_ms)?;
            let until_ms = i64::MAX;
            return Ok(Verified { caller, until_ms });
        }
        if let Some(verified) = self.remembered(credential, now_ms) {
            return Ok(verified);
        }
        match self.verify(credential, now_ms) {
            Err(Unauthenticated::UnknownKey) if self.keys.can_change() => {
                // A failed fetch is logged there; the keys in force then decide again.
                let _ = self.keys.refresh(now_ms).await;
                self.verify(credential, now_ms).map_err(|reason| {
                    if self.keys.current().is_empty() {
                        return Unauthenticated::NoKeysYet;
                    }
                    reason
                })
            }
            decided => decided,
        }
    }

    /// Fetches the key set anew even though no token asked for it, so that a key the issuer has
    /// withdrawn does not stay in force. For a timer; within five seconds of another fetch nothing
    /// happens.
    pub async fn refresh_keys(&self, now_ms: i64) -> Result<(), AccessError> {
        self.keys.refresh(now_ms).await.map_err(AccessError::KeySet)
    }

    fn remembered(&self, token: &str, now_ms: i64) -> Option<Verified> {
        let found = self.verified.get(token)?;
        let in_force =
            found.until_ms > now_ms && found.generation == self.keys.current().generation;
        in_force.then_some(Verified {
            caller: found.caller,
            until_ms: found.until_ms,
        })
    }

    fn verify(&self, token: &str, now_ms: i64) -> Result<Verified, Unauthenticated> {
        let keys = self.keys.current();
        let Verified { caller, until_ms } = token::verify(token, &keys, &self.rules, now_ms)?;
        let remembered = Remembered {
            caller: caller.clone(),
            until_ms,
            generation: keys.generation,
        };
        self.verified.insert(token.into(), remembered);
        Ok(Verified { caller, until_ms })
    }
}

async fn first_keys(source: KeySource, now_ms: i64) -> Result<Keys, AccessError> {
    let must_be_there = matches!(source, KeySource::File(_));
    let keys = Keys::from_source(source);
    match keys.refresh(now_ms).await {
        Err(reason) if must_be_there => Err(AccessError::KeySet(reason)),
        _ => Ok(keys),
    }
}

fn decoding_key(secret: &[u8]) -> Result<DecodingKey, AccessError> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(AccessError::ShortSecret(secret.len()));
    }
    Ok(DecodingKey::from_secret(secret))
}

/// The credential after `Bearer`, in whatever case the scheme is written.
fn bearer(header: &str) -> Result<&str, Unauthenticated> {
    let (scheme, credential) = header.split_once(' ').ok_or(Unauthenticated::NotBearer)?;
    let credential = credential.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty() {
        Ok(credential)
    } else {
        Err(Unauthenticated::NotBearer)
    }
}

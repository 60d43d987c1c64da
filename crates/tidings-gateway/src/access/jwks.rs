//! The keys that tokens are verified with: a JSON Web Key Set from a file or a URL, kept in memory.
//!
//! A token with an unknown key id may mean that the issuer has rotated its keys, so the set is
//! fetched again: by one caller for all that wait, and at most once in five seconds, whatever the
//! flood. A caller that goes away does not stop the fetch for the others. When a fetch fails or
//! brings nothing usable the keys in force stay in force.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

use super::token::Unauthenticated;

/// Gets the document. How, through which guards and with which limits is the giver's choice.
pub type Fetch = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// Between the beginnings of two fetches.
const FETCH_INTERVAL_MS: u64 = 5_000;

/// How long one fetch may take. Whoever waits for it waits no longer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(4);

/// The largest document that is read.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// The most keys that are kept of a document.
const MAX_KEYS: usize = 64;

/// RSA keys below 2048 bits are too weak, above 4096 too slow to let strangers choose.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Where the keys come from.
#[derive(Clone)]
pub enum KeySource {
    /// A file, read again when a token names an unknown key.
    File(PathBuf),
    /// A function that gets the document, from a URL for example.
    Fetch(Fetch),
}

impl KeySource {
    /// Whether there are keys in the file; what has to be fetched is not asked for.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self::File(path) = self else {
            return Ok(());
        };
        let read = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        KeySet::parse(&read, 0).map(drop)
    }

    fn into_fetch(self) -> Fetch {
        match self {
            Self::Fetch(fetch) => fetch,
            Self::File(path) => Arc::new(move || {
                let path = path.clone();
                async move {
                    let read = tokio::fs::read(&path).await;
                    read.map_err(|error| format!("{}: {error}", path.display()))
                }
                .boxed()
            }),
        }
    }
}

/// One trusted key, for one algorithm.
struct TrustedKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// A set of trusted keys. Immutable; a change makes a new set with the next generation.
pub(super) struct KeySet {
    keys: Vec<TrustedKey>,
    pub(super) generation: u64,
}

impl KeySet {
    /// A set that trusts nothing.
    pub(super) fn empty() -> Self {
        Self {
            keys: Vec::new(),
            generation: 0,
        }
    }

    /// Whether it trusts nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The set of one Ed25519 key.
    pub(super) fn of_ed25519(id: &str, public: &[u8; 32]) -> Self {
        let key = DecodingKey::from_ed_der(public);
        let trusted = TrustedKey {
            id: Some(id.to_owned()),
            algorithm: Algorithm::EdDSA,
            key,
        };
        Self {
            keys: vec![trusted],
            generation: 0,
        }
    }

    /// Reads a document. Keys that cannot be used here (another use, algorithm or size) are left
    /// out.
    pub(super) fn parse(document: &[u8], generation: u64) -> Result<Self, String> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(format!(
                "the key set is larger than {MAX_DOCUMENT_BYTES} bytes"
            ));
        }
        let document: Document = serde_json::from_slice(document)
            .map_err(|error| format!("the key set is not a JSON Web Key Set: {error}"))?;
        let keys: Vec<_> = document
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter_map(Jwk::into_trusted)
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() {
            return Err("the key set holds no key for RS256, ES256 or EdDSA signatures".into());
        }
        Ok(Self { keys, generation })
    }

    /// The key of this id for this algorithm. A token without an id is for the one key of its
    /// algorithm.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&DecodingKey, Unauthenticated> {
        let mut of_id = self
            .keys
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id);
        if id.is_some() {
            let mut known = of_id.peekable();
            known.peek().ok_or(Unauthenticated::UnknownKey)?;
            let fitting = known.find(|key| key.algorithm == algorithm);
            return fitting
                .map(|key| &key.key)
                .ok_or(Unauthenticated::Algorithm);
        }
        let first = of_id.find(|key| key.algorithm == algorithm);
        let another = of_id.any(|key| key.algorithm == algorithm);
        match first {
            Some(key) if !another => Ok(&key.key),
            None if !self.keys.is_empty() => Err(Unauthenticated::Algorithm),
            _ => Err(Unauthenticated::UnknownKey),
        }
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    public_key_use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    fn into_trusted(self) -> Option<TrustedKey> {
        if self
            .public_key_use
            .as_deref()
            .is_some_and(|given| given != "sig")
        {
            return None;
        }
        let bytes = |field: &Option<String>| URL_SAFE_NO_PAD.decode(field.as_deref()?).ok();
        let sized = |field: &Option<String>| bytes(field).filter(|it| it.len() == 32);
        let (algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => {
                let (n, e) = (bytes(&self.n)?, bytes(&self.e)?);
                // A leading zero byte is padding that some issuers write.
                let n = n.strip_prefix(&[0]).unwrap_or(&n);
                RSA_MODULUS_BYTES.contains(&n.len()).then_some(())?;
                (
                    Algorithm::RS256,
                    DecodingKey::from_rsa_raw_components(n, &e),
                )
            }
            ("EC", Some("P-256")) => {
                let point = [&[4], &sized(&self.x)?[..], &sized(&self.y)?[..]].concat();
                (Algorithm::ES256, DecodingKey::from_ec_der(&point))
            }
            ("OKP", Some("Ed25519")) => {
                (Algorithm::EdDSA, DecodingKey::from_ed_der(&sized(&self.x)?))
            }
            _ => return None,
        };
        let fits = match self.alg.as_deref() {
            None => true,
            Some("Ed25519") => algorithm == Algorithm::EdDSA,
            Some(alg) => alg.parse() == Ok(algorithm),
        };
        fits.then_some(TrustedKey {
            id: self.kid,
            algorithm,
            key,
        })
    }
}

/// The keys in force, and how to get newer ones.
pub(super) struct Keys {
    current: Arc<ArcSwap<KeySet>>,
    fetch: Option<Fetch>,
    last: Mutex<LastFetch>,
}

#[derive(Default)]
struct LastFetch {
    began_ms: Option<i64>,
    flight: Option<Shared<BoxFuture<'static, Result<(), String>>>>,
}

impl Keys {
    /// Keys that never change.
    pub(super) fn fixed(keys: KeySet) -> Self {
        let current = Arc::new(ArcSwap::from_pointee(keys));
        Self {
            current,
            fetch: None,
            last: Mutex::default(),
        }
    }

    /// Keys from a source, none until the first fetch.
    pub(super) fn from_source(source: KeySource) -> Self {
        Self {
            fetch: Some(source.into_fetch()),
            ..Self::fixed(KeySet::empty())
        }
    }

    /// The set in force.
    pub(super) fn current(&self) -> arc_swap::Guard<Arc<KeySet>> {
        self.current.load()
    }

    /// Whether another look at the source could help at all.
    pub(super) fn can_change(&self) -> bool {
        self.fetch.is_some()
    }

    /// Fetches the keys, unless that was tried within the last five seconds; joins a fetch under
    /// way.
    pub(super) async fn refresh(&self, now_ms: i64) -> Result<(), String> {
        match self.flight(now_ms) {
            Some(flight) => flight.await,
            None => Ok(()),
        }
    }

    fn flight(&self, now_ms: i64) -> Option<Shared<BoxFuture<'static, Result<(), String>>>> {
        let fetch = self.fetch.as_ref()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = last
            .flight
            .as_ref()
            .filter(|flight| flight.peek().is_none())
        {
            return Some(flight.clone());
        }
        // A difference in either direction: a clock that was set back must not stop fetching for
        // hours.
        if last
            .began_ms
            .is_some_and(|began| began.abs_diff(now_ms) < FETCH_INTERVAL_MS)
        {
            return None;
        }
        let flight = renew(self.current.clone(), fetch()).boxed().shared();
        *last = LastFetch {
            began_ms: Some(now_ms),
            flight: Some(flight.clone()),
        };
        Some(flight)
    }
}

async fn renew(
    current: Arc<ArcSwap<KeySet>>,
    document: BoxFuture<'static, Result<Vec<u8>, String>>,
) -> Result<(), String> {
    let fetched = match tokio::time::timeout(FETCH_TIMEOUT, document).await {
        Ok(fetched) => fetched,
        Err(_) => Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs())),
    };
    // Only one flight exists at a time, so no other renewal can come between load and store.
    let generation = current.load().generation + 1;
    let renewed = fetched.and_then(|document| KeySet::parse(&document, generation));
    match renewed {
        Ok(keys) => {
            current.store(Arc::new(keys));
            Ok(())
        }
        Err(reason) => {
            tracing::warn!(
                reason,
                "the token keys were not renewed; those in force stay"
            );
            Err(reason)
        }
    }
}

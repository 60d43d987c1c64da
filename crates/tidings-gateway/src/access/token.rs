//! From a bearer token to a [`Caller`], or to the reason why not. Pure: keys and time are
//! arguments.
//!
//! The key fixes the algorithm: a token's header only chooses among keys that are trusted already,
//! by `kid`. Headers that bring or point to a key (`jwk`, `jku`, `x5c`, `x5u`) are never read, and
//! a token with `crit` is refused, since no critical extension is understood.
//!
//! `exp` has no leeway: an expired token is refused in the millisecond it expires. `nbf` has five
//! seconds, for issuers whose clock runs ahead of ours.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tidings_event::{ModuleId, Service, TenantId};

use super::caller::{Caller, Principal};
use super::jwks::KeySet;

/// Tokens beyond this size are refused unread.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far an issuer's clock may run ahead.
const NOT_BEFORE_LEEWAY_MS: i64 = 5_000;

/// The longest `sub`, which becomes part of keys and log lines.
const MAX_SUBJECT_BYTES: usize = 255;

/// Why a caller is not authenticated. The sentences are for the caller and give nothing away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No `Authorization` header.
    #[error("no credential was sent; send 'Authorization: Bearer <token or API key>'")]
    Missing,
    /// The cookie of a session that has ended, was revoked or never was.
    #[error("the session has ended or was revoked; begin another with POST /api/session")]
    Session,
    /// Another scheme, or nothing after it.
    #[error("the Authorization header is not of the form 'Bearer <token or API key>'")]
    NotBearer,
    /// Over 8 KiB.
    #[error("the token is larger than 8 KiB")]
    TooLarge,
    /// Not a signed JWT.
    #[error("the token is not a well-formed signed JWT")]
    Malformed,
    /// `none`, an unknown algorithm, or one that no trusted key is for.
    #[error("the token's algorithm is not accepted here")]
    Algorithm,
    /// `crit` names extensions; none is understood.
    #[error("the token's header has critical extensions, which are not understood here")]
    Critical,
    /// No trusted key has this `kid`, or there is none and more than one key.
    #[error("the token is signed with a key that is not trusted here")]
    UnknownKey,
    /// The issuer's keys could not be fetched since the start.
    #[error("the keys that tokens are verified with could not be fetched yet; try again soon")]
    NoKeysYet,
    /// The signature does not fit.
    #[error("the token's signature is not valid")]
    Signature,
    /// `exp` is missing or not a number.
    #[error("the token has no usable expiry (claim exp)")]
    NoExpiry,
    /// `exp` is past.
    #[error("the token has expired; get a new one")]
    Expired,
    /// `nbf` lies ahead.
    #[error("the token is not valid yet (claim nbf)")]
    Early,
    /// `iss` is not the configured one.
    #[error("the token was issued by someone else (claim iss)")]
    Issuer,
    /// `aud` does not name this installation.
    #[error("the token is meant for another audience (claim aud)")]
    Audience,
    /// `tenant_id` is missing or not one.
    #[error("the token names no valid tenant (claim tenant_id)")]
    Tenant,
    /// `module` and `service` in one token, or one of them with the role OPERATOR.
    #[error("the token names more than one of a module, a service and the role OPERATOR")]
    TwoPrincipals,
    /// `module` is not a module id.
    #[error("the token's claim module is not a module id")]
    Module,
    /// `service` is not a kernel service.
    #[error("the token's claim service is not one of the kernel services")]
    Service,
    /// `sub` is missing, too long or has control characters.
    #[error("the token names no valid subject (claim sub: 1 to 255 bytes, no control characters)")]
    Subject,
    /// No such key, revoked, malformed or expired for more than a day: which of them is not told.
    #[error("the API key is not known, was revoked or expired long ago")]
    ApiKey,
    /// The key's own end has come, within the last day.
    #[error("the API key has expired; make a new one")]
    ApiKeyExpired,
}

/// What a token is held to, beside its keys.
#[derive(Default)]
pub(super) struct Rules {
    /// The one accepted `iss`, when configured.
    pub(super) issuer: Option<String>,
    /// What `aud` must be or contain, when configured.
    pub(super) audience: Option<String>,
    /// The key of HS256, when configured.
    pub(super) secret: Option<DecodingKey>,
}

/// A token that holds, and until when.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) caller: Caller,
    pub(super) until_ms: i64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// True for a member that is there, whatever it holds, null too.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    tenant_id: Option<String>,
    module: Option<String>,
    service: Option<String>,
    #[serde(default)]
    roles: Option<Vec<String>>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Verifies the token against the keys and the rules at this time.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    rules: &Rules,
    now_ms: i64,
) -> Result<Verified, Unauthenticated> {
    let claims = signed_claims(token, keys, rules)?;
    let until_ms = check_times(&claims, now_ms)?;
    check_issuer_and_audience(&claims, rules)?;
    let caller = caller_of(claims)?;
    Ok(Verified { caller, until_ms })
}

/// The claims, once the signature holds. Nothing in the payload is looked at before.
fn signed_claims(token: &str, keys: &KeySet, rules: &Rules) -> Result<Claims, Unauthenticated> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Unauthenticated::TooLarge);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(Unauthenticated::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Unauthenticated::Malformed)?;
    let header: Header = part(header)?;
    if header.crit {
        return Err(Unauthenticated::Critical);
    }
    let (key, algorithm) = trusted_key(&header, keys, rules)?;
    let holds = jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm);
    if holds.is_ok_and(|holds| holds) {
        part(payload)
    } else {
        Err(Unauthenticated::Signature)
    }
}

fn part<T: for<'de> Deserialize<'de>>(encoded: &str) -> Result<T, Unauthenticated> {
    let json = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| Unauthenticated::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Unauthenticated::Malformed)
}

/// HS256 is only ever the configured secret, and no key of the set is ever used for it: a public
/// key taken for a secret is how algorithms get confused.
fn trusted_key<'a>(
    header: &Header,
    keys: &'a KeySet,
    rules: &'a Rules,
) -> Result<(&'a DecodingKey, Algorithm), Unauthenticated> {
    let algorithm = match header.alg.as_str() {
        "HS256" => {
            let secret = rules.secret.as_ref().ok_or(Unauthenticated::Algorithm)?;
            return Ok((secret, Algorithm::HS256));
        }
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        _ => return Err(Unauthenticated::Algorithm),
    };
    let key = keys.find(header.kid.as_deref(), algorithm)?;
    Ok((key, algorithm))
}

/// Until when the token holds.
fn check_times(claims: &Claims, now_ms: i64) -> Result<i64, Unauthenticated> {
    let until_ms = claims
        .exp
        .map(milliseconds)
        .ok_or(Unauthenticated::NoExpiry)?;
    if until_ms <= now_ms {
        return Err(Unauthenticated::Expired);
    }
    let from_ms = claims.nbf.map_or(i64::MIN, milliseconds);
    if from_ms > now_ms.saturating_add(NOT_BEFORE_LEEWAY_MS) {
        return Err(Unauthenticated::Early);
    }
    Ok(until_ms)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, which keeps the order"
)]
fn milliseconds(seconds: f64) -> i64 {
    (seconds * 1_000.0).floor() as i64
}

fn check_issuer_and_audience(claims: &Claims, rules: &Rules) -> Result<(), Unauthenticated> {
    if rules.issuer.is_some() && claims.iss != rules.issuer {
        return Err(Unauthenticated::Issuer);
    }
    let Some(wanted) = &rules.audience else {
        return Ok(());
    };
    let named = match &claims.aud {
        None => false,
        Some(Audience::One(one)) => one == wanted,
        Some(Audience::Many(many)) => many.contains(wanted),
    };
    if named {
        Ok(())
    } else {
        Err(Unauthenticated::Audience)
    }
}

/// Whether a token that says this names a caller.
pub(super) fn check(claims: &super::local_key::Claims) -> Result<(), Unauthenticated> {
    let roles = [(claims.admin, "ADMIN"), (claims.operator, "OPERATOR")];
    let roles = roles.into_iter().filter(|(given, _)| *given);
    let said = Claims {
        sub: Some(claims.subject.clone()),
        tenant_id: claims.tenant.as_ref().map(ToString::to_string),
        module: claims.module.as_ref().map(ToString::to_string),
        service: claims.service.as_ref().map(ToString::to_string),
        roles: Some(roles.map(|(_, role)| role.to_owned()).collect()),
        exp: None,
        nbf: None,
        iss: None,
        aud: None,
    };
    caller_of(said).map(drop)
}

fn caller_of(claims: Claims) -> Result<Caller, Unauthenticated> {
    let has = |role| claims.roles.iter().flatten().any(|given| given == role);
    let (admin, operator) = (has("ADMIN"), has("OPERATOR"));
    let tenant = claims
        .tenant_id
        .as_deref()
        .map(str::parse::<TenantId>)
        .transpose();
    let tenant = tenant.map_err(|_| Unauthenticated::Tenant)?;
    if tenant.is_none() && !operator {
        return Err(Unauthenticated::Tenant);
    }
    let principal = match (claims.module, claims.service, operator) {
        (Some(module), None, false) => Principal::Module(
            module
                .parse::<ModuleId>()
                .map_err(|_| Unauthenticated::Module)?,
        ),
        (None, Some(service), false) => Principal::Service(
            service
                .parse::<Service>()
                .ok()
                // It speaks for itself, whatever an issuer says.
                .filter(|service| *service != Service::Tidings)
                .ok_or(Unauthenticated::Service)?,
        ),
        (None, None, true) => Principal::Operator(subject(claims.sub)?),
        (None, None, false) => Principal::User(subject(claims.sub)?),
        _ => return Err(Unauthenticated::TwoPrincipals),
    };
    Ok(Caller::new(principal, tenant, admin))
}

fn subject(claim: Option<String>) -> Result<String, Unauthenticated> {
    claim
        .filter(|sub| (1..=MAX_SUBJECT_BYTES).contains(&sub.len()))
        .filter(|sub| !sub.chars().any(char::is_control))
        .ok_or(Unauthenticated::Subject)
}

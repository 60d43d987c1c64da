//! What is tried against the door: a table of forged, foreign and stale tokens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::*;

const RSA: &[u8] = include_bytes!("testdata/rsa.pem");
const EC: &[u8] = include_bytes!("testdata/ec.pem");
pub(super) const SECRET: &[u8] = b"a shared secret of more than 32 bytes";
pub(super) const NOW: i64 = 1_700_000_000_000;

pub(super) fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(RSA).unwrap()
}

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(EC).unwrap()
}

pub(super) fn ed() -> EncodingKey {
    ed_of(7)
}

/// An Ed25519 key of this seed, in the form that PKCS #8 gives it.
pub(super) fn ed_of(seed: u8) -> EncodingKey {
    let prefix = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    EncodingKey::from_ed_der(&[&prefix[..], &[seed; 32]].concat())
}

pub(super) fn jwk(kid: &str, key: &EncodingKey, algorithm: Algorithm) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
    jwk["kid"] = kid.into();
    jwk["use"] = "sig".into();
    jwk
}

pub(super) fn key_set() -> Value {
    json!({ "keys": [
        jwk("r", &rsa(), Algorithm::RS256),
        jwk("e", &ec(), Algorithm::ES256),
        jwk("d", &ed(), Algorithm::EdDSA),
    ]})
}

pub(super) fn claims(changes: &Value) -> Value {
    let mut claims = json!({ "sub": "u1", "tenant_id": "acme", "exp": NOW / 1000 + 60 });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

pub(super) fn sign(
    header: &Value,
    claims: &Value,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// A good token, with these claims changed.
pub(super) fn token(changes: &Value) -> String {
    sign(
        &json!({"alg": "EdDSA", "kid": "d"}),
        &claims(changes),
        &ed(),
        Algorithm::EdDSA,
    )
}

/// A token with this header, rightly signed with the RSA key.
fn rsa_signed(header: &Value) -> String {
    sign(header, &claims(&json!({})), &rsa(), Algorithm::RS256)
}

/// An issuer whose key set can be changed, and which counts how often it was asked.
#[derive(Clone)]
pub(super) struct Issuer {
    document: Arc<Mutex<Result<Value, String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub(super) fn of(document: Value) -> Self {
        Self {
            document: Arc::new(Mutex::new(Ok(document))),
            asked: Arc::default(),
        }
    }

    pub(super) fn now_has(&self, document: Result<Value, String>) {
        *self.document.lock().unwrap() = document;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn config(&self) -> AccessConfig {
        let issuer = self.clone();
        let fetch: Fetch = Arc::new(move || {
            issuer.asked.fetch_add(1, Ordering::SeqCst);
            let answer = issuer.document.lock().unwrap().clone();
            async move {
                tokio::task::yield_now().await;
                answer.map(|document| document.to_string().into_bytes())
            }
            .boxed()
        });
        AccessConfig {
            keys: Some(KeySource::Fetch(fetch)),
            ..AccessConfig::default()
        }
    }
}

pub(super) async fn door(config: AccessConfig) -> Access {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_memory().await.unwrap();
    Access::new(config, store, folder.path(), NOW)
        .await
        .unwrap()
}

pub(super) async fn ask(
    door: &Access,
    token: &str,
    now_ms: i64,
) -> Result<Caller, Unauthenticated> {
    door.authenticate(Some(&format!("Bearer {token}")), now_ms)
        .await
}

pub(super) async fn check(
    door: &Access,
    what: &str,
    token: &str,
    expected: Option<Unauthenticated>,
) {
    assert_eq!(ask(door, token, NOW).await.err(), expected, "{what}");
}

#[tokio::test]
async fn good_tokens_of_every_kind_are_accepted() {
    let config = AccessConfig {
        shared_secret: Some(Zeroizing::new(SECRET.to_vec())),
        ..Issuer::of(key_set()).config()
    };
    let door = door(config).await;
    let of = |header: Value, key: &EncodingKey, algorithm| {
        sign(&header, &claims(&json!({})), key, algorithm)
    };
    let secret = EncodingKey::from_secret(SECRET);
    for (what, token) in [
        (
            "RS256",
            of(
                json!({"alg": "RS256", "kid": "r"}),
                &rsa(),
                Algorithm::RS256,
            ),
        ),
        (
            "ES256",
            of(json!({"alg": "ES256", "kid": "e"}), &ec(), Algorithm::ES256),
        ),
        (
            "EdDSA",
            of(json!({"alg": "EdDSA", "kid": "d"}), &ed(), Algorithm::EdDSA),
        ),
        (
            "no kid",
            of(json!({"alg": "EdDSA"}), &ed(), Algorithm::EdDSA),
        ),
        (
            "HS256",
            of(json!({"alg": "HS256"}), &secret, Algorithm::HS256),
        ),
        (
            "expiry with a fraction",
            token(&json!({"exp": 1_700_000_060.5})),
        ),
        ("valid since now", token(&json!({"nbf": NOW / 1000}))),
        (
            "a clock a little ahead",
            token(&json!({"nbf": NOW / 1000 + 5})),
        ),
        ("foreign roles", token(&json!({"roles": ["cook"]}))),
    ] {
        check(&door, what, &token, None).await;
    }
}

#[tokio::test]
async fn keys_and_algorithms_cannot_be_confused() {
    use Unauthenticated as U;
    let door = door(Issuer::of(key_set()).config()).await;
    let public = |name: &str| key_set()["keys"][0][name].as_str().unwrap().to_owned();
    let hmac = |secret: &[u8], header: Value| {
        sign(
            &header,
            &claims(&json!({})),
            &EncodingKey::from_secret(secret),
            Algorithm::HS256,
        )
    };
    let good = rsa_signed(&json!({"alg": "RS256", "kid": "r"}));
    let unsigned = |alg: &str| {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": "d"}).to_string());
        format!(
            "{header}.{}.",
            URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string())
        )
    };
    let modulus = URL_SAFE_NO_PAD.decode(public("n")).unwrap();
    let ed_public = key_set()["keys"][2]["x"].as_str().unwrap().to_owned();
    let ed_public = URL_SAFE_NO_PAD.decode(ed_public).unwrap();
    for (what, token, expected) in [
        ("none", unsigned("none"), U::Algorithm),
        ("None", unsigned("None"), U::Algorithm),
        ("no signature", unsigned("EdDSA"), U::Signature),
        (
            "HS256, modulus",
            hmac(&modulus, json!({"alg": "HS256", "kid": "r"})),
            U::Algorithm,
        ),
        (
            "HS256, Ed key",
            hmac(&ed_public, json!({"alg": "HS256", "kid": "d"})),
            U::Algorithm,
        ),
        (
            "HS256 called RS256",
            hmac(&modulus, json!({"alg": "RS256", "kid": "r"})),
            U::Signature,
        ),
        (
            "HS256 called EdDSA",
            hmac(&ed_public, json!({"alg": "EdDSA", "kid": "d"})),
            U::Signature,
        ),
        (
            "RS as ES",
            rsa_signed(&json!({"alg": "ES256", "kid": "r"})),
            U::Algorithm,
        ),
        (
            "RS as EdDSA",
            rsa_signed(&json!({"alg": "EdDSA", "kid": "d"})),
            U::Signature,
        ),
        (
            "RS by the ES key",
            rsa_signed(&json!({"alg": "RS256", "kid": "e"})),
            U::Algorithm,
        ),
        (
            "RS384",
            rsa_signed(&json!({"alg": "RS384", "kid": "r"})),
            U::Algorithm,
        ),
        (
            "PS256",
            rsa_signed(&json!({"alg": "PS256", "kid": "r"})),
            U::Algorithm,
        ),
        (
            "wrong kid",
            rsa_signed(&json!({"alg": "RS256", "kid": "x"})),
            U::UnknownKey,
        ),
        ("a torn header", good.replacen('.', "x.", 1), U::Malformed),
    ] {
        check(&door, what, &token, Some(expected)).await;
    }
}

#[tokio::test]
async fn a_token_cannot_bring_its_own_key_or_rules() {
    use Unauthenticated as U;
    let door = door(Issuer::of(key_set()).config()).await;
    let own = jwk("mine", &ed_of(9), Algorithm::EdDSA);
    let foreign = |header: Value| sign(&header, &claims(&json!({})), &ed_of(9), Algorithm::EdDSA);
    for (what, token, expected) in [
        (
            "own jwk",
            foreign(json!({"alg": "EdDSA", "jwk": own})),
            U::Signature,
        ),
        (
            "own jwk, kid",
            foreign(json!({"alg": "EdDSA", "kid": "mine", "jwk": own})),
            U::UnknownKey,
        ),
        (
            "jku",
            foreign(json!({"alg": "EdDSA", "kid": "m", "jku": "https://a/b"})),
            U::UnknownKey,
        ),
        (
            "x5u",
            foreign(json!({"alg": "EdDSA", "kid": "d", "x5u": "https://a/b"})),
            U::Signature,
        ),
        (
            "crit",
            rsa_signed(&json!({"alg": "RS256", "kid": "r", "crit": ["b64"]})),
            U::Critical,
        ),
        (
            "crit null",
            rsa_signed(&json!({"alg": "RS256", "kid": "r", "crit": null})),
            U::Critical,
        ),
    ] {
        check(&door, what, &token, Some(expected)).await;
    }
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    use Unauthenticated as U;
    let config = AccessConfig {
        issuer: Some("https://id".into()),
        audience: Some("tidings".into()),
        ..Issuer::of(key_set()).config()
    };
    let strict = door(config).await;
    let named = |iss: Value, aud: Value| token(&json!({"iss": iss, "aud": aud}));
    for (what, token, expected) in [
        (
            "iss and aud fit",
            named("https://id".into(), "tidings".into()),
            None,
        ),
        (
            "one of many",
            named("https://id".into(), json!(["x", "tidings"])),
            None,
        ),
        (
            "no iss",
            named(Value::Null, "tidings".into()),
            Some(U::Issuer),
        ),
        (
            "foreign iss",
            named("https://id/".into(), "tidings".into()),
            Some(U::Issuer),
        ),
        (
            "no aud",
            named("https://id".into(), Value::Null),
            Some(U::Audience),
        ),
        (
            "foreign aud",
            named("https://id".into(), json!(["x"])),
            Some(U::Audience),
        ),
    ] {
        check(&strict, what, &token, expected).await;
    }
    let door = door(Issuer::of(key_set()).config()).await;
    let long = "s".repeat(256);
    for (what, changes, expected) in [
        ("expired now", json!({"exp": NOW / 1000}), U::Expired),
        ("expired long ago", json!({"exp": 1}), U::Expired),
        ("expired before 1970", json!({"exp": -1}), U::Expired),
        ("no exp", json!({"exp": null}), U::NoExpiry),
        ("exp a text", json!({"exp": "9999999999"}), U::Malformed),
        ("early", json!({"nbf": NOW / 1000 + 6}), U::Early),
        ("nbf a text", json!({"nbf": "0"}), U::Malformed),
        ("no tenant", json!({"tenant_id": null}), U::Tenant),
        (
            "no tenant, ADMIN",
            json!({"tenant_id": null, "roles": ["ADMIN"]}),
            U::Tenant,
        ),
        ("bad tenant", json!({"tenant_id": "a/b"}), U::Tenant),
        (
            "bad tenant, OPERATOR",
            json!({"tenant_id": "", "roles": ["OPERATOR"]}),
            U::Tenant,
        ),
        (
            "module and service",
            json!({"module": "crm", "service": "iam"}),
            U::TwoPrincipals,
        ),
        (
            "module, OPERATOR",
            json!({"module": "crm", "roles": ["OPERATOR"]}),
            U::TwoPrincipals,
        ),
        ("bad module", json!({"module": "Crm"}), U::Module),
        ("no such service", json!({"service": "kernel"}), U::Service),
        ("no sub", json!({"sub": null}), U::Subject),
        ("empty sub", json!({"sub": ""}), U::Subject),
        ("long sub", json!({"sub": long}), U::Subject),
        ("forged log line", json!({"sub": "u1\nadmin"}), U::Subject),
        ("roles a text", json!({"roles": "OPERATOR"}), U::Malformed),
    ] {
        check(&door, what, &token(&changes), Some(expected)).await;
    }
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    use Unauthenticated as U;
    let door = door(Issuer::of(key_set()).config()).await;
    let good = token(&json!({}));
    let giant = token(&json!({"sub": "u1", "padding": "x".repeat(8 * 1024)}));
    assert_eq!(ask(&door, &giant, NOW).await.unwrap_err(), U::TooLarge);
    for end in 0..good.len() {
        assert!(
            ask(&door, &good[..end], NOW).await.is_err(),
            "cut off at {end}"
        );
    }
    let (head, signature) = good.rsplit_once('.').unwrap();
    let padded = format!(
        "{head}.{}",
        STANDARD.encode(URL_SAFE_NO_PAD.decode(signature).unwrap())
    );
    for bad in [
        "a.b.c",
        "..",
        "....",
        &format!("{good}.x"),
        &padded,
        "é.é.é",
        "{}.{}.{}",
    ] {
        assert!(ask(&door, bad, NOW).await.is_err(), "{bad}");
    }
    let twice = {
        let payload = r#"{"sub":"u","tenant_id":"acme","tenant_id":"globex","exp":9999999999}"#;
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"d"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &ed(), Algorithm::EdDSA);
        format!("{message}.{}", signature.unwrap())
    };
    check(&door, "a claim twice", &twice, Some(U::Malformed)).await;
    for (header, expected) in [
        (None, U::Missing),
        (Some(""), U::NotBearer),
        (Some("Bearer"), U::NotBearer),
        (Some("Bearer "), U::NotBearer),
        (Some("Basic dTpw"), U::NotBearer),
        (Some(good.as_str()), U::NotBearer),
    ] {
        let refused = door.authenticate(header, NOW).await.unwrap_err();
        assert_eq!(refused, expected, "{header:?}");
    }
    assert!(
        door.authenticate(Some(&format!("bearer {good}")), NOW)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_claims_say_who_is_calling() {
    let door = door(Issuer::of(key_set()).config()).await;
    for (changes, name, admin, operator) in [
        (json!({}), "User 'u1'", false, false),
        (json!({"roles": ["ADMIN"]}), "User 'u1'", true, false),
        (
            json!({"module": "crm", "sub": null}),
            "Module 'crm'",
            false,
            false,
        ),
        (json!({"service": "iam"}), "Service 'iam'", false, false),
        (json!({"roles": ["OPERATOR"]}), "Operator", true, true),
        (
            json!({"roles": ["OPERATOR"], "tenant_id": null}),
            "Operator",
            true,
            true,
        ),
    ] {
        let caller = ask(&door, &token(&changes), NOW).await.unwrap();
        assert_eq!(caller.describe(), name);
        assert_eq!(
            (caller.is_admin(), caller.is_operator()),
            (admin, operator),
            "{changes}"
        );
        let tenantless = changes.get("tenant_id").is_some();
        assert_eq!(
            caller.tenant().map(|tenant| tenant.as_str() == "acme"),
            (!tenantless).then_some(true)
        );
    }
}

#[tokio::test]
async fn a_token_is_remembered_until_it_ends_and_no_longer() {
    let door = door(Issuer::of(key_set()).config()).await;
    let token = token(&json!({}));
    let first = ask(&door, &token, NOW).await.unwrap();
    assert!(door.remembered(&token, NOW).is_some());
    let again = ask(&door, &token, NOW + 59_999).await.unwrap();
    assert_eq!(
        first.receipt_scope().as_ptr(),
        again.receipt_scope().as_ptr()
    );
    assert_eq!(
        ask(&door, &token, NOW + 60_000).await.unwrap_err(),
        Unauthenticated::Expired
    );
    // One letter of the payload changed: found nowhere, and the signature no longer fits.
    let forged = token.replacen(".eyJ", ".eyK", 1);
    assert!(ask(&door, &forged, NOW).await.is_err());
}

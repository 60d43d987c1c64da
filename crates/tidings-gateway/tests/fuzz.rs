//! Whatever stands in the `Authorization` header: nothing panics, and nobody is let in but by a
//! token that a trusted key has signed with its own algorithm and that has not expired. Runs a few
//! seconds as a test, and as long as wanted with `make fuzz`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bolero::check;
use ed25519_dalek::{Signature, SigningKey};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use serde_json::{Value, json};
use tidings_event::TenantId;
use tidings_gateway::access::{Access, AccessConfig, Caller, KeySource, Principal};
use tidings_store::Store;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

const RSA: &[u8] = include_bytes!("../src/access/testdata/rsa.pem");
const EC: &[u8] = include_bytes!("../src/access/testdata/ec.pem");
const SECRET: &[u8] = b"a shared secret of more than 32 bytes";
const NOW: i64 = 1_700_000_000_000;
const TRUSTED_SEED: u8 = 7;
const FOREIGN_SEED: u8 = 8;

/// The door with every kind of key, and what the oracle needs.
struct House {
    runtime: Runtime,
    access: Access,
    rsa: EncodingKey,
    ec: EncodingKey,
    rsa_public: DecodingKey,
    ec_public: DecodingKey,
    /// The texts of public keys, for whoever takes them for secrets.
    public_texts: Vec<String>,
}

static HOUSE: LazyLock<House> = LazyLock::new(|| {
    let rsa = EncodingKey::from_rsa_pem(RSA).unwrap();
    let ec = EncodingKey::from_ec_pem(EC).unwrap();
    let keys = [
        ("r", &rsa, Algorithm::RS256),
        ("e", &ec, Algorithm::ES256),
        ("d", &ed(TRUSTED_SEED), Algorithm::EdDSA),
    ];
    let keys = keys.map(|(id, key, algorithm)| {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        jwk
    });
    let document = json!({ "keys": keys }).to_string().into_bytes();
    let config = AccessConfig {
        keys: Some(KeySource::Fetch(Arc::new(move || {
            let document = document.clone();
            Box::pin(async move { Ok(document) })
        }))),
        shared_secret: Some(Zeroizing::new(SECRET.to_vec())),
        issuer: Some("https://issuer".to_owned()),
        audience: Some("tidings".to_owned()),
        ..AccessConfig::default()
    };
    let runtime = Runtime::new().unwrap();
    let access = runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_memory().await.unwrap();
        let access = Access::new(config, store, folder.path(), NOW).await;
        access.unwrap()
    });
    House {
        runtime,
        access,
        rsa_public: DecodingKey::from_jwk(&keys[0]).unwrap(),
        ec_public: DecodingKey::from_jwk(&keys[1]).unwrap(),
        public_texts: keys.iter().map(|key| json!(key).to_string()).collect(),
        rsa,
        ec,
    }
});

fn ed(seed: u8) -> EncodingKey {
    let prefix = [
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    EncodingKey::from_ed_der(&[&prefix[..], &[seed; 32]].concat())
}

/// Reads a fuzzer's bytes as choices; at their end every choice is the first, which is right.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    /// Mostly the first, else any.
    fn mostly<T: Clone>(&mut self, table: &[T]) -> T {
        let choice = self.next();
        let index = if choice < 160 { 0 } else { usize::from(choice) };
        table[index % table.len()].clone()
    }

    /// Mostly the first; `null` leaves the member out.
    fn member(&mut self, object: &mut Value, name: &str, table: &[Value]) {
        let value = self.mostly(table);
        if !value.is_null() {
            object[name] = value;
        }
    }

    fn header(&mut self, algorithm: &str, id: &str) -> Value {
        let mut header = json!({});
        let algorithms = [
            algorithm, "EdDSA", "RS256", "ES256", "HS256", "none", "None", "HS384", "PS256", "",
            "eddsa",
        ];
        self.member(&mut header, "alg", &algorithms.map(Value::from));
        let ids = [
            json!(id),
            Value::Null,
            json!("d"),
            json!("r"),
            json!("e"),
            json!("x"),
            json!(5),
        ];
        self.member(&mut header, "kid", &ids);
        let foreign = json!(Jwk::from_encoding_key(&ed(FOREIGN_SEED), Algorithm::EdDSA).unwrap());
        self.member(&mut header, "jwk", &[Value::Null, foreign]);
        self.member(
            &mut header,
            "jku",
            &[Value::Null, json!("http://127.0.0.1:1/")],
        );
        self.member(
            &mut header,
            "crit",
            &[Value::Null, json!(["exp"]), json!([]), json!(false)],
        );
        self.member(&mut header, "b64", &[Value::Null, json!(false)]);
        header
    }

    fn claims(&mut self) -> Value {
        let none = Value::Null;
        let now = NOW / 1000;
        let mut claims = json!({});
        let times = [
            json!(now + 60),
            json!(now),
            json!(now - 1),
            json!(-1),
            json!(1e300),
            json!("1e300"),
            json!(true),
            none.clone(),
            json!(1_700_000_000.001),
        ];
        self.member(&mut claims, "exp", &times);
        let early = [none.clone(), json!(now + 5), json!(now + 6), json!("x")];
        self.member(&mut claims, "nbf", &early);
        let tenants = [
            json!("acme"),
            json!("globex"),
            json!(""),
            json!("A B"),
            json!(5),
            none.clone(),
        ];
        self.member(&mut claims, "tenant_id", &tenants);
        self.member(
            &mut claims,
            "sub",
            &[json!("u1"), json!("a\nb"), json!(""), none.clone()],
        );
        self.member(
            &mut claims,
            "module",
            &[none.clone(), json!("crm"), json!("Crm!"), json!(["crm"])],
        );
        self.member(
            &mut claims,
            "service",
            &[none.clone(), json!("iam"), json!("root")],
        );
        self.member(
            &mut claims,
            "roles",
            &[
                none.clone(),
                json!(["ADMIN"]),
                json!(["OPERATOR"]),
                json!("OPERATOR"),
            ],
        );
        self.member(
            &mut claims,
            "iss",
            &[
                json!("https://issuer"),
                json!("https://other"),
                none.clone(),
            ],
        );
        self.member(
            &mut claims,
            "aud",
            &[
                json!("tidings"),
                json!(["x", "tidings"]),
                json!(["x"]),
                json!([]),
                none,
            ],
        );
        claims
    }

    fn token(&mut self) -> String {
        let house = &*HOUSE;
        let hmac = |secret: &[u8]| (EncodingKey::from_secret(secret), Algorithm::HS256);
        let (own, id, (key, algorithm)) = match self.next() % 24 {
            // Slow, so seldom.
            1 => ("RS256", "r", (house.rsa.clone(), Algorithm::RS256)),
            2..5 => ("ES256", "e", (house.ec.clone(), Algorithm::ES256)),
            5..9 => ("HS256", "", hmac(SECRET)),
            9..12 => ("EdDSA", "d", (ed(FOREIGN_SEED), Algorithm::EdDSA)),
            12 => ("HS256", "r", hmac(house.public_texts[0].as_bytes())),
            13 => (
                "HS256",
                "d",
                hmac(
                    &SigningKey::from_bytes(&[TRUSTED_SEED; 32])
                        .verifying_key()
                        .to_bytes(),
                ),
            ),
            _ => ("EdDSA", "d", (ed(TRUSTED_SEED), Algorithm::EdDSA)),
        };
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(self.header(own, id)), part(self.claims()));
        let signature = match self.mostly(&[0, 1, 2]) {
            0 => crypto::sign(message.as_bytes(), &key, algorithm).unwrap(),
            1 => String::new(),
            _ => URL_SAFE_NO_PAD.encode(self.0.as_slice().get(..64).unwrap_or_default()),
        };
        let mut token = format!("{message}.{signature}").into_bytes();
        for _ in 0..self.mostly(&[0, 1, 2]) {
            let at = usize::from(self.next()) << 8 | usize::from(self.next());
            let length = token.len();
            token[at % length] = (self.next() & 0x7f).max(b' ');
        }
        String::from_utf8(token).unwrap()
    }
}

/// Whether the token may be let in, decided without the code under test.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this century are exact"
)]
fn is_genuine(token: &str, now_ms: i64) -> bool {
    let house = &*HOUSE;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return false;
    };
    let read = |part: &str| -> Value {
        let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    };
    let message = format!("{header}.{payload}");
    let (header, claims) = (read(header), read(payload));
    let fits = |id: &str| header["kid"].as_str().is_none_or(|kid| kid == id);
    let verifies = |key, algorithm| {
        crypto::verify(signature, message.as_bytes(), key, algorithm).is_ok_and(|holds| holds)
    };
    let is_signed = match header["alg"].as_str() {
        Some("EdDSA") if fits("d") => {
            let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
            let key = SigningKey::from_bytes(&[TRUSTED_SEED; 32]).verifying_key();
            Signature::from_slice(&bytes)
                .is_ok_and(|signature| key.verify_strict(message.as_bytes(), &signature).is_ok())
        }
        Some("ES256") if fits("e") => verifies(&house.ec_public, Algorithm::ES256),
        Some("RS256") if fits("r") => verifies(&house.rsa_public, Algorithm::RS256),
        Some("HS256") => {
            let key = EncodingKey::from_secret(SECRET);
            crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap() == signature
        }
        _ => false,
    };
    let is_for_us = claims["iss"] == "https://issuer"
        && match &claims["aud"] {
            Value::Array(all) => all.contains(&json!("tidings")),
            one => one == "tidings",
        };
    let is_fresh = claims["exp"]
        .as_f64()
        .is_some_and(|exp| exp * 1000.0 >= now_ms as f64 + 1.0)
        && claims["nbf"]
            .as_f64()
            .is_none_or(|nbf| nbf * 1000.0 <= now_ms as f64 + 5_000.0);
    is_signed && header.get("crit").is_none() && is_for_us && is_fresh
}

/// Whoever was let in is whom the token names.
fn is_named(caller: &Caller, token: &str) -> bool {
    let payload = token.split('.').nth(1).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(payload).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let text = |name: &str| claims[name].as_str();
    let has_role = |role: &str| {
        claims["roles"]
            .as_array()
            .is_some_and(|all| all.contains(&json!(role)))
    };
    let is_principal = match caller.principal() {
        Principal::Module(module) => text("module") == Some(module.as_str()),
        Principal::Service(service) => text("service") == Some(service.as_str()),
        Principal::User(sub) => text("sub") == Some(sub) && !has_role("OPERATOR"),
        Principal::Operator(sub) => text("sub") == Some(sub) && has_role("OPERATOR"),
        Principal::ApiKey { .. } | Principal::Extension { .. } => false,
    };
    let tenant = caller.tenant().map(TenantId::as_str);
    is_principal && tenant == text("tenant_id") && (tenant.is_some() || has_role("OPERATOR"))
}

fn authenticate(header: &str, now_ms: i64) -> Option<Caller> {
    let house = &*HOUSE;
    let asked = house.access.authenticate(Some(header), now_ms);
    house.runtime.block_on(asked).ok()
}

#[test]
fn any_header() {
    check!().for_each(|input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        for header in [
            &*text,
            &format!("Bearer {text}"),
            &format!("Bearer tdk_{text}"),
        ] {
            assert!(authenticate(header, NOW).is_none(), "{header:?}");
        }
    });
}

#[test]
fn any_token() {
    check!().for_each(|input: &[u8]| {
        let mut choices = Choices(input.iter());
        let token = choices.token();
        let scheme = choices.mostly(&["Bearer ", "bearer  ", "BEARER ", "Basic ", "Bearer", ""]);
        let header = format!("{scheme}{token}");
        let Some(caller) = authenticate(&header, NOW) else {
            return;
        };
        assert!(scheme.trim().eq_ignore_ascii_case("bearer"), "{header:?}");
        assert!(is_genuine(&token, NOW), "{token}");
        assert!(is_named(&caller, &token), "{caller:?} {token}");
        // Remembered or not, it is the same until the token ends, and then nobody.
        let again = authenticate(&header, NOW).map(|caller| caller.principal().clone());
        assert_eq!(again.as_ref(), Some(caller.principal()));
        for later in [1, 59_999, 60_000, i64::MAX / 2 - NOW] {
            let late = authenticate(&header, NOW + later).is_some();
            assert_eq!(late, is_genuine(&token, NOW + later), "{later} {token}");
        }
    });
}

#[test]
fn what_the_fuzzer_calls_right_is_let_in() {
    let token = Choices([].iter()).token();
    assert!(is_genuine(&token, NOW));
    assert!(authenticate(&format!("Bearer {token}"), NOW).is_some());
}

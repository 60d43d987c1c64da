//! Tokens of an identity provider at the front door: good ones of every algorithm, and what is
//! tried with forged, stale and foreign ones. The keys come from a file, a secret or a URL.

use std::process::Command;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::harness::{Answer, Folder, PUBLISH, Server};
use crate::issuer::{Issuer, SigningKey, encoded, key_set, now};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// What the issuer's configuration in these tests expects.
const EXPECTED: &str = "issuer = \"https://id.example\"\naudience = \"tidings\"\n";
/// Between the beginnings of two fetches of a key set.
const FETCH_INTERVAL: Duration = Duration::from_secs(5);
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Keys {
    rsa: SigningKey,
    ec: SigningKey,
    ed: SigningKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            rsa: SigningKey::rsa("r"),
            ec: SigningKey::ec("e"),
            ed: SigningKey::ed25519("d", 7),
        }
    }

    fn set(&self) -> Value {
        key_set(&[&self.rsa, &self.ec, &self.ed])
    }
}

/// Good claims of module `demo`, with these changed and those that are null left out.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "sub": "m1", "tenant_id": "acme", "module": "demo", "exp": now() + 600,
        "iss": "https://id.example", "aud": "tidings",
    });
    let members = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    claims
}

fn start(auth: &str, extra: &[&str]) -> Server {
    let folder = Folder::new();
    let file = folder.path().join("tidings.toml");
    std::fs::write(&file, format!("[auth]\n{auth}{EXPECTED}")).expect("a file");
    let file = file.to_str().expect("UTF-8").to_owned();
    Server::start_in(folder, &[&["--config", &file], extra].concat())
}

fn with_key_file(keys: &Keys) -> (Server, Folder) {
    let folder = Folder::new();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, keys.set().to_string()).expect("a file");
    let server = start(&format!("jwks_file = '{}'\n", file.display()), &[]);
    (server, folder)
}

fn with_key_url(issuer: &Issuer) -> Server {
    let auth = format!("jwks_url = \"{}\"\n", issuer.url());
    start(&auth, &["--allow-target", "127.0.0.1"])
}

fn publish(server: &Server, token: &str) -> Answer {
    let event = json!({ "type": "demo.greeting.sent", "data": {} });
    server.post(PUBLISH, token, &event)
}

fn accepted(server: &Server, token: &str) {
    publish(server, token).expect(201);
    server.get("/v1/events", token).expect(200);
}

fn refused(server: &Server, what: &str, token: &str) {
    println!("{what}");
    for answer in [publish(server, token), server.get("/v1/events", token)] {
        answer.problem(401, "UNAUTHENTICATED");
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer error=\"invalid_token\""), "{what}");
    }
}

fn hs256(secret: &[u8], kid: Option<&str>) -> String {
    let key = SigningKey {
        id: "",
        algorithm: Algorithm::HS256,
        key: EncodingKey::from_secret(secret),
    };
    let mut header = json!({ "alg": "HS256" });
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    key.signed(&header, &claims(&json!({})))
}

#[test]
fn a_token_of_the_local_key_has_the_issuer_and_the_audience_that_are_asked_for() {
    let server = start("", &[]);
    accepted(
        &server,
        &server.token(&["--tenant", "acme", "--module", "demo"]),
    );
}

#[test]
fn tokens_of_every_algorithm_hold_and_forged_ones_do_not() {
    let keys = Keys::new();
    let (server, _file) = with_key_file(&keys);
    let Keys { rsa, ec, ed } = &keys;
    let good = claims(&json!({}));
    for key in [rsa, ec, ed] {
        accepted(&server, &key.token(&good));
    }
    let list = claims(&json!({ "aud": ["other", "tidings"] }));
    accepted(&server, &ed.token(&list));

    let token = rsa.token(&good);
    let parts: Vec<&str> = token.split('.').collect();
    for alg in ["none", "None", "NONE", ""] {
        let header = encoded(&json!({ "alg": alg }));
        refused(&server, alg, &format!("{header}.{}.", parts[1]));
        refused(&server, alg, &format!("{header}.{}.{}", parts[1], parts[2]));
    }
    // A public key taken for a secret, in the forms that a library might hold it in.
    for key in [rsa, ec, ed] {
        let jwk = key.jwk();
        for secret in [jwk.to_string(), jwk["x"].to_string(), jwk["n"].to_string()] {
            let text = secret.trim_matches('"');
            refused(&server, "confused", &hs256(text.as_bytes(), Some(key.id)));
            refused(&server, "confused", &hs256(text.as_bytes(), None));
        }
    }
    let named = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    for (what, header) in [
        ("RS256 naming the EC key", named("RS256", "e")),
        ("RS256 naming the Ed25519 key", named("RS256", "d")),
        ("PS256", named("PS256", "r")),
        ("RS512", named("RS512", "r")),
        ("ES256 naming the RSA key", named("ES256", "r")),
        ("EdDSA naming the RSA key", named("EdDSA", "r")),
        ("an unknown key", named("RS256", "x")),
        ("a key by its path", named("RS256", "../../jwks.json")),
        (
            "critical",
            json!({ "alg": "RS256", "kid": "r", "crit": ["b64"], "b64": false }),
        ),
    ] {
        refused(&server, what, &rsa.signed(&header, &good));
    }
    let forged = format!(
        "{}.{}.{}",
        parts[0],
        encoded(&claims(&json!({ "tenant_id": "b" }))),
        parts[2]
    );
    refused(&server, "other claims under a signature", &forged);
    for cut in [
        token.len() - 1,
        token.len() - 40,
        parts[0].len() + 1 + parts[1].len(),
        10,
        1,
    ] {
        refused(&server, "truncated", &token[..cut]);
    }
    refused(
        &server,
        "an empty signature",
        &format!("{}.{}.", parts[0], parts[1]),
    );
    let large = claims(&json!({ "padding": "a".repeat(10_000) }));
    refused(&server, "oversized", &rsa.token(&large));
    accepted(&server, &token);
}

#[test]
fn claims_that_do_not_hold_are_refused_and_a_missing_credential_is_asked_for() {
    let keys = Keys::new();
    let (server, _file) = with_key_file(&keys);
    for (what, changes) in [
        ("expired", json!({ "exp": now() - 1 })),
        ("no expiry", json!({ "exp": null })),
        ("an expiry of text", json!({ "exp": "9999999999" })),
        ("early", json!({ "nbf": now() + 300 })),
        ("a foreign audience", json!({ "aud": "another" })),
        (
            "foreign audiences",
            json!({ "aud": ["another", "tidings2"] }),
        ),
        ("no audience", json!({ "aud": null })),
        ("a foreign issuer", json!({ "iss": "https://evil.example" })),
        (
            "an issuer with a slash more",
            json!({ "iss": "https://id.example/" }),
        ),
        ("no issuer", json!({ "iss": null })),
        ("no tenant", json!({ "tenant_id": null })),
        ("a tenant that is none", json!({ "tenant_id": "a/b" })),
        (
            "an unknown service",
            json!({ "module": null, "service": "root" }),
        ),
        ("a module and a service", json!({ "service": "iam" })),
    ] {
        refused(&server, what, &keys.ed.token(&claims(&changes)));
    }
    let answer = server.call("GET", "/v1/events").send();
    answer.problem(401, "UNAUTHENTICATED");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
}

#[test]
fn a_key_that_the_token_brings_along_is_never_looked_at() {
    let keys = Keys::new();
    let (server, _file) = with_key_file(&keys);
    let attacker = SigningKey::ed25519("d", 9);
    let issuer = Issuer::start(Some(key_set(&[&attacker])));
    let good = claims(&json!({}));
    let header = |extra: Value| {
        let mut header = json!({ "alg": "EdDSA", "kid": "d" });
        let members = extra.as_object().expect("an object").clone();
        header.as_object_mut().expect("an object").extend(members);
        header
    };
    for extra in [
        json!({ "jwk": attacker.jwk() }),
        json!({ "jku": issuer.url() }),
        json!({ "x5u": issuer.url() }),
        json!({ "x5c": ["AAAA"] }),
        json!({ "jku": issuer.url(), "kid": "unknown" }),
    ] {
        let header = header(extra);
        refused(
            &server,
            &header.to_string(),
            &attacker.signed(&header, &good),
        );
    }
    let ignored = header(json!({ "jku": issuer.url(), "jwk": attacker.jwk(), "x5u": 1 }));
    accepted(&server, &keys.ed.signed(&ignored, &good));
    assert_eq!(issuer.fetches(), 0);
}

#[test]
fn a_shared_secret_accepts_its_own_tokens_alone() {
    let keys = Keys::new();
    let server = start(&format!("shared_secret = \"{SECRET}\"\n"), &[]);
    accepted(&server, &hs256(SECRET.as_bytes(), None));
    accepted(&server, &hs256(SECRET.as_bytes(), Some("any")));
    refused(
        &server,
        "another secret",
        &hs256(b"0123456789abcdef0123456789abcdeF", None),
    );
    refused(&server, "an empty secret", &hs256(b"", None));
    let good = claims(&json!({}));
    for key in [&keys.rsa, &keys.ec, &keys.ed] {
        refused(&server, "a key of nobody", &key.token(&good));
    }
    let longer = SigningKey {
        id: "",
        algorithm: Algorithm::HS512,
        key: EncodingKey::from_secret(SECRET.as_bytes()),
    };
    refused(&server, "HS512", &longer.token(&good));
}

#[test]
fn a_flood_of_unknown_keys_does_not_become_a_flood_of_fetches() {
    let keys = Keys::new();
    let issuer = Issuer::start(Some(keys.set()));
    let began = Instant::now();
    let server = with_key_url(&issuer);
    assert_eq!(issuer.fetches(), 1);
    accepted(&server, &keys.rsa.token(&claims(&json!({}))));
    for number in 0..200 {
        let header = json!({ "alg": "EdDSA", "kid": format!("k{number}") });
        let forged = format!("{}.{}.AA", encoded(&header), encoded(&claims(&json!({}))));
        publish(&server, &forged).problem(401, "UNAUTHENTICATED");
    }
    let allowed = 1 + began.elapsed().as_millis() / FETCH_INTERVAL.as_millis();
    let fetches = issuer.fetches() as u128;
    assert!(fetches <= allowed, "{fetches} fetches, {allowed} allowed");
    accepted(&server, &keys.ec.token(&claims(&json!({}))));
}

#[test]
fn a_key_that_rotates_at_the_url_is_taken_up_and_the_old_one_ends() {
    let (old, new) = (SigningKey::ed25519("1", 1), SigningKey::ed25519("2", 2));
    let issuer = Issuer::start(Some(key_set(&[&old])));
    let server = with_key_url(&issuer);
    let good = claims(&json!({}));
    accepted(&server, &old.token(&good));
    refused(&server, "not yet", &new.token(&good));
    issuer.now_has(&key_set(&[&new]));
    until_accepted(&server, &new.token(&good));
    refused(&server, "withdrawn", &old.token(&good));
}

#[test]
fn a_provider_that_is_down_at_the_start_closes_the_door_until_it_is_back() {
    let key = SigningKey::ed25519("1", 1);
    let issuer = Issuer::start(None);
    let server = with_key_url(&issuer);
    let token = key.token(&claims(&json!({})));
    let problem = publish(&server, &token).problem(401, "UNAUTHENTICATED");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.contains("could not be fetched yet"), "{detail}");
    server.call("GET", "/healthz").send().expect(200);
    issuer.now_has(&key_set(&[&key]));
    until_accepted(&server, &token);
}

fn until_accepted(server: &Server, token: &str) {
    let deadline = Instant::now() + PATIENCE;
    while publish(server, token).status != 201 {
        assert!(Instant::now() < deadline, "the key was not taken up");
        std::thread::yield_now();
    }
}

#[test]
fn no_notation_of_an_inward_key_url_is_fetched_unless_it_is_allowed() {
    let keys = Keys::new();
    let issuer = Issuer::start(Some(keys.set()));
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "localhost",
        "localhost.",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ] {
        let auth = format!("jwks_url = \"http://{host}:{}/\"\n", issuer.port());
        let server = start(
            &auth,
            &["--allow-target", "10.0.0.0/8", "--allow-target", "id.local"],
        );
        let token = keys.ed.token(&claims(&json!({})));
        publish(&server, &token).problem(401, "UNAUTHENTICATED");
        assert_eq!(issuer.fetches(), 0, "{host}");
    }
    let auth = format!("jwks_url = \"http://localhost:{}/\"\n", issuer.port());
    let server = start(&auth, &["--allow-target", "localhost"]);
    accepted(&server, &keys.ed.token(&claims(&json!({}))));
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused_at_the_start() {
    for (auth, part) in [
        ("jwks_url = 'ftp://id.example/keys'", "auth.jwks_url"),
        ("jwks_url = 'not a url'", "auth.jwks_url"),
        ("jwks_url = 'https://u:p@id.example/'", "auth.jwks_url"),
        (
            "jwks_url = 'https://id.example/'\njwks_file = 'keys.json'",
            "auth.jwks_file",
        ),
        (
            "jwks_url = 'https://id.example/'\n[egress]\nallow_targets = ['a/b']",
            "egress.allow_targets",
        ),
    ] {
        let folder = Folder::new();
        let file = folder.path().join("tidings.toml");
        std::fs::write(&file, format!("[auth]\n{auth}\n")).expect("a file");
        let run = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("data"))
            .arg("--config")
            .arg(&file)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(
            !run.status.success() && said.contains(part),
            "{auth}: {said}"
        );
    }
}

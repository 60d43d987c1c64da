//! An identity provider in small: three keys, tokens signed with them, and a JWKS behind a URL that
//! counts how often it is fetched.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

const RSA: &[u8] = include_bytes!("../../../tidings-gateway/src/access/testdata/rsa.pem");
const EC: &[u8] = include_bytes!("../../../tidings-gateway/src/access/testdata/ec.pem");

/// A private key with the algorithm it signs by.
pub(crate) struct SigningKey {
    pub(crate) id: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

impl SigningKey {
    pub(crate) fn rsa(id: &'static str) -> Self {
        let key = EncodingKey::from_rsa_pem(RSA).expect("a key");
        let algorithm = Algorithm::RS256;
        Self { id, algorithm, key }
    }

    pub(crate) fn ec(id: &'static str) -> Self {
        let key = EncodingKey::from_ec_pem(EC).expect("a key");
        let algorithm = Algorithm::ES256;
        Self { id, algorithm, key }
    }

    /// Of this seed, in the form that PKCS #8 gives it.
    pub(crate) fn ed25519(id: &'static str, seed: u8) -> Self {
        let prefix = [
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        let key = EncodingKey::from_ed_der(&[&prefix[..], &[seed; 32]].concat());
        let algorithm = Algorithm::EdDSA;
        Self { id, algorithm, key }
    }

    pub(crate) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// A token with these claims, naming this key.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.signed(&json!({ "alg": self.algorithm, "kid": self.id }), claims)
    }

    /// A token with this very header.
    pub(crate) fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm);
        format!("{message}.{}", signature.expect("it signs"))
    }
}

/// One part of a token.
pub(crate) fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

pub(crate) fn key_set(keys: &[&SigningKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A server on loopback whose answer can be changed.
pub(crate) struct Issuer {
    address: SocketAddr,
    document: Arc<Mutex<Option<String>>>,
    fetches: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Issuer {
    /// Publishing this key set; without one every fetch fails.
    pub(crate) fn start(document: Option<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut issuer = Self {
            address: listener.local_addr().expect("an address"),
            document: Arc::new(Mutex::new(document.map(|it| it.to_string()))),
            fetches: Arc::default(),
            closing: Arc::default(),
            accepting: None,
        };
        let (document, fetches) = (issuer.document.clone(), issuer.fetches.clone());
        let closing = issuer.closing.clone();
        issuer.accepting = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                fetches.fetch_add(1, Ordering::SeqCst);
                let document = document.lock().expect("no panic").clone();
                // A client that gives up early is no concern of an issuer's.
                let _ = stream.and_then(|stream| answer(stream, document));
            }
        }));
        issuer
    }

    pub(crate) fn now_has(&self, document: &Value) {
        *self.document.lock().expect("no panic") = Some(document.to_string());
    }

    pub(crate) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread so that it sees the flag.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(accepting)) = (woken, self.accepting.take()) {
            let _ = accepting.join();
        }
    }
}

fn answer(mut stream: TcpStream, document: Option<String>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 1_024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&part[..read]),
        }
    }
    let (status, body) = match document {
        Some(document) => ("200 OK", document),
        None => ("503 Service Unavailable", String::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

//! Receivers that want to see a certificate: ours is shown to them, its key to nobody.

use std::io::{BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::harness::{Folder, PATIENCE, PUBLISH, ROOTS, Server};
use crate::receiver::{eventually, read};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['20ms']\n";

/// An authority that both sides trust.
pub(crate) struct Authority {
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(parameters, key);
        Self {
            certificate,
            issuer,
        }
    }

    pub(crate) fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // One that is called like its authority is taken for one that signed itself.
        parameters.distinguished_name.push(DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &self.issuer);
        Pair {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}

fn read_certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// The certificates that messages came with.
type Shown = Arc<(Mutex<Vec<CertificateDer<'static>>>, Condvar)>;

/// A receiver over TLS that lets nobody in without a certificate of the authority's.
struct Strict {
    url: String,
    shown: Shown,
}

impl Strict {
    fn start(authority: &Authority) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(read_certificate(&authority.certificate))
            .expect("a root");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .expect("a verifier");
        let own = authority.issue("127.0.0.1");
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![read_certificate(&own.certificate)], key);
        let config = Arc::new(config.expect("a configuration"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!(
            "https://{}/hook",
            listener.local_addr().expect("an address")
        );
        let shown = Shown::default();
        let seen = shown.clone();
        // All end with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, seen) = (config.clone(), seen.clone());
                std::thread::spawn(move || serve(stream, config, &seen));
            }
        });
        Self { url, shown }
    }

    fn until(&self, count: usize) -> Vec<CertificateDer<'static>> {
        let (shown, arrived) = &*self.shown;
        let shown = shown.lock().expect("not poisoned");
        let waited = arrived.wait_timeout_while(shown, PATIENCE, |shown| shown.len() < count);
        let (shown, timeout) = waited.expect("not poisoned");
        assert!(!timeout.timed_out(), "only {} arrived", shown.len());
        shown.clone()
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, shown: &Shown) {
    let connection = ServerConnection::new(config).expect("a connection");
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    // A handshake that fails reads as nothing.
    while read(&mut stream).is_some() {
        let peer = stream.get_ref().conn.peer_certificates();
        let peer = peer.and_then(<[_]>::first).expect("one was demanded");
        let (all, arrived) = &**shown;
        all.lock()
            .expect("not poisoned")
            .push(peer.clone().into_owned());
        arrived.notify_all();
        let answer = stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        if answer.is_err() {
            return;
        }
    }
}

fn subscription(url: &str, mtls: &Value) -> Value {
    json!({
        "name": "orders", "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": url, "mtls": mtls },
    })
}

fn server(authority: &Authority) -> (Server, String) {
    let folder = Folder::new();
    std::fs::write(folder.path().join(ROOTS), &authority.certificate).expect("a file");
    let server = Server::start_with_in(folder, CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let token = server.crm("acme");
    (server, token)
}

#[test]
fn the_certificate_is_shown_to_the_receiver_and_its_key_to_nobody() {
    let authority = Authority::new();
    let (server, token) = server(&authority);
    let (strict, own) = (
        Strict::start(&authority),
        authority.issue("tidings.example"),
    );
    let mtls = json!({ "certificate": own.certificate, "key": own.key });
    let body = subscription(&strict.url, &mtls);
    let made = server.post("/v1/subscriptions", &token, &body).expect(201);
    assert!(!made.text().contains("BEGIN"), "{}", made.text());
    let made = made.json();
    let fingerprint = made["target"]["mtls"]["fingerprint"].as_str();
    assert_eq!(fingerprint.map(str::len), Some(64), "{made}");

    let event = json!({ "type": "crm.contact.created", "data": {} });
    server.post(PUBLISH, &token, &event).expect(201);
    let ours = read_certificate(&own.certificate);
    assert_eq!(strict.until(1), vec![ours.clone()]);

    // It stays when something else changes, and when the server has been away.
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().expect("an id"));
    let call = server.call("PATCH", &path).bearer(&token);
    let renamed = call.json(&json!({ "name": "other" })).send().expect(200);
    assert_eq!(renamed.json()["target"], made["target"]);
    let server = server.restart();
    assert_eq!(
        server.get(&path, &token).expect(200).json()["target"],
        made["target"]
    );
    server.post(PUBLISH, &token, &event).expect(201);
    assert_eq!(strict.until(2), [ours.clone(), ours]);
}

#[test]
fn without_a_certificate_or_with_a_stranger_s_nothing_gets_through() {
    let authority = Authority::new();
    let (server, token) = server(&authority);
    let (strict, stranger) = (
        Strict::start(&authority),
        Authority::new().issue("a.example"),
    );
    let mtls = json!({ "certificate": stranger.certificate, "key": stranger.key });
    for mtls in [Value::Null, mtls] {
        let body = subscription(&strict.url, &mtls);
        server.post("/v1/subscriptions", &token, &body).expect(201);
    }
    let event = json!({ "type": "crm.contact.created", "data": {} });
    server.post(PUBLISH, &token, &event).expect(201);
    let letters = eventually("two dead letters", || {
        let list = server.get("/v1/dead-letters", &token).expect(200).json();
        (list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 2))
        .then_some(list)
    });
    let errors = letters["items"].as_array().expect("items").iter();
    for error in errors.map(|letter| letter["lastError"].as_str().expect("an error")) {
        assert!(error.contains("it cannot be reached"), "{error}");
    }
    assert!(strict.until(0).is_empty());
}

#[test]
fn what_is_no_certificate_with_its_key_is_refused_and_not_repeated() {
    let authority = Authority::new();
    let (server, token) = server(&authority);
    let (one, other) = (authority.issue("a.example"), authority.issue("b.example"));
    let both = [one.certificate.as_str(), &one.key].concat();
    let https = "https://127.0.0.1:1/hook";
    for (url, certificate, key) in [
        (https, &one.certificate, &other.key),
        (https, &both, &one.key),
        (https, &one.key, &one.certificate),
        (https, &String::new(), &one.key),
        ("http://127.0.0.1:1/hook", &one.certificate, &one.key),
    ] {
        let mtls = json!({ "certificate": certificate, "key": key });
        let body = subscription(url, &mtls);
        let answer = server.post("/v1/subscriptions", &token, &body);
        let problem = answer.problem(400, "INVALID_REQUEST");
        assert_eq!(problem["field"], "target.mtls", "{problem}");
        assert!(!problem.to_string().contains("BEGIN"), "{problem}");
    }
}

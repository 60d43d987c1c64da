//! The client behind the guard. What it connects to has passed the guard, and nothing is resolved
//! twice: the addresses that were checked are the ones the connector gets.
//!
//! The connector never asks a resolver about a host that is an address, so those are checked before
//! a request is made. A connection is kept for a while after its request; it stays the connection
//! that was checked.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use quick_cache::sync::Cache;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

pub use hyper::Method;

use crate::connecting::{Connector, Guarded};
use crate::error::{EgressError, cause_of, failed};
use crate::guard::Guard;
use crate::identity::{Identity, InvalidIdentity};
use crate::resolver::{Resolver, SystemResolver};
use crate::target::Target;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// The most clients with a certificate that are kept, each with connections of its own.
const IDENTITIES: usize = 256;
const OURSELVES: HeaderValue =
    HeaderValue::from_static(concat!("tidings/", env!("CARGO_PKG_VERSION")));

/// What one request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To resolve the name, connect and shake hands.
    pub connect_timeout: Duration,
    /// From the beginning to the last byte of the body.
    pub total_timeout: Duration,
    /// The largest body, in bytes.
    pub body_bytes: usize,
}

/// A request that carries something out.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub target: &'a Target,
    /// Who we are, to a receiver that asks for a certificate.
    pub identity: Option<&'a Identity>,
    /// Names and values; an illegal one makes the request fail.
    pub headers: Vec<(String, String)>,
    /// What.
    pub body: Bytes,
    /// From the beginning to the last byte of the answer.
    pub timeout: Duration,
}

/// What came back, whatever the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body, not unpacked.
    pub body: Vec<u8>,
    /// Whether there was more of it.
    pub cut: bool,
}

impl Answer {
    /// The first value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(this, value)| (this == name).then_some(value.as_str()))
    }
}

type Http = legacy::Client<Connector, Full<Bytes>>;

/// Sends requests to what the guard admits.
#[derive(Debug, Clone)]
pub struct Client {
    http: Http,
    guard: Arc<Guard>,
    means: Means,
    /// Those with a certificate, by its name: a connection that was opened with one is for its owner alone.
    identified: Arc<Cache<[u8; 32], Http>>,
    limits: Limits,
}

impl Client {
    /// With this guard and these limits, and the system's resolver. The system's root certificates are
    /// read here.
    pub fn new(guard: Guard, limits: Limits) -> Result<Self, EgressError> {
        Self::with_resolver(guard, limits, Arc::new(SystemResolver::default()))
    }

    /// With another resolver. The guard judges its answers too.
    pub fn with_resolver(
        guard: Guard,
        limits: Limits,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Self, EgressError> {
        let guard = Arc::new(guard);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let means = Means {
            resolver: Guarded(guard.clone(), resolver),
            roots: Verifier::new(provider.clone())
                .map(Arc::new)
                .map_err(|error| cause_of(&error)),
            provider,
            connect_timeout: limits.connect_timeout,
        };
        Ok(Self {
            http: means.client(None)?,
            guard,
            means,
            identified: Arc::new(Cache::new(IDENTITIES)),
            limits,
        })
    }

    /// Whether a URL may be asked for at all, as far as that can be said without resolving its host.
    pub fn admit(&self, target: &Target) -> Result<(), EgressError> {
        if let Some(address) = target.address() {
            self.guard.admit(target.host(), address)?;
        }
        if let (true, Err(reason)) = (target.is_https(), &self.means.roots) {
            return Err(EgressError::NoRoots(reason.clone()));
        }
        Ok(())
    }

    /// Whether a certificate and its key can be used.
    pub fn check(&self, identity: &Identity) -> Result<(), EgressError> {
        self.client_of(Some(identity)).map(drop)
    }

    /// The client that shows a certificate, or the one that shows none.
    fn client_of(&self, identity: Option<&Identity>) -> Result<Cow<'_, Http>, EgressError> {
        let Some(identity) = identity else {
            return Ok(Cow::Borrowed(&self.http));
        };
        let made = || self.means.client(Some(identity));
        let kept = self.identified.get_or_insert_with(&identity.name(), made);
        kept.map(Cow::Owned)
    }

    /// Posts a body. Whatever the status, what was answered is the answer; of its body the first
    /// [`Limits::body_bytes`] are read and no more, so that an endless one costs no more than another.
    pub async fn post(&self, outgoing: Outgoing<'_>) -> Result<Answer, EgressError> {
        self.send(Method::POST, outgoing).await
    }

    /// Asks what a URL allows, in the same way.
    pub async fn options(&self, outgoing: Outgoing<'_>) -> Result<Answer, EgressError> {
        self.send(Method::OPTIONS, outgoing).await
    }

    /// Sends with any method, in the same way.
    pub async fn send(
        &self,
        method: Method,
        outgoing: Outgoing<'_>,
    ) -> Result<Answer, EgressError> {
        if outgoing.timeout.is_zero() {
            return Err(EgressError::Timeout);
        }
        let all = async {
            let answered = self.answered(&method, &outgoing).await?;
            let status = answered.status().as_u16();
            let headers = answered.headers().iter();
            let headers = headers.map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.as_str().to_owned(), value)
            });
            let headers = headers.collect();
            let (body, cut) = self.beginning(answered).await?;
            Ok(Answer {
                status,
                headers,
                body,
                cut,
            })
        };
        let all = tokio::time::timeout(outgoing.timeout, all).await;
        all.unwrap_or(Err(EgressError::Timeout))
    }

    /// The body of a good answer.
    pub async fn get(&self, target: &Target) -> Result<Vec<u8>, EgressError> {
        let outgoing = Outgoing {
            target,
            identity: None,
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: self.limits.total_timeout,
        };
        let all = async {
            let answered = self.answered(&Method::GET, &outgoing).await?;
            let status = answered.status();
            if !status.is_success() {
                return Err(EgressError::Status(status.as_u16()));
            }
            match self.beginning(answered).await? {
                (body, false) => Ok(body),
                (_, true) => Err(EgressError::TooLarge(self.limits.body_bytes)),
            }
        };
        let all = tokio::time::timeout(outgoing.timeout, all).await;
        all.unwrap_or(Err(EgressError::Timeout))
    }

    /// The head of the answer.
    async fn answered(
        &self,
        method: &Method,
        outgoing: &Outgoing<'_>,
    ) -> Result<Response<Incoming>, EgressError> {
        self.admit(outgoing.target)?;
        let http = self.client_of(outgoing.identity)?;
        let answered = http.request(request(method.clone(), outgoing)?).await;
        answered.map_err(|error| failed(&error, error.is_connect()))
    }

    /// What may be kept of a body, and whether there was more.
    async fn beginning(
        &self,
        answered: Response<Incoming>,
    ) -> Result<(Vec<u8>, bool), EgressError> {
        let (mut rest, mut body) = (answered.into_body(), Vec::new());
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|error| failed(&error, false))?;
            let chunk = frame.into_data().unwrap_or_default();
            let room = self.limits.body_bytes - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((body, true));
            }
        }
        Ok((body, false))
    }
}

/// What clients are made with.
#[derive(Debug, Clone)]
struct Means {
    resolver: Guarded,
    provider: Arc<CryptoProvider>,
    /// The system's, or why there are none. Plain http works without them, and https trusts nobody.
    roots: Result<Arc<Verifier>, String>,
    connect_timeout: Duration,
}

impl Means {
    fn client(&self, identity: Option<&Identity>) -> Result<Http, EgressError> {
        let tls = ClientConfig::builder_with_provider(self.provider.clone());
        let tls = tls
            .with_safe_default_protocol_versions()
            .map_err(EgressError::Setup)?;
        let tls = match &self.roots {
            Ok(roots) => tls
                .dangerous()
                .with_custom_certificate_verifier(roots.clone()),
            Err(_) => tls.with_root_certificates(RootCertStore::empty()),
        };
        let tls = match identity {
            None => tls.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.parsed()?;
                let made = tls.with_client_auth_cert(chain, key);
                made.map_err(|_| InvalidIdentity::Pair)?
            }
        };
        let connector = Connector::new(self.resolver.clone(), tls, self.connect_timeout);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(client)
    }
}

/// Nothing is followed, unpacked or sent by way of a proxy, which would resolve and connect for us, past the guard.
fn request(method: Method, outgoing: &Outgoing<'_>) -> Result<Request<Full<Bytes>>, EgressError> {
    let uri = outgoing.target.uri().cloned();
    let mut request = Request::new(Full::new(outgoing.body.clone()));
    *request.method_mut() = method;
    *request.uri_mut() = uri.ok_or_else(|| {
        EgressError::NoRequest("the URL has characters that no request may have".to_owned())
    })?;
    let headers = request.headers_mut();
    headers.reserve(outgoing.headers.len() + 2);
    for (name, value) in &outgoing.headers {
        let name = HeaderName::try_from(name).map_err(|error| unmade(&error))?;
        let value = HeaderValue::try_from(value).map_err(|error| unmade(&error))?;
        headers.append(name, value);
    }
    headers.entry(USER_AGENT).or_insert(OURSELVES);
    headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    Ok(request)
}

fn unmade(error: &dyn Error) -> EgressError {
    EgressError::NoRequest(cause_of(error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const LIMITS: Limits = Limits {
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(5),
        body_bytes: 1_000,
    };

    fn client(allowed: &[&str], limits: Limits) -> Client {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Client::new(Guard::new(allowed), limits).unwrap()
    }

    /// A server on loopback that gives everybody this answer, and its port. It ends with the test.
    async fn answering(answer: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4_096];
                let _ = stream.read(&mut head).await;
                // A client that has seen enough may be gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
    }

    async fn get(client: &Client, url: &str) -> Result<Vec<u8>, EgressError> {
        client.get(&url.parse().unwrap()).await
    }

    #[tokio::test]
    async fn no_notation_of_loopback_gets_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = client(&[], LIMITS);
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127.0.0.1.",
            "0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "localhost",
            "LOCALHOST",
            "%6cocalhost",
            "169.254.169.254",
            "10.0.0.1",
            "[fe80::1]",
            "[fd00::1]",
        ] {
            for scheme in ["http", "https"] {
                let refused = get(&client, &format!("{scheme}://{host}:{port}/")).await;
                assert!(
                    matches!(refused, Err(EgressError::Refused(_))),
                    "{scheme}://{host}: {refused:?}"
                );
            }
        }
        // Not every system's resolver knows it; where one does, the guard does too.
        assert!(
            get(&client, &format!("http://localhost.:{port}/"))
                .await
                .is_err()
        );
        let waiting = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(waiting.is_err(), "nothing has connected");
    }

    #[tokio::test]
    async fn no_receiver_is_offered_http_2() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let url = url.replace("127.0.0.1", "localhost");
        let client = client(&["localhost"], LIMITS);
        let hello = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 5];
            stream.read_exact(&mut head).await.unwrap();
            let mut hello = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
            stream.read_exact(&mut hello).await.unwrap();
            hello
        };
        // Not through the door's own check, which wants root certificates: a handshake begins before anybody is trusted.
        let asked = client.http.get(url.parse().unwrap());
        let (_, hello) = tokio::join!(asked, hello);
        let has = |text: &[u8]| hello.windows(text.len()).any(|part| part == text);
        assert!(has(b"localhost"), "it is a ClientHello");
        assert!(!has(b"\x02h2"));
    }

    #[tokio::test]
    async fn what_is_allowed_by_address_or_by_name_is_fetched() {
        let port = answering(answer("200 OK", "", "the keys")).await;
        for (allowed, host) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.0/8", "127.1"),
            ("localhost", "localhost"),
        ] {
            let body = get(
                &client(&[allowed], LIMITS),
                &format!("http://{host}:{port}/"),
            )
            .await;
            assert_eq!(body.unwrap(), b"the keys", "{host}");
        }
        let other = get(
            &client(&["localhost"], LIMITS),
            &format!("http://127.0.0.1:{port}/"),
        )
        .await;
        assert!(matches!(other, Err(EgressError::Refused(_))));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let inner = answering(answer("200 OK", "", "secret")).await;
        let location = format!("Location: http://127.0.0.1:{inner}/\r\n");
        let port = answering(answer("302 Found", &location, "")).await;
        let url = format!("http://127.0.0.1:{port}/");
        let refused = get(&client(&["127.0.0.1"], LIMITS), &url).await;
        assert!(
            matches!(refused, Err(EgressError::Status(302))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_cut_off_and_a_compressed_one_left_packed() {
        let client = client(&["127.0.0.1"], LIMITS);
        let fits = answering(answer(
            "200 OK",
            "Content-Encoding: gzip\r\n",
            &"a".repeat(1_000),
        ))
        .await;
        let body = get(&client, &format!("http://127.0.0.1:{fits}/"))
            .await
            .unwrap();
        assert_eq!(body.len(), 1_000);
        let endless = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"a".repeat(100_000);
        let over = answering(endless).await;
        let refused = get(&client, &format!("http://127.0.0.1:{over}/")).await;
        assert!(
            matches!(refused, Err(EgressError::TooLarge(1_000))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_post_brings_any_answer_and_the_beginning_of_its_body() {
        let client = client(&["127.0.0.1"], LIMITS);
        let endless =
            "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n".to_owned() + &"a".repeat(100_000);
        let port = answering(endless).await;
        let target: Target = format!("http://127.0.0.1:{port}/hook").parse().unwrap();
        let outgoing = |name: &str| Outgoing {
            target: &target,
            identity: None,
            headers: vec![(name.to_owned(), "1".to_owned())],
            body: Bytes::from_static(b"{}"),
            timeout: Duration::from_secs(5),
        };
        let answer = client.post(outgoing("webhook-id")).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("7"))
        );
        assert_eq!((answer.body.len(), answer.cut), (1_000, true));
        let unmade = client.post(outgoing("not a name")).await;
        assert!(
            matches!(unmade, Err(EgressError::NoRequest(_))),
            "{unmade:?}"
        );
    }

    #[tokio::test]
    async fn who_never_answers_or_does_not_listen_is_given_up() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let hasty = Limits {
            total_timeout: Duration::from_millis(100),
            ..LIMITS
        };
        let client = client(&["127.0.0.1"], hasty);
        let url = format!("http://127.0.0.1:{port}/");
        assert!(matches!(
            get(&client, &url).await,
            Err(EgressError::Timeout)
        ));
        drop(silent);
        assert!(matches!(
            get(&client, &url).await,
            Err(EgressError::Unreachable(_))
        ));
    }

    /// Fails with an error of the system, by its number.
    #[derive(Debug)]
    struct Failing(i32);

    impl Resolver for Failing {
        fn resolve<'a>(&'a self, _: &'a str) -> crate::resolver::Resolution<'a> {
            Box::pin(async { Err(io::Error::from_raw_os_error(self.0)) })
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_this_machine_lacks_is_not_the_receivers_doing() {
        let (too_many_files, no_address, out_of_memory, refused) = (24, 99, 12, 111);
        for (number, lacks) in [
            (too_many_files, Some("files")),
            (no_address, None),
            (out_of_memory, Some("memory")),
            (refused, None),
        ] {
            let resolver = Arc::new(Failing(number));
            let client = Client::with_resolver(Guard::new(Vec::new()), LIMITS, resolver).unwrap();
            match get(&client, "http://receiver.example/").await {
                Err(EgressError::Exhausted(what)) => assert_eq!(Some(what), lacks),
                Err(EgressError::Unreachable(_)) => assert_eq!(lacks, None),
                other => panic!("{number}: {other:?}"),
            }
        }
    }
}

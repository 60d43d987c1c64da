//! How a connection is made: looked up once, judged, connected to, shaken hands with; and how much of a request's time that took.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use rustls::ClientConfig;
use tower::{BoxError, Service};

use crate::guard::Guard;
use crate::resolver::Resolver;

/// A connection on which nothing goes is asked whether it lives, so often and this many times.
const ALIVE: Duration = Duration::from_secs(15);
const ALIVE_TIMES: u32 = 3;
/// What was sent and is not acknowledged for so long breaks the connection.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

tokio::task_local! {
    static SPENT: Cell<Duration>;
}

/// Does something with a client, and says how much of its time went into connections, made or not. A connection that is
/// there already takes none.
pub async fn timed<F: Future>(doing: F) -> (F::Output, Duration) {
    let all = async {
        let done = doing.await;
        (done, SPENT.with(Cell::get))
    };
    SPENT.scope(Cell::new(Duration::ZERO), all).await
}

/// A resolver with the guard after it. It is never asked about a host that is an address.
#[derive(Debug, Clone)]
pub(crate) struct Guarded(pub Arc<Guard>, pub Arc<dyn Resolver>);

impl Service<Name> for Guarded {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self(guard, resolver) = self.clone();
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await?;
            guard.admit_all(name.as_str(), &found)?;
            // Port 0 stands for that of the URL.
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

/// Connects within a time, and puts a clock around it.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    inner: HttpsConnector<HttpConnector<Guarded>>,
    timeout: Duration,
}

impl Connector {
    /// To what the guard admits, with TLS for `https`.
    pub(crate) fn new(resolver: Guarded, tls: ClientConfig, timeout: Duration) -> Self {
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        // The addresses of a name share it, so that one that is dead leaves time for the others.
        http.set_connect_timeout(Some(timeout));
        http.set_nodelay(true);
        http.set_keepalive(Some(ALIVE));
        http.set_keepalive_interval(Some(ALIVE));
        http.set_keepalive_retries(Some(ALIVE_TIMES));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        http.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            // Over HTTP/2 all tenants' requests to a host would share one connection: a slow receiver would hold up the others'
            // there, and one that died without a word would be kept as long as anything is sent on it.
            .enable_http1()
            .wrap_connector(http);
        Self { inner, timeout }
    }
}

type Made = <HttpsConnector<HttpConnector<Guarded>> as Service<Uri>>::Response;

impl Service<Uri> for Connector {
    type Response = Made;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Made, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.timeout, self.inner.call(uri));
        Box::pin(async move {
            let _running = Running(Instant::now());
            let connected = connecting.await;
            connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        })
    }
}

/// Counts until it is dropped, so that what is given up counts too.
struct Running(Instant);

impl Drop for Running {
    fn drop(&mut self) {
        // A connection that nobody waits for any more is nobody's time.
        let _ = SPENT.try_with(|spent| spent.set(spent.get() + self.0.elapsed()));
    }
}

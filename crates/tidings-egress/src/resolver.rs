//! What a name stands for. Asked once for each connection; the guard sees every address before one is connected to.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// So many look-ups are made at once. Each takes a thread until it ends, whether anybody still waits for it or not, and
/// these threads do other work too.
const AT_ONCE: usize = 128;
/// So many of one owner, so that names that never answer cost nobody else theirs.
const OF_ONE: usize = 16;

tokio::task_local! {
    static OWNER: Arc<str>;
}

/// Does something with a client in somebody's name: what it looks up counts as that owner's.
pub fn on_behalf_of<F: Future>(owner: &str, doing: F) -> impl Future<Output = F::Output> {
    OWNER.scope(owner.into(), doing)
}

/// The addresses of a name, some time later.
pub type Resolution<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of names.
///
/// # Contract
/// - Whatever it answers is untrusted: the guard judges each address, and one bad one refuses the name.
/// - What it answers is used for one connection and not kept, so it may say something else the next time.
/// - It is never asked about a host that is an address.
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve<'a>(&'a self, name: &'a str) -> Resolution<'a>;
}

/// The operating system's, so often at once and no more; who comes then waits.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    all: Arc<Semaphore>,
    owners: Arc<Mutex<HashMap<Arc<str>, Weak<Semaphore>>>>,
    look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            owners: Arc::default(),
            look_up: |name| {
                let found = (name, 0).to_socket_addrs()?;
                Ok(found.map(|address| address.ip()).collect())
            },
        }
    }
}

impl SystemResolver {
    /// The places of whoever asks.
    fn own(&self) -> Arc<Semaphore> {
        let owner = OWNER.try_with(Arc::clone).unwrap_or_default();
        let owners = self.owners.lock();
        let mut owners = owners.unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = owners.get(&owner).and_then(Weak::upgrade) {
            return known;
        }
        owners.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(OF_ONE));
        owners.insert(owner, Arc::downgrade(&places));
        places
    }
}

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolution<'a> {
        let (name, look_up) = (name.to_owned(), self.look_up);
        Box::pin(async move {
            let own = self.own().acquire_owned();
            let own = own.await.map_err(io::Error::other)?;
            let all = self
                .all
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let looked_up = tokio::task::spawn_blocking(move || {
                let found = look_up(&name);
                // Not before the thread is free.
                drop((own, all));
                found
            });
            looked_up.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Client, EgressError, Guard, Limits, Outgoing};

    /// Gives its answers one after the other, and then fails.
    #[derive(Debug)]
    struct Scripted(Mutex<VecDeque<Vec<IpAddr>>>);

    impl Scripted {
        fn new(answers: &[&[&str]]) -> Arc<Self> {
            let answer = |texts: &&[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            Arc::new(Self(Mutex::new(answers.iter().map(answer).collect())))
        }

        fn left(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl Resolver for Scripted {
        fn resolve<'a>(&'a self, _: &'a str) -> Resolution<'a> {
            let next = self.0.lock().unwrap().pop_front();
            Box::pin(async move { next.ok_or_else(|| io::Error::other("no answer is left")) })
        }
    }

    fn client(allowed: &[&str], resolver: Arc<Scripted>) -> Client {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let limits = Limits {
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(5),
            body_bytes: 100,
        };
        Client::with_resolver(Guard::new(allowed), limits, resolver).unwrap()
    }

    async fn post(client: &Client, port: u16) -> Result<u16, EgressError> {
        let target = format!("http://moving.example:{port}/").parse().unwrap();
        let outgoing = Outgoing {
            target: &target,
            identity: None,
            headers: Vec::new(),
            body: Bytes::from_static(b"{}"),
            timeout: Duration::from_secs(5),
        };
        client.post(outgoing).await.map(|answer| answer.status)
    }

    /// A receiver that closes after each answer, so that each request looks its name up.
    async fn closing(address: &str) -> u16 {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4_096];
                let read = stream.read(&mut head).await.unwrap();
                assert!(read > 0, "a connection without a request");
                let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        port
    }

    fn is_unconnected(listener: &std::net::TcpListener) -> bool {
        listener.set_nonblocking(true).unwrap();
        let error = listener.accept().unwrap_err();
        error.kind() == io::ErrorKind::WouldBlock
    }

    #[tokio::test]
    async fn a_name_that_changes_its_answer_is_judged_at_each_connection() {
        let port = closing("127.0.0.1").await;
        let inner = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        let resolver = Scripted::new(&[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1"]]);
        let client = client(&["127.0.0.1"], resolver.clone());
        assert_eq!(post(&client, port).await.unwrap(), 204);
        assert_eq!(resolver.left(), 2, "one look-up for one connection");
        let refused = post(&client, port).await;
        assert!(
            matches!(refused, Err(EgressError::Refused(_))),
            "{refused:?}"
        );
        assert_eq!(post(&client, port).await.unwrap(), 204);
        assert!(is_unconnected(&inner));
    }

    #[tokio::test]
    async fn what_was_judged_is_what_is_connected_to() {
        // Whoever looked the name up a second time would get the address that nobody has judged.
        let port = closing("127.0.0.1").await;
        let inner = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
        let resolver = Scripted::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
        let client = client(&["127.0.0.1"], resolver.clone());
        assert_eq!(post(&client, port).await.unwrap(), 204);
        assert_eq!(resolver.left(), 1);
        assert!(is_unconnected(&inner));
    }

    #[tokio::test]
    async fn a_name_with_one_inward_address_in_whatever_wrapping_is_refused() {
        let port = closing("127.0.0.1").await;
        for inward in [
            "127.0.0.2",
            "10.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "::1",
            "::ffff:127.0.0.2",
            "::127.0.0.2",
            "64:ff9b::127.0.0.2",
            "64:ff9b:1::7f00:2",
            "2002:7f00:2::1",
            "2001:0:4136:e378:8000:63bf:80ff:fffd",
            "fd00::1",
            "fe80::1",
        ] {
            for answer in [
                &[inward][..],
                &["127.0.0.1", inward],
                &[inward, "127.0.0.1"],
            ] {
                let client = client(&["127.0.0.1"], Scripted::new(&[answer]));
                let refused = post(&client, port).await;
                assert!(
                    matches!(refused, Err(EgressError::Refused(_))),
                    "{answer:?}: {refused:?}"
                );
            }
        }
    }

    static STALLED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    static LEFT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn names_that_never_answer_cost_nobody_else_theirs() {
        let resolver = Arc::new(SystemResolver {
            look_up: |name| {
                if name.starts_with("stalled") {
                    STALLED.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    drop(LEFT.blocking_lock());
                }
                Ok(vec!["127.0.0.1".parse().unwrap()])
            },
            ..SystemResolver::default()
        });
        let held = LEFT.lock().await;
        let asking: Vec<_> = (0..200)
            .map(|number| {
                let resolver = resolver.clone();
                let name = format!("stalled-{number}.example");
                tokio::spawn(async move {
                    let asked = on_behalf_of("loud", resolver.resolve(&name));
                    tokio::time::timeout(Duration::from_millis(300), asked)
                        .await
                        .is_ok()
                })
            })
            .collect();
        while STALLED.load(std::sync::atomic::Ordering::SeqCst) < OF_ONE {
            tokio::task::yield_now().await;
        }
        let quiet = on_behalf_of("quiet", resolver.resolve("good.example"));
        let quiet = tokio::time::timeout(Duration::from_secs(20), quiet).await;
        assert_eq!(quiet.unwrap().unwrap().len(), 1);
        for asked in asking {
            assert!(!asked.await.unwrap(), "it waits in vain");
        }
        // Given up as they are, their threads are taken still, and no more of them.
        assert_eq!(STALLED.load(std::sync::atomic::Ordering::SeqCst), OF_ONE);
        drop(held);
        let loud = on_behalf_of("loud", resolver.resolve("good.example")).await;
        assert_eq!(loud.unwrap().len(), 1);
    }

    /// Takes its time.
    #[derive(Debug)]
    struct Slow;

    const LOOK_UP: Duration = Duration::from_millis(60);

    impl Resolver for Slow {
        fn resolve<'a>(&'a self, _: &'a str) -> Resolution<'a> {
            Box::pin(async move {
                tokio::time::sleep(LOOK_UP).await;
                Ok(vec!["127.0.0.1".parse().expect("an address")])
            })
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_never_answers_leaves_time_for_the_others() {
        let live = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = live.local_addr().unwrap().port();
        let dead = tokio::net::TcpSocket::new_v4().unwrap();
        dead.bind(([127, 0, 0, 2], port).into()).unwrap();
        let dead = dead.listen(1).unwrap();
        // Who connects when its queue is full is not answered.
        let full = dead.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(
            Duration::from_millis(200),
            tokio::net::TcpStream::connect(full),
        )
        .await
        {
            queued.push(stream.unwrap());
        }
        let limits = Limits {
            connect_timeout: Duration::from_secs(2),
            total_timeout: Duration::from_secs(20),
            body_bytes: 1_000,
        };
        let guard = Guard::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let resolver = Scripted::new(&[&["127.0.0.2", "127.0.0.1"]]);
        let client = Client::with_resolver(guard, limits, resolver).unwrap();
        let url = format!("http://receiver.example:{port}/").parse().unwrap();
        let answering = async {
            let (mut stream, _) = live.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1_024]).await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        };
        let (got, ()) = tokio::join!(client.get(&url), answering);
        assert_eq!(got.unwrap(), b"ok");
    }

    #[tokio::test]
    async fn the_time_of_connecting_is_told_apart_also_where_it_fails() {
        let limits = Limits {
            connect_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(5),
            body_bytes: 100,
        };
        let guard = Guard::new(vec!["127.0.0.1".parse().unwrap()]);
        let client = Client::with_resolver(guard, limits, Arc::new(Slow)).unwrap();
        let port = closing("127.0.0.1").await;
        let (answered, connecting) = crate::timed(post(&client, port)).await;
        assert_eq!(answered.unwrap(), 204);
        assert!(connecting >= LOOK_UP, "{connecting:?}");
        let unused = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let (refused, connecting) = crate::timed(post(&client, port)).await;
        assert!(refused.is_err() && connecting >= LOOK_UP, "{connecting:?}");
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_not_reached() {
        let client = client(&["127.0.0.1"], Scripted::new(&[&[]]));
        for what in ["nothing", "a failure"] {
            let unreachable = post(&client, 9).await;
            assert!(
                matches!(unreachable, Err(EgressError::Unreachable(_))),
                "{what}: {unreachable:?}"
            );
        }
    }
}

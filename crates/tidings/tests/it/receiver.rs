//! A receiver of webhooks on loopback that answers as a test wants and remembers what it got.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::Value;

use crate::harness::PATIENCE;

/// One request that arrived.
#[derive(Clone)]
pub(crate) struct Hit {
    /// Names in lower case, and values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What it was answered with.
    pub(crate) status: u16,
}

impl std::fmt::Debug for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {body}", self.status, self.headers)
    }
}

impl Hit {
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        let found = headers.find(|(this, _)| this == name);
        found.map_or_else(
            || panic!("no header {name}: {:?}", self.headers),
            |(_, value)| value,
        )
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.header("tidings-sequence").parse().expect("a number")
    }
}

/// The status for a request, which may look at it and at those before; 0 dies instead of answering.
type Answer = dyn Fn(&Hit, &[Hit]) -> u16 + Send + Sync;

struct Shared {
    hits: Mutex<Vec<Hit>>,
    arrived: Condvar,
    answer: Mutex<Arc<Answer>>,
}

pub(crate) struct Receiver {
    shared: Arc<Shared>,
    pub(crate) url: String,
}

impl Receiver {
    /// Answers 200 to everything.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            hits: Mutex::default(),
            arrived: Condvar::new(),
            answer: Mutex::new(Arc::new(|_, _| 200)),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { shared, url }
    }

    /// Answers from now on as this says.
    pub(crate) fn answer(&self, answer: impl Fn(&Hit, &[Hit]) -> u16 + Send + Sync + 'static) {
        *self.shared.answer.lock().expect("not poisoned") = Arc::new(answer);
    }

    /// What has arrived, once it is enough.
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&[Hit]) -> bool) -> Vec<Hit> {
        let hits = self.shared.hits.lock().expect("not poisoned");
        let waited = self
            .shared
            .arrived
            .wait_timeout_while(hits, PATIENCE, |hits| !enough(hits));
        let (hits, timeout) = waited.expect("not poisoned");
        assert!(
            !timeout.timed_out(),
            "{what}: only {} arrived: {hits:#?}",
            hits.len()
        );
        hits.clone()
    }

    /// What has arrived, once so many were answered with 200.
    pub(crate) fn until_taken(&self, count: usize) -> Vec<Hit> {
        self.until("taken", |hits| {
            hits.iter().filter(|hit| hit.status == 200).count() >= count
        })
    }

    /// What has arrived so far.
    pub(crate) fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().expect("not poisoned").clone()
    }
}

/// Until something holds that no arrival tells of.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    while let Some(mut hit) = read(&mut reader) {
        let answer = shared.answer.lock().expect("not poisoned").clone();
        let mut hits = shared.hits.lock().expect("not poisoned");
        hit.status = answer(&hit, &hits);
        let text = format!("HTTP/1.1 {} -\r\nContent-Length: 2\r\n\r\nok", hit.status);
        if hit.status == 0 {
            hits.push(hit);
            return;
        }
        let sent = writer.write_all(text.as_bytes());
        hits.push(hit);
        shared.arrived.notify_all();
        drop(hits);
        if sent.is_err() {
            return;
        }
    }
}

/// Reads one request.
pub(crate) fn read(reader: &mut impl BufRead) -> Option<Hit> {
    let mut line = String::new();
    let mut headers = Vec::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Hit {
        headers,
        body,
        status: 0,
    })
}

//! The real binary on a data folder, and a client that knows whether an answer came.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// No answer for so long counts as none.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `tidings serve`, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    log: PathBuf,
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start(data: &Path, variables: &[(&str, &OsStr)]) -> Self {
        Self::try_start(data, variables).unwrap_or_else(|log| panic!("it did not start: {log}"))
    }

    /// The error is what it logged before it ended.
    pub(crate) fn try_start(data: &Path, variables: &[(&str, &OsStr)]) -> Result<Self, String> {
        let log = data.with_extension("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            // The server refuses variables that it does not know.
            .env_remove("TIDINGS_CHAOS_ROUNDS")
            .env_remove("TIDINGS_CHAOS_SEED")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(&log)
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("Tidings listens on http://") else {
            child.wait().unwrap();
            return Err(std::fs::read_to_string(&log).unwrap());
        };
        Ok(Self {
            child,
            address: address.to_owned(),
            log,
            _stdout: stdout,
        })
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends SIGSTOP, and waits until no thread runs any more; one that is inside the kernel may end what it does there.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // The state stands behind the name, which is in parentheses. A thread that has ended has no file.
            let state = stat
                .ok()
                .and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
            state.is_none_or(|state| matches!(state, 'T' | 'D'))
        };
        let begun = Instant::now();
        while !std::fs::read_dir(&tasks).unwrap().all(stands) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it runs on");
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits until it logs something: a thread of its own writes the lines.
    pub(crate) fn logs(&self, what: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(what) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A credential of module `demo` of tenant `acme`.
pub(crate) fn token(data: &Path) -> String {
    token_of(data, &["--tenant", "acme", "--module", "demo"])
}

/// A credential of whoever the arguments name.
pub(crate) fn token_of(data: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["token", "--ttl", "12h"]).args(arguments);
    let output = command.arg("--data").arg(data).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Connection {
    pub(crate) fn open(address: &str, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
            token: token.to_owned(),
        })
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send("GET", path, "", "")
    }

    pub(crate) fn publish(&mut self, key: &str) -> io::Result<Answer> {
        let body = format!(r#"{{"type":"demo.greeting.sent","data":{{"key":"{key}"}}}}"#);
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        self.send("POST", "/v1/events/publish", &headers, &body)
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        more: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let (token, length) = (&self.token, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n{more}\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .ok_or_else(broken)?;
        let (mut length, mut content_type) = (0, String::new());
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(broken());
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "content-type" => value.clone_into(&mut content_type),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer {
            status,
            content_type,
            body,
        })
    }
}

/// Every event of the tenant, by walking the list.
pub(crate) fn list(server: &Server, token: &str) -> Vec<Value> {
    let mut connection = Connection::open(&server.address, token).unwrap();
    let mut events = Vec::new();
    let mut path = "/v1/events?limit=100".to_owned();
    loop {
        let mut page = connection.get(&path).unwrap();
        assert_eq!(page.status, 200, "{}", page.body);
        let items = std::mem::take(page.body["items"].as_array_mut().unwrap());
        let ended = items.is_empty();
        events.extend(items);
        match page.body["nextCursor"].as_str() {
            Some(cursor) if !ended => path = format!("/v1/events?limit=100&cursor={cursor}"),
            _ => return events,
        }
    }
}

/// Starts a server that a fault can be switched on for: it is there while the returned file is. The
/// variable says which of `faults.c`.
pub(crate) fn start_faulty(folder: &Path, fault: &str) -> (Server, PathBuf) {
    let (data, trigger) = (folder.join("data"), folder.join("fault"));
    let flags = ["-shared", "-fPIC"];
    let shim = compile(folder, include_str!("faults.c"), &flags);
    let variables = [
        ("LD_PRELOAD", shim.as_os_str()),
        ("FAULT_FOLDER", data.as_os_str()),
        (fault, trigger.as_os_str()),
    ];
    (Server::start(&data, &variables), trigger)
}

/// Compiles a C source in a folder and gives the result's path.
pub(crate) fn compile(folder: &Path, source: &str, flags: &[&str]) -> PathBuf {
    let (file, compiled) = (folder.join("source.c"), folder.join("compiled"));
    std::fs::write(&file, source).unwrap();
    let mut command = Command::new("cc");
    let status = command
        .args(flags)
        .arg("-o")
        .arg(&compiled)
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());
    compiled
}

/// Reproducible randomness (`SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    /// From `TIDINGS_CHAOS_SEED` or the time; the seed is printed.
    pub(crate) fn seeded(test: &str) -> Self {
        let given = std::env::var("TIDINGS_CHAOS_SEED").ok();
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        let seed = given.map_or_else(now, |text| text.parse().unwrap());
        println!("{test}: TIDINGS_CHAOS_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// How many rounds, unless `TIDINGS_CHAOS_ROUNDS` says otherwise.
pub(crate) fn rounds(default: u64) -> u64 {
    std::env::var("TIDINGS_CHAOS_ROUNDS").map_or(default, |text| text.parse().unwrap())
}

//! A running `tidings serve` over a folder of its own, and a small HTTP client that adds nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tidings");
/// Nothing here takes so long: a test that would hang fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const PUBLISH: &str = "/v1/events/publish";
pub(crate) const UNAVAILABLE: &str = "events.broker.unavailable";
pub(crate) const BATCH: &str = "/v1/events/publish/batch";

/// A folder that goes when the test does.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it-{}-{number}", std::process::id());
        // Elsewhere than on the disk where the disk is not what is tested.
        let elsewhere = std::env::var_os("TIDINGS_TEST_FOLDERS");
        let parent = elsewhere.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        let path = Path::new(&parent).join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that finds this file in its folder takes it for the system's root certificates.
pub(crate) const ROOTS: &str = "roots.pem";
/// The same of the shared file with AWS credentials.
pub(crate) const AWS_CREDENTIALS: &str = "aws-credentials";
/// Where in its folder a server logs errors and warnings.
pub(crate) const LOG: &str = "server.log";
/// A configuration with this in it says where its server keeps what it keeps.
pub(crate) const OWN_PARTS: &str = "store.url =";
/// One that keeps everything in its folder, wherever the other tests' servers do.
pub(crate) const ON_ITS_FOLDER: &str = "store.url = ''\n";

/// What a program that succeeded has printed.
pub(crate) fn printed(run: Output) -> String {
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8(run.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Whether every server runs on Kafka, PostgreSQL and Valkey instead of its folder: with `TIDINGS_TEST_ON=kafka`.
pub(crate) fn on_kafka() -> bool {
    std::env::var_os("TIDINGS_TEST_ON").is_some_and(|on| on == "kafka")
}

/// Where a server runs that is not to run on its folder:
/// topics, a database and a number of Valkey's of its own, for as long as the folder is there.
fn elsewhere(command: &mut Command, folder: &Folder) {
    if !on_kafka() {
        return;
    }
    let given = |name: &str| std::env::var(name).expect("scripts/test says where the servers are");
    let name = folder.path().file_name().expect("a name").to_string_lossy();
    let (postgres, database) = (given("TIDINGS_TEST_POSTGRES"), name.replace('-', "_"));
    let (server, _) = postgres.rsplit_once('/').expect("a database's URL");
    // Nobody is ever at that template, whom PostgreSQL would have to wait for.
    let create = format!("CREATE DATABASE {database} TEMPLATE template0");
    let created = Command::new(Path::new(&given("TIDINGS_POSTGRES_BIN")).join("psql"))
        .args([&postgres, "-qc", &create])
        .output()
        .expect("psql runs");
    let said = String::from_utf8_lossy(&created.stderr);
    // A restart finds it there.
    assert!(
        created.status.success() || said.contains("already exists"),
        "no database: {said}"
    );
    let number: u32 = name
        .rsplit('-')
        .next()
        .and_then(|last| last.parse().ok())
        .expect("a number");
    // Of 4,096 that scripts/servers gives it; another run by hand gets others.
    let number = (std::process::id() % 40 * 100 + number) % 4_096;
    command
        .env("TIDINGS_BUS__KIND", "kafka")
        .env("TIDINGS_BUS__KAFKA__BROKERS", given("TIDINGS_TEST_KAFKA"))
        .env("TIDINGS_BUS__KAFKA__TOPIC_PREFIX", format!("{name}."))
        .env("TIDINGS_STORE__URL", format!("{server}/{database}"))
        .env(
            "TIDINGS_RECEIPTS__URL",
            format!("{}/{number}", given("TIDINGS_TEST_VALKEY")),
        );
}

/// The process. Ends with the test, however the test ends.
pub(crate) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) address: String,
    pub(crate) folder: Folder,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            let (address, log) = (&self.address, self.log());
            eprintln!("the server at {address:?} ended with {ended:?} and has logged:\n{log}");
        }
    }
}

impl Server {
    /// On an empty folder, with module `crm` declaring two types.
    pub(crate) fn start() -> Self {
        let server = Self::start_in(Folder::new(), &[]);
        server.declare("crm", &["crm.contact.created", "crm.contact.updated"]);
        server
    }

    /// On an empty folder, with a configuration file of this text.
    pub(crate) fn start_with(config: &str) -> Self {
        Self::start_with_in(Folder::new(), config)
    }

    /// The same on a folder that has something in it already.
    pub(crate) fn start_with_in(folder: Folder, config: &str) -> Self {
        let file = folder.path().join("tidings.toml");
        std::fs::create_dir_all(folder.path()).expect("a folder");
        std::fs::write(&file, config).expect("a file");
        Self::start_in(folder, &["--config", &file.to_string_lossy()])
    }

    /// The same of a binary with plugins, which is an example of this package.
    pub(crate) fn start_example(name: &str, config: &str) -> Self {
        let folder = Folder::new();
        let file = folder.path().join("tidings.toml");
        std::fs::write(&file, config).expect("a file");
        let beside = Path::new(BINARY).parent().expect("a folder");
        let binary = beside.join("examples").join(name);
        assert!(
            binary.exists(),
            "there is no {}: run `cargo build -p tidings --examples`",
            binary.display()
        );
        Self::start_binary(&binary, folder, &["--config", &file.to_string_lossy()], &[])
    }

    /// On an empty folder, with a configuration file and variables beside it.
    pub(crate) fn start_with_variables(config: &str, variables: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        let file = folder.path().join("tidings.toml");
        std::fs::write(&file, config).expect("a file");
        let extra = ["--config", &file.to_string_lossy()];
        Self::start_binary(Path::new(BINARY), folder, &extra, variables)
    }

    pub(crate) fn start_in(folder: Folder, extra: &[&str]) -> Self {
        Self::start_binary(Path::new(BINARY), folder, extra, &[])
    }

    fn start_binary(
        binary: &Path,
        folder: Folder,
        extra: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(binary);
        let file = folder.path().join("tidings.toml");
        let chosen = std::fs::read_to_string(file).is_ok_and(|config| config.contains(OWN_PARTS));
        if !chosen {
            elsewhere(&mut command, &folder);
        }
        let roots = folder.path().join(ROOTS);
        if roots.exists() {
            command.env("SSL_CERT_FILE", roots);
        }
        let credentials = folder.path().join(AWS_CREDENTIALS);
        if credentials.exists() {
            command.env("AWS_SHARED_CREDENTIALS_FILE", credentials);
        }
        let mut log = std::fs::OpenOptions::new();
        let log = log.create(true).append(true).open(folder.path().join(LOG));
        let mut child = command
            .arg("serve")
            .arg("--data")
            .arg(folder.path())
            .args(["--listen", "127.0.0.1:0"])
            .args(extra)
            .env("TIDINGS_LOG__LEVEL", "warn")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log.expect("a file"))
            .spawn()
            .expect("the binary starts");
        let mut server = Self {
            output: BufReader::new(child.stdout.take().expect("piped")),
            child,
            address: String::new(),
            folder,
        };
        let mut line = String::new();
        server.output.read_line(&mut line).expect("a first line");
        let address = line.trim().strip_prefix("Tidings listens on http://");
        address
            .unwrap_or_else(|| panic!("not an address: {line:?}"))
            .clone_into(&mut server.address);
        server
    }

    /// Stopped as an operator stops it, and started again over the same folder.
    pub(crate) fn restart(mut self) -> Self {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        assert!(
            self.child.wait().expect("it ends").success(),
            "SIGTERM must end it cleanly"
        );
        let folder = std::mem::replace(&mut self.folder, Folder(PathBuf::new()));
        let file = folder.path().join("tidings.toml");
        if !file.exists() {
            return Self::start_in(folder, &[]);
        }
        let file = file.to_string_lossy().into_owned();
        Self::start_in(folder, &["--config", &file])
    }

    /// Killed with -9; its folder.
    pub(crate) fn killed(mut self) -> Folder {
        self.kill();
        self.child.wait().expect("it ends");
        std::mem::replace(&mut self.folder, Folder(PathBuf::new()))
    }

    /// Killed with -9, and started again over the same folder.
    pub(crate) fn killed_and_restarted(self) -> Self {
        let folder = self.killed();
        let file = folder.path().join("tidings.toml");
        let file = file.to_string_lossy().into_owned();
        Self::start_in(folder, &["--config", &file])
    }

    /// As `kill -9`.
    pub(crate) fn kill(&self) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.expect("kill runs").success());
    }

    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(BINARY);
        command
            .arg("token")
            .arg("--data")
            .arg(self.folder.path())
            .args(arguments);
        let config = self.folder.path().join("tidings.toml");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        let run = command.output().expect("it runs");
        printed(run)
    }

    /// A token of module `crm`.
    pub(crate) fn crm(&self, tenant: &str) -> String {
        self.token(&["--tenant", tenant, "--module", "crm"])
    }

    pub(crate) fn declare(&self, module: &str, types: &[&str]) {
        let operator = self.token(&["--role", "OPERATOR"]);
        let manifest =
            json!({ "id": module, "version": "1.0.0", "events": { "publishes": types } });
        let path = format!("/v1/modules/{module}/manifest");
        self.call("PUT", &path)
            .bearer(&operator)
            .json(&manifest)
            .send()
            .expect(200);
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Request {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.address
        );
        Request {
            address: self.address.clone(),
            head,
            body: Vec::new(),
        }
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path).bearer(token).send()
    }

    pub(crate) fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.call("POST", path).bearer(token).json(body).send()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default()
    }

    /// The tenant's dead letters in a state.
    pub(crate) fn dead_letters(&self, token: &str, state: &str) -> Vec<Value> {
        let list = self.get(&format!("/v1/dead-letters?state={state}"), token);
        list.expect(200).json()["items"]
            .as_array()
            .expect("items")
            .clone()
    }

    /// The most memory that the process ever had at once, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number.expect("a peak").parse().expect("a number")
    }

    /// How many events the tenant of the token has.
    pub(crate) fn count(&self, token: &str) -> usize {
        let page = self.get("/v1/events?limit=1000", token).expect(200).json();
        page["items"].as_array().expect("items").len()
    }
}

pub(crate) struct Request {
    address: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.extend([name, ": ", value, "\r\n"]);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json")
            .body(body.to_string())
    }

    /// The answer, whatever it is.
    pub(crate) fn send_once(&self) -> Answer {
        self.try_send().expect("an answer")
    }

    /// What comes of it in the end. Where many tests share a machine and a Kafka, a disk may stall and making a topic
    /// may take for longer than an answer may, and the key of a publish that did not hear of its end is held for a while;
    /// the problem says to ask again.
    pub(crate) fn send(mut self) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.send_once();
            let again = [UNAVAILABLE, "IDEMPOTENCY_KEY_IN_USE"];
            let again = again.iter().any(|code| answer.text().contains(code));
            if answer.status != 503 || !again || begun.elapsed() > PATIENCE {
                return answer;
            }
            eprintln!("asks again after: {}", answer.text());
            self = self.under_keys_of(&answer.json());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same under the keys that a problem names, where it may have been published without one.
    fn under_keys_of(mut self, problem: &Value) -> Self {
        if let Some(key) = problem["idempotencyKey"].as_str()
            && !self.head.contains("Idempotency-Key")
        {
            return self.header("Idempotency-Key", key);
        }
        let keys = problem["events"].as_array().map_or(&[][..], Vec::as_slice);
        let body = serde_json::from_slice::<Value>(&self.body);
        if let Ok(mut body) = body
            && let Some(events) = body["events"].as_array_mut()
            && events.len() == keys.len()
        {
            for (event, named) in events.iter_mut().zip(keys) {
                event["idempotencyKey"] = named["idempotencyKey"].clone();
            }
            self.body = body.to_string().into();
        }
        self
    }

    /// Nothing when the server ends, or has ended, instead of answering.
    pub(crate) fn try_send(&self) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head, self.body.len());
        stream.write_all(head.as_bytes()).ok()?;
        // A server that has refused already need not read the rest.
        let _ = stream.write_all(&self.body);
        Answer::try_read(stream)
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: TcpStream) -> Self {
        Self::try_read(stream).expect("an answer")
    }

    fn try_read(mut stream: TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        // A reset after the answer is the end too.
        let _ = stream.read_to_end(&mut bytes);
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..split].to_vec()).expect("a head of text");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .expect("a status");
        let status = status.parse().expect("a number");
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let headers = pairs
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self {
            status,
            headers,
            body: bytes[split + 4..].to_vec(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// The problem, complete and with this code.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!(
            (self.status, problem["code"].as_str()),
            (status, Some(code)),
            "{problem}"
        );
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail", "instance", "traceId"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{member}: {problem}"
            );
        }
        problem
    }
}

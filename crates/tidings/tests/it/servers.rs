//! Real servers that a test may kill, started by `scripts/servers`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Folder;

/// Servers of a test alone.
pub(crate) struct Servers {
    folder: Folder,
    said: String,
}

impl Servers {
    pub(crate) fn start(names: &[&str]) -> Self {
        Self::begin("start", names, None)
    }

    /// Of which Kafka tells its clients to come to a proxy.
    pub(crate) fn start_behind(advertised: &str, names: &[&str]) -> Self {
        let advertised = ("TIDINGS_KAFKA_ADVERTISED", advertised);
        Self::begin("start", names, Some(advertised))
    }

    /// Which speak TLS, as the files of a folder say (see scripts/servers).
    pub(crate) fn start_encrypted(files: &Folder, names: &[&str]) -> Self {
        Self::begin("start", names, Some(("TIDINGS_TLS", &place(files))))
    }

    /// So many brokers that replicate to each other.
    pub(crate) fn cluster(brokers: u32) -> Self {
        Self::begin("start-cluster", &[&brokers.to_string()], None)
    }

    fn begin(command: &str, names: &[&str], variable: Option<(&str, &str)>) -> Self {
        let folder = Folder::new();
        let place = place(&folder);
        let mut arguments = vec![command, &place];
        arguments.extend(names);
        let said = servers(&arguments, variable);
        Self { folder, said }
    }

    /// Where one listens, by the name of the variable that scripts/servers gives it.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        let name = format!("export {name}=");
        self.said.lines().find_map(|line| line.strip_prefix(&name))
    }

    /// What one of Kafka's own tools prints, asked of its broker.
    pub(crate) fn kafka_tool(&self, class: &str, arguments: &[&str]) -> String {
        let brokers = self.setting("TIDINGS_TEST_KAFKA").expect("it was started");
        self.kafka_tool_at(brokers, class, arguments)
    }

    /// The same, asked of these brokers.
    pub(crate) fn kafka_tool_at(&self, brokers: &str, class: &str, arguments: &[&str]) -> String {
        let jars = self.setting("TIDINGS_KAFKA_LIBS").expect("it was started");
        kafka_tool(jars, brokers, class, arguments)
    }

    /// The host and port within such a setting.
    pub(crate) fn address(&self, name: &str) -> String {
        let setting = self.setting(name).expect("it was started");
        let authority = setting.rsplit("//").next().unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default().to_owned()
    }

    /// Of a gateway that runs on all of them.
    pub(crate) fn configuration(&self) -> String {
        let store = self.setting("TIDINGS_TEST_POSTGRES").unwrap_or_default();
        let receipts = self.setting("TIDINGS_TEST_VALKEY").unwrap_or_default();
        let mut configuration = format!("store.url = '{store}'\nreceipts.url = '{receipts}'\n");
        if let Some(brokers) = self.setting("TIDINGS_TEST_KAFKA") {
            configuration.push_str("bus.kind = 'kafka'\n");
            configuration.extend(["bus.kafka.brokers = '", brokers, "'\n"]);
        }
        configuration
    }

    /// As `kill -9`.
    pub(crate) fn kill(&self, name: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(format!("{name}.pid")));
        let pid = pid.expect("it was started");
        let killed = Command::new("kill").args(["-KILL", pid.trim()]).status();
        assert!(killed.expect("kill runs").success());
    }

    /// On its old port and data.
    pub(crate) fn restart(&self, name: &str) {
        servers(&["restart", &place(&self.folder), name], None);
    }

    /// One of a cluster, by its number.
    pub(crate) fn restart_broker(&self, number: u32) {
        let number = number.to_string();
        let arguments = ["restart-broker", &place(&self.folder), &number];
        servers(&arguments, None);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        servers(&["stop", &place(&self.folder)], None);
    }
}

/// A folder as an argument.
pub(crate) fn place(folder: &Folder) -> String {
    folder.path().to_string_lossy().into_owned()
}

fn servers(arguments: &[&str], variable: Option<(&str, &str)>) -> String {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers");
    let output = Command::new(script)
        .args(arguments)
        .envs(variable)
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}: `scripts/test` installs the servers that tests need",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs one of Kafka's tools, from where its jars are.
pub(crate) fn kafka_tool(jars: &str, brokers: &str, class: &str, arguments: &[&str]) -> String {
    let run = Command::new("java")
        .args(["-cp", &format!("{jars}/*")])
        .arg(format!("org.apache.kafka.tools.{class}"))
        .args(["--bootstrap-server", brokers])
        .args(arguments)
        .output()
        .expect("java runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{class}: {said}");
    String::from_utf8(run.stdout).expect("text")
}

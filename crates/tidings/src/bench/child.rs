//! The servers: processes of this same executable, killed when they are dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kafka::OnKafka;

/// What a server's first line begins with; its address follows.
pub(super) const LISTENS: &str = "Tidings listens on ";
/// A start takes less.
const PATIENCE: Duration = Duration::from_secs(30);
/// The unit of /proc/PID/stat is 1/100 s for every Linux program, whatever the kernel's own.
const TICK_MICROS: u64 = 10_000;

/// A running server.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    pub(super) address: SocketAddr,
}

/// Memory of a process.
pub(super) struct Memory {
    /// All that is resident.
    pub(super) resident_bytes: u64,
    /// What of it is not pages of files, such as the program's, which the system keeps as long as it has room.
    pub(super) own_bytes: u64,
}

impl Child {
    /// A gateway of its own in this folder.
    pub(super) async fn gateway(
        data: &Path,
        manifests: &Path,
        kafka: Option<&OnKafka>,
    ) -> Result<Self> {
        let mut command = serve(data, manifests, "127.0.0.1:0")?;
        if let Some(kafka) = kafka {
            kafka.direct(&mut command);
        }
        Self::start(command)
            .await
            .context("the gateway did not start")
    }

    /// The same on a given address, not waited for.
    pub(super) fn gateway_at(data: &Path, manifests: &Path, address: SocketAddr) -> Result<Self> {
        let mut command = serve(data, manifests, &address.to_string())?;
        command.stdout(Stdio::null());
        let process = command.spawn()?;
        Ok(Self { process, address })
    }

    /// A gateway that may send to loopback.
    pub(super) async fn delivering_gateway(data: &Path, manifests: &Path) -> Result<Self> {
        let mut command = serve(data, manifests, "127.0.0.1:0")?;
        command.args(["--allow-target", "127.0.0.1"]);
        Self::start(command)
            .await
            .context("the gateway did not start")
    }

    /// The receiver of deliveries.
    pub(super) async fn receiver() -> Result<Self> {
        let mut command = isolated()?;
        command.args(["bench", "receiver"]);
        Self::start(command)
            .await
            .context("the receiver did not start")
    }

    /// The bare handler.
    pub(super) async fn baseline(kafka: Option<&OnKafka>) -> Result<Self> {
        let mut command = isolated()?;
        command.args(["bench", "baseline"]);
        if let Some(kafka) = kafka {
            command.arg("--kafka-brokers").arg(kafka.brokers());
        }
        Self::start(command)
            .await
            .context("the baseline did not start")
    }

    async fn start(mut command: Command) -> Result<Self> {
        command.stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let output = process.stdout.take();
        // From here on it is killed whatever happens.
        let mut child = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let output = output.context("it has no standard output")?;
        let reading = tokio::task::spawn_blocking(move || listens(BufReader::new(output)));
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(address) => child.address = address??,
            Err(_) => bail!("it did not listen within {} s", PATIENCE.as_secs()),
        }
        Ok(child)
    }

    /// Processor time used so far, user and system.
    pub(super) fn cpu_micros(&self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.process.id());
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{path}: the server has ended"))?;
        ticks(&text)
            .map(|ticks| ticks * TICK_MICROS)
            .with_context(|| format!("{path} cannot be read"))
    }

    /// How much memory it has now.
    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes =
                line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            let bytes = kilobytes.map(|kilobytes| kilobytes * 1024);
            bytes.with_context(|| format!("{path} cannot be read"))
        };
        Ok(Memory {
            resident_bytes: bytes("VmRSS:")?,
            own_bytes: bytes("RssAnon:")?,
        })
    }

    /// An error when it has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.process.try_wait()? {
            bail!("a server ended by itself: {status}");
        }
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    pub(super) fn terminate(mut self) -> Result<()> {
        let id = self.process.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status()?;
        let status = self.process.wait()?;
        if asked.success() && status.success() {
            return Ok(());
        }
        bail!("a server did not stop as asked: {status}");
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<()> {
        self.must_run()
    }
}

/// Processor time that this process has used so far.
pub(super) fn own_cpu_micros() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let ticks = ticks(&text).context("/proc/self/stat cannot be read")?;
    Ok(ticks * TICK_MICROS)
}

fn serve(data: &Path, manifests: &Path, listen: &str) -> Result<Command> {
    let mut command = isolated()?;
    command.args(["serve", "--no-demo", "--listen", listen, "--data"]);
    command.arg(data).arg("--manifests").arg(manifests);
    Ok(command)
}

/// This executable. The caller's own configuration would make figures that nobody can compare.
fn isolated() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env_clear().env("TIDINGS_LOG__LEVEL", "warn");
    command.stdin(Stdio::null());
    Ok(command)
}

impl Drop for Child {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn listens(mut output: impl BufRead + Send + 'static) -> Result<SocketAddr> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    let address = line
        .trim()
        .strip_prefix(LISTENS)
        .and_then(|url| url.strip_prefix("http://"));
    let address = address.and_then(|address| address.parse().ok());
    // The rest is read, so that the server never waits for room in the pipe.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    address.with_context(|| format!("it said {line:?} instead of its address"))
}

/// utime and stime, the 14th and 15th field; the 2nd, a name in parentheses, may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_whatever_the_process_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 21 4 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(25));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn the_address_stands_in_the_first_line() {
        let said = &b"Tidings listens on http://127.0.0.1:7\nmore\n"[..];
        assert_eq!(
            listens(said).unwrap(),
            SocketAddr::from(([127, 0, 0, 1], 7))
        );
        assert!(listens(&b"no\n"[..]).is_err());
    }
}

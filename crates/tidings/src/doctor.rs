//! `tidings doctor`: looks at a data folder, says what is wrong with it, and repairs nothing.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tidings_bus::embedded::{self, VerifyError};
use tidings_gateway::access::{LocalKey, LocalKeyError};
use tidings_gateway::damaged::unread_documents;
use tidings_gateway::secrets::Vault;
use tidings_plugin::PlatformEventHandler as _;
use tidings_receipts::{InValkey, Receipts as _, Terms};
use tidings_store::{Store, StoreError};

use crate::bus::BusKind;
use crate::components;
use crate::config;
use crate::connection::block_on;
use crate::data_folder::{BUS, KEY, Lock, SECRETS, STORE, STORE_LOCK, databases, try_lock};
use crate::failure::{Reported, in_full};
use crate::output::{Format, Output, plain, print_line};

/// The part that components are.
const COMPONENTS: &str = "components";
/// A port of this machine answers at once or not at all.
const PATIENCE: Duration = Duration::from_millis(500);

/// Reads the whole log and the store, and looks at permissions and at what uses the folder. Repairs nothing.
/// The exit code is 1 if anything is damaged or gone. What is read while a gateway runs cannot be judged as
/// completely as when it is stopped.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data folder; the configuration's if not given
    #[arg(long)]
    data: Option<PathBuf>,
    /// The address to find something listening on; the configuration's if not given
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The configuration file that the gateway is started with, to find its store and idempotency keys
    #[arg(long, env = "TIDINGS_CONFIG")]
    config: Option<PathBuf>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Worth knowing, no damage.
    Note,
    /// A server that the configuration names does not answer.
    Gone,
    /// It cannot be looked at from here: whether it is sound is not known.
    Unread,
    Damaged,
}

impl Verdict {
    fn is_bad(self) -> bool {
        matches!(self, Self::Gone | Self::Unread | Self::Damaged)
    }
}

#[derive(Debug)]
struct Finding {
    verdict: Verdict,
    part: &'static str,
    detail: String,
}

impl Finding {
    fn new(verdict: Verdict, part: &'static str, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            part,
            detail: detail.into(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let config = config::beside(arguments.config.as_deref(), arguments.data.as_deref())?;
    let folder = &config.data;
    if !folder.is_dir() {
        bail!(
            "there is no data folder {}; name it with --data",
            folder.display()
        );
    }
    let listen = arguments.listen.unwrap_or(config.server.listen);
    let mut findings = Vec::new();
    // A gateway has all of them open or none; without any, nothing of the folder is open for long.
    if let Some(database) = databases(&config).first() {
        findings.push(in_use(folder, database.lock));
    }
    findings.push(listening(listen));
    permissions(folder, &mut findings);
    match config.bus.kind {
        BusKind::Embedded => log(folder, &mut findings),
        BusKind::Kafka => findings.push(Finding::new(
            Verdict::Note,
            "log",
            "it is on Kafka, whose own tools look after it; /readyz of a gateway says whether it answers",
        )),
        BusKind::Disabled => {
            findings.push(Finding::new(Verdict::Note, "log", "the bus is disabled"));
        }
    }
    if config.store.url.is_empty() {
        store(folder, &mut findings);
    } else {
        findings.push(store_elsewhere(&config.store.url));
    }
    findings.extend(signing_key(folder));
    findings.push(key_of_secrets(folder));
    if !config.receipts.url.is_empty() {
        findings.push(receipts(&config.receipts.url));
    }
    if !config.extensions.components.is_empty() {
        components(Path::new(&config.extensions.components), &mut findings);
    }
    say(&findings, output)?;
    let bad = findings.iter().any(|finding| finding.verdict.is_bad());
    if bad { Err(Reported.into()) } else { Ok(()) }
}

fn say(findings: &[Finding], output: Output) -> Result<()> {
    for Finding {
        verdict,
        part,
        detail,
    } in findings
    {
        let word = match verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Gone => "GONE",
            Verdict::Unread => "UNREAD",
            Verdict::Damaged => "DAMAGED",
        };
        if output.format == Format::Table {
            let mark = output.verdict(!verdict.is_bad(), &format!("{word:<8}"));
            print_line(&format!("{mark} {part:<12} {}", plain(detail)))?;
        } else {
            output
                .one(&json!({ "verdict": word.to_lowercase(), "part": part, "detail": detail }))?;
        }
    }
    Ok(())
}

fn in_use(folder: &Path, lock: &str) -> Finding {
    let note = |detail: String| Finding::new(Verdict::Note, "lock", detail);
    match try_lock(folder, lock) {
        Ok(Lock::Free(_)) => Finding::new(Verdict::Good, "lock", "no process has the folder open"),
        Ok(Lock::Taken) => note(
            "a process has the folder open; stop it for a complete judgement of the last writes"
                .into(),
        ),
        Ok(Lock::Absent) => note(format!(
            "{lock} is not there: no gateway has run on this folder since it was copied"
        )),
        Err(error) => note(in_full(&error)),
    }
}

fn listening(address: SocketAddr) -> Finding {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => Finding::new(
            Verdict::Note,
            "address",
            format!("something listens on {address}"),
        ),
        Err(_) => Finding::new(
            Verdict::Good,
            "address",
            format!("nothing listens on {address}"),
        ),
    }
}

fn permissions(folder: &Path, findings: &mut Vec<Finding>) {
    // Whoever may write the folder may replace the log; whoever may read the key may be anybody.
    let checks = [
        (
            folder.to_owned(),
            0o022,
            "may be written by others; chmod go-w",
        ),
        (
            folder.to_owned(),
            0o005,
            "with all events may be looked into by everybody; chmod o-rwx",
        ),
        (
            folder.join(BUS),
            0o022,
            "may be written by others; chmod go-w",
        ),
        (
            folder.join(STORE),
            0o022,
            "may be written by others; chmod go-w",
        ),
        (
            folder.join(KEY),
            0o077,
            "is not only for its owner; chmod 600",
        ),
        (
            folder.join(SECRETS),
            0o077,
            "is not only for its owner; chmod 600",
        ),
    ];
    let before = findings.len();
    for (path, forbidden, advice) in checks {
        match fs::metadata(&path) {
            Ok(file) if file.permissions().mode() & forbidden != 0 => {
                let detail = format!("{} {advice} it", path.display());
                findings.push(Finding::new(Verdict::Note, "permissions", detail));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let detail = format!("{} cannot be looked at: {error}", path.display());
                findings.push(Finding::new(Verdict::Note, "permissions", detail));
            }
            _ => {}
        }
    }
    if findings.len() == before {
        findings.push(Finding::new(
            Verdict::Good,
            "permissions",
            "only the owner may write",
        ));
    }
}

/// What is to be said of a file that whoever asks here may not read. Nothing else is known of one then.
fn not_allowed(part: &'static str, file: &Path) -> Option<Finding> {
    let error = fs::File::open(file).err()?;
    let detail = format!(
        "{} may not be read by this user; look as the user that the gateway runs as",
        file.display()
    );
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    denied.then(|| Finding::new(Verdict::Unread, part, detail))
}

/// The same of a database and what stands beside it.
fn database_not_allowed(folder: &Path, name: &'static str) -> Option<Finding> {
    let wal = || not_allowed(name, &folder.join(format!("{name}-wal")));
    not_allowed(name, &folder.join(name)).or_else(wal)
}

fn log(folder: &Path, findings: &mut Vec<Finding>) {
    if let Some(finding) = database_not_allowed(folder, BUS) {
        return findings.push(finding);
    }
    match embedded::verify(folder) {
        Ok(report) if report.findings.is_empty() => {
            let detail = format!(
                "{} events and {} keys are sound",
                report.events, report.keys
            );
            findings.push(Finding::new(Verdict::Good, BUS, detail));
        }
        Ok(report) => {
            let damaged = |detail| Finding::new(Verdict::Damaged, BUS, detail);
            findings.extend(report.findings.into_iter().map(damaged));
            let advice = "restore a backup: start the gateway with --data on a copy of it";
            findings.push(Finding::new(Verdict::Note, "next", advice));
        }
        Err(error @ VerifyError::Missing(_)) => {
            findings.push(Finding::new(Verdict::Damaged, BUS, error.to_string()));
        }
        Err(error @ VerifyError::Unread(_)) => {
            findings.push(Finding::new(Verdict::Unread, BUS, error.to_string()));
        }
    }
}

fn store(folder: &Path, findings: &mut Vec<Finding>) {
    if let Some(finding) = database_not_allowed(folder, STORE) {
        return findings.push(finding);
    }
    let path = folder.join(STORE);
    if !path.is_file() {
        findings.push(Finding::new(
            Verdict::Damaged,
            STORE,
            format!("{} is not there", path.display()),
        ));
        return;
    }
    // A WAL that is being written looks torn; only one that nobody writes can be judged.
    let wal = match in_use(folder, STORE_LOCK).verdict {
        Verdict::Good => embedded::check_wal(&path),
        _ => Ok(()),
    };
    let lines = match wal {
        // Looking further would let SQLite forget what the WAL still holds.
        Err(error) => vec![error.to_string()],
        Ok(()) => match block_on(looked_into(&path)) {
            Ok(lines) => lines,
            Err(error) if is_unshared(&error) => {
                let detail = in_full(&error);
                return findings.push(Finding::new(Verdict::Unread, STORE, detail));
            }
            Err(error) => vec![in_full(&error)],
        },
    };
    if lines.is_empty() {
        findings.push(Finding::new(
            Verdict::Good,
            STORE,
            "its pages, indexes and rows are sound",
        ));
    }
    findings.extend(
        lines
            .into_iter()
            .map(|line| Finding::new(Verdict::Damaged, STORE, line)),
    );
}

fn is_unshared(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Unshared(_)))
}

/// What is wrong with a store's rows, or with the documents in it if all rows are sound.
async fn looked_into(path: &Path) -> Result<Vec<String>> {
    let damaged = Store::verify(path).await?;
    if !damaged.is_empty() {
        return Ok(damaged);
    }
    let Some(store) = Store::open_to_read(path).await? else {
        return Ok(damaged);
    };
    let unread = unread_documents(&store).await?;
    store.close().await;
    Ok(unread)
}

/// The local key, where there is one: a folder with a configured issuer has none.
fn signing_key(folder: &Path) -> Option<Finding> {
    if let Some(finding) = not_allowed(KEY, &folder.join(KEY)) {
        return Some(finding);
    }
    match LocalKey::load(folder) {
        Ok(_) => Some(Finding::new(Verdict::Good, KEY, "it is sound")),
        Err(LocalKeyError::Absent(_)) => None,
        Err(error) => Some(Finding::new(Verdict::Damaged, KEY, error.to_string())),
    }
}

/// The key of secrets, where there is one: the configuration may have it instead.
fn key_of_secrets(folder: &Path) -> Finding {
    let file = folder.join(SECRETS);
    if let Some(finding) = not_allowed(SECRETS, &file) {
        return finding;
    }
    match fs::read_to_string(file) {
        Ok(text) if Vault::from_key(text.trim()).is_some() => {
            Finding::new(Verdict::Good, SECRETS, "it is sound")
        }
        Ok(_) => Finding::new(Verdict::Damaged, SECRETS, "it is not 32 bytes in base64"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::new(
            Verdict::Note,
            SECRETS,
            "it is not there: the gateway needs secrets.key of its configuration",
        ),
        Err(error) => Finding::new(Verdict::Damaged, SECRETS, error.to_string()),
    }
}

/// Compiles each component of the folder as the gateway does.
fn components(folder: &Path, findings: &mut Vec<Finding>) {
    let examined = match components::examined(folder) {
        Ok(examined) => examined,
        Err(error) => {
            let finding = Finding::new(Verdict::Damaged, COMPONENTS, in_full(&error));
            return findings.push(finding);
        }
    };
    findings.extend(examined.into_iter().map(|(file, component)| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match component {
            Ok(component) => {
                let count = component.handlers().len();
                let detail = format!("{name} handles {count} event keys");
                Finding::new(Verdict::Good, COMPONENTS, detail)
            }
            Err(error) => Finding::new(
                Verdict::Damaged,
                COMPONENTS,
                format!("{name}: {}", in_full(&error)),
            ),
        }
    }));
}

fn store_elsewhere(url: &str) -> Finding {
    let reached = block_on(async { Ok(Store::reach(url).await?) });
    answers("store", url, reached)
}

fn receipts(url: &str) -> Finding {
    let reached = block_on(async {
        let receipts = InValkey::new(url, Terms::default())?;
        receipts.health().await?;
        // Who may use it need not be allowed to ask it about its memory.
        Ok(receipts.evicting().await.ok().flatten())
    });
    if let Ok(Some(policy)) = &reached {
        let url = config::without_credentials(url);
        let detail = format!(
            "{url} answers, but forgets keys when its memory is full ({policy}): set maxmemory-policy to noeviction"
        );
        return Finding::new(Verdict::Note, "receipts", detail);
    }
    answers("receipts", url, reached.map(drop))
}

fn answers(part: &'static str, url: &str, reached: Result<()>) -> Finding {
    let url = config::without_credentials(url);
    match reached {
        Ok(()) => Finding::new(Verdict::Good, part, format!("{url} answers")),
        Err(error) => Finding::new(Verdict::Gone, part, format!("{url}: {}", in_full(&error))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_bus::embedded::{Config, Embedded};

    use super::*;
    use crate::data_folder::BUS_LOCK;

    fn worst(folder: &Path) -> Vec<(Verdict, &'static str)> {
        let mut findings = vec![in_use(folder, BUS_LOCK)];
        permissions(folder, &mut findings);
        log(folder, &mut findings);
        store(folder, &mut findings);
        findings.extend(signing_key(folder));
        let bad = findings
            .iter()
            .filter(|finding| finding.verdict != Verdict::Good);
        bad.map(|finding| (finding.verdict, finding.part)).collect()
    }

    #[test]
    fn a_folder_is_sound_in_use_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        let bus = Embedded::open(Config::new(path, Arc::new(|| 1))).unwrap();
        block_on(async {
            Store::open(path.join(STORE)).await?.close().await;
            Ok(())
        })
        .unwrap();
        fs::set_permissions(path.join(STORE), fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(path.join(BUS), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(worst(path), [(Verdict::Note, "lock")]);
        drop(bus);
        assert_eq!(worst(path), []);

        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(worst(path), [(Verdict::Note, "permissions")]);
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();

        fs::write(path.join(KEY), "x").unwrap();
        fs::set_permissions(path.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            worst(path),
            [(Verdict::Note, "permissions"), (Verdict::Damaged, KEY)]
        );
        fs::remove_file(path.join(KEY)).unwrap();

        let mut bytes = fs::read(path.join(STORE)).unwrap();
        let at = bytes.len() - 4096;
        bytes[at] ^= 0x7f;
        fs::write(path.join(STORE), bytes).unwrap();
        assert_eq!(worst(path), [(Verdict::Damaged, STORE)]);
    }

    #[test]
    fn servers_that_do_not_answer_are_gone_and_their_passwords_stay_hidden() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Takes connections and hangs up, in the middle of the handshake of TLS.
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let findings = [
            store_elsewhere(&format!("postgres://me:s3cret@{address}/tidings")),
            receipts(&format!("redis://:s3cret@{address}")),
            receipts(&format!("rediss://:s3cret@{address}")),
        ];
        for finding in findings {
            assert_eq!(finding.verdict, Verdict::Gone, "{finding:?}");
            let shown = finding.detail.contains(&address.to_string());
            assert!(shown && !finding.detail.contains("s3cret"), "{finding:?}");
        }
    }

    #[test]
    fn what_is_no_data_folder_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let found = worst(folder.path());
        assert!(found.contains(&(Verdict::Damaged, BUS)), "{found:?}");
        let absent = Arguments {
            data: Some(folder.path().join("absent")),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            config: None,
        };
        let error = run(&absent, Output::new(Some(Format::Json))).unwrap_err();
        assert!(error.to_string().contains("--data"), "{error}");
    }
}

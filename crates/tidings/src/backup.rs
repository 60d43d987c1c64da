//! `tidings backup`: a copy of a data folder, also while a gateway runs on it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tidings_bus::embedded;
use tidings_store::Store;

use crate::config;
use crate::connection::block_on;
use crate::data_folder::{self, BUS, Database, KEY, Lock, SECRETS, STORE, databases, try_lock};
use crate::output::Output;

/// Copies the store, the log and the keys, each as it stands at one moment, while the gateway runs or not. The
/// store is copied first: what it has still to do with the log it does again, and it never waits for what the
/// log does not hold. Events on Kafka are not copied. To restore, stop the gateway and start it with --data on the copy.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data folder; the configuration's if not given
    #[arg(long)]
    data: Option<PathBuf>,
    /// The folder to copy to; made if it is not there, and must hold no copy yet
    #[arg(long)]
    to: PathBuf,
    /// The configuration file that the gateway is started with
    #[arg(long, env = "TIDINGS_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let config = config::beside(arguments.config.as_deref(), arguments.data.as_deref())?;
    let (from, to) = (&config.data, &arguments.to);
    if !config.store.url.is_empty() {
        bail!(
            "the store is on PostgreSQL ({}), whose backups are its operator's own: use pg_dump or what your \
             provider has. A copy of the log without its store would be half of one",
            config::without_credentials(&config.store.url)
        );
    }
    if !from.is_dir() {
        bail!(
            "there is no data folder {}; name it with --data",
            from.display()
        );
    }
    let databases = databases(&config);
    is_complete(from, &databases)?;
    // The copy holds the key and everybody's events.
    data_folder::make(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for name in [BUS, STORE, KEY, SECRETS] {
        if to.join(name).exists() {
            bail!(
                "{} is there already; choose an empty folder",
                to.join(name).display()
            );
        }
    }
    let _alone = whole_if_unused(from, &databases)?;
    if from.join(STORE).is_file() {
        block_on(async { Ok(Store::copy(&from.join(STORE), &to.join(STORE)).await?) })?;
    }
    if databases.iter().any(|it| it.file == BUS) {
        embedded::backup(from, to).with_context(|| format!("{BUS} could not be copied"))?;
    }
    for name in [KEY, SECRETS] {
        match fs::read(from.join(name)) {
            Ok(key) => write_key(&to.join(name), &key)
                .with_context(|| format!("{name} could not be copied"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("{name} cannot be read")),
        }
    }
    for database in &databases {
        let copied = to.join(database.file);
        if copied.is_file() {
            let private = fs::set_permissions(&copied, Permissions::from_mode(0o600));
            private.with_context(|| format!("{} cannot be made private", copied.display()))?;
        }
    }
    File::open(to).and_then(|folder| folder.sync_all())?;
    let copied: Vec<Value> = [BUS, STORE, KEY, SECRETS]
        .iter()
        .filter_map(|name| {
            let file = fs::metadata(to.join(name)).ok()?;
            Some(json!({ "file": name, "bytes": file.len() }))
        })
        .collect();
    output.list(&copied, &[("FILE", "file"), ("BYTES", "bytes")])
}

/// Where no gateway runs, none starts meanwhile, and what waits in the WALs is whole: SQLite would drop what follows a
/// damaged frame without a word. A WAL that is being written looks torn, and cannot be judged.
fn whole_if_unused(folder: &Path, databases: &[Database]) -> Result<Vec<File>> {
    let mut held = Vec::new();
    for Database { file, lock } in databases {
        match try_lock(folder, lock)? {
            Lock::Free(alone) => held.push(alone),
            Lock::Taken => continue,
            Lock::Absent => {}
        }
        embedded::check_wal(&folder.join(file))?;
    }
    Ok(held)
}

/// Refuses a folder that has not what a gateway keeps there from its first start on. A store follows a log a moment later.
fn is_complete(folder: &Path, databases: &[Database]) -> Result<()> {
    for Database { file, .. } in databases {
        let path = folder.join(file);
        let Err(error) = File::open(&path) else {
            continue;
        };
        let gone = error.kind() == io::ErrorKind::NotFound;
        if !gone {
            return Err(error).with_context(|| format!("{} cannot be read", path.display()));
        }
        if *file == BUS && folder.join(STORE).is_file() {
            // Only the configuration says that a folder has no log.
            bail!(
                "{} is no data folder: it has no {BUS}; if its events are elsewhere, name the gateway's configuration with --config",
                folder.display()
            );
        }
        if databases.first().is_some_and(|first| first.file == *file) {
            bail!("{} is no data folder: it has no {file}", folder.display());
        }
    }
    Ok(())
}

fn write_key(path: &Path, key: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(key)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_bus::embedded::{Config, Embedded, verify};

    use super::*;
    use crate::output::Format;

    #[test]
    fn a_store_elsewhere_is_its_operators_to_back_up() {
        let folder = tempfile::tempdir().unwrap();
        let (data, file) = (
            folder.path().join("data"),
            folder.path().join("tidings.toml"),
        );
        drop(Embedded::open(Config::new(&data, Arc::new(|| 1))).unwrap());
        fs::write(&file, "store.url = 'postgres://me:s3cret@db/tidings'").unwrap();
        let arguments = Arguments {
            data: Some(data),
            to: folder.path().join("copy"),
            config: Some(file),
        };
        let refused = run(&arguments, Output::new(Some(Format::Json))).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("pg_dump") && !text.contains("s3cret"),
            "{text}"
        );
        assert!(!arguments.to.exists());
    }

    #[test]
    fn a_folder_in_use_is_copied_once_and_its_keys_stay_private() {
        let folder = tempfile::tempdir().unwrap();
        let (data, to) = (folder.path().join("data"), folder.path().join("copy"));
        let in_use = Embedded::open(Config::new(&data, Arc::new(|| 1))).unwrap();
        block_on(async {
            Store::open(data.join(STORE)).await?.close().await;
            Ok(())
        })
        .unwrap();
        for name in [KEY, SECRETS] {
            fs::write(data.join(name), "secret").unwrap();
        }

        let arguments = Arguments {
            data: Some(data),
            to: to.clone(),
            config: None,
        };
        run(&arguments, Output::new(Some(Format::Json))).unwrap();
        drop(in_use);
        assert!(verify(&to).unwrap().findings.is_empty());
        for name in [BUS, STORE, KEY, SECRETS] {
            let mode = fs::metadata(to.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let again = run(&arguments, Output::new(Some(Format::Json))).unwrap_err();
        assert!(
            again.to_string().contains("choose an empty folder"),
            "{again}"
        );
    }
}

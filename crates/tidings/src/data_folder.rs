//! A data folder: what its files are called, and whether a process has them open.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use tidings_gateway::access::LOCAL_KEY_FILE_NAME;

use crate::bus::BusKind;
use crate::config::Config;

/// The log's file.
pub(crate) const BUS: &str = "bus.db";
/// The store's file.
pub(crate) const STORE: &str = "store.db";
/// Locked while a process has the log open.
pub(crate) const BUS_LOCK: &str = "bus.lock";
/// Locked while a process has the store open.
pub(crate) const STORE_LOCK: &str = "store.lock";
/// A database of a data folder.
#[derive(Debug)]
pub(crate) struct Database {
    /// Its file.
    pub(crate) file: &'static str,
    /// Locked while a process has it open.
    pub(crate) lock: &'static str,
}

/// The databases that a gateway of this configuration has in its folder, its log first; what is on Kafka or PostgreSQL is not
/// there, and a gateway whose bus is disabled has no log.
pub(crate) fn databases(config: &Config) -> Vec<Database> {
    let log = (config.bus.kind == BusKind::Embedded).then_some(Database {
        file: BUS,
        lock: BUS_LOCK,
    });
    let store = config.store.url.is_empty().then_some(Database {
        file: STORE,
        lock: STORE_LOCK,
    });
    log.into_iter().chain(store).collect()
}

/// The signing key's file.
pub(crate) const KEY: &str = LOCAL_KEY_FILE_NAME;
/// The file of the key that secrets in the store are encrypted with.
pub(crate) const SECRETS: &str = "secrets.key";

/// Makes a folder that its owner alone looks into; one that is there stays as it is.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes an empty file for its owner alone, unless one is there: a database that is then opened keeps its mode, and what
/// SQLite puts beside it has the same.
pub(crate) fn keep_private(file: &Path) -> Result<()> {
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o600).open(file);
    opened.with_context(|| format!("{} cannot be made", file.display()))?;
    Ok(())
}

/// Whether a process has something of a folder open.
#[derive(Debug)]
pub(crate) enum Lock {
    /// None has, and none opens it until this is dropped.
    Free(File),
    /// One has.
    Taken,
    /// There is no such lock: nothing has run on the folder since it was copied.
    Absent,
}

/// Takes a lock of the folder if nobody has it. The file of one that is not there is not made, since it might then belong to
/// another user than the gateway's.
pub(crate) fn try_lock(folder: &Path, lock: &str) -> Result<Lock> {
    let path = folder.join(lock);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be read", path.display()));
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock::Free(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Taken),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be tried", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_made_is_its_owners_alone_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        make(&data).unwrap();
        keep_private(&data.join(STORE)).unwrap();
        assert_eq!((mode(&data), mode(&data.join(STORE))), (0o700, 0o600));
        std::fs::set_permissions(&data, Permissions::from_mode(0o750)).unwrap();
        std::fs::write(data.join(STORE), "kept").unwrap();
        make(&data).unwrap();
        keep_private(&data.join(STORE)).unwrap();
        assert_eq!(mode(&data), 0o750);
        assert_eq!(std::fs::read(data.join(STORE)).unwrap(), b"kept");
    }

    #[test]
    fn a_lock_is_absent_free_or_taken() {
        let folder = tempfile::tempdir().unwrap();
        let look = || try_lock(folder.path(), BUS_LOCK).unwrap();
        assert!(matches!(look(), Lock::Absent));
        assert!(!folder.path().join(BUS_LOCK).exists(), "it is not made");
        File::create(folder.path().join(BUS_LOCK)).unwrap();
        let held = look();
        assert!(matches!(held, Lock::Free(_)));
        assert!(matches!(look(), Lock::Taken));
        drop(held);
        assert!(matches!(look(), Lock::Free(_)));
    }
}

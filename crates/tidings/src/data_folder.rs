//! A data folder: what its files are called, and whether a process has them open.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use tidings_gateway::access::LOCAL_KEY_FILE_NAME;

/// The log's file.
pub(crate) const BUS: &str = "bus.db";
/// The store's file.
pub(crate) const STORE: &str = "store.db";
/// Locked while a process has the log open.
pub(crate) const BUS_LOCK: &str = "bus.lock";
/// Locked while a process has the store open.
pub(crate) const STORE_LOCK: &str = "store.lock";
/// The signing key's file.
pub(crate) const KEY: &str = LOCAL_KEY_FILE_NAME;
/// The file of the key that secrets in the store are encrypted with.
pub(crate) const SECRETS: &str = "secrets.key";

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
    use super::*;

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

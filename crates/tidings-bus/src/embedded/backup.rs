//! A copy of the log at one moment, made while it is in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::schema::{FILE, open_to_look};

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is a log already.
    #[error("{} is there already; choose an empty folder", .0.display())]
    Exists(PathBuf),
    /// The target cannot be written.
    #[error("{} cannot be written", path.display())]
    Target {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Copying failed.
    #[error("the copy failed: {0}")]
    Copy(String),
}

/// Copies `bus.db` of one folder to another, while a gateway uses it or not.
///
/// The name appears only when the copy is whole and synced.
pub fn backup(source: &Path, target: &Path) -> Result<(), BackupError> {
    let fail = |source| BackupError::Target {
        path: target.to_owned(),
        source,
    };
    fs::create_dir_all(target).map_err(fail)?;
    let (whole, partial) = (target.join(FILE), target.join("bus.db.partial"));
    if whole.exists() {
        return Err(BackupError::Exists(whole));
    }
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    copy(source, &partial)?;
    File::open(&partial)
        .and_then(|file| file.sync_all())
        .map_err(fail)?;
    fs::rename(&partial, &whole).map_err(fail)?;
    File::open(target)
        .and_then(|folder| folder.sync_all())
        .map_err(fail)
}

/// In one step, that is one read transaction: in several, each commit between them would start it
/// anew.
fn copy(source: &Path, partial: &Path) -> Result<(), BackupError> {
    let fail = |error: rusqlite::Error| BackupError::Copy(error.to_string());
    let from = open_to_look(source).map_err(|fault| BackupError::Copy(fault.to_string()))?;
    let mut to = Connection::open(partial).map_err(fail)?;
    let backup = Backup::new(&from, &mut to).map_err(fail)?;
    match backup.step(-1).map_err(fail)? {
        StepResult::Done => Ok(()),
        other => Err(BackupError::Copy(format!("it stopped half-way: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::embedded::{Config, Embedded, VerifyError, verify};

    #[test]
    fn a_log_is_read_where_nothing_can_be_made_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        drop(Embedded::open(Config::new(path("data"), Arc::new(|| 1))).unwrap());
        backup(&path("data"), &path("copy")).unwrap();
        // What readers share cannot be made where these stand.
        fs::remove_file(path("data/bus.db-shm")).unwrap();
        for data in ["data", "copy"] {
            let shared = path(data).join("bus.db-shm");
            std::os::unix::fs::symlink("nowhere", shared).unwrap();
        }
        assert!(verify(&path("copy")).unwrap().findings.is_empty());
        backup(&path("copy"), &path("second")).unwrap();
        assert!(verify(&path("second")).unwrap().findings.is_empty());

        assert!(verify(&path("data")).unwrap().findings.is_empty());
        // Now writes wait beside it.
        fs::write(path("data/bus.db-wal"), "frames").unwrap();
        let unread = verify(&path("data")).unwrap_err();
        assert!(matches!(unread, VerifyError::Unread(_)), "{unread}");
        assert!(unread.to_string().contains("copy the folder"), "{unread}");
        let refused = backup(&path("data"), &path("third")).unwrap_err();
        assert!(refused.to_string().contains("copy the folder"), "{refused}");
    }
}

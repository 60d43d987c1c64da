//! What is done about the files of a data folder before SQLite opens them.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{OpenError, wal};

/// Locks a file for this process, making it first. The system lets go of the lock when the process ends, however
/// it does.
pub fn lock(path: &Path) -> Result<File, TryLockError> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(TryLockError::Error)?;
    file.try_lock().map(|()| file)
}

/// Refuses the WAL beside an SQLite file when SQLite would silently drop acknowledged commits of
/// it. For any file whose writers sync each commit and never spill, while nobody has it open.
pub fn check_wal(file: &Path) -> Result<(), OpenError> {
    let mut path = file.as_os_str().to_owned();
    path.push("-wal");
    let path = PathBuf::from(path);
    let verdict = match File::open(&path) {
        Ok(wal) => wal::check(io::BufReader::with_capacity(1 << 20, wal)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    match verdict {
        // SQLite takes an empty file for a new one and deletes the WAL beside it. It writes the
        // file's header before it begins a WAL, so this is no interrupted first start.
        Ok(wal::Verdict::Sound { frames: 1.. }) if is_empty(file) => {
            Err(OpenError::Corrupt(format!(
                "{} is empty or gone, but the WAL beside it holds commits",
                file.display()
            )))
        }
        Ok(wal::Verdict::Sound { .. }) => Ok(()),
        Ok(wal::Verdict::Damaged { frame }) => Err(OpenError::DamagedWal { path, frame }),
        Err(source) => Err(OpenError::Folder { path, source }),
    }
}

/// Whether SQLite would take this for a new file: it counts a single byte as none.
pub(super) fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).map_or(!file.exists(), |metadata| metadata.len() <= 1)
}

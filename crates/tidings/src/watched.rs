//! A folder that is read again when something in it has changed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Editors write a file in several steps: changes are read when none came for so long.
const SETTLED: Duration = Duration::from_millis(200);
/// After so long they are read all the same.
const AT_LATEST: Duration = Duration::from_secs(5);

/// A folder's watcher, and the task that reads the folder until the watcher is dropped.
pub(crate) type Watching = (RecommendedWatcher, JoinHandle<()>);

/// Says that something has changed.
pub(crate) struct Changes(mpsc::Receiver<()>);

/// Watches a folder and what is in it, until the watcher is dropped.
pub(crate) fn watch(folder: &Path) -> Result<(RecommendedWatcher, Changes)> {
    let (notice, changes) = mpsc::channel::<()>(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        match event {
            Ok(event) if event.kind.is_access() => return,
            Ok(_) => {}
            // Whatever it has missed is read now.
            Err(error) => tracing::warn!(%error, "changes of a watched folder may be missed"),
        }
        // A full channel already says that something changed.
        let _ = notice.try_send(());
    })?;
    watcher.watch(folder, RecursiveMode::Recursive)?;
    Ok((watcher, Changes(changes)))
}

impl Changes {
    /// Ready when something has changed and nothing more does, or 5 seconds after the change; `None` when nobody watches any
    /// more.
    pub(crate) async fn next(&mut self) -> Option<()> {
        self.0.recv().await?;
        let at_latest = Instant::now() + AT_LATEST;
        loop {
            let settled = (Instant::now() + SETTLED).min(at_latest);
            match timeout_at(settled, self.0.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => return Some(()),
            }
        }
    }
}

/// What a file of such a folder holds, if that is at most so many bytes. Of what is no file nothing is read: a pipe would be
/// waited for, and a device has no end.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let told = std::fs::metadata(path).context("it cannot be read")?;
    if !told.is_file() {
        bail!("it is not a file");
    }
    let mut bytes = Vec::new();
    let opened = File::open(path).context("it cannot be read")?;
    let read = opened.take(most + 1).read_to_end(&mut bytes);
    if read.context("it cannot be read")? as u64 > most {
        bail!("it is larger than {most} bytes");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_are_read_once_they_settle_and_at_latest_after_a_while() {
        let (notice, changes) = mpsc::channel(1);
        let mut changes = Changes(changes);
        let began = Instant::now();
        notice.send(()).await.unwrap();
        assert_eq!(changes.next().await, Some(()));
        assert_eq!(began.elapsed(), SETTLED);

        let began = Instant::now();
        let restless = tokio::spawn(async move {
            while notice.send(()).await.is_ok() {
                tokio::time::sleep(SETTLED / 2).await;
            }
        });
        assert_eq!(changes.next().await, Some(()));
        assert_eq!(began.elapsed(), AT_LATEST);
        restless.abort();
        let _aborted = restless.await;
        while changes.next().await.is_some() {}
    }
}

//! A folder that is read again when something in it has changed.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Editors write a file in several steps: changes are read when none came for so long.
const SETTLED: Duration = Duration::from_millis(200);

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
    /// Ready when something has changed and nothing more does; `None` when nobody watches any more.
    pub(crate) async fn next(&mut self) -> Option<()> {
        self.0.recv().await?;
        while let Ok(Some(())) = tokio::time::timeout(SETTLED, self.0.recv()).await {}
        Some(())
    }
}

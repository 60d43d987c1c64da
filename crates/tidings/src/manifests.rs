//! The watched folder of module manifests: `*.manifest.json` or `<module>/module.manifest.json`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tidings_event::ModuleId;
use tidings_gateway::manifests::MAX_MANIFEST_BYTES;
use tidings_http::House;

use crate::failure::in_full;
use crate::watched::{self, Watching};

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// Loads every manifest of the folder. One that cannot be used is logged and the rest goes on.
async fn load(house: &House, folder: &Path) -> Result<()> {
    let mut read = HashMap::new();
    for path in found(folder)? {
        match install(house, &path, &mut read).await {
            Ok(true) => tracing::info!(file = %path.display(), "manifest loaded"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(file = %path.display(), error = in_full(&error), "manifest refused");
            }
        }
    }
    Ok(())
}

/// Puts a file's manifest in force, if no file before it is of the same module: two would take turns.
async fn install(
    house: &House,
    path: &Path,
    read: &mut HashMap<ModuleId, PathBuf>,
) -> Result<bool> {
    let text = watched::read(path, MAX_MANIFEST_BYTES as u64)?;
    let text = String::from_utf8(text).context("it is not UTF-8")?;
    let named: Named = serde_json::from_str(&text).context("it is not a manifest")?;
    let module: ModuleId = named.id.parse()?;
    if let Some(other) = read.get(&module) {
        bail!("{} is of module '{module}' too", other.display());
    }
    let changed = house.gateway().manifests.install(&module, &text).await?;
    // One that is refused keeps no other from its module.
    read.insert(module, path.to_owned());
    Ok(changed)
}

/// The files of a folder, in the order of their names.
pub(crate) fn found(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("the manifests folder {} cannot be read", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let inner = path.join("module.manifest.json");
        if inner.is_file() {
            files.push(inner);
        } else if path.to_string_lossy().ends_with(".manifest.json") {
            files.push(path);
        } else if path.extension().is_some_and(|it| it == "json") {
            tracing::warn!(file = %path.display(), "not read: a manifest's file is called <module>.manifest.json");
        }
    }
    files.sort();
    Ok(files)
}

/// Loads the folder, and again whenever something in it changes, until the returned watcher is dropped.
pub(crate) async fn follow(house: House, folder: PathBuf) -> Result<Watching> {
    // Watched first: what changes while it is loaded is a change.
    let (watcher, mut changes) = watched::watch(&folder)?;
    load(&house, &folder).await?;
    let task = tokio::spawn(async move {
        while changes.next().await.is_some() {
            if let Err(error) = load(&house, &folder).await {
                tracing::error!(
                    error = in_full(&error),
                    "the manifests folder could not be read again"
                );
            }
        }
    });
    Ok((watcher, task))
}

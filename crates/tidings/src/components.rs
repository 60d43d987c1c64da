//! The watched folder of components: `<extension>.wasm`, each a handler of events in a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tidings_event::ExtensionId;
use tidings_http::House;
use tidings_plugin::PlatformEventHandler;
use tidings_wasm::{Component, Limits, MAX_BYTES, Sandbox};
use tokio::task::spawn_blocking;

use crate::failure::in_full;
use crate::watched::{self, Watching};

/// The extension that is shipped with every binary.
const SHIPPED: &str = "chat";

type Handler = Arc<dyn PlatformEventHandler>;

/// What has become of a component: another handler, or none.
type Changed = (ExtensionId, Option<Handler>);

/// The folder, as it was last read.
pub(crate) struct Components {
    folder: PathBuf,
    sandbox: Arc<Sandbox>,
    /// The extensions that the binary itself has a plugin for.
    taken: BTreeSet<String>,
    /// By extension, of what its file held, whether that could be used or not.
    known: BTreeMap<ExtensionId, u64>,
}

/// The folder, and what to begin with.
pub(crate) async fn load(folder: &Path, plugins: &[Handler]) -> Result<(Components, Vec<Handler>)> {
    let own = plugins.iter().map(|plugin| plugin.extension());
    let mut components = Components {
        folder: folder.to_owned(),
        sandbox: Sandbox::new(Limits::default())?,
        taken: own.chain([SHIPPED]).map(str::to_owned).collect(),
        known: BTreeMap::new(),
    };
    let (components, changed) = spawn_blocking(move || {
        let changed = components.read();
        (components, changed)
    })
    .await?;
    let handlers = changed?.into_iter().filter_map(|(_, handler)| handler);
    Ok((components, handlers.collect()))
}

/// Puts in force what changes in the folder, until the returned watcher is dropped.
pub(crate) fn watch(house: House, mut components: Components) -> Result<Watching> {
    let (watcher, mut news) = watched::watch(&components.folder)?;
    let task = tokio::spawn(async move {
        // Once at the beginning, for what has changed since it was loaded.
        loop {
            let read = spawn_blocking(move || {
                let changed = components.read();
                (components, changed)
            });
            let changed;
            (components, changed) = match read.await {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "the components folder is not read any more");
                    return;
                }
            };
            match changed {
                Ok(changed) => changed.into_iter().for_each(|one| exchange(&house, one)),
                Err(error) => tracing::error!(
                    error = in_full(&error),
                    "the components folder could not be read again"
                ),
            }
            if news.next().await.is_none() {
                return;
            }
        }
    });
    Ok((watcher, task))
}

fn exchange(house: &House, (extension, handler): Changed) {
    let word = if handler.is_some() {
        "in force"
    } else {
        "gone"
    };
    match house.gateway().exchange_handler(&extension, handler) {
        Ok(()) => tracing::info!(extension = extension.as_str(), "a component is {word}"),
        Err(error) => {
            tracing::error!(extension = extension.as_str(), %error, "a component is not taken");
        }
    }
}

/// Each component of a folder that can be used, or why it cannot.
pub(crate) fn examined(folder: &Path) -> Result<Vec<(PathBuf, Result<Component>)>> {
    let sandbox = Sandbox::new(Limits::default())?;
    let files = found(folder)?.into_iter();
    Ok(files
        .map(|file| {
            let examined = extension(&file).and_then(|extension| {
                let bytes = watched::read(&file, MAX_BYTES)?;
                Ok(sandbox.compile(extension, &bytes)?)
            });
            (file, examined)
        })
        .collect())
}

impl Components {
    /// What has changed since it was last read. One that cannot be used is logged, and what was there before stays.
    fn read(&mut self) -> Result<Vec<Changed>> {
        let mut changed = Vec::new();
        let mut found_now = BTreeSet::new();
        for file in found(&self.folder)? {
            match self.changed(&file, &mut found_now) {
                Ok(Some(component)) => {
                    tracing::info!(file = %file.display(), "component compiled");
                    let extension = component.extension().parse()?;
                    changed.push((extension, Some(Arc::new(component) as Handler)));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(file = %file.display(), error = in_full(&error), "component refused");
                }
            }
        }
        let gone = self.known.keys().filter(|id| !found_now.contains(*id));
        changed.extend(gone.map(|id| (id.clone(), None)));
        self.known.retain(|id, _| found_now.contains(id));
        Ok(changed)
    }

    /// The component of a file that is not as it was.
    fn changed(
        &mut self,
        file: &Path,
        found_now: &mut BTreeSet<ExtensionId>,
    ) -> Result<Option<Component>> {
        let id = extension(file)?;
        if self.taken.contains(id.as_str()) {
            bail!("the binary has a plugin of the extension '{id}' itself; rename the file");
        }
        found_now.insert(id.clone());
        let bytes = watched::read(file, MAX_BYTES)?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        if self.known.insert(id.clone(), hash) == Some(hash) {
            return Ok(None);
        }
        Ok(Some(self.sandbox.compile(id, &bytes)?))
    }
}

fn extension(file: &Path) -> Result<ExtensionId> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse()
        .with_context(|| format!("'{stem}' names no extension"))
}

/// The files of a folder, in the order of their names.
pub(crate) fn found(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("the components folder {} cannot be read", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

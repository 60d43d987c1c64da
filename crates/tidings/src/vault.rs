//! What secrets are encrypted with: the configured key, or the data folder's own, which is made with its store.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tidings_gateway::secrets::Vault;

use crate::config::Config;
use crate::data_folder::{SECRETS, STORE};

/// With the key that is there; `None` where a first start makes one.
pub(crate) fn found(config: &Config) -> Result<Option<Vault>> {
    let (key, own_store) = (config.secrets.key.as_str(), config.store.url.is_empty());
    let file = config.data.join(SECRETS);
    let text = match key {
        "" if file.exists() => std::fs::read_to_string(&file)
            .with_context(|| format!("{} cannot be read", file.display()))?,
        "" if own_store && config.data.join(STORE).exists() => bail!(
            "{SECRETS} is not beside {STORE} in {}, and what stands there is encrypted with it: bring the file back \
             from where the folder came from, or set TIDINGS_SECRETS__KEY to the key that was configured",
            config.data.display()
        ),
        "" => return Ok(None),
        key => key.to_owned(),
    };
    of_key(&text).map(Some)
}

/// The same, making the data folder's key on a first start. Before the store is opened: that makes its file.
pub(crate) fn open(config: &Config) -> Result<Vault> {
    if let Some(vault) = found(config)? {
        return Ok(vault);
    }
    let made = Vault::new_key();
    write_private(&config.data.join(SECRETS), &made)?;
    if !config.store.url.is_empty() {
        tracing::warn!(
            "secrets.key was made for this data folder alone: other replicas cannot read the secrets of \
             subscriptions that this one writes; set TIDINGS_SECRETS__KEY to the same key for all"
        );
    }
    of_key(&made)
}

fn of_key(text: &str) -> Result<Vault> {
    let key = Vault::from_key(text.trim());
    key.with_context(|| format!("{SECRETS} is not 32 bytes in base64"))
}

/// Writes a file that nobody else can read, whole or not at all.
fn write_private(file: &Path, text: &str) -> Result<()> {
    let failed = || format!("{} cannot be written", file.display());
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    new.write_all(text.as_bytes()).with_context(failed)?;
    new.as_file().sync_all().with_context(failed)?;
    new.persist(file).with_context(failed)?;
    std::fs::File::open(folder)?.sync_all().with_context(failed)
}

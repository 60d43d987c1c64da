//! Which gateway a client command speaks to, and as whom.

use std::future::Future;

use anyhow::Result;
use tidings_client::{Client, Error, Page};

use crate::config::{self, Gateway, GatewayFlags};
use crate::failure::Usage;

/// The flags that every client command has.
#[derive(clap::Args)]
pub(crate) struct Connection {
    /// The gateway's address, if not that of TIDINGS_URL or the profile [default: http://127.0.0.1:8080]
    #[arg(long, help_heading = "Connection")]
    url: Option<String>,
    /// A token or an API key, if not that of TIDINGS_TOKEN or the profile; 'tidings token' makes a token
    #[arg(long, help_heading = "Connection")]
    token: Option<String>,
    /// Address and credential by this name in ~/.config/tidings/profiles.toml, or TIDINGS_PROFILE
    #[arg(long, help_heading = "Connection")]
    profile: Option<String>,
}

impl Connection {
    /// The client.
    pub(crate) fn client(&self) -> Result<Client> {
        let flags = GatewayFlags {
            url: self.url.clone(),
            token: self.token.clone(),
        };
        let Gateway { url, token } = config::gateway(self.profile.as_deref(), &flags)?;
        let token = token.as_deref().map(str::trim);
        let token = token.filter(|token| !token.is_empty()).ok_or_else(|| {
            Usage(
                "there is no credential: give --token or --profile, or set TIDINGS_TOKEN; 'tidings token \
                 --data DIR --tenant TENANT --module MODULE' makes one"
                    .to_owned(),
            )
        })?;
        Ok(Client::new(&url, token)?)
    }
}

/// So many items of a list are asked for at once where all are wanted: the most that a page holds.
pub(crate) const AT_ONCE: u32 = 1_000;

/// Every item of a list, whose pages are asked for one after the other.
pub(crate) async fn every_item<T>(
    mut ask: impl AsyncFnMut(Option<String>) -> Result<Page<T>, Error>,
) -> Result<Vec<T>> {
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let page = ask(cursor).await?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(items);
        }
    }
}

/// Runs a client command on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

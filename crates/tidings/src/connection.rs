//! Which gateway a client command speaks to, and as whom.

use std::future::Future;

use anyhow::Result;
use tidings_client::Client;

use crate::failure::Usage;

/// The flags that every client command has.
#[derive(clap::Args)]
pub(crate) struct Connection {
    /// The gateway's address
    #[arg(
        long,
        env = "TIDINGS_URL",
        default_value = "http://127.0.0.1:8080",
        help_heading = "Connection"
    )]
    url: String,
    /// A token or an API key; 'tidings token' makes a token
    #[arg(
        long,
        env = "TIDINGS_TOKEN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    token: Option<String>,
}

impl Connection {
    /// The client.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.url, self.credential()?)?)
    }

    fn credential(&self) -> Result<&str> {
        let token = self
            .token
            .as_deref()
            .map(str::trim)
            .filter(|token| !token.is_empty());
        let absent = || {
            Usage(
                "there is no credential: give --token or set TIDINGS_TOKEN; 'tidings token --data DIR \
                 --tenant TENANT --module MODULE' makes one"
                    .to_owned(),
            )
        };
        Ok(token.ok_or_else(absent)?)
    }
}

/// Runs a client command on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

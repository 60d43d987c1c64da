//! Which gateway a client command speaks to, and as whom.

use std::future::Future;

use anyhow::Result;
use reqwest::{Method, Url};
use serde_json::Value;
use tidings_client::{Client, Error as ClientError, Problem};

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

    /// One request for what the client has no method for: an operator's, for a tenant it names.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &[&str],
        tenant: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value> {
        // Also sets up TLS, and refuses what is no base URL.
        let _checked = self.client()?;
        let mut url: Url = self
            .url
            .parse()
            .map_err(|error| Usage(format!("{}: {error}", self.url)))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if let Some(tenant) = tenant {
            url.query_pairs_mut().append_pair("tenantId", tenant);
        }
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let mut request = http
            .request(method, url.clone())
            .bearer_auth(self.credential()?);
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            url: url.to_string(),
            source: Box::new(error.without_url()),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        let unexpected = |error: serde_json::Error| ClientError::Unexpected {
            url: url.to_string(),
            status: status.as_u16(),
            reason: error.to_string(),
        };
        if status.is_success() {
            let text = if text.is_empty() { "null" } else { &text };
            return Ok(serde_json::from_str(text).map_err(unexpected)?);
        }
        let problem: Problem = serde_json::from_str(&text).map_err(unexpected)?;
        Err(ClientError::Refused(Box::new(problem)).into())
    }
}

/// Runs a client command on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

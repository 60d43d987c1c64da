#![doc = include_str!("../README.md")]

mod renewal;
mod signing;
mod sources;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use renewal::Renewal;
use reqsign_aws_core::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, ProvideCredential as _};
use tidings_egress::EgressError;
use tokio::runtime::Handle;

pub use signing::VALID_FOR;

/// How long is waited for credentials: they are asked for again.
const PATIENCE: Duration = Duration::from_secs(10);

/// A login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What the broker is shown: a secret while it is valid.
    pub value: String,
    /// When it ends, in ms since 1970.
    pub until_ms: i64,
}

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// No source has any.
    #[error(
        "no AWS credentials were found: not in the environment, the shared files, a web identity, the container or the \
         instance"
    )]
    NoCredentials,
    /// A source failed. The text says which, and how.
    #[error("the AWS credentials cannot be fetched: {0}")]
    Source(String),
    /// No source answered.
    #[error("the AWS credentials were not fetched within 10 s")]
    Timeout,
}

/// Makes tokens for the clusters of one region. A task of its own fetches the credentials and renews them before they
/// end, so that a source that is slow to answer holds up nobody who has a token to make.
#[derive(Debug)]
pub struct Signer {
    region: String,
    credentials: Renewal,
    runtime: Handle,
}

impl Signer {
    /// For a region such as `eu-central-1`. Begins to look for credentials.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(region: &str) -> Result<Self, EgressError> {
        let sources = DefaultCredentialProvider::builder().no_sso().no_process();
        let sources = Arc::new((sources.build(), sources::context(region)?));
        Ok(Self {
            region: region.to_owned(),
            credentials: Renewal::start(move || fetched(Arc::clone(&sources))),
            runtime: Handle::current(),
        })
    }

    /// A new token, signed with the credentials at hand. It blocks until the first have been looked for.
    ///
    /// # Panics
    /// On a thread of the runtime that must not block.
    pub fn token(&self) -> Result<Token, TokenError> {
        let credential = self.credentials.latest(&self.runtime)?;
        let now = Timestamp::now();
        let until_ms = now.as_millisecond() + i64::try_from(VALID_FOR.as_millis()).unwrap_or(0);
        // A token is worth nothing once the credentials that signed it have ended.
        let ends_ms = credential.expires_in.map(|ends| ends.as_second() * 1_000);
        Ok(Token {
            value: signing::token(&credential, &self.region, now),
            until_ms: ends_ms.map_or(until_ms, |ends_ms| ends_ms.min(until_ms)),
        })
    }
}

async fn fetched(
    sources: Arc<(DefaultCredentialProvider, Context)>,
) -> Result<Credential, TokenError> {
    let found = sources.0.provide_credential(&sources.1).await;
    let found: Option<Credential> = found.map_err(|error| TokenError::Source(told(&error)))?;
    found.ok_or(TokenError::NoCredentials)
}

/// An error with its causes, which the library keeps apart.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

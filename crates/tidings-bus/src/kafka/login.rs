//! What every client of ours does besides its work: it writes librdkafka's log, and logs in anew when a broker wants a
//! token. A client serves such requests while it is polled, so each that talks to a broker is.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use super::Config;

/// What a client needs to be told where logins are made.
pub(super) const SETTINGS: [(&str, &str); 2] = [
    ("security.protocol", "SASL_SSL"),
    ("sasl.mechanisms", "OAUTHBEARER"),
];
/// librdkafka wants one; brokers read the token alone.
const PRINCIPAL: &str = "tidings";

/// A token for brokers (SASL OAUTHBEARER).
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// What a broker is shown: a secret.
    pub token: String,
    /// When it ends, in ms since 1970; a new one is asked for before.
    pub until_ms: i64,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// Makes logins.
///
/// # Contract
/// It is asked on threads that may block, by several clients at once, when one begins and well before a token ends.
/// After a failure librdkafka asks again in 10 s.
pub trait Logins: fmt::Debug + Send + Sync + 'static {
    /// A new one, or why there is none.
    fn login(&self) -> Result<Login, Box<dyn Error>>;
}

/// What a client shows a broker, where a broker asks.
pub(super) fn shown(logins: Option<&Arc<dyn Logins>>) -> Result<OAuthToken, Box<dyn Error>> {
    let logins = logins.ok_or("the brokers want a token (OAUTHBEARER), and nothing makes any");
    let made = logins.map_err(Into::into).and_then(|logins| logins.login());
    let login = made.inspect_err(|error| {
        tracing::error!(%error, "there is no login for Kafka; it is tried again in 10 s");
    })?;
    Ok(OAuthToken {
        token: login.token,
        principal_name: PRINCIPAL.to_owned(),
        lifetime_ms: login.until_ms,
    })
}

/// A client whose logs at debug level are enough: what matters of them is said by [`State`](super::health::State).
#[derive(Debug, Clone)]
pub(super) struct Quiet {
    logins: Option<Arc<dyn Logins>>,
}

impl Quiet {
    pub(super) fn new(config: &Config) -> Self {
        let logins = config.logins.clone();
        Self { logins }
    }
}

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        shown(self.logins.as_ref())
    }
}

impl ConsumerContext for Quiet {}

/// It sends nothing; being a producer, it is polled by a thread of its own.
impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// A line of librdkafka's log.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(?level, facility, message, "librdkafka");
}

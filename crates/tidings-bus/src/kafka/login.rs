//! What every client of ours does besides its work: it tells of librdkafka's errors, and logs in anew when a broker wants a
//! token. A client serves such requests while it is polled, so each that talks to a broker is.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
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

/// An error of one kind is told of again after so long: a client that is refused tries many times a second.
const SILENT_FOR: Duration = Duration::from_mins(1);
/// So many kinds of errors are told apart. librdkafka has fewer.
const KINDS: usize = 1_000;

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
/// It is asked by several clients at once, when one begins and well before a token ends. Until it answers, a client
/// tells of nothing else: it may wait for the first login, and has later ones at hand.
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

/// What librdkafka says of errors, and when each kind was last told of.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Arc<Mutex<HashMap<String, Instant>>>);

impl Said {
    fn is_news(&self, kind: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(kind).is_some_and(|at| at.elapsed() < SILENT_FOR) {
            return false;
        }
        if said.len() == KINDS {
            said.clear();
        }
        said.insert(kind.to_owned(), Instant::now());
        true
    }

    /// An error, with its reason. That a partition has come to its end is none.
    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if self.is_news(&error.to_string()) {
            tracing::warn!(%error, reason, "librdkafka");
        } else {
            tracing::debug!(%error, reason, "librdkafka");
        }
    }

    /// A line of librdkafka's log.
    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as Level;
        let grave = matches!(
            level,
            Level::Emerg | Level::Alert | Level::Critical | Level::Error
        );
        if grave && self.is_news(facility) {
            tracing::warn!(?level, facility, message, "librdkafka");
        } else {
            tracing::debug!(?level, facility, message, "librdkafka");
        }
    }
}

/// A client that has nothing else to tell.
#[derive(Debug, Clone)]
pub(super) struct Quiet {
    logins: Option<Arc<dyn Logins>>,
    said: Said,
}

impl Quiet {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            logins: config.logins.clone(),
            said: Said::default(),
        }
    }
}

impl ClientContext for Quiet {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(&error, reason);
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

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    #[test]
    fn an_error_of_one_kind_is_told_of_once_a_minute() {
        let said = Said::default();
        let kind = |code| KafkaError::Global(code).to_string();
        assert!(said.is_news(&kind(Code::Authentication)));
        assert!(!said.is_news(&kind(Code::Authentication)));
        assert!(said.is_news(&kind(Code::TopicAuthorizationFailed)));
        assert!(!said.clone().is_news(&kind(Code::Authentication)));
    }
}

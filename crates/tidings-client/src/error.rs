//! What can go wrong, as the caller of the SDK meets it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be made like this.
    #[error("{0}")]
    Configuration(String),
    /// No answer came, after all tries. Where `may_have_arrived`, it is not known whether the request was carried
    /// out; a publish can be repeated with the same key.
    #[error("no answer from {url}: {source}")]
    Unreachable {
        /// Where it was sent.
        url: String,
        /// Whether any try got as far as a connection.
        may_have_arrived: bool,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no, and why.
    #[error(transparent)]
    Refused(Box<Problem>),
    /// The answer is not one that Tidings gives: something else answers at this address.
    #[error("{url} answered {status}, but not as Tidings does: {reason}")]
    Unexpected {
        /// Where it was sent.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl Error {
    /// The problem's code, if the server refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the request may have been carried out all the same: no answer came although it may have arrived, or one
    /// of a server that failed in the middle, or of a proxy that lost sight of it. A publish can be repeated with its key.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::Unreachable {
                may_have_arrived, ..
            } => *may_have_arrived,
            Self::Refused(problem) => matches!(problem.status, 500 | 502 | 504),
            Self::Unexpected { status, .. } => *status >= 500,
            Self::Configuration(_) => false,
        }
    }

    /// Whether the same may be taken a little later: 429, 503 or 507, of Tidings or of what stands before it.
    pub fn is_temporary(&self) -> bool {
        let status = match self {
            Self::Refused(problem) => problem.status,
            Self::Unexpected { status, .. } => *status,
            Self::Unreachable { .. } | Self::Configuration(_) => return false,
        };
        matches!(status, 429 | 503 | 507)
    }
}

/// A problem document (RFC 9457) with the members that Tidings adds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Problem {
    /// What to tell problems apart by. Never changes its meaning.
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do, in one sentence.
    #[serde(default)]
    pub detail: String,
    /// The kind of problem, in a few words.
    #[serde(default)]
    pub title: String,
    /// Where the kind is explained.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What to search the server's log for.
    #[serde(rename = "traceId")]
    pub trace_id: Option<String>,
    /// How long the server asks to wait.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
    /// Every further member: `field`, `limit`, `actual`, `errors` and others.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        };
        write!(f, "{sentence} ({}, {})", self.status, self.code)
    }
}

impl std::error::Error for Problem {}

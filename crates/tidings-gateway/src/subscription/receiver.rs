//! Who gets what is delivered: over HTTP, or a plugin in process.

use serde::{Deserialize, Serialize};
use tidings_egress::Target;
use tidings_event::ExtensionId;
use zeroize::Zeroizing;

/// Who gets what is delivered.
#[derive(Debug, Clone)]
pub enum Receiver {
    /// A receiver over HTTP.
    Webhook(Box<Webhook>),
    /// The plugin of the extension that the subscription stands for.
    InProcess {
        /// Which extension.
        extension: ExtensionId,
        /// What its breaker is called by.
        place: String,
    },
}

impl Receiver {
    /// Whoever else is there fares no better when it does not work.
    pub fn host(&self) -> &str {
        match self {
            Self::Webhook(webhook) => webhook.url.host(),
            Self::InProcess { place, .. } => place,
        }
    }

    /// Over HTTP, if it is.
    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            Self::InProcess { .. } => None,
        }
    }
}

/// A receiver over HTTP.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where to.
    pub url: Target,
    /// Sent with each message.
    pub headers: Vec<(String, String)>,
    /// How the body looks.
    pub format: Format,
    /// How we say who we are, if the receiver wants to know more than our signature.
    pub(crate) auth: Option<Auth>,
}

/// How an event is written into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Format {
    /// CloudEvents JSON format.
    #[default]
    #[serde(rename = "cloudevents-structured")]
    Structured,
    /// CloudEvents attributes as headers, the data as body.
    #[serde(rename = "cloudevents-binary")]
    Binary,
    /// Source C's `PlatformEvent`.
    #[serde(rename = "platform-event")]
    PlatformEvent,
}

/// A credential of the receiver's. Kept encrypted and never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Auth {
    /// `Authorization: Bearer …`
    Bearer { token: Zeroizing<String> },
    /// `Authorization: Basic …`
    Basic {
        username: String,
        password: Zeroizing<String>,
    },
    /// A bearer token, fetched by OAuth 2.0 client credentials.
    #[serde(rename_all = "camelCase")]
    OAuth2 {
        #[serde(with = "url")]
        token_url: Target,
        client_id: String,
        client_secret: Zeroizing<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

impl Auth {
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer { .. } => "bearer",
            Self::Basic { .. } => "basic",
            Self::OAuth2 { .. } => "oauth2",
        }
    }
}

/// A URL as text.
mod url {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tidings_egress::Target;

    pub(super) fn serialize<S: Serializer>(url: &Target, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(url)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Target, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

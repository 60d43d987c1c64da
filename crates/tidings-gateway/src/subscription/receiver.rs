//! Where a subscription's events go: what its tenant wrote as `target`, read and checked.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings_egress::{Identity, InvalidIdentity, Target};
use tidings_event::{ExtensionId, Topic};
use zeroize::Zeroizing;

use super::read;
use crate::publish::refusal::Refusal;

/// The kind of target that stands for a plugin.
pub(crate) const IN_PROCESS: &str = "in-process";
/// The kind of target that stands for a receiver over HTTP.
const WEBHOOK: &str = "webhook";
/// The kind of target that stands for a topic.
pub(crate) const TOPIC: &str = "topic";
/// The most headers of one's own.
const MAX_HEADERS: usize = 20;

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
    /// Another topic, which gets copies.
    Topic {
        /// Which topic.
        topic: Topic,
        /// What its breaker is called by.
        place: String,
    },
}

impl Receiver {
    /// Whoever else is there fares no better when it does not work.
    pub fn host(&self) -> &str {
        match self {
            Self::Webhook(webhook) => webhook.url.host(),
            Self::InProcess { place, .. } | Self::Topic { place, .. } => place,
        }
    }

    /// Over HTTP, if it is.
    pub fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Webhook(webhook) => Some(webhook),
            Self::InProcess { .. } | Self::Topic { .. } => None,
        }
    }

    /// The topic, if it is one.
    pub fn topic(&self) -> Option<&Topic> {
        match self {
            Self::Topic { topic, .. } => Some(topic),
            Self::Webhook(_) | Self::InProcess { .. } => None,
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
    /// The certificate that we show, if it wants one.
    pub(crate) mtls: Option<Arc<Identity>>,
    /// Whether it has to say that it may be sent to.
    pub(crate) handshake: bool,
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
    /// The value of the header `Authorization`; none for a token, which has to be fetched.
    pub(crate) fn header(&self) -> Option<String> {
        match self {
            Self::OAuth2 { .. } => None,
            Self::Bearer { token } => Some(format!("Bearer {}", token.as_str())),
            Self::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{}", password.as_str()));
                Some(format!("Basic {pair}"))
            }
        }
    }

    /// Refuses what could never be sent: RFC 6750, 2.1 of a token, RFC 7617, 2 of a name and password.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let wrong = |member: &str, detail: &str| {
            let field = format!("target.auth.{member}");
            Err(Refusal::invalid(&field, format!("'{field}' {detail}.")))
        };
        match self {
            Self::Bearer { token } => {
                if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return wrong(
                        "token",
                        "must be visible ASCII without spaces, and not empty",
                    );
                }
            }
            Self::Basic { username, password } => {
                if username.contains(|it: char| it == ':' || it.is_control()) {
                    return wrong("username", "has no colon and no control characters");
                }
                if password.contains(char::is_control) {
                    return wrong("password", "has no control characters");
                }
            }
            // Its members are written into a form, where any character may stand.
            Self::OAuth2 { .. } => {}
        }
        Ok(())
    }

    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Bearer { .. } => "bearer",
            Self::Basic { .. } => "basic",
            Self::OAuth2 { .. } => "oauth2",
        }
    }
}

/// A client certificate and its key as they are written. Kept encrypted; of the certificate only a digest is shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mtls {
    certificate: String,
    key: Zeroizing<String>,
}

impl Mtls {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            certificate: identity.certificate().to_owned(),
            key: identity.key().clone(),
        }
    }

    pub(crate) fn identity(&self) -> Result<Arc<Identity>, InvalidIdentity> {
        Identity::new(&self.certificate, &self.key).map(Arc::new)
    }
}

/// How a certificate is shown.
pub(crate) fn mtls_shown(identity: &Identity) -> Value {
    serde_json::json!({ "fingerprint": identity.fingerprint() })
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

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TargetDocument {
    kind: String,
    url: String,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing)]
    auth: Option<Auth>,
    #[serde(default, skip_serializing)]
    mtls: Option<Mtls>,
    #[serde(default)]
    format: Format,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    handshake: bool,
}

/// The target of a subscription that stands for an extension in process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct InProcessDocument {
    #[serde(rename = "kind")]
    _kind: String,
    extension: String,
}

/// A target that gets copies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicDocument {
    #[serde(rename = "kind")]
    _kind: String,
    topic: String,
}

/// The target, and how it is shown.
pub(super) fn receiver(document: Value) -> Result<(Receiver, Value), Refusal> {
    if document["kind"] == TOPIC {
        let shown = document.clone();
        let given: TopicDocument = read("target", document)?;
        let topic = given
            .topic
            .parse()
            .map_err(|error| Refusal::invalid("target.topic", format!("{error}.")))?;
        let place = format!("{TOPIC}:{topic}");
        return Ok((Receiver::Topic { topic, place }, shown));
    }
    if document["kind"] == IN_PROCESS {
        let shown = document.clone();
        let given: InProcessDocument = read("target", document)?;
        let extension = given
            .extension
            .parse()
            .map_err(|error| Refusal::invalid("target.extension", format!("{error}.")))?;
        let place = format!("{IN_PROCESS}:{extension}");
        return Ok((Receiver::InProcess { extension, place }, shown));
    }
    if let Some(kind) = document["kind"].as_str().filter(|kind| *kind != WEBHOOK) {
        let detail = format!("There is no target kind '{kind}'; use webhook or topic.");
        return Err(Refusal::invalid("target.kind", detail));
    }
    // Its tag stands among its members, where an array would be taken for them.
    if document["auth"].is_array() {
        let detail = "'target.auth' must be an object.";
        return Err(Refusal::invalid("target.auth", detail));
    }
    let given: TargetDocument = read("target", document)?;
    let mut shown = target_shown(&given);
    let webhook = webhook(given)?;
    if let Some(identity) = &webhook.mtls {
        shown["mtls"] = mtls_shown(identity);
    }
    Ok((Receiver::Webhook(Box::new(webhook)), shown))
}

fn target_shown(target: &TargetDocument) -> Value {
    let mut shown = serde_json::json!(target);
    if let Some(auth) = &target.auth {
        shown["auth"] = serde_json::json!({ "kind": auth.kind() });
    }
    shown
}

/// Headers that begin so say what is sent and who sends it.
const OUR_PREFIXES: [&str; 4] = ["webhook-", "tidings-", "ce-", "content-"];
/// Headers of the request and its trace, and those of a connection (RFC 9110, 7.6.1 and 10.1.1), which no receiver is to be
/// told by a tenant: one that is promised a trailer or another protocol would wait for it.
const OURS: [&str; 12] = [
    "host",
    "authorization",
    "traceparent",
    "tracestate",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

impl Webhook {
    /// Refuses headers that are ours or the connection's.
    pub(crate) fn check_headers(&self) -> Result<(), Refusal> {
        for (name, _) in &self.headers {
            if is_ours(name) {
                let detail = format!(
                    "The header '{name}' is set by Tidings or is the connection's; use another name."
                );
                let field = format!("target.headers.{name}");
                return Err(Refusal::invalid(field, detail));
            }
        }
        Ok(())
    }

    /// The headers that its subscription gives each message. One taken before they were refused may have others.
    pub(crate) fn own_headers(&self) -> impl Iterator<Item = (String, String)> {
        let own = self.headers.iter().filter(|(name, _)| !is_ours(name));
        own.cloned()
    }
}

fn is_ours(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let prefixed = OUR_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    prefixed || OURS.contains(&&*lower)
}

fn webhook(target: TargetDocument) -> Result<Webhook, Refusal> {
    let url = target.url.parse().map_err(|error| {
        Refusal::invalid("target.url", format!("The URL cannot be used: {error}."))
    })?;
    if target.headers.len() > MAX_HEADERS {
        let detail = format!("A target may have {MAX_HEADERS} headers at most.");
        return Err(Refusal::invalid("target.headers", detail));
    }
    for (name, value) in &target.headers {
        let field = format!("target.headers.{name}");
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(legal) {
            return Err(Refusal::invalid(
                field,
                format!("'{name}' is not the name of a header."),
            ));
        }
        if value.len() > 1_024 || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let detail =
                format!("The value of '{name}' must be visible ASCII, 1,024 bytes at most.");
            return Err(Refusal::invalid(field, detail));
        }
    }
    let mtls = certificate(target.mtls.as_ref(), &url)?;
    Ok(Webhook {
        url,
        headers: target.headers.into_iter().collect(),
        format: target.format,
        auth: target.auth,
        mtls,
        handshake: target.handshake,
    })
}

fn certificate(given: Option<&Mtls>, url: &Target) -> Result<Option<Arc<Identity>>, Refusal> {
    let Some(given) = given else {
        return Ok(None);
    };
    if !url.is_https() {
        let detail = "A certificate is shown over https only; use a URL that begins with https.";
        return Err(Refusal::invalid("target.mtls", detail));
    }
    let identity = given.identity();
    identity.map(Some).map_err(|error| {
        let detail = format!("The client certificate cannot be used: {error}.");
        Refusal::invalid("target.mtls", detail)
    })
}

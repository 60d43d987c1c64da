//! How a subscription is checked, kept and read back: its document with where it begins and without any mark of a
//! credential, its secrets encrypted.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidings_egress::Secret;
use tidings_event::Code;
use tidings_store::SubscriptionRow;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Subscriptions, handshake, of_extensions};
use crate::publish::refusal::{Refusal, Rule};
use crate::secrets::random;
use crate::subscription::{
    self, Auth, Key, MAX_PER_SECOND, Mtls, Rate, Receiver, Start, State, Subscription, mtls_shown,
};

/// The secrets of a subscription as they are encrypted.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Secrets {
    pub(super) signing: Vec<SigningSecret>,
    #[serde(default)]
    pub(super) auth: Option<Auth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mtls: Option<Mtls>,
}

impl Secrets {
    /// Takes those of a target. One that is sent to needs something to sign with; copies are not signed.
    pub(super) fn take(&mut self, target: &Receiver) {
        let webhook = target.webhook();
        if webhook.is_some() && self.signing.is_empty() {
            self.signing.push(SigningSecret::random());
        }
        self.auth = webhook.and_then(|it| it.auth.clone());
        self.mtls = webhook.and_then(|it| it.mtls.as_deref().map(Mtls::of));
    }

    /// Signs with another, and with the one before until the overlap ends. The newest once more is a repeat, which takes
    /// nothing from whoever knows the one before; it may end that sooner.
    pub(super) fn rotate(&mut self, secret: Zeroizing<String>, overlap: Duration, now_ms: i64) {
        let ends = now_ms.saturating_add(i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX));
        self.signing
            .retain(|it| it.ends_at_ms.is_none_or(|ends| ends > now_ms));
        let newest = self.signing.first();
        if newest.is_none_or(|newest| newest.secret != secret) {
            // Two at most: the header grows with each.
            self.signing.truncate(1);
            self.signing.insert(0, SigningSecret::newest(secret));
        }
        for one in self.signing.iter_mut().skip(1) {
            one.ends_at_ms = Some(one.ends_at_ms.map_or(ends, |before| before.min(ends)));
        }
    }

    /// Puts them where the tenant wrote them, so that a change of the rest keeps them.
    pub(super) fn put(&self, document: &mut Value) {
        if let Some(auth) = &self.auth {
            document["target"]["auth"] = json!(auth);
        }
        if let Some(mtls) = &self.mtls {
            document["target"]["mtls"] = json!(mtls);
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SigningSecret {
    pub(super) secret: Zeroizing<String>,
    /// In ms since 1970; the newest has none.
    pub(super) ends_at_ms: Option<i64>,
}

impl SigningSecret {
    fn newest(secret: Zeroizing<String>) -> Self {
        Self {
            secret,
            ends_at_ms: None,
        }
    }

    pub(super) fn random() -> Self {
        Self::newest(Secret::from_random(random()).to_text())
    }
}

fn place(id: Uuid) -> String {
    format!("subscription {id}")
}

/// The document as it is kept: what is shown, and where it begins.
pub(super) fn stored(mut document: Map<String, Value>, start: &Start) -> String {
    document.insert("start".into(), json!(start));
    Value::Object(document).to_string()
}

/// What is shown, without any mark of a credential, and where it begins.
pub(super) fn split(row: &SubscriptionRow) -> Result<(Map<String, Value>, Start), Refusal> {
    let unread = |error| Refusal::fault("Reading a subscription", &error);
    let mut document: Map<String, Value> = serde_json::from_str(&row.document).map_err(unread)?;
    let start = document.remove("start").unwrap_or_default();
    let start = serde_json::from_value(start).map_err(unread)?;
    if let Some(target) = document.get_mut("target").and_then(Value::as_object_mut) {
        target.remove("auth");
        target.remove("mtls");
    }
    Ok((document, start))
}

impl Subscriptions {
    /// Reads a document and asks whether its target may be sent to.
    pub(super) fn checked(&self, document: Value) -> Result<subscription::Wanted, Refusal> {
        let wanted = subscription::parse(document)?;
        if wanted.name.contains(char::is_control) {
            let detail = "'name' must have no control characters.";
            return Err(Refusal::invalid("name", detail));
        }
        if let Some(topic) = wanted.target.topic()
            && !self.outbox.line().takes_copies(topic)
        {
            let detail = format!(
                "Copies may not go to topic '{topic}'; the operator names those that take them in delivery.topics."
            );
            let refusal = Refusal::new(Code::TargetNotAllowed, Rule::Shape, detail);
            return Err(refusal.field("target.topic"));
        }
        let Some(webhook) = wanted.target.webhook() else {
            return Ok(wanted);
        };
        let admitted = |url, field: &str| {
            self.webhooks.client().admit(url).map_err(|error| {
                let detail = format!("The target cannot be used: {error}.");
                Refusal::new(Code::TargetNotAllowed, Rule::Shape, detail).field(field)
            })
        };
        admitted(&webhook.url, "target.url")?;
        if let Some(Auth::OAuth2 { token_url, .. }) = &webhook.auth {
            admitted(token_url, "target.auth.tokenUrl")?;
        }
        Ok(wanted)
    }

    /// The same, and whether what it is to be sent with fits together.
    pub(super) fn usable(&self, document: Value) -> Result<subscription::Wanted, Refusal> {
        let wanted = self.checked(document)?;
        let types = wanted.document.get("filter").and_then(|it| it.get("types"));
        if types == Some(&json!([])) {
            let detail = "'filter.types' is empty, so that no event could fit; leave it out for those of any type.";
            return Err(Refusal::invalid("filter.types", detail));
        }
        let fastest = Rate::per_second(MAX_PER_SECOND);
        if wanted.delivery.rate.is_some_and(|rate| rate < fastest) {
            let detail =
                format!("'perSecond' must be {MAX_PER_SECOND} at most; leave it out for no limit.");
            return Err(Refusal::invalid("delivery.rateLimit.perSecond", detail));
        }
        if let Some(Key::Pointer(pointer)) = &wanted.delivery.key
            && !tidings_filter::is_pointer(pointer)
        {
            let detail = "'delivery.key' is no JSON pointer (RFC 6901) of at most 1,024 bytes.";
            return Err(Refusal::invalid("delivery.key", detail));
        }
        let webhook = wanted.target.webhook();
        // One that was kept before this was asked is still read, paused and ended.
        if let Some(webhook) = webhook {
            webhook.check_headers()?;
        }
        if let Some(auth) = webhook.and_then(|it| it.auth.as_ref()) {
            auth.check()?;
        }
        if let Some(identity) = webhook.and_then(|it| it.mtls.as_deref()) {
            let usable = self.webhooks.client().check(identity);
            usable.map_err(|error| {
                let detail = format!("The target cannot be used: {error}.");
                Refusal::invalid("target.mtls", detail)
            })?;
        }
        Ok(wanted)
    }

    pub(super) fn close(&self, id: Uuid, secrets: &Secrets) -> String {
        let text = serde_json::to_string(secrets).expect("plain members become JSON");
        self.vault.close(&place(id), &text)
    }

    pub(super) fn open_secrets(&self, row: &SubscriptionRow) -> Result<Secrets, Refusal> {
        let text = self.vault.open(&place(row.id), &row.secrets);
        let text =
            text.map_err(|error| Refusal::fault("Decrypting a subscription's secrets", &error))?;
        serde_json::from_str(&text)
            .map_err(|error| Refusal::fault("Reading a subscription's secrets", &error))
    }

    /// A row as the dispatcher wants it.
    pub(super) fn read(&self, row: SubscriptionRow) -> Result<Subscription, Refusal> {
        let secrets = self.open_secrets(&row)?;
        let (document, start) = split(&row)?;
        let mut wanted = subscription::parse(Value::Object(document))?;
        if let (Some(auth), Some(target)) = (&secrets.auth, wanted.document.get_mut("target")) {
            target["auth"] = json!({ "kind": auth.kind() });
        }
        match &mut wanted.target {
            Receiver::Webhook(webhook) => {
                webhook.auth = secrets.auth;
                let mtls = secrets.mtls.map(|it| it.identity()).transpose();
                webhook.mtls =
                    mtls.map_err(|error| Refusal::fault("Reading a client certificate", &error))?;
                if let (Some(identity), Some(target)) =
                    (&webhook.mtls, wanted.document.get_mut("target"))
                {
                    target["mtls"] = mtls_shown(identity);
                }
            }
            Receiver::InProcess { extension, .. } => {
                let owner = start.owner.as_ref();
                if self.in_process.runs_in_line(extension, owner) {
                    wanted.filter = of_extensions::only_replayed(owner)?;
                }
            }
            Receiver::Topic { .. } => {}
        }
        let signing = secrets.signing.into_iter().map(|it| {
            let secret = it.secret.parse::<Secret>();
            let secret = secret.map_err(|error| Refusal::fault("Reading a signing secret", &error));
            secret.map(|secret| (Arc::new(secret), it.ends_at_ms))
        });
        let allowed = start.allowed.as_ref().and_then(|it| it.per_minute);
        if let (Some(rate), Some(target)) = (allowed, wanted.document.get_mut("target")) {
            target["allowedPerMinute"] = rate.into();
        }
        let delivery = handshake::capped(&wanted.target, wanted.delivery, start.allowed.as_ref());
        Ok(Subscription {
            id: row.id,
            tenant: row.tenant,
            name: wanted.name,
            filter: wanted.filter,
            target: wanted.target,
            delivery,
            state: State::parse(&row.state).unwrap_or(State::Disabled),
            reason: row.reason,
            revision: row.revision,
            created_at_ms: row.created_at_ms,
            updated_at_ms: row.updated_at_ms,
            start,
            signing: signing.collect::<Result<_, _>>()?,
            document: Arc::new(wanted.document),
            replay_of: None,
        })
    }
}

//! A receiver over HTTP: a POST, signed as Standard Webhooks wants it, in one of three formats.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;
use tidings_egress::{Answer, Client, EgressError, Outgoing};
use tidings_event::{Data, Event};
use uuid::Uuid;

use super::answered::{judged, secrets_of, without_secrets};
use super::oauth2::{Grant, Slot, Tokens, no_token};
use super::{Handover, Outcome, Target, batch};
use crate::subscription::{Auth, Format, Webhook};

/// CloudEvents JSON format, as HTTP names it.
const STRUCTURED: &str = "application/cloudevents+json";
/// Sends webhooks through the one door out.
#[derive(Debug, Clone)]
pub struct Webhooks {
    client: Client,
    /// Who asks receivers whether they may be sent to, as they know it: a host.
    origin: Arc<str>,
    tokens: Arc<Tokens>,
}

impl Webhooks {
    /// Through a client. Its limit on bodies is how much is kept of an answer.
    pub fn new(client: Client, origin: &str) -> Self {
        Self {
            client,
            origin: origin.into(),
            tokens: Arc::default(),
        }
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Posts a message, with an access token where the receiver wants one. What comes back has no credential in it.
    pub(crate) async fn send(
        &self,
        webhook: &Webhook,
        handover: &Handover,
        headers: Vec<(String, String)>,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, EgressError> {
        let tenant = handover.subscription.tenant.as_str();
        let posted = async {
            let begun = Instant::now();
            let subscription = &handover.subscription;
            let whose = (subscription.addressed(), subscription.revision);
            let mut refused = None;
            loop {
                let left = timeout.saturating_sub(begun.elapsed());
                let when = (handover.now_ms, left);
                let token = self.token(webhook, whose, refused.as_ref(), when).await?;
                let mut headers = headers.clone();
                let authorization = token.as_ref().and_then(|token| token.header());
                headers.extend(authorization.map(|value| ("authorization".to_owned(), value)));
                let outgoing = Outgoing {
                    target: &webhook.url,
                    identity: webhook.mtls.as_deref(),
                    headers,
                    body: body.clone(),
                    timeout: timeout.saturating_sub(begun.elapsed()),
                };
                let answer = self.client.post(outgoing).await?;
                // It may have been withdrawn before its time: once more with a new one.
                if answer.status != 401 || token.is_none() || refused.is_some() {
                    let token = token.as_ref().and_then(|token| token.header());
                    return Ok(without_secrets(answer, &secrets_of(webhook, token)));
                }
                refused = token;
            }
        };
        tidings_egress::on_behalf_of(tenant, posted).await
    }

    /// Asks for permission to send (HTTP 1.1 Web Hooks for Event Delivery, 4.1), as whoever messages come from.
    pub(crate) async fn ask(
        &self,
        webhook: &Webhook,
        whose: (Uuid, u32),
        rate_per_minute: Option<i64>,
        (now_ms, timeout): (i64, Duration),
    ) -> Result<Answer, EgressError> {
        let begun = Instant::now();
        let when = (now_ms, timeout);
        let token = self.token(webhook, whose, None, when).await?;
        let mut headers = vec![("webhook-request-origin".to_owned(), self.origin.to_string())];
        let rate = rate_per_minute.map(|rate| ("webhook-request-rate".into(), rate.to_string()));
        headers.extend(rate);
        let authorization = token.as_ref().and_then(|token| token.header());
        let authorization = authorization.or_else(|| webhook.auth.as_ref()?.header());
        headers.extend(authorization.map(|value| ("authorization".to_owned(), value)));
        headers.extend(webhook.own_headers());
        let outgoing = Outgoing {
            target: &webhook.url,
            identity: webhook.mtls.as_deref(),
            headers,
            body: Bytes::new(),
            timeout: timeout.saturating_sub(begun.elapsed()),
        };
        self.client.options(outgoing).await
    }

    async fn token(
        &self,
        webhook: &Webhook,
        whose: (Uuid, u32),
        refused: Option<&Arc<Slot>>,
        when: (i64, Duration),
    ) -> Result<Option<Arc<Slot>>, EgressError> {
        let Some(Auth::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scope,
        }) = &webhook.auth
        else {
            return Ok(None);
        };
        let grant = Grant {
            token_url,
            client_id,
            client_secret,
            scope: scope.as_deref(),
        };
        // Few need one, and each has room for what may be asked.
        let token = Box::pin(self.tokens.token(&self.client, whose, grant, refused, when));
        let token = tokio::time::timeout(when.1, token).await;
        let token = token.unwrap_or_else(|_| Err(no_token("its server did not answer in time")));
        token.map(Some)
    }
}

impl Target for Webhooks {
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let subscription = &handover.subscription;
            let Some(webhook) = subscription.target.webhook() else {
                return Outcome::failed("the subscription has no receiver over HTTP", false);
            };
            let (headers, body) = message(webhook, &handover);
            let timeout = subscription.delivery.timeout;
            // On the heap before it is wrapped: each wrapping moves it, and keeps room for it twice.
            let sent = Box::pin(self.send(webhook, &handover, headers, body, timeout));
            let (sent, connecting) = tidings_egress::timed(sent).await;
            let outcome = match sent {
                Ok(answer) => judged(answer, handover.now_ms),
                Err(error) => failed(&error),
            };
            Outcome {
                connecting,
                ..outcome
            }
        })
    }
}

/// What a message is called by: the same at every attempt.
pub(crate) fn message_id(event_id: Uuid, subscription: Uuid) -> String {
    format!("{event_id}_{subscription}")
}

/// Headers and body, signed.
pub(crate) fn message(webhook: &Webhook, handover: &Handover) -> (Vec<(String, String)>, Bytes) {
    let (content_type, attributes, body) = match &handover.batch {
        Some(events) => {
            let (content_type, body) = batch::written(webhook.format, events, handover);
            (content_type.to_owned(), Vec::new(), body)
        }
        None => written(webhook.format, handover),
    };
    let headers = headers(webhook, handover, &content_type, attributes, &body);
    (headers, body)
}

/// Content type, attributes that go as headers, and body.
fn written(format: Format, handover: &Handover) -> (String, Vec<(String, String)>, Bytes) {
    let event = &*handover.event;
    match format {
        Format::Structured if !handover.replayed => {
            (STRUCTURED.into(), Vec::new(), event.structured())
        }
        Format::Structured => {
            let mut added = vec![("replayed", json!(true))];
            added.extend(handover.replay.map(|replay| ("replayid", json!(replay))));
            let body = event.to_structured_with(&added);
            (STRUCTURED.into(), Vec::new(), body.into())
        }
        Format::Binary => {
            let content_type = event
                .data_content_type
                .as_deref()
                .unwrap_or("application/json");
            let attributes = event
                .attributes()
                .filter(|(name, _)| *name != "datacontenttype");
            let extensions = event.extensions.iter();
            let mut attributes: Vec<_> = attributes
                .map(|(name, value)| (format!("ce-{name}"), encoded(value)))
                .chain(
                    extensions.map(|(name, it)| (format!("ce-{name}"), encoded(&it.to_string()))),
                )
                .collect();
            if handover.replayed {
                attributes.push(("ce-replayed".into(), "true".into()));
            }
            if let Some(replay) = handover.replay {
                attributes.push(("ce-replayid".into(), replay.to_string()));
            }
            let body = Bytes::copy_from_slice(event.data.as_bytes());
            (content_type.to_owned(), attributes, body)
        }
        Format::PlatformEvent => {
            let body = handover.event.platform();
            ("application/json".into(), Vec::new(), body)
        }
    }
}

/// Source C's `PlatformEvent`. The actor is whoever published, where the workspace API has noted it.
pub(super) fn platform_event(event: &Event) -> serde_json::Value {
    let extension = |name: &str| {
        let mut all = event.extensions.iter();
        all.find(|(this, _)| this == name)
            .map(|(_, value)| value.to_string())
    };
    let payload: serde_json::Value = match &event.data {
        Data::Json(json) => serde_json::from_slice(json.as_bytes()).unwrap_or_default(),
        Data::Text(text) => json!(text),
        Data::None => serde_json::Value::Null,
        Data::Binary(bytes) => json!(STANDARD.encode(bytes)),
    };
    json!({
        "eventId": event.event_id,
        "eventKey": event.event_type.as_str(),
        "schemaVersion": event.schema_version.as_str(),
        "workspaceId": extension("workspaceid"),
        "tenantId": event.tenant.as_str(),
        "actor": extension("actor"),
        "payload": payload,
        "occurredAt": event.time,
    })
}

/// A value of an attribute as it may stand in a header (CloudEvents HTTP binding, 3.1.3.2).
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' && byte != b'"' => text.push(char::from(byte)),
            _ => text.extend(["%".to_owned(), format!("{byte:02X}")]),
        }
    }
    text
}

fn headers(
    webhook: &Webhook,
    handover: &Handover,
    content_type: &str,
    attributes: Vec<(String, String)>,
    body: &[u8],
) -> Vec<(String, String)> {
    let subscription = &handover.subscription;
    let id = match &handover.batch {
        Some(events) => {
            let ids = events.iter().map(|(event, _)| event.event_id);
            batch::message_id(ids, subscription.addressed())
        }
        None => message_id(handover.event.event_id, subscription.addressed()),
    };
    let timestamp = handover.now_ms.div_euclid(1_000);
    let in_force = subscription.signing.iter();
    let in_force = in_force.filter(|(_, ends)| ends.is_none_or(|ends| ends > handover.now_ms));
    let signatures: Vec<_> = in_force
        .map(|(secret, _)| secret.sign(&id, timestamp, body))
        .collect();
    let mut headers = attributes;
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    add("content-type", content_type.to_owned());
    add("webhook-id", id);
    add("webhook-timestamp", timestamp.to_string());
    add("webhook-signature", signatures.join(" "));
    // Each event of a batch has its own in the body, and its trace.
    let single = handover.batch.is_none();
    if single && handover.sequence > 0 {
        add("tidings-sequence", handover.sequence.to_string());
    }
    add("tidings-subscription", subscription.addressed().to_string());
    if handover.replayed {
        add("tidings-replayed", "true".into());
    }
    if let Some(replay) = handover.replay {
        add("tidings-replay", replay.to_string());
    }
    if let Some(traceparent) = handover.event.traceparent.as_ref().filter(|_| single) {
        add("traceparent", traceparent.clone());
    }
    if let Some(value) = webhook.auth.as_ref().and_then(Auth::header) {
        add("authorization", value);
    }
    headers.extend(webhook.own_headers());
    headers
}

fn failed(error: &EgressError) -> Outcome {
    match error {
        EgressError::Refused(_) => Outcome::failed(format!("TARGET_NOT_ALLOWED: {error}"), true),
        EgressError::NoCredential(_) | EgressError::NoRequest(_) | EgressError::Identity(_) => {
            Outcome::unasked(error.to_string())
        }
        EgressError::Exhausted(_) => Outcome::unable(error.to_string()),
        _ => Outcome::failed(error.to_string(), true),
    }
}

/// A client for tests that may reach loopback.
#[cfg(test)]
pub(crate) fn to_loopback() -> Client {
    let guard = tidings_egress::Guard::new(vec!["127.0.0.1".parse().unwrap()]);
    let limits = tidings_egress::Limits {
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(5),
        body_bytes: 16_384,
    };
    Client::new(guard, limits).unwrap()
}

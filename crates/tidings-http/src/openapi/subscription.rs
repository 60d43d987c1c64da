//! What a subscription says, member by member. The gateway reads and checks it; these describe it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// What a subscription says.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubscriptionBody {
    /// 1 to 100 characters, none of them a control character.
    name: String,
    #[schema(nullable = false)]
    filter: Option<FilterBody>,
    target: TargetBody,
    #[schema(nullable = false)]
    delivery: Option<DeliveryBody>,
    /// False: it is made disabled.
    enabled: Option<bool>,
    /// True: it gets nothing until its receiver has passed `test`, and again after a change of the URL.
    require_conformance: Option<bool>,
    /// `now` (the default), `beginning` or an RFC 3339 time.
    replay_from: Option<String>,
}

/// What is to change, as a JSON merge patch: members that are absent stay, null takes one away.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubscriptionPatch {
    /// 1 to 100 characters, none of them a control character.
    #[schema(nullable = false)]
    name: Option<String>,
    /// Members of it, as of the filter that it was made with.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// Members of it, as of the target that it was made with.
    #[schema(value_type = Option<Object>, nullable = false)]
    target: Option<Value>,
    /// Members of it, as of the delivery that it was made with.
    #[schema(value_type = Option<Object>)]
    delivery: Option<Value>,
    enabled: Option<bool>,
    require_conformance: Option<bool>,
}

/// What a subscription says, as it is shown: nothing that is secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubscriptionDocument {
    name: String,
    filter: FilterBody,
    target: TargetShown,
    delivery: DeliveryBody,
    /// True, or absent.
    #[schema(nullable = false)]
    require_conformance: Option<bool>,
}

/// Which events. All that is given must hold; nothing given holds for every event.
#[derive(Serialize, ToSchema)]
pub(crate) struct FilterBody {
    /// Event types and patterns, of which one must match: `*` is one segment, `**` the rest.
    types: Option<Vec<String>>,
    /// Expressions of the CloudEvents Subscriptions API: `exact`, `prefix`, `suffix`, `all`, `any`, `not`, `sql`.
    #[schema(value_type = Option<Vec<Object>>)]
    dialects: Option<Vec<Value>>,
    /// What must stand in the data, each by a JSON pointer.
    #[schema(value_type = Option<Vec<Object>>)]
    data: Option<Vec<Value>>,
}

/// Where to: a webhook with `url`, or a topic with `topic`.
#[derive(Serialize, ToSchema)]
pub(crate) struct TargetBody {
    /// `webhook` or `topic`.
    #[schema(example = "webhook")]
    kind: String,
    /// Of a webhook.
    #[schema(nullable = false)]
    url: Option<String>,
    /// Of a webhook: headers of your own, 20 at most.
    #[schema(nullable = false)]
    headers: Option<BTreeMap<String, String>>,
    /// Of a webhook: `{kind: "bearer", token}`, `{kind: "basic", username, password}` or
    /// `{kind: "oauth2", tokenUrl, clientId, clientSecret, scope}`.
    #[schema(value_type = Option<Object>)]
    auth: Option<Value>,
    /// Of a webhook: the certificate that is shown, as `{certificate, key}` in PEM.
    #[schema(value_type = Option<Object>)]
    mtls: Option<Value>,
    /// Of a webhook: `cloudevents-structured` (the default), `cloudevents-binary` or `platform-event`.
    #[schema(nullable = false)]
    format: Option<String>,
    /// Of a webhook: the receiver is asked first whether it may be sent to.
    #[schema(nullable = false)]
    handshake: Option<bool>,
    /// Of a topic: its name.
    #[schema(nullable = false)]
    topic: Option<String>,
}

/// Where to, without what is secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct TargetShown {
    /// `webhook`, `topic` or `in-process`.
    kind: String,
    #[schema(nullable = false)]
    url: Option<String>,
    /// Their values are hidden from whoever may not change the subscription.
    #[schema(nullable = false)]
    headers: Option<BTreeMap<String, String>>,
    /// Its `kind` alone.
    #[schema(value_type = Object, nullable = false, required = false)]
    auth: Option<Value>,
    /// The `fingerprint` of the certificate alone.
    #[schema(value_type = Object, nullable = false, required = false)]
    mtls: Option<Value>,
    #[schema(nullable = false)]
    format: Option<String>,
    #[schema(nullable = false)]
    handshake: Option<bool>,
    #[schema(nullable = false)]
    topic: Option<String>,
    /// Of a plugin in process: whose it is.
    #[schema(nullable = false)]
    extension: Option<String>,
}

/// How deliveries are made. Durations are as `500ms`, `5s`, `5m`, `2h` or `30d`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryBody {
    /// Whether events of one key are kept in order; false if absent.
    #[schema(nullable = false)]
    ordered: Option<bool>,
    /// Of ordered ones: an attribute, or a JSON pointer into the data.
    key: Option<String>,
    /// Of ordered ones: `park` (the default) or `skip`.
    on_exhausted: Option<String>,
    /// At most so many at once, 1 to 256; 16 if absent.
    max_in_flight: Option<u32>,
    /// `{perSecond}`: how often at most.
    #[schema(value_type = Option<Object>)]
    rate_limit: Option<Value>,
    /// What one attempt may take, 1 minute at most; `15s` if absent.
    timeout: Option<String>,
    /// `{schedule}`, or `{maxAttempts, backoff}`, and `maxAge`; the installation's if absent.
    #[schema(value_type = Option<Object>)]
    retry: Option<Value>,
    /// `{maxEvents, maxWait, maxBytes}`: several events go in one message.
    #[schema(value_type = Option<Object>)]
    batch: Option<Value>,
}

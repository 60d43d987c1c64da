//! How a subscription's document is kept: with where it begins, and without any mark of a credential.

use serde_json::{Map, Value, json};
use tidings_store::SubscriptionRow;
use uuid::Uuid;

use crate::publish::refusal::Refusal;
use crate::subscription::Start;

pub(super) fn place(id: Uuid) -> String {
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
    }
    Ok((document, start))
}

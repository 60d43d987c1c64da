//! A subscription's document as it is kept, shown and changed.

use serde_json::{Map, Value, json};
use tidings_store::SubscriptionRow;

use crate::publish::refusal::Refusal;
use crate::subscription::Start;

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

/// Changes a document as a JSON merge patch (RFC 7396) says.
pub(super) fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(members) = document.as_object_mut() {
                members.remove(name);
            }
        } else {
            merge(&mut document[name], value);
        }
    }
}

//! What stands around the data of a message: its envelope, and the key of its record.

use serde_json::Value;

use super::{Change, change, compared};
use crate::catalog::{Catalog, Channel};
use crate::reference::resolve;

/// What differs around the data: in the envelope, and in the record's key.
pub(super) fn around(
    (old, before): (&Catalog, &Channel),
    (new, after): (&Catalog, &Channel),
    changes: &mut Vec<Change>,
) {
    let documents = (&old.document, &new.document);
    let messages = (message(old, before), message(new, after));
    let mut note = |what: String, broken| {
        changes.push(change(before, String::new(), what, broken));
    };
    if !before.binary && !after.binary {
        let payloads = (&messages.0["payload"], &messages.1["payload"]);
        for (path, detail, broken) in compared((documents.0, payloads.0), (documents.1, payloads.1))
        {
            let member = path.trim_start_matches('/');
            // The data was compared by itself.
            if member.split('/').next() != Some("data") {
                note(format!("its envelope, {member}: {detail}"), broken);
            }
        }
    }
    let keys = (key(documents.0, messages.0), key(documents.1, messages.1));
    for (path, detail, broken) in compared((documents.0, keys.0), (documents.1, keys.1)) {
        note(format!("its key{path}: {detail}"), broken);
    }
}

fn message<'c>(catalog: &'c Catalog, channel: &Channel) -> &'c Value {
    let message = catalog.document.pointer(&channel.place);
    let message = message.and_then(|it| resolve(&catalog.document, it));
    message.unwrap_or(&Value::Null)
}

/// The schema of a message's key on Kafka; where none is given it may be anything.
fn key<'c>(document: &'c Value, message: &'c Value) -> &'c Value {
    let below = |value: &'c Value, name: &str| resolve(document, value.get(name)?);
    let bindings = below(message, "bindings").and_then(|it| below(it, "kafka"));
    let key = bindings.and_then(|it| it.get("key"));
    key.unwrap_or(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diff::{Broken, diff, name_readers};

    #[test]
    fn a_change_names_the_services_it_breaks() {
        let catalog = |data: Value| {
            let document = json!({
                "asyncapi": "3.0.0",
                "info": { "title": "t", "version": "1.0.0" },
                "channels": { "a": {
                    "address": "shop.order.created.v1", "x-tidings-receivers": ["mail"],
                    "messages": { "m": { "contentType": "application/json", "payload": data } },
                }},
            });
            Catalog::parse(&document.to_string()).unwrap()
        };
        let old = catalog(json!({ "type": "object", "required": ["id"] }));
        let changes = diff(&old, &catalog(json!({ "type": "object" })));
        assert_eq!(changes[0].services, ["mail"]);
    }

    #[test]
    fn what_stands_around_the_data_is_compared_too() {
        let base = json!({
            "asyncapi": "3.0.0",
            "info": { "title": "t", "version": "1.0.0" },
            "channels": { "a": {
                "address": "shop.order.created.v1",
                "x-tidings-sender": "shop", "x-tidings-receivers": ["mail"],
                "messages": { "m": { "$ref": "#/components/messages/M" } },
            }},
            "components": {
                "messages": { "M": {
                    "contentType": "application/cloudevents+json",
                    "bindings": { "kafka": { "key": { "type": "string" } } },
                    "payload": {
                        "allOf": [{ "$ref": "#/components/schemas/Envelope" }],
                        "properties": { "source": { "const": "shop" }, "data": { "type": "object" } },
                    },
                } },
                "schemas": { "Envelope": {
                    "type": "object", "required": ["tenantid"],
                    "properties": { "subject": { "type": "string" }, "tenantid": { "type": "string" } },
                } },
            },
        });
        let of = |document: &Value| Catalog::parse(&document.to_string()).unwrap();
        let check = |place: &str, value: Value, detail: &str, broken: Broken| {
            let mut changed = base.clone();
            *changed.pointer_mut(place).unwrap() = value;
            let found = diff(&of(&base), &of(&changed));
            let found: Vec<_> = found
                .iter()
                .map(|it| (it.detail.as_str(), it.broken))
                .collect();
            assert_eq!(found, [(detail, broken)]);
        };
        let (message, envelope) = ("/components/messages/M", "/components/schemas/Envelope");
        check(
            &format!("{envelope}/required"),
            json!([]),
            "its envelope, tenantid: it may be missing now",
            Broken::Receivers,
        );
        check(
            &format!("{envelope}/properties/subject/type"),
            json!("integer"),
            "its envelope, subject: its type is another",
            Broken::Everybody,
        );
        check(
            &format!("{message}/payload/properties/source/const"),
            json!("store"),
            "its envelope, source: its values are others",
            Broken::Everybody,
        );
        check(
            &format!("{message}/bindings/kafka/key/type"),
            json!("integer"),
            "its key: its type is another",
            Broken::Everybody,
        );
        let mut open = base.clone();
        let channel = open["channels"]["a"].as_object_mut().unwrap();
        channel.remove("x-tidings-sender");
        let mut found = diff(&of(&base), &of(&open));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].broken, Broken::Receivers);
        name_readers(&mut found, |_| vec!["crm".into(), "mail".into()]);
        assert_eq!(found[0].services, ["mail", "crm"]);
        assert_eq!(diff(&of(&base), &of(&base)), []);
    }
}

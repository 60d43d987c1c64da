//! `tidings trigger`: publishes an example of a type, so that something happens to look at.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tidings_client::{Client, Error, NewEvent};

use crate::connection::{Connection, block_on};
use crate::output::{Output, note};
use crate::publish::shown;

/// Publishes an event of a type, with the data of the example that a catalogue in force has for it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// The event's type, as in crm.contact.created
    r#type: String,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let event_type = &arguments.r#type;
    let receipt = block_on(async {
        let found = example(&client.asyncapi().await?, event_type);
        if found.is_none() {
            note(&format!(
                "no catalogue has an example of {event_type}; its data is {{}}"
            ));
        }
        let data = found.unwrap_or_else(|| json!({}));
        let refusal = match client.publish(&NewEvent::new(event_type, &data)).await {
            Ok(receipt) => return Ok(receipt),
            Err(refusal) => refusal,
        };
        let forbidden =
            matches!(&refusal, Error::Refused(it) if it.code == "EVENT_PUBLISH_FORBIDDEN");
        if forbidden && is_custom(&client, event_type).await {
            return Err(anyhow!(
                "{event_type} is a custom event, which no module publishes: emit one with 'tidings emit {event_type} PAYLOAD'"
            ));
        }
        Err(refusal.into())
    })?;
    output.one(&shown(&receipt))
}

/// Whether the tenant has registered a custom event of this name. Who may not be told is told of the refusal alone.
async fn is_custom(client: &Client, event_type: &str) -> bool {
    let Some((namespace, name)) = event_type.split_once('.') else {
        return false;
    };
    client.get_custom_event(namespace, name).await.is_ok()
}

/// The data of the first example of a type: that of the channel of its name, or of a message of that type.
fn example(document: &Value, event_type: &str) -> Option<Value> {
    let channels = document["channels"].as_object()?.values();
    channels
        .flat_map(|channel| {
            let messages = channel["messages"].as_object();
            let messages = messages.into_iter().flat_map(serde_json::Map::values);
            messages.map(move |message| (channel, resolved(document, message)))
        })
        .flat_map(|(channel, message)| {
            let examples = message["examples"].as_array();
            let examples = examples.into_iter().flatten();
            examples.map(move |example| (channel, message, &example["payload"]))
        })
        .find(|(channel, message, payload)| {
            let of = |value: &Value| value.as_str() == Some(event_type);
            of(&payload["type"]) || of(&message["name"]) || of(&channel["address"])
        })
        .map(|(_, _, payload)| match payload.get("specversion") {
            Some(_) => payload["data"].clone(),
            None => payload.clone(),
        })
        .filter(|data| !data.is_null())
}

/// What a reference within the document stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str();
    let pointer = pointer.and_then(|reference| reference.strip_prefix('#'));
    pointer
        .and_then(|pointer| document.pointer(pointer))
        .unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_found_by_channel_name_or_type_and_unwrapped() {
        let enveloped = json!({ "specversion": "1.0", "type": "a.typed", "data": { "n": 1 } });
        let document = json!({
            "channels": {
                "one": { "address": "a.addressed", "messages": { "m": { "$ref": "#/components/messages/m" } } },
                "two": { "address": "t", "messages": { "m": { "examples": [{ "payload": enveloped }] } } },
                "three": { "address": "u", "messages": { "m": { "name": "a.bare", "examples": [] } } },
            },
            "components": { "messages": { "m": { "name": "a.named", "examples": [{ "payload": { "n": 2 } }] } } },
        });
        for (event_type, expected) in [
            ("a.addressed", Some(json!({ "n": 2 }))),
            ("a.named", Some(json!({ "n": 2 }))),
            ("a.typed", Some(json!({ "n": 1 }))),
            ("a.bare", None),
            ("a.other", None),
        ] {
            assert_eq!(example(&document, event_type), expected, "{event_type}");
        }
    }
}

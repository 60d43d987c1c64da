//! Several catalogues, and types that no catalogue carries, as one AsyncAPI document.
//!
//! What two documents may both call by one name (channels, operations, servers, components) gets the
//! catalogue's name before its own, and every reference follows.

use serde_json::{Map, Value, json};
use tidings_event::{EventType, Topic};

use crate::Catalog;
use crate::catalog::STRUCTURED;
use crate::reference::escaped;

/// A type that no catalogue carries, with where its events go.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// Who publishes it.
    pub sender: String,
    /// The same for people.
    pub title: String,
    /// The type, or what its types are called together.
    pub name: String,
    /// The schema of the type.
    pub types: Value,
    /// The schema of the data.
    pub data: Value,
    /// The topic that its events go to.
    pub topic: Topic,
    /// Whether the record's value is an envelope around the data, and its media type.
    pub envelope: Option<&'static str>,
}

/// One document of everything: the catalogues by their names, and what is declared beside them.
pub fn installation(version: &str, catalogs: &[(&str, &Catalog)], declared: &[Declared]) -> Value {
    let mut whole = Whole::default();
    for (name, catalog) in catalogs {
        whole.add(name, catalog);
    }
    for one in declared {
        whole.declare(one);
    }
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidings",
            "version": version,
            "description": "Every topic of this installation.",
        },
        "defaultContentType": "application/json",
    });
    for (section, members) in [
        ("servers", whole.servers),
        ("channels", whole.channels),
        ("operations", whole.operations),
        ("components", whole.components),
    ] {
        if !members.is_empty() {
            document[section] = Value::Object(members);
        }
    }
    document
}

#[derive(Default)]
struct Whole {
    servers: Map<String, Value>,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    components: Map<String, Value>,
}

impl Whole {
    fn add(&mut self, name: &str, catalog: &Catalog) {
        let (parsed, document, catalog) = (catalog, &catalog.document, name);
        let content_type = document.get("defaultContentType");
        let content_type = content_type.cloned().unwrap_or_else(|| json!(STRUCTURED));
        let section = |name: &str| {
            let members = document.get(name).and_then(Value::as_object);
            members.cloned().unwrap_or_default()
        };
        for (name, mut server) in section("servers") {
            point(&mut server, catalog);
            self.servers.insert(prefixed(catalog, &name), server);
        }
        for (name, mut channel) in section("channels") {
            messages(channel.get_mut("messages"), &content_type);
            parties(&mut channel, parsed);
            point(&mut channel, catalog);
            self.channels.insert(prefixed(catalog, &name), channel);
        }
        for (name, mut operation) in section("operations") {
            point(&mut operation, catalog);
            self.operations.insert(prefixed(catalog, &name), operation);
        }
        for (kind, mut things) in section("components") {
            if kind == "messages" {
                messages(Some(&mut things), &content_type);
            }
            point(&mut things, catalog);
            let Value::Object(things) = things else {
                continue;
            };
            let all = self.components.entry(kind).or_insert_with(|| json!({}));
            for (name, thing) in things {
                all[prefixed(catalog, &name)] = thing;
            }
        }
    }

    fn declare(&mut self, one: &Declared) {
        let (topic, name) = (one.topic.as_str(), one.name.as_str());
        let channel = self.channels.entry(topic);
        let channel = channel.or_insert_with(|| json!({ "address": topic, "messages": {} }));
        let payload = match one.envelope {
            Some(_) => json!({
                "type": "object",
                "properties": { "type": one.types, "data": one.data },
            }),
            None => one.data.clone(),
        };
        channel["messages"][name] = json!({
            "name": name,
            "contentType": one.envelope.unwrap_or("application/json"),
            "payload": payload,
        });
        let place = format!("#/channels/{}", escaped(topic));
        let message = format!("{place}/messages/{}", escaped(name));
        let name = format!("{}.publish.{topic}", one.sender);
        let operation = self.operations.entry(name).or_insert_with(|| {
            json!({
                "action": "send",
                "title": one.title,
                "channel": { "$ref": place },
                "messages": [],
            })
        });
        if let Some(messages) = operation["messages"].as_array_mut() {
            messages.push(json!({ "$ref": message }));
        }
    }
}

fn prefixed(catalog: &str, name: &str) -> String {
    format!("{catalog}.{name}")
}

/// Of several services' operations none says any more who sends and who receives: the channel does.
fn parties(channel: &mut Value, catalog: &Catalog) {
    let address = channel.get("address").and_then(Value::as_str);
    let event_type = address.and_then(|address| address.parse::<EventType>().ok());
    let Some(known) = event_type.and_then(|event_type| catalog.channels.get(&event_type)) else {
        return;
    };
    if let Some(sender) = &known.sender {
        channel["x-tidings-sender"] = json!(sender);
    }
    if !known.receivers.is_empty() {
        channel["x-tidings-receivers"] = json!(known.receivers);
    }
}

/// What a document says for all its messages, each of them says itself from now on.
fn messages(messages: Option<&mut Value>, content_type: &Value) {
    let messages = messages.and_then(Value::as_object_mut);
    for (_, message) in messages.into_iter().flatten() {
        if let Some(message) = message.as_object_mut()
            && !message.contains_key("$ref")
        {
            let given = message.entry("contentType");
            given.or_insert_with(|| content_type.clone());
        }
    }
}

/// Lets every reference follow what it refers to.
fn point(value: &mut Value, catalog: &str) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(target) if name == "$ref" => *target = moved(target, catalog),
                    member => point(member, catalog),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| point(item, catalog)),
        _ => {}
    }
}

fn moved(target: &str, catalog: &str) -> String {
    let mut parts: Vec<String> = target.split('/').map(str::to_owned).collect();
    let named = match parts.get(1).map(String::as_str) {
        Some("components") => 3,
        Some("channels" | "operations" | "servers") => 2,
        _ => return target.to_owned(),
    };
    if let Some(name) = parts.get_mut(named) {
        *name = prefixed(catalog, name);
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{foreign, resolve};

    const CPAAS: &str = include_str!("../../../examples/catalogs/cpaas.asyncapi.yaml");
    const MARKETPLACE: &str = include_str!("../../../examples/catalogs/marketplace.asyncapi.yaml");

    fn dangling(document: &Value, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if members.contains_key("$ref") && resolve(document, value).is_none() {
                    found.push(value.to_string());
                }
                members
                    .values()
                    .for_each(|member| dangling(document, member, found));
            }
            Value::Array(items) => items
                .iter()
                .for_each(|item| dangling(document, item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_whole_is_a_catalogue_of_all_and_no_reference_dangles() {
        let (cpaas, marketplace) = (
            Catalog::parse(CPAAS).unwrap(),
            Catalog::parse(MARKETPLACE).unwrap(),
        );
        let catalogs = [("cpaas", &cpaas), ("marketplace", &marketplace)];
        let whole = installation("1.0.0", &catalogs, &[]);
        let read = Catalog::parse(&whole.to_string()).unwrap();
        assert_eq!(read.channels.len(), 25);
        for (event_type, channel) in cpaas.channels.iter().chain(&marketplace.channels) {
            let same = &read.channels[event_type];
            assert_eq!(
                (&same.sender, same.binary),
                (&channel.sender, channel.binary)
            );
        }
        let mut found = Vec::new();
        dangling(&whole, &whole, &mut found);
        assert_eq!(found, Vec::<String>::new());
        let mut leaving = Vec::new();
        foreign(&whole, "", &mut leaving);
        assert!(leaving.is_empty(), "{leaving:?}");
    }

    #[test]
    fn declared_types_of_one_topic_are_messages_of_one_channel() {
        let declared = |name: &str| Declared {
            sender: "crm".into(),
            title: "Module crm".into(),
            name: format!("crm.contact.{name}"),
            types: json!({ "const": format!("crm.contact.{name}") }),
            data: json!({ "type": "object" }),
            topic: "platform.data.events".parse().unwrap(),
            envelope: Some("application/json"),
        };
        let whole = installation("1.0.0", &[], &[declared("created"), declared("updated")]);
        let channel = &whole["channels"]["platform.data.events"];
        assert_eq!(channel["messages"].as_object().unwrap().len(), 2);
        let operation = &whole["operations"]["crm.publish.platform.data.events"];
        for message in operation["messages"].as_array().unwrap() {
            let message = resolve(&whole, message).unwrap();
            assert!(message["name"].as_str().unwrap().starts_with("crm.contact"));
        }
    }
}

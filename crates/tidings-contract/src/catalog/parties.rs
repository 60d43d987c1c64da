//! Who sends to a channel and who reads it: what a document's operations say, and the members of ours beside them.
//!
//! A channel without a sender is open to every module. So nothing that may name one is passed over in silence.

use serde_json::Value;
use tidings_event::ModuleId;

use super::Reading;
use crate::reference::{escaped, resolve};

/// One of the document's operations.
pub(super) struct Operation<'d> {
    sends: bool,
    channel: &'d Value,
}

impl<'d> Reading<'d> {
    /// The document's operations, which are those of its service.
    pub(super) fn operations(&mut self) -> Vec<Operation<'d>> {
        let document = self.document;
        let Some(given) = document.get("operations") else {
            return Vec::new();
        };
        let Some(given) = given.as_object() else {
            self.wrong("/operations", "operations stand under their names");
            return Vec::new();
        };
        let mut operations = Vec::new();
        for (name, operation) in given {
            let place = format!("/operations/{}", escaped(name));
            let Some(operation) = resolve(document, operation) else {
                self.wrong(&place, "what it refers to is not there");
                continue;
            };
            let action = operation.get("action").and_then(Value::as_str);
            if !matches!(action, Some("send" | "receive")) {
                self.wrong(&format!("{place}/action"), "it is send or receive");
            }
            let channel = operation
                .get("channel")
                .and_then(|it| resolve(document, it));
            let own = document.get("channels").and_then(Value::as_object);
            let own = |channel: &&Value| {
                own.is_some_and(|own| own.values().any(|it| std::ptr::eq(it, *channel)))
            };
            let Some(channel) = channel.filter(own) else {
                let detail = "it refers to none of the document's channels";
                self.wrong(&format!("{place}/channel"), detail);
                continue;
            };
            let sends = action == Some("send");
            operations.push(Operation { sends, channel });
        }
        operations
    }

    /// The sender of a channel and its receivers.
    pub(super) fn parties(
        &mut self,
        place: &str,
        channel: &'d Value,
        service: Option<&str>,
    ) -> (Option<String>, Vec<String>) {
        let mut sender = self.name_of(channel, place, "x-tidings-sender");
        let mut receivers = Vec::new();
        match channel.get("x-tidings-receivers") {
            None => {}
            Some(Value::Array(given)) if given.iter().all(Value::is_string) => {
                let names = given.iter().filter_map(Value::as_str);
                receivers.extend(names.map(str::to_owned));
            }
            Some(_) => self.wrong(
                &format!("{place}/x-tidings-receivers"),
                "it is a list of services' names",
            ),
        }
        let Some(service) = service else {
            let mut operations = self.operations.iter();
            let sent = operations.any(|it| it.sends && std::ptr::eq(it.channel, channel));
            if sent && sender.is_none() {
                let detail =
                    "it is sent to by a service without a name: info has no x-tidings-service";
                self.wrong(&format!("{place}/x-tidings-sender"), detail);
            }
            return (sender, receivers);
        };
        let mut contradicted = false;
        for operation in &self.operations {
            if !std::ptr::eq(operation.channel, channel) {
                continue;
            }
            if operation.sends {
                contradicted |= sender.as_deref().is_some_and(|sender| sender != service);
                sender.get_or_insert_with(|| service.to_owned());
            } else if !receivers.iter().any(|one| one == service) {
                receivers.push(service.to_owned());
            }
        }
        if contradicted {
            let detail = format!("{service} sends to it, but its x-tidings-sender is another");
            self.wrong(place, detail);
        }
        (sender, receivers)
    }

    /// A member of ours that names who publishes: a module.
    pub(super) fn name_of(&mut self, of: &Value, place: &str, name: &str) -> Option<String> {
        let text = self.text_of(of, place, name)?;
        if let Some(error) = text.parse::<ModuleId>().err().filter(|_| self.is_new) {
            self.wrong(&format!("{place}/{name}"), error.to_string());
        }
        Some(text)
    }

    /// A member of ours, which is a text where it stands.
    pub(super) fn text_of(&mut self, of: &Value, place: &str, name: &str) -> Option<String> {
        let text = of.get(name)?.as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(&format!("{place}/{name}"), "it is a text");
        }
        text
    }
}

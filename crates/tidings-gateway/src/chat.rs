//! Source C's chat extension, shipped with every binary: any extension posts to a channel of its workspace by publishing
//! `platform.notification`, and needs to know nothing of this one.
//!
//! Cast: [`ChatExtension`], a plugin like any other, which posts and tells of it; [`Chat`], the room that members read
//! channels through. The channel `general` is there from the beginning, others from their first message on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tidings_plugin::{HandlerError, PlatformEvent, PlatformEventHandler, event_handlers};
pub use tidings_store::ChatMessageRow;
use tidings_store::{Store, storable};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::access::Caller;
use crate::clock::Clock;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::workspaces::Workspaces;

/// The id of its extension.
pub(crate) const ID: &str = "chat";
/// The channel that every workspace has.
const GENERAL: &str = "general";
/// How long a message is kept after it was posted. The event that it came with has the log's retention.
pub(crate) const KEPT: Duration = Duration::from_hours(365 * 24);
/// The longest name of a channel, in characters.
const MAX_CHANNEL: usize = 128;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 10_000;
/// The longest name of a sender, in characters.
const MAX_SENDER: usize = 128;

/// These plugins, and those that are shipped.
pub(crate) fn shipped(
    mut plugins: Vec<Arc<dyn PlatformEventHandler>>,
    store: &Store,
    clock: &Clock,
) -> Vec<Arc<dyn PlatformEventHandler>> {
    plugins.push(Arc::new(ChatExtension {
        store: store.clone(),
        clock: clock.clone(),
        runtime: Handle::current(),
    }));
    plugins
}

/// The name of a channel: `general`, `deals`, or the id of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Channel(String);

impl Channel {
    /// As it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that names no channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidChannel;

impl fmt::Display for InvalidChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a channel is general, deals or the id of a conversation: 1 to {MAX_CHANNEL} letters, \
             digits, dots, colons, _ or -"
        )
    }
}

impl std::error::Error for InvalidChannel {}

impl FromStr for Channel {
    type Err = InvalidChannel;

    fn from_str(text: &str) -> Result<Self, InvalidChannel> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        let fits = (1..=MAX_CHANNEL).contains(&text.len()) && text.bytes().all(legal);
        fits.then(|| Self(text.to_owned())).ok_or(InvalidChannel)
    }
}

impl TryFrom<String> for Channel {
    type Error = InvalidChannel;

    fn try_from(text: String) -> Result<Self, InvalidChannel> {
        text.parse()
    }
}

/// The payload of `platform.notification`. Members beyond these are passed over.
#[derive(Debug, Deserialize)]
struct Notification {
    channel: Channel,
    message: String,
    sender: Option<String>,
}

/// The plugin of the extension `chat`.
struct ChatExtension {
    store: Store,
    clock: Clock,
    runtime: Handle,
}

#[event_handlers(extension = "chat")]
impl ChatExtension {
    /// Posts what it is told, once for each event, and tells of it.
    #[event_handler(event_key = "platform.notification", async = true)]
    fn post(&self, notification: Notification, event: &PlatformEvent) -> Result<(), HandlerError> {
        let Notification {
            channel,
            message,
            sender,
        } = notification;
        let sender = sender.unwrap_or_else(|| event.actor.clone());
        if message.trim().is_empty() || message.chars().count() > MAX_MESSAGE {
            let says =
                format!("'message' has 1 to {MAX_MESSAGE} characters, not all of them spaces");
            return Err(HandlerError::new(says));
        }
        if sender.chars().count() > MAX_SENDER {
            let says = format!("'sender' has at most {MAX_SENDER} characters");
            return Err(HandlerError::new(says));
        }
        let row = ChatMessageRow {
            workspace: event.workspace_id.clone(),
            channel: channel.0,
            id: event.event_id,
            message: storable(message),
            sender: storable(sender),
            created_at_ms: self.clock.now_ms(),
        };
        let posted = self.runtime.block_on(self.store.chat().post(&row));
        posted.map_err(|error| {
            // Whoever reads the attempt is told nothing of the store.
            tracing::error!(%error, "a chat message could not be kept");
            HandlerError::new("the message could not be kept")
        })?;
        let told = json!({
            "messageId": row.id, "channel": row.channel, "message": row.message, "sender": row.sender,
        });
        event.publish("chat.message.received", &told)?;
        Ok(())
    }
}

/// The room.
pub struct Chat {
    store: Store,
    workspaces: Arc<Workspaces>,
}

impl Chat {
    pub(crate) fn new(store: Store, workspaces: Arc<Workspaces>) -> Self {
        Self { store, workspaces }
    }

    /// A channel's messages, oldest first, after the one of a time and an id; for whom the workspace is open to.
    pub async fn messages(
        &self,
        caller: &Caller,
        workspace: &str,
        channel: &str,
        after: Option<(i64, Uuid)>,
        limit: u32,
    ) -> Result<Vec<ChatMessageRow>, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        let channel: Channel = channel.parse().map_err(|_| Refusal::not_found("channel"))?;
        let (rows, name) = (self.store.chat(), channel.as_str());
        let found = rows.messages(&workspace.id, name, after, limit).await;
        let found = found.map_err(store_fault)?;
        let known = !found.is_empty() || name == GENERAL;
        if known
            || rows
                .has_channel(&workspace.id, name)
                .await
                .map_err(store_fault)?
        {
            return Ok(found);
        }
        Err(Refusal::not_found("channel"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_words_and_ids() {
        for good in [
            "general",
            "deals",
            "019c2f00-0000-7000-8000-000000000000",
            "C.1:x_y",
        ] {
            assert_eq!(good.parse::<Channel>().unwrap().as_str(), good);
        }
        let long = "x".repeat(129);
        for bad in ["", "a b", "a/b", "ä", &long] {
            assert_eq!(bad.parse::<Channel>(), Err(InvalidChannel), "{bad}");
        }
    }
}

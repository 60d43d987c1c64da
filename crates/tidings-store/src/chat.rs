//! The messages of the chat extension (source C).

use tidings_event::WorkspaceId;
use uuid::Uuid;

use crate::pool::{Columns, Connections, forget, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed};

/// A message in a channel of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessageRow {
    /// In which workspace.
    pub workspace: WorkspaceId,
    /// In which channel there.
    pub channel: String,
    /// The id of the event that it came with.
    pub id: Uuid,
    /// What was said.
    pub message: String,
    /// By whom.
    pub sender: String,
    /// When it was posted, in milliseconds since 1970.
    pub created_at_ms: i64,
}

/// The methods on chat messages.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    connections: &'a Connections,
}

impl<'a> Chat<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Posts a message. Nothing changes when it is there already.
    pub async fn post(&self, row: &ChatMessageRow) -> Result<(), StoreError> {
        let query = "INSERT INTO chat_messages \
             (workspace_id, channel, id, message, sender, created_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (workspace_id, channel, id) DO NOTHING";
        writing_on_either!(self.connections, "post a message", connection => {
            sqlx::query(query)
                .bind(row.workspace.as_str())
                .bind(&row.channel)
                .bind(row.id.to_string())
                .bind(&row.message)
                .bind(&row.sender)
                .bind(row.created_at_ms)
                .bind(row.seal())
                .execute(connection)
                .await
                .map(drop)
        })
    }

    /// A channel's messages in the order in which they were posted, after the one of a time and an id.
    pub async fn messages(
        &self,
        workspace: &WorkspaceId,
        channel: &str,
        after: Option<(i64, Uuid)>,
        limit: u32,
    ) -> Result<Vec<ChatMessageRow>, StoreError> {
        let query = "SELECT * FROM chat_messages WHERE workspace_id = $1 AND channel = $2 \
             AND (created_at_ms, id) > ($3, $4) ORDER BY created_at_ms, id LIMIT $5";
        let (after_ms, after_id) = match after {
            Some((at, id)) => (at, id.to_string()),
            None => (i64::MIN, String::new()),
        };
        on_either!(self.connections, "read messages", connection => {
            sqlx::query(query)
                .bind(workspace.as_str())
                .bind(channel)
                .bind(after_ms)
                .bind(&after_id)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ChatMessageRow::from_row).collect())
        })?
    }

    /// Forgets messages that were posted before a time.
    pub async fn forget(&self, before_ms: i64) -> Result<u64, StoreError> {
        let query = "DELETE FROM chat_messages WHERE (workspace_id, channel, id) IN (\
             SELECT workspace_id, channel, id FROM chat_messages WHERE created_at_ms < $1 LIMIT $2)";
        forget(self.connections, "forget old messages", query, before_ms).await
    }

    /// Whether anything is kept of a channel.
    pub async fn has_channel(
        &self,
        workspace: &WorkspaceId,
        channel: &str,
    ) -> Result<bool, StoreError> {
        let found = self.messages(workspace, channel, None, 1).await?;
        Ok(!found.is_empty())
    }
}

impl Sealed for ChatMessageRow {
    const TABLE: &'static str = "chat_messages";
    const ALL: &'static str = "SELECT * FROM chat_messages";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.workspace.as_str());
        let seal = seal.text(&self.channel).text(&self.id.to_string());
        let seal = seal.text(&self.message).text(&self.sender);
        seal.number(self.created_at_ms).finish()
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.workspace, self.channel, self.id)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a message");
        Ok(Self {
            workspace: parsed(row, "of a message", "workspace_id")?,
            channel: row.text("channel").map_err(unread())?,
            id: parsed(row, "of a message", "id")?,
            message: row.text("message").map_err(unread())?,
            sender: row.text("sender").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn messages_are_paged_by_channel_and_posted_once() {
        on_each_database(async |store| {
            let room = store.chat();
            let row = |channel: &str, id: u128| ChatMessageRow {
                workspace: "ws-1".parse().unwrap(),
                channel: channel.into(),
                id: Uuid::from_u128(id),
                message: format!("message {id}"),
                sender: "crm-bot".into(),
                created_at_ms: 1,
            };
            let (one, two, other) = (row("deals", 1), row("deals", 2), row("general", 3));
            for row in [&two, &one, &other, &one] {
                room.post(row).await.unwrap();
            }
            let page = |after, limit| room.messages(&one.workspace, "deals", after, limit);
            assert_eq!(page(None, 1).await.unwrap(), slice::from_ref(&one));
            assert_eq!(
                page(Some((1, one.id)), 9).await.unwrap(),
                slice::from_ref(&two)
            );
            assert_eq!(page(Some((1, two.id)), 9).await.unwrap(), []);
            let elsewhere = "ws-2".parse().unwrap();
            assert!(room.has_channel(&one.workspace, "general").await.unwrap());
            assert!(!room.has_channel(&elsewhere, "general").await.unwrap());
            let late = ChatMessageRow {
                created_at_ms: 2,
                ..row("deals", 4)
            };
            room.post(&late).await.unwrap();
            assert_eq!(room.forget(2).await.unwrap(), 3);
            assert_eq!(page(None, 9).await.unwrap(), slice::from_ref(&late));
        })
        .await;
    }
}

//! The channels of a workspace, as the chat extension fills them (source C).

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidings_event::event::rfc3339;
use tidings_gateway::chat::ChatMessageRow;
use tidings_gateway::publish::refusal::Refusal;
use uuid::Uuid;

use crate::House;
use crate::page::{self, Page, Stretch};
use crate::problem::Refused;
use crate::request::{Authenticated, Path, Queried, read_query};

/// The messages of a channel, oldest first; for members. `general` is always there, others from their first message.
#[utoipa::path(get, path = "/api/workspaces/{workspaceId}/channels/{channel}/messages", tag = "workspaces",
    params(("workspaceId" = String, Path), ("channel" = String, Path), Stretch),
    responses((status = 200, body = Page<ChatMessage>)))]
pub(crate) async fn messages(
    State(house): State<House>,
    Authenticated(caller): Authenticated,
    Path((workspace, channel)): Path<(String, String)>,
    stretch: Queried<Stretch>,
) -> Result<Response, Refused> {
    let stretch = read_query(stretch)?;
    let limit = stretch.limit()?;
    let after = stretch.cursor.as_deref().map(place).transpose()?;
    let room = &house.gateway.chat;
    let rows = room
        .messages(&caller, &workspace, &channel, after, limit)
        .await?;
    let next = page::next(&rows, limit, |row| {
        format!("{}:{}", row.created_at_ms, row.id)
    });
    Ok(Page::of(rows.iter().map(ChatMessage::of).collect(), next).into_response())
}

fn place(cursor: &str) -> Result<(i64, Uuid), Refusal> {
    let parts = cursor.split_once(':');
    let place = parts.and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    place.ok_or_else(|| Refusal::invalid("cursor", "'cursor' is not one of a page before."))
}

/// A message of a channel.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChatMessage {
    id: Uuid,
    channel: String,
    message: String,
    sender: String,
    posted_at: String,
}

impl ChatMessage {
    fn of(row: &ChatMessageRow) -> Self {
        Self {
            id: row.id,
            channel: row.channel.clone(),
            message: row.message.clone(),
            sender: row.sender.clone(),
            posted_at: rfc3339(row.created_at_ms),
        }
    }
}

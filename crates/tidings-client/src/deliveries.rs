//! Subscriptions, dead letters, and what became of an event.

use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::Error;
use crate::event::Page;
use crate::request::{Repeat, Request};

/// Which dead letters, whatever their state. Nothing set: all of the tenant's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeadLetterFilter {
    /// An event type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// A subscription's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Given up at or after this time (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Given up before this time (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Text in the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which page of which dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterQuery {
    /// Which.
    pub filter: DeadLetterFilter,
    /// `open`, `replaying` or `closed`.
    pub state: Option<String>,
    /// At most so many, 1 to 1,000.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

const SUBSCRIPTIONS: [&str; 2] = ["v1", "subscriptions"];
const DEAD_LETTERS: [&str; 2] = ["v1", "dead-letters"];

impl Client {
    /// A page of the tenant's subscriptions, oldest first, from where the page before ended; of 1 to 1,000, or 100.
    pub async fn list_subscriptions(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<Value>, Error> {
        self.list(&SUBSCRIPTIONS, &[], limit, cursor).await
    }

    /// A subscription.
    pub async fn get_subscription(&self, id: &str) -> Result<Value, Error> {
        self.get(&["v1", "subscriptions", id]).await?.json()
    }

    /// Makes a subscription: `{name, filter, target, delivery, enabled, replayFrom}`. What its messages are
    /// verified with is the answer's `secret`.
    pub async fn create_subscription(&self, subscription: &Value) -> Result<Value, Error> {
        let request = self.post(&SUBSCRIPTIONS, Repeat::IfNotDone, subscription.clone());
        request.send(self).await?.json()
    }

    /// Changes a subscription by a JSON merge patch (RFC 7396).
    pub async fn patch_subscription(&self, id: &str, patch: &Value) -> Result<Value, Error> {
        let url = self.url(&["v1", "subscriptions", id]);
        let request = Request::new(Method::PATCH, url, Repeat::IfNotDone).json(patch.clone());
        request.send(self).await?.json()
    }

    /// Takes a subscription away.
    pub async fn delete_subscription(&self, id: &str) -> Result<(), Error> {
        self.delete(&["v1", "subscriptions", id]).await
    }

    /// Stops sending; what matches waits.
    pub async fn pause_subscription(&self, id: &str) -> Result<Value, Error> {
        self.change(id, "pause", Repeat::Safe, None).await
    }

    /// Sends again, what has waited first.
    pub async fn resume_subscription(&self, id: &str) -> Result<Value, Error> {
        self.change(id, "resume", Repeat::Safe, None).await
    }

    /// Goes on from another place of the log: `now`, `beginning` or an RFC 3339 time.
    pub async fn seek_subscription(&self, id: &str, to: &str) -> Result<Value, Error> {
        let body = json!({ "to": to });
        self.change(id, "seek", Repeat::IfNotDone, Some(body)).await
    }

    /// Signs with a new secret, and with the one before until the overlap (`24h` if none is given) ends. The
    /// new one is made by the server when there is none.
    pub async fn rotate_subscription_secret(
        &self,
        id: &str,
        overlap: Option<&str>,
        secret: Option<&str>,
    ) -> Result<Value, Error> {
        let body = json!({ "overlap": overlap, "secret": secret });
        self.change(id, "rotate-secret", Repeat::IfNotDone, Some(body))
            .await
    }

    /// Sends a subscription's receiver what it must cope with: `passed`, and how it answered in `cases`.
    pub async fn test_subscription(&self, id: &str) -> Result<Value, Error> {
        self.change(id, "test", Repeat::IfNotDone, None).await
    }

    /// Keys of an ordered subscription that are parked: `items`, and in `nextCursor` the number to ask the next page with,
    /// null on the last one. A page has 1 to 1,000, or 100.
    pub async fn list_parked_keys(
        &self,
        id: &str,
        limit: Option<u32>,
        cursor: Option<u64>,
    ) -> Result<Value, Error> {
        let mut url = self.url(&["v1", "subscriptions", id, "parked"]);
        let (limit, cursor) = (limit.map(u64::from), cursor);
        for (name, value) in [("limit", limit), ("cursor", cursor)] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value.to_string());
            }
        }
        let request = Request::new(Method::GET, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// Lets a parked key go on: its head is tried again or, with `drop_head`, becomes a dead letter.
    pub async fn release_parked_key(
        &self,
        id: &str,
        key: &str,
        drop_head: bool,
    ) -> Result<(), Error> {
        let path = ["v1", "subscriptions", id, "parked", "release"];
        let body = json!({ "key": key, "dropHead": drop_head });
        let request = self.post(&path, Repeat::IfNotDone, body);
        request.send(self).await.map(drop)
    }

    /// What a subscription's messages are verified with.
    pub async fn get_subscription_secret(&self, id: &str) -> Result<Value, Error> {
        self.get(&["v1", "subscriptions", id, "secret"])
            .await?
            .json()
    }

    /// A page of dead letters, oldest first.
    pub async fn list_dead_letters(&self, query: &DeadLetterQuery) -> Result<Page<Value>, Error> {
        let parameters = [
            ("type", query.filter.event_type.as_deref()),
            ("subscription", query.filter.subscription.as_deref()),
            ("since", query.filter.since.as_deref()),
            ("until", query.filter.until.as_deref()),
            ("error", query.filter.error.as_deref()),
            ("state", query.state.as_deref()),
        ];
        let (limit, cursor) = (query.limit, query.cursor.as_deref());
        self.list(&DEAD_LETTERS, &parameters, limit, cursor).await
    }

    /// A dead letter with its event, as the server wrote it: no number of its data loses digits.
    pub async fn get_dead_letter(&self, id: &str) -> Result<Box<RawValue>, Error> {
        self.get(&["v1", "dead-letters", id]).await?.json()
    }

    /// Sends a dead letter's event again; success closes it.
    pub async fn replay_dead_letter(&self, id: &str) -> Result<Value, Error> {
        let path = ["v1", "dead-letters", id, "replay"];
        let request = Request::new(Method::POST, self.url(&path), Repeat::IfNotDone);
        request.send(self).await?.json()
    }

    /// Sends all open ones again that the filter fits, at most so many a second. The answer is the replay:
    /// [`get_replay`](Self::get_replay) of its `id` says how far it has come.
    pub async fn replay_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        rate: Option<u32>,
    ) -> Result<Value, Error> {
        let mut body = json!(filter);
        body["rate"] = json!(rate);
        let path = ["v1", "dead-letters", "replay"];
        let request = self.post(&path, Repeat::IfNotDone, body);
        request.send(self).await?.json()
    }

    /// Sends a subscription's history again: `{from, until, types, rate, routing, shadowUrl}`. With `dryRun`, says
    /// what that would be.
    pub async fn replay_history(&self, subscription: &str, plan: &Value) -> Result<Value, Error> {
        let body = Some(plan.clone());
        self.change(subscription, "replay", Repeat::IfNotDone, body)
            .await
    }

    /// A page of the tenant's replays, newest first, from where the page before ended; of 1 to 1,000, or 100.
    pub async fn list_replays(
        &self,
        limit: Option<u32>,
        cursor: Option<&str>,
    ) -> Result<Page<Value>, Error> {
        self.list(&["v1", "replays"], &[], limit, cursor).await
    }

    /// How far a replay has come.
    pub async fn get_replay(&self, id: &str) -> Result<Value, Error> {
        self.get(&["v1", "replays", id]).await?.json()
    }

    /// Stops a replay where it is.
    pub async fn cancel_replay(&self, id: &str) -> Result<Value, Error> {
        let url = self.url(&["v1", "replays", id, "cancel"]);
        let request = Request::new(Method::POST, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// Goes on with a replay that was cancelled.
    pub async fn resume_replay(&self, id: &str) -> Result<Value, Error> {
        let url = self.url(&["v1", "replays", id, "resume"]);
        let request = Request::new(Method::POST, url, Repeat::Safe);
        request.send(self).await?.json()
    }

    /// Removes a dead letter.
    pub async fn delete_dead_letter(&self, id: &str) -> Result<(), Error> {
        self.delete(&["v1", "dead-letters", id]).await
    }

    /// What became of an event: each delivery, each attempt. As the server wrote it: no number of its data loses digits.
    pub async fn trace_event(&self, event_id: &str) -> Result<Box<RawValue>, Error> {
        self.get(&["v1", "events", event_id, "trace"]).await?.json()
    }

    /// The AsyncAPI document of the installation.
    pub async fn asyncapi(&self) -> Result<Value, Error> {
        self.get(&["asyncapi.json"]).await?.json()
    }

    async fn change(
        &self,
        id: &str,
        what: &str,
        repeat: Repeat,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let url = self.url(&["v1", "subscriptions", id, what]);
        let request = Request::new(Method::POST, url, repeat);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send(self).await?.json()
    }
}

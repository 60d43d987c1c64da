//! Source C: what a workspace has installed, and which events each extension is to get.
//!
//! Cast: the room [`Extensions`]. An extension's row is one model with the tenant's own subscriptions: for each event it
//! is to get, the room keeps a subscription of the dispatcher's that stands for it, whether its target is an external
//! service or a plugin in this process. The row names it before it is made, so that none is ever without a row; and all of
//! it is read from the store, where another replica may have written a moment ago.

mod check;
mod first;
pub mod letters;
mod rotate;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;

use serde_json::{Value, json};
use tidings_event::{EventType, ExtensionId, TenantId, WorkspaceId};
pub use tidings_store::{AttemptRow, ExtensionRow, ExtensionSubscriptionRow};
use tidings_store::{OutboxRow, Store};
use turn::Turns;
use zeroize::Zeroizing;

use crate::access::Caller;
use crate::audit::{self, Actor};
use crate::chat;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::limits::full;
use crate::outbox::Outbox;
use crate::plugins::InProcess;
use crate::publish::refusal::Refusal;
use crate::rulebook::Workspace;
use crate::storing::{store_fault, to_its_end};
use crate::subscription::{self, Subscription};
use crate::subscriptions::of_extensions::{OfExtension, Owner};
use crate::subscriptions::share::Taken;
use crate::subscriptions::{From, Subscriptions};
use crate::workspaces::Workspaces;

/// The kind that is delivered to over HTTP.
const EXTERNAL: &str = "EXTERNAL_SERVICE";
/// The kind that is a plugin of this binary.
const IN_PROCESS: &str = "IN_PROCESS";
/// So many handlers of one extension of a workspace run at once for one of its events, so that a loud workspace leaves
/// places to others.
const IN_PROCESS_AT_ONCE: usize = 4;
/// The most events that one extension subscribes to.
const MAX_SUBSCRIPTIONS: usize = 200;
/// The most extensions of one workspace.
const MAX_EXTENSIONS: usize = 200;

/// What is said of an extension.
#[derive(Debug, Clone)]
pub struct NewExtension {
    /// `EXTERNAL_SERVICE` or `IN_PROCESS`.
    pub kind: String,
    /// Where an external service is; its events go to `/events` under it. A plugin is its extension's by its id.
    pub service_base_url: Option<String>,
    /// Whether it is installed.
    pub installed: bool,
    /// Whether it is enabled; only what is both gets anything.
    pub enabled: bool,
    /// Where it goes on when it begins to get events again; with the next one if absent.
    pub replay_from: Option<From>,
}

/// What an extension is to get, with what its messages are verified by.
#[derive(Debug)]
pub struct Subscribed {
    /// The row of `ext_event_subscription`.
    pub row: ExtensionSubscriptionRow,
    /// For an external service.
    pub secret: Option<Zeroizing<String>>,
}

/// A row, and the subscription that stands for it, if there is one.
type Stands = (ExtensionSubscriptionRow, Option<Arc<Subscription>>);

/// The room.
pub struct Extensions {
    store: Store,
    workspaces: Arc<Workspaces>,
    subscriptions: Arc<Subscriptions>,
    outbox: Arc<Outbox>,
    clock: Clock,
    in_process: Arc<InProcess>,
    turns: Turns,
}

impl Extensions {
    pub(crate) fn new(
        store: Store,
        workspaces: Arc<Workspaces>,
        subscriptions: Arc<Subscriptions>,
        outbox: Arc<Outbox>,
        clock: Clock,
        in_process: Arc<InProcess>,
    ) -> Self {
        Self {
            turns: Turns::new(&store, clock.clone()),
            store,
            workspaces,
            subscriptions,
            outbox,
            clock,
            in_process,
        }
    }

    /// Writes an extension, and brings what it is to get to where it is now.
    pub async fn put(
        self: &Arc<Self>,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        new: NewExtension,
    ) -> Result<ExtensionRow, Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let row = ExtensionRow {
            workspace: workspace.id.clone(),
            id: id.clone(),
            kind: new.kind,
            service_base_url: new.service_base_url,
            installed: new.installed,
            enabled: new.enabled,
            updated_at_ms: self.clock.now_ms(),
        };
        self.check(&row)?;
        let (room, caller) = (self.clone(), caller.clone());
        to_its_end(async move {
            let id = row.id.clone();
            let written = Box::pin(room.write(&caller, &workspace, row, new.replay_from));
            room.turns.alone(&workspace, &id, written).await
        })
        .await
    }

    async fn write(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        row: ExtensionRow,
        from: Option<From>,
    ) -> Result<ExtensionRow, Refusal> {
        let rows = self.store.extensions();
        let before = rows.get(&row.workspace, &row.id).await;
        let before = before.map_err(store_fault)?;
        if before
            .as_ref()
            .is_some_and(|before| before.kind != row.kind)
        {
            let detail = "The kind of an extension does not change; delete it and make it anew.";
            return Err(Refusal::invalid("kind", detail));
        }
        if before.is_none() {
            self.room_for_one(workspace).await?;
        }
        let all = self.all(workspace, &row.id).await?;
        self.clear(caller, workspace, &row.id, &all).await?;
        let active = row.installed && row.enabled;
        let mut gets = Vec::new();
        for one in &all {
            let stands = self.subscriptions.kept(&workspace.tenant, one.subscription);
            let stands = stands.await?;
            // What is missing is made when it is to get something: until then nothing is in the way of stopping it.
            if active || stands.is_some() {
                gets.push((one.clone(), stands));
            }
        }
        if before.is_none() && row.kind == IN_PROCESS {
            let handled = self.in_process.plugins.keys(&row.id);
            let handled = handled.iter().flat_map(|keys| keys.keys());
            let new = handled.filter(|key| all.iter().all(|one| one.event_key != **key));
            gets.extend(new.map(|key| (self.unmade(&workspace.id, &row.id, key), None)));
        }
        // For all of it, or none is made.
        let _taken = self.room_for(workspace, &row, &mut gets)?;
        for one in gets {
            let made = self.deliver(caller, workspace, &row, (one, &all), from);
            made.await?;
        }
        let event = self.told(caller, &workspace.tenant, &row)?;
        // The row comes last: a change that failed before it is repeated by the same request.
        rows.put(&row, &[event]).await.map_err(store_fault)?;
        self.outbox.deliver().await;
        Ok(row)
    }

    /// What tells that an extension was written.
    fn told(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        row: &ExtensionRow,
    ) -> Result<OutboxRow, Refusal> {
        let target = json!({
            "kind": "extension", "workspace": row.workspace.as_str(), "id": row.id.as_str(),
            "installed": row.installed, "enabled": row.enabled,
        });
        let (actor, tenant) = (Actor::Caller(caller.clone()), tenant.clone());
        let event = audit::row(&self.outbox, tenant, "extension.written", &actor, &target);
        self.outbox.check(&event)?;
        Ok(event)
    }

    /// Refuses an extension beyond those that a workspace may have.
    async fn room_for_one(&self, workspace: &Workspace) -> Result<(), Refusal> {
        let there = self.store.extensions().count_of(&workspace.id).await;
        if there.map_err(store_fault)? < MAX_EXTENSIONS {
            return Ok(());
        }
        let id = &workspace.id;
        let detail = format!(
            "Workspace '{id}' gets no further extension: it has the {MAX_EXTENSIONS} that it may have; delete one."
        );
        Err(full(detail, MAX_EXTENSIONS))
    }

    /// Names what is to be made of these, and takes room for it.
    fn room_for(
        &self,
        workspace: &Workspace,
        extension: &ExtensionRow,
        gets: &mut [Stands],
    ) -> Result<Option<Taken>, Refusal> {
        let mut new = Vec::new();
        for (row, _) in gets.iter_mut().filter(|(_, stands)| stands.is_none()) {
            let id = self.clock.new_id();
            row.subscription = Some(id);
            new.push(id);
        }
        if new.is_empty() || is_chat(extension) {
            return Ok(None);
        }
        let taken = self.subscriptions.room_for(&workspace.tenant, true, &new);
        taken.map(Some)
    }

    /// What an extension is to get, which nothing delivers yet.
    fn unmade(
        &self,
        workspace: &WorkspaceId,
        extension: &ExtensionId,
        event_key: &EventType,
    ) -> ExtensionSubscriptionRow {
        ExtensionSubscriptionRow {
            workspace: workspace.clone(),
            extension: extension.clone(),
            event_key: event_key.clone(),
            subscription: None,
            created_at_ms: self.clock.now_ms(),
        }
    }

    /// An extension, for those to whom the workspace is open.
    pub async fn get(
        &self,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
    ) -> Result<ExtensionRow, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        self.one(&workspace, id).await
    }

    /// The subscription that stands for a row, as it is now.
    pub fn standing(&self, row: &ExtensionSubscriptionRow) -> Option<Arc<Subscription>> {
        self.subscriptions.standing(row.subscription?)
    }

    /// Removes an extension with what it was to get.
    pub async fn delete(
        self: &Arc<Self>,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
    ) -> Result<(), Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let (room, caller, id) = (self.clone(), caller.clone(), id.clone());
        to_its_end(async move {
            let removed = Box::pin(room.remove(&caller, &workspace, &id));
            room.turns.alone(&workspace, &id, removed).await
        })
        .await
    }

    async fn remove(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        id: &ExtensionId,
    ) -> Result<(), Refusal> {
        self.one(workspace, id).await?;
        let all = self.all(workspace, id).await?;
        self.clear(caller, workspace, id, &all).await?;
        for one in &all {
            self.stop(caller, workspace, one).await?;
        }
        let target = json!({
            "kind": "extension", "workspace": workspace.id.as_str(), "id": id.as_str(),
        });
        let (actor, tenant) = (Actor::Caller(caller.clone()), workspace.tenant.clone());
        let event = audit::row(&self.outbox, tenant, "extension.removed", &actor, &target);
        self.outbox.check(&event)?;
        let rows = self.store.extensions();
        let removed = rows.delete(&workspace.id, id, &[event]).await;
        if !removed.map_err(store_fault)? {
            return Err(Refusal::not_found("extension"));
        }
        self.outbox.deliver().await;
        Ok(())
    }

    /// Has an extension get an event. Repeating it changes nothing, unless `from` is given.
    pub async fn subscribe(
        self: &Arc<Self>,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        event_key: &EventType,
        from: Option<From>,
    ) -> Result<Subscribed, Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let (room, caller) = (self.clone(), caller.clone());
        let (id, event_key) = (id.clone(), event_key.clone());
        to_its_end(async move {
            let one = (&id, &event_key);
            let subscribed = Box::pin(room.get_one(&caller, &workspace, one, from));
            room.turns.alone(&workspace, &id, subscribed).await
        })
        .await
    }

    async fn get_one(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        (id, event_key): (&ExtensionId, &EventType),
        from: Option<From>,
    ) -> Result<Subscribed, Refusal> {
        let extension = self.one(workspace, id).await?;
        let all = self.all(workspace, id).await?;
        let stands = all.iter().find(|one| one.event_key == *event_key);
        if stands.is_none() && all.len() >= MAX_SUBSCRIPTIONS {
            let detail = format!("An extension subscribes to at most {MAX_SUBSCRIPTIONS} events.");
            return Err(Refusal::invalid("eventKey", detail));
        }
        let row = stands.cloned();
        let row = row.unwrap_or_else(|| self.unmade(&workspace.id, id, event_key));
        self.handled(&extension, &row.event_key)?;
        let known = self.subscriptions.kept(&workspace.tenant, row.subscription);
        let mut gets = [(row, known.await?)];
        let _taken = self.room_for(workspace, &extension, &mut gets)?;
        let [one] = gets;
        self.deliver(caller, workspace, &extension, (one, &all), from)
            .await
    }

    /// Brings the subscription that stands for a row to where its extension is, or makes it, for which room has been taken;
    /// with the secret of those that the extension has.
    async fn deliver(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        extension: &ExtensionRow,
        ((mut row, stands), all): (Stands, &[ExtensionSubscriptionRow]),
        from: Option<From>,
    ) -> Result<Subscribed, Refusal> {
        let active = extension.installed && extension.enabled;
        let subscription = if let Some(known) = stands {
            let url = events_url(extension);
            let url = url.as_deref();
            let arranged = self
                .subscriptions
                .arrange(caller, &known, url, active, from);
            arranged.await?;
            known
        } else {
            let id = *row.subscription.get_or_insert_with(|| self.clock.new_id());
            let kept = self.store.extensions().put_subscription(&row).await;
            kept.map_err(store_fault)?;
            let new = OfExtension {
                id,
                document: document(extension, row.event_key.as_str()),
                owner: owner(&row),
                siblings: all.iter().filter_map(|one| one.subscription).collect(),
                tenant: workspace.tenant.clone(),
                active,
                from: from.unwrap_or(From::Now),
            };
            self.subscriptions.create_of(caller, new).await?
        };
        let newest = subscription.signing.first();
        let newest = newest.filter(|_| extension.kind == EXTERNAL);
        let secret = newest.map(|(secret, _)| secret.to_verifying_text());
        Ok(Subscribed { row, secret })
    }

    /// One of the events that an extension is to get.
    pub async fn subscription(
        &self,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        event_key: &EventType,
    ) -> Result<ExtensionSubscriptionRow, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        self.row(&workspace, id, event_key).await
    }

    /// Has an extension get an event no more.
    pub async fn unsubscribe(
        self: &Arc<Self>,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        event_key: &EventType,
    ) -> Result<(), Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let (room, caller) = (self.clone(), caller.clone());
        let (id, event_key) = (id.clone(), event_key.clone());
        to_its_end(async move {
            let removed = Box::pin(async {
                let row = room.row(&workspace, &id, &event_key).await?;
                room.stop(&caller, &workspace, &row).await?;
                let rows = room.store.extensions();
                let removed = rows.delete_subscription(&workspace.id, &id, &event_key);
                removed.await.map(drop).map_err(store_fault)
            });
            room.turns.alone(&workspace, &id, removed).await
        })
        .await
    }

    /// Attempts to deliver to an extension, of one event after the other; after the one of `after`: the event, the
    /// sequence number and the attempt's.
    pub async fn deliveries(
        &self,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        after: Option<(EventType, u64, u32)>,
        limit: u32,
    ) -> Result<Vec<(EventType, AttemptRow)>, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        self.one(&workspace, id).await?;
        let mut attempts = Vec::new();
        for row in self.all(&workspace, id).await? {
            let begin = match &after {
                Some((key, ..)) if row.event_key < *key => continue,
                Some((key, sequence, number)) if row.event_key == *key => (*sequence, *number),
                _ => (0, 0),
            };
            let left = limit.saturating_sub(u32::try_from(attempts.len()).unwrap_or(u32::MAX));
            let Some(subscription) = row.subscription.filter(|_| left > 0) else {
                continue;
            };
            let deliveries = self.store.deliveries();
            let found = deliveries.attempts_of(subscription, begin, left).await;
            let found = sound(found)?.into_iter();
            attempts.extend(found.map(|attempt| (row.event_key.clone(), attempt)));
        }
        Ok(attempts)
    }

    async fn stop(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        row: &ExtensionSubscriptionRow,
    ) -> Result<(), Refusal> {
        if let Some(id) = row.subscription {
            let deleted = self.subscriptions.delete_of(caller, &workspace.tenant, id);
            deleted.await?;
        }
        Ok(())
    }

    /// Takes away what stands for an extension without a row, as a crash of an earlier release may have left it: nobody
    /// sees it, and it would get events for ever.
    async fn clear(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        id: &ExtensionId,
        rows: &[ExtensionSubscriptionRow],
    ) -> Result<(), Refusal> {
        let own = self.subscriptions.of_extension(workspace, id).into_iter();
        let without = own.filter(|own| rows.iter().all(|row| row.subscription != Some(*own)));
        for left in without {
            let deleted = self
                .subscriptions
                .delete_of(caller, &workspace.tenant, left);
            deleted.await?;
        }
        Ok(())
    }

    /// What an extension is to get.
    async fn all(
        &self,
        workspace: &Workspace,
        id: &ExtensionId,
    ) -> Result<Vec<ExtensionSubscriptionRow>, Refusal> {
        let rows = self.store.extensions();
        let rows = rows.subscriptions(&workspace.id, Some(id)).await;
        rows.map_err(store_fault)
    }

    async fn one(&self, workspace: &Workspace, id: &ExtensionId) -> Result<ExtensionRow, Refusal> {
        let row = self.store.extensions().get(&workspace.id, id).await;
        row.map_err(store_fault)?
            .ok_or_else(|| Refusal::not_found("extension"))
    }

    async fn row(
        &self,
        workspace: &Workspace,
        id: &ExtensionId,
        event_key: &EventType,
    ) -> Result<ExtensionSubscriptionRow, Refusal> {
        let mut rows = self.all(workspace, id).await?.into_iter();
        rows.find(|row| row.event_key == *event_key)
            .ok_or_else(|| Refusal::not_found("subscription"))
    }
}

/// Whether it is the shipped chat. What stands for it does not count among a tenant's subscriptions: each of its workspaces
/// has it, and those are counted.
fn is_chat(row: &ExtensionRow) -> bool {
    row.id.as_str() == chat::ID && row.kind == IN_PROCESS
}

/// Where an external service gets its events.
fn events_url(row: &ExtensionRow) -> Option<String> {
    let base = row.service_base_url.as_deref()?;
    Some(format!("{}/events", base.trim_end_matches('/')))
}

fn owner(row: &ExtensionSubscriptionRow) -> Owner {
    Owner {
        workspace: row.workspace.to_string(),
        extension: row.extension.to_string(),
        event_key: row.event_key.to_string(),
    }
}

/// The subscription that stands for an extension's, as a tenant would write it.
fn document(extension: &ExtensionRow, event_key: &str) -> Value {
    let (target, delivery) = match events_url(extension) {
        Some(url) => (
            json!({ "kind": "webhook", "url": url, "format": "platform-event" }),
            json!({}),
        ),
        None => (
            json!({ "kind": subscription::IN_PROCESS, "extension": extension.id.as_str() }),
            json!({ "maxInFlight": IN_PROCESS_AT_ONCE }),
        ),
    };
    json!({
        "name": extension.id.as_str(),
        "filter": {
            "types": [event_key],
            "dialects": [{ "exact": { "workspaceid": extension.workspace.as_str() } }],
        },
        "target": target,
        "delivery": delivery,
    })
}

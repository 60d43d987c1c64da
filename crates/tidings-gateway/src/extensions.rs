//! Source C: what a workspace has installed, and which events each extension is to get.
//!
//! Cast: the room [`Extensions`]. An extension's row is one model with the tenant's own subscriptions: for each event it
//! is to get, the room keeps a subscription of the dispatcher's that stands for it, whether its target is an external
//! service or a plugin in this process.

use std::sync::Arc;

use serde_json::{Value, json};
use tidings_event::{EventType, ExtensionId};
pub use tidings_store::{AttemptRow, ExtensionRow, ExtensionSubscriptionRow};
use tidings_store::{DeadLetterQuery, DeadLetterRow, Store};
use tokio::sync::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::access::Caller;
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::manifests::{store_fault, to_its_end};
use crate::outbox::Outbox;
use crate::plugins::InProcess;
use crate::publish::refusal::Refusal;
use crate::rulebook::Workspace;
use crate::subscription;
use crate::subscriptions::of_extensions::{OfExtension, Owner};
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

/// The room.
pub struct Extensions {
    store: Store,
    workspaces: Arc<Workspaces>,
    subscriptions: Arc<Subscriptions>,
    outbox: Arc<Outbox>,
    clock: Clock,
    in_process: Arc<InProcess>,
    /// One change at a time: an extension and its subscriptions are several rows.
    changing: Mutex<()>,
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
            store,
            workspaces,
            subscriptions,
            outbox,
            clock,
            in_process,
            changing: Mutex::default(),
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
        to_its_end(async move { room.write(&caller, &workspace, row, new.replay_from).await }).await
    }

    async fn write(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        row: ExtensionRow,
        from: Option<From>,
    ) -> Result<ExtensionRow, Refusal> {
        let _alone = self.changing.lock().await;
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
        let all = rows.subscriptions(&row.workspace, Some(&row.id)).await;
        for one in all.map_err(store_fault)? {
            let owner = owner(&one);
            if let Some(known) = self.subscriptions.owned_by(&workspace.tenant, &owner) {
                let (url, active) = (events_url(&row), row.installed && row.enabled);
                let url = url.as_deref();
                let arranged = self
                    .subscriptions
                    .arrange(caller, &known, url, active, from);
                arranged.await?;
            }
        }
        if before.is_none() && row.kind == IN_PROCESS {
            self.subscribe_handlers(caller, workspace, &row, from)
                .await?;
        }
        let target = json!({
            "kind": "extension", "workspace": row.workspace.as_str(), "id": row.id.as_str(),
            "installed": row.installed, "enabled": row.enabled,
        });
        let actor = Actor::Caller(caller.clone());
        let tenant = workspace.tenant.clone();
        let event = audit::row(&self.outbox, tenant, "extension.written", &actor, &target);
        self.outbox.check(&event)?;
        // The row comes last: a change that failed before it is repeated by the same request.
        rows.put(&row, &[event]).await.map_err(store_fault)?;
        self.outbox.deliver().await;
        Ok(row)
    }

    /// A new extension in process gets what its plugin handles.
    async fn subscribe_handlers(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        extension: &ExtensionRow,
        from: Option<From>,
    ) -> Result<(), Refusal> {
        let keys = self.in_process.plugins.keys(&extension.id);
        for event_key in keys.iter().flat_map(|keys| keys.keys()) {
            let mut row = ExtensionSubscriptionRow {
                workspace: workspace.id.clone(),
                extension: extension.id.clone(),
                event_key: event_key.clone(),
                subscription: None,
                created_at_ms: self.clock.now_ms(),
            };
            let made = self
                .deliver(caller, workspace, extension, &row, from)
                .await?;
            row.subscription = Some(made.0);
            let kept = self.store.extensions().put_subscription(&row).await;
            kept.map_err(store_fault)?;
        }
        Ok(())
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
            let _alone = room.changing.lock().await;
            room.one(&workspace, &id).await?;
            let rows = room.store.extensions();
            let all = rows.subscriptions(&workspace.id, Some(&id)).await;
            for one in all.map_err(store_fault)? {
                room.stop(&caller, &workspace, &one).await?;
            }
            let target = json!({
                "kind": "extension", "workspace": workspace.id.as_str(), "id": id.as_str(),
            });
            let (actor, tenant) = (Actor::Caller(caller.clone()), workspace.tenant.clone());
            let event = audit::row(&room.outbox, tenant, "extension.removed", &actor, &target);
            room.outbox.check(&event)?;
            let removed = rows.delete(&workspace.id, &id, &[event]).await;
            if !removed.map_err(store_fault)? {
                return Err(Refusal::not_found("extension"));
            }
            room.outbox.deliver().await;
            Ok(())
        })
        .await
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
            let _alone = room.changing.lock().await;
            let extension = room.one(&workspace, &id).await?;
            let all = room.store.extensions();
            let all = all.subscriptions(&workspace.id, Some(&id)).await;
            let all = all.map_err(store_fault)?;
            let stands = all.iter().find(|one| one.event_key == event_key);
            if stands.is_none() && all.len() >= MAX_SUBSCRIPTIONS {
                let detail =
                    format!("An extension subscribes to at most {MAX_SUBSCRIPTIONS} events.");
                return Err(Refusal::invalid("eventKey", detail));
            }
            let mut row = stands.cloned().unwrap_or(ExtensionSubscriptionRow {
                workspace: workspace.id.clone(),
                extension: id,
                event_key,
                subscription: None,
                created_at_ms: room.clock.now_ms(),
            });
            room.handled(&extension, &row.event_key)?;
            let made = room.deliver(&caller, &workspace, &extension, &row, from);
            let (subscription, secret) = made.await?;
            row.subscription = Some(subscription);
            let kept = room.store.extensions().put_subscription(&row).await;
            kept.map_err(store_fault)?;
            Ok(Subscribed { row, secret })
        })
        .await
    }

    /// The dispatcher's subscription that stands for a row, made if there is none.
    async fn deliver(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        extension: &ExtensionRow,
        row: &ExtensionSubscriptionRow,
        from: Option<From>,
    ) -> Result<(Uuid, Option<Zeroizing<String>>), Refusal> {
        let owner = owner(row);
        let active = extension.installed && extension.enabled;
        // One without a row is of a request that ended between the two writes.
        let known = self.subscriptions.owned_by(&workspace.tenant, &owner);
        let subscription = if let Some(known) = known {
            let url = events_url(extension);
            let url = url.as_deref();
            let arranged = self
                .subscriptions
                .arrange(caller, &known, url, active, from);
            arranged.await?;
            known
        } else {
            let new = OfExtension {
                document: document(extension, row.event_key.as_str()),
                owner,
                tenant: workspace.tenant.clone(),
                active,
                from: from.unwrap_or(From::Now),
            };
            self.subscriptions.create_of(caller, new).await?
        };
        let newest = subscription.signing.first();
        let newest = newest.filter(|_| extension.kind == EXTERNAL);
        let secret = newest.map(|(secret, _)| secret.to_verifying_text());
        Ok((subscription.id, secret))
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
            let _alone = room.changing.lock().await;
            let row = room.row(&workspace, &id, &event_key).await?;
            room.stop(&caller, &workspace, &row).await?;
            let rows = room.store.extensions();
            let removed = rows.delete_subscription(&workspace.id, &id, &event_key);
            removed.await.map(drop).map_err(store_fault)
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
        let rows = self.store.extensions();
        let rows = rows.subscriptions(&workspace.id, Some(id)).await;
        let mut attempts = Vec::new();
        for row in rows.map_err(store_fault)? {
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
            let found = found.map_err(store_fault)?.into_iter();
            attempts.extend(found.map(|attempt| (row.event_key.clone(), attempt)));
        }
        Ok(attempts)
    }

    /// What could not be delivered to the workspace's extensions.
    pub async fn dead_letters(
        &self,
        caller: &Caller,
        workspace: &str,
        mut query: DeadLetterQuery,
    ) -> Result<Vec<DeadLetterRow>, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        let rows = self.store.extensions();
        let rows = rows.subscriptions(&workspace.id, None).await;
        let own: Vec<Uuid> = rows
            .map_err(store_fault)?
            .iter()
            .filter_map(|row| row.subscription)
            .filter(|id| query.subscriptions.is_empty() || query.subscriptions.contains(id))
            .collect();
        // To the store an empty list would mean everybody's.
        if own.is_empty() {
            return Ok(Vec::new());
        }
        query.subscriptions = own;
        let letters = self.store.dead_letters();
        let letters = letters.list(&workspace.tenant, &query).await;
        letters.map_err(store_fault)
    }

    async fn stop(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        row: &ExtensionSubscriptionRow,
    ) -> Result<(), Refusal> {
        let known = self.subscriptions.owned_by(&workspace.tenant, &owner(row));
        if let Some(id) = known.map(|known| known.id).or(row.subscription) {
            let deleted = self.subscriptions.delete_of(caller, &workspace.tenant, id);
            deleted.await?;
        }
        Ok(())
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
        let rows = self.store.extensions();
        let rows = rows.subscriptions(&workspace.id, Some(id)).await;
        let mut rows = rows.map_err(store_fault)?.into_iter();
        rows.find(|row| row.event_key == *event_key)
            .ok_or_else(|| Refusal::not_found("subscription"))
    }

    /// Whether this binary has the plugin of an extension that is to get anything.
    fn has_plugin(&self, row: &ExtensionRow) -> Result<(), Refusal> {
        let gets = row.installed && row.enabled;
        if !gets || self.in_process.plugins.keys(&row.id).is_some() {
            return Ok(());
        }
        let detail = format!(
            "This installation has no plugin '{}', so the extension would get nothing; run a binary that has it, or add its component.",
            row.id
        );
        Err(Refusal::invalid("extensionId", detail))
    }

    /// Whether the plugin of an extension, if it is one in process, handles an event.
    fn handled(&self, extension: &ExtensionRow, event_key: &EventType) -> Result<(), Refusal> {
        if extension.kind != IN_PROCESS {
            return Ok(());
        }
        let keys = self.in_process.plugins.keys(&extension.id);
        if keys
            .as_ref()
            .is_some_and(|keys| keys.contains_key(event_key))
        {
            return Ok(());
        }
        let handled = keys.iter().flat_map(|keys| keys.keys());
        let handled: Vec<_> = handled.map(EventType::as_str).collect();
        let detail = format!(
            "The plugin '{}' has no handler for '{event_key}'; it has: {}.",
            extension.id,
            handled.join(", ")
        );
        Err(Refusal::invalid("eventKey", detail))
    }

    fn check(&self, row: &ExtensionRow) -> Result<(), Refusal> {
        match (row.kind.as_str(), events_url(row)) {
            (IN_PROCESS, None) => self.has_plugin(row),
            (IN_PROCESS, Some(_)) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "An extension in process has no 'serviceBaseUrl'.",
            )),
            (EXTERNAL, None) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "An external service needs a 'serviceBaseUrl'; its events go to /events under it.",
            )),
            (EXTERNAL, Some(url)) if url.contains(['?', '#']) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "'serviceBaseUrl' has neither a query nor a fragment.",
            )),
            (EXTERNAL, Some(_)) => {
                let checked = self.subscriptions.check(document(row, "a.b"));
                checked.map_err(|refusal| refusal.field("serviceBaseUrl"))
            }
            _ => Err(Refusal::invalid(
                "kind",
                format!("'kind' must be {EXTERNAL} or {IN_PROCESS}."),
            )),
        }
    }
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

//! What a new workspace has from the beginning: the shipped chat, so that whoever publishes a notification there needs to know
//! of nothing else (source C).

use std::sync::Arc;

use tidings_event::{TenantId, WorkspaceId};
use tidings_store::{ExtensionRow, FirstExtension, OutboxRow};

use super::{Extensions, IN_PROCESS, document, owner};
use crate::access::Caller;
use crate::chat;
use crate::publish::refusal::Refusal;
use crate::storing::{store_fault, to_its_end};
use crate::subscription::Subscription;
use crate::subscriptions::From;
use crate::subscriptions::of_extensions::OfExtension;

/// The chat of a workspace that is about to be made.
struct First {
    extension: FirstExtension,
    events: Vec<OutboxRow>,
    subscriptions: Vec<Subscription>,
}

impl Extensions {
    /// Makes a workspace of a tenant, for its ADMINs and operators, with chat installed and enabled: both or neither. Answers
    /// whether there was none before; what one has that was there stays as it is.
    pub async fn make_workspace(
        self: &Arc<Self>,
        caller: &Caller,
        tenant: &TenantId,
        id: &WorkspaceId,
    ) -> Result<bool, Refusal> {
        self.workspaces.may_make(caller, tenant)?;
        let (room, caller) = (self.clone(), caller.clone());
        let (tenant, id) = (tenant.clone(), id.clone());
        to_its_end(async move {
            let workspaces = &room.workspaces;
            let mut subscriptions = Vec::new();
            let mut first = None;
            // Asked before the log is, which may be away.
            if workspaces.room_for_workspace(&tenant, &id).await?
                && let Some(chat) = Box::pin(room.chat(&caller, &tenant, &id)).await?
            {
                first = Some((chat.extension, chat.events));
                subscriptions = chat.subscriptions;
            }
            let added = workspaces.add(&caller, &tenant, &id, first).await?;
            if added.is_new {
                for subscription in subscriptions {
                    room.subscriptions.begin(subscription);
                }
            }
            workspaces.made(&caller, added).await
        })
        .await
    }

    /// As if it was put by whoever makes the workspace. None where it is there already: of a workspace of this id that
    /// somebody has taken out of the store.
    async fn chat(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        workspace: &WorkspaceId,
    ) -> Result<Option<First>, Refusal> {
        let row = ExtensionRow {
            workspace: workspace.clone(),
            id: chat::ID.parse().expect("a legal id"),
            kind: IN_PROCESS.to_owned(),
            service_base_url: None,
            installed: true,
            enabled: true,
            updated_at_ms: self.clock.now_ms(),
        };
        let before = self.store.extensions().get(workspace, &row.id).await;
        if before.map_err(store_fault)?.is_some() {
            return Ok(None);
        }
        self.check(&row)?;
        let (mut gets, mut events, mut subscriptions) = (Vec::new(), Vec::new(), Vec::new());
        let handled = self.in_process.plugins.keys(&row.id);
        for key in handled.iter().flat_map(|keys| keys.keys()) {
            let id = self.clock.new_id();
            let mut one = self.unmade(workspace, &row.id, key);
            one.subscription = Some(id);
            let new = OfExtension {
                id,
                document: document(&row, key.as_str()),
                owner: owner(&one),
                siblings: Vec::new(),
                tenant: tenant.clone(),
                active: true,
                from: From::Now,
            };
            let unkept = self.subscriptions.unkept(caller, new).await?;
            gets.push((one, unkept.row));
            events.extend(unkept.events);
            subscriptions.push(unkept.subscription);
        }
        events.push(self.told(caller, tenant, &row)?);
        Ok(Some(First {
            extension: FirstExtension { row, gets },
            events,
            subscriptions,
        }))
    }
}

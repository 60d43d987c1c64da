//! Deliveries to a workspace's extensions that were given up: seen by its members, sent again and removed by its ADMINs.

use std::sync::Arc;

use tidings_store::{DeadLetterQuery, DeadLetterRow, DeadLetterSummary, ReplayRow, Store};
use uuid::Uuid;

use crate::access::Caller;
use crate::damaged::sound;
use crate::dead_letters::DeadLetters;
use crate::publish::refusal::Refusal;
use crate::replays::{self, Replays};
use crate::rulebook::Workspace;
use crate::storing::store_fault;
use crate::workspaces::Workspaces;

/// The room.
#[derive(Clone)]
pub struct WorkspaceLetters {
    store: Store,
    workspaces: Arc<Workspaces>,
    dead_letters: DeadLetters,
    replays: Replays,
}

impl WorkspaceLetters {
    pub(crate) fn new(
        store: Store,
        workspaces: Arc<Workspaces>,
        dead_letters: DeadLetters,
        replays: Replays,
    ) -> Self {
        Self {
            store,
            workspaces,
            dead_letters,
            replays,
        }
    }

    /// The workspace's, oldest first.
    pub async fn list(
        &self,
        caller: &Caller,
        workspace: &str,
        mut query: DeadLetterQuery,
    ) -> Result<Vec<DeadLetterSummary>, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        query.subscriptions = self.own(&workspace, &query.subscriptions).await?;
        // To the store an empty list would mean everybody's.
        if query.subscriptions.is_empty() {
            return Ok(Vec::new());
        }
        let letters = self.store.dead_letters();
        sound(letters.summaries(&workspace.tenant, &query).await)
    }

    /// One of the workspace's.
    pub async fn get(
        &self,
        caller: &Caller,
        workspace: &str,
        id: Uuid,
    ) -> Result<DeadLetterRow, Refusal> {
        let workspace = self.workspaces.open_to(caller, workspace)?;
        self.one(&workspace, id).await
    }

    /// Sends one again, as [`DeadLetters::replay`] does.
    pub async fn replay(
        &self,
        caller: &Caller,
        workspace: &str,
        id: Uuid,
    ) -> Result<String, Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let letter = self.one(&workspace, id).await?;
        self.dead_letters.again(&letter.into()).await
    }

    /// Begins to send all open ones again that these are.
    pub async fn replay_all(
        &self,
        caller: &Caller,
        workspace: &str,
        mut letters: replays::DeadLetters,
    ) -> Result<ReplayRow, Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        letters.subscriptions = self.own(&workspace, &letters.subscriptions).await?;
        if letters.subscriptions.is_empty() {
            return Err(Refusal::not_found("dead letter"));
        }
        let tenant = workspace.tenant.clone();
        self.replays.of_letters(tenant, letters).await
    }

    /// Removes one.
    pub async fn delete(&self, caller: &Caller, workspace: &str, id: Uuid) -> Result<(), Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        self.one(&workspace, id).await?;
        self.dead_letters.delete_of(&workspace.tenant, id).await
    }

    async fn one(&self, workspace: &Workspace, id: Uuid) -> Result<DeadLetterRow, Refusal> {
        let letter = self.dead_letters.owned(&workspace.tenant, id).await?;
        let own = self.own(workspace, &[letter.subscription]).await?;
        if own.is_empty() {
            return Err(Refusal::not_found("dead letter"));
        }
        Ok(letter)
    }

    /// Those subscriptions of the workspace's extensions that are among these; all, if these are none.
    async fn own(&self, workspace: &Workspace, wanted: &[Uuid]) -> Result<Vec<Uuid>, Refusal> {
        let rows = self.store.extensions();
        let rows = rows.subscriptions(&workspace.id, None).await;
        let rows = rows.map_err(store_fault)?;
        let own = rows.iter().filter_map(|row| row.subscription);
        Ok(own
            .filter(|id| wanted.is_empty() || wanted.contains(id))
            .collect())
    }
}

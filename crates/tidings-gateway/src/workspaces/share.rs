//! How many workspaces a tenant may have, and how many members each of them: all of them lie in memory.

use tidings_event::{TenantId, WorkspaceId};
use tidings_store::MemberRow;

use super::Workspaces;
use crate::limits::full;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

impl Workspaces {
    /// The same with limits: so many workspaces of each tenant, and so many members of each workspace.
    pub(crate) fn at_most(mut self, most: (usize, usize)) -> Self {
        self.most = most;
        self
    }

    /// Whether a workspace is new. Refuses a new one beyond those that its tenant may have.
    pub(crate) async fn room_for_workspace(
        &self,
        tenant: &TenantId,
        id: &WorkspaceId,
    ) -> Result<bool, Refusal> {
        let rows = self.store.workspaces();
        if rows.get(id).await.map_err(store_fault)?.is_some() {
            return Ok(false);
        }
        let (most, _) = self.most;
        if rows.count_of(tenant).await.map_err(store_fault)? < most {
            return Ok(true);
        }
        let detail = format!(
            "Tenant '{tenant}' gets no further workspace: it has the {most} that it may have; an operator may allow \
             more (limits.workspaces_per_tenant)."
        );
        Err(full(detail, most))
    }

    /// Refuses a member beyond those that its workspace may have. One that is there needs no room.
    pub(super) fn room_for_member(&self, row: &MemberRow) -> Result<(), Refusal> {
        let rulebook = self.shelf.rulebook();
        let workspace = rulebook.workspaces().get(&row.workspace);
        let (_, most) = self.most;
        let fits = |members: &std::collections::BTreeMap<String, _>| {
            members.len() < most || members.contains_key(&row.user)
        };
        if workspace.is_none_or(|workspace| fits(&workspace.members)) {
            return Ok(());
        }
        let id = &row.workspace;
        let detail = format!(
            "Workspace '{id}' gets no further member: it has the {most} that it may have; remove one."
        );
        Err(full(detail, most))
    }
}

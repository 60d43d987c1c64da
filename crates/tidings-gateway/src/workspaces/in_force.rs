//! What the store holds of tenants and workspaces, put in force: all of it, one workspace, or what other replicas changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use tidings_event::WorkspaceId;
use tidings_store::{MemberRow, Replicas, WorkspaceRow, WorkspacesRead};

use super::{Workspaces, read_tenant};
use crate::publish::refusal::Refusal;
use crate::rulebook::{Role, Workspace, Workspaces as InForce};
use crate::storing::store_fault;

impl Workspaces {
    /// Puts in force what the store holds: another replica may have changed it.
    pub(crate) async fn reload(&self) -> Result<(), Refusal> {
        let _alone = self.changing.lock().await;
        self.put_in_force().await
    }

    /// Puts in force what other replicas have changed since a place, which moves on; all there is where there is no place
    /// yet, or where something was removed since.
    pub(crate) async fn follow(
        &self,
        replicas: &Replicas,
        removed: i64,
        from: &mut Option<(WorkspacesRead, i64)>,
    ) -> Result<(), Refusal> {
        let _alone = self.changing.lock().await;
        let Some((read, _)) = from.as_mut().filter(|(_, before)| *before == removed) else {
            let read = replicas.all_workspaces().await.map_err(store_fault)?;
            self.put_in_force().await?;
            *from = Some((read, removed));
            return Ok(());
        };
        while let Some((changed, until)) = replicas
            .changed_workspaces(read)
            .await
            .map_err(store_fault)?
        {
            let tenants: Vec<_> = changed
                .tenants
                .into_iter()
                .map(read_tenant)
                .collect::<Result<_, _>>()?;
            for tenant in tenants {
                self.learn(tenant);
            }
            let workspaces = in_force(changed.workspaces, changed.members);
            self.insert(workspaces.collect());
            *read = until;
        }
        Ok(())
    }

    /// Puts in force what the store holds of one workspace.
    pub(super) async fn renew(&self, id: &WorkspaceId) -> Result<(), Refusal> {
        let rows = self.store.workspaces();
        let Some(row) = rows.get(id).await.map_err(store_fault)? else {
            return Ok(());
        };
        let members = rows.members_of(id).await.map_err(store_fault)?;
        self.insert(in_force(vec![row], members).collect());
        Ok(())
    }

    fn insert(&self, workspaces: Vec<Arc<Workspace>>) {
        if workspaces.is_empty() {
            return;
        }
        self.shelf.change(|rulebook| {
            let mut all = InForce::clone(rulebook.workspaces());
            for workspace in &workspaces {
                all.insert(workspace.clone());
            }
            rulebook.with_workspaces(Arc::new(all))
        });
    }

    /// The same of all that it holds.
    pub(super) async fn put_in_force(&self) -> Result<(), Refusal> {
        let rows = self.store.workspaces();
        let tenants = rows.tenants().await.map_err(store_fault)?;
        let tenants: HashMap<_, _> = tenants
            .into_iter()
            .map(|row| read_tenant(row).map(|tenant| (tenant.id.clone(), Arc::new(tenant))))
            .collect::<Result<_, _>>()?;
        let members = rows.members().await.map_err(store_fault)?;
        let workspaces = rows.all().await.map_err(store_fault)?;
        let workspaces = in_force(workspaces, members);
        let workspaces = Arc::new(workspaces.collect::<InForce>());
        self.shelf
            .change(|rulebook| rulebook.with_workspaces(workspaces.clone()));
        *self.tenants.write().unwrap_or_else(PoisonError::into_inner) = tenants;
        Ok(())
    }
}

/// Workspaces with their members. A role that this version does not know is none.
fn in_force(
    workspaces: Vec<WorkspaceRow>,
    members: Vec<MemberRow>,
) -> impl Iterator<Item = Arc<Workspace>> {
    let mut roles: HashMap<WorkspaceId, BTreeMap<String, Role>> = HashMap::new();
    for row in members {
        if let Some(role) = Role::parse(&row.role) {
            let of_workspace = roles.entry(row.workspace).or_default();
            of_workspace.insert(row.user, role);
        }
    }
    workspaces.into_iter().map(move |row| {
        let members = roles.remove(&row.id).unwrap_or_default();
        Arc::new(Workspace {
            id: row.id,
            tenant: row.tenant,
            members,
        })
    })
}

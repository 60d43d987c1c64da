//! Source C: tenants, their workspaces, and who is a member of one.
//!
//! Cast: the room [`Workspaces`]. Workspaces and members lie in the rulebook, where the line asks who may
//! publish; tenants lie here, in memory too, because each request asks whether its tenant is known.

mod in_force;
mod share;
mod slug;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tidings_contract::custom::Namespace;
use tidings_event::{Code, TenantId, WorkspaceId};
use tidings_store::{FirstExtension, MemberRow, OutboxRow, Store, TenantRow, WorkspaceRow};
use tokio::sync::{Mutex, MutexGuard};

use crate::access::Caller;
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::custom_events::Plan;
use crate::outbox::Outbox;
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::{Role, Shelf, Workspace, no_workspace};
use crate::storing::{contended, store_fault, store_late, to_its_end};
use slug::slug_of;

/// The longest `sub` of a member, in characters.
const MAX_USER: usize = 128;
/// How long a first request waits for its tenant to be made: an answer within 2 s was promised.
const MADE_WITHIN: Duration = Duration::from_millis(1_800);

/// The most namespaces of a tenant.
const MAX_NAMESPACES: usize = 100;

/// How often a tenant is written again that other replicas keep writing in between.
const TRIES: usize = 10;

/// What an operator says of a tenant. What is not given stays as it is.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Its own namespace (source D's regex, none that is reserved, no other tenant's slug). Of a new tenant it is made from its id.
    pub slug: Option<String>,
    /// The word for a [`Plan`]; a new tenant is on the Free one.
    pub plan: Option<String>,
    /// What it may name events under beside its slug (source D's regex, none that is reserved); at most 100.
    pub namespaces: Option<Vec<String>>,
}

/// A tenant in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id, as in credentials.
    pub id: TenantId,
    /// Its own namespace.
    pub slug: String,
    /// The word for a [`Plan`].
    pub plan: String,
    /// What it may name events under: its slug, and what it was granted.
    pub namespaces: Vec<String>,
    /// When it was made, in ms since 1970.
    pub created_at_ms: i64,
    /// When it was last written, in ms since 1970.
    pub updated_at_ms: i64,
}

/// The room.
pub struct Workspaces {
    store: Store,
    shelf: Arc<Shelf>,
    outbox: Arc<Outbox>,
    clock: Clock,
    /// Whether a valid credential of an unknown tenant makes it.
    auto_create: bool,
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// One change at a time, so that a reading that began before a change does not undo it.
    changing: Mutex<()>,
    /// How many workspaces a tenant may have, and how many members each of them.
    most: (usize, usize),
}

/// A workspace that is kept and not yet in force. No other is changed until it is.
pub(crate) struct Added<'a> {
    /// Whether there was none of its id before.
    pub(crate) is_new: bool,
    row: WorkspaceRow,
    alone: MutexGuard<'a, ()>,
}

impl Workspaces {
    /// Over the store, putting in force what it holds.
    pub(crate) async fn open(
        store: Store,
        shelf: Arc<Shelf>,
        outbox: Arc<Outbox>,
        clock: Clock,
        auto_create: bool,
    ) -> Result<Self, Refusal> {
        let room = Self {
            store,
            shelf,
            outbox,
            clock,
            auto_create,
            tenants: RwLock::default(),
            changing: Mutex::default(),
            most: (usize::MAX, usize::MAX),
        };
        room.reload().await?;
        Ok(room)
    }

    /// Makes the caller's tenant known at its first request, on the Free plan. Nothing is asked of the store for
    /// one that is.
    pub async fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        let Some(id) = caller.tenant().filter(|id| self.known(id).is_none()) else {
            return Ok(());
        };
        if !self.auto_create {
            return Err(Refusal::forbidden(format!(
                "Tenant '{id}' is not known here; an operator makes it with PUT /v1/tenants/{{tenantId}}."
            )));
        }
        // Whoever waits for its turn waits for others' failures too.
        let made = tokio::time::timeout(MADE_WITHIN, Box::pin(self.make(id))).await;
        made.unwrap_or_else(|_| Err(store_late()))
    }

    /// Makes a tenant of which only its id is known, unless another has made it meanwhile.
    async fn make(&self, id: &TenantId) -> Result<(), Refusal> {
        let now = self.clock.now_ms();
        let mut row = TenantRow {
            id: id.clone(),
            slug: String::new(),
            plan: Plan::Free.as_str().to_owned(),
            namespaces: "[]".to_owned(),
            created_at_ms: now,
            updated_at_ms: now,
        };
        let _alone = self.changing.lock().await;
        if self.known(id).is_some() {
            return Ok(());
        }
        for _ in 0..TRIES {
            row.slug = self.free_slug(id);
            let added = self.store.workspaces().add_tenant(&row).await;
            if added.map_err(store_fault)? {
                self.learn(read_tenant(row)?);
                return Ok(());
            }
            // Another replica was quicker, perhaps with another plan, or gave the slug to another tenant.
            self.put_in_force().await?;
            if self.known(id).is_some() {
                return Ok(());
            }
        }
        Err(contended("The tenant"))
    }

    /// A tenant, for its own callers and operators.
    pub fn tenant(&self, caller: &Caller, id: &TenantId) -> Result<Arc<Tenant>, Refusal> {
        let open = caller.is_operator() || caller.tenant() == Some(id);
        let known = self.known(id).filter(|_| open);
        known.ok_or_else(|| Refusal::not_found("tenant"))
    }

    /// So many tenants behind an id, by their ids; for operators.
    pub fn tenants(
        &self,
        caller: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Arc<Tenant>>, Refusal> {
        if !caller.is_operator() {
            return Err(Refusal::forbidden("Tenants are listed by operators alone."));
        }
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let behind = |tenant: &&Arc<Tenant>| after.is_none_or(|after| tenant.id.as_str() > after);
        let mut page: Vec<_> = tenants.values().filter(behind).cloned().collect();
        page.sort_unstable_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
        page.truncate(limit);
        Ok(page)
    }

    /// Writes a tenant, for operators.
    pub async fn put_tenant(
        self: &Arc<Self>,
        caller: &Caller,
        id: &TenantId,
        new: NewTenant,
    ) -> Result<Arc<Tenant>, Refusal> {
        if !caller.is_operator() {
            return Err(Refusal::forbidden(
                "Tenants are written by operators alone.",
            ));
        }
        check(&new)?;
        let (room, caller, id) = (self.clone(), caller.clone(), id.clone());
        to_its_end(async move {
            let alone = room.changing.lock().await;
            for _ in 0..TRIES {
                // Memory may be behind what another replica has written.
                let before = room.store.workspaces().tenant(&id).await;
                let before = before.map_err(store_fault)?;
                room.own_slug(&id, &new)?;
                let row = room.after(&id, before.as_ref(), &new);
                let events = room.written(&caller, &row)?;
                let rows = room.store.workspaces();
                let written = rows.put_tenant(&row, before.as_ref(), &events).await;
                if !written.map_err(store_fault)? {
                    // Perhaps another has the slug by now.
                    room.put_in_force().await?;
                    continue;
                }
                let tenant = room.learn(read_tenant(row)?);
                drop(alone);
                room.outbox.deliver().await;
                return Ok(tenant);
            }
            Err(contended("The tenant"))
        })
        .await
    }

    /// A tenant as it is with what an operator says of it.
    fn after(&self, id: &TenantId, before: Option<&TenantRow>, new: &NewTenant) -> TenantRow {
        let now = self.clock.now_ms();
        let stands = before.cloned().unwrap_or_else(|| TenantRow {
            id: id.clone(),
            slug: self.free_slug(id),
            plan: Plan::Free.as_str().to_owned(),
            namespaces: "[]".to_owned(),
            created_at_ms: now,
            updated_at_ms: now,
        });
        let namespaces = new.namespaces.as_ref();
        TenantRow {
            slug: new.slug.clone().unwrap_or(stands.slug),
            plan: new.plan.clone().unwrap_or(stands.plan),
            namespaces: namespaces.map_or(stands.namespaces, |it| {
                let mut seen = BTreeSet::new();
                let each: Vec<_> = it.iter().filter(|name| seen.insert(*name)).collect();
                json!(each).to_string()
            }),
            // Each writing has its own time: by it one that came between is known.
            updated_at_ms: now.max(before.map_or(now, |before| before.updated_at_ms + 1)),
            ..stands
        }
    }

    fn written(&self, caller: &Caller, row: &TenantRow) -> Result<Vec<OutboxRow>, Refusal> {
        let tenant = read_tenant(row.clone())?;
        let target = json!({
            "kind": "tenant", "id": row.id.as_str(), "slug": row.slug, "plan": row.plan,
            "namespaces": tenant.namespaces,
        });
        self.told(caller, &row.id, "tenant.written", &target)
    }

    /// Whether the caller may make workspaces of a tenant: its ADMINs and operators.
    pub(crate) fn may_make(&self, caller: &Caller, tenant: &TenantId) -> Result<(), Refusal> {
        let of_tenant = caller.tenant() == Some(tenant) && caller.is_admin();
        if !of_tenant && !caller.is_operator() {
            return Err(Refusal::forbidden(
                "Workspaces are made with the role ADMIN of the tenant, or by an operator.",
            ));
        }
        if self.known(tenant).is_none() {
            return Err(Refusal::not_found("tenant"));
        }
        Ok(())
    }

    /// Keeps a workspace of a tenant, unless its id is taken, with what it has from the beginning and the events that tell of
    /// that. It is in force when it is [`made`](Self::made).
    pub(crate) async fn add(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        id: &WorkspaceId,
        first: Option<(FirstExtension, Vec<OutboxRow>)>,
    ) -> Result<Added<'_>, Refusal> {
        let row = WorkspaceRow {
            id: id.clone(),
            tenant: tenant.clone(),
            created_at_ms: self.clock.now_ms(),
        };
        let target = json!({ "kind": "workspace", "id": id.as_str() });
        let mut events = self.told(caller, tenant, "workspace.created", &target)?;
        let (first, of_first) = first.unzip();
        events.extend(of_first.into_iter().flatten());
        let alone = self.changing.lock().await;
        self.room_for_workspace(tenant, id).await?;
        let rows = self.store.workspaces();
        let added = rows.add(&row, first.as_ref(), &events).await;
        Ok(Added {
            is_new: added.map_err(store_fault)?,
            row,
            alone,
        })
    }

    /// Puts in force what was added, and tells of it. Answers whether there was none before.
    pub(crate) async fn made(&self, caller: &Caller, added: Added<'_>) -> Result<bool, Refusal> {
        let Added { is_new, row, alone } = added;
        self.changed(alone, &row.id).await?;
        let rulebook = self.shelf.rulebook();
        let stands = rulebook.workspaces().get(&row.id);
        if stands.is_some_and(|stands| stands.tenant == row.tenant) {
            return Ok(is_new);
        }
        // The id is another tenant's: it is unique in the installation.
        Err(no_workspace(caller))
    }

    /// Makes a user a member, or changes its role.
    pub async fn put_member(
        self: &Arc<Self>,
        caller: &Caller,
        tenant: &TenantId,
        id: &WorkspaceId,
        user: &str,
        role: Role,
    ) -> Result<(), Refusal> {
        self.administered_of(caller, tenant, id)?;
        if user.is_empty() || user.chars().count() > MAX_USER || user.chars().any(char::is_control)
        {
            let detail =
                format!("'userId' has 1 to {MAX_USER} characters and no control characters.");
            return Err(Refusal::invalid("userId", detail));
        }
        let row = MemberRow {
            workspace: id.clone(),
            user: user.to_owned(),
            role: role.as_str().to_owned(),
            updated_at_ms: self.clock.now_ms(),
        };
        let target = json!({
            "kind": "workspace-member", "workspace": id.as_str(), "id": user, "role": role.as_str(),
        });
        let events = self.told(caller, tenant, "workspace-member.written", &target)?;
        let room = self.clone();
        to_its_end(async move {
            let alone = room.changing.lock().await;
            room.room_for_member(&row)?;
            let written = room.store.workspaces().put_member(&row, &events).await;
            written.map_err(store_fault)?;
            room.changed(alone, &row.workspace).await
        })
        .await
    }

    /// Ends a membership.
    pub async fn delete_member(
        self: &Arc<Self>,
        caller: &Caller,
        tenant: &TenantId,
        id: &WorkspaceId,
        user: &str,
    ) -> Result<(), Refusal> {
        self.administered_of(caller, tenant, id)?;
        let target = json!({ "kind": "workspace-member", "workspace": id.as_str(), "id": user });
        let events = self.told(caller, tenant, "workspace-member.removed", &target)?;
        let (room, id, user) = (self.clone(), id.clone(), user.to_owned());
        to_its_end(async move {
            let alone = room.changing.lock().await;
            let rows = room.store.workspaces();
            let removed = rows.delete_member(&id, &user, &events).await;
            if !removed.map_err(store_fault)? {
                return Err(Refusal::not_found("member"));
            }
            room.changed(alone, &id).await
        })
        .await
    }

    /// What a caller is told of a workspace that cannot be: the same as of any that is not its own.
    pub fn refuse<T>(&self, caller: &Caller) -> Result<T, Refusal> {
        Err(no_workspace(caller))
    }

    /// The workspace, if the caller may read in it and publish: its members, ADMINs of its tenant, operators.
    pub(crate) fn open_to(&self, caller: &Caller, id: &str) -> Result<Arc<Workspace>, Refusal> {
        let rulebook = self.shelf.rulebook();
        if caller.is_operator() {
            let known = id.parse().ok();
            let known = known.and_then(|id: WorkspaceId| rulebook.workspaces().get(&id).cloned());
            return known.ok_or_else(|| no_workspace(caller));
        }
        rulebook.workspace_of(caller, id).cloned()
    }

    /// The workspace, if the caller may change what is in it: its ADMINs, those of its tenant, operators.
    pub(crate) fn administered(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Arc<Workspace>, Refusal> {
        let workspace = self.open_to(caller, id)?;
        if caller.is_admin() || workspace.role(caller) == Some(Role::Admin) {
            return Ok(workspace);
        }
        Err(Refusal::forbidden(format!(
            "{} is a member of the workspace; changing it takes the role ADMIN.",
            caller.describe()
        )))
    }

    fn administered_of(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        id: &WorkspaceId,
    ) -> Result<(), Refusal> {
        let workspace = self.administered(caller, id.as_str())?;
        if workspace.tenant == *tenant {
            return Ok(());
        }
        Err(no_workspace(caller))
    }

    /// A tenant in force, for the installation itself.
    pub(crate) fn known(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(id).cloned()
    }

    /// Refuses a slug that another tenant has.
    fn own_slug(&self, id: &TenantId, new: &NewTenant) -> Result<(), Refusal> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = new.slug.as_ref();
        let taken = |tenant: &Arc<Tenant>| tenant.id != *id && Some(&tenant.slug) == wanted;
        if tenants.values().any(taken) {
            return Err(Refusal::invalid("slug", "'slug' is another tenant's."));
        }
        Ok(())
    }

    /// A slug for a new tenant that no other has.
    fn free_slug(&self, id: &TenantId) -> String {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let taken: HashSet<&str> = tenants.values().map(|tenant| &*tenant.slug).collect();
        slug_of(id, |slug| taken.contains(slug))
    }

    fn learn(&self, tenant: Tenant) -> Arc<Tenant> {
        let tenant = Arc::new(tenant);
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(tenant.id.clone(), tenant.clone());
        tenant
    }

    /// The change of a workspace is made: it is put in force and told of, whichever of the two fails. Others may change
    /// meanwhile what waits for the bus.
    async fn changed(&self, alone: MutexGuard<'_, ()>, id: &WorkspaceId) -> Result<(), Refusal> {
        let in_force = self.renew(id).await;
        drop(alone);
        self.outbox.deliver().await;
        in_force
    }

    fn told(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        action: &str,
        target: &Value,
    ) -> Result<Vec<OutboxRow>, Refusal> {
        let actor = Actor::Caller(caller.clone());
        let row = audit::row(&self.outbox, tenant.clone(), action, &actor, target);
        self.outbox.check(&row)?;
        Ok(vec![row])
    }
}

fn check(new: &NewTenant) -> Result<(), Refusal> {
    if !new.slug.iter().all(|slug| is_open(slug)) {
        let detail = "'slug' is a namespace: 2 to 31 small letters, digits, _ or -, a letter first, and not reserved.";
        return Err(Refusal::invalid("slug", detail));
    }
    let plans = Plan::ALL.map(Plan::as_str);
    if !new.plan.iter().all(|plan| plans.contains(&plan.as_str())) {
        let detail = format!("'plan' must be {}.", plans.join(", "));
        return Err(Refusal::invalid("plan", detail));
    }
    let namespaces = new.namespaces.as_deref().unwrap_or_default();
    if namespaces.len() > MAX_NAMESPACES || !namespaces.iter().all(|name| is_open(name)) {
        let detail = format!(
            "'namespaces' holds at most {MAX_NAMESPACES} names of 2 to 31 small letters, digits, _ or -, that begin with \
             a letter and are not reserved."
        );
        return Err(Refusal::invalid("namespaces", detail));
    }
    Ok(())
}

/// Whether a tenant may register events under it.
fn is_open(name: &str) -> bool {
    Namespace::parse(name).is_ok_and(|name| !name.is_reserved())
}

fn unread(error: serde_json::Error) -> Refusal {
    Refusal::fault("Reading a tenant", &error)
}

fn read_tenant(row: TenantRow) -> Result<Tenant, Refusal> {
    let namespaces = serde_json::from_str(&row.namespaces);
    let mut namespaces: Vec<String> = namespaces.map_err(unread)?;
    // Slugs were once as free as ids.
    if is_open(&row.slug) && !namespaces.contains(&row.slug) {
        namespaces.insert(0, row.slug.clone());
    }
    Ok(Tenant {
        id: row.id,
        slug: row.slug,
        plan: row.plan,
        namespaces,
        created_at_ms: row.created_at_ms,
        updated_at_ms: row.updated_at_ms,
    })
}

/// The role of this name, as a refusal wants it.
pub fn role(text: &str) -> Result<Role, Refusal> {
    Role::parse(text).ok_or_else(|| {
        Refusal::new(
            Code::InvalidRequest,
            Rule::Shape,
            "'role' must be ADMIN or MEMBER.",
        )
        .field("role")
    })
}

//! The registry: what tenants have registered, read and changed.
//!
//! A change (`registering`) is decided on rows that were read before, and written only if nothing has changed since:
//! the store compares the revision of the tenant. Between replicas that makes one of two decide again; within this one
//! the tenant's changes take turns. The events that tell of a change are written with it and left to the relay.

use std::collections::HashMap;
use std::sync::Arc;

use tidings_contract::custom::{
    CanonicalName, Class, Difference, EventPath, Schema, Version, compare, counter_example,
};
use tidings_event::{Code, TenantId, partition_of};
use tidings_store::{CustomEventChange, CustomEventQuery, CustomEventRow, Store};
use tokio::sync::Mutex;

use super::in_force::{InForce, Registered, not_registered};
use super::verdict::{Request, Verdict, alone_in_force, version_of};
use super::{LifecycleEvent, Plan, Status, generic};
use crate::access::{Caller, Principal, Scope};
use crate::clock::Clock;
use crate::outbox::Outbox;
use crate::publish::refusal::{Refusal, Rule};
use crate::storing::{store_fault, to_its_end};
use crate::workspaces::Workspaces;

/// The longest description, in characters.
pub(super) const MAX_DESCRIPTION: usize = 2_000;
/// Tenants share so many turns.
const TURNS: u32 = 64;
/// So many changed tenants are read at once.
const PAGE: u32 = 1_000;

/// A version that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// As it is kept; the schema and the example are JSON text.
    pub row: CustomEventRow,
    /// `TENANT_CUSTOM:…`.
    pub canonical_name: String,
    /// Its version.
    pub version: Version,
}

impl Registration {
    pub(super) fn of(row: CustomEventRow) -> Self {
        Self {
            canonical_name: canonical(&row),
            version: version_of(&row),
            row,
        }
    }

    /// As it is told where one version may be in force alone: others that were published are superseded by it.
    pub(super) fn beside(row: CustomEventRow, alone: Option<Version>) -> Self {
        let mut told = Self::of(row);
        let is_published = told.row.status == Status::Published.as_str();
        if is_published && alone.is_some_and(|alone| alone > told.version) {
            Status::Superseded.as_str().clone_into(&mut told.row.status);
        }
        told
    }
}

/// The canonical name of a version that is kept.
pub(super) fn canonical(row: &CustomEventRow) -> String {
    let (tenant, version) = (&row.tenant, version_of(row));
    let named = EventPath::parse(&format!("{}.{}", row.namespace, row.name));
    let tenant = tenant.clone();
    // Only what was parsed is kept.
    named.map_or_else(
        |_| String::new(),
        |path| {
            CanonicalName {
                tenant,
                path,
                version,
            }
            .to_string()
        },
    )
}

/// Which registrations a list shows.
#[derive(Debug, Clone, Default)]
pub struct RegistrationQuery {
    /// In this namespace only.
    pub namespace: Option<String>,
    /// Of this name only.
    pub name: Option<String>,
    /// With this status only.
    pub status: Option<Status>,
    /// After this one.
    pub after: Option<(EventPath, Version)>,
    /// At most so many.
    pub limit: u32,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct RegistrationPage {
    /// In the order of namespace, name and version.
    pub items: Vec<Registration>,
    /// Where the next page begins, if there is one.
    pub next: Option<(EventPath, Version)>,
}

/// What lies between two versions.
#[derive(Debug, Clone)]
pub struct Diff {
    /// Each place that differs.
    pub differences: Vec<Difference>,
    /// The worst of them; `None` when nothing differs.
    pub class: Option<Class>,
    /// A payload that the one accepts and the other refuses, if one was found.
    pub counter_example: Option<serde_json::Value>,
    /// What the newer one accepts.
    pub newer: Schema,
}

/// The room.
pub struct Registry {
    pub(super) store: Store,
    pub(super) workspaces: Arc<Workspaces>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) clock: Clock,
    pub(super) in_force: InForce,
    turns: Box<[Mutex<()>]>,
    /// How many refusals were told of, and since when.
    pub(super) told: std::sync::Mutex<HashMap<(TenantId, LifecycleEvent), (i64, u32)>>,
}

impl Registry {
    pub(crate) fn new(
        store: Store,
        workspaces: Arc<Workspaces>,
        outbox: Arc<Outbox>,
        clock: Clock,
    ) -> Self {
        Self {
            in_force: InForce::new(store.clone()),
            store,
            workspaces,
            outbox,
            clock,
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            told: std::sync::Mutex::default(),
        }
    }

    /// Registers a version, if nothing speaks against it.
    pub async fn register(
        self: &Arc<Self>,
        caller: &Caller,
        request: Request,
    ) -> Result<Registration, Refusal> {
        let tenant = may_register(caller)?;
        described(request.description.as_deref())?;
        let room = self.clone();
        to_its_end(async move { room.write(&tenant, Arc::new(request)).await }).await
    }

    /// What registering would say. Nothing is kept or told.
    pub async fn dry_run(&self, caller: &Caller, request: Request) -> Result<Verdict, Refusal> {
        let tenant = may_register(caller)?;
        described(request.description.as_deref())?;
        let request = Arc::new(request);
        let (verdict, _) = self.decided(&tenant, &request).await?;
        Ok(verdict)
    }

    /// The registrations that are asked for, the generic event among them.
    pub async fn list(
        &self,
        caller: &Caller,
        query: RegistrationQuery,
    ) -> Result<RegistrationPage, Refusal> {
        let tenant = reader(caller)?;
        let limit = query.limit as usize;
        let asked = CustomEventQuery {
            namespace: query.namespace.clone(),
            name: query.name.clone(),
            status: query.status.map(|status| status.as_str().to_owned()),
            latest_alone: self.plan(&tenant).has_latest_alone(),
            after: query.after.as_ref().map(|(path, version)| {
                let numbers = [version.major, version.minor, version.patch];
                (path.namespace.to_string(), path.name.to_string(), numbers)
            }),
            limit: query.limit + 1,
        };
        let rows = self.store.custom_events().list(&tenant, &asked).await;
        let mut rows = rows.map_err(store_fault)?;
        rows.extend(Some(self.generic(&tenant)).filter(|row| asks_for(&asked, row)));
        rows.sort_by(|one, other| place(one).cmp(&place(other)));
        let more = rows.len() > limit;
        rows.truncate(limit);
        let items: Vec<Registration> = rows.into_iter().map(Registration::of).collect();
        let last = items.last().filter(|_| more);
        let next = last.and_then(|last| {
            let name = CanonicalName::parse(&last.canonical_name)?;
            Some((name.path, name.version))
        });
        Ok(RegistrationPage { items, next })
    }

    /// All versions of an event, the oldest first.
    pub async fn versions(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<Registration>, Refusal> {
        let tenant = reader(caller)?;
        let rows = self.rows(&tenant, namespace, name).await?;
        let alone = alone_in_force(self.plan(&tenant), &rows);
        let told = |row| Registration::beside(row, alone);
        Ok(rows.into_iter().map(told).collect())
    }

    /// One version of an event.
    pub async fn get(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<Registration, Refusal> {
        let versions = self.versions(caller, namespace, name).await?;
        let wanted = Version::parse(version).ok();
        let mut versions = versions.into_iter();
        let found = versions.find(|it| Some(it.version) == wanted);
        found.ok_or_else(|| absent(namespace, name, Some(version)))
    }

    /// What lies between two versions of an event.
    pub async fn diff(
        &self,
        caller: &Caller,
        (namespace, name): (&str, &str),
        (from, to): (Version, Version),
    ) -> Result<Diff, Refusal> {
        let versions = self.versions(caller, namespace, name).await?;
        let text = |wanted: Version| {
            let found = versions.iter().find(|it| it.version == wanted);
            let found = found.map(|it| it.row.payload_schema.clone());
            found.ok_or_else(|| absent(namespace, name, Some(&wanted.to_string())))
        };
        let (old, new) = (text(from)?, text(to)?);
        aside("Comparing two schemas", move || {
            let (old, new) = (read(&old)?, read(&new)?);
            let differences = compare(&old, &new);
            let class = differences.iter().map(|it| it.class).max();
            let breaking = class == Some(Class::Major);
            Ok(Diff {
                differences,
                class,
                counter_example: breaking.then(|| counter_example(&old, &new)).flatten(),
                newer: new,
            })
        })
        .await
    }

    /// Changes the description of a version, or moves it forward: draft, published, archived.
    pub async fn patch(
        self: &Arc<Self>,
        caller: &Caller,
        (namespace, name, version): (String, String, String),
        description: Option<String>,
        status: Option<Status>,
    ) -> Result<Registration, Refusal> {
        let tenant = may_register(caller)?;
        described(description.as_deref())?;
        let generic = EventPath::generic();
        if namespace == generic.namespace.as_str() && name == generic.name.as_str() {
            let detail =
                "platformxe.generic is managed by the platform; it is never changed or archived.";
            let code = Code::CannotArchiveGenericEvent;
            return Err(Refusal::new(code, Rule::Manifest, detail));
        }
        let room = self.clone();
        to_its_end(async move {
            let which = (namespace.as_str(), name.as_str(), version.as_str());
            room.move_on(&tenant, which, description, status).await
        })
        .await
    }

    /// What an emit is held to: the version asked for, or the latest that is published. Refused in the order in which
    /// an emit asks: 404 and 409 for name and version, 402 for the plan.
    pub async fn find(
        &self,
        tenant: &TenantId,
        path: &EventPath,
        version: Option<Version>,
    ) -> Result<Arc<Registered>, Refusal> {
        let plan = self.plan(tenant);
        self.in_force.find(plan, tenant, path, version).await
    }

    /// The same, if it is known here: nothing is asked or awaited. `None` says nothing of whether there is one.
    pub fn try_find(
        &self,
        tenant: &TenantId,
        path: &EventPath,
        version: Option<Version>,
    ) -> Option<Result<Arc<Registered>, Refusal>> {
        let plan = self.plan(tenant);
        self.in_force.try_find(plan, tenant, path, version)
    }

    /// The plan that a tenant is on.
    pub fn plan(&self, tenant: &TenantId) -> Plan {
        let known = self.workspaces.known(tenant);
        known.map_or(Plan::Free, |tenant| Plan::named(&tenant.plan))
    }

    /// How many distinct events a tenant has registered.
    pub async fn used(&self, tenant: &TenantId) -> Result<u64, Refusal> {
        let count = self.store.custom_events().count(tenant).await;
        count.map_err(store_fault)
    }

    /// Tells that the tenant has the generic event, unless that was told: before its first emit is, where the bus takes it in
    /// time. Registering does so by itself.
    pub async fn seed(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let room = self.store.custom_events();
        if room.revision(tenant).await.map_err(store_fault)? > 0 {
            return Ok(());
        }
        let change = CustomEventChange {
            events: self.seeding(tenant, 0).into_iter().collect(),
            ..CustomEventChange::default()
        };
        // When another was quicker it is told by that one.
        room.change(tenant, &change).await.map_err(store_fault)?;
        self.outbox.deliver().await;
        Ok(())
    }

    /// Puts in force what other replicas have changed since the last time; everything the first time.
    pub(crate) async fn follow(&self, from: &mut Option<i64>) -> Result<(), Refusal> {
        let room = self.store.custom_events();
        let Some(known) = from else {
            *from = Some(room.last_change().await.map_err(store_fault)?);
            self.in_force.all_changed();
            return Ok(());
        };
        loop {
            let changed = room
                .changed_after(*known, PAGE)
                .await
                .map_err(store_fault)?;
            let Some(last) = changed.last() else {
                return Ok(());
            };
            let last = last.change;
            for one in changed {
                self.in_force.changed(&one.tenant);
            }
            *known = last;
        }
    }

    /// The versions of an event that is there.
    pub(super) async fn rows(
        &self,
        tenant: &TenantId,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<CustomEventRow>, Refusal> {
        let generic = self.generic(tenant);
        if (namespace, name) == (generic.namespace.as_str(), generic.name.as_str()) {
            return Ok(vec![generic]);
        }
        let room = self.store.custom_events();
        let rows = room.versions(tenant, namespace, name).await;
        let rows = rows.map_err(store_fault)?;
        if rows.is_empty() {
            return Err(absent(namespace, name, None));
        }
        Ok(rows)
    }

    pub(super) fn generic(&self, tenant: &TenantId) -> CustomEventRow {
        let known = self.workspaces.known(tenant);
        generic::row(tenant, known.map_or(0, |tenant| tenant.created_at_ms))
    }

    pub(super) fn turn(&self, tenant: &TenantId) -> &Mutex<()> {
        let turn = partition_of(tenant.as_str().as_bytes(), TURNS);
        &self.turns[usize::try_from(turn).unwrap_or_default()]
    }
}

fn place(row: &CustomEventRow) -> (&str, &str, [u32; 3]) {
    (&row.namespace, &row.name, row.version)
}

/// Whether the generic event is among what is asked for.
fn asks_for(query: &CustomEventQuery, row: &CustomEventRow) -> bool {
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|it| it == value);
    let behind = query
        .after
        .as_ref()
        .is_none_or(|(namespace, name, version)| {
            place(row) > (namespace.as_str(), name.as_str(), *version)
        });
    behind
        && is(&query.namespace, &row.namespace)
        && is(&query.name, &row.name)
        && is(&query.status, &row.status)
}

/// Who may register, for which tenant.
fn may_register(caller: &Caller) -> Result<TenantId, Refusal> {
    let may = match caller.principal() {
        // An operator has no tenant, which is said below.
        Principal::Module(_) | Principal::Service(_) | Principal::Operator(_) => true,
        Principal::User(_) => caller.is_admin(),
        Principal::ApiKey { scopes, .. } => scopes.contains(&Scope::RegisterEvents),
        Principal::Extension { .. } => false,
    };
    if !may {
        return Err(Refusal::forbidden(format!(
            "{} may not register custom events; use the token of a module or of a user with role ADMIN, or an \
             API key with the scope events:register.",
            caller.describe()
        )));
    }
    reader(caller)
}

/// Any caller of a tenant may read what it has registered.
pub(super) fn reader(caller: &Caller) -> Result<TenantId, Refusal> {
    caller.tenant_with("custom events")
}

fn described(description: Option<&str>) -> Result<(), Refusal> {
    if description.is_none_or(|text| text.chars().count() <= MAX_DESCRIPTION) {
        return Ok(());
    }
    let detail = format!("'description' has at most {MAX_DESCRIPTION} characters.");
    Err(Refusal::invalid("description", detail))
}

/// Of this tenant: what others have is not told.
pub(super) fn absent(namespace: &str, name: &str, version: Option<&str>) -> Refusal {
    let named = match version {
        Some(version) => format!("'{namespace}.{name}@{version}'"),
        None => format!("'{namespace}.{name}'"),
    };
    let clipped: String = named.chars().take(200).collect();
    not_registered(&clipped)
}

fn read(text: &str) -> Result<Schema, Refusal> {
    Schema::read(text).map_err(|error| Refusal::fault("Reading a registered schema", &error))
}

/// Work that takes its time, which no other request should wait for.
pub(super) async fn aside<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Refusal::fault(what, &error)))
}

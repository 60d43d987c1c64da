//! What emits are held to: found in memory where it was found before, read from the store where not.
//!
//! Nothing is loaded before it is asked for, and what is kept is bounded by its size; that there is no such event is
//! kept too. An entry carries the number that its tenant's registrations had when it was read; a change here or at
//! another replica moves that number, and the entry is read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};
use tidings_contract::custom::{CanonicalName, EventPath, Schema, Version};
use tidings_event::{Code, EventType, TenantId, partition_of};
use tidings_store::{CustomEventRow, Store};

use super::verdict::{status_of, version_of};
use super::{Plan, Status, generic};
use crate::publish::refusal::{Refusal, Rule};
use crate::storing::store_fault;

/// How much memory compiled schemas may take, by a careful estimate.
const CACHE_BYTES: u64 = 64 << 20;
/// What a compiled schema takes beside what grows with its text.
const ENTRY_BYTES: u64 = 4 << 10;
/// So many bytes are taken for each byte of a schema's text.
const COMPILED: u64 = 16;
/// Tenants share so many numbers: a change of one has few others read again.
const STRIPES: u32 = 4_096;

/// A version in force.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Its canonical name, with tenant and version.
    pub name: CanonicalName,
    /// The same as the type of its events.
    pub event_type: EventType,
    /// What payloads are held to.
    pub schema: Schema,
}

impl Registered {
    /// Its version.
    pub fn version(&self) -> Version {
        self.name.version
    }

    fn of(row: &CustomEventRow, schema: Schema) -> Result<Self, Refusal> {
        let canonical = super::registry::canonical(row);
        let unread = |why: String| Refusal::fault("Reading a registered name", &Unread(why));
        let name = CanonicalName::parse(&canonical).ok_or_else(|| unread(canonical.clone()))?;
        let event_type = EventType::recorded(&canonical);
        Ok(Self {
            name,
            event_type: event_type.map_err(|error| unread(error.to_string()))?,
            schema,
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unread(String);

/// What is known of an event, or of one version of it.
#[derive(Debug, Clone)]
enum Known {
    /// There is no such event, or no such version of it.
    Absent,
    /// It is not in force.
    NotPublished(Status),
    /// It is published; which version is the latest of those that are.
    Published(Arc<Registered>, Version),
}

#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    bytes: u64,
    known: Known,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key(TenantId, EventPath, Option<Version>);

#[derive(Hash)]
struct Asked<'a>(&'a TenantId, &'a EventPath, Option<Version>);

impl Equivalent<Key> for Asked<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        (self.0, self.1, self.2) == (&key.0, &key.1, key.2)
    }
}

#[derive(Clone)]
struct BySize;

impl Weighter<Key, Entry> for BySize {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.bytes
    }
}

/// What is in force, as far as it was asked for.
pub(super) struct InForce {
    store: Store,
    cache: Cache<Key, Entry, BySize>,
    numbers: Box<[AtomicU64]>,
}

impl InForce {
    pub(super) fn new(store: Store) -> Self {
        let items = usize::try_from(CACHE_BYTES / ENTRY_BYTES).unwrap_or(usize::MAX);
        Self {
            store,
            cache: Cache::with_weighter(items, CACHE_BYTES, BySize),
            numbers: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The tenant's registrations have changed: what is known of them is read again.
    pub(super) fn changed(&self, tenant: &TenantId) {
        self.number(tenant).fetch_add(1, Ordering::AcqRel);
    }

    /// Anybody's may have.
    pub(super) fn all_changed(&self) {
        for number in &self.numbers {
            number.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// What is in force, if that is known here: nothing is asked or awaited.
    pub(super) fn try_find(
        &self,
        plan: Plan,
        tenant: &TenantId,
        path: &EventPath,
        version: Option<Version>,
    ) -> Option<Result<Arc<Registered>, Refusal>> {
        let entry = self.cache.get(&Asked(tenant, path, version))?;
        let current = self.number(tenant).load(Ordering::Acquire);
        (entry.number == current).then(|| answer(entry.known, plan, path, version))
    }

    /// The same, read from the store where it is not known.
    pub(super) async fn find(
        &self,
        plan: Plan,
        tenant: &TenantId,
        path: &EventPath,
        version: Option<Version>,
    ) -> Result<Arc<Registered>, Refusal> {
        if let Some(found) = self.try_find(plan, tenant, path, version) {
            return found;
        }
        // Before the rows: a change that comes in between leaves an entry that nobody uses.
        let number = self.number(tenant).load(Ordering::Acquire);
        let (known, bytes) = self.read(tenant, path, version).await?;
        let key = Key(tenant.clone(), path.clone(), version);
        let entry = Entry {
            number,
            bytes,
            known: known.clone(),
        };
        self.cache.insert(key, entry);
        answer(known, plan, path, version)
    }

    async fn read(
        &self,
        tenant: &TenantId,
        path: &EventPath,
        version: Option<Version>,
    ) -> Result<(Known, u64), Refusal> {
        if *path == EventPath::generic() {
            if version.is_some_and(|version| version != generic::VERSION) {
                return Ok((Known::Absent, ENTRY_BYTES));
            }
            let registered = Registered::of(&generic::row(tenant, 0), generic::schema().clone())?;
            let known = Known::Published(Arc::new(registered), generic::VERSION);
            return Ok((known, ENTRY_BYTES));
        }
        let room = self.store.custom_events();
        let rows = room.versions(tenant, path.namespace.as_str(), path.name.as_str());
        let rows = rows.await.map_err(store_fault)?;
        let published = |row: &&CustomEventRow| status_of(row) == Some(Status::Published);
        let latest = rows
            .iter()
            .filter(published)
            .max_by_key(|row| version_of(row));
        let row = match version {
            Some(version) => rows.iter().find(|row| version_of(row) == version),
            None => latest.or(rows.last()),
        };
        let (Some(row), Some(status)) = (row, row.and_then(status_of)) else {
            return Ok((Known::Absent, ENTRY_BYTES));
        };
        let (Status::Published, Some(latest)) = (status, latest) else {
            return Ok((Known::NotPublished(status), ENTRY_BYTES));
        };
        let (row, latest) = (row.clone(), version_of(latest));
        let bytes = ENTRY_BYTES + COMPILED * row.payload_schema.len() as u64;
        // Compiling takes its time, which no other request should wait for.
        let read = tokio::task::spawn_blocking(move || {
            let schema = Schema::read(&row.payload_schema);
            let schema =
                schema.map_err(|error| Refusal::fault("Reading a registered schema", &error))?;
            Registered::of(&row, schema)
        });
        let read = read.await;
        let registered = read
            .unwrap_or_else(|error| Err(Refusal::fault("Reading a registered schema", &error)))?;
        Ok((Known::Published(Arc::new(registered), latest), bytes))
    }

    fn number(&self, tenant: &TenantId) -> &AtomicU64 {
        let stripe = partition_of(tenant.as_str().as_bytes(), STRIPES);
        let index = usize::try_from(stripe).unwrap_or_default();
        &self.numbers[index]
    }
}

/// What is answered, in the order in which an emit asks: name and version, then the plan.
fn answer(
    known: Known,
    plan: Plan,
    path: &EventPath,
    version: Option<Version>,
) -> Result<Arc<Registered>, Refusal> {
    let named = version.map_or_else(|| path.to_string(), |version| format!("{path}@{version}"));
    let (registered, latest) = match known {
        Known::Absent => return Err(not_registered(&named)),
        Known::NotPublished(status) => return Err(not_published(&named, version, status)),
        Known::Published(registered, latest) => (registered, latest),
    };
    if plan.has_latest_alone() && registered.version() < latest {
        return Err(not_published(&named, version, Status::Superseded));
    }
    if !plan.has_own_events() && *path != EventPath::generic() {
        let detail = format!(
            "The plan {} emits platformxe.generic alone; BASIC emits events of one's own.",
            plan.as_str()
        );
        return Err(Refusal::new(
            Code::PlanUpgradeRequired,
            Rule::Contract,
            detail,
        ));
    }
    Ok(registered)
}

/// The refusal of an event, or a version, that this tenant has not.
pub(super) fn not_registered(named: &str) -> Refusal {
    let detail = format!("There is no custom event {named} of this organisation.");
    Refusal::new(Code::EventNotRegistered, Rule::Contract, detail).field("name")
}

fn not_published(named: &str, version: Option<Version>, status: Status) -> Refusal {
    let detail = match (version, status) {
        (None, _) => format!("No version of {named} is published; publish one."),
        (Some(_), Status::Superseded) => {
            format!("{named} is superseded: the plan has the latest version alone in force.")
        }
        (Some(_), status) => format!("{named} is {}, not published.", status.as_str()),
    };
    Refusal::new(Code::EventNotPublished, Rule::Contract, detail).field("version")
}

//! The immutable snapshot that the line consults: manifests, catalogues and routes.
//!
//! Rooms build a new one when something changes and put it on the [`Shelf`] whole; the line takes one `Arc`
//! per publish and never asks the store.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidings_contract::{Catalog, Contract, Subject};
use tidings_event::{
    CatalogName, Code, EventType, ModuleId, TenantId, Topic, TypePattern, WorkspaceId,
};

use crate::access::{Caller, Principal};
use crate::publish::refusal::{Refusal, Rule};

/// The part of a module's manifest that decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Its version.
    pub version: String,
    /// What the module may publish.
    pub publishes: BTreeSet<EventType>,
    /// What it says it listens to.
    pub subscribes: Vec<TypePattern>,
}

/// How an event is written to its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvelopeKind {
    /// Source A's: `{id, type, source, tenantId, data, schemaVersion, timestamp, traceId}`.
    Platform,
    /// CloudEvents JSON format.
    Structured,
    /// CloudEvents attributes in the headers, data alone in the value.
    Binary,
}

impl EnvelopeKind {
    /// The name in configuration and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Structured => "structured",
            Self::Binary => "binary",
        }
    }
}

/// Where events of some types go. The first route that fits wins.
#[derive(Debug, Clone)]
pub struct Route {
    /// Which types.
    pub types: Vec<TypePattern>,
    /// Where to.
    pub topic: Topic,
    /// Written how.
    pub envelope: EnvelopeKind,
}

impl Route {
    /// Everything else: source A's topic and envelope.
    pub fn fallback() -> Self {
        Self {
            types: Vec::new(),
            topic: "platform.data.events".parse().expect("a legal topic"),
            envelope: EnvelopeKind::Platform,
        }
    }

    /// What is published in workspaces: source C's topic.
    pub fn workspaces() -> Self {
        Self {
            types: Vec::new(),
            topic: "platform.workspace.events".parse().expect("a legal topic"),
            envelope: EnvelopeKind::Structured,
        }
    }

    /// The custom events of tenants: source D's topic.
    pub fn custom_events() -> Self {
        Self {
            types: Vec::new(),
            topic: "platform.custom.events".parse().expect("a legal topic"),
            envelope: EnvelopeKind::Structured,
        }
    }

    /// What tells of the life of custom events.
    pub fn lifecycle() -> Self {
        Self {
            types: Vec::new(),
            topic: "platform.custom.events.lifecycle"
                .parse()
                .expect("a legal topic"),
            envelope: EnvelopeKind::Structured,
        }
    }
}

/// What a member of a workspace may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in it, its members and extensions included.
    Admin,
    /// Publish, and read.
    Member,
}

impl Role {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "ADMIN",
            Self::Member => "MEMBER",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Admin, Self::Member];
        all.into_iter().find(|role| role.as_str() == text)
    }
}

/// A workspace of source C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// By the `sub` of their tokens.
    pub members: BTreeMap<String, Role>,
}

impl Workspace {
    /// What a user is in it, if anything.
    pub fn role(&self, caller: &Caller) -> Option<Role> {
        let of_tenant = caller.tenant() == Some(&self.tenant);
        match caller.principal() {
            Principal::User(sub) if of_tenant => self.members.get(sub).copied(),
            Principal::Extension { workspace, .. } if of_tenant && *workspace == self.id => {
                Some(Role::Member)
            }
            _ => None,
        }
    }
}

/// In so many parts lie the workspaces of all tenants: to change one of 100,000 copies a few hundred pointers.
const PARTS: usize = 256;

/// The workspaces of all tenants. Two that differ in one workspace share all the others.
#[derive(Debug, Clone)]
pub struct Workspaces(Vec<Arc<BTreeMap<WorkspaceId, Arc<Workspace>>>>);

impl Default for Workspaces {
    fn default() -> Self {
        Self(vec![Arc::default(); PARTS])
    }
}

impl Workspaces {
    /// The workspace of this id.
    pub fn get(&self, id: &WorkspaceId) -> Option<&Arc<Workspace>> {
        self.0[Self::part(id)].get(id)
    }

    /// Puts a workspace in place of the one of its id, if there is any.
    pub fn insert(&mut self, workspace: Arc<Workspace>) {
        let part = &mut self.0[Self::part(&workspace.id)];
        Arc::make_mut(part).insert(workspace.id.clone(), workspace);
    }

    fn part(id: &WorkspaceId) -> usize {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        // One of 256, whatever the word's width.
        hasher.finish().to_le_bytes()[0].into()
    }
}

impl FromIterator<Arc<Workspace>> for Workspaces {
    fn from_iter<I: IntoIterator<Item = Arc<Workspace>>>(all: I) -> Self {
        let mut workspaces = Self::default();
        all.into_iter().for_each(|one| workspaces.insert(one));
        workspaces
    }
}

/// A catalogue in force.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Whether publishes are held to it.
    pub enforce: bool,
    /// How often it was written since it was last absent.
    pub revision: i64,
    /// When it was last written, in ms since 1970.
    pub changed_at_ms: i64,
    /// The document, as it was given.
    pub text: Arc<str>,
    /// The same, read.
    pub catalog: Arc<Catalog>,
}

/// What the line needs of a topic that a catalogue carries.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Which catalogue.
    pub catalog: CatalogName,
    /// Whether publishes are held to it.
    pub enforce: bool,
    /// Who alone may publish; `None`: any module.
    pub sender: Option<String>,
    /// The `subject` of an event whose publisher gives none.
    pub subject: Option<Subject>,
    /// What its data must look like.
    pub contract: Contract,
    /// The topic, which is the type.
    pub topic: Topic,
    /// Written how.
    pub envelope: EnvelopeKind,
}

/// The catalogues in force, and what they carry.
#[derive(Debug, Default)]
pub struct Catalogs {
    by_name: BTreeMap<CatalogName, Applied>,
    by_type: BTreeMap<EventType, Carried>,
}

impl Catalogs {
    /// Of these. Where two carry one type, one that is enforced goes before, then the first by name.
    pub fn new(by_name: BTreeMap<CatalogName, Applied>) -> Self {
        let mut by_type: BTreeMap<EventType, Carried> = BTreeMap::new();
        for (name, applied) in &by_name {
            for (event_type, channel) in &applied.catalog.channels {
                let known = by_type.get(event_type);
                if known.is_some_and(|known| known.enforce || !applied.enforce) {
                    continue;
                }
                let topic = event_type.as_str().parse();
                let carried = Carried {
                    catalog: name.clone(),
                    enforce: applied.enforce,
                    sender: channel.sender.clone(),
                    subject: channel.subject.clone(),
                    contract: channel.contract.clone(),
                    topic: topic.expect("every event type is a legal topic"),
                    envelope: if channel.binary {
                        EnvelopeKind::Binary
                    } else {
                        EnvelopeKind::Structured
                    },
                };
                by_type.insert(event_type.clone(), carried);
            }
        }
        Self { by_name, by_type }
    }

    /// Each by its name.
    pub fn by_name(&self) -> &BTreeMap<CatalogName, Applied> {
        &self.by_name
    }

    /// Every topic that they carry.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.by_type.values().map(|carried| &carried.topic)
    }
}

/// Every topic that these routes lead to.
pub fn topics(routes: &[Route]) -> Vec<Topic> {
    let own = [
        Route::fallback(),
        Route::workspaces(),
        Route::custom_events(),
        Route::lifecycle(),
    ]
    .map(|route| route.topic);
    let named = routes.iter().map(|route| route.topic.clone());
    named.chain(own).collect()
}

/// What the line consults. A value: a test makes one in a line.
#[derive(Debug, Clone)]
pub struct Rulebook {
    manifests: Arc<BTreeMap<ModuleId, Arc<Manifest>>>,
    catalogs: Arc<Catalogs>,
    workspaces: Arc<Workspaces>,
    routes: Vec<Route>,
    fallback: Route,
    of_workspaces: Route,
    of_custom_events: Route,
    of_lifecycle: Route,
    copies: Arc<BTreeSet<Topic>>,
}

impl Rulebook {
    /// One without any manifest or catalogue.
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            manifests: Arc::default(),
            catalogs: Arc::default(),
            workspaces: Arc::default(),
            routes,
            fallback: Route::fallback(),
            of_workspaces: Route::workspaces(),
            of_custom_events: Route::custom_events(),
            of_lifecycle: Route::lifecycle(),
            copies: Arc::default(),
        }
    }

    /// The same with topics that copies may go to.
    #[must_use]
    pub fn with_copies(&self, topics: BTreeSet<Topic>) -> Self {
        Self {
            copies: Arc::new(topics),
            ..self.clone()
        }
    }

    /// Whether copies may go to a topic: the operator has said so, and no catalogue carries it.
    pub fn takes_copies(&self, topic: &Topic) -> bool {
        let carried = |event_type| self.carried(&event_type).is_some();
        self.copies.contains(topic) && !topic.as_str().parse().is_ok_and(carried)
    }

    /// Whether events of other types go to the topic of this name, or one that Kafka takes for the same: one of the installation's
    /// own, or of a route.
    pub fn takes_others(&self, event_type: &EventType) -> bool {
        let named = |route: &Route| collide(route.topic.as_str(), event_type.as_str());
        let leads_others = |route: &Route| {
            let mut patterns = route.types.iter();
            named(route) && patterns.any(|pattern| pattern.as_str() != event_type.as_str())
        };
        let own = [
            &self.fallback,
            &self.of_workspaces,
            &self.of_custom_events,
            &self.of_lifecycle,
        ];
        own.into_iter().any(named) || self.routes.iter().any(leads_others)
    }

    /// The manifest of a module.
    pub fn manifest(&self, module: &ModuleId) -> Option<&Arc<Manifest>> {
        self.manifests.get(module)
    }

    /// Every manifest.
    pub fn manifests(&self) -> &BTreeMap<ModuleId, Arc<Manifest>> {
        &self.manifests
    }

    /// The catalogues in force.
    pub fn catalogs(&self) -> &Arc<Catalogs> {
        &self.catalogs
    }

    /// What a catalogue says of a type, if one carries it: it then goes to the topic of its own name.
    pub fn carried(&self, event_type: &EventType) -> Option<&Carried> {
        self.catalogs.by_type.get(event_type)
    }

    /// The same, if publishes are held to it.
    pub fn enforced(&self, event_type: &EventType) -> Option<&Carried> {
        self.carried(event_type).filter(|carried| carried.enforce)
    }

    /// The workspaces of all tenants.
    pub fn workspaces(&self) -> &Arc<Workspaces> {
        &self.workspaces
    }

    /// The workspace of this id, if the caller may publish and read there: a member, or a caller with the role
    /// ADMIN of its tenant. Any other id is refused alike, whether there is such a workspace or not.
    pub fn workspace_of(&self, caller: &Caller, id: &str) -> Result<&Arc<Workspace>, Refusal> {
        let known = id.parse().ok();
        let known = known.and_then(|id: WorkspaceId| self.workspaces.get(&id));
        let open = known.filter(|workspace| {
            let of_tenant = caller.tenant() == Some(&workspace.tenant);
            (of_tenant && caller.is_admin()) || workspace.role(caller).is_some()
        });
        open.ok_or_else(|| no_workspace(caller))
    }

    /// Where events of a type go that no catalogue carries.
    pub fn route(&self, event_type: &EventType, in_workspace: bool) -> &Route {
        let fits = |route: &&Route| {
            route
                .types
                .iter()
                .any(|pattern| pattern.matches(event_type))
        };
        let own = if event_type.is_lifecycle() {
            &self.of_lifecycle
        } else if event_type.is_canonical() {
            &self.of_custom_events
        } else if in_workspace {
            &self.of_workspaces
        } else {
            &self.fallback
        };
        self.routes.iter().find(fits).unwrap_or(own)
    }

    /// The same with other workspaces.
    #[must_use]
    pub fn with_workspaces(&self, workspaces: Arc<Workspaces>) -> Self {
        Self {
            workspaces,
            ..self.clone()
        }
    }

    /// The same with other manifests.
    #[must_use]
    pub fn with_manifests(&self, manifests: BTreeMap<ModuleId, Arc<Manifest>>) -> Self {
        Self {
            manifests: Arc::new(manifests),
            ..self.clone()
        }
    }

    /// The same with other catalogues.
    #[must_use]
    pub fn with_catalogs(&self, catalogs: Arc<Catalogs>) -> Self {
        Self {
            catalogs,
            ..self.clone()
        }
    }
}

/// Says nothing of whether there is such a workspace.
pub(crate) fn no_workspace(caller: &Caller) -> Refusal {
    let detail = format!(
        "{} has no access to such a workspace; it takes membership, or the role ADMIN of its tenant.",
        caller.describe()
    );
    Refusal::new(Code::WorkspaceForbidden, Rule::Manifest, detail)
}

/// Where the rulebook in force lies.
#[derive(Debug)]
pub struct Shelf(ArcSwap<Rulebook>);

impl Shelf {
    /// With a first rulebook.
    pub fn new(rulebook: Rulebook) -> Self {
        Self(ArcSwap::from_pointee(rulebook))
    }

    /// The one in force.
    pub fn rulebook(&self) -> arc_swap::Guard<Arc<Rulebook>> {
        self.0.load()
    }

    /// Puts another in force, made of the one that is. `change` runs again when another room was quicker.
    pub fn change(&self, mut change: impl FnMut(&Rulebook) -> Rulebook) {
        self.0.rcu(|rulebook| change(rulebook));
    }
}

/// Whether two names of topics are one to Kafka, whose metrics write a dot as an underscore: it makes no topic whose name
/// differs from that of another in these alone. It holds on every bus, so that what is on one can move to another.
fn collide(one: &str, other: &str) -> bool {
    spelled(one).eq(spelled(other))
}

/// The name of a topic as Kafka's metrics write it.
pub(crate) fn spelled(name: &str) -> impl Iterator<Item = u8> {
    name.bytes()
        .map(|byte| if byte == b'.' { b'_' } else { byte })
}

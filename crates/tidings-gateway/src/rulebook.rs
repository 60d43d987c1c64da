//! The immutable snapshot that the line consults: manifests, catalogues and routes.
//!
//! Rooms build a new one when something changes and put it on the [`Shelf`] whole; the line takes one `Arc`
//! per publish and never asks the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidings_contract::{Catalog, Contract, Subject};
use tidings_event::{CatalogName, EventType, ModuleId, Topic, TypePattern};

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
    let fallback = Route::fallback().topic;
    let named = routes.iter().map(|route| route.topic.clone());
    named.chain([fallback]).collect()
}

/// What the line consults. A value: a test makes one in a line.
#[derive(Debug, Clone)]
pub struct Rulebook {
    manifests: Arc<BTreeMap<ModuleId, Arc<Manifest>>>,
    catalogs: Arc<Catalogs>,
    routes: Vec<Route>,
    fallback: Route,
}

impl Rulebook {
    /// One without any manifest or catalogue.
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            manifests: Arc::default(),
            catalogs: Arc::default(),
            routes,
            fallback: Route::fallback(),
        }
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

    /// Where events of a type go that no catalogue carries.
    pub fn route(&self, event_type: &EventType) -> &Route {
        let fits = |route: &&Route| {
            route
                .types
                .iter()
                .any(|pattern| pattern.matches(event_type))
        };
        self.routes.iter().find(fits).unwrap_or(&self.fallback)
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

//! The immutable snapshot that the line consults: manifests and routes.
//!
//! Rooms build a new one when something changes and put it on the [`Shelf`] whole; the line takes one `Arc`
//! per publish and never asks the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidings_event::{EventType, ModuleId, Topic, TypePattern};

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

/// Every topic that these routes lead to.
pub fn topics(routes: &[Route]) -> Vec<Topic> {
    let fallback = Route::fallback().topic;
    let named = routes.iter().map(|route| route.topic.clone());
    named.chain([fallback]).collect()
}

/// What the line consults. A value: a test makes one in a line.
#[derive(Debug, Clone)]
pub struct Rulebook {
    manifests: BTreeMap<ModuleId, Arc<Manifest>>,
    routes: Vec<Route>,
    fallback: Route,
}

impl Rulebook {
    /// One without any manifest.
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            manifests: BTreeMap::new(),
            routes,
            fallback: Route::fallback(),
        }
    }

    /// The manifest of a module.
    pub fn manifest(&self, module: &ModuleId) -> Option<&Arc<Manifest>> {
        self.manifests.get(module)
    }

    /// Where events of a type go.
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
            manifests,
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

    /// Puts another in force.
    pub fn replace(&self, rulebook: Rulebook) {
        self.0.store(Arc::new(rulebook));
    }
}

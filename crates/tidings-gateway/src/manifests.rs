//! What modules declare (source A, `module.manifest.json`): kept in the store, in force in the rulebook.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use tidings_event::json::RawJson;
use tidings_event::{
    Code, Data, EventType, ModuleId, SchemaVersion, Service, TenantId, TypePattern,
};
use tidings_store::{Store, StoreError};
use tokio::sync::Mutex;

use crate::access::{Caller, Principal, on_behalf_of};
use crate::clock::Clock;
use crate::kernel_namespaces::owner_of;
use crate::publish::Line;
use crate::publish::command::{Command, Draft};
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::{Manifest, Shelf};

/// The largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1_048_576;

/// A module as anybody may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its id.
    pub id: ModuleId,
    /// The version of its manifest.
    pub version: String,
}

/// The members of a manifest that Tidings reads; others are kept and left alone.
#[derive(Deserialize)]
struct Document {
    id: String,
    version: String,
    #[serde(default)]
    events: Declared,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Declared {
    #[serde(default)]
    publishes: Vec<String>,
    #[serde(default)]
    subscribes: Vec<String>,
}

/// The room.
pub struct Manifests {
    store: Store,
    shelf: Arc<Shelf>,
    line: Arc<Line>,
    clock: Clock,
    /// One change at a time, so that the rulebook ends as the store does; and the modules whose last
    /// change has no event yet.
    writing: Mutex<BTreeSet<ModuleId>>,
}

impl Manifests {
    /// Over the store, putting in force what it holds.
    pub async fn open(
        store: Store,
        shelf: Arc<Shelf>,
        line: Arc<Line>,
        clock: Clock,
    ) -> Result<Self, Refusal> {
        let room = Self {
            store,
            shelf,
            line,
            clock,
            writing: Mutex::default(),
        };
        room.put_in_force().await?;
        Ok(room)
    }

    /// Ids and versions of all modules; for any caller.
    pub async fn list(&self) -> Result<Vec<Module>, Refusal> {
        let rows = self.store.manifests().list().await.map_err(store_fault)?;
        Ok(rows
            .into_iter()
            .map(|row| Module {
                id: row.module_id,
                version: row.version,
            })
            .collect())
    }

    /// The manifest itself; for its module, module-registry and operators.
    pub async fn get(&self, caller: &Caller, module: &ModuleId) -> Result<RawJson, Refusal> {
        let own = matches!(caller.principal(), Principal::Module(id) if id == module);
        if !own {
            may_write(caller)?;
        }
        let row = self
            .store
            .manifests()
            .get(module)
            .await
            .map_err(store_fault)?;
        row.map(|row| RawJson::trusted(row.document))
            .ok_or_else(|| Refusal::not_found("manifest"))
    }

    /// Puts a manifest in place of the one before, in force at once. Answers whether it changed anything.
    pub async fn put(
        self: &Arc<Self>,
        caller: &Caller,
        module: &ModuleId,
        document: &str,
    ) -> Result<bool, Refusal> {
        may_write(caller)?;
        self.install(module, document).await
    }

    /// The same for a manifest from the operator's own folder.
    pub async fn install(
        self: &Arc<Self>,
        module: &ModuleId,
        document: &str,
    ) -> Result<bool, Refusal> {
        let manifest = parse(module, document)?;
        let (room, module, document) = (self.clone(), module.clone(), document.to_owned());
        to_its_end(async move { room.write(&module, &document, &manifest).await }).await
    }

    /// Removes a manifest: its module may publish nothing any more.
    pub async fn delete(
        self: &Arc<Self>,
        caller: &Caller,
        module: &ModuleId,
    ) -> Result<(), Refusal> {
        may_write(caller)?;
        let (room, module) = (self.clone(), module.clone());
        to_its_end(async move { room.remove(&module).await }).await
    }

    async fn write(
        &self,
        module: &ModuleId,
        document: &str,
        manifest: &Manifest,
    ) -> Result<bool, Refusal> {
        let mut unannounced = self.writing.lock().await;
        let before = self.store.manifests().get(module).await;
        let before = before.map_err(store_fault)?;
        let changed = before.is_none_or(|row| row.document != document);
        if changed {
            let (now, version) = (self.clock.now_ms(), &manifest.version);
            let rooms = self.store.manifests();
            let written = rooms.put(module, version, document, now).await;
            written.map_err(store_fault)?;
            unannounced.insert(module.clone());
            self.put_in_force().await?;
        }
        // A change whose event failed is announced by the repeat.
        if unannounced.contains(module) {
            self.announce(module, Some(manifest)).await?;
            unannounced.remove(module);
        }
        Ok(changed)
    }

    async fn remove(&self, module: &ModuleId) -> Result<(), Refusal> {
        let mut unannounced = self.writing.lock().await;
        let removed = self.store.manifests().delete(module).await;
        if removed.map_err(store_fault)? {
            unannounced.insert(module.clone());
            self.put_in_force().await?;
        } else if !unannounced.contains(module) {
            return Err(Refusal::not_found("manifest"));
        }
        self.announce(module, None).await?;
        unannounced.remove(module);
        Ok(())
    }

    async fn put_in_force(&self) -> Result<(), Refusal> {
        let rows = self.store.manifests().list().await.map_err(store_fault)?;
        let mut manifests = BTreeMap::new();
        for row in rows {
            let manifest = parse(&row.module_id, &row.document)?;
            manifests.insert(row.module_id, Arc::new(manifest));
        }
        let rulebook = self.shelf.rulebook().with_manifests(manifests);
        self.shelf.replace(rulebook);
        Ok(())
    }

    /// `module.registry.manifest.updated`, an event of the tenant `platform`.
    async fn announce(
        &self,
        module: &ModuleId,
        manifest: Option<&Manifest>,
    ) -> Result<(), Refusal> {
        let data = serde_json::json!({
            "moduleId": module.as_str(),
            "version": manifest.map(|manifest| &manifest.version),
            "deleted": manifest.is_none(),
            "publishes": manifest.map_or_else(Vec::new, |it| it.publishes.iter().map(EventType::as_str).collect()),
            "subscribes": manifest.map_or_else(Vec::new, |it| it.subscribes.iter().map(TypePattern::as_str).collect()),
        });
        let (data, fingerprint) =
            RawJson::parse(&data.to_string()).expect("JSON made here is valid");
        let draft = Draft {
            event_type: "module.registry.manifest.updated".to_owned(),
            schema_version: None,
            data: Data::Json(data),
            fingerprint,
            idempotency_key: None,
            cloud: None,
        };
        let caller = on_behalf_of(Service::ModuleRegistry, TenantId::platform());
        let command = Command::one(caller, draft, None);
        self.line.publish(command).await.map(drop)
    }
}

/// Runs a change to its end even when its caller stops waiting: store and rulebook must agree.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|error| Err(Refusal::fault("The change", &error)))
}

fn may_write(caller: &Caller) -> Result<(), Refusal> {
    if caller.is_operator() || *caller.principal() == Principal::Service(Service::ModuleRegistry) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!(
        "{} may not see or change manifests; only service 'module-registry' and operators may.",
        caller.describe()
    )))
}

/// Reads a manifest and checks all that it declares.
fn parse(module: &ModuleId, document: &str) -> Result<Manifest, Refusal> {
    let refused = |error: serde_json::Error| {
        let code = if error.is_data() {
            Code::InvalidRequest
        } else {
            Code::InvalidJson
        };
        Refusal::new(
            code,
            Rule::Shape,
            format!("The manifest cannot be read: {error}."),
        )
    };
    RawJson::parse(document).map_err(|error| {
        Refusal::new(
            Code::InvalidJson,
            Rule::Shape,
            format!("The manifest cannot be read: {error}."),
        )
    })?;
    let document: Document = serde_json::from_str(document).map_err(refused)?;
    if document.id != module.as_str() {
        let detail = format!(
            "The manifest's id is '{}', but the module is '{module}'.",
            document.id
        );
        return Err(Refusal::invalid("id", detail));
    }
    let version: SchemaVersion = document.version.parse().map_err(|_| {
        Refusal::invalid(
            "version",
            format!(
                "The version '{}' is not MAJOR.MINOR.PATCH.",
                document.version
            ),
        )
    })?;
    let mut manifest = Manifest {
        version: version.as_str().to_owned(),
        ..Manifest::default()
    };
    for (index, text) in document.events.publishes.iter().enumerate() {
        let field = format!("events.publishes[{index}]");
        let event_type: EventType = text
            .parse()
            .map_err(|error| Refusal::invalid(&*field, format!("{error}.")))?;
        if let Some(owner) = owner_of(&event_type) {
            return Err(Refusal::new(
                Code::KernelEventPublishForbidden,
                Rule::KernelNamespace,
                format!(
                    "Module '{module}' is not permitted to publish kernel event '{event_type}'; it \
                     belongs to service '{owner}'."
                ),
            )
            .field(field));
        }
        manifest.publishes.insert(event_type);
    }
    for (index, text) in document.events.subscribes.iter().enumerate() {
        let field = format!("events.subscribes[{index}]");
        let pattern = text
            .parse()
            .map_err(|error| Refusal::invalid(field, format!("{error}.")))?;
        manifest.subscribes.push(pattern);
    }
    Ok(manifest)
}

pub(crate) fn store_fault(error: StoreError) -> Refusal {
    if error.is_full() {
        return Refusal::new(
            Code::StorageFull,
            Rule::Append,
            "The store has no room left; nothing was changed.",
        );
    }
    Refusal::fault("The store", &error)
}

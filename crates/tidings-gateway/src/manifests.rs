//! What modules declare (source A, `module.manifest.json`): kept in the store, in force in the rulebook.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tidings_event::json::{self, RawJson};
use tidings_event::{
    Code, EventType, ModuleId, SchemaVersion, Service, TenantId, TypePattern, owner_of,
};
use tidings_store::{ManifestRow, OutboxRow, Store};
use tokio::sync::{Mutex, MutexGuard};

use crate::access::{Caller, Principal};
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::damaged::{Unread, damaged, sound};
use crate::outbox::Outbox;
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::{Manifest, Shelf};
use crate::storing::{store_fault, to_its_end};

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
    outbox: Arc<Outbox>,
    clock: Clock,
    /// One change at a time, so that the rulebook ends as the store does.
    writing: Mutex<()>,
    unread: Unread,
}

impl Manifests {
    /// Over the store, putting in force what it holds.
    pub async fn open(
        store: Store,
        shelf: Arc<Shelf>,
        outbox: Arc<Outbox>,
        clock: Clock,
    ) -> Result<Self, Refusal> {
        let room = Self {
            store,
            shelf,
            outbox,
            clock,
            writing: Mutex::default(),
            unread: Unread::of("manifest"),
        };
        room.put_in_force().await?;
        Ok(room)
    }

    /// Ids and versions of all modules; for any caller.
    pub async fn list(&self) -> Result<Vec<Module>, Refusal> {
        let rows = sound(self.store.manifests().list().await)?;
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
        self.change(Actor::Caller(caller.clone()), module, document)
            .await
    }

    /// The same for a manifest from the operator's own folder.
    pub async fn install(
        self: &Arc<Self>,
        module: &ModuleId,
        document: &str,
    ) -> Result<bool, Refusal> {
        self.change(Actor::Installation, module, document).await
    }

    async fn change(
        self: &Arc<Self>,
        actor: Actor,
        module: &ModuleId,
        document: &str,
    ) -> Result<bool, Refusal> {
        let manifest = parse(module, document)?;
        let (room, module, document) = (self.clone(), module.clone(), document.to_owned());
        to_its_end(async move { room.write(&actor, &module, &document, &manifest).await }).await
    }

    /// Removes a manifest: its module may publish nothing any more.
    pub async fn delete(
        self: &Arc<Self>,
        caller: &Caller,
        module: &ModuleId,
    ) -> Result<(), Refusal> {
        may_write(caller)?;
        let (room, module) = (self.clone(), module.clone());
        let actor = Actor::Caller(caller.clone());
        to_its_end(async move { room.remove(&actor, &module).await }).await
    }

    async fn write(
        &self,
        actor: &Actor,
        module: &ModuleId,
        document: &str,
        manifest: &Manifest,
    ) -> Result<bool, Refusal> {
        let alone = self.writing.lock().await;
        let rooms = self.store.manifests();
        let before = match rooms.get(module).await {
            // One that cannot be read is written over, whatever stands there.
            Err(error) if error.row().is_some() => None,
            Ok(_) if self.unread.has(module.as_str()) => None,
            before => before.map_err(store_fault)?,
        };
        if before.is_some_and(|row| row.document == document) {
            return Ok(false);
        }
        let events = self.events(actor, module, Some(manifest))?;
        let (now, version) = (self.clock.now_ms(), &manifest.version);
        let written = rooms.put(module, version, document, now, &events).await;
        written.map_err(store_fault)?;
        self.changed(alone).await?;
        Ok(true)
    }

    async fn remove(&self, actor: &Actor, module: &ModuleId) -> Result<(), Refusal> {
        let alone = self.writing.lock().await;
        let events = self.events(actor, module, None)?;
        let removed = self.store.manifests().delete(module, &events).await;
        if !removed.map_err(store_fault)? {
            return Err(Refusal::not_found("manifest"));
        }
        self.changed(alone).await
    }

    /// The change is made: it is put in force and told of, whichever of the two fails. Others may change meanwhile what
    /// waits for the bus.
    async fn changed(&self, alone: MutexGuard<'_, ()>) -> Result<(), Refusal> {
        let in_force = self.put_in_force().await;
        drop(alone);
        self.outbox.deliver().await;
        in_force
    }

    /// Puts in force what the store holds: another replica may have changed it.
    pub(crate) async fn reload(&self) -> Result<(), Refusal> {
        let _alone = self.writing.lock().await;
        self.put_in_force().await
    }

    /// Whether a module has one.
    pub fn is_in_force(&self, module: &ModuleId) -> bool {
        self.shelf.rulebook().manifest(module).is_some()
    }

    #[cfg(test)]
    pub(crate) fn in_force(&self, module: &ModuleId) -> Option<Arc<Manifest>> {
        self.shelf.rulebook().manifest(module).cloned()
    }

    /// One that cannot be read is passed over: the others, and the start, are not to wait for it. Its module may publish
    /// nothing.
    async fn put_in_force(&self) -> Result<(), Refusal> {
        let found = self.store.manifests().list().await.map_err(store_fault)?;
        let (mut manifests, mut unread) = (BTreeMap::new(), damaged(&found.damaged));
        for row in found.rows {
            match recorded(&row) {
                Ok(manifest) => {
                    manifests.insert(row.module_id, Arc::new(manifest));
                }
                Err(refusal) => {
                    unread.insert(row.module_id.to_string(), refusal.detail);
                }
            }
        }
        self.unread.renew(unread);
        self.shelf
            .change(|rulebook| rulebook.with_manifests(manifests.clone()));
        Ok(())
    }

    /// Those that cannot be read, a sentence for each.
    pub(crate) fn unread(&self) -> Vec<String> {
        self.unread.sentences()
    }

    /// What a change is told by: `module.registry.manifest.updated` and its audit event, both of
    /// the tenant `platform`.
    fn events(
        &self,
        actor: &Actor,
        module: &ModuleId,
        manifest: Option<&Manifest>,
    ) -> Result<[OutboxRow; 2], Refusal> {
        let version = manifest.map(|manifest| &manifest.version);
        let data = json!({
            "moduleId": module.as_str(),
            "version": version,
            "deleted": manifest.is_none(),
            "publishes": manifest.map_or_else(Vec::new, |it| it.publishes.iter().map(EventType::as_str).collect()),
            "subscribes": manifest.map_or_else(Vec::new, |it| it.subscribes.iter().map(TypePattern::as_str).collect()),
        });
        let (outbox, platform) = (&self.outbox, TenantId::platform());
        let event_type = "module.registry.manifest.updated";
        let updated = outbox.row(Service::ModuleRegistry, platform.clone(), event_type, &data);
        let action = match manifest {
            Some(_) => "manifest.written",
            None => "manifest.removed",
        };
        let target = json!({ "kind": "manifest", "id": module.as_str(), "version": version });
        let audited = audit::row(outbox, platform, action, actor, &target);
        outbox.check(&updated)?;
        outbox.check(&audited)?;
        Ok([updated, audited])
    }
}

fn may_write(caller: &Caller) -> Result<(), Refusal> {
    caller.keeps_the_register("see manifests but a module's own, or change any")
}

/// Reads a manifest and checks all that it declares.
fn parse(module: &ModuleId, document: &str) -> Result<Manifest, Refusal> {
    json::check(document).map_err(|error| unreadable(Code::InvalidJson, &error))?;
    // What stands in the store is read without: it was taken when it came.
    let document = &mut serde_json::Deserializer::from_str(document);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let read = json::by_name(tracked);
    let read =
        read.map_err(|error: serde_json::Error| Refusal::unread(&track.path().to_string(), &error));
    declared(module, &read?)
}

fn unread(error: serde_json::Error) -> Refusal {
    let code = if error.is_data() {
        Code::InvalidRequest
    } else {
        Code::InvalidJson
    };
    unreadable(code, &error)
}

fn unreadable(code: Code, error: &serde_json::Error) -> Refusal {
    let detail = format!("The manifest cannot be read: {error}.");
    Refusal::new(code, Rule::Shape, detail)
}

/// What a document in the store declares. A type that has come to belong to a service since it was taken is left out.
pub(crate) fn recorded(row: &ManifestRow) -> Result<Manifest, Refusal> {
    let module = &row.module_id;
    let mut document: Document = serde_json::from_str(&row.document).map_err(unread)?;
    document.events.publishes.retain(|text| {
        let owner = text.parse().ok().and_then(|it| owner_of(&it));
        if let Some(owner) = owner {
            tracing::warn!(%module, event_type = text, %owner, "a manifest names a type that belongs to a service");
        }
        owner.is_none()
    });
    declared(module, &document)
}

/// What a document declares.
fn declared(module: &ModuleId, document: &Document) -> Result<Manifest, Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gateway, in_memory};

    #[tokio::test]
    async fn a_manifest_of_before_that_is_no_longer_legal_keeps_neither_the_start_nor_others() {
        let (clock, store) = (Clock::manual(1), Store::in_memory().await.unwrap());
        let of = |id: &str, publishes: &[&str]| {
            json!({ "id": id, "version": "1.0.0", "events": { "publishes": publishes } })
                .to_string()
        };
        let crm = of("crm", &["crm.contact.created", "auth.user.created"]);
        let rows = [("crm", crm), ("shop", of("shop", &["shop.order.placed"]))];
        let torn = [("torn", "{".to_owned()), ("odd", of("odd", &["no type"]))];
        for (module, document) in rows.into_iter().chain(torn) {
            let (manifests, module) = (store.manifests(), module.parse().unwrap());
            let put = manifests.put(&module, "1.0.0", &document, 1, &[]);
            put.await.unwrap();
        }
        let parts = in_memory::parts_on(Arc::new(in_memory::bus(&clock)), store, &clock).await;
        let gateway = Gateway::open(parts).await.unwrap();
        let declared = |module: &str| {
            let manifest = gateway.manifests.in_force(&module.parse().unwrap())?;
            let types = manifest.publishes.iter().map(ToString::to_string);
            Some(types.collect::<Vec<_>>())
        };
        assert_eq!(declared("crm").unwrap(), ["crm.contact.created"]);
        assert_eq!(declared("shop").unwrap(), ["shop.order.placed"]);
        assert_eq!((declared("torn"), declared("odd")), (None, None));
        gateway.manifests.reload().await.unwrap();
        let unread = gateway.readiness().await.unread;
        assert_eq!(unread.len(), 2, "{unread:?}");
        assert!(unread[0].starts_with("manifest odd: "), "{unread:?}");
    }
}

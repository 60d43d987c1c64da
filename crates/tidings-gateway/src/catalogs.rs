//! Catalogues of topics: kept in the store as they were given, in force in the rulebook.
//!
//! A document is read and its contracts compiled once, when it comes in or when this replica first sees it.

mod own;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use tidings_bus::Bus;
pub use tidings_contract::Change;
use tidings_contract::{Catalog, Declared, agree, diff, installation, name_readers};
use tidings_event::{CatalogName, Code, EventType, TenantId};
use tidings_store::{CatalogRow, OutboxRow, Store};
use tokio::sync::{Mutex, MutexGuard};

use crate::access::Caller;
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::damaged::{Unread, damaged};
use crate::outbox::Outbox;
use crate::publish::refusal::{Fault, Refusal, Rule};
use crate::rulebook::{
    Applied, Catalogs as InForce, EnvelopeKind, Manifest, Rulebook, Shelf, spelled,
};
use crate::storing::{contended, store_fault, to_its_end};

/// The largest document, in bytes.
pub const MAX_CATALOG_BYTES: usize = tidings_contract::MAX_BYTES;
/// So many faults of a document are reported.
const MAX_FAULTS: usize = 100;
/// How often a write is tried when other replicas keep writing in between.
const TRIES: usize = 5;

/// A catalogue as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it is called by.
    pub name: CatalogName,
    /// The rest.
    pub applied: Applied,
}

/// What a write came to.
#[derive(Debug, Clone)]
pub struct Written {
    /// Whether anything is different now.
    pub changed: bool,
    /// How often it was written since it was last absent.
    pub revision: i64,
    /// What is different for publishers and consumers.
    pub changes: Vec<Change>,
}

/// The room.
pub struct Catalogs {
    store: Store,
    shelf: Arc<Shelf>,
    bus: Arc<dyn Bus>,
    outbox: Arc<Outbox>,
    clock: Clock,
    /// One change at a time, so that the rulebook ends as the store does.
    writing: Mutex<()>,
    unread: Unread,
}

impl Catalogs {
    /// Over the store, putting in force what it holds.
    pub(crate) async fn open(
        store: Store,
        shelf: Arc<Shelf>,
        bus: Arc<dyn Bus>,
        outbox: Arc<Outbox>,
        clock: Clock,
    ) -> Result<Self, Refusal> {
        let room = Self {
            store,
            shelf,
            bus,
            outbox,
            clock,
            writing: Mutex::default(),
            unread: Unread::of("catalogue"),
        };
        room.put_in_force().await?;
        Ok(room)
    }

    /// All catalogues in force, in the order of their names; for any caller.
    pub fn list(&self) -> Vec<Listed> {
        let in_force = self.in_force();
        let listed = in_force.by_name().iter().map(|(name, applied)| Listed {
            name: name.clone(),
            applied: applied.clone(),
        });
        listed.collect()
    }

    /// One catalogue; for any caller.
    pub fn get(&self, name: &CatalogName) -> Result<Applied, Refusal> {
        let found = self.in_force().by_name().get(name).cloned();
        found.ok_or_else(|| Refusal::not_found("catalogue"))
    }

    /// One AsyncAPI document of everything that this installation carries; for any caller.
    pub fn installation(&self) -> Value {
        let rulebook = self.shelf.rulebook();
        let in_force = rulebook.catalogs();
        let catalogs = in_force.by_name().iter();
        let catalogs: Vec<(&str, &Catalog)> = catalogs
            .map(|(name, applied)| (name.as_str(), &*applied.catalog))
            .collect();
        let mut declared = own::own(&rulebook);
        for (module, manifest) in rulebook.manifests() {
            for event_type in &manifest.publishes {
                if rulebook.carried(event_type).is_some() {
                    continue;
                }
                let route = rulebook.route(event_type, false);
                declared.push(Declared {
                    sender: module.to_string(),
                    title: format!("Module {module}"),
                    name: event_type.to_string(),
                    types: json!({ "const": event_type.as_str() }),
                    data: json!({ "type": "object" }),
                    topic: route.topic.clone(),
                    envelope: media_type(route.envelope),
                });
            }
        }
        installation(env!("CARGO_PKG_VERSION"), &catalogs, &declared)
    }

    /// Puts a catalogue in place of the one before, in force at once. With `enforce`, publishes are held to it.
    pub async fn put(
        self: &Arc<Self>,
        caller: &Caller,
        name: &CatalogName,
        document: &str,
        enforce: bool,
    ) -> Result<Written, Refusal> {
        may_write(caller)?;
        let catalog = parse_aside(document).await?;
        let (room, name, document) = (self.clone(), name.clone(), document.to_owned());
        let actor = Actor::Caller(caller.clone());
        to_its_end(async move {
            room.write(&actor, &name, &document, &catalog, enforce)
                .await
        })
        .await
    }

    /// What [`put`](Self::put) would change. Nothing is written.
    pub async fn dry_run(
        &self,
        caller: &Caller,
        name: &CatalogName,
        document: &str,
        enforce: bool,
    ) -> Result<Written, Refusal> {
        may_write(caller)?;
        let catalog = parse_aside(document).await?;
        self.reload().await?;
        let in_force = self.in_force();
        let before = in_force.by_name().get(name);
        fits(name, before, &catalog, &self.shelf.rulebook())?;
        Ok(self.written(before, document, &catalog, enforce))
    }

    /// What putting a document in place of another comes to; the revision is that of the one before.
    fn written(
        &self,
        before: Option<&Applied>,
        document: &str,
        catalog: &Catalog,
        enforce: bool,
    ) -> Written {
        let mut written = written(before, document, catalog, enforce);
        let rulebook = self.shelf.rulebook();
        name_readers(&mut written.changes, |event_type| {
            let event_type = event_type.parse::<EventType>();
            let reads = |manifest: &Manifest| {
                let mut patterns = manifest.subscribes.iter();
                event_type
                    .as_ref()
                    .is_ok_and(|it| patterns.any(|pattern| pattern.matches(it)))
            };
            let manifests = rulebook.manifests().iter();
            let readers = manifests.filter(|(_, manifest)| reads(manifest));
            readers.map(|(module, _)| module.to_string()).collect()
        });
        written
    }

    /// Removes a catalogue: its types are then like any other.
    pub async fn delete(
        self: &Arc<Self>,
        caller: &Caller,
        name: &CatalogName,
    ) -> Result<(), Refusal> {
        may_write(caller)?;
        let (room, name) = (self.clone(), name.clone());
        let actor = Actor::Caller(caller.clone());
        to_its_end(async move { room.remove(&actor, &name).await }).await
    }

    async fn write(
        &self,
        actor: &Actor,
        name: &CatalogName,
        document: &str,
        catalog: &Catalog,
        enforce: bool,
    ) -> Result<Written, Refusal> {
        let alone = self.writing.lock().await;
        for _ in 0..TRIES {
            // What another replica has just written counts too.
            self.put_in_force().await?;
            let in_force = self.in_force();
            let before = in_force.by_name().get(name);
            fits(name, before, catalog, &self.shelf.rulebook())?;
            let mut written = self.written(before, document, catalog, enforce);
            // What revision stands there nobody can say any more.
            let is_unread = self.unread.has(name.as_str());
            written.changed |= is_unread;
            if !written.changed {
                return Ok(written);
            }
            written.revision += 1;
            let row = CatalogRow {
                name: name.clone(),
                document: document.to_owned(),
                enforce,
                version: written.revision,
                changed_at_ms: self.clock.now_ms(),
            };
            let target = json!({
                "kind": "catalog",
                "id": name.as_str(),
                "version": catalog.version,
                "revision": row.version,
                "enforce": enforce,
            });
            let event = self.told(actor, "catalog.written", &target)?;
            let rooms = self.store.catalogs();
            let stored = if is_unread {
                rooms.put_over(&row, &[event]).await.map(|()| true)
            } else {
                rooms.put(&row, &[event]).await
            };
            if stored.map_err(store_fault)? {
                self.changed(alone).await?;
                return Ok(written);
            }
        }
        Err(contended(&format!("Catalogue '{name}'")))
    }

    async fn remove(&self, actor: &Actor, name: &CatalogName) -> Result<(), Refusal> {
        let alone = self.writing.lock().await;
        let target = json!({ "kind": "catalog", "id": name.as_str() });
        let event = self.told(actor, "catalog.deleted", &target)?;
        let removed = self.store.catalogs().delete(name, &[event]).await;
        if !removed.map_err(store_fault)? {
            return Err(Refusal::not_found("catalogue"));
        }
        self.changed(alone).await
    }

    /// The event that tells of a change, of the tenant `platform`.
    fn told(&self, actor: &Actor, action: &str, target: &Value) -> Result<OutboxRow, Refusal> {
        let row = audit::row(&self.outbox, TenantId::platform(), action, actor, target);
        self.outbox.check(&row)?;
        Ok(row)
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

    fn in_force(&self) -> Arc<InForce> {
        self.shelf.rulebook().catalogs().clone()
    }

    /// Of one that cannot be read what was in force stays, so that its publishers are held to it as before; at a start there
    /// is nothing. The others, and the start, are not to wait for it.
    async fn put_in_force(&self) -> Result<(), Refusal> {
        let found = self.store.catalogs().list().await.map_err(store_fault)?;
        let before = self.in_force();
        let (mut by_name, mut unread) = (BTreeMap::new(), damaged(&found.damaged));
        let mut changed = false;
        for row in found.rows {
            let stands = before.by_name().get(&row.name);
            if let Some(applied) = stands.filter(|applied| is_of(applied, &row)) {
                by_name.insert(row.name, applied.clone());
                continue;
            }
            match recorded(&row.document).await {
                Ok(catalog) => {
                    changed = true;
                    let (name, applied) = applied(row, catalog);
                    by_name.insert(name, applied);
                }
                Err(why) => {
                    unread.insert(row.name.to_string(), why);
                }
            }
        }
        for (name, applied) in before.by_name() {
            if unread.contains_key(name.as_str()) {
                by_name.insert(name.clone(), applied.clone());
            }
        }
        self.unread.renew(unread);
        if !changed && by_name.len() == before.by_name().len() {
            return Ok(());
        }
        let in_force = Arc::new(InForce::new(by_name));
        self.bus.carry(in_force.topics().cloned().collect());
        self.shelf
            .change(|rulebook| rulebook.with_catalogs(in_force.clone()));
        Ok(())
    }

    /// Those that cannot be read, a sentence for each.
    pub(crate) fn unread(&self) -> Vec<String> {
        self.unread.sentences()
    }
}

/// Whether this is what stands in a row.
fn is_of(applied: &Applied, row: &CatalogRow) -> bool {
    applied.revision == row.version
        && *applied.text == *row.document
        && applied.enforce == row.enforce
}

fn applied(row: CatalogRow, catalog: Arc<Catalog>) -> (CatalogName, Applied) {
    let applied = Applied {
        enforce: row.enforce,
        revision: row.version,
        changed_at_ms: row.changed_at_ms,
        text: row.document.into(),
        catalog,
    };
    (row.name, applied)
}

/// What a document in the store says, which was taken before; or why that cannot be read.
pub(crate) async fn recorded(document: &str) -> Result<Arc<Catalog>, String> {
    let read = read_aside(document, Catalog::recorded).await;
    read.map_err(|refusal| refusal.detail)
}

/// The media type of a record's value, where that is an envelope around the data.
fn media_type(envelope: EnvelopeKind) -> Option<&'static str> {
    match envelope {
        EnvelopeKind::Platform => Some("application/json"),
        EnvelopeKind::Structured => Some("application/cloudevents+json"),
        EnvelopeKind::Binary => None,
    }
}

fn may_write(caller: &Caller) -> Result<(), Refusal> {
    caller.keeps_the_register("change catalogues")
}

fn written(before: Option<&Applied>, document: &str, catalog: &Catalog, enforce: bool) -> Written {
    let Some(before) = before else {
        let mut nothing = catalog.clone();
        nothing.channels.clear();
        return Written {
            changed: true,
            revision: 0,
            changes: diff(&nothing, catalog),
        };
    };
    Written {
        changed: *before.text != *document || before.enforce != enforce,
        revision: before.revision,
        changes: diff(&before.catalog, catalog),
    }
}

/// How a document is read: one that comes in, or one that was taken before.
type Reader = fn(&str) -> Result<Catalog, Vec<tidings_contract::Fault>>;

async fn parse_aside(document: &str) -> Result<Arc<Catalog>, Refusal> {
    read_aside(document, Catalog::parse).await
}

/// Compiling a large document takes its time, which no other request should wait for.
async fn read_aside(document: &str, read: Reader) -> Result<Arc<Catalog>, Refusal> {
    let document = document.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        read(&document).map(Arc::new).map_err(|faults| {
            let faults = faults.into_iter();
            refused(faults.map(|fault| Fault::at(Code::InvalidRequest, fault.place, fault.detail)))
        })
    });
    let read = read.await;
    read.unwrap_or_else(|error| Err(Refusal::fault("Reading a catalogue", &error)))
}

/// Whether a catalogue leaves the topics of other events alone, and promises of none what another in force does not. What it
/// has carried before it may go on to carry.
fn fits(
    name: &CatalogName,
    before: Option<&Applied>,
    catalog: &Catalog,
    rulebook: &Rulebook,
) -> Result<(), Refusal> {
    let in_force = rulebook.catalogs();
    let mut faults = Vec::new();
    let others = in_force
        .by_name()
        .iter()
        .filter(|(other, _)| *other != name);
    let others = others.flat_map(|(_, applied)| applied.catalog.channels.keys());
    let spelling = |it: &EventType| spelled(it.as_str()).collect::<Vec<u8>>();
    let carried = before.map(|before| &before.catalog.channels);
    let kept = carried.into_iter().flat_map(BTreeMap::keys);
    let known = others.chain(kept.filter(|it| catalog.channels.contains_key(*it)));
    let mut by_spelling: HashMap<_, _> = known.map(|it| (spelling(it), it)).collect();
    for (event_type, channel) in &catalog.channels {
        let is_new = carried.is_none_or(|carried| !carried.contains_key(event_type));
        let mut wrong =
            |detail: String| faults.push(Fault::at(Code::InvalidRequest, "/channels", detail));
        if is_new && rulebook.takes_others(event_type) {
            wrong(format!(
                "'{event_type}' is a topic that events of other types go to, or differs from one only in '.' and '_'; \
                 no catalogue carries it"
            ));
        }
        let alike = *by_spelling
            .entry(spelling(event_type))
            .or_insert(event_type);
        if is_new && alike != event_type {
            wrong(format!(
                "'{event_type}' differs from '{alike}' only in '.' and '_': Kafka takes them for one topic"
            ));
        }
        for (other, applied) in in_force
            .by_name()
            .iter()
            .filter(|(other, _)| *other != name)
        {
            let same = applied.catalog.channels.get(event_type);
            if same.is_some_and(|same| !agree(same, channel)) {
                wrong(format!(
                    "catalogue '{other}' carries '{event_type}' too, with another sender, envelope, \
                     subject or schema"
                ));
            }
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(refused(faults.into_iter()))
}

fn refused(faults: impl ExactSizeIterator<Item = Fault>) -> Refusal {
    let count = faults.len();
    let faults: Vec<Fault> = faults.take(MAX_FAULTS).collect();
    let mut detail = "The catalogue cannot be applied".to_owned();
    if let Some(first) = faults.first() {
        let path = first.path.as_deref().unwrap_or_default();
        let place = if path.is_empty() {
            "the document"
        } else {
            path
        };
        detail = format!("{detail}: {place}: {}", first.detail);
    }
    if count > 1 {
        detail = format!("{detail} (and {} more)", count - 1);
    }
    let mut refusal = Refusal::new(Code::InvalidRequest, Rule::Shape, format!("{detail}."));
    refusal.errors = faults;
    refusal
}

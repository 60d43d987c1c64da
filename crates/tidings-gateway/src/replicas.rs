//! Changes that other replicas make, put in force here.
//!
//! Loop: [`follow`](Follower::follow), which its caller spawns and joins. Four times a second it asks the store for
//! numbers that move with every change of what is kept in memory, one for each kind, and reads that kind again, or what of it
//! has changed; all of it where another server answers, which may count on from less. Asking is one
//! look at one row; a channel of the database (LISTEN) would be quicker still, but loses what is said while
//! it is cut off, so that the asking would stay.

use std::sync::Arc;
use std::time::Duration;

use tidings_store::{Replicas, Server, Store, StoreError, Versions, WorkspacesRead};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::Gateway;
use crate::access::Access;
use crate::catalogs::Catalogs;
use crate::clock::Clock;
use crate::custom_events::Registry;
use crate::manifests::Manifests;
use crate::publish::refusal::Refusal;
use crate::subscriptions::Subscriptions;
use crate::workspaces::Workspaces;

/// How often the store is asked: a change is in force everywhere within a second, reading included.
const EVERY: Duration = Duration::from_millis(250);
/// The longest wait before what could not be read is tried again, in looks: 5 s.
const MOST_ALONE: u32 = 20;

/// What follows the changes of other replicas.
pub struct Follower {
    store: Store,
    manifests: Arc<Manifests>,
    catalogs: Arc<Catalogs>,
    access: Arc<Access>,
    subscriptions: Arc<Subscriptions>,
    workspaces: Arc<Workspaces>,
    custom_events: Arc<Registry>,
    clock: Clock,
}

impl Follower {
    /// Of the gateway's rooms.
    pub fn new(gateway: &Gateway) -> Self {
        Self {
            store: gateway.store.clone(),
            manifests: gateway.manifests.clone(),
            catalogs: gateway.catalogs.clone(),
            access: gateway.access.clone(),
            subscriptions: gateway.subscriptions.clone(),
            workspaces: gateway.workspaces.clone(),
            custom_events: gateway.custom_events.clone(),
            clock: gateway.clock.clone(),
        }
    }

    /// Puts changes of other replicas in force until `stopped` is ready. Where there can be no others it only
    /// waits for that.
    pub async fn follow(&self, stopped: impl Future<Output = ()>) {
        let Some(replicas) = self.store.replicas() else {
            return stopped.await;
        };
        // Cut off anywhere it loses nothing: what is in force is swapped whole.
        tokio::select! {
            () = stopped => {}
            () = self.work(&replicas) => {}
        }
    }

    async fn work(&self, replicas: &Replicas) {
        let mut failing = false;
        let mut seen = Seen::default();
        let mut beats = tokio::time::interval(EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            match replicas.versions().await {
                Ok((server, versions)) => {
                    failing = false;
                    if seen.server != Some(server) {
                        seen = Seen::of(server);
                    }
                    self.look(replicas, &versions, &mut seen).await;
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "changes of other replicas are not seen for now");
                }
                Err(_) => {}
            }
        }
    }

    /// Reads again what has not been read since its version moved.
    async fn look(&self, replicas: &Replicas, versions: &Versions, seen: &mut Seen) {
        let gone = |error: StoreError| error.to_string();
        let said = |refusal: Refusal| refusal.detail;
        let (place, registered) = (&mut seen.place, &mut seen.registered);
        let (rooms, workspaces) = (&mut seen.rooms, &mut seen.workspaces);
        // Each of them, however long the others take and whatever cannot be read of them: a row of a newer version must not
        // keep a key in force that was revoked.
        tokio::join!(
            rooms.api_keys.look("API keys", versions.api_keys, async {
                let keys = self.access.api_keys();
                keys.reload(self.clock.now_ms()).await.map_err(gone)
            }),
            rooms
                .manifests
                .look("manifests", versions.manifests, async {
                    self.manifests.reload().await.map_err(said)
                }),
            rooms.catalogs.look("catalogues", versions.catalogs, async {
                self.catalogs.reload().await.map_err(said)
            }),
            rooms
                .workspaces
                .look("workspaces", versions.workspaces, async {
                    let removed = versions.workspaces_removed;
                    let followed = self.workspaces.follow(replicas, removed, workspaces);
                    followed.await.map_err(said)
                }),
            rooms
                .subscriptions
                .look("subscriptions", versions.subscriptions, async {
                    self.subscriptions.follow(place).await.map_err(said)
                }),
            rooms
                .custom_events
                .look("custom events", versions.custom_events, async {
                    self.custom_events.follow(registered).await.map_err(said)
                }),
        );
    }
}

/// How far all have read.
#[derive(Default)]
struct Seen {
    /// At which server.
    server: Option<Server>,
    rooms: Rooms,
    /// Of the subscriptions.
    place: (i64, Option<Uuid>),
    /// Of the registrations.
    registered: Option<i64>,
    /// Of tenants and workspaces, at which version of their removal.
    workspaces: Option<(WorkspacesRead, i64)>,
}

impl Seen {
    /// Nothing yet of what a server counts.
    fn of(server: Server) -> Self {
        Self {
            server: Some(server),
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Rooms {
    api_keys: Room,
    manifests: Room,
    catalogs: Room,
    workspaces: Room,
    subscriptions: Room,
    custom_events: Room,
}

/// How far a room has read.
#[derive(Default)]
struct Room {
    /// The version before which it read all without a failure.
    known: Option<i64>,
    /// The version at which it failed last, and how often it did.
    failed: (Option<i64>, u32),
    /// So many looks it is left alone: what cannot be read is long to find out, again and again.
    alone: u32,
}

impl Room {
    /// Reads when there is something new. What has failed is tried again after a while, and at once when something is new;
    /// it is said once, of what is read by its name.
    async fn look(
        &mut self,
        name: &'static str,
        version: i64,
        reading: impl Future<Output = Result<(), String>>,
    ) {
        if self.known == Some(version) {
            return;
        }
        let (at, times) = self.failed;
        if at == Some(version) && self.alone > 0 {
            self.alone -= 1;
            return;
        }
        let Err(why) = reading.await else {
            *self = Self {
                known: Some(version),
                ..Self::default()
            };
            return;
        };
        if at.is_none() {
            tracing::warn!(name, why, "changes of other replicas are not seen for now");
        }
        let times = if at == Some(version) { times + 1 } else { 0 };
        self.failed = (Some(version), times);
        self.alone = (1 << times.min(8)).min(MOST_ALONE) - 1;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;
    use std::time::Instant;

    use tidings_bus::Bus;
    use tidings_bus::memory::Memory;
    use tidings_event::{CatalogName, ModuleId, Service, TenantId};
    use tokio::sync::oneshot;

    use super::*;
    use crate::access::{AccessConfig, NewApiKey, Scope, on_behalf_of};
    use crate::clock::Clock;
    use crate::in_memory;
    use crate::rulebook::{Role, Route};

    const NOW: i64 = 1_700_000_000_000;
    /// What stands between a server's URL and the name of a schema there.
    const SCHEMA: &str = "?options[search_path]=";
    /// What the specification promises.
    const PROMISED: Duration = Duration::from_secs(1);

    fn setting(name: &str) -> String {
        std::env::var(name).unwrap_or_else(|_| {
            panic!(
                "{name} is not set: run `scripts/test`, which starts the servers that tests need"
            )
        })
    }

    /// A place of its own on the test run's server.
    pub(crate) fn new_schema() -> String {
        let url = setting("TIDINGS_TEST_POSTGRES");
        let schema = format!("replicas_{}", Uuid::now_v7().simple());
        psql(&url, &format!("CREATE SCHEMA {schema}"));
        format!("{url}{SCHEMA}{schema}")
    }

    fn psql(url: &str, statement: &str) {
        let psql = format!("{}/psql", setting("TIDINGS_POSTGRES_BIN"));
        let done = Command::new(psql)
            .args(["-XAtq", url, "-c", statement])
            .status();
        assert!(done.unwrap().success());
    }

    struct Replica {
        gateway: Gateway,
        store: Store,
        _stop: oneshot::Sender<()>,
    }

    async fn replica(url: &str, bus: &Arc<Memory>) -> Replica {
        let store = Store::connect(url).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let access = Access::new(AccessConfig::default(), store.clone(), folder.path(), NOW).await;
        let (bus, access) = (bus.clone() as Arc<dyn Bus>, Arc::new(access.unwrap()));
        let routes: Vec<Route> = Vec::new();
        let clock = Clock::manual(NOW);
        let gateway = Gateway::open(crate::Parts {
            bus,
            receipts: None,
            partitions: 3,
            store: store.clone(),
            access,
            routes,
            limits: crate::Limits::default(),
            egress: crate::deliver::target::webhook::to_loopback(),
            origin: "tidings.example".into(),
            vault: crate::secrets::Vault::new(&[7; 32]),
            delivery: crate::deliver::Config::default(),
            auto_create: true,
            plugins: Vec::new(),
            clock,
        });
        let gateway = gateway.await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let follower = Follower::new(&gateway);
        tokio::spawn(async move { follower.follow(async { drop(stopped.await) }).await });
        Replica {
            gateway,
            store,
            _stop: stop,
        }
    }

    async fn two(url: &str) -> (Replica, Replica, Arc<Memory>) {
        let bus = Arc::new(Memory::new(3, Arc::new(|| NOW)));
        (replica(url, &bus).await, replica(url, &bus).await, bus)
    }

    /// A machine that others use stands still now and then: of a look that takes long only so much counts.
    async fn within_the_promise(what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let mut counted = Duration::ZERO;
        loop {
            let begun = Instant::now();
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            counted += begun.elapsed().min(Duration::from_millis(50));
            assert!(counted < PROMISED, "{what} took too long");
        }
    }

    fn manifest(version: &str, event_type: &str) -> String {
        format!(
            r#"{{"id":"crm","version":"{version}","events":{{"publishes":["{event_type}"],"subscribes":[]}}}}"#
        )
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_manifest_put_or_removed_at_one_is_in_force_at_the_other() {
        let (one, two, _bus) = two(&new_schema()).await;
        let registry = on_behalf_of(Service::ModuleRegistry, TenantId::platform());
        let crm: ModuleId = "crm".parse().unwrap();
        let may = |replica: &Replica, event_type: &str| {
            let manifest = replica.gateway.manifests.in_force(&crm);
            manifest.is_some_and(|it| it.publishes.contains(&event_type.parse().unwrap()))
        };
        for version in 1..4 {
            let event_type = format!("crm.thing{version}.made");
            let document = manifest(&format!("{version}.0.0"), &event_type);
            let put = one.gateway.manifests.put(&registry, &crm, &document).await;
            assert!(put.unwrap() && may(&one, &event_type));
            within_the_promise("the manifest", async || may(&two, &event_type)).await;
        }
        two.gateway.manifests.delete(&registry, &crm).await.unwrap();
        assert!(!may(&two, "crm.thing3.made"));
        within_the_promise("its removal", async || !may(&one, "crm.thing3.made")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_catalogue_put_or_removed_at_one_is_in_force_at_the_other() {
        let (one, two, _bus) = two(&new_schema()).await;
        let registry = on_behalf_of(Service::ModuleRegistry, TenantId::platform());
        let name: CatalogName = "shop".parse().unwrap();
        let text = r#"{"asyncapi":"3.0.0","info":{"title":"t","version":"1.0.0"},"channels":{"a":{
            "address":"shop.order.placed","messages":{"m":{"contentType":"application/json","payload":true}}}}}"#;
        let enforced = |replica: &Replica| {
            let found = replica.gateway.catalogs.get(&name);
            found.ok().map(|applied| applied.enforce)
        };
        for enforce in [true, false, true] {
            let at = if enforce { &one } else { &two };
            let put = at.gateway.catalogs.put(&registry, &name, text, enforce);
            assert!(put.await.unwrap().changed);
            let there = async || enforced(&one) == Some(enforce) && enforced(&two) == Some(enforce);
            within_the_promise("the catalogue", there).await;
        }
        two.gateway.catalogs.delete(&registry, &name).await.unwrap();
        within_the_promise("its removal", async || enforced(&one).is_none()).await;
    }

    #[tokio::test]
    async fn a_room_reads_once_for_each_version_and_later_and_later_what_it_cannot_read() {
        let (mut room, mut read) = (Room::default(), Vec::new());
        let mut look = async |version: i64, readable: bool| {
            let mut asked = false;
            let reading = async {
                asked = true;
                if readable {
                    Ok(())
                } else {
                    Err("damaged".to_owned())
                }
            };
            room.look("test", version, reading).await;
            read.push(asked);
            room.known == Some(version)
        };
        for _ in 0..3 {
            assert!(look(1, true).await);
        }
        for _ in 0..8 {
            assert!(!look(2, false).await);
        }
        assert!(!look(3, false).await, "what is new is read at once");
        assert!(look(3, true).await);
        assert!(look(3, true).await);
        let read: String = read
            .iter()
            .map(|asked| if *asked { 'y' } else { '.' })
            .collect();
        assert_eq!(read, "y..yy.y...yyy.");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_workspace_and_its_members_are_at_the_other_as_they_are_at_one() {
        let schema = new_schema();
        let (one, two, _bus) = two(&schema).await;
        let folder = tempfile::tempdir().unwrap();
        let issuer = Access::new(
            AccessConfig::default(),
            one.store.clone(),
            folder.path(),
            NOW,
        );
        let issuer = issuer.await.unwrap();
        let claims = crate::access::Claims {
            subject: "ada".into(),
            tenant: Some("acme".parse().unwrap()),
            module: None,
            service: None,
            admin: true,
            operator: false,
            issuer: None,
            audience: None,
        };
        let key = issuer.local_key().unwrap();
        let token = key.mint(&claims, Duration::from_mins(1), NOW);
        let bearer = format!("Bearer {token}");
        let ada = issuer.authenticate(Some(&bearer), NOW).await.unwrap();
        let (acme, id) = ("acme".parse().unwrap(), "ws-1".parse().unwrap());
        one.gateway.workspaces.admit(&ada).await.unwrap();
        let made = one
            .gateway
            .extensions
            .make_workspace(&ada, &acme, &id)
            .await;
        assert!(made.unwrap());
        let at_two = || two.gateway.workspaces.open_to(&ada, "ws-1");
        within_the_promise("the workspace", async || at_two().is_ok()).await;
        let chat = "chat".parse().unwrap();
        let heard_at_two = async || {
            let workspace = at_two().unwrap();
            !two.gateway
                .subscriptions
                .of_extension(&workspace, &chat)
                .is_empty()
        };
        within_the_promise("its chat", heard_at_two).await;
        let has_bob = || at_two().unwrap().members.contains_key("bob");
        let room = &one.gateway.workspaces;
        let added = room.put_member(&ada, &acme, &id, "bob", Role::Member).await;
        added.unwrap();
        within_the_promise("the member", async || has_bob()).await;
        let removed = room.delete_member(&ada, &acme, &id, "bob").await;
        removed.unwrap();
        within_the_promise("the member's removal", async || !has_bob()).await;
        // No call removes a workspace; an operator may, in the database.
        let (server, name) = schema.split_once(SCHEMA).unwrap();
        let delete = format!("SET search_path TO {name}; DELETE FROM workspaces");
        psql(server, &delete);
        within_the_promise("the removal", async || at_two().is_err()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_version_registered_or_archived_at_one_is_found_or_not_at_the_other() {
        use crate::custom_events::{EventPath, Plan, Request, Status};
        let (one, two, _bus) = two(&new_schema()).await;
        let tenant = tidings_store::TenantRow {
            id: "acme".parse().unwrap(),
            slug: "acme".into(),
            plan: Plan::Basic.as_str().into(),
            namespaces: "[]".into(),
            created_at_ms: NOW,
            updated_at_ms: NOW,
        };
        one.store
            .workspaces()
            .put_tenant(&tenant, None, &[])
            .await
            .unwrap();
        let rooms = [&one, &two].map(|it| it.gateway.custom_events.clone());
        let known = async || {
            rooms
                .iter()
                .all(|room| room.plan(&tenant.id) == Plan::Basic)
        };
        within_the_promise("the plan", known).await;
        let caller = on_behalf_of(Service::Audit, tenant.id.clone());
        let request = |name: String| Request {
            namespace: "acme".into(),
            name,
            version: "1.0.0".into(),
            status: Status::Published,
            description: None,
            schema: "{}".into(),
            example: None,
        };
        // Both fill the plan's room at once: it is kept to exactly.
        let asking = (0..12).map(|index| {
            let (room, caller) = (rooms[index % 2].clone(), caller.clone());
            let request = request(format!("event-{index}"));
            tokio::spawn(async move { room.register(&caller, request).await.is_ok() })
        });
        let mut made = Vec::new();
        for (index, asked) in asking.collect::<Vec<_>>().into_iter().enumerate() {
            made.extend(asked.await.unwrap().then(|| format!("event-{index}")));
        }
        assert_eq!(made.len(), 5);
        let path = EventPath::parse(&format!("acme.{}", made[0])).unwrap();
        for room in &rooms {
            assert!(room.find(&tenant.id, &path, None).await.is_ok());
        }
        let which = ("acme".to_owned(), made[0].clone(), "1.0.0".to_owned());
        let archived = rooms[0].patch(&caller, which, None, Some(Status::Archived));
        archived.await.unwrap();
        let gone = async || rooms[1].find(&tenant.id, &path, None).await.is_err();
        within_the_promise("the archiving", gone).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_key_revoked_at_one_is_refused_at_the_other() {
        let (one, two, _bus) = two(&new_schema()).await;
        let acme: TenantId = "acme".parse().unwrap();
        let new = NewApiKey {
            name: "ci".into(),
            module: None,
            scopes: vec![Scope::ReadEvents],
            expires_at_ms: None,
        };
        let keys = one.gateway.access.api_keys();
        let (row, text) = keys.create(&acme, new, NOW, |_| Vec::new()).await.unwrap();
        let bearer = format!("Bearer {text}");
        let enters = async |replica: &Replica| {
            let access = &replica.gateway.access;
            access.authenticate(Some(&bearer), NOW).await.is_ok()
        };
        assert!(enters(&one).await);
        within_the_promise("the key", async || enters(&two).await).await;
        let keys = two.gateway.access.api_keys();
        assert!(keys.revoke(&acme, row.id, NOW, &[]).await.unwrap());
        assert!(!enters(&two).await);
        within_the_promise("its revocation", async || !enters(&one).await).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn events_of_changes_made_at_both_stand_once_and_in_order() {
        let (one, two, bus) = two(&new_schema()).await;
        let crm: ModuleId = "crm".parse().unwrap();
        // No two are the same: what is put again as it stands is no change.
        let changing = [(&one, 1), (&two, 2)].map(|(replica, own)| {
            let (manifests, crm) = (replica.gateway.manifests.clone(), crm.clone());
            tokio::spawn(async move {
                let registry = on_behalf_of(Service::ModuleRegistry, TenantId::platform());
                for patch in 0..20 {
                    let document = manifest(&format!("1.{own}.{patch}"), "crm.thing.made");
                    manifests.put(&registry, &crm, &document).await.unwrap();
                }
            })
        });
        for changed in changing {
            changed.await.unwrap();
        }
        let emptied = async |store: Store| {
            while !store.outbox().waiting(0, 1).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(
            one.gateway.outbox.relay(emptied(one.store.clone())),
            two.gateway.outbox.relay(emptied(two.store.clone())),
        );
        let (mut ids, mut last) = (Vec::new(), None);
        for record in in_memory::records(&*bus).await {
            if record.value.windows(8).any(|part| part == b"registry") {
                last = Some(record.value.clone());
            }
            ids.push(record.event_id);
        }
        // Two of each change: the update and its audit.
        assert_eq!(ids.len(), 80);
        let in_force = one.store.manifests().get(&crm).await.unwrap().unwrap();
        let last = String::from_utf8(last.unwrap().to_vec()).unwrap();
        assert!(
            last.contains(&in_force.version),
            "{last} is not of {}",
            in_force.version
        );
    }
}

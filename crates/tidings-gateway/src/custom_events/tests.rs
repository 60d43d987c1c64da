//! What emits are held to, as the registry changes and as it stays.

use std::sync::Arc;

use tidings_bus::memory::Memory;
use tidings_event::{Code, Service, TenantId};
use tidings_store::{Store, TenantRow};

use super::*;
use crate::Gateway;
use crate::access::{Access, AccessConfig, on_behalf_of};
use crate::clock::Clock;
use crate::events::Query;

const NOW: i64 = 1_700_000_000_000;

async fn gateway() -> (Gateway, Store) {
    let store = Store::in_memory().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let access = Access::new(AccessConfig::default(), store.clone(), folder.path(), NOW).await;
    let opened = Gateway::open(crate::Parts {
        bus: Arc::new(Memory::new(3, Arc::new(|| NOW))),
        receipts: None,
        partitions: 3,
        store: store.clone(),
        access: Arc::new(access.unwrap()),
        routes: Vec::new(),
        limits: crate::Limits::default(),
        egress: crate::deliver::target::webhook::to_loopback(),
        origin: "tidings.example".into(),
        vault: crate::secrets::Vault::new(&[7; 32]),
        delivery: crate::deliver::Config::default(),
        auto_create: true,
        plugins: Vec::new(),
        clock: Clock::manual(NOW),
    });
    (opened.await.unwrap(), store)
}

async fn on_plan(gateway: &Gateway, store: &Store, plan: Plan) {
    let row = TenantRow {
        id: acme(),
        slug: "acme".into(),
        plan: plan.as_str().into(),
        namespaces: "[]".into(),
        created_at_ms: NOW,
        updated_at_ms: NOW,
    };
    let rows = store.workspaces();
    let before = rows.tenant(&row.id).await.unwrap();
    let written = rows.put_tenant(&row, before.as_ref(), &[]).await;
    assert!(written.unwrap());
    gateway.workspaces.reload().await.unwrap();
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn path(text: &str) -> EventPath {
    EventPath::parse(text).unwrap()
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn request(name: &str, version: &str, status: Status) -> Request {
    Request {
        namespace: "acme".into(),
        name: name.into(),
        version: version.into(),
        status,
        description: None,
        schema: r#"{"type":"object"}"#.into(),
        example: None,
    }
}

/// The version that an emit is held to, or the code that it is refused with; found again, it is the same.
async fn found(room: &Registry, name: &str, wanted: Option<&str>) -> Result<String, Code> {
    let (tenant, path, wanted) = (acme(), path(name), wanted.map(version));
    let said = |found: Result<Arc<Registered>, _>| {
        found
            .map(|it| it.version().to_string())
            .map_err(|refusal: crate::publish::refusal::Refusal| refusal.code)
    };
    let found = said(room.find(&tenant, &path, wanted).await);
    let again = room.try_find(&tenant, &path, wanted).map(said);
    assert_eq!(again, Some(found.clone()), "{name} {wanted:?}");
    found
}

#[tokio::test]
async fn an_emit_finds_the_latest_published_version_or_the_one_it_names() {
    let (gateway, store) = gateway().await;
    on_plan(&gateway, &store, Plan::Pro).await;
    let room = &gateway.custom_events;
    let caller = on_behalf_of(Service::Audit, acme());
    let register = async |version: &str, status: Status| {
        let made = room.register(&caller, request("made", version, status));
        made.await.unwrap()
    };
    let name = "acme.made";
    assert!(room.try_find(&acme(), &path(name), None).is_none());
    assert_eq!(found(room, name, None).await, Err(Code::EventNotRegistered));
    register("1.0.0", Status::Draft).await;
    // What was known of it is not believed after a change.
    assert!(room.try_find(&acme(), &path(name), None).is_none());
    assert_eq!(found(room, name, None).await, Err(Code::EventNotPublished));
    register("1.1.0", Status::Published).await;
    register("1.2.0", Status::Published).await;
    register("1.1.1", Status::Published).await;
    register("2.0.0", Status::Draft).await;
    assert_eq!(found(room, name, None).await.unwrap(), "1.2.0");
    for pinned in ["1.1.0", "1.1.1", "1.2.0"] {
        assert_eq!(found(room, name, Some(pinned)).await.unwrap(), pinned);
    }
    for (pinned, code) in [
        ("1.0.0", Code::EventNotPublished),
        ("2.0.0", Code::EventNotPublished),
        ("3.0.0", Code::EventNotRegistered),
    ] {
        assert_eq!(found(room, name, Some(pinned)).await, Err(code), "{pinned}");
    }
    let which = ["acme", "made", "1.2.0"].map(str::to_owned).into();
    let archived = room.patch(&caller, which, None, Some(Status::Archived));
    archived.await.unwrap();
    assert_eq!(found(room, name, None).await.unwrap(), "1.1.1");
    // Another tenant has nothing of it.
    let globex = "globex".parse().unwrap();
    let foreign = room.find(&globex, &path(name), None).await.unwrap_err();
    assert_eq!(foreign.code, Code::EventNotRegistered);
    let registered = room.find(&acme(), &path(name), None).await.unwrap();
    let canonical = "TENANT_CUSTOM:acme:acme.made@1.1.1";
    assert_eq!(registered.event_type.as_str(), canonical);
    assert_eq!(registered.name.to_string(), canonical);

    // On a plan without older versions the latest alone is in force, and on one without own events none.
    on_plan(&gateway, &store, Plan::Basic).await;
    assert_eq!(found(room, name, None).await.unwrap(), "1.1.1");
    let older = found(room, name, Some("1.1.0")).await;
    assert_eq!(older, Err(Code::EventNotPublished));
    let told = room.versions(&caller, "acme", "made").await.unwrap();
    let told = told.into_iter().map(|it| it.row.status);
    let as_in_force = ["draft", "superseded", "published", "archived", "draft"];
    assert_eq!(told.collect::<Vec<_>>(), as_in_force);
    let query = RegistrationQuery {
        namespace: Some("acme".into()),
        status: Some(Status::Published),
        limit: 9,
        ..RegistrationQuery::default()
    };
    let page = room.list(&caller, query).await.unwrap();
    let listed = page.items.into_iter().map(|it| it.version.to_string());
    assert_eq!(listed.collect::<Vec<_>>(), ["1.1.1"]);
    on_plan(&gateway, &store, Plan::Free).await;
    let own = found(room, name, None).await;
    assert_eq!(own, Err(Code::PlanUpgradeRequired));
    let absent = found(room, "acme.none", None).await;
    assert_eq!(absent, Err(Code::EventNotRegistered));
}

#[tokio::test]
async fn every_tenant_has_the_generic_event_and_is_told_so_once() {
    let (gateway, store) = gateway().await;
    let room = &gateway.custom_events;
    let name = "platformxe.generic";
    for wanted in [None, Some("1.0.0")] {
        assert_eq!(found(room, name, wanted).await.unwrap(), "1.0.0");
    }
    let other = found(room, name, Some("1.0.1")).await;
    assert_eq!(other, Err(Code::EventNotRegistered));
    let registered = room.find(&acme(), &path(name), None).await.unwrap();
    let accepts = |payload: serde_json::Value| registered.schema.accepts(&payload);
    assert!(accepts(
        serde_json::json!({ "kind": "a", "summary": "b", "data": {} })
    ));
    assert!(!accepts(serde_json::json!({ "summary": "b" })));
    assert!(!accepts(serde_json::json!({ "kind": "a", "more": 1 })));

    room.seed(&acme()).await.unwrap();
    room.seed(&acme()).await.unwrap();
    let caller = on_behalf_of(Service::Audit, acme());
    let query = Query {
        limit: 9,
        ..Query::default()
    };
    let told = gateway.events.list(&caller, &query).await.unwrap();
    let told: Vec<_> = told
        .items
        .iter()
        .map(|it| it.event.event_type.as_str())
        .collect();
    assert_eq!(told, [LifecycleEvent::GenericSeeded.as_str()]);
    on_plan(&gateway, &store, Plan::Basic).await;
    let made = room.register(&caller, request("made", "1.0.0", Status::Draft));
    made.await.unwrap();
    let waiting = store.outbox().waiting(0, 9).await.unwrap();
    let waiting: Vec<_> = waiting.into_iter().map(|(_, row)| row.unwrap()).collect();
    let types: Vec<&str> = waiting.iter().map(|row| row.event_type.as_str()).collect();
    let expected = [
        LifecycleEvent::Requested,
        LifecycleEvent::Validated,
        LifecycleEvent::Persisted,
    ];
    assert_eq!(types, expected.map(LifecycleEvent::as_str));
}

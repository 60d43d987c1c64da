//! How a tenant is written, and what a slug is made of.

use super::*;
use crate::access::{Access, Claims};
use crate::in_memory;

const NOW: i64 = 1_700_000_000_000;

async fn operator(access: &Access) -> Caller {
    let claims = Claims {
        subject: "root".into(),
        tenant: None,
        module: None,
        service: None,
        admin: false,
        operator: true,
        issuer: None,
        audience: None,
    };
    let key = access.local_key().unwrap();
    let token = key.mint(&claims, Duration::from_mins(1), NOW);
    let bearer = format!("Bearer {token}");
    access.authenticate(Some(&bearer), NOW).await.unwrap()
}

#[tokio::test]
async fn what_an_operator_does_not_say_stays_as_another_replica_has_written_it() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let bus = Arc::new(in_memory::bus(&clock));
    let parts = in_memory::parts_on(bus, store.clone(), &clock).await;
    let gateway = crate::Gateway::open(parts).await.unwrap();
    let (operator, room) = (operator(&gateway.access).await, gateway.workspaces);
    let id: TenantId = "acme".parse().unwrap();
    let written = TenantRow {
        id: id.clone(),
        slug: "corp".into(),
        plan: "PRO".into(),
        namespaces: r#"["shop"]"#.into(),
        created_at_ms: 3,
        updated_at_ms: NOW + 1,
    };
    // This one has not looked since.
    let elsewhere = store.workspaces().put_tenant(&written, None, &[]).await;
    assert!(elsewhere.unwrap());
    assert_eq!(room.known(&id), None);
    let put = async |slug: Option<&str>, plan: Option<&str>, namespaces: Option<&[&str]>| {
        let new = NewTenant {
            slug: slug.map(str::to_owned),
            plan: plan.map(str::to_owned),
            namespaces: namespaces.map(|all| all.iter().map(|it| (*it).to_owned()).collect()),
        };
        let tenant = room.put_tenant(&operator, &id, new).await.unwrap();
        assert_eq!(tenant.created_at_ms, 3);
        (
            tenant.slug.clone(),
            tenant.plan.clone(),
            tenant.namespaces.clone(),
        )
    };
    let as_told = |slug: &str, plan: &str, granted: &[&str]| {
        let namespaces = [&[slug], granted].concat();
        let namespaces: Vec<String> = namespaces.into_iter().map(str::to_owned).collect();
        (slug.to_owned(), plan.to_owned(), namespaces)
    };
    let untouched = put(None, None, None).await;
    assert_eq!(untouched, as_told("corp", "PRO", &["shop"]));
    let on_basic = put(None, Some("BASIC"), None).await;
    assert_eq!(on_basic, as_told("corp", "BASIC", &["shop"]));
    let renamed = put(Some("acme-corp"), None, None).await;
    assert_eq!(renamed, as_told("acme-corp", "BASIC", &["shop"]));
    let alone = put(None, None, Some(&[])).await;
    assert_eq!(alone, as_told("acme-corp", "BASIC", &[]));
    let again = put(Some("other"), None, None).await;
    assert_eq!(again, as_told("other", "BASIC", &[]));
    // What is granted comes beside the slug, and takes it from nobody.
    let granted = put(None, None, Some(&["lettings"])).await;
    assert_eq!(granted, as_told("other", "BASIC", &["lettings"]));

    let refused = async |id: &str, slug: &str| {
        let new = NewTenant {
            slug: Some(slug.to_owned()),
            plan: None,
            namespaces: None,
        };
        let id = id.parse().unwrap();
        let refusal = room.put_tenant(&operator, &id, new).await.unwrap_err();
        assert_eq!(
            (refusal.code, refusal.field.as_deref()),
            (Code::InvalidRequest, Some("slug")),
            "{slug}"
        );
    };
    for slug in ["Zed", "auth", "x", "a.b", "", "other", &"a".repeat(32)] {
        refused("zed", slug).await;
    }
    assert_eq!(room.known(&"zed".parse().unwrap()), None);
}

#[tokio::test]
async fn a_slug_is_one_tenants_though_another_replica_has_given_it() {
    let (clock, store) = (Clock::manual(NOW), Store::in_memory().await.unwrap());
    let opened = async || {
        let bus = Arc::new(in_memory::bus(&clock));
        let parts = in_memory::parts_on(bus, store.clone(), &clock).await;
        crate::Gateway::open(parts).await.unwrap()
    };
    let (one, other) = (opened().await, opened().await);
    let (upper, lower) = ("Acme".parse().unwrap(), "acme".parse().unwrap());
    one.workspaces.make(&upper).await.unwrap();
    other.workspaces.make(&lower).await.unwrap();
    let slug = |room: &Workspaces, id: &TenantId| room.known(id).unwrap().slug.clone();
    assert_eq!(slug(&one.workspaces, &upper), "acme");
    assert_eq!(slug(&other.workspaces, &lower), "acme-2");
    let new = NewTenant {
        slug: Some("acme-2".into()),
        plan: None,
        namespaces: None,
    };
    let operator = operator(&one.access).await;
    let put = one.workspaces.put_tenant(&operator, &upper, new).await;
    let refusal = put.unwrap_err();
    assert_eq!(
        (refusal.code, refusal.field.as_deref()),
        (Code::InvalidRequest, Some("slug"))
    );
}

#[tokio::test]
async fn a_tenant_has_so_many_workspaces_and_each_of_them_so_many_members() {
    let clock = Clock::manual(NOW);
    let mut parts = in_memory::parts(&clock).await;
    parts.limits = crate::Limits::default().with_workspaces(2, 2);
    let gateway = crate::Gateway::open(parts).await.unwrap();
    let room = &gateway.workspaces;
    let refused = |refusal: Refusal| {
        assert_eq!(refusal.code, Code::RateLimited, "{refusal:?}");
        assert_eq!(refusal.limit.as_deref(), Some(&(2, 3)));
        assert!(refusal.retry_after.is_some());
    };
    let put = async |tenant: &str, id: &str| {
        let caller = crate::access::user(tenant, "ada", true);
        room.admit(&caller).await.unwrap();
        let (tenant, id) = (tenant.parse().unwrap(), id.parse().unwrap());
        let rooms = &gateway.extensions;
        rooms.make_workspace(&caller, &tenant, &id).await
    };
    assert!(put("acme", "ws-1").await.unwrap());
    assert!(put("acme", "ws-2").await.unwrap());
    refused(put("acme", "ws-3").await.unwrap_err());
    assert!(!put("acme", "ws-2").await.unwrap(), "it is there");
    assert!(put("globex", "ws-3").await.unwrap());

    let ada = crate::access::user("acme", "ada", true);
    let (acme, id) = ("acme".parse().unwrap(), "ws-1".parse().unwrap());
    let enrol = async |user: &str, role| room.put_member(&ada, &acme, &id, user, role).await;
    enrol("bob", Role::Member).await.unwrap();
    enrol("eve", Role::Member).await.unwrap();
    refused(enrol("joe", Role::Member).await.unwrap_err());
    enrol("bob", Role::Admin).await.unwrap();
    let left = room.delete_member(&ada, &acme, &id, "eve");
    left.await.unwrap();
    enrol("joe", Role::Member).await.unwrap();
}

#[test]
fn a_slug_is_made_of_an_id() {
    let check = |id: &str, taken: &[&str], slug: &str| {
        let made = slug_of(&id.parse().unwrap(), |slug| taken.contains(&slug));
        assert_eq!(made, slug, "{id}");
    };
    check("acme", &[], "acme");
    check("Acme.Corp@EU", &[], "acme-corp-eu");
    check("org_x", &[], "org_x");
    check("1st", &[], "t-1st");
    check("x", &[], "t-x");
    check(&"a".repeat(40), &[], &"a".repeat(31));
    check("Events", &[], "events-org");
    check("acme", &["acme"], "acme-2");
    check("acme", &["acme", "acme-2"], "acme-3");
    check("events", &["events-org"], "events-org-2");
    let (long, cut) = ("a".repeat(31), "a".repeat(29) + "-2");
    check(&long, &[&long], &cut);
}

//! What a subscription may be kept with, and what is shown of it later.

use super::*;
use crate::access::user;
use crate::in_memory;

const NOW: i64 = 1_700_000_000_000;

fn hook() -> Value {
    json!({ "name": "all", "target": { "kind": "webhook", "url": "http://127.0.0.1:9" } })
}

#[tokio::test]
async fn a_key_is_a_pointer_that_can_be_followed() {
    let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
    let owner = user("acme", "ada", true);
    let created = async |key: &str| {
        let mut document = hook();
        document["delivery"] = json!({ "ordered": true, "key": key });
        let rooms = &gateway.subscriptions;
        rooms.create(&owner, document, From::Now).await
    };
    for bad in ["/a~2", "/~", &format!("/{}", "a".repeat(1_024))] {
        let refusal = created(bad).await.unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("delivery.key"), "{refusal}");
    }
    created("/a~1b/~0").await.unwrap();
}

#[tokio::test]
async fn no_type_at_all_is_not_taken_for_every_type() {
    let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
    let (owner, rooms) = (user("acme", "ada", true), &gateway.subscriptions);
    let mut document = hook();
    document["filter"] = json!({ "types": [] });
    let refusal = rooms.create(&owner, document, From::Now).await.unwrap_err();
    assert_eq!(refusal.field.as_deref(), Some("filter.types"), "{refusal}");
}

#[tokio::test]
async fn a_secret_whose_overlap_has_ended_is_shown_no_more() {
    let clock = Clock::manual(NOW);
    let gateway = in_memory::gateway(&clock).await;
    let (owner, rooms) = (user("acme", "ada", true), &gateway.subscriptions);
    let (made, _) = rooms.create(&owner, hook(), From::Now).await.unwrap();
    let change = Change::Rotate {
        secret: None,
        overlap: Duration::from_hours(1),
    };
    rooms.change(&owner, made.id, change).await.unwrap();
    let shown = || rooms.secrets(&owner, made.id).unwrap().len();
    assert_eq!(shown(), 2);
    clock.set(NOW + 3_600_000);
    assert_eq!(shown(), 1);
}

#[tokio::test]
async fn a_credential_of_another_kind_stands_for_the_one_before() {
    let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
    let (owner, rooms) = (user("acme", "ada", true), &gateway.subscriptions);
    let mut document = hook();
    document["target"]["auth"] = json!({ "kind": "bearer", "token": "t" });
    let (made, _) = rooms.create(&owner, document, From::Now).await.unwrap();
    let basic = json!({ "kind": "basic", "username": "a", "password": "b" });
    let patch = Change::Patch(json!({ "target": { "auth": basic } }));
    let changed = rooms.change(&owner, made.id, patch).await.unwrap();
    assert_eq!(
        changed.document["target"]["auth"],
        json!({ "kind": "basic" })
    );
}

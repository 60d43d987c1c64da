//! A partition that cannot be read holds up its own tenants alone.

use super::*;
use crate::in_memory::Troubled;

/// Another dispatcher, on a log that gives trouble.
async fn troubled(house: &mut House) -> Arc<Troubled> {
    let mut means = house.gateway.deliveries().means();
    let troubled = Arc::new(Troubled::new(means.bus.clone()));
    means.bus = troubled.clone();
    means.target = house.target.clone();
    drop(house.dispatcher.take());
    house.dispatcher = Some(Dispatcher::open(means, Share::ALL).await.unwrap());
    troubled
}

fn partition(tenant: &str) -> u32 {
    tidings_bus::partition_of(tenant.as_bytes(), 3)
}

/// Tenants of two partitions, with a subscription each.
async fn subscribed(house: &House) -> [String; 2] {
    let mut names = (0..).map(|n| format!("t{n}"));
    let other = names.find(|it| partition(it) != partition("acme"));
    let both = ["acme".to_owned(), other.unwrap()];
    for tenant in &both {
        house.subscribe(tenant, json!({})).await;
    }
    both
}

fn tenants(house: &House) -> Vec<String> {
    house.got().into_iter().map(|got| got.tenant).collect()
}

#[tokio::test]
async fn what_is_read_first_waits_alone() {
    let mut house = House::new().await;
    let both = subscribed(&house).await;
    let bus = troubled(&mut house).await;
    bus.has_no_leader_of(Some(partition(&both[0])));
    for tenant in &both {
        house.publish(tenant, json!({ "n": 1 })).await;
    }
    house.pass(Duration::from_secs(20)).await;
    assert_eq!(tenants(&house), both[1..]);
    bus.has_no_leader_of(None);
    house.pass(Duration::from_secs(6)).await;
    assert_eq!(tenants(&house), [both[1].clone(), both[0].clone()]);
}

#[tokio::test]
async fn what_is_due_again_waits_alone() {
    let mut house = House::new().await;
    let both = subscribed(&house).await;
    house.answer(|_| failed());
    for tenant in &both {
        house.publish(tenant, json!({ "n": 1 })).await;
    }
    house.settle().await;
    assert_eq!(house.got().len(), 2);
    house.answer(|_| Verdict::Delivered);
    let bus = troubled(&mut house).await;
    bus.has_no_leader_of(Some(partition(&both[0])));
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(tenants(&house)[2..], both[1..]);
    bus.has_no_leader_of(None);
    house.pass(Duration::from_mins(1)).await;
    assert_eq!(tenants(&house)[3..], both[..1]);
}

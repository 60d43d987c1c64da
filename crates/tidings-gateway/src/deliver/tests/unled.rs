//! A partition that cannot be read holds up its own tenants alone.

use super::*;
use crate::in_memory::Troubled;

/// Another dispatcher, on a log that gives trouble.
pub(super) async fn troubled(house: &mut House) -> Arc<Troubled> {
    let bus = house.gateway.deliveries().means().bus;
    let troubled = Arc::new(Troubled::new(bus));
    house.crash_on(troubled.clone()).await;
    troubled
}

impl House {
    /// A new dispatcher that knows what the store says, on such a log.
    pub(super) async fn crash_on(&mut self, bus: Arc<Troubled>) {
        let mut means = self.gateway.deliveries().means();
        means.bus = bus;
        means.target = self.target.clone();
        drop(self.dispatcher.take());
        self.dispatcher = Some(Dispatcher::open(means, Share::ALL).await.unwrap());
    }
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

/// A topic of its own, for the events of one type.
const OTHER: &str = "other.events";

impl House {
    /// What the events of a type of their own go to: another topic than everything else.
    async fn with_two_topics() -> Self {
        let mut house = Self::new().await;
        let mut parts = crate::in_memory::parts(&house.clock).await;
        let other = crate::rulebook::Route {
            types: vec!["audit.other.made".parse().unwrap()],
            topic: OTHER.parse().unwrap(),
            ..crate::rulebook::Route::fallback()
        };
        parts.routes = vec![other];
        house.gateway = Gateway::open(parts).await.unwrap();
        house.crash().await;
        house
    }

    /// Of one key: an even number to the one topic, an odd one to the other.
    async fn publish_by_turns(&self, numbers: std::ops::Range<u64>) {
        for n in numbers {
            let types = ["audit.test.made", "audit.other.made"];
            let event_type = types[usize::from(n % 2 == 1)];
            let data = json!({ "n": n, "key": "k" });
            self.publish_as(event_type, "acme", data).await;
        }
    }

    fn take_got(&self) -> Vec<u64> {
        let got = std::mem::take(&mut *self.target.got.lock().unwrap());
        got.into_iter().map(|got| got.n).collect()
    }
}

async fn of_one_key(house: &House) -> Uuid {
    let document = json!({
        "name": "s", "filter": { "types": ["audit.*.*"] },
        "delivery": { "ordered": true, "key": "/key", "retry": { "schedule": ["1s", "1s", "1s"] } },
        "target": { "kind": "webhook", "url": "http://127.0.0.1:1/h" },
    });
    let room = &house.gateway.subscriptions;
    let made = room.create(&caller("acme"), document, From::Now).await;
    made.unwrap().0.id
}

#[tokio::test]
async fn a_key_goes_on_with_the_topic_that_can_be_read() {
    let mut house = House::with_two_topics().await;
    of_one_key(&house).await;
    house.publish_by_turns(0..2).await;
    house.settle().await;
    house.take_got();
    let bus = troubled(&mut house).await;
    bus.is_without(Some(OTHER));
    house.publish_by_turns(2..8).await;
    house.pass(Duration::from_secs(20)).await;
    assert_eq!(house.take_got(), [2, 4, 6]);
    bus.is_without(None);
    house.pass(Duration::from_secs(6)).await;
    assert_eq!(house.take_got(), [3, 5, 7]);
}

#[tokio::test]
async fn what_waits_behind_one_that_cannot_be_read_again_keeps_its_place() {
    for first in [0, 1] {
        let mut house = House::with_two_topics().await;
        let id = of_one_key(&house).await;
        house.answer(|_| failed());
        // One after the other, so that they have their numbers in this order.
        for n in first..first + 4 {
            house.publish_by_turns(n..n + 1).await;
            house.settle().await;
        }
        let order: Vec<u64> = (first..first + 4).collect();
        assert_eq!(house.take_got(), order[..1]);
        house.answer(|_| Verdict::Delivered);
        let bus = troubled(&mut house).await;
        bus.is_without(Some(OTHER));
        house.pass(Duration::from_secs(30)).await;
        // Whatever stands before the first that cannot be read, and nothing behind it.
        let readable = order.iter().take_while(|n| **n % 2 == 0).count();
        assert_eq!(house.take_got(), order[..readable]);
        assert_eq!(house.pending_of(id).await.len(), 4 - readable);
        // Another key is not held up.
        house
            .publish("acme", json!({ "n": 99, "key": "free" }))
            .await;
        house.pass(Duration::from_secs(2)).await;
        assert_eq!(house.take_got(), [99]);
        bus.is_without(None);
        house.pass(Duration::from_secs(20)).await;
        assert_eq!(house.take_got(), order[readable..]);
    }
}

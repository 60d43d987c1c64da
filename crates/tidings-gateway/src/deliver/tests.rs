//! The way out in memory, with a clock that a test moves and a target that it answers for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tidings_event::{Service, TenantId};

use super::target::{Handover, Outcome, Verdict};
use super::*;
use crate::Gateway;
use crate::access::on_behalf_of;
use crate::publish::command::Command;
use crate::subscriptions::{Change, From};

mod batches;
mod begin;
mod behind;
mod changes;
mod clocks;
mod damaged;
mod disabling;
mod ledgers;
mod many;
mod other_log;
mod panics;
mod reasons;
mod replays;
mod skipped;
mod taken;
mod unable;
mod unled;

const NOW: i64 = 1_700_000_000_000;

/// What was handed over.
#[derive(Debug, Clone)]
struct Got {
    tenant: String,
    n: u64,
    sequence: u64,
    at_ms: i64,
    /// What it came in: the message's id and the numbers of all in it.
    message: String,
    batch: Vec<u64>,
    /// The subscription's, as it was handed over.
    revision: u32,
}

type Answer = dyn Fn(&Got) -> Verdict + Send + Sync;

/// Answers as the test says, at once.
struct Fake {
    got: Mutex<Vec<Got>>,
    answer: Mutex<Box<Answer>>,
}

impl Target for Fake {
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome> {
        let alone = vec![(handover.event.clone(), handover.sequence)];
        let events = handover.batch.unwrap_or(alone);
        let ids = events.iter().map(|(event, _)| event.event_id);
        let message = target::batch::message_id(ids, handover.subscription.id);
        let batch: Vec<u64> = events.iter().map(|(_, sequence)| *sequence).collect();
        let all = events.iter().map(|(event, sequence)| {
            let data: Value = serde_json::from_slice(event.data.as_bytes()).unwrap();
            Got {
                tenant: event.tenant.to_string(),
                n: data["n"].as_u64().unwrap(),
                sequence: *sequence,
                at_ms: handover.now_ms,
                message: message.clone(),
                batch: batch.clone(),
                revision: handover.subscription.revision,
            }
        });
        let all: Vec<Got> = all.collect();
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = answer(&all[0]);
        drop(answer);
        self.got.lock().unwrap().extend(all);
        Box::pin(async move {
            Outcome {
                verdict,
                status: None,
                error: None,
                response_headers: Vec::new(),
                response_body: String::new(),
                connecting: Duration::ZERO,
            }
        })
    }
}

fn failed() -> Verdict {
    Verdict::Failed {
        retry_after: None,
        unreachable: true,
    }
}

struct House {
    gateway: Gateway,
    clock: Clock,
    target: Arc<Fake>,
    dispatcher: Option<Dispatcher>,
}

impl House {
    async fn new() -> Self {
        let clock = Clock::manual(NOW);
        let gateway = crate::in_memory::gateway(&clock).await;
        let mut house = Self {
            gateway,
            clock,
            target: Arc::new(Fake {
                got: Mutex::default(),
                answer: Mutex::new(Box::new(|_| Verdict::Delivered)),
            }),
            dispatcher: None,
        };
        house.crash().await;
        house
    }

    /// A new dispatcher, which knows what the store says and nothing else.
    async fn crash(&mut self) {
        drop(self.dispatcher.take());
        let mut means = self.gateway.deliveries().means();
        means.target = self.target.clone();
        self.dispatcher = Some(Dispatcher::open(means, Share::ALL).await.unwrap());
    }

    /// All of the process anew, on the same log and store.
    async fn reopen(&mut self) {
        let dispatcher = self.dispatcher.take().unwrap();
        let (bus, store) = (dispatcher.bus.clone(), dispatcher.store.clone());
        drop(dispatcher);
        let parts = crate::in_memory::parts_on(bus, store, &self.clock).await;
        self.gateway = Gateway::open(parts).await.unwrap();
        self.crash().await;
    }

    /// So many events, with crashes after attempts that ended, of which nothing was written down.
    async fn publish_among_crashes(&mut self, events: u64) {
        for n in 0..events {
            self.publish("acme", json!({ "n": n })).await;
            if n % 7 == 0 {
                let dispatcher = self.dispatcher.as_mut().unwrap();
                dispatcher.turn().await.unwrap();
                while let Some(ended) = dispatcher.in_flight.join_next().await {
                    dispatcher.ended(ended);
                }
                self.crash().await;
            }
            if n % 31 == 0 {
                self.settle().await;
            }
        }
    }

    /// Each of so many events came, under the number of its place in the log alone.
    fn assert_numbers_are_kept(&self, events: u64) {
        let mut numbers: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for got in self.got() {
            numbers.entry(got.n).or_default().insert(got.sequence);
        }
        for n in 0..events {
            assert_eq!(numbers[&n], BTreeSet::from([n + 1]), "event {n}");
        }
    }

    fn answer(&self, answer: impl Fn(&Got) -> Verdict + Send + Sync + 'static) {
        *self
            .target
            .answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
    }

    async fn subscribe(&self, tenant: &str, delivery: Value) -> Uuid {
        let document = json!({
            "name": "s", "filter": { "types": ["audit.test.*"] }, "delivery": delivery,
            "target": { "kind": "webhook", "url": "http://127.0.0.1:1/h" },
        });
        let caller = caller(tenant);
        let made = self
            .gateway
            .subscriptions
            .create(&caller, document, From::Now)
            .await;
        made.unwrap().0.id
    }

    async fn publish(&self, tenant: &str, data: Value) {
        self.publish_as("audit.test.made", tenant, data).await;
    }

    async fn publish_as(&self, event_type: &str, tenant: &str, data: Value) {
        let mut draft = crate::in_memory::draft(&data.to_string());
        draft.event_type = event_type.into();
        let command = Command::one(caller(tenant), draft, None);
        self.gateway.publish(command).await.unwrap();
    }

    /// Turns until nothing is left to do at this time.
    async fn settle(&mut self) {
        let dispatcher = self.dispatcher.as_mut().unwrap();
        let mut quiet = 0;
        while quiet < 5 {
            dispatcher.turn().await.unwrap();
            let mut moved = !dispatcher.read_to_end;
            while let Some(ended) = dispatcher.in_flight.join_next().await {
                dispatcher.ended(ended);
                moved = true;
            }
            if dispatcher.writing.is_none() {
                dispatcher.write_now();
            }
            if let Some(writing) = dispatcher.writing.take() {
                let written = writing.await;
                dispatcher.written(written);
                moved = true;
            }
            quiet = if moved { 0 } else { quiet + 1 };
        }
    }

    /// Lets time pass, in steps that miss nothing due.
    async fn pass(&mut self, duration: Duration) {
        let end = self.clock.now_ms() + ms(duration);
        loop {
            self.settle().await;
            let dispatcher = self.dispatcher.as_ref().unwrap();
            let wake = dispatcher.wakes.first().map(|(at, _)| *at);
            let next = [dispatcher.waiting.first(), wake]
                .into_iter()
                .flatten()
                .min();
            let now = self.clock.now_ms();
            match next.filter(|at| *at <= end) {
                Some(at) if at > now => self.clock.set(at),
                Some(_) => self.clock.set(now + 1),
                None => break,
            }
        }
        self.clock.set(end);
        self.settle().await;
    }

    fn got(&self) -> Vec<Got> {
        self.target.got.lock().unwrap().clone()
    }

    fn numbers(&self) -> Vec<u64> {
        self.got().iter().map(|got| got.n).collect()
    }

    fn store(&self) -> Store {
        self.dispatcher.as_ref().unwrap().store.clone()
    }
}

fn caller(tenant: &str) -> crate::access::Caller {
    on_behalf_of(Service::Audit, tenant.parse::<TenantId>().unwrap())
}

#[tokio::test]
async fn a_failing_delivery_is_tried_on_the_schedule_and_then_given_up() {
    let mut house = House::new().await;
    house.answer(|_| failed());
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.pass(Duration::from_hours(40)).await;
    let got = house.got();
    let waits: Vec<i64> = got
        .windows(2)
        .map(|two| two[1].at_ms - two[0].at_ms)
        .collect();
    let schedule = Config::default().retry_schedule;
    assert_eq!(waits.len(), schedule.len());
    for (wait, wanted) in waits.iter().zip(&schedule) {
        let (least, most) = (ms(*wanted), ms(wanted.mul_f64(1.1)) + 5);
        assert!((least..=most).contains(wait), "{wait} for {wanted:?}");
    }
    let query = crate::dead_letters::DeadLetterQuery {
        limit: 9,
        ..Default::default()
    };
    let (letters, _) = house
        .gateway
        .dead_letters
        .list(&caller("acme"), &query)
        .await
        .unwrap();
    assert_eq!((letters.len(), letters[0].attempts), (1, 8));
}

#[tokio::test]
async fn who_says_when_to_come_back_is_not_asked_before() {
    let mut house = House::new().await;
    house.answer(|got| match got.at_ms {
        NOW => Verdict::Failed {
            retry_after: Some(Duration::from_mins(3)),
            unreachable: true,
        },
        _ => Verdict::Delivered,
    });
    house.subscribe("acme", json!({})).await;
    house.publish("acme", json!({ "n": 1 })).await;
    house.pass(Duration::from_mins(10)).await;
    let times: Vec<i64> = house.got().iter().map(|got| got.at_ms - NOW).collect();
    assert_eq!(times.len(), 2);
    assert!((180_000..181_000).contains(&times[1]), "{times:?}");
}

#[tokio::test]
async fn a_crash_at_any_time_loses_nothing_and_changes_no_number() {
    let mut house = House::new().await;
    house.answer(|got| {
        if got.n % 5 == 0 && got.at_ms == NOW {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    house.subscribe("acme", json!({})).await;
    house.publish_among_crashes(300).await;
    house.pass(Duration::from_mins(1)).await;
    house.assert_numbers_are_kept(300);
}

#[tokio::test]
async fn keys_keep_their_order_whatever_fails_and_whenever_it_crashes() {
    let mut house = House::new().await;
    let tried: Mutex<HashMap<u64, u32>> = Mutex::default();
    house.answer(move |got| {
        let mut tried = tried.lock().unwrap();
        let times = tried.entry(got.n).or_default();
        *times += 1;
        if got.n % 4 == 1 && *times < 3 {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    house
        .subscribe(
            "acme",
            json!({ "ordered": true, "key": "/key", "maxInFlight": 4 }),
        )
        .await;
    for n in 0..60 {
        house
            .publish("acme", json!({ "n": n, "key": format!("k{}", n % 3) }))
            .await;
        if n % 10 == 9 {
            house.settle().await;
        }
        if n % 20 == 19 {
            house.crash().await;
        }
    }
    house.pass(Duration::from_hours(4)).await;
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for got in house.got() {
        let last = last.entry(got.n % 3).or_default();
        assert!(got.n >= *last, "{} after {last}", got.n);
        *last = got.n;
        seen.insert(got.n);
    }
    assert_eq!(seen, (0..60).collect());
}

#[tokio::test]
async fn a_key_goes_on_after_a_crash_that_came_when_its_head_was_settled() {
    let mut house = House::new().await;
    house.answer(|got| match (got.n, got.at_ms) {
        (0, NOW) => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["1s"] } });
    house.subscribe("acme", delivery).await;
    for n in 0..3 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
    }
    house.settle().await;
    house.clock.set(NOW + 2_000);
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.turn().await.unwrap();
    let ended = dispatcher.in_flight.join_next().await.unwrap();
    dispatcher.ended(ended);
    if let Some(writing) = dispatcher.writing.take() {
        let written = writing.await;
        dispatcher.written(written);
    }
    dispatcher.write_now();
    let written = dispatcher.writing.take().unwrap().await;
    dispatcher.written(written);
    house.crash().await;
    house.pass(Duration::from_mins(1)).await;
    let got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(got, [0, 0, 1, 2]);
}

#[tokio::test]
async fn a_key_goes_on_though_more_of_it_is_settled_than_was_written_down() {
    let mut house = House::new().await;
    house.answer(|got| match got.at_ms {
        NOW => failed(),
        _ => Verdict::Delivered,
    });
    let delivery = json!({ "ordered": true, "key": "/key" });
    house.subscribe("acme", delivery).await;
    for n in 0..400 {
        house.publish("acme", json!({ "n": n, "key": "k" })).await;
        house.settle().await;
    }
    house.clock.set(NOW + 6_000);
    let dispatcher = house.dispatcher.as_mut().unwrap();
    for _ in 0..1_000 {
        dispatcher.turn().await.unwrap();
        while let Some(ended) = dispatcher.in_flight.join_next().await {
            dispatcher.ended(ended);
        }
        // At this time nothing more is written than the first turn did.
        if let Some(writing) = dispatcher.writing.take() {
            dispatcher.written(writing.await);
        }
    }
    let taken = house.got().into_iter().filter(|got| got.at_ms > NOW);
    assert!(taken.map(|got| got.n).eq(0..400));
}

#[tokio::test]
async fn a_parked_key_waits_for_its_owner_and_the_others_do_not() {
    let mut house = House::new().await;
    house.answer(|got| {
        if got.n == 0 {
            failed()
        } else {
            Verdict::Delivered
        }
    });
    let delivery = json!({ "ordered": true, "key": "/key", "retry": { "schedule": ["1s"] } });
    house.subscribe("acme", delivery).await;
    for n in 0..6 {
        house
            .publish("acme", json!({ "n": n, "key": format!("k{}", n % 2) }))
            .await;
    }
    house.pass(Duration::from_hours(24)).await;
    let got: BTreeSet<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(got, BTreeSet::from([0, 1, 3, 5]));
    assert_eq!(house.got().iter().filter(|got| got.n == 0).count(), 2);
}

#[tokio::test]
async fn a_backlog_flows_in_order_and_a_subscription_at_rest_costs_nobody() {
    let mut house = House::new().await;
    let (slow, fast) = (
        house.subscribe("acme", json!({})).await,
        house.subscribe("acme", json!({})).await,
    );
    let room = house.gateway.subscriptions.clone();
    room.change(&caller("acme"), slow, Change::Pause)
        .await
        .unwrap();
    for n in 0..1_000 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    assert_eq!(house.got().len(), 1_000);
    house.crash().await;
    room.change(&caller("acme"), slow, Change::Resume)
        .await
        .unwrap();
    house.settle().await;
    let got = house.got();
    assert_eq!(
        got.len(),
        2_000,
        "each exactly once, without a crash in between"
    );
    assert!(got[1_000..].iter().map(|got| got.n).eq(0..1_000));
    let sequences: Vec<u64> = got[1_000..].iter().map(|got| got.sequence).collect();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    let queues = &house.dispatcher.as_ref().unwrap().queues;
    assert!(!queues.contains_key(&fast));
    assert!(queues[&slow].backlog.is_empty() && queues[&slow].places.is_empty());
}

#[tokio::test]
async fn a_rate_is_kept_and_an_open_breaker_lets_nothing_through() {
    let mut house = House::new().await;
    house
        .subscribe("acme", json!({ "rateLimit": { "perSecond": 10 } }))
        .await;
    for n in 0..100 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.pass(Duration::from_secs(5)).await;
    let count = house.got().len();
    assert!((50..=61).contains(&count), "{count}");

    let mut house = House::new().await;
    house.answer(|_| failed());
    house.subscribe("acme", json!({ "maxInFlight": 1 })).await;
    for n in 0..100 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.pass(Duration::from_secs(4)).await;
    assert_eq!(house.got().len(), 10, "then the host is left alone");
    house.answer(|_| Verdict::Delivered);
    house.pass(Duration::from_mins(10)).await;
    let got: BTreeSet<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(got, (0..100).collect());
}

#[tokio::test]
async fn a_loud_tenant_does_not_come_first() {
    let mut house = House::new().await;
    house.subscribe("loud", json!({ "maxInFlight": 1 })).await;
    house.subscribe("quiet", json!({ "maxInFlight": 1 })).await;
    for n in 0..200 {
        house.publish("loud", json!({ "n": n })).await;
    }
    for n in 0..2 {
        house.publish("quiet", json!({ "n": n })).await;
    }
    house.settle().await;
    let got = house.got();
    let last = got.iter().rposition(|got| got.tenant == "quiet").unwrap();
    assert!(last < 20, "the quiet tenant's last came as number {last}");
    assert_eq!(got.len(), 202);
}

#[tokio::test]
async fn chat_messages_are_forgotten_after_a_year() {
    let mut house = House::new().await;
    let store = house.dispatcher.as_ref().unwrap().store.clone();
    let workspace: tidings_event::WorkspaceId = "ws-1".parse().unwrap();
    let message = tidings_store::ChatMessageRow {
        workspace: workspace.clone(),
        channel: "deals".into(),
        id: Uuid::from_u128(1),
        message: "hello".into(),
        sender: "crm-bot".into(),
        created_at_ms: NOW,
    };
    store.chat().post(&message).await.unwrap();
    let year = ms(Duration::from_hours(365 * 24));
    for (later, kept) in [(year, true), (year + ms(Duration::from_hours(1)), false)] {
        house.clock.set(NOW + later);
        house.settle().await;
        let forgetting = house.dispatcher.as_mut().unwrap().forgetting.take();
        forgetting.unwrap().await.unwrap();
        let has = store.chat().has_channel(&workspace, "deals").await.unwrap();
        assert_eq!(has, kept);
    }
}

/// The gateway changes what is in force while a dispatcher reads, and the dispatcher hears of it later.
#[tokio::test]
async fn a_subscription_that_comes_up_while_events_are_read_misses_none() {
    let mut house = House::new().await;
    let partition = |tenant: &str| tidings_bus::partition_of(tenant.as_bytes(), 3);
    let names = (0..).map(|n| format!("t{n}"));
    let neighbour = names
        .into_iter()
        .find(|it| partition(it) == partition("acme"));
    house.subscribe(&neighbour.unwrap(), json!({})).await;
    for n in 0..2 {
        house.publish("acme", json!({ "n": n })).await;
    }
    house.settle().await;
    let document = json!({
        "name": "s", "filter": { "types": ["audit.test.*"] },
        "target": { "kind": "webhook", "url": "http://127.0.0.1:1/h" },
    });
    let owner = caller("acme");
    let made = house
        .gateway
        .subscriptions
        .create(&owner, document, From::Beginning);
    made.await.unwrap();
    house.publish("acme", json!({ "n": 2 })).await;
    let dispatcher = house.dispatcher.as_mut().unwrap();
    dispatcher.read().await.unwrap();
    dispatcher.catch_up().await;
    house.settle().await;
    let got: Vec<u64> = house.got().iter().map(|got| got.n).collect();
    assert_eq!(got, [0, 1, 2]);
}

//! What is acknowledged and wanted arrives, though gateways are killed with -9 and the receiver with them, in order by
//! key, each event under one `webhook-id` and one number; on Kafka the other replica takes over.
//!
//! Each: 3 kills, or `TIDINGS_CHAOS_ROUNDS`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{PATIENCE, PUBLISH, Server};
use crate::receiver::{Hit, Receiver};
use crate::servers::Servers;
use crate::under_load::{at_most, chaos};

const CONFIG: &str = "egress.allow_targets = ['127.0.0.1']\n\
     delivery.retry_schedule = ['50ms', '50ms', '100ms', '200ms', '1s', '1s', '1s', '1s', '1s', '1s', '1s', '1s']\n\
     secrets.key = 'c2VjcmV0cyBvZiB0ZXN0cyBhcmUgbm9uZSBhdCBhbGw='\n";
/// Within this another replica has taken over; beside many other tests, which keep the machine busy, within twice that.
const TAKEN_OVER: Duration = Duration::from_secs(10);
const TENANTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const WRITERS: usize = 4;
/// So many each of them publishes at most between two kills.
const AT_ONCE: u64 = 150;

fn rounds() -> u32 {
    chaos().unwrap_or(3)
}

fn subscribe(server: &Server, tenant: &str, receiver: &Receiver) {
    let body = json!({
        "name": "all",
        "filter": { "types": ["crm.**"] },
        "target": { "kind": "webhook", "url": receiver.url },
        "delivery": { "ordered": true, "key": "/writer" },
    });
    let token = server.crm(tenant);
    server.post("/v1/subscriptions", &token, &body).expect(201);
}

/// Publishes the next event of a tenant's writer. False when there was no answer, or not a good one.
fn publish(server: &Server, token: &str, tenant: &str, writer: usize, n: u64) -> bool {
    let data = json!({ "tenant": tenant, "writer": format!("w{writer}"), "n": n });
    let body = json!({ "type": "crm.contact.created", "data": data });
    let key = format!("{tenant}-{writer}-{n}");
    let call = server.call("POST", PUBLISH).bearer(token);
    let answer = call.header("Idempotency-Key", &key).json(&body).try_send();
    answer.is_some_and(|answer| match answer.status {
        200 | 201 => true,
        503 => false,
        other => panic!("{other}: {}", answer.text()),
    })
}

/// Tenant, writer and number of the event that a hit carries.
fn event(hit: &Hit) -> (String, String, u64) {
    let data = hit.json()["data"].clone();
    let text = |name: &str| data[name].as_str().expect("text").to_owned();
    (
        text("tenant"),
        text("writer"),
        data["n"].as_u64().expect("a number"),
    )
}

fn taken(hits: &[Hit]) -> BTreeSet<(String, String, u64)> {
    let taken = hits.iter().filter(|hit| hit.status == 200);
    taken.map(event).collect()
}

fn eventually_all(receiver: &Receiver, all: &BTreeSet<(String, String, u64)>) {
    let begun = Instant::now();
    loop {
        let hits = receiver.hits();
        let taken = taken(&hits);
        let missing: Vec<_> = all.difference(&taken).collect();
        if missing.is_empty() {
            return;
        }
        let count = hits.len();
        assert!(
            begun.elapsed() < PATIENCE,
            "of {} and after {count} hits: {missing:?}",
            all.len()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How often each event of a tenant stands in the log: on Kafka, one whose gateway died before it knew that it was
/// appended stands there twice, under one id.
fn standing(server: &Server, tenants: &[&str]) -> HashMap<String, usize> {
    let mut standing = HashMap::new();
    for token in tenants.iter().map(|tenant| server.crm(tenant)) {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/events?limit=1000{cursor}");
            let page = server.get(&path, &token).expect(200).json();
            for event in page["items"].as_array().expect("a list") {
                let id = event["eventId"].as_str().expect("an id").to_owned();
                *standing.entry(id).or_default() += 1;
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    standing
}

/// What was promised of all that arrived.
fn check(hits: &[Hit], standing: &HashMap<String, usize>) {
    let mut numbers: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut ids: HashMap<(String, u64), (String, String)> = HashMap::new();
    let mut first_taken: HashMap<(String, String), Vec<u64>> = HashMap::new();
    for hit in hits {
        let (tenant, writer, n) = event(hit);
        let sequence = hit.sequence();
        numbers.entry(tenant.clone()).or_default().insert(sequence);
        let this = (
            hit.header("webhook-id").to_owned(),
            hit.json()["id"].as_str().expect("an id").to_owned(),
        );
        let known = ids
            .entry((tenant.clone(), sequence))
            .or_insert_with(|| this.clone());
        assert_eq!(*known, this, "number {sequence} of {tenant}");
        let order = first_taken.entry((tenant, writer)).or_default();
        if hit.status == 200 && !order.contains(&n) {
            order.push(n);
        }
    }
    for (tenant, numbers) in numbers {
        let last = *numbers.last().expect("one");
        assert_eq!(numbers, (1..=last).collect(), "the numbers of {tenant}");
    }
    let mut numbered: HashMap<&str, usize> = HashMap::new();
    for (_, id) in ids.values() {
        *numbered.entry(id).or_default() += 1;
    }
    for (id, numbers) in numbered {
        assert!(numbers <= standing[id], "{id} has {numbers} numbers");
    }
    for (key, order) in first_taken {
        assert!(order.is_sorted(), "{key:?}: {order:?}");
    }
}

#[test]
fn all_arrives_though_the_gateway_and_the_receiver_die_again_and_again() {
    let mut server = Server::start_with(CONFIG);
    server.declare("crm", &["crm.contact.created"]);
    let receiver = Receiver::start();
    // Every ninth request dies with the receiver, every seventh fails.
    receiver.answer(|_, before| match before.len() {
        count if count % 9 == 8 => 0,
        count if count % 7 == 6 => 500,
        _ => 200,
    });
    subscribe(&server, "a", &receiver);
    let token = server.crm("a");
    let mut next = [0; WRITERS];
    for round in 1..=rounds() {
        let wanted = receiver.hits().len() + 40;
        next = std::thread::scope(|scope| {
            let (server, token) = (&server, &token);
            let writers = (0..WRITERS).zip(next).map(|(writer, from)| {
                scope.spawn(move || {
                    let mut some = from..from + AT_ONCE;
                    let unanswered = some.find(|n| !publish(server, token, "a", writer, *n));
                    unanswered.unwrap_or(from + AT_ONCE)
                })
            });
            let writers: Vec<_> = writers.collect();
            receiver.until(&format!("round {round}"), |hits| hits.len() >= wanted);
            server.kill();
            let mut ended = writers.into_iter().map(|it| it.join().expect("it ends"));
            std::array::from_fn(|_| ended.next().expect("each"))
        });
        server = server.killed_and_restarted();
    }
    receiver.answer(|_, _| 200);
    let all = (0..WRITERS).zip(next).flat_map(|(writer, next)| {
        (0..next).map(move |n| ("a".to_owned(), format!("w{writer}"), n))
    });
    let all: BTreeSet<_> = all.collect();
    eventually_all(&receiver, &all);
    check(&receiver.hits(), &standing(&server, &["a"]));
}

/// Publishes for every tenant at a replica, from where each is, until something is done; where each is then.
fn under_load(
    replica: &Server,
    next: &[u64; TENANTS.len()],
    until: impl FnOnce(),
) -> [u64; TENANTS.len()] {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let writers = TENANTS.iter().zip(*next).map(|(tenant, from)| {
            let token = replica.crm(tenant);
            scope.spawn(move || {
                let mut n = from;
                while !stop.load(Ordering::Relaxed) {
                    n += u64::from(publish(replica, &token, tenant, 0, n));
                }
                n
            })
        });
        let writers: Vec<_> = writers.collect();
        until();
        stop.store(true, Ordering::Relaxed);
        let mut ended = writers.into_iter().map(|it| it.join().expect("it ends"));
        std::array::from_fn(|_| ended.next().expect("each"))
    })
}

#[test]
fn the_other_replica_takes_over_from_one_that_is_killed_or_stopped() {
    let servers = Servers::start(&["kafka", "postgres", "valkey"]);
    let configuration = servers.configuration() + CONFIG;
    let mut replicas = [(); 2].map(|()| Server::start_with(&configuration));
    replicas[0].declare("crm", &["crm.contact.created"]);
    let receiver = Receiver::start();
    for tenant in TENANTS {
        subscribe(&replicas[0], tenant, &receiver);
    }
    let mut next = [0; TENANTS.len()];
    for round in 0..rounds() {
        let killed = round % 2 == 0;
        let [goes, stays] = replicas;
        let (mut goes, mut gone) = (Some(goes), None);
        let wanted = receiver.hits().len() + 100;
        next = under_load(&stays, &next, || {
            receiver.until(&format!("round {round}"), |hits| hits.len() >= wanted);
            if killed {
                goes.as_ref().expect("it is there").kill();
                gone = Some(Instant::now());
            } else {
                goes = goes.take().map(Server::restart);
            }
        });
        let all = TENANTS.iter().zip(next).flat_map(|(tenant, next)| {
            (0..next).map(|n| ((*tenant).to_owned(), "w0".to_owned(), n))
        });
        let all: BTreeSet<_> = all.collect();
        eventually_all(&receiver, &all);
        if let Some(gone) = gone {
            let took = gone.elapsed();
            let within = at_most(TAKEN_OVER, 2);
            println!("round {round}: all was taken over {took:?} after the kill");
            assert!(took < within, "it took {took:?} to take over");
            goes = goes.map(Server::killed_and_restarted);
        }
        replicas = [stays, goes.expect("it is there again")];
    }
    check(&receiver.hits(), &standing(&replicas[0], &TENANTS));
}

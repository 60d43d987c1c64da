//! Gateways under load while something is done to them, and what is asked of each such fault: nothing acknowledged is
//! missing, one key has one event id, every answer comes in time, and nobody restarts a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, PUBLISH, Server};
use crate::servers::Servers;

/// 2 s are promised; a busy machine adds to them.
const IN_TIME: Duration = Duration::from_secs(4);
/// A part that is back is taken up again within this.
const RECOVERY: Duration = Duration::from_secs(10);
/// So much longer may both take beside all other tests. What hangs takes longer by far.
const BESIDE_OTHERS: u32 = 3;
/// At once; more of them make both cores busy with themselves.
const WRITERS: usize = 4;

/// How often a fault is made where the tests run alone (`make chaos`).
pub(crate) fn chaos() -> Option<u32> {
    let rounds = std::env::var("TIDINGS_CHAOS_ROUNDS").ok()?;
    rounds.parse().ok()
}

/// How often a fault is made.
pub(crate) fn rounds() -> u32 {
    chaos().unwrap_or(1)
}

/// How long something may take: so long where the tests run alone, and so many times that beside all others.
pub(crate) fn at_most(alone: Duration, beside_others: u32) -> Duration {
    alone * chaos().map_or(beside_others, |_| 1)
}

/// How long an answer may take.
pub(crate) fn in_time() -> Duration {
    at_most(IN_TIME, BESIDE_OTHERS)
}

/// How long it may take until a part that is back is taken up again.
pub(crate) fn recovery() -> Duration {
    at_most(RECOVERY, BESIDE_OTHERS)
}

/// A gateway and a token of its module `demo`; tokens of one tenant at two replicas are the same principal's.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) server: Arc<Server>,
    token: String,
}

impl Replica {
    /// For the tenant `acme`.
    pub(crate) fn start(configuration: &str) -> Self {
        let server = Arc::new(Server::start_with(configuration));
        let token = server.token(&["--tenant", "acme", "--module", "demo"]);
        Self { server, token }
    }

    /// The same gateway for another tenant.
    pub(crate) fn of(&self, tenant: &str) -> Self {
        let token = self.server.token(&["--tenant", tenant, "--module", "demo"]);
        let server = Arc::clone(&self.server);
        Self { server, token }
    }

    /// The status and the event id; nothing when the replica ended instead of answering.
    pub(crate) fn publish(&self, key: &str) -> Option<(u16, String)> {
        let body = json!({ "type": "demo.greeting.sent", "data": { "key": key } });
        let call = self.server.call("POST", PUBLISH).bearer(&self.token);
        let call = call.header("Idempotency-Key", key).json(&body);
        let answer = call.try_send()?;
        let id = answer.json()["eventId"].as_str().map(str::to_owned);
        Some((answer.status, id.unwrap_or_default()))
    }

    /// Retried until it is acknowledged; every answer comes in time.
    pub(crate) fn publish_at_last(&self, key: &str) -> (u16, String) {
        self.retried(key, &mut Answers::default())
    }

    fn retried(&self, key: &str, answers: &mut Answers) -> (u16, String) {
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = self.publish(key).expect("it runs");
            let took = asked.elapsed();
            assert!(took < in_time(), "{took:?}");
            answers.slowest = answers.slowest.max(took);
            match answer {
                (200 | 201, _) => return answer,
                (503, _) => {
                    answers.refused += 1;
                    assert!(begun.elapsed() < PATIENCE, "{key} is never taken");
                }
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    /// A part that it needs for a publish is gone: 503, in time.
    pub(crate) fn refuses(&self, key: &str) {
        let asked = Instant::now();
        let (status, _) = self.publish(key).expect("it runs");
        assert_eq!(status, 503, "{key}");
        assert!(asked.elapsed() < in_time(), "{:?}", asked.elapsed());
    }

    pub(crate) fn is_ready(&self) -> bool {
        let answer = self.server.call("GET", "/readyz").send();
        answer.json()["status"] == "ready"
    }

    pub(crate) fn await_ready(&self, ready: bool) {
        let begun = Instant::now();
        while self.is_ready() != ready {
            assert!(begun.elapsed() < recovery(), "ready is not {ready}");
            std::thread::yield_now();
        }
    }

    /// Whether an event with this key is among its tenant's first thousand, as this replica reads the log.
    pub(crate) fn has(&self, key: &str) -> bool {
        let answer = self.server.get("/v1/events?limit=1000", &self.token);
        let said = answer.json();
        let items = said["items"].as_array().into_iter().flatten();
        items.into_iter().any(|event| event["data"]["key"] == key)
    }
}

/// How often 503 was answered, and how long the slowest of all answers took.
#[derive(Debug, Default)]
struct Answers {
    refused: usize,
    slowest: Duration,
}

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Which id each key was acknowledged with.
    pub(crate) acknowledged: BTreeMap<String, String>,
    answers: Answers,
}

impl Outcome {
    pub(crate) fn acknowledge(&mut self, key: String, (_, id): (u16, String)) {
        let before = self.acknowledged.insert(key, id.clone());
        assert!(
            before.as_ref().is_none_or(|before| *before == id),
            "{before:?} and {id}"
        );
    }

    fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.answers.refused += other.answers.refused;
        self.answers.slowest = self.answers.slowest.max(other.answers.slowest);
    }

    /// Nothing acknowledged is missing, and no key has two ids, acknowledged or not; but for keys that Valkey was
    /// made to forget.
    pub(crate) fn check(&self, name: &str, servers: &Servers, forgotten: &BTreeSet<String>) {
        let standing = standing(servers);
        let stands = |(key, id): &(&String, &String)| {
            let ids = standing.get(*key);
            ids.is_some_and(|ids| ids.contains_key(*id))
        };
        let lost: Vec<_> = self.acknowledged.iter().filter(|it| !stands(it)).collect();
        let twice = standing.iter().filter(|(_, ids)| ids.len() > 1);
        let duplicates: Vec<_> = twice.filter(|(key, _)| !forgotten.contains(*key)).collect();
        let records: usize = standing.values().flat_map(BTreeMap::values).sum();
        let ids: usize = standing.values().map(BTreeMap::len).sum();
        println!(
            "{name}: rounds {}, acknowledged {}, lost {}, duplicates {}; records again under their id {}; refused {}, \
             slowest answer {} ms",
            rounds(),
            self.acknowledged.len(),
            lost.len(),
            duplicates.len(),
            records - ids,
            self.answers.refused,
            self.answers.slowest.as_millis()
        );
        assert!(
            self.acknowledged.len() > WRITERS,
            "too little was published to tell"
        );
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert!(duplicates.is_empty(), "duplicates: {duplicates:?}");
    }
}

/// Writers at every replica, each with keys of its own, while something is done, which may publish too.
pub(crate) fn under_load(
    replicas: &[&Replica],
    name: &str,
    during: impl FnOnce(&mut Outcome),
) -> Outcome {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = replicas.iter().cycle().take(WRITERS).enumerate();
        let writers: Vec<_> = writers
            .map(|(writer, replica)| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut outcome = Outcome::default();
                    for number in 0.. {
                        let key = format!("{name}-{writer}-{number}");
                        let answer = replica.retried(&key, &mut outcome.answers);
                        outcome.acknowledge(key, answer);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    outcome
                })
            })
            .collect();
        let mut all = Outcome::default();
        // Also when it panics: the scope waits for the writers.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| during(&mut all)));
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            all.add(writer.join().expect("a writer ends"));
        }
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        all
    })
}

/// How many records a topic has. Nothing of it is ever removed, so each partition begins at 0.
fn ends(servers: &Servers, topic: &str) -> usize {
    // `topic:partition:offset` of each.
    let said = servers.kafka_tool("GetOffsetShell", &["--topic", topic]);
    let ends = said.lines().filter_map(|line| line.rsplit(':').next());
    ends.map(|end| end.parse::<usize>().expect("an offset"))
        .sum()
}

/// The ids under which each key stands in the topic, and how often, read by Kafka's own consumer up to the ends that
/// the partitions have now: how long the consumer's group takes to form does not matter.
fn standing(servers: &Servers) -> BTreeMap<String, BTreeMap<String, usize>> {
    const TOPIC: &str = "platform.data.events";
    // What was answered 503 may still come, for as long as a producer tries: until two looks, some seconds each, agree.
    let mut records = ends(servers, TOPIC);
    loop {
        let now = ends(servers, TOPIC);
        if now == records {
            break;
        }
        records = now;
    }
    let read = servers.kafka_tool(
        "consumer.ConsoleConsumer",
        &[
            "--topic",
            TOPIC,
            "--from-beginning",
            "--max-messages",
            &records.to_string(),
            "--timeout-ms",
            "60000",
        ],
    );
    let mut standing: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    assert_eq!(read.lines().count(), records, "records of {TOPIC}");
    for line in read.lines() {
        let event: Value = serde_json::from_str(line).expect("an event");
        let (key, id) = (event["data"]["key"].as_str(), event["id"].as_str());
        if let (Some(key), Some(id)) = (key, id) {
            let ids = standing.entry(key.to_owned()).or_default();
            *ids.entry(id.to_owned()).or_default() += 1;
        }
    }
    standing
}

//! Two replicas under load while a connection is swallowed or keys are forgotten; a replica killed in the middle of a
//! publish, with nothing else going on; and one gateway under load while a broker of three is lost.
//!
//! Each: 1 round, or `TIDINGS_CHAOS_ROUNDS`. What stands in the topic is read by the consumer that Kafka brings.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{ON_ITS_FOLDER, PATIENCE, PUBLISH, Server};
use crate::proxy::Proxy;
use crate::servers::Servers;

/// 2 s are promised; a busy machine adds to them. A call that hangs takes longer by far.
const IN_TIME: Duration = Duration::from_secs(4);
/// A part that is back is taken up again within this.
const RECOVERY: Duration = Duration::from_secs(10);

/// Which id each key was acknowledged with.
type Acknowledged = BTreeMap<String, String>;

fn rounds() -> u32 {
    let rounds = std::env::var("TIDINGS_CHAOS_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// A gateway and a token of its module `demo`; tokens of two replicas are the same principal's.
struct Replica {
    server: Server,
    token: String,
}

impl Replica {
    fn start(configuration: &str) -> Self {
        let server = Server::start_with(configuration);
        let token = server.token(&["--tenant", "acme", "--module", "demo"]);
        Self { server, token }
    }

    /// The status and the event id; nothing when the replica ended instead of answering.
    fn publish(&self, key: &str) -> Option<(u16, String)> {
        let body = json!({ "type": "demo.greeting.sent", "data": { "key": key } });
        let call = self.server.call("POST", PUBLISH).bearer(&self.token);
        let call = call.header("Idempotency-Key", key).json(&body);
        let answer = call.try_send()?;
        let id = answer.json()["eventId"].as_str().map(str::to_owned);
        Some((answer.status, id.unwrap_or_default()))
    }

    /// Retried until it is acknowledged; no answer may take longer than this.
    fn publish_at_last(&self, key: &str, each: Duration) -> (u16, String) {
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let answer = self.publish(key).expect("it runs");
            assert!(asked.elapsed() < each, "{:?}", asked.elapsed());
            match answer {
                (200 | 201, _) => return answer,
                (503, _) => assert!(begun.elapsed() < PATIENCE, "{key} is never taken"),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    fn is_ready(&self) -> bool {
        let answer = self.server.call("GET", "/readyz").send();
        answer.json()["status"] == "ready"
    }

    fn await_ready(&self, ready: bool) {
        let begun = Instant::now();
        while self.is_ready() != ready {
            assert!(begun.elapsed() < RECOVERY, "ready is not {ready}");
            std::thread::yield_now();
        }
    }

    /// Whether an event with this key is on the log, as this replica reads it.
    fn has(&self, key: &str) -> bool {
        let answer = self.server.get("/v1/events?limit=1000", &self.token);
        let said = answer.json();
        let items = said["items"].as_array().into_iter().flatten();
        items.into_iter().any(|event| event["data"]["key"] == key)
    }
}

/// Writers at every replica, each with keys of its own, while something is done to them.
fn under_load(replicas: &[&Replica], name: &str, during: impl FnOnce()) -> Acknowledged {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers = replicas.iter().cycle().take(4).enumerate();
        let writers: Vec<_> = writers
            .map(|(writer, replica)| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut acknowledged = Acknowledged::new();
                    for number in 0.. {
                        let key = format!("{name}-{writer}-{number}");
                        let (_, id) = replica.publish_at_last(&key, IN_TIME);
                        acknowledged.insert(key, id);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        during();
        stop.store(true, Ordering::Relaxed);
        let written = writers.into_iter();
        written
            .flat_map(|writer| writer.join().expect("a writer ends"))
            .collect()
    })
}

/// The ids under which each key stands in the topic, read by Kafka's own consumer.
fn standing(servers: &Servers) -> BTreeMap<String, BTreeSet<String>> {
    let setting = |name| servers.setting(name).expect("it was started");
    let run = Command::new("java")
        .args(["-cp", &format!("{}/*", setting("TIDINGS_KAFKA_LIBS"))])
        .arg("org.apache.kafka.tools.consumer.ConsoleConsumer")
        .args(["--bootstrap-server", setting("TIDINGS_TEST_KAFKA")])
        .args(["--topic", "platform.data.events", "--from-beginning"])
        // It ends when nothing has come for so long.
        .args(["--timeout-ms", "5000"])
        .stderr(Stdio::null())
        .output()
        .expect("java runs");
    let mut standing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(run.stdout).expect("text").lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let (key, id) = (event["data"]["key"].as_str(), event["id"].as_str());
        if let (Some(key), Some(id)) = (key, id) {
            let ids = standing.entry(key.to_owned()).or_default();
            ids.insert(id.to_owned());
        }
    }
    standing
}

/// Nothing acknowledged is missing, and no key, acknowledged or not, has two ids.
fn check(name: &str, acknowledged: &Acknowledged, servers: &Servers) {
    let standing = standing(servers);
    println!(
        "{name}: rounds {}, acknowledged {}, standing {}",
        rounds(),
        acknowledged.len(),
        standing.len()
    );
    for (key, id) in acknowledged {
        assert!(
            standing.get(key).is_some_and(|ids| ids.contains(id)),
            "{key}"
        );
    }
    for (key, ids) in standing {
        assert_eq!(ids.len(), 1, "{key}: {ids:?}");
    }
}

/// Two replicas: the first reaches PostgreSQL and Valkey through proxies, both reach Kafka through one.
struct Rig {
    kafka: Proxy,
    postgres: Proxy,
    valkey: Proxy,
    servers: Servers,
    configuration: [String; 2],
}

impl Rig {
    fn start() -> Self {
        let (kafka, postgres, valkey) = (Proxy::new(), Proxy::new(), Proxy::new());
        let servers = Servers::start_behind(&kafka.address, &["kafka", "postgres", "valkey"]);
        let mut behind = servers.configuration();
        for (proxy, name) in [
            (&kafka, "TIDINGS_TEST_KAFKA"),
            (&postgres, "TIDINGS_TEST_POSTGRES"),
            (&valkey, "TIDINGS_TEST_VALKEY"),
        ] {
            let address = servers.address(name);
            proxy.aim(&address);
            behind = behind.replace(&address, &proxy.address);
        }
        let beside = servers.configuration();
        Self {
            kafka,
            postgres,
            valkey,
            servers,
            configuration: [behind, beside],
        }
    }

    fn replica(&self, number: usize) -> Replica {
        Replica::start(&self.configuration[number])
    }

    /// A command of Valkey's inline form, past the proxy; its answer's first line.
    fn valkey(&self, command: &str) -> String {
        let address = self.servers.address("TIDINGS_TEST_VALKEY");
        let mut stream = TcpStream::connect(address).expect("Valkey answers");
        let asked = stream.write_all(format!("{command}\r\n").as_bytes());
        asked.expect("it takes commands");
        let mut answer = String::new();
        let mut byte = [0];
        while !answer.ends_with('\n') {
            stream.read_exact(&mut byte).expect("a line");
            answer.push(char::from(byte[0]));
        }
        answer.trim_end().to_owned()
    }
}

#[test]
fn a_swallowed_connection_delays_answers_and_loses_nothing() {
    let rig = Rig::start();
    let (one, two) = (rig.replica(0), rig.replica(1));
    let acknowledged = under_load(&[&one, &two], "hole", || {
        for round in 0..rounds() {
            for (part, proxy) in [
                ("kafka", &rig.kafka),
                ("postgres", &rig.postgres),
                ("valkey", &rig.valkey),
            ] {
                proxy.black_hole();
                one.await_ready(false);
                if part != "kafka" {
                    // The other replica does not notice.
                    let key = format!("beside-{part}-{round}");
                    assert_eq!(two.publish(&key).map(|answer| answer.0), Some(201));
                    assert!(two.is_ready(), "{part}");
                }
                proxy.pass();
                one.await_ready(true);
                two.await_ready(true);
                let key = format!("back-{part}-{round}");
                assert_eq!(one.publish_at_last(&key, IN_TIME).0, 201);
            }
        }
    });
    check("swallowed", &acknowledged, &rig.servers);
}

#[test]
fn a_valkey_that_forgets_loses_no_event_but_no_longer_holds_repeats_back() {
    let rig = Rig::start();
    let (one, two) = (rig.replica(0), rig.replica(1));
    let acknowledged = under_load(&[&one, &two], "flush", || {
        for round in 0..rounds() {
            let key = format!("before-{round}");
            let (_, id) = one.publish_at_last(&key, IN_TIME);
            assert_eq!(two.publish(&key), Some((200, id.clone())));
            assert_eq!(rig.valkey("FLUSHALL"), "+OK");
            // Forgotten is forgotten: a repeat is a new event. What is written anew is honoured again.
            let (status, again) = two.publish_at_last(&key, IN_TIME);
            assert!(status == 201 && again != id, "{status} {again}");
            assert_eq!(one.publish(&key), Some((200, again)));
        }
    });
    let standing = standing(&rig.servers);
    for (key, id) in &acknowledged {
        // Each was sent once, so that not even a flush between its steps makes two of it.
        let ids = standing.get(key);
        assert!(
            ids.is_some_and(|ids| ids.len() == 1 && ids.contains(id)),
            "{key}: {ids:?}"
        );
    }
    for round in 0..rounds() {
        assert_eq!(standing[&format!("before-{round}")].len(), 2);
    }
}

/// Where a replica dies.
#[derive(Debug, Clone, Copy)]
enum Within {
    /// Reserved; whether the records got through is Kafka's secret.
    ReserveAndProduce,
    /// Produced; Valkey does not know.
    ProduceAndComplete,
}

#[test]
fn a_replica_killed_between_two_steps_leaves_one_event_id() {
    let rig = Rig::start();
    let two = rig.replica(1);
    let mut acknowledged = Acknowledged::new();
    for round in 0..rounds() {
        for within in [Within::ReserveAndProduce, Within::ProduceAndComplete] {
            let (key, id) = (0..10)
                .find_map(|attempt| {
                    let key = format!("{within:?}-{round}-{attempt}");
                    die(&rig, &two, &key, within, round).then(|| {
                        // Refused, in time, until the dead one's lease is over.
                        let (_, id) = two.publish_at_last(&key, IN_TIME);
                        (key, id)
                    })
                })
                .expect("it dies there in one of ten attempts");
            assert_eq!(two.publish(&key), Some((200, id.clone())), "{key}");
            acknowledged.insert(key, id);
        }
    }
    check("killed", &acknowledged, &rig.servers);
}

/// Kills a new first replica there; false when the machine was too slow for it to be there.
fn die(rig: &Rig, two: &Replica, key: &str, within: Within, round: u32) -> bool {
    let one = rig.replica(0);
    one.publish_at_last(&format!("warm-{key}"), IN_TIME);
    let before = rig.valkey("DBSIZE");
    rig.kafka.black_hole();
    let there = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| one.publish(key));
        let waiting = |is_there: &dyn Fn() -> bool| {
            while !is_there() {
                if publishing.is_finished() {
                    return false;
                }
                std::thread::yield_now();
            }
            true
        };
        let mut there = waiting(&|| rig.valkey("DBSIZE") != before);
        if matches!(within, Within::ProduceAndComplete) {
            rig.valkey.black_hole();
            rig.kafka.pass();
            there = there && waiting(&|| two.has(key));
        }
        one.server.kill();
        // What Kafka was sent is lost with the connection, or arrives late.
        if round.is_multiple_of(2) {
            rig.kafka.cut();
        }
        rig.kafka.pass();
        rig.valkey.cut();
        rig.valkey.pass();
        let answer = publishing.join().expect("it does not panic");
        there && answer.is_none()
    });
    two.await_ready(true);
    there
}

#[test]
fn one_of_three_brokers_may_be_lost() {
    let servers = Servers::cluster(3);
    let brokers = servers.setting("TIDINGS_TEST_KAFKA").expect("started");
    let replica = Replica::start(&format!(
        "{ON_ITS_FOLDER}bus.kind = 'kafka'\nbus.kafka.brokers = '{brokers}'\n"
    ));
    let acknowledged = under_load(&[&replica], "broker", || {
        for round in 0..rounds() {
            let broker = round % 3 + 1;
            replica.publish_at_last(&format!("before-{round}"), IN_TIME);
            servers.kill(&format!("broker-{broker}"));
            let gone = Instant::now();
            replica.publish_at_last(&format!("without-{round}"), IN_TIME);
            assert!(gone.elapsed() < RECOVERY, "{:?}", gone.elapsed());
            servers.restart_broker(broker);
            replica.await_ready(true);
            replica.publish_at_last(&format!("back-{round}"), IN_TIME);
        }
    });
    check("broker", &acknowledged, &servers);
}

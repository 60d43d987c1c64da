//! Two replicas under load while a connection is swallowed, keys are forgotten, or one of them is killed in the middle of a
//! publish; and one gateway under load while a broker of three is lost.
//!
//! Each: 1 round, or `TIDINGS_CHAOS_ROUNDS`. What stands in the topic is read by the consumer that Kafka brings.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::harness::ON_ITS_FOLDER;
use crate::offline_partition::Single;
use crate::proxy::Proxy;
use crate::servers::Servers;
use crate::under_load::{Replica, recovery, rounds, under_load};

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

    /// Whether Valkey knows a key of the tenant `acme`.
    fn is_reserved(&self, key: &str) -> bool {
        let name = format!("tidings:once:{{acme}}:11:module:demo:{key}");
        self.valkey(&format!("EXISTS {name}")) == ":1"
    }
}

#[test]
fn a_swallowed_connection_delays_answers_and_loses_nothing() {
    let rig = Rig::start();
    let (one, two) = (rig.replica(0), rig.replica(1));
    let outcome = under_load(&[&one, &two], "hole", |outcome| {
        for round in 0..rounds() {
            for (part, proxy) in [
                ("kafka", &rig.kafka),
                ("postgres", &rig.postgres),
                ("valkey", &rig.valkey),
            ] {
                let meanwhile = format!("while-{part}-{round}");
                proxy.black_hole();
                one.await_ready(false);
                if part != "postgres" {
                    one.refuses(&meanwhile);
                }
                if part != "kafka" {
                    // The other replica does not notice.
                    let beside = format!("beside-{part}-{round}");
                    let answer = two.publish(&beside).expect("it runs");
                    assert_eq!(answer.0, 201, "{part}");
                    outcome.acknowledge(beside, answer);
                    assert!(two.is_ready(), "{part}");
                }
                proxy.pass();
                let back = Instant::now();
                for replica in [&one, &two] {
                    replica.await_ready(true);
                    let answer = replica.publish_at_last(&meanwhile);
                    outcome.acknowledge(meanwhile.clone(), answer);
                }
                assert!(back.elapsed() < recovery(), "{:?}", back.elapsed());
            }
        }
    });
    outcome.check("connection black-holed", &rig.servers, &BTreeSet::new());
}

#[test]
fn a_valkey_that_forgets_loses_no_event_but_no_longer_holds_repeats_back() {
    let rig = Rig::start();
    let (one, two) = (rig.replica(0), rig.replica(1));
    let mut forgotten = BTreeSet::new();
    let outcome = under_load(&[&one, &two], "flush", |outcome| {
        for round in 0..rounds() {
            let key = format!("before-{round}");
            let (_, id) = one.publish_at_last(&key);
            assert_eq!(two.publish(&key), Some((200, id.clone())));
            assert_eq!(rig.valkey("FLUSHALL"), "+OK");
            // Forgotten is forgotten: a repeat is a new event. What is written anew is honoured again.
            let again = two.publish_at_last(&key);
            assert!(again.0 == 201 && again.1 != id, "{again:?}");
            assert_eq!(one.publish(&key), Some((200, again.1.clone())));
            outcome.acknowledge(key.clone(), again);
            forgotten.insert(key);
            // A while, so that the next flush meets keys of all kinds.
            for number in 0..25 {
                let key = format!("between-{round}-{number}");
                let answer = two.publish_at_last(&key);
                outcome.acknowledge(key, answer);
            }
        }
    });
    // A writer's key is sent once, so that not even a flush between its steps makes two of it.
    outcome.check("valkey flushed", &rig.servers, &forgotten);
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
    // Of another tenant, so that what the log has of this one is soon looked through.
    let outcome = under_load(&[&two.of("globex")], "killed", |outcome| {
        for round in 0..rounds() {
            for within in [Within::ReserveAndProduce, Within::ProduceAndComplete] {
                let (key, answer) = (0..10)
                    .find_map(|attempt| {
                        let key = format!("{within:?}-{round}-{attempt}");
                        die(&rig, &two, &key, within, round).then(|| {
                            // Refused, in time, until the dead one's lease is over.
                            let answer = two.publish_at_last(&key);
                            (key, answer)
                        })
                    })
                    .expect("it dies there in one of ten attempts");
                assert_eq!(two.publish(&key), Some((200, answer.1.clone())), "{key}");
                outcome.acknowledge(key, answer);
            }
        }
    });
    outcome.check("replica killed", &rig.servers, &BTreeSet::new());
}

/// Kills a new first replica there; false when the machine was too slow for it to be there.
fn die(rig: &Rig, two: &Replica, key: &str, within: Within, round: u32) -> bool {
    let one = rig.replica(0);
    one.publish_at_last(&format!("warm-{key}"));
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
        let mut there = waiting(&|| rig.is_reserved(key));
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
    let mut single = Some(Single::start(&servers));
    let outcome = under_load(&[&replica], "broker", |outcome| {
        for round in 0..rounds() {
            let broker = round % 3 + 1;
            let mut publish = |when: &str| {
                let key = format!("{when}-{round}");
                let answer = replica.publish_at_last(&key);
                outcome.acknowledge(key, answer);
            };
            publish("before");
            servers.kill(&format!("broker-{broker}"));
            // How long the others take to agree that it is gone is Kafka's own affair.
            publish("without");
            single = single.take().map(|single| single.begins_without(broker));
            servers.restart_broker(broker);
            let back = Instant::now();
            replica.await_ready(true);
            publish("back");
            assert!(back.elapsed() < recovery(), "{:?}", back.elapsed());
        }
    });
    outcome.check("one of three brokers lost", &servers, &BTreeSet::new());
}

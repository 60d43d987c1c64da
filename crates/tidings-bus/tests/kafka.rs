//! The Kafka bus against a real broker: `scripts/test` starts one and says where it listens.
#![cfg(feature = "kafka")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tidings_bus::kafka::{Config, Counts, Kafka};
use tidings_bus::{
    AppendError, Appended, Bus, Headers, Health, Partition, Pending, Position, Read, Record,
    conformance, time_of,
};
use tidings_event::Topic;
use uuid::Uuid;

fn config() -> Config {
    let brokers = std::env::var("TIDINGS_TEST_KAFKA");
    let brokers = brokers.expect("TIDINGS_TEST_KAFKA says where a broker is: run scripts/test");
    let mut config = Config::new(brokers);
    config.partitions = 4;
    config.topic_prefix = "conformance-".into();
    config
}

/// A client of somebody else.
fn other() -> ClientConfig {
    let mut other = ClientConfig::new();
    other.set("bootstrap.servers", config().brokers);
    other
}

/// Every topic on the brokers.
fn on_the_brokers() -> BTreeSet<String> {
    let client: BaseConsumer = other().create().unwrap();
    let metadata = client.fetch_metadata(None, Duration::from_secs(10));
    let metadata = metadata.expect("a broker answers");
    let names = metadata.topics().iter().map(|it| it.name().to_owned());
    names.collect()
}

fn new_topic(name: &str) -> Topic {
    format!("{name}.{}", Uuid::now_v7()).parse().unwrap()
}

fn record(topic: &Topic) -> Record {
    let event_id = Uuid::now_v7();
    Record {
        topic: topic.clone(),
        key: "acme".into(),
        tenant: "acme".parse().unwrap(),
        event_id,
        timestamp_ms: time_of(event_id).unwrap(),
        headers: Headers::default(),
        value: "x".into(),
        once: None,
    }
}

async fn append(bus: &Kafka, records: Vec<Record>) -> Vec<Position> {
    let until = Instant::now() + Duration::from_secs(30);
    let appended = loop {
        match bus.append(records.clone()).await {
            // A broker that has just been started, on a machine with much else to do.
            Err(AppendError::Unavailable { retry_after }) if Instant::now() < until => {
                tokio::time::sleep(retry_after).await;
            }
            appended => break appended.expect("it is appended"),
        }
    };
    let positions = appended.into_iter().map(|it| match it {
        Appended::At(at) => at,
        other => panic!("not appended: {other:?}"),
    });
    positions.collect()
}

fn all(from: u64) -> Read {
    Read {
        from,
        tenant: None,
        limit: 1_000,
        scan: 10_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kafka_bus_keeps_the_contract() {
    let bus: Arc<dyn Bus> = Arc::new(Kafka::open(&config()).expect("the clients start"));
    conformance::suite(async || Arc::clone(&bus)).await;
}

/// An id of a time before all records: the search gives every partition up, and later reads must not notice.
fn of_old() -> Uuid {
    "0198c5a0-0000-7000-8000-000000000000".parse().unwrap()
}

/// What a stream does: read on from where it stands, as soon as the tail says that there is more.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_each_record_as_it_comes() {
    let bus = Kafka::open(&config()).expect("the clients start");
    let topic = new_topic("follow");
    let mut tail = bus.tail();
    let mut next = 0;
    for _ in 0..20 {
        let record = record(&topic);
        let event_id = record.event_id;
        let at = append(&bus, vec![record]).await[0];
        tail.changed().await.expect("the bus is there");
        let partition = Partition {
            topic: topic.clone(),
            number: at.partition,
        };
        let read = Read {
            from: next,
            tenant: None,
            limit: 10,
            scan: 100,
        };
        let found = bus.find("acme".parse().unwrap(), of_old()).await;
        assert_eq!(found.expect("it can be looked for"), None);
        let page = bus.read(partition, read).await.expect("it can be read");
        assert_eq!(page.records.len(), 1);
        assert_eq!(page.records[0].event_id, event_id);
        next = page.next;
    }
}

/// Waits until each membership looks after something of its own and all together after every partition.
async fn shared_out(memberships: &mut [tidings_bus::Membership]) -> Vec<BTreeSet<u32>> {
    let all = async {
        loop {
            let shares: Vec<_> = memberships
                .iter()
                .map(|it| it.shares().partitions)
                .collect();
            let count: usize = shares.iter().map(BTreeSet::len).sum();
            let together: BTreeSet<u32> = shares.iter().flatten().copied().collect();
            if count == 4 && together.len() == 4 && shares.iter().all(|it| !it.is_empty()) {
                return shares;
            }
            match memberships {
                [one, another] => tokio::select! {
                    () = one.changed() => {}
                    () = another.changed() => {}
                },
                [one, ..] => one.changed().await,
                [] => panic!("nobody shares"),
            }
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, all)
        .await
        .expect("all partitions are shared out")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_share_the_partitions_and_take_over_from_who_leaves() {
    let topic = new_topic("shared");
    let buses = [(); 2].map(|()| Kafka::open(&config()).expect("the clients start"));
    let group = format!("group-{}", Uuid::now_v7());
    let mut first = vec![buses[0].join(&group, &topic).expect("Kafka has groups")];
    assert_eq!(shared_out(&mut first).await[0].len(), 4);
    assert_eq!(first[0].shares().of, 4);
    for partition in 0..4 {
        assert!(first[0].hold(partition));
    }

    let mut both = first;
    both.push(buses[1].join(&group, &topic).expect("Kafka has groups"));
    // What the second is to get is let go by the first.
    loop {
        both[0].changed().await;
        let kept = both[0].shares().partitions;
        if kept.len() < 4 {
            assert_eq!(both[1].shares().partitions, BTreeSet::new());
            for partition in 0..4 {
                if !kept.contains(&partition) {
                    both[0].release(partition);
                }
            }
            break;
        }
    }
    let shares = shared_out(&mut both).await;
    assert_eq!(shares.iter().map(BTreeSet::len).collect::<Vec<_>>(), [2, 2]);

    drop(both.remove(0));
    assert_eq!(shared_out(&mut both).await[0].len(), 4);
}

/// The broker of the tests makes every topic that a client may make by asking for it, as brokers come.
#[tokio::test(flavor = "multi_thread")]
async fn no_question_makes_a_topic() {
    let mut config = config();
    config.create_topics = false;
    config.topic_prefix = format!("asked-{}.", Uuid::now_v7());
    let bus = Kafka::open(&config).expect("the clients start");
    let (published, carried, read) = (
        new_topic("mistyped"),
        new_topic("carried"),
        new_topic("read"),
    );
    bus.carry(vec![carried.clone()]);
    let unavailable = bus.append(vec![record(&published)]).await;
    assert!(
        matches!(unavailable, Err(AppendError::Unavailable { .. })),
        "{unavailable:?}"
    );
    assert_eq!(bus.topics().await, Ok(Vec::new()));
    let partition = Partition {
        topic: read,
        number: 0,
    };
    let page = bus.read(partition, all(0)).await.expect("it is empty");
    assert_eq!(page.next, 0);
    let made: Vec<String> = on_the_brokers()
        .into_iter()
        .filter(|name| name.starts_with(&config.topic_prefix) || name == "tidings.probe")
        .collect();
    assert_eq!(made, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_the_partitions_that_are_configured_and_replicas_learn_of_it() {
    let (maker, other) = (config(), config());
    let [bus, replica] = [maker, other].map(|it| Kafka::open(&it).expect("the clients start"));
    let topic = new_topic("made");
    replica.carry(vec![topic.clone()]);
    let listed = async |bus: &Kafka| bus.topics().await.expect("topics are listed");
    assert_eq!(listed(&replica).await, []);
    let record = record(&topic);
    let id = record.event_id;
    append(&bus, vec![record]).await;
    let found = replica.find("acme".parse().unwrap(), id).await;
    assert!(found.unwrap().is_some(), "whoever was told its id finds it");
    let known = (topic.clone(), 4);
    assert!(listed(&bus).await.contains(&known));
    let until = Instant::now() + Duration::from_secs(10);
    while !listed(&replica).await.contains(&known) {
        assert!(Instant::now() < until, "it is never listed");
        tokio::task::yield_now().await;
    }
}

/// Nothing else is published that would wake the follower.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_hears_of_the_first_record_of_a_topic_that_another_replica_makes() {
    let [bus, replica] = [(); 2].map(|()| Kafka::open(&config()).expect("the clients start"));
    let topic = new_topic("first");
    replica.carry(vec![topic.clone()]);
    let mut tail = replica.tail_of(&"acme".parse().unwrap());
    let known = replica.topics().await.expect("topics are listed");
    assert!(!known.iter().any(|(it, _)| *it == topic));
    append(&bus, vec![record(&topic)]).await;
    let heard = async {
        loop {
            tail.changed().await.expect("the bus is there");
            let known = replica.topics().await.expect("topics are listed");
            if known.iter().any(|(it, _)| *it == topic) {
                break;
            }
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
    heard.expect("the tail tells of it");
    tail.mark_unchanged();
    append(&bus, vec![record(&topic)]).await;
    let heard = tokio::time::timeout(Duration::from_secs(20), tail.changed()).await;
    let heard = heard.expect("the tail tells of the next");
    heard.expect("the bus is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_made_again_without_a_restart() {
    let mut config = config();
    let quickly = [
        ("topic.metadata.refresh.interval.ms", "200"),
        ("topic.metadata.propagation.max.ms", "200"),
    ];
    let quickly = quickly.map(|(name, value)| (name.to_owned(), value.to_owned()));
    config.properties.extend(quickly);
    let bus = Kafka::open(&config).expect("the clients start");
    let topic = new_topic("deleted");
    append(&bus, vec![record(&topic)]).await;
    let name = format!("{}{topic}", config.topic_prefix);
    let admin: AdminClient<DefaultClientContext> = other().create().unwrap();
    let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await;
    deleted.unwrap()[0].as_ref().expect("it is deleted");
    let until = Instant::now() + Duration::from_secs(30);
    while bus.append(vec![record(&topic)]).await.is_err() {
        assert!(Instant::now() < until, "it is never made again");
    }
}

/// Writes messages of others: each with these headers and whatever value, to partition 0.
fn write(client: &BaseProducer, topic: &Topic, headers: &[(&str, &[u8])]) {
    let mut given = OwnedHeaders::new();
    for (key, value) in headers {
        let value = Some(*value);
        given = given.insert(Header { key, value });
    }
    let name = format!("{}{topic}", config().topic_prefix);
    let message = BaseRecord::<str, str>::to(&name).partition(0);
    let sent = client.send(message.key("acme").payload("x").headers(given));
    sent.map_err(|(error, _)| error).expect("it is sent");
    client.flush(Duration::from_secs(10)).expect("it arrives");
}

/// A topic of one partition.
async fn one_partition(name: &str) -> (Kafka, Partition) {
    let mut config = config();
    config.partitions = 1;
    let bus = Kafka::open(&config).expect("the clients start");
    let topic = new_topic(name);
    append(&bus, vec![record(&topic)]).await;
    (bus, Partition { topic, number: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_hold_nobody_up() {
    let (bus, partition) = one_partition("foreign").await;
    let topic = &partition.topic;
    let zstd = other().set("compression.type", "zstd").create().unwrap();
    let id = Uuid::now_v7().to_string();
    let ours: [(&str, &[u8]); 2] = [
        ("tidings-event-id", id.as_bytes()),
        ("tidings-tenant", b"acme"),
    ];
    write(&zstd, topic, &[("whose", b"somebody's")]);
    write(&zstd, topic, &[("tidings-event-id", b"none")]);
    write(&zstd, topic, &[("tidings-event-id", id.as_bytes())]);
    // Sent once more by a tool that adds what it knows of a failure.
    let time = ("kafka_dlt-original-timestamp", &[0, 0, 1, 0xff][..]);
    write(&zstd, topic, &[ours[0], ours[1], time]);
    let page = bus.read(partition, all(0)).await.expect("it is read");
    assert_eq!((page.next, page.more), (5, false));
    let offsets: Vec<u64> = page.records.iter().map(|it| it.offset).collect();
    assert_eq!(offsets, [0, 4]);
    assert_eq!(page.records[1].headers.iter().count(), 0);
    let found = bus.find("acme".parse().unwrap(), id.parse().unwrap());
    assert_eq!(found.await.unwrap().expect("it is found").offset, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_behind_the_mark_of_a_transaction() {
    let (bus, partition) = one_partition("transaction").await;
    let patience = Duration::from_secs(30);
    let client: BaseProducer = other()
        .set("transactional.id", partition.topic.as_str())
        .create()
        .unwrap();
    client.init_transactions(patience).unwrap();
    client.begin_transaction().unwrap();
    write(&client, &partition.topic, &[]);
    client.commit_transaction(patience).unwrap();
    // The mark is written after the answer.
    let until = Instant::now() + patience;
    while bus.bounds(partition.clone()).await.unwrap().end < 3 {
        assert!(Instant::now() < until, "the transaction never ends");
        tokio::task::yield_now().await;
    }
    let page = bus.read(partition, all(0)).await.unwrap();
    assert_eq!((page.records.len(), page.next, page.more), (1, 3, false));
    let found = bus.find("acme".parse().unwrap(), of_old()).await;
    assert_eq!(found.expect("it can be looked for"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_holds_no_more_than_16_mib() {
    let (bus, partition) = one_partition("large").await;
    let mut large = record(&partition.topic);
    large.value = vec![b'x'; 1_000_000].into();
    for _ in 0..4 {
        append(&bus, vec![large.clone(); 5]).await;
    }
    let (mut next, mut pages) = (0, 0);
    while next < 21 {
        let page = bus.read(partition.clone(), all(next)).await.unwrap();
        assert!((1..=18).contains(&page.records.len()), "of page {pages}");
        assert_eq!(page.more, page.next < 21);
        (next, pages) = (page.next, pages + 1);
    }
    assert!(pages > 1);
}

/// A key whose first try got no answer is retried under the id of that try, minutes later.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_found_though_its_id_is_older_than_its_neighbours() {
    let (bus, partition) = one_partition("late").await;
    let mut late = record(&partition.topic);
    let now = time_of(late.event_id).unwrap();
    let time_ms = now - 60_000;
    let seconds = u64::try_from(time_ms / 1_000).unwrap();
    late.event_id = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0));
    late.timestamp_ms = time_of(late.event_id).unwrap();
    let between = (0..1_000).map(|n| {
        let mut between = record(&partition.topic);
        between.timestamp_ms = time_ms + 50 * n;
        between
    });
    append(&bus, between.collect()).await;
    append(&bus, vec![late.clone()]).await;
    let found = bus.find("acme".parse().unwrap(), late.event_id).await;
    assert_eq!(found.unwrap().expect("it is found").offset, 1_001);
    let other = bus.find("globex".parse().unwrap(), late.event_id).await;
    assert_eq!(other, Ok(None));
}

/// What librdkafka does not recover from, and an operator mends: the right to write idempotently is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_came_to_its_end_is_replaced_without_a_restart() {
    let cluster = MockCluster::new(1).unwrap();
    let topic = new_topic("renewed");
    cluster.create_topic(topic.as_str(), 1, 1).unwrap();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[refusal; 2]);
    let mut config = Config::new(cluster.bootstrap_servers());
    config.create_topics = false;
    let bus = Kafka::open(&config).expect("the clients start");
    let until = Instant::now() + Duration::from_secs(30);
    let mut refused = 0;
    while let Err(error) = bus.append(vec![record(&topic)]).await {
        assert!(matches!(bus.health(), Health::Degraded(_)), "{error:?}");
        assert!(Instant::now() < until, "it never takes records");
        refused += 1;
    }
    assert!(refused > 0);
    assert_eq!(bus.health(), Health::Ready);
}

/// What a topic had at first, for all who ask, as the store of an installation keeps it.
#[derive(Debug, Default)]
struct First(Mutex<BTreeMap<String, u32>>);

impl Counts for First {
    fn count(
        &self,
        topic: String,
        found: u32,
        new: bool,
    ) -> Pending<'_, Result<u32, Box<dyn Error + Send + Sync>>> {
        let mut first = self.0.lock().unwrap();
        if new {
            first.insert(topic.clone(), found);
        }
        let counted = *first.entry(topic).or_insert(found);
        Box::pin(async move { Ok(counted) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_gets_more_partitions_goes_on_with_those_it_had() {
    let config = Config {
        counts: Some(Arc::new(First::default())),
        ..config()
    };
    let topic = new_topic("grown");
    let bus = Kafka::open(&config).expect("the clients start");
    // Keys that more partitions would place elsewhere are among so many.
    let records = || -> Vec<Record> {
        let keys = (0..32).map(|number| format!("tenant-{number}"));
        keys.map(|key| Record {
            key,
            ..record(&topic)
        })
        .collect()
    };
    let partitions = |positions: Vec<Position>| -> Vec<u32> {
        positions.iter().map(|at| at.partition).collect()
    };
    let before = partitions(append(&bus, records()).await);
    let admin: AdminClient<DefaultClientContext> = other().create().unwrap();
    let name = format!("{}{topic}", config.topic_prefix);
    let more = [NewPartitions::new(&name, 9)];
    let grown = admin.create_partitions(&more, &AdminOptions::new()).await;
    grown.expect("a broker answers")[0]
        .as_ref()
        .expect("it has more");
    until_it_has(&name, 9);
    // Whoever knew the topic, and a replica that sees it first as it is now.
    let other = Kafka::open(&config).expect("the clients start");
    other.carry(vec![topic.clone()]);
    let listed = other.topics().await.expect("a broker answers");
    let (_, counted) = listed.iter().find(|(it, _)| *it == topic).unwrap();
    assert_eq!(*counted, config.partitions);
    for bus in [&bus, &other] {
        assert_eq!(partitions(append(bus, records()).await), before);
    }
}

/// A store that is away at times.
#[derive(Debug, Default)]
struct Away(AtomicBool);

impl Counts for Away {
    fn count(
        &self,
        _: String,
        found: u32,
        _: bool,
    ) -> Pending<'_, Result<u32, Box<dyn Error + Send + Sync>>> {
        let away = self.0.load(Ordering::Relaxed);
        Box::pin(async move { if away { Err("away".into()) } else { Ok(found) } })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_count_cannot_be_told_holds_up_no_other() {
    let counts = Arc::new(Away::default());
    let config = Config {
        counts: Some(counts.clone()),
        ..config()
    };
    let bus = Kafka::open(&config).expect("the clients start");
    let (known, other) = (new_topic("known"), new_topic("uncounted"));
    append(&bus, vec![record(&known)]).await;
    counts.0.store(true, Ordering::Relaxed);
    let refused = bus.append(vec![record(&other)]).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(bus.health(), Health::Ready);
    append(&bus, vec![record(&known)]).await;
    let listed = async || -> BTreeSet<Topic> {
        let listed = bus.topics().await.expect("a broker answers").into_iter();
        listed.map(|(topic, _)| topic).collect()
    };
    let all = listed().await;
    assert!(all.contains(&known) && !all.contains(&other), "{all:?}");
    counts.0.store(false, Ordering::Relaxed);
    append(&bus, vec![record(&other)]).await;
    assert!(listed().await.contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_kafka_does_not_make_says_nothing_of_kafka() {
    let bus = Kafka::open(&config()).expect("the clients start");
    let known = new_topic("one");
    append(&bus, vec![record(&known)]).await;
    let alike: Topic = known.as_str().replacen("one.", "one_", 1).parse().unwrap();
    let refused = bus.append(vec![record(&alike)]).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(bus.health(), Health::Ready);
    append(&bus, vec![record(&known)]).await;
}

/// Waits until the broker knows of so many partitions.
fn until_it_has(topic: &str, partitions: usize) {
    let client: BaseConsumer = other().create().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10));
        let found = metadata.expect("a broker answers").topics()[0]
            .partitions()
            .len();
        if found == partitions {
            return;
        }
        assert!(Instant::now() < until, "{topic} has {found} partitions");
        std::thread::yield_now();
    }
}

//! The Kafka bus against a real broker: `scripts/test` starts one and says where it listens.
#![cfg(feature = "kafka")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use tidings_bus::kafka::{Config, Kafka};
use tidings_bus::{Appended, Bus, Headers, Partition, Read, Record, conformance, time_of};
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
    let topic: Topic = format!("follow.{}", Uuid::now_v7()).parse().unwrap();
    let mut tail = bus.tail();
    let mut next = 0;
    for _ in 0..20 {
        let event_id = Uuid::now_v7();
        let record = Record {
            topic: topic.clone(),
            key: "acme".into(),
            tenant: "acme".parse().unwrap(),
            event_id,
            timestamp_ms: time_of(event_id).unwrap(),
            headers: Headers::default(),
            value: "x".into(),
            once: None,
        };
        let appended = bus.append(vec![record]).await.expect("it is appended");
        let Appended::At(at) = appended[0] else {
            panic!("not appended");
        };
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

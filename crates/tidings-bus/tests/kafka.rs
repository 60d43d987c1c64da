//! The Kafka bus against a real broker: `scripts/test` starts one and says where it listens.
#![cfg(feature = "kafka")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
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
    let patience = std::time::Duration::from_secs(30);
    tokio::time::timeout(patience, all)
        .await
        .expect("all partitions are shared out")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_share_the_partitions_and_take_over_from_who_leaves() {
    let topic: Topic = format!("shared.{}", Uuid::now_v7()).parse().unwrap();
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
                    both[0].let_go(partition);
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

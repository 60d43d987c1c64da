//! What is dropped, by age and by size, and that nothing else is.

use super::*;

#[tokio::test]
async fn old_events_are_dropped_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let age = Duration::from_secs(160);
    let config = Config {
        retention_age: Some(age),
        ..config(folder.path(), &clock)
    };
    let bus = Embedded::open(config).unwrap();
    let mut ids = Vec::new();
    for n in 0..40 {
        let record = Record {
            key: "same".into(),
            ..record(n, 100)
        };
        ids.push((record.tenant.clone(), record.event_id));
        bus.append(vec![record]).await.unwrap();
        clock.advance(10_000);
    }
    bus.sweep().await;
    let records = content(&bus).await.unwrap();
    assert!((16..=18).contains(&records.len()), "{}", records.len());
    assert_eq!(records.last().unwrap().offset, 39);
    let partition = Partition {
        topic: "t".parse().unwrap(),
        number: records[0].partition,
    };
    let bounds = bus.bounds(partition.clone()).await.unwrap();
    assert_eq!((bounds.start, bounds.end), (records[0].offset, 40));
    let page = bus
        .read(
            partition.clone(),
            Read {
                from: 0,
                tenant: None,
                limit: 1,
                scan: 9,
            },
        )
        .await;
    assert_eq!(page.unwrap().records[0].offset, bounds.start);
    assert_eq!(bus.offset_at(partition, 0).await, Ok(bounds.start));
    assert_eq!(bus.find(ids[0].0.clone(), ids[0].1).await, Ok(None));
    assert!(
        bus.find(ids[39].0.clone(), ids[39].1)
            .await
            .unwrap()
            .is_some()
    );
    clean(folder.path());
}

#[tokio::test]
async fn old_events_are_dropped_by_size() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let config = Config {
        retention_bytes: Some(1 << 20),
        ..config(folder.path(), &clock)
    };
    let bus = Embedded::open(config.clone()).unwrap();
    for n in 0..300 {
        bus.append(vec![record(n, 10_000)]).await.unwrap();
    }
    bus.sweep().await;
    let kept = content(&bus).await.unwrap();
    assert!((90..=105).contains(&kept.len()), "{}", kept.len());
    bus.close();
    clean(folder.path());
    let bus = Embedded::open(config).unwrap();
    assert_eq!(content(&bus).await.unwrap(), kept);
    assert_eq!(bus.count(&"tenant0".parse().unwrap()).await, Ok(150));
}

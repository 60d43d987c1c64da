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

#[tokio::test]
async fn a_clock_that_was_years_ahead_keeps_neither_keys_nor_events_for_years() {
    const YEARS_MS: i64 = 9 * 365 * DAY_MS;
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let config = || Config {
        retention_age: Some(Duration::from_hours(24)),
        ..config(folder.path(), &clock)
    };
    let mut bus = Embedded::open(config()).unwrap();
    bus.append(vec![keyed(0, "before")]).await.unwrap();
    clock.advance(YEARS_MS);
    bus.append(vec![keyed(1, "ahead")]).await.unwrap();
    bus.close();
    clock.advance(DAY_MS - YEARS_MS);
    bus = Embedded::open(config()).unwrap();
    let repeat = bus.append(vec![keyed(1, "ahead")]).await.unwrap();
    assert!(matches!(repeat[0], Appended::Repeat(_)), "{repeat:?}");
    bus.append(vec![keyed(2, "after")]).await.unwrap();
    for _ in 0..3 {
        clock.advance(DAY_MS);
        bus.append(vec![record(3, 10)]).await.unwrap();
        bus.sweep().await;
    }
    for key in ["before", "ahead", "after"] {
        let fresh = bus.append(vec![keyed(9, key)]).await.unwrap();
        assert!(matches!(fresh[0], Appended::At(_)), "{key}: {fresh:?}");
    }
    let kept = content(&bus).await.unwrap();
    assert!(kept.len() <= 5, "{} events", kept.len());
    bus.close();
    clean(folder.path());
}

#[tokio::test]
async fn a_clock_that_goes_back_a_little_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Manual::new();
    let bus = open(folder.path(), &clock);
    bus.append(vec![keyed(1, "key")]).await.unwrap();
    clock.advance(-60_000);
    bus.append(vec![record(2, 10)]).await.unwrap();
    assert_eq!(verify(folder.path()).unwrap().keys, 1);
    clock.advance(DAY_MS + 59_999);
    let again = bus.append(vec![keyed(1, "key")]).await.unwrap();
    assert!(matches!(again[0], Appended::Repeat(_)), "{again:?}");
    clean(folder.path());
}

#[tokio::test]
async fn a_clock_that_was_behind_for_a_while_loses_neither_keys_nor_events() {
    const YEARS_MS: i64 = 9 * 365 * DAY_MS;
    for behind_ms in [60_000, 2 * DAY_MS] {
        let folder = tempfile::tempdir().unwrap();
        let clock = Manual::new();
        let config = Config {
            retention_age: Some(Duration::from_hours(7 * 24)),
            ..config(folder.path(), &clock)
        };
        let bus = Embedded::open(config).unwrap();
        bus.append(vec![keyed(0, "before")]).await.unwrap();
        clock.advance(-YEARS_MS);
        bus.append(vec![keyed(1, "behind")]).await.unwrap();
        clock.advance(behind_ms);
        bus.append(vec![keyed(2, "still")]).await.unwrap();
        clock.advance(YEARS_MS - behind_ms + 1_000);
        bus.append(vec![keyed(3, "after")]).await.unwrap();
        bus.sweep().await;
        assert_eq!(content(&bus).await.unwrap().len(), 4, "{behind_ms}");
        let before = bus.append(vec![keyed(0, "before")]).await.unwrap();
        assert!(matches!(before[0], Appended::Repeat(_)), "{before:?}");
        if behind_ms < DAY_MS {
            let behind = bus.append(vec![keyed(1, "behind")]).await.unwrap();
            assert!(matches!(behind[0], Appended::Repeat(_)), "{behind:?}");
        }
        bus.close();
        clean(folder.path());
    }
}

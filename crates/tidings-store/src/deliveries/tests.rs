//! A flush, read back in every way.

use super::*;
use crate::Store;
use crate::dead_letters::{DeadLetterQuery, DeadLetterRow};
use crate::pool::writing_on_either;
use crate::suite::on_each_database;

fn whole<T>(found: Result<Found<T>, StoreError>) -> Vec<T> {
    found.unwrap().whole().unwrap()
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn attempt(sequence: u64, number: u32) -> AttemptRow {
    AttemptRow {
        subscription: Uuid::from_u128(1),
        sequence,
        number,
        tenant: tenant(),
        event_id: Uuid::from_u128(u128::from(sequence) + 100),
        started_at_ms: 10,
        outcome: "failed".into(),
        detail: "{}".into(),
    }
}

fn pending(sequence: u64, state: &str, next_at_ms: i64) -> PendingRow {
    PendingRow {
        subscription: Uuid::from_u128(1),
        sequence,
        tenant: tenant(),
        event_id: Uuid::from_u128(u128::from(sequence) + 100),
        lane: (sequence > 1).then(|| "k".to_owned()),
        attempts: 1,
        state: state.into(),
        next_at_ms,
        detail: "{}".into(),
    }
}

fn cursor(partition: u32) -> CursorRow {
    CursorRow {
        share: Share::ALL.to_string(),
        topic: "platform.data.events".parse().unwrap(),
        partition,
        next_offset: 9,
    }
}

fn progress() -> ProgressRow {
    ProgressRow {
        subscription: Uuid::from_u128(1),
        tenant: tenant(),
        sequence: 1,
        places: "{}".into(),
    }
}

fn dead(id: u128, error: &str) -> DeadLetterRow {
    DeadLetterRow {
        id: Uuid::from_u128(id),
        tenant: tenant(),
        subscription: Uuid::from_u128(1),
        sequence: 6 + u64::try_from(id).unwrap(),
        event_id: Uuid::from_u128(107),
        event_type: "crm.deal.closed".parse().unwrap(),
        event: "{}".into(),
        attempts: 8,
        last_error: error.into(),
        created_at_ms: 50,
        state: "open".into(),
    }
}

#[tokio::test]
async fn what_is_flushed_is_there_and_written_again_replaces() {
    on_each_database(async |store| {
        let all = Share::ALL;
        let room = store.deliveries();
        let (cursor, progress) = (cursor(3), progress());
        let mut flush = Flush {
            attempts: vec![attempt(1, 1), attempt(2, 1), attempt(2, 2)],
            pending: vec![
                pending(1, "waiting", 20),
                pending(2, "waiting", 15),
                pending(3, "behind", 0),
            ],
            progress: vec![progress.clone()],
            cursors: vec![cursor.clone()],
            ..Flush::default()
        };
        room.flush(&flush).await.unwrap();
        flush.cursors[0].next_offset = 12;
        room.flush(&flush).await.unwrap();
        assert_eq!(
            room.cursors().await.unwrap().whole().unwrap(),
            flush.cursors
        );
        let topic = &flush.cursors[0].topic;
        assert_eq!(whole(room.cursors_of(topic, 3).await), flush.cursors);
        assert_eq!(whole(room.cursors_of(topic, 4).await), []);
        assert_eq!(whole(room.progress(all).await), [progress]);
        assert_eq!(whole(room.beyond_progress(all).await), [attempt(2, 1)]);
        let one = Uuid::from_u128(1);
        // Of what is not due, the first.
        let both = [pending(2, "waiting", 15), pending(1, "waiting", 20)];
        let due = async |limit, now_ms| {
            let due = room.due(&[(one, limit)], now_ms).await.unwrap();
            due.into_iter()
                .map(|it| it.row.unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(due(9, 15).await, both);
        assert_eq!(due(1, 20).await, both[..1]);
        assert_eq!(due(9, 20).await, both);
        let waiting = whole(room.waiting(None, 9).await);
        assert_eq!(waiting.len(), 1);
        assert_eq!((waiting[0].subscription, waiting[0].next_at_ms), (one, 15));
        assert_eq!(whole(room.waiting(Some(one), 9).await), []);
        assert_eq!(
            whole(room.lanes(all).await),
            [(Uuid::from_u128(1), "k".to_owned(), false)]
        );
        let other = Share {
            number: 1 - partition_of(b"acme", 2),
            of: 2,
        };
        assert_eq!(whole(room.progress(other).await), []);
        assert_eq!(whole(room.beyond_progress(other).await), []);
        assert_eq!(whole(room.pending_beyond_progress(other).await), []);
        assert!(waiting[0].is_of(all) && !waiting[0].is_of(other));
        assert_eq!(whole(room.lanes(other).await), []);
        let lane = whole(room.pending_of(one, Some("k"), 2, 9).await);
        assert_eq!(lane, [pending(3, "behind", 0)]);
        assert_eq!(whole(room.pending_of(one, None, 0, 2).await).len(), 2);
        let (two, globex) = (Uuid::from_u128(102), "globex".parse().unwrap());
        assert_eq!(whole(room.attempts_of_event(&tenant(), two).await).len(), 2);
        assert_eq!(whole(room.attempts_of_event(&globex, two).await), []);
        assert_eq!(whole(room.pending_of_event(&tenant(), two).await).len(), 1);
        assert_eq!(whole(room.pending_of_event(&globex, two).await), []);
        let after = async |sequence, number| {
            let rows = whole(room.attempts_of(one, (sequence, number), 9).await);
            rows.iter()
                .map(|it| (it.sequence, it.number))
                .collect::<Vec<_>>()
        };
        assert_eq!(after(1, u32::MAX).await, [(2, 1), (2, 2)]);
        assert_eq!(after(2, 1).await, [(2, 2)]);

        let settled = Flush {
            settled: vec![(one, 1), (one, 2)],
            ..Flush::default()
        };
        room.flush(&settled).await.unwrap();
        assert_eq!(whole(room.waiting(None, 9).await), []);
        assert_eq!(whole(room.lanes(all).await), [(one, "k".to_owned(), true)]);
        assert_eq!(room.forget_attempts(10).await.unwrap(), 0);
        assert_eq!(room.forget_attempts(11).await.unwrap(), 3);
    })
    .await;
}

#[tokio::test]
async fn an_error_is_found_in_whatever_case_and_what_cannot_be_kept_is_not_there() {
    on_each_database(async |store| {
        let flush = Flush {
            dead: vec![dead(1, "status 500"), dead(2, "no answer")],
            ..Flush::default()
        };
        store.deliveries().flush(&flush).await.unwrap();
        let found = async |error: Option<&str>, event_type: Option<&str>| {
            let query = DeadLetterQuery {
                error: error.map(str::to_owned),
                event_type: event_type.map(str::to_owned),
                limit: 9,
                ..DeadLetterQuery::default()
            };
            let room = store.dead_letters();
            whole(room.list(&tenant(), &query).await).len()
        };
        assert_eq!(found(Some("STATUS 5"), None).await, 1);
        assert_eq!(found(None, Some("\0")).await, 0);
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_found_by_patterns_of_their_types() {
    const TYPES: [&str; 6] = [
        "crm.made",
        "crm.deal.made",
        "crm_x.made",
        "crmax.made",
        "TENANT_CUSTOM:acme:crm.made@1.0.0",
        "CUSTOM_EVENT_REGISTERED",
    ];
    on_each_database(async |store| {
        let letters = (1..).zip(TYPES).map(|(number, name)| DeadLetterRow {
            event_type: tidings_event::EventType::recorded(name).unwrap(),
            ..dead(number, "no")
        });
        let flush = Flush {
            dead: letters.collect(),
            ..Flush::default()
        };
        store.deliveries().flush(&flush).await.unwrap();
        for pattern in [
            "crm.made",
            "crm.*",
            "crm.**",
            "*.made",
            "crm.*.made",
            "crm.deal.*",
            "crm_x.*",
            "**",
            TYPES[4],
            TYPES[5],
        ] {
            let query = DeadLetterQuery {
                event_type: Some(pattern.to_owned()),
                limit: 9,
                ..DeadLetterQuery::default()
            };
            let rows = whole(store.dead_letters().list(&tenant(), &query).await);
            let found: Vec<_> = rows.iter().map(|row| row.event_type.as_str()).collect();
            let wanted: tidings_event::TypePattern = pattern.parse().unwrap();
            let types = TYPES
                .into_iter()
                .filter(|name| wanted.matches(&tidings_event::EventType::recorded(name).unwrap()));
            assert_eq!(found, types.collect::<Vec<_>>(), "{pattern}");
        }
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_found_by_each_filter_and_by_their_tenant_alone() {
    on_each_database(async |store| {
        let flush = Flush {
            dead: vec![dead(1, "status 500"), dead(2, "100% wrong")],
            dead_states: vec![(Uuid::from_u128(2), "closed")],
            ..Flush::default()
        };
        store.deliveries().flush(&flush).await.unwrap();
        let room = store.dead_letters();
        let found = async |query: DeadLetterQuery| {
            let query = DeadLetterQuery { limit: 9, ..query };
            let rows = whole(room.list(&tenant(), &query).await);
            rows.iter().map(|row| row.id.as_u128()).collect::<Vec<_>>()
        };
        let any = DeadLetterQuery::default;
        assert_eq!(found(any()).await, [1, 2]);
        assert_eq!(
            found(DeadLetterQuery {
                error: Some("500".into()),
                ..any()
            })
            .await,
            [1]
        );
        assert_eq!(
            found(DeadLetterQuery {
                error: Some("0%".into()),
                ..any()
            })
            .await,
            [2]
        );
        assert_eq!(
            found(DeadLetterQuery {
                state: Some("open"),
                ..any()
            })
            .await,
            [1]
        );
        assert_eq!(
            found(DeadLetterQuery {
                since_ms: Some(51),
                ..any()
            })
            .await,
            [] as [u128; 0]
        );
        assert_eq!(
            found(DeadLetterQuery {
                until_ms: Some(51),
                ..any()
            })
            .await,
            [1, 2]
        );
        let other = vec![Uuid::from_u128(9)];
        assert_eq!(
            found(DeadLetterQuery {
                subscriptions: other,
                ..any()
            })
            .await,
            [] as [u128; 0]
        );
        assert_eq!(
            found(DeadLetterQuery {
                after: Some(Uuid::from_u128(1)),
                ..any()
            })
            .await,
            [2]
        );
        let globex = "globex".parse().unwrap();
        assert_eq!(room.get(&globex, Uuid::from_u128(1)).await.unwrap(), None);
        assert_eq!(
            room.get(&tenant(), Uuid::from_u128(1)).await.unwrap(),
            Some(dead(1, "status 500"))
        );
        let newer = DeadLetterRow {
            id: Uuid::from_u128(3),
            ..dead(1, "status 500 again")
        };
        let flush = Flush {
            dead: vec![newer],
            ..Flush::default()
        };
        store.deliveries().flush(&flush).await.unwrap();
        let open = found(DeadLetterQuery {
            state: Some("open"),
            ..any()
        });
        assert_eq!(open.await, [3], "one delivery has one open letter");
        assert!(!room.delete(&globex, Uuid::from_u128(1)).await.unwrap());
        assert!(room.delete(&tenant(), Uuid::from_u128(1)).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn who_has_much_pending_does_not_stand_before_others() {
    on_each_database(async |store| {
        let room = store.deliveries();
        let of = |subscription: u128, sequence: u64| PendingRow {
            subscription: Uuid::from_u128(subscription),
            lane: None,
            ..pending(sequence, "waiting", 1)
        };
        let mut rows: Vec<_> = (1..=3_000).map(|sequence| of(1, sequence)).collect();
        rows.extend((2..=40).map(|subscription| of(subscription, 1)));
        let flush = Flush {
            pending: rows,
            ..Flush::default()
        };
        room.flush(&flush).await.unwrap();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = whole(room.waiting(after, 16).await);
            after = page.last().map(|it| it.subscription);
            found.extend(page.iter().map(|it| it.subscription.as_u128()));
            if page.len() < 16 {
                break;
            }
        }
        assert_eq!(found, (1..=40).collect::<Vec<_>>());
        let asked: Vec<_> = (1..=32).map(|id| (Uuid::from_u128(id), 5)).collect();
        let due = room.due(&asked, 10).await.unwrap();
        assert_eq!(due.len(), 5 + 31);
        let first = asked[0].0.to_string();
        let of_first = due.iter().filter(|it| it.subscription == first);
        assert_eq!(of_first.count(), 5);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_refused_for_good_keeps_no_other_from_being_written() {
    // SQLite takes what PostgreSQL does not.
    let store = crate::suite::on_postgres().await;
    let room = store.deliveries();
    let bad = PendingRow {
        lane: Some("a\0".into()),
        ..pending(7, "waiting", 20)
    };
    let mut rows: Vec<_> = (1..=20).map(|n| pending(n, "waiting", 20)).collect();
    rows[6] = bad.clone();
    let flush = Flush {
        attempts: vec![attempt(1, 1)],
        pending: rows,
        dead: vec![dead(1, "status 500"), dead(2, "nul \0 in it")],
        ..Flush::default()
    };
    let error = room.flush(&flush).await.unwrap_err();
    assert!(error.is_refused() && !error.is_unavailable(), "{error}");
    let tenure = room.take(Share::ALL).await.unwrap();
    for _ in 0..2 {
        // The second time all that was written is written again.
        let refused = room.flush_in_pieces(&tenure, &flush, 8).await.unwrap();
        let pending: Vec<_> = refused.iter().flat_map(|(it, _)| &it.pending).collect();
        let dead: Vec<_> = refused.iter().flat_map(|(it, _)| &it.dead).collect();
        assert_eq!((pending, dead.len()), (vec![&bad], 1));
    }
    let one = Uuid::from_u128(1);
    let kept = whole(room.pending_of(one, None, 0, 99).await);
    assert_eq!(kept.len(), 19);
    assert_eq!(whole(room.attempts_of(one, (0, 0), 9).await).len(), 1);
    store.close().await;
}

#[tokio::test]
async fn who_had_a_share_before_writes_nothing_more_for_it() {
    on_each_database(async |store| {
        let room = store.deliveries();
        let flush = |sequence| Flush {
            pending: vec![pending(sequence, "waiting", 20)],
            ..Flush::default()
        };
        let other = Share { number: 1, of: 2 };
        let [before, of_other] = [Share::ALL, other].map(|share| room.take(share));
        let (before, of_other) = (before.await.unwrap(), of_other.await.unwrap());
        room.flush_within(&before, &flush(1)).await.unwrap();
        let after = room.take(Share::ALL).await.unwrap();
        let refused = room.flush_within(&before, &flush(2)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Taken(_)), "{refused}");
        let refused = room.flush_in_pieces(&before, &flush(3), 8).await;
        assert!(matches!(refused, Err(StoreError::Taken(_))), "{refused:?}");
        room.flush_within(&of_other, &flush(4)).await.unwrap();
        room.flush_within(&after, &flush(5)).await.unwrap();
        let kept = whole(room.pending_of(Uuid::from_u128(1), None, 0, 9).await);
        let kept: Vec<_> = kept.iter().map(|row| row.sequence).collect();
        assert_eq!(kept, [1, 4, 5]);
    })
    .await;
}

#[tokio::test]
async fn a_letter_written_twice_is_one_that_is_open() {
    on_each_database(async |store| {
        let room = store.dead_letters();
        let flush = Flush {
            dead: vec![dead(1, "status 500")],
            ..Flush::default()
        };
        for _ in 0..2 {
            // What a commit came to is not always known.
            store.deliveries().flush(&flush).await.unwrap();
        }
        let id = Uuid::from_u128(1);
        assert_eq!(
            room.get(&tenant(), id).await.unwrap(),
            Some(flush.dead[0].clone())
        );
        let again = Flush {
            dead_states: vec![(id, "replaying")],
            reopened: vec![Reopened {
                id,
                attempts: 16,
                last_error: "status 503".into(),
            }],
            ..Flush::default()
        };
        store.deliveries().flush(&again).await.unwrap();
        let found = room.get(&tenant(), id).await.unwrap().unwrap();
        let shown = (
            found.attempts,
            found.last_error.as_str(),
            found.state.as_str(),
        );
        assert_eq!(shown, (16, "status 503", "open"));
    })
    .await;
}

/// Changes a column of rows as a disk would: without their checksums.
async fn damage(store: &Store, change: &'static str) {
    let room = store.deliveries();
    writing_on_either!(room.connections, "damage a row", connection => {
        sqlx::query(change).execute(connection).await.map(drop)
    })
    .unwrap();
}

#[tokio::test]
async fn a_damaged_row_hides_no_other_of_its_list() {
    on_each_database(async |store| {
        let room = store.deliveries();
        let one = Uuid::from_u128(1);
        let flush = Flush {
            attempts: (1..6).map(|sequence| attempt(sequence, 1)).collect(),
            pending: (1..6).map(|it| pending(it, "waiting", 10)).collect(),
            dead: (1..6).map(|id| dead(id, "no")).collect(),
            ..Flush::default()
        };
        room.flush(&flush).await.unwrap();
        for change in [
            "UPDATE pending_deliveries SET detail = 'x' WHERE sequence IN (1, 2, 4)",
            "UPDATE delivery_attempts SET detail = 'x' WHERE sequence IN (1, 2, 4)",
            "UPDATE dead_letter_event SET event_id = 'x' WHERE sequence IN (7, 8, 10)",
        ] {
            damage(&store, change).await;
        }

        let due = room.due(&[(one, 9)], 10).await.unwrap();
        let sound: Vec<(i64, bool)> = due.iter().map(|it| (it.sequence, it.row.is_ok())).collect();
        let all = [(1, false), (2, false), (3, true), (4, false), (5, true)];
        assert_eq!(sound, all);
        room.put_off(&due[0].subscription, 1, 20).await.unwrap();
        let next = room.due(&[(one, 1)], 10).await.unwrap();
        assert_eq!((next[0].sequence, next[1].sequence), (2, 1));
        assert_eq!(next[1].next_at_ms, 20);

        // A page is filled with what is sound.
        let found = room.pending_of(one, None, 0, 1).await.unwrap();
        assert_eq!((found.rows[0].sequence, found.damaged.len()), (3, 2));
        let told = found.damaged[0].to_string();
        assert!(
            told.contains("pending_deliveries") && told.contains("/1"),
            "{told}"
        );
        assert!(found.whole().is_err());
        let found = room.attempts_of(one, (3, 1), 9).await.unwrap();
        assert_eq!((found.rows[0].sequence, found.damaged.len()), (5, 1));
        let query = DeadLetterQuery {
            limit: 2,
            ..DeadLetterQuery::default()
        };
        let found = store.dead_letters().list(&tenant(), &query).await.unwrap();
        assert_eq!((found.rows.len(), found.damaged.len()), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_damaged_place_hides_no_other_and_is_mended_by_the_next_write() {
    on_each_database(async |store| {
        let room = store.deliveries();
        let progress = progress();
        let flush = Flush {
            progress: vec![progress.clone()],
            cursors: vec![cursor(3), cursor(4)],
            ..Flush::default()
        };
        room.flush(&flush).await.unwrap();
        for change in [
            "UPDATE delivery_cursors SET next_offset = 12 WHERE partition = 3",
            "UPDATE delivery_progress SET tenant = 'other', slot = slot + 1",
        ] {
            damage(&store, change).await;
        }
        let found = room.cursors().await.unwrap();
        assert_eq!((found.rows, found.damaged.len()), (vec![cursor(4)], 1));
        let found = room.progress_of(&[progress.subscription]).await.unwrap();
        assert_eq!((found.rows, found.damaged.len()), (Vec::new(), 1));
        let found = room.progress(Share::ALL).await.unwrap();
        assert_eq!((found.rows, found.damaged.len()), (Vec::new(), 1));
        assert_eq!(
            found.damaged[0].row(),
            Some(&*progress.subscription.to_string())
        );
        room.flush(&flush).await.unwrap();
        assert_eq!(
            room.cursors().await.unwrap().whole().unwrap(),
            flush.cursors
        );
        assert_eq!(whole(room.progress(Share::ALL).await), [progress]);
    })
    .await;
}

//! A flush, read back in every way.

use super::*;
use crate::dead_letters::DeadLetterQuery;
use crate::suite::on_each_database;

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
        let cursor = CursorRow {
            share: Share::ALL.to_string(),
            topic: "platform.data.events".parse().unwrap(),
            partition: 3,
            next_offset: 9,
        };
        let progress = ProgressRow {
            subscription: Uuid::from_u128(1),
            tenant: tenant(),
            sequence: 1,
            places: "{}".into(),
        };
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
        assert_eq!(room.cursors().await.unwrap(), flush.cursors);
        assert_eq!(room.progress(all).await.unwrap(), [progress]);
        assert_eq!(room.beyond_progress(all).await.unwrap(), [attempt(2, 1)]);
        assert_eq!(
            room.due(all, 15, 9).await.unwrap(),
            [pending(2, "waiting", 15)]
        );
        assert_eq!(room.due(all, 20, 9).await.unwrap().len(), 2);
        assert_eq!(room.next_due(all, 14).await.unwrap(), Some(15));
        assert_eq!(
            room.lanes(all).await.unwrap(),
            [(Uuid::from_u128(1), "k".to_owned(), false)]
        );
        let other = Share {
            number: 1 - partition_of(b"acme", 2),
            of: 2,
        };
        assert_eq!(room.progress(other).await.unwrap(), []);
        assert_eq!(room.beyond_progress(other).await.unwrap(), []);
        assert_eq!(room.pending_beyond_progress(other).await.unwrap(), []);
        assert_eq!(room.due(other, 20, 9).await.unwrap(), []);
        assert_eq!(room.next_due(other, 14).await.unwrap(), None);
        assert_eq!(room.lanes(other).await.unwrap(), []);
        let one = Uuid::from_u128(1);
        let lane = room.pending_of(one, Some("k"), 2, 9).await.unwrap();
        assert_eq!(lane, [pending(3, "behind", 0)]);
        assert_eq!(room.pending_of(one, None, 0, 2).await.unwrap().len(), 2);
        let (two, globex) = (Uuid::from_u128(102), "globex".parse().unwrap());
        assert_eq!(
            room.attempts_of_event(&tenant(), two).await.unwrap().len(),
            2
        );
        assert_eq!(room.attempts_of_event(&globex, two).await.unwrap(), []);
        assert_eq!(
            room.pending_of_event(&tenant(), two).await.unwrap().len(),
            1
        );
        assert_eq!(room.pending_of_event(&globex, two).await.unwrap(), []);
        assert_eq!(room.attempts_of(one, 1, 9).await.unwrap().len(), 2);

        let settled = Flush {
            settled: vec![(one, 1), (one, 2)],
            ..Flush::default()
        };
        room.flush(&settled).await.unwrap();
        assert_eq!(room.next_due(all, 0).await.unwrap(), None);
        assert_eq!(
            room.lanes(all).await.unwrap(),
            [(one, "k".to_owned(), true)]
        );
        assert_eq!(room.forget_attempts(10).await.unwrap(), 0);
        assert_eq!(room.forget_attempts(11).await.unwrap(), 3);
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
            let rows = room.list(&tenant(), &query).await.unwrap();
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

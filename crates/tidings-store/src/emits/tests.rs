//! Emits are accepted once, up to their limit, and read back in every way.

use std::slice;

use super::*;
use crate::suite::on_each_database;

/// An id of the time 10.
fn id_of(number: u128) -> Uuid {
    Uuid::from_u128((10 << 80) | number)
}

fn row(id: u128, key: Option<&str>) -> EmitRow {
    let event_id = id_of(id);
    EmitRow {
        event_id,
        tenant: "acme".parse().unwrap(),
        idempotency_key: key.map_or_else(|| event_id.to_string(), str::to_owned),
        fingerprint: u128::MAX - id,
        event_type: EventType::recorded("TENANT_CUSTOM:acme:shop.order@1.0.0").unwrap(),
        name: "shop.order".into(),
        source: "/module/shop".into(),
        cause: id.is_multiple_of(2).then(|| Uuid::from_u128(7)),
        depth: 3,
        traceparent: None,
        created_at_ms: 10,
        payload: Some("{}".into()),
        state: EmitState::Queued,
        error: None,
        place: None,
        next_at_ms: Some(20),
    }
}

fn admission(row: EmitRow, limit: Option<u64>) -> Admission {
    Admission {
        row,
        month: "2026-11".into(),
        limit,
    }
}

#[tokio::test]
async fn what_is_accepted_is_counted_once_and_what_is_beyond_the_limit_is_not() {
    on_each_database(async |store| {
        let room = store.emits();
        let tenant: TenantId = "acme".parse().unwrap();
        let wanted = [
            admission(row(1, Some("k")), Some(2)),
            admission(row(2, Some("k")), Some(2)),
            admission(row(3, None), Some(2)),
            admission(row(4, None), Some(2)),
        ];
        let first = row(1, Some("k"));
        let admitted = room.admit(&wanted, &[]).await.unwrap();
        let known = || Admitted::Known(Box::new(first.clone()));
        assert_eq!(
            admitted,
            [Admitted::New, known(), Admitted::New, Admitted::OverLimit]
        );
        assert_eq!(room.usage(&tenant, "2026-11").await.unwrap(), 2);
        assert_eq!(room.usage(&tenant, "2026-12").await.unwrap(), 0);
        let again = room.admit(&wanted[1..2], &[]).await.unwrap();
        assert_eq!(again, [known()]);
        let other = Admission {
            month: "2026-12".into(),
            ..admission(row(5, Some("l")), Some(2))
        };
        assert_eq!(room.admit(&[other], &[]).await.unwrap(), [Admitted::New]);
        assert_eq!(room.usage(&tenant, "2026-12").await.unwrap(), 1);
        let globex = Admission {
            row: EmitRow {
                tenant: "globex".parse().unwrap(),
                ..row(6, Some("k"))
            },
            ..admission(row(6, None), None)
        };
        assert_eq!(room.admit(&[globex], &[]).await.unwrap(), [Admitted::New]);
    })
    .await;
}

#[tokio::test]
async fn the_limit_holds_whoever_asks_at_once() {
    on_each_database(async |store| {
        let asked = (0..64).map(|id| {
            let store = store.clone();
            tokio::spawn(async move {
                let wanted = [admission(row(id + 1, None), Some(40))];
                loop {
                    match store.emits().admit(&wanted, &[]).await {
                        Ok(admitted) => return admitted[0] == Admitted::New,
                        // On PostgreSQL a connection may be long in coming.
                        Err(error) => assert!(error.is_unavailable(), "{error}"),
                    }
                }
            })
        });
        let asked: Vec<_> = asked.collect();
        let mut accepted = 0;
        for one in asked {
            accepted += u64::from(one.await.unwrap());
        }
        assert_eq!(accepted, 40);
        let tenant = "acme".parse().unwrap();
        assert_eq!(store.emits().usage(&tenant, "2026-11").await.unwrap(), 40);
    })
    .await;
}

fn becomes(id: u128, state: EmitState, next_at_ms: Option<i64>) -> EmitNote {
    EmitNote {
        event_id: id_of(id),
        state,
        error: None,
        place: None,
        next_at_ms,
    }
}

#[tokio::test]
async fn what_becomes_of_an_emit_is_noted_and_listed() {
    on_each_database(async |store| {
        let room = store.emits();
        let tenant: TenantId = "acme".parse().unwrap();
        let wanted: Vec<_> = (1..=4).map(|id| admission(row(id, None), None)).collect();
        room.admit(&wanted, &[]).await.unwrap();
        let place = Some(EmitPlace {
            partition: 3,
            offset: 9,
        });
        let error = Some("the bus is away".to_owned());
        let notes = [
            becomes(2, EmitState::Failed, Some(1)),
            EmitNote {
                place,
                ..becomes(2, EmitState::Relayed, Some(15))
            },
            EmitNote {
                error: error.clone(),
                ..becomes(3, EmitState::Failed, Some(12))
            },
            becomes(4, EmitState::Delivered, None),
        ];
        assert_eq!(room.admit(&[], &notes).await.unwrap(), []);
        // What comes late does not undo it.
        let late = [
            becomes(2, EmitState::Failed, Some(1)),
            becomes(4, EmitState::Relayed, Some(1)),
        ];
        assert_eq!(room.admit(&[], &late).await.unwrap(), []);
        let relayed = EmitRow {
            payload: None,
            state: EmitState::Relayed,
            place,
            next_at_ms: Some(15),
            ..row(2, None)
        };
        let failed = EmitRow {
            state: EmitState::Failed,
            error,
            next_at_ms: Some(12),
            ..row(3, None)
        };
        let due = async |states: &[EmitState], now, limit| {
            let due = room.due(states, now, limit).await.unwrap();
            due.into_iter()
                .map(|(_, row)| row.unwrap())
                .collect::<Vec<_>>()
        };
        let all = [EmitState::Queued, EmitState::Failed, EmitState::Relayed];
        assert_eq!(due(&all, 19, 9).await, [failed.clone(), relayed.clone()]);
        assert_eq!(
            due(&all, 20, 1).await,
            [row(1, None), failed, relayed.clone()]
        );
        assert_eq!(due(&all[2..], 20, 9).await, slice::from_ref(&relayed));
        room.put_off(&id_of(3).to_string(), 12).await.unwrap();
        let found = room.of_event(&tenant, id_of(2)).await.unwrap();
        assert_eq!(found, Some(relayed.clone()));
        let caused = store
            .causes()
            .of(&tenant, Uuid::from_u128(7))
            .await
            .unwrap();
        assert_eq!(caused.len(), 2);
        let key = relayed.idempotency_key.clone();
        assert_eq!(
            room.of_key(&tenant, &key).await.unwrap(),
            Some(relayed.clone())
        );
        let globex = "globex".parse().unwrap();
        assert_eq!(room.of_key(&globex, &key).await.unwrap(), None);
        let found = async |query: EmitQuery| {
            let query = EmitQuery { limit: 9, ..query };
            let rows = room.list(&tenant, &query).await.unwrap();
            rows.iter()
                .map(|row| row.event_id.as_u128() & 0xff)
                .collect::<Vec<_>>()
        };
        let any = EmitQuery::default;
        assert_eq!(found(any()).await, [1, 2, 3, 4]);
        let newest_first = EmitQuery {
            newest_first: true,
            after: Some(id_of(4)),
            ..any()
        };
        assert_eq!(found(newest_first).await, [3, 2, 1]);
        let states = vec![EmitState::Failed, EmitState::Delivered];
        assert_eq!(found(EmitQuery { states, ..any() }).await, [3, 4]);
        let name = Some("shop.other".into());
        assert_eq!(found(EmitQuery { name, ..any() }).await, [] as [u128; 0]);
        assert_eq!(room.forget(10, "2026-11").await.unwrap(), 0);
        assert!(room.usage(&tenant, "2026-11").await.unwrap() > 0);
        assert_eq!(room.forget(11, "2026-12").await.unwrap(), 2);
        assert_eq!(room.usage(&tenant, "2026-11").await.unwrap(), 0);
        assert_eq!(found(any()).await, [1, 3], "what is not on the bus stays");
    })
    .await;
}

#[tokio::test]
async fn an_emit_that_is_not_on_the_bus_keeps_its_payload_whatever_is_noted_of_it() {
    on_each_database(async |store| {
        let (room, tenant) = (store.emits(), "acme".parse().unwrap());
        let wanted = [admission(row(1, None), None)];
        room.admit(&wanted, &[]).await.unwrap();
        let noted = async |state| {
            let notes = [becomes(1, state, Some(30))];
            room.admit(&[], &notes).await.unwrap();
            let found = room.of_event(&tenant, id_of(1)).await.unwrap().unwrap();
            (found.state, found.payload)
        };
        for state in [EmitState::Queued, EmitState::Failed, EmitState::Queued] {
            assert_eq!(noted(state).await, (state, Some("{}".into())));
        }
        let on_the_bus = (EmitState::Relayed, None);
        assert_eq!(noted(EmitState::Relayed).await, on_the_bus);
        assert_eq!(noted(EmitState::Queued).await, on_the_bus);
    })
    .await;
}

#[tokio::test]
async fn a_damaged_count_is_made_anew_from_the_emits_of_its_month() {
    // 2026-10-31T23:59:59.999Z, 2026-11-01T00:00:00Z, 2026-11-30T23:59:59.999Z, 2026-12-01T00:00:00Z.
    let times: [i64; 4] = [
        1_793_491_199_999,
        1_793_491_200_000,
        1_796_083_199_999,
        1_796_083_200_000,
    ];
    on_each_database(async |store| {
        let (room, tenant) = (store.emits(), "acme".parse().unwrap());
        let at = |number: u128, at_ms: i64| {
            let event_id = Uuid::from_u128(rows::first_at(at_ms).as_u128() | number);
            EmitRow {
                event_id,
                idempotency_key: event_id.to_string(),
                created_at_ms: at_ms,
                ..row(1, None)
            }
        };
        let earlier = times.map(|at_ms| admission(at(1, at_ms), None));
        room.admit(&earlier, &[]).await.unwrap();
        let damage = "UPDATE custom_event_usage SET emits = 9 WHERE tenant = 'acme'";
        writing_on_either!(&store.connections, "damage a row", connection => {
            sqlx::query(damage).execute(connection).await.map(drop)
        })
        .unwrap();
        assert_eq!(room.usage(&tenant, "2026-11").await.unwrap(), 2);
        let wanted = [
            admission(at(2, times[1]), Some(3)),
            admission(at(3, times[1]), Some(3)),
        ];
        let admitted = room.admit(&wanted, &[]).await.unwrap();
        assert_eq!(admitted, [Admitted::New, Admitted::OverLimit]);
        let mended = on_either!(&store.connections, "read a row", connection => {
            let rows = sqlx::query(UsageRow::ALL).fetch_all(connection).await;
            rows.map(|rows| rows.iter().map(UsageRow::from_row).collect::<Result<Vec<_>, _>>())
        });
        let mended = mended.unwrap().unwrap();
        assert_eq!((mended.len(), mended[0].emits), (1, 3));
    })
    .await;
}

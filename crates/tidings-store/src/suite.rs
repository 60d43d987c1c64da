//! What every method of the store is tested on: SQLite in memory, and a schema of its own in PostgreSQL.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Pool, Sqlite};
use uuid::Uuid;

use crate::pool::{Connections, OfSqlite};
use crate::receipts::{ReceiptKey, Receipts, Reservation};
use crate::{ApiKeyRow, OutboxRow, Store};

/// A key of the tenant `acme`.
pub(crate) fn key() -> ApiKeyRow {
    ApiKeyRow {
        id: Uuid::from_u128(77),
        tenant: "acme".parse().unwrap(),
        name: "ci".into(),
        module: None,
        scopes: vec!["events:read".into()],
        hash: [7; 32],
        created_at_ms: 1,
        expires_at_ms: None,
        revoked_at_ms: None,
    }
}

/// Runs a test on a new store of each kind.
pub(crate) async fn on_each_database(test: impl AsyncFn(Store)) {
    test(Store::in_memory().await.unwrap()).await;
    let store = on_postgres().await;
    test(store.clone()).await;
    store.close().await;
}

/// The oldest events that wait for the bus.
pub(crate) async fn waiting(store: &Store, limit: u32) -> Vec<OutboxRow> {
    let rows = store.outbox().waiting(0, limit).await.unwrap();
    rows.into_iter().map(|(_, row)| row.unwrap()).collect()
}

/// The connections of a store that was opened as a file, or in memory.
pub(crate) fn of_sqlite(store: &Store) -> &OfSqlite {
    match &store.connections {
        Connections::Sqlite(sqlite) => sqlite,
        Connections::Postgres(_) => panic!("opened as a file"),
    }
}

/// Those of them to read on.
pub(crate) fn sqlite(store: &Store) -> &Pool<Sqlite> {
    &of_sqlite(store).pool
}

/// A new store on PostgreSQL.
pub(crate) async fn on_postgres() -> Store {
    Store::connect(&new_schema().await).await.unwrap()
}

/// Where a store of its own can be. The server is the test run's and ends with it.
pub(crate) async fn new_schema() -> String {
    let url = std::env::var("TIDINGS_TEST_POSTGRES").unwrap_or_else(|_| {
        panic!(
            "TIDINGS_TEST_POSTGRES is not set: run `scripts/test`, which starts the servers that \
             tests need"
        )
    });
    let schema = format!("suite_{}", Uuid::now_v7().simple());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    connection.execute(create).await.unwrap();
    connection.close().await.unwrap();
    format!("{url}?options[search_path]={schema}")
}

#[tokio::test]
async fn expired_idempotency_keys_are_deleted_and_others_stay() {
    on_each_database(async |store| expired_ones_go(&store.receipts()).await).await;
}

async fn expired_ones_go(receipts: &Receipts) {
    let keys: Vec<ReceiptKey> = (0..7_000)
        .map(|number| ReceiptKey {
            key: format!("k-{number}"),
            tenant: "acme".parse().unwrap(),
            principal: "crm".into(),
        })
        .collect();
    let wanted: Vec<_> = keys
        .iter()
        .map(|key| Reservation {
            key,
            fingerprint: u128::MAX - 1,
            event_id: Uuid::now_v7(),
            token: Uuid::now_v7(),
        })
        .collect();
    let (old, new) = wanted.split_at(6_900);
    let (lease, day) = (Duration::ZERO, Duration::from_hours(24));
    receipts.claim(old, lease, Duration::ZERO).await.unwrap();
    receipts.claim(new, lease, day).await.unwrap();
    assert_eq!(receipts.sweep().await.unwrap(), 5_000);
    assert_eq!(receipts.sweep().await.unwrap(), 1_900);
    assert_eq!(receipts.sweep().await.unwrap(), 0);
}

mod postgres {
    use super::*;

    #[tokio::test]
    async fn replicas_that_start_together_migrate_once() {
        let url = new_schema().await;
        let opening = (0..6).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Store::connect(&url).await })
        });
        for opened in opening.collect::<Vec<_>>() {
            let store = opened.await.unwrap().unwrap();
            store.health().await.unwrap();
            assert_eq!(store.manifests().list().await.unwrap().rows, []);
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_without_its_password() {
        let refused = Store::connect("postgres://me:s3cret@127.0.0.1:1/none")
            .await
            .unwrap_err();
        let text = format!("{refused} {refused:?}");
        assert!(
            text.contains("PostgreSQL") && !text.contains("s3cret"),
            "{text}"
        );
    }
}

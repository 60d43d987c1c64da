//! The file as a whole: opened, copied, checked, migrated.

use std::os::unix::fs::FileExt as _;
use std::task::Poll;

use sqlx::Row;

use super::*;
use crate::suite::{of_sqlite, sqlite};

async fn with_one_manifest(store: &Store) {
    store
        .manifests()
        .put(&"crm".parse().unwrap(), "1.2.0", "{}", 7, &[])
        .await
        .unwrap();
}

async fn holds_that_manifest(store: &Store) -> bool {
    store
        .manifests()
        .get(&"crm".parse().unwrap())
        .await
        .unwrap()
        .is_some()
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    store.close().await;
    assert!(store.health().await.is_err());
    let again = Store::open(&path).await.unwrap();
    assert!(holds_that_manifest(&again).await);
    again.health().await.unwrap();
}

#[tokio::test]
async fn the_file_is_opened_with_every_commit_synced() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store.db")).await.unwrap();
    let mut writer = of_sqlite(&store).acquire_to_write().await.unwrap();
    for (pragma, wanted) in [("PRAGMA synchronous", 2_i64), ("PRAGMA foreign_keys", 1)] {
        let set: i64 = sqlx::query_scalar(pragma)
            .fetch_one(&mut *writer)
            .await
            .unwrap();
        assert_eq!(set, wanted, "{pragma}");
    }
    let mode = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut *writer)
        .await
        .unwrap();
    assert_eq!(mode.get::<String, _>(0), "wal");
}

#[tokio::test]
async fn a_commit_that_sqlite_has_undone_leaves_no_transaction_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    let of_sqlite = of_sqlite(&store);
    // As where the disk is full, which is found at the commit.
    let mut writer = of_sqlite.acquire_to_write().await.unwrap();
    writer
        .lock_handle()
        .await
        .unwrap()
        .set_commit_hook(|| false);
    drop(writer);
    let module = "sales".parse().unwrap();
    let written = store.manifests().put(&module, "1.0.0", "{}", 7, &[]).await;
    assert!(written.is_err());
    let mut writer = of_sqlite.acquire_to_write().await.unwrap();
    writer.lock_handle().await.unwrap().remove_commit_hook();
    drop(writer);
    // What is rolled back on such a connection would stay open, and swallow what is committed after it.
    let unknown = "unknown".parse().unwrap();
    assert!(!store.manifests().delete(&unknown, &[]).await.unwrap());
    for _ in 0..2 {
        with_one_manifest(&store).await;
        // Another process sees what was answered, and may write.
        let mut other = reading_and_writing(&path).await;
        let seen: i64 =
            sqlx::query_scalar("SELECT count(*) FROM manifests WHERE module_id = 'crm'")
                .fetch_one(&mut other)
                .await
                .unwrap();
        assert_eq!(seen, 1);
        let removed = "DELETE FROM manifests WHERE module_id = 'crm'";
        other.execute(removed).await.unwrap();
    }
}

/// A connection of another process, which does not wait for anybody's lock.
async fn reading_and_writing(path: &Path) -> sqlx::SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    let options = options.busy_timeout(Duration::ZERO);
    sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_backup_opens_as_a_store_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    let target = folder.path().join("it's a copy.db");
    Store::copy(&path, &target).await.unwrap();
    assert!(holds_that_manifest(&Store::open(&target).await.unwrap()).await);

    let refused = Store::copy(&path, &target).await.unwrap_err();
    assert!(refused.to_string().contains("exists"), "{refused}");
    assert!(holds_that_manifest(&Store::open(&target).await.unwrap()).await);
}

#[tokio::test]
async fn a_copy_leaves_a_store_of_an_older_version_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (
        folder.path().join("store.db"),
        folder.path().join("copy.db"),
    );
    Store::open(&path).await.unwrap().close().await;
    let file = format!("sqlite:{}", path.display());
    let mut older = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let forget =
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    older.execute(forget).await.unwrap();
    let before = Store::verify(&path).await.unwrap();
    Store::copy(&path, &target).await.unwrap();
    for file in [&path, &target] {
        let count = "SELECT count(*) FROM _sqlx_migrations";
        let pool = reading(file).await.unwrap();
        let done: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap();
        assert_eq!(
            usize::try_from(done).unwrap() + 1,
            SQLITE_MIGRATIONS.iter().count()
        );
        assert_eq!(Store::verify(file).await.unwrap(), before);
    }
}

#[tokio::test]
async fn rows_and_indexes_that_a_migration_moves_are_what_they_were() {
    const TABLES: [&str; 4] = [
        "subscriptions",
        "delivery_attempts",
        "dead_letter_event",
        "custom_event_emits",
    ];
    let mut file = sqlx::SqliteConnection::connect("sqlite::memory:")
        .await
        .unwrap();
    let texts = async |file: &mut sqlx::SqliteConnection, query: String| -> Vec<String> {
        let query = sqlx::AssertSqlSafe(query);
        sqlx::query_scalar(query).fetch_all(file).await.unwrap()
    };
    // What they are of may be more than it was.
    let indexes = "SELECT tbl_name || ' ' || name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
    SQLITE_MIGRATIONS.run_to(21, &mut file).await.unwrap();
    let indexes_before = texts(&mut file, indexes.to_owned()).await;
    let mut rows = Vec::new();
    for table in TABLES {
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns = texts(&mut file, columns).await;
        let kinds = format!("SELECT type FROM pragma_table_info('{table}')");
        let kinds = texts(&mut file, kinds).await;
        // Each value another one, so that no two columns can change places.
        for row in [3, 1, 2] {
            let values = kinds.iter().enumerate().map(|(column, kind)| {
                let value = row * 100 + column;
                match &**kind {
                    "TEXT" => format!("'{value}'"),
                    _ => value.to_string(),
                }
            });
            let values: Vec<_> = values.collect();
            let insert = format!("INSERT INTO {table} VALUES ({})", values.join(", "));
            let insert = sqlx::AssertSqlSafe(insert);
            file.execute(insert).await.unwrap();
        }
        let quoted: Vec<_> = columns.iter().map(|it| format!("quote({it})")).collect();
        let all = format!("SELECT {} FROM {table} ORDER BY 1", quoted.join(" || "));
        let before = texts(&mut file, all.clone()).await;
        assert_eq!(before.len(), 3);
        rows.push((all, before));
    }
    SQLITE_MIGRATIONS.run_to(22, &mut file).await.unwrap();
    for (all, before) in rows {
        assert_eq!(texts(&mut file, all).await, before);
    }
    assert_eq!(texts(&mut file, indexes.to_owned()).await, indexes_before);
}

#[tokio::test]
async fn a_large_file_is_looked_at_after_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    store.close().await;
    let file = format!("sqlite:{}", path.display());
    let mut raw = sqlx::SqliteConnection::connect(&file).await.unwrap();
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'attempts_of_event'";
    let root: u64 = sqlx::query_scalar(root).fetch_one(&mut raw).await.unwrap();
    let size: u64 = sqlx::query_scalar("PRAGMA page_size")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    raw.close().await.unwrap();
    // The page of an index that nobody has asked for yet is no page any more.
    let written = std::fs::File::options().write(true).open(&path).unwrap();
    written.write_all_at(&[0xff], (root - 1) * size).unwrap();

    let refused = Store::open(&path).await.unwrap_err();
    assert!(matches!(refused, StoreError::Broken { .. }), "{refused}");
    let store = Store::open_checking(&path, 0).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match store.health().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    let found = waited.await.unwrap();
    assert!(matches!(found, StoreError::Broken { .. }), "{found}");
    assert!(holds_that_manifest(&store).await, "what is whole is read");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let text = "not a database, but long enough to be taken for one\n".repeat(40);
    std::fs::write(&path, &text).unwrap();
    assert!(Store::open(&path).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn rows_from_before_seals_are_sealed_once_and_later_ones_must_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    for sql in [
        "UPDATE manifests SET crc = NULL",
        "INSERT INTO unsealed VALUES (1)",
    ] {
        sqlx::query(sql).execute(sqlite(&store)).await.unwrap();
    }
    let crm = "crm".parse().unwrap();
    assert!(store.manifests().get(&crm).await.is_err());
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert!(holds_that_manifest(&store).await);
    sqlx::query("UPDATE manifests SET crc = NULL")
        .execute(sqlite(&store))
        .await
        .unwrap();
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert!(store.manifests().get(&crm).await.is_err());
}

#[tokio::test]
async fn a_changed_field_is_reported_by_table_and_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    assert_eq!(Store::verify(&path).await.unwrap(), Vec::<String>::new());
    for sql in [
        "UPDATE manifests SET document = '[]'",
        "UPDATE manifests SET document = '{}', updated_at_ms = 8",
    ] {
        sqlx::query(sql).execute(sqlite(&store)).await.unwrap();
        let crm = "crm".parse().unwrap();
        let error = store.manifests().get(&crm).await.unwrap_err().to_string();
        assert!(error.contains("manifests: row crm"), "{error}");
        assert_eq!(Store::verify(&path).await.unwrap(), [error]);
    }
}

#[tokio::test]
async fn a_damaged_document_hides_no_other() {
    let store = Store::in_memory().await.unwrap();
    for name in ["crm", "shop"] {
        let row = CatalogRow {
            name: name.parse().unwrap(),
            document: "{}".into(),
            enforce: true,
            version: 1,
            changed_at_ms: 1,
        };
        assert!(store.catalogs().put(&row, &[]).await.unwrap());
        let manifests = store.manifests();
        let module = name.parse().unwrap();
        manifests.put(&module, "1.0.0", "{}", 1, &[]).await.unwrap();
    }
    let pool = sqlite(&store);
    for table in [
        "catalogs SET document = '{ }' WHERE name",
        "manifests SET document = '{ }' WHERE module_id",
    ] {
        let damage = sqlx::AssertSqlSafe(format!("UPDATE {table} = 'crm'"));
        pool.execute(damage).await.unwrap();
    }
    let found = store.catalogs().list().await.unwrap();
    assert_eq!(found.rows[0].name.as_str(), "shop");
    assert_eq!((found.rows.len(), found.damaged[0].row()), (1, Some("crm")));
    let found = store.manifests().list().await.unwrap();
    assert_eq!(found.rows[0].module_id.as_str(), "shop");
    assert_eq!((found.rows.len(), found.damaged[0].row()), (1, Some("crm")));
}

#[tokio::test]
async fn a_file_is_read_where_nothing_can_be_made_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    with_one_manifest(&store).await;
    store.close().await;
    // What readers share cannot be made where this stands.
    let shared = folder.path().join("store.db-shm");
    std::os::unix::fs::symlink("nowhere", shared).unwrap();
    assert!(Store::verify(&path).await.unwrap().is_empty());
    let copy = folder.path().join("copy.db");
    Store::copy(&path, &copy).await.unwrap();
    assert!(holds_that_manifest(&Store::open(&copy).await.unwrap()).await);

    std::fs::write(folder.path().join("store.db-wal"), "frames").unwrap();
    let refused = Store::verify(&path).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unshared(_)), "{refused}");
    assert!(refused.to_string().contains("copy the folder"), "{refused}");
}

#[tokio::test]
async fn writers_that_wait_leave_readers_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("store.db")).await.unwrap();
    let mut writer = of_sqlite(&store).acquire_to_write().await.unwrap();
    writer.execute("BEGIN IMMEDIATE").await.unwrap();
    let waiting = (0..2 * SQLITE_CONNECTIONS).map(|_| with_one_manifest(&store));
    let waiting = futures_util::future::join_all(waiting);
    tokio::pin!(waiting);
    let polled = std::future::poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context)));
    assert!(polled.await.is_pending());
    assert!(!holds_that_manifest(&store).await);
    writer.execute("COMMIT").await.unwrap();
    drop(writer);
    waiting.await;
    assert!(holds_that_manifest(&store).await);
}

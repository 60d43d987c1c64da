//! Every home keeps the contract, on real servers that `scripts/test` starts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidings_bus::{Once, Receipt};
use tidings_event::json::Fingerprint;
use tidings_receipts::{
    Claim, Hold, InMemory, InStore, InValkey, Receipts, ReceiptsError, Terms, Wanted, conformance,
};
use tidings_store::Store;
use uuid::Uuid;

fn server(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `scripts/test`, which starts the servers that tests need")
    })
}

fn valkey(terms: Terms) -> InValkey {
    InValkey::new(&server("TIDINGS_TEST_VALKEY"), terms).unwrap()
}

async fn postgres(terms: Terms) -> InStore {
    let store = Store::connect(&server("TIDINGS_TEST_POSTGRES"))
        .await
        .unwrap();
    InStore::new(store.receipts(), terms)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    conformance::suite(async |terms| Arc::new(InMemory::new(terms)) as Arc<dyn Receipts>).await;
    let receipts = InMemory::new(Terms::default());
    conformance::flushed(&receipts, async || receipts.flush()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_keeps_the_contract() {
    conformance::suite(async |terms| Arc::new(valkey(terms)) as Arc<dyn Receipts>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_the_contract() {
    conformance::suite(async |terms| Arc::new(postgres(terms).await) as Arc<dyn Receipts>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let open = async |terms| {
        let store = Store::open(&file).await.unwrap();
        (InStore::new(store.receipts(), terms), store)
    };
    conformance::suite(async |terms| Arc::new(open(terms).await.0) as Arc<dyn Receipts>).await;
    let short = Terms {
        lease: Duration::from_millis(500),
        ..Terms::default()
    };
    let (receipts, store) = open(short).await;
    let (settled, left) = (wanted(), wanted());
    let held = fresh(&receipts, &settled).await;
    let done = vec![(held, receipt(settled.event_id))];
    receipts.settle(done).await.unwrap();
    drop(fresh(&receipts, &left).await);
    drop(receipts);
    store.close().await;
    let (receipts, _store) = open(short).await;
    let replayed = receipts.claim(vec![settled.clone()]).await.unwrap();
    assert_eq!(replayed, [Claim::Replayed(receipt(settled.event_id))]);
    let retry = Wanted {
        event_id: Uuid::now_v7(),
        ..left.clone()
    };
    assert_eq!(fresh(&receipts, &retry).await.event_id(), left.event_id);
}

/// The largest batch, of one tenant and of a few: each key is claimed, completed, counted and known again. Where a busy
/// machine took longer than a home may, other keys are tried.
async fn takes_a_thousand_keys_at_once(receipts: &dyn Receipts) {
    for tenants in [1, 3] {
        let mut tries = 0;
        while let Err(error) = takes_a_thousand_keys_of(tenants, receipts).await {
            assert!(
                matches!(error, ReceiptsError::Unavailable { .. }),
                "{error:?}"
            );
            tries += 1;
            assert!(tries < 10, "it never does");
        }
    }
}

async fn takes_a_thousand_keys_of(
    tenants: usize,
    receipts: &dyn Receipts,
) -> Result<(), ReceiptsError> {
    let names: Vec<String> = (0..tenants)
        .map(|_| format!("t-{}", Uuid::now_v7().simple()))
        .collect();
    let all: Vec<Wanted> = (0..1_000)
        .map(|number| Wanted {
            tenant: names[number % tenants].parse().unwrap(),
            ..wanted()
        })
        .collect();
    let claims = receipts.claim(all.clone()).await?;
    let holds = claims.into_iter().zip(&all).map(|(claim, wanted)| {
        let Claim::Fresh(hold) = claim else {
            panic!("{claim:?}");
        };
        assert_eq!(hold.event_id(), wanted.event_id);
        (hold, receipt(wanted.event_id))
    });
    receipts.settle(holds.collect()).await?;
    let mut counted = 0;
    for name in &names {
        counted += receipts.count(name.parse().unwrap()).await?;
    }
    assert_eq!(counted, 1_000);
    let again = receipts.claim(all.clone()).await?;
    let replayed = all.iter().map(|it| Claim::Replayed(receipt(it.event_id)));
    assert!(again.into_iter().eq(replayed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_and_postgres_take_the_largest_batch() {
    takes_a_thousand_keys_at_once(&valkey(Terms::default())).await;
    takes_a_thousand_keys_at_once(&postgres(Terms::default()).await).await;
}

/// A server of this test alone, which it may stop, freeze and flush.
struct Server {
    folder: TempDir,
    name: &'static str,
    url: String,
}

impl Server {
    fn start(name: &'static str, variable: &str) -> Self {
        // Whoever has the shared servers has these installed.
        server(variable);
        let folder = tempfile::tempdir().unwrap();
        let said = servers(&["start", folder.path().to_str().unwrap(), name]);
        let url = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("export {variable}=")));
        let url = url.unwrap().to_owned();
        Self { folder, name, url }
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.folder.path().join(format!("{}.pid", self.name)));
        let pid = pid.unwrap();
        // The backends of PostgreSQL are children of its process.
        let pid = pid.trim();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for pid in std::iter::once(pid).chain(children.split_whitespace()) {
            // A backend may have ended by itself meanwhile.
            let _ = Command::new("kill")
                .args(["-s", signal, pid])
                .output()
                .unwrap();
        }
    }

    fn restart(&self) {
        servers(&["restart", self.folder.path().to_str().unwrap(), self.name]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        servers(&["stop", self.folder.path().to_str().unwrap()]);
    }
}

fn servers(arguments: &[&str]) -> String {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/servers");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        tenant: "acme".parse().unwrap(),
        once: Once {
            principal: "crm".into(),
            key: Uuid::now_v7().to_string(),
            fingerprint: Fingerprint::of_bytes(b"body"),
        },
        event_id: Uuid::now_v7(),
    }
}

fn receipt(event_id: Uuid) -> Receipt {
    Receipt {
        event_id,
        topic: "crm.events".parse().unwrap(),
        partition: 0,
        offset: 1,
    }
}

async fn fresh(receipts: &dyn Receipts, wanted: &Wanted) -> Hold {
    match receipts.claim(vec![wanted.clone()]).await.unwrap().pop() {
        Some(Claim::Fresh(hold)) => hold,
        other => panic!("{other:?}"),
    }
}

/// Answers at once that the home is gone, whatever is asked. 2 s are promised; a busy machine adds to them, and what hangs
/// takes longer by far.
async fn is_gone(receipts: &dyn Receipts, held: Hold) {
    let bound = Duration::from_secs(8);
    let tenant = wanted().tenant;
    let begun = Instant::now();
    let settled = vec![(held, receipt(Uuid::now_v7()))];
    assert!(matches!(
        receipts.settle(settled).await,
        Err(ReceiptsError::Unavailable { .. })
    ));
    assert!(begun.elapsed() < bound, "{:?}", begun.elapsed());
    for _ in 0..2 {
        let begun = Instant::now();
        let claims = (0..40).map(|_| receipts.claim(vec![wanted()]));
        for claimed in futures_util::future::join_all(claims).await {
            assert!(
                matches!(claimed, Err(ReceiptsError::Unavailable { .. })),
                "{claimed:?}"
            );
        }
        assert!(begun.elapsed() < bound, "{:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let (counted, healthy) = tokio::join!(receipts.count(tenant), receipts.health());
    assert!(counted.is_err() && healthy.is_err());
    assert!(begun.elapsed() < bound, "{:?}", begun.elapsed());
}

/// Works again soon (10 s are promised), and knows what was settled before.
async fn recovers(receipts: &dyn Receipts, settled: &Wanted) {
    let begun = Instant::now();
    while receipts.health().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let replayed = receipts.claim(vec![settled.clone()]).await.unwrap();
    assert_eq!(replayed, [Claim::Replayed(receipt(settled.event_id))]);
}

async fn goes_and_comes_back(server: &Server, receipts: &dyn Receipts) {
    let settled = wanted();
    let first = fresh(receipts, &settled).await;
    let done = vec![(first, receipt(settled.event_id))];
    receipts.settle(done).await.unwrap();
    // Frozen it takes connections and never answers; killed it refuses them.
    let held = fresh(receipts, &wanted()).await;
    server.signal("STOP");
    is_gone(receipts, held).await;
    server.signal("CONT");
    recovers(receipts, &settled).await;
    let held = fresh(receipts, &wanted()).await;
    server.signal("KILL");
    is_gone(receipts, held).await;
    server.restart();
    recovers(receipts, &settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_may_go_and_come_back_and_forget() {
    let server = Server::start("valkey", "TIDINGS_TEST_VALKEY");
    let receipts = InValkey::new(&server.url, Terms::default()).unwrap();
    goes_and_comes_back(&server, &receipts).await;
    conformance::flushed(&receipts, async || receipts.flush().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_go_and_come_back() {
    let server = Server::start("postgres", "TIDINGS_TEST_POSTGRES");
    let store = Store::connect(&server.url).await.unwrap();
    let receipts = InStore::new(store.receipts(), Terms::default());
    goes_and_comes_back(&server, &receipts).await;
}

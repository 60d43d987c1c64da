//! What a claim and a settle cost: CPU time and latency, in each home, singly and in batches.
//!
//! `eval "$(scripts/servers start DIR postgres valkey)"`, then `cargo run --release -p tidings-receipts --example claim`.
//! CPU time is of this process; that of the server comes on top.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_bus::{Once, Receipt};
use tidings_event::json::Fingerprint;
use tidings_receipts::{
    Claim, InMemory, InStore, InValkey, Receipts, ReceiptsError, Terms, Wanted,
};
use tidings_store::Store;
use tokio::task::JoinSet;
use uuid::Uuid;

const CALLERS: usize = 64;
const LASTS: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{:<12} {:>6} {:>12} {:>14}",
        "home", "batch", "keys/s", "CPU µs/key"
    );
    let memory = Arc::new(InMemory::new(Terms::default()));
    run("memory", memory).await?;
    let valkey = InValkey::new(&std::env::var("TIDINGS_TEST_VALKEY")?, Terms::default())?;
    run("valkey", Arc::new(valkey)).await?;
    let store = Store::connect(&std::env::var("TIDINGS_TEST_POSTGRES")?).await?;
    let rows = InStore::new(store.receipts(), Terms::default());
    run("postgres", Arc::new(rows)).await?;
    let folder = tempfile::tempdir()?;
    let store = Store::open(folder.path().join("store.db")).await?;
    let rows = InStore::new(store.receipts(), Terms::default());
    run("sqlite", Arc::new(rows)).await
}

async fn run(name: &str, receipts: Arc<dyn Receipts>) -> Result<(), Box<dyn Error>> {
    for batch in [1, 100] {
        let (begun, cpu) = (Instant::now(), cpu_time()?);
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let receipts = receipts.clone();
            callers.spawn(async move {
                let mut keys = 0_u32;
                while begun.elapsed() < LASTS {
                    keys += publish(&*receipts, batch).await?;
                }
                Ok::<u32, ReceiptsError>(keys)
            });
        }
        let mut keys = 0;
        while let Some(done) = callers.join_next().await {
            keys += done??;
        }
        let (took, cpu) = (begun.elapsed(), cpu_time()?.saturating_sub(cpu));
        let (rate, each) = (
            f64::from(keys) / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6,
        );
        println!(
            "{name:<12} {batch:>6} {rate:>12.0} {:>14.1}",
            each / f64::from(keys)
        );
    }
    Ok(())
}

async fn publish(receipts: &dyn Receipts, batch: u32) -> Result<u32, ReceiptsError> {
    let wanted = (0..batch).map(|_| Wanted {
        tenant: "acme".parse().expect("a legal tenant"),
        once: Once {
            principal: "module:crm".into(),
            key: Uuid::now_v7().to_string(),
            fingerprint: Fingerprint::of_bytes(b"body"),
        },
        event_id: Uuid::now_v7(),
    });
    let claims = receipts.claim(wanted.collect()).await?;
    let settled = claims.into_iter().filter_map(|claim| {
        let Claim::Fresh(hold) = claim else {
            return None;
        };
        let receipt = Receipt {
            event_id: hold.event_id(),
            topic: "platform.data.events".parse().expect("a legal topic"),
            partition: 3,
            offset: 1,
        };
        Some((hold, receipt))
    });
    receipts.settle(settled.collect()).await?;
    Ok(batch)
}

/// User and system time of this process, from the ticks (of 10 ms) that the kernel counts.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").ok_or("no name in stat")?.1;
    let ticks = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse::<u64>);
    Ok(Duration::from_millis(ticks.sum::<Result<u64, _>>()? * 10))
}

//! How fast the embedded bus appends: events/s and CPU time per event of 1 KB with a key.
//!
//! `cargo run --release -p tidings-bus --example append [FOLDER]`

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidings_bus::embedded::{Config, Embedded};
use tidings_bus::{Bus, Headers, Once, Record};
use tidings_event::json::Fingerprint;
use uuid::Uuid;

const RUN: Duration = Duration::from_secs(4);

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or_default()
}

fn record(number: u64, value: &Bytes) -> Record {
    let id = Uuid::now_v7();
    let mut headers = Headers::default();
    headers.push("ce_type", "demo.greeting.sent");
    headers.push("ce_id", &id.to_string());
    let fingerprint = Fingerprint(u128::from(number));
    Record {
        topic: "platform.data.events".parse().expect("legal"),
        key: format!("tenant{}", number % 100),
        tenant: format!("tenant{}", number % 100).parse().expect("legal"),
        event_id: id,
        timestamp_ms: now_ms(),
        headers,
        value: value.clone(),
        once: Some(Once {
            principal: "crm".into(),
            key: id.to_string(),
            fingerprint,
        }),
    }
}

/// CPU time of this process in clock ticks of 10 ms, as Linux tells it.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let fields = after_name.split(' ').skip(11).take(2);
    Duration::from_millis(
        fields
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum::<u64>()
            * 10,
    )
}

/// So many callers append one record at a time, so that groups have about that size.
async fn measure(bus: &Arc<Embedded>, callers: u64) {
    let value = Bytes::from(vec![b'x'; 1024]);
    let (started, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (bus, value) = (Arc::clone(bus), value.clone());
            tokio::spawn(async move {
                let mut count = 0_u64;
                while started.elapsed() < RUN {
                    let record = record(caller * 1_000_000 + count, &value);
                    bus.append(vec![record]).await.expect("the append succeeds");
                    count += 1;
                }
                count
            })
        })
        .collect();
    report("single, group", callers, tasks, started, used).await;
}

/// One caller appends batches of this size.
async fn measure_batches(bus: &Arc<Embedded>, size: u64) {
    let value = Bytes::from(vec![b'x'; 1024]);
    let (started, used, bus) = (Instant::now(), cpu(), Arc::clone(bus));
    let task = tokio::spawn(async move {
        let mut count = 0;
        while started.elapsed() < RUN {
            let batch = (count..count + size)
                .map(|number| record(number, &value))
                .collect();
            bus.append(batch).await.expect("the append succeeds");
            count += size;
        }
        count
    });
    report("batches of", size, vec![task], started, used).await;
}

async fn report(
    what: &str,
    size: u64,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
    started: Instant,
    used: Duration,
) {
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("no task panics");
    }
    let (wall, used) = (started.elapsed(), cpu().saturating_sub(used));
    let rate = u128::from(count) * 1000 / wall.as_millis().max(1);
    let each = used.as_nanos() / u128::from(count.max(1));
    println!(
        "{what} {size:>4}: {rate:>8} events/s, {}.{:01} CPU µs per event",
        each / 1000,
        each % 1000 / 100
    );
}

#[tokio::main]
async fn main() {
    let folder = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("tidings-append-{}", std::process::id()));
    let bus = Embedded::open(Config::new(&folder, Arc::new(now_ms))).expect("the bus opens");
    let bus = Arc::new(bus);
    for callers in [1, 64, 512] {
        measure(&bus, callers).await;
        measure_batches(&bus, callers).await;
    }
    drop(bus);
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}

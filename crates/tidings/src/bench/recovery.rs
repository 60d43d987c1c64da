//! `tidings bench recovery`: how long a start takes, by how much the log holds and how it ended.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::child::Child;
use super::load::{self, Load, Sends};
use super::{folder, median, rounded, token};
use crate::output::Output;

/// The events of logs when none are asked for.
const EVENTS: [u32; 4] = [0, 10_000, 100_000, 1_000_000];
/// One request of the filling.
const BATCH: usize = 1_000;
const CONNECTIONS: usize = 4;
/// What is still only in the WAL when the process is killed.
const UNMOVED_EVENTS: u32 = 20_000;
/// Between two questions whether it is ready.
const POLL: Duration = Duration::from_millis(1);
/// What an idle process has settled after.
const IDLE: Duration = Duration::from_secs(2);

const COLUMNS: &str = "\
Columns:
  events     how many events of 1 KB the log holds
  ended      how the process before ended: stopped: by SIGTERM; killed: by kill -9 right after the last
             publishes, so that they stand in the write-ahead log only
  log MB     bus.db
  WAL MB     the write-ahead log that the start reads back
  ready ms   from starting the process to the first 200 of /readyz, asked every ms; the median of the rounds
  worst ms   the slowest round
  idle MB    resident memory two seconds later, when nothing has been asked but that
  own MB     what of it is not pages of files, most of them the program's";

#[derive(clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Arguments {
    /// Events in the log; may be repeated. If not given, 0, 10 000, 100 000 and 1 000 000
    #[arg(long)]
    events: Vec<u32>,
    /// How often each folder is started
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    /// Where the temporary folder is made: choose a real disk
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let (folder, manifests) = folder(arguments.dir.as_deref())?;
    let asked = match &arguments.events[..] {
        [] => &EVENTS[..],
        asked => asked,
    };
    let mut rows = Vec::new();
    for events in asked {
        let data = folder.path().join("data");
        let server = Child::gateway(&data, &manifests, None).await?;
        fill(&server, &data, events.saturating_sub(UNMOVED_EVENTS)).await?;
        server.terminate()?;
        let bench = Bench {
            data: &data,
            manifests: &manifests,
            rounds: arguments.rounds.get(),
        };
        // A stop moves the WAL into the file, so the log is as large in both rows.
        let server = Child::gateway(&data, &manifests, None).await?;
        fill(&server, &data, (*events).min(UNMOVED_EVENTS)).await?;
        drop(server);
        let killed = bench.measure(*events, "killed").await?;
        Child::gateway(&data, &manifests, None).await?.terminate()?;
        rows.extend([bench.measure(*events, "stopped").await?, killed]);
        std::fs::remove_dir_all(&data)?;
    }
    let shown = [
        ("events", "events"),
        ("ended", "ended"),
        ("log MB", "logMb"),
        ("WAL MB", "walMb"),
        ("ready ms", "readyMs"),
        ("worst ms", "worstMs"),
        ("idle MB", "idleMb"),
        ("own MB", "ownMb"),
    ];
    output.list(&rows, &shown)
}

async fn fill(server: &Child, data: &Path, events: u32) -> Result<()> {
    let load = Load {
        sends: Sends::events(BATCH),
        connections: CONNECTIONS,
        token: token(data)?,
        rate: None,
    };
    load.send(server, events as usize / BATCH).await
}

/// A filled folder that is started over and over.
struct Bench<'a> {
    data: &'a Path,
    manifests: &'a Path,
    rounds: u32,
}

impl Bench<'_> {
    async fn measure(&self, events: u32, ended: &str) -> Result<Value> {
        let size = |name: &str| {
            let file = std::fs::metadata(self.data.join(name));
            rounded(load::megabytes(file.map_or(0, |file| file.len())), 1)
        };
        let (log, wal) = (size("bus.db"), size("bus.db-wal"));
        let (mut ready, mut idle, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            // What a start leaves behind is another folder, so each gets a copy.
            let copy = self.data.with_extension("copy");
            copy_folder(self.data, &copy)?;
            let address = free_address()?;
            let begun = Instant::now();
            let mut server = Child::gateway_at(&copy, self.manifests, address)?;
            while !load::is_ready(address).await {
                server.must_run()?;
                tokio::time::sleep(POLL).await;
            }
            ready.push(begun.elapsed().as_secs_f64() * 1_000.0);
            tokio::time::sleep(IDLE).await;
            let memory = server.memory()?;
            idle.push(load::megabytes(memory.resident_bytes));
            own.push(load::megabytes(memory.own_bytes));
            drop(server);
            std::fs::remove_dir_all(&copy)?;
        }
        let worst = ready.iter().copied().fold(0.0, f64::max);
        Ok(json!({
            "events": events,
            "ended": ended,
            "logMb": log,
            "walMb": wal,
            "readyMs": rounded(median(ready), 0),
            "worstMs": rounded(worst, 0),
            "idleMb": rounded(median(idle), 1),
            "ownMb": rounded(median(own), 1),
        }))
    }
}

/// A port that was free a moment ago.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        std::fs::copy(entry.path(), &copy)?;
        // Not written back while a start is timed.
        std::fs::File::open(copy)?.sync_all()?;
    }
    Ok(())
}

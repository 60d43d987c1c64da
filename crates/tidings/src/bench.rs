//! `tidings bench`: how fast publishing is on this machine, beside a bare handler of the same
//! bodies, and how fast a start is.

mod api;
mod baseline;
mod child;
mod deliver;
mod emit;
mod fairness;
mod kafka;
mod load;
mod receiver;
mod recovery;
mod sync;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings_gateway::access::{Claims, LocalKey};
use tidings_gateway::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{Format, Output, print_line};
use child::Child;
use load::{Load, Measured, Sends};

/// What the bench's module may publish.
const EVENT_TYPE: &str = "bench.event.sent";
const MANIFEST: &str = r#"{
  "id": "bench",
  "version": "1.0.0",
  "events": { "publishes": ["bench.event.sent"], "subscribes": [] }
}"#;
/// Longer than any bench.
const TOKEN_TTL: Duration = Duration::from_hours(24);
/// The connections of singles when none are asked for.
const CONNECTIONS: [usize; 2] = [512, 64];
/// The same on Kafka.
const KAFKA_CONNECTIONS: [usize; 1] = [256];
/// The size and connections of batches when none are asked for.
const BATCH: usize = 100;
const BATCH_CONNECTIONS: usize = 64;
/// What each target gets before the first round, uncounted.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Publish as fast as possible
    Publish(Arguments),
    /// Emit custom events, beside plain publishes
    Emit(emit::Arguments),
    /// Deliver to a counting receiver
    Deliver(deliver::Arguments),
    /// Start on logs of several sizes, and see when it is ready
    Recovery(recovery::Arguments),
    /// The receiver that deliveries go to
    #[command(hide = true)]
    Receiver,
    /// The bare handler that publishing is compared with
    #[command(hide = true)]
    Baseline {
        /// Produce to Kafka before answering
        #[arg(long, value_name = "HOST:PORT")]
        kafka_brokers: Option<String>,
    },
}

const COLUMNS: &str = "\
Columns:
  mode        how many events a request has, and how many connections send requests, each the next one
              when the answer to the last is there, or at its share of --rate
  server      tidings: this executable's own 'serve' in a temporary folder, answering when the event is
              durable; baseline: a bare handler that parses the same body and answers the same receipt
  requests/s  answered requests by the time of all rounds
  events/s    the same, times the events of a request
  ratio       tidings' requests/s by the baseline's, round by round; the median of the rounds
  cpu µs      processor time of the server's process per request, user and system (/proc/PID/stat)
  p50, p99    how long an answer took, in ms, all rounds together
  failed      requests that were not answered with 200 or 201

On Kafka the bare handler produces what it parsed, with the bus's own settings, and answers when it is
acknowledged. With --kafka-libs, batches have a third row: ProducerPerformance, which Kafka brings along,
with records of 1 KB; its ratio is tidings' events/s by its.

The two servers are loaded by turns, never at the same time, and the order changes from round to round.
The load is made on the same machine and takes its share of it. Every event is 1 KB and has an idempotency
key of its own. The line below the table is the disk alone: 4 KB appended and fdatasync, one after the
other, in the same folder.";

#[derive(clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Arguments {
    /// Keep-alive HTTP/1.1 connections; if not given, 512 and 64 are measured
    #[arg(long)]
    connections: Option<NonZeroUsize>,
    /// Seconds that each server is loaded in a round
    #[arg(long, default_value = "3")]
    seconds: NonZeroU32,
    /// Events in a request; if not given, single events and batches of 100 are measured
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: Option<u16>,
    /// So many requests in a second instead of as many as are answered: how long answers take below the limit
    #[arg(long, value_name = "REQUESTS")]
    rate: Option<NonZeroU32>,
    /// How often both servers are loaded
    #[arg(long, default_value = "3")]
    rounds: NonZeroU32,
    /// Where the temporary folder is made: choose a real disk
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    kafka: kafka::Arguments,
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    if let Command::Baseline { kafka_brokers } = command {
        return baseline::run(kafka_brokers.as_deref());
    }
    if let Command::Receiver = command {
        return receiver::run();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let bench = async {
            match command {
                Command::Publish(arguments) => publish(&arguments, output).await,
                Command::Emit(arguments) => emit::run(&arguments, output).await,
                Command::Deliver(arguments) => deliver::run(&arguments, output).await,
                Command::Recovery(arguments) => recovery::run(&arguments, output).await,
                Command::Baseline { .. } | Command::Receiver => Ok(()),
            }
        };
        // Interrupted or not, the children and the folder are dropped with the future.
        tokio::select! {
            done = bench => done,
            _ = terminate.recv() => bail!("it was terminated"),
            _ = tokio::signal::ctrl_c() => bail!("it was interrupted"),
        }
    })
}

/// One row's pair of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    batch: usize,
    connections: usize,
}

fn modes(arguments: &Arguments) -> Vec<Mode> {
    let batch = arguments.batch.map(usize::from);
    let connections = arguments.connections.map(NonZeroUsize::get);
    let usual: &[usize] = if arguments.kafka.chosen().is_some() {
        &KAFKA_CONNECTIONS
    } else {
        &CONNECTIONS
    };
    let singles = usual.iter().map(|&connections| Mode {
        batch: 1,
        connections,
    });
    match (batch, connections) {
        (Some(batch), Some(connections)) => vec![Mode { batch, connections }],
        (Some(1), None) => singles.collect(),
        (Some(batch), None) => vec![Mode {
            batch,
            connections: BATCH_CONNECTIONS,
        }],
        (None, Some(connections)) => [1, BATCH].map(|batch| Mode { batch, connections }).into(),
        (None, None) => {
            let batches = Mode {
                batch: BATCH,
                connections: BATCH_CONNECTIONS,
            };
            singles.chain([batches]).collect()
        }
    }
}

async fn publish(arguments: &Arguments, output: Output) -> Result<()> {
    let (folder, manifests) = folder(arguments.dir.as_deref())?;
    let disk = sync::measure(folder.path()).context("the disk could not be measured")?;
    let data = folder.path().join("data");
    let kafka = arguments.kafka.chosen();
    let servers = [
        Child::gateway(&data, &manifests, kafka.as_ref()).await?,
        Child::baseline(kafka.as_ref()).await?,
    ];
    let token = token(&data)?;

    let duration = Duration::from_secs(arguments.seconds.get().into());
    let mut rows = Vec::new();
    for mode in modes(arguments) {
        let load = Load {
            sends: Sends::events(mode.batch),
            connections: mode.connections,
            token: token.clone(),
            rate: arguments.rate,
        };
        for server in &servers {
            load.run(server, WARM_UP).await?;
        }
        let mut rounds = [Vec::new(), Vec::new()];
        let mut own_rates = Vec::new();
        for round in 0..arguments.rounds.get() {
            let first = usize::from(round % 2 == 1);
            for which in [first, 1 - first] {
                rounds[which].push(load.run(&servers[which], duration).await?);
            }
            if let Some(kafka) = kafka.as_ref().filter(|_| mode.batch > 1) {
                own_rates.extend(kafka.own_rate().await?);
            }
        }
        let own = beside_its_own(mode, &rounds[0], &own_rates);
        rows.extend(rows_of(mode, rounds)?);
        rows.extend(own);
    }
    say(&rows, &disk, output)?;
    if let Some(kafka) = &kafka {
        kafka.say(output)?;
    }
    servers.into_iter().try_for_each(Child::stop)
}

/// A temporary folder, and the one in it with the manifest of the bench's module.
fn folder(dir: Option<&Path>) -> Result<(TempDir, PathBuf)> {
    let folder = match dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("there is no temporary folder; choose another with --dir")?;
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    std::fs::write(manifests.join("bench.manifest.json"), MANIFEST)?;
    Ok((folder, manifests))
}

fn token(data: &Path) -> Result<String> {
    token_of(data, "bench")
}

fn token_of(data: &Path, tenant: &str) -> Result<String> {
    let claims = Claims {
        subject: "bench".to_owned(),
        tenant: Some(tenant.parse()?),
        module: Some("bench".parse()?),
        ..Claims::default()
    };
    Ok(LocalKey::load(data)?.mint(&claims, TOKEN_TTL, Clock::system().now_ms()))
}

fn rows_of(mode: Mode, rounds: [Vec<Measured>; 2]) -> Result<[Value; 2]> {
    let ratios = rounds[0].iter().zip(&rounds[1]);
    let ratio = median(
        ratios
            .map(|(ours, bare)| ours.rate() / bare.rate())
            .collect(),
    );
    let [ours, bare] = rounds.map(Measured::of_all);
    let (ours, bare) = (ours?, bare?);
    let size = if mode.batch == 1 {
        "singles".to_owned()
    } else {
        format!("batches of {}", mode.batch)
    };
    let row = |server: &str, measured: &Measured, ratio: f64| {
        json!({
            "mode": format!("{size}, {} connections", mode.connections),
            "server": server,
            "requestsPerSecond": rounded(measured.rate(), 0),
            "eventsPerSecond": rounded(measured.rate() * as_float(mode.batch as u64), 0),
            "ratio": rounded(ratio, 3),
            "cpuMicrosPerRequest": rounded(measured.cpu_micros_per_request(), 1),
            "p50Ms": rounded(measured.latency_ms(0.5), 2),
            "p99Ms": rounded(measured.latency_ms(0.99), 2),
            "failed": measured.failed,
        })
    };
    Ok([row("tidings", &ours, ratio), row("baseline", &bare, 1.0)])
}

/// Kafka's own producer, in events/s; its ratio is ours to it.
fn beside_its_own(mode: Mode, ours: &[Measured], own_rates: &[f64]) -> Option<Value> {
    let ratios = ours.iter().zip(own_rates);
    let events = as_float(mode.batch as u64);
    let ratios: Vec<f64> = ratios
        .map(|(ours, own)| ours.rate() * events / own)
        .collect();
    (!ratios.is_empty()).then(|| {
        json!({
            "mode": format!("batches of {}, {} connections", mode.batch, mode.connections),
            "server": "kafka's own",
            "eventsPerSecond": rounded(median(own_rates.to_vec()), 0),
            "ratio": rounded(median(ratios), 3),
        })
    })
}

fn say(rows: &[Value], disk: &sync::Disk, output: Output) -> Result<()> {
    let shown = [
        ("mode", "mode"),
        ("server", "server"),
        ("requests/s", "requestsPerSecond"),
        ("events/s", "eventsPerSecond"),
        ("ratio", "ratio"),
        ("cpu µs", "cpuMicrosPerRequest"),
        ("p50 ms", "p50Ms"),
        ("p99 ms", "p99Ms"),
        ("failed", "failed"),
    ];
    output.list(rows, &shown)?;
    let (median, p99) = (rounded(disk.median_micros, 0), rounded(disk.p99_micros, 0));
    if output.format == Format::Table {
        return print_line(&format!(
            "\ndisk alone: 4 KB and fdatasync, median {median} µs, p99 {p99} µs"
        ));
    }
    output.one(&json!({ "disk": { "syncMedianMicros": median, "syncP99Micros": p99 } }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn rounded(value: f64, digits: i32) -> Value {
    let scale = 10_f64.powi(digits);
    let value = (value * scale).round() / scale;
    // A whole number is shown as one.
    if digits == 0 && value.is_finite() {
        format!("{value:.0}").parse().unwrap_or_default()
    } else {
        json!(value)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people, far below 2^53"
)]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_what_was_asked_for_or_the_usual_three() {
        let check = |batch, connections: Option<usize>, expect: &[(usize, usize)]| {
            let arguments = Arguments {
                connections: connections.map(|count| count.try_into().unwrap()),
                seconds: NonZeroU32::MIN,
                batch,
                rate: None,
                rounds: NonZeroU32::MIN,
                dir: None,
                kafka: kafka::Arguments::default(),
            };
            let modes: Vec<_> = modes(&arguments)
                .iter()
                .map(|mode| (mode.batch, mode.connections))
                .collect();
            assert_eq!(modes, expect);
        };
        check(None, None, &[(1, 512), (1, 64), (100, 64)]);
        check(Some(1), None, &[(1, 512), (1, 64)]);
        check(Some(10), None, &[(10, 64)]);
        check(None, Some(8), &[(1, 8), (100, 8)]);
        check(Some(10), Some(8), &[(10, 8)]);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "small whole numbers are exact")]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(rounded(1234.6, 0), json!(1235));
        assert_eq!(rounded(0.8765, 3), json!(0.877));
    }
}

//! `tidings bench emit`: what an emit costs beside a plain publish, and what many registrations cost.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::body::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tidings_gateway::access::{Claims, LocalKey};
use tidings_gateway::clock::Clock;
use tokio::task::JoinSet;

use super::api::Api;
use super::child::Child;
use super::load::{self, EVENT_BYTES, Load, Measured, Sends};
use super::recovery::free_address;
use super::{TOKEN_TTL, WARM_UP, folder, median, rounded, token};
use crate::output::{Output, print_line};

/// How many properties the schema has that emits are held to.
const PROPERTIES: usize = 20;
/// Events that each of the other tenants registers.
const OF_TENANT: usize = 10;
/// Versions that are registered one after the other.
const TIMED: u32 = 20;
const REGISTRATIONS: &str = "/v1/events/custom/registrations";
const DRY_RUN: &str = "/v1/events/custom/dry-run";
/// Connections that register.
const REGISTERING: usize = 32;
/// How often it is looked whether a start is ready.
const POLL: Duration = Duration::from_millis(2);

const COLUMNS: &str = "\
Columns:
  sends       publish: one event of source A; emit: one payload of the same size of a registered event, whose schema has
              20 properties, with all that is told of it
  requests/s  answered requests by the time of all rounds
  cpu µs      processor time of the server's process per request, user and system (/proc/PID/stat)
  cpu ratio   an emit's by a publish's, round by round; the median of the rounds
  p50, p99    how long an answer took, in ms, all rounds together
  failed      requests that were not answered with success

Both are sent to the same server by turns, and the order changes from round to round. Below the table: how long it took to
register and to dry-run 20 minor versions of that event, each held against those before; and, with --registrations, a start
on so many registrations of other tenants, 10 of each, before anything was asked.";

#[derive(clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Arguments {
    /// Keep-alive HTTP/1.1 connections
    #[arg(long, default_value = "64")]
    connections: NonZeroUsize,
    /// Seconds of each kind in a round
    #[arg(long, default_value = "3")]
    seconds: NonZeroU32,
    /// How often both are sent
    #[arg(long, default_value = "3")]
    rounds: NonZeroU32,
    /// How many events other tenants have registered
    #[arg(long, default_value = "0")]
    registrations: usize,
    /// Where the temporary folder is made: choose a real disk
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let (folder, manifests) = folder(arguments.dir.as_deref())?;
    let data = folder.path().join("data");
    let mut server = Child::gateway(&data, &manifests, None).await?;
    let token = token(&data)?;
    let operator = minted(
        &data,
        Claims {
            operator: true,
            ..claims()
        },
    )?;
    let mut api = Api::open(server.address, &operator).await?;
    tenant(&mut api, "bench").await?;
    let mut api = Api::open(server.address, &token).await?;
    register(&mut api, "sent", PROPERTIES).await?;
    let registering = timed(&mut api).await?;
    let mut start = None;
    if arguments.registrations > 0 {
        fill(&server, &data, &operator, arguments.registrations).await?;
        server.terminate()?;
        let address = free_address()?;
        let begun = Instant::now();
        server = Child::gateway_at(&data, &manifests, address)?;
        while !load::is_ready(address).await {
            server.must_run()?;
            tokio::time::sleep(POLL).await;
        }
        let ready = begun.elapsed().as_secs_f64() * 1_000.0;
        start = Some((ready, load::megabytes(server.memory()?.resident_bytes)));
    }
    let rows = measured(arguments, &server, &token).await?;
    let shown = [
        ("sends", "sends"),
        ("requests/s", "requestsPerSecond"),
        ("cpu µs", "cpuMicrosPerRequest"),
        ("cpu ratio", "cpuRatio"),
        ("p50 ms", "p50Ms"),
        ("p99 ms", "p99Ms"),
        ("failed", "failed"),
    ];
    output.list(&rows, &shown)?;
    print_line(&format!(
        "\nregistering a version, one after the other: {registering}"
    ))?;
    if let Some((ready, memory)) = start {
        let (ready, memory) = (rounded(ready, 0), rounded(memory, 1));
        print_line(&format!(
            "a start on {} registrations: ready after {ready} ms, with {memory} MB",
            arguments.registrations
        ))?;
    }
    server.stop()
}

async fn measured(arguments: &Arguments, server: &Child, token: &str) -> Result<Vec<Value>> {
    let duration = Duration::from_secs(arguments.seconds.get().into());
    let loads = [Sends::Event, Sends::Emit].map(|sends| Load {
        sends,
        connections: arguments.connections.get(),
        token: token.to_owned(),
        rate: None,
    });
    for load in &loads {
        load.run(server, WARM_UP).await?;
    }
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..arguments.rounds.get() {
        let first = usize::from(round % 2 == 1);
        for which in [first, 1 - first] {
            rounds[which].push(loads[which].run(server, duration).await?);
        }
    }
    let cpu = Measured::cpu_micros_per_request;
    let ratios = rounds[1].iter().zip(&rounds[0]);
    let ratio = median(
        ratios
            .map(|(emit, publish)| cpu(emit) / cpu(publish))
            .collect(),
    );
    let row = |sends: &str, measured: &Measured, ratio: f64| {
        json!({
            "sends": sends,
            "requestsPerSecond": rounded(measured.rate(), 0),
            "cpuMicrosPerRequest": rounded(cpu(measured), 1),
            "cpuRatio": rounded(ratio, 2),
            "p50Ms": rounded(measured.latency_ms(0.5), 2),
            "p99Ms": rounded(measured.latency_ms(0.99), 2),
            "failed": measured.failed,
        })
    };
    let [publishes, emits] = rounds.map(Measured::of_all);
    Ok(vec![
        row("publish", &publishes?, 1.0),
        row("emit", &emits?, ratio),
    ])
}

fn claims() -> Claims {
    Claims {
        subject: "bench".to_owned(),
        ..Claims::default()
    }
}

fn minted(data: &Path, claims: Claims) -> Result<String> {
    Ok(LocalKey::load(data)?.mint(&claims, TOKEN_TTL, Clock::system().now_ms()))
}

async fn tenant(api: &mut Api, id: &str) -> Result<()> {
    let body = json!({ "slug": id, "plan": "ENTERPRISE", "namespaces": ["bench"] });
    let path = format!("/v1/tenants/{id}");
    let body = Bytes::from(body.to_string());
    api.exchange(Method::PUT, &path, body).await.map(drop)
}

/// How long registering and asking before take, of versions that are held against one another.
async fn timed(api: &mut Api) -> Result<String> {
    let mut spent = [Vec::new(), Vec::new()];
    for minor in 1..=TIMED {
        let body = registration("sent", &format!("1.{minor}.0"), PROPERTIES);
        for (path, spent) in [DRY_RUN, REGISTRATIONS].into_iter().zip(&mut spent) {
            let begun = Instant::now();
            api.exchange(Method::POST, path, body.clone()).await?;
            spent.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    let [asked, registered] = spent.map(|spent| {
        let worst = spent.iter().copied().fold(0.0, f64::max);
        format!(
            "median {} ms, worst {} ms",
            rounded(median(spent), 1),
            rounded(worst, 1)
        )
    });
    Ok(format!("{registered}; a dry run of it: {asked}"))
}

async fn register(api: &mut Api, name: &str, properties: usize) -> Result<()> {
    let body = registration(name, "1.0.0", properties);
    api.exchange(Method::POST, REGISTRATIONS, body)
        .await
        .map(drop)
}

fn registration(name: &str, version: &str, properties: usize) -> Bytes {
    let property = |number: usize| {
        let schema = match number % 4 {
            0 => json!({ "type": "string", "maxLength": 64 }),
            1 => json!({ "type": "integer", "minimum": 0 }),
            2 => json!({ "type": "boolean" }),
            _ => json!({ "type": "string" }),
        };
        (format!("property{number}"), schema)
    };
    let named: serde_json::Map<String, Value> = (0..properties).map(property).collect();
    let body = json!({
        "namespace": "bench", "name": name, "version": version, "status": "published",
        "payloadSchema": {
            "type": "object", "properties": named, "required": ["property0"],
            "additionalProperties": false,
        },
    });
    body.to_string().into()
}

/// The body of an emit, as large as that of a publish.
pub(super) fn body() -> String {
    let property = |number: usize, note: &str| match number % 4 {
        0 => json!(format!("text {number}")),
        1 => json!(number),
        2 => json!(true),
        _ => json!(note),
    };
    let with = |note: &str| {
        let payload = (0..PROPERTIES).map(|it| (format!("property{it}"), property(it, note)));
        let payload: serde_json::Map<String, Value> = payload.collect();
        json!({ "name": "bench.sent", "payload": payload }).to_string()
    };
    let room = EVENT_BYTES.saturating_sub(with("").len()) / (PROPERTIES / 4);
    with(&"lorem ipsum ".repeat(room / 12 + 1)[..room])
}

/// Lets other tenants register so many events.
async fn fill(server: &Child, data: &Path, operator: &str, registrations: usize) -> Result<()> {
    let tenants = registrations.div_ceil(OF_TENANT);
    let mut running = JoinSet::new();
    for first in 0..REGISTERING {
        let mut operating = Api::open(server.address, operator).await?;
        let (address, data) = (server.address, data.to_owned());
        running.spawn(async move {
            for number in (first..tenants).step_by(REGISTERING) {
                let id = format!("tenant-{number}");
                tenant(&mut operating, &id).await?;
                let own = Claims {
                    tenant: Some(id.parse()?),
                    admin: true,
                    ..claims()
                };
                let mut api = Api::open(address, &minted(&data, own)?).await?;
                for event in 0..OF_TENANT.min(registrations - number * OF_TENANT) {
                    register(&mut api, &format!("event{event}"), PROPERTIES).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emit_has_a_kilobyte() {
        let body = body();
        assert!(
            (1_000..=EVENT_BYTES).contains(&body.len()),
            "{}",
            body.len()
        );
    }
}

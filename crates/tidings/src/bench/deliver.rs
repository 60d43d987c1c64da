//! `tidings bench deliver`: how fast events go out, beside a bare client that posts the same bodies.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use axum::body::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::api::Api;
use super::child::Child;
use super::fairness::{self, Fairness};
use super::load::{Load, Sends};
use super::receiver::now_micros;
use super::{EVENT_TYPE, as_float, folder, rounded, token};
use crate::output::{Output, print_line};

/// The numbers of subscriptions when none are asked for.
const SUBSCRIPTIONS: [usize; 3] = [1, 10, 1_000];
/// What is published at once.
const BATCH: usize = 1_000;
/// Events whose way is timed.
const TIMED: usize = 200;
/// Nothing here takes so long.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);
/// Connections of the bare client: what a tenant may have on their way, or what its subscriptions may.
const MOST_CONNECTIONS: usize = 256;
const OF_SUBSCRIPTION: usize = 16;

const COLUMNS: &str = "\
Columns:
  subscriptions   how many subscriptions of one tenant want every event
  who             tidings: this executable's own 'serve' in a temporary folder, signing every webhook;
                  bare client: a program that posts the same body over as many connections, and nothing else
  deliveries      webhooks answered with 204 by a counting receiver in a process of its own
  deliveries/s    by the time from the first publish to the last delivery; publishing, in batches of 1,000,
                  goes on meanwhile
  ratio           tidings' deliveries/s by the bare client's
  cpu µs          processor time of the process per delivery, user and system, publishing included

Below: from just before a single publish to its webhook's arrival, one event at a time, with one subscription.

With --fairness instead: the same way of a quiet tenant's events, alone, and beside a tenant that publishes 100 times as many,
evenly, or as many at once as --burst says; p99 ratio is the second by the first, the median of the rounds.";

#[derive(clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Arguments {
    /// Subscriptions; may be repeated. If not given, 1, 10 and 1000
    #[arg(long)]
    subscriptions: Vec<usize>,
    /// Deliveries of each row, about
    #[arg(long, default_value = "50000")]
    deliveries: usize,
    /// What a quiet tenant feels of one that is 100 times as loud, instead
    #[arg(long)]
    fairness: bool,
    /// With --fairness: the quiet tenant's events a second
    #[arg(long, default_value = "20", requires = "fairness")]
    rate: NonZeroU32,
    /// With --fairness: how many events the loud tenant publishes at once
    #[arg(long, default_value = "1", requires = "fairness", value_parser = clap::value_parser!(u32).range(1..=1000))]
    burst: u32,
    /// With --fairness: how long it is measured alone, and as long beside the other
    #[arg(long, default_value = "20", requires = "fairness")]
    seconds: NonZeroU32,
    /// With --fairness: how often both are measured
    #[arg(long, default_value = "3", requires = "fairness")]
    rounds: NonZeroU32,
    /// Where the temporary folder is made: choose a real disk
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) async fn run(arguments: &Arguments, output: Output) -> Result<()> {
    if arguments.fairness {
        let asked = Fairness {
            rate: arguments.rate.get(),
            burst: arguments.burst,
            seconds: arguments.seconds.get(),
            rounds: arguments.rounds.get(),
            dir: arguments.dir.clone(),
        };
        return fairness::run(&asked, output).await;
    }
    let (folder, manifests) = folder(arguments.dir.as_deref())?;
    let asked = match &arguments.subscriptions[..] {
        [] => &SUBSCRIPTIONS[..],
        asked => asked,
    };
    let mut rows = Vec::new();
    let mut latency = None;
    for &subscriptions in asked {
        let data = folder.path().join(format!("data-{subscriptions}"));
        let receiver = Child::receiver().await?;
        let server = Child::delivering_gateway(&data, &manifests).await?;
        let token = token(&data)?;
        let mut api = Api::open(server.address, &token).await?;
        for number in 0..subscriptions {
            subscribe(&mut api, number, &receiver).await?;
        }
        if latency.is_none() {
            latency = Some(timed(&mut api, &receiver, subscriptions).await?);
        }
        let events = arguments.deliveries.div_ceil(subscriptions);
        let requests = events.div_ceil(BATCH).max(1);
        let batch = events.div_ceil(requests);
        let ours = delivered(&server, &receiver, &token, subscriptions, requests, batch).await?;
        let body = receiver_body(&receiver).await?;
        let connections = (subscriptions * OF_SUBSCRIPTION).min(MOST_CONNECTIONS);
        let bare = posted(&receiver, &body, connections, ours.count).await?;
        rows.push(row(
            subscriptions,
            "tidings",
            &ours,
            ours.rate() / bare.rate(),
        ));
        rows.push(row(subscriptions, "bare client", &bare, 1.0));
        server.stop()?;
        receiver.stop()?;
    }
    let shown = [
        ("subscriptions", "subscriptions"),
        ("who", "who"),
        ("deliveries", "deliveries"),
        ("deliveries/s", "deliveriesPerSecond"),
        ("ratio", "ratio"),
        ("cpu µs", "cpuMicrosPerDelivery"),
    ];
    output.list(&rows, &shown)?;
    match latency {
        None => Ok(()),
        Some(latency) => print_line(&format!("\npublish to webhook: {latency}")),
    }
}

/// What came of it.
struct Measured {
    count: usize,
    took: Duration,
    cpu_micros: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        as_float(self.count as u64) / self.took.as_secs_f64()
    }
}

fn row(subscriptions: usize, who: &str, measured: &Measured, ratio: f64) -> Value {
    let cpu = as_float(measured.cpu_micros) / as_float(measured.count.max(1) as u64);
    json!({
        "subscriptions": subscriptions,
        "who": who,
        "deliveries": measured.count,
        "deliveriesPerSecond": rounded(measured.rate(), 0),
        "ratio": rounded(ratio, 3),
        "cpuMicrosPerDelivery": rounded(cpu, 1),
    })
}

/// Publishes and waits until all has arrived.
async fn delivered(
    server: &Child,
    receiver: &Child,
    token: &str,
    subscriptions: usize,
    requests: usize,
    batch: usize,
) -> Result<Measured> {
    let mut counting = Api::open(receiver.address, "").await?;
    let before = arrived(&mut counting).await?;
    let count = requests * batch * subscriptions;
    let load = Load {
        sends: Sends::events(batch),
        connections: 1,
        token: token.to_owned(),
        rate: None,
    };
    let (cpu, begun) = (server.cpu_micros()?, Instant::now());
    load.send(server, requests).await?;
    while arrived(&mut counting).await? < before + count {
        if begun.elapsed() > PATIENCE {
            bail!(
                "only {} of {count} arrived",
                arrived(&mut counting).await? - before
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(Measured {
        count,
        took: begun.elapsed(),
        cpu_micros: server.cpu_micros()? - cpu,
    })
}

/// The same number of posts by a client that does nothing else. Its processor time is this process' own, which
/// has nothing else to do meanwhile.
async fn posted(
    receiver: &Child,
    body: &Bytes,
    connections: usize,
    count: usize,
) -> Result<Measured> {
    let mut ready = Vec::with_capacity(connections);
    for _ in 0..connections {
        ready.push(Api::open(receiver.address, "").await?);
    }
    let (cpu, begun) = (super::child::own_cpu_micros()?, Instant::now());
    let mut running = JoinSet::new();
    for (index, mut connection) in ready.into_iter().enumerate() {
        let share = (count + index) / connections;
        let body = body.clone();
        running.spawn(async move {
            for _ in 0..share {
                connection
                    .exchange(Method::POST, "/hook", body.clone())
                    .await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(Measured {
        count,
        took: begun.elapsed(),
        cpu_micros: super::child::own_cpu_micros()? - cpu,
    })
}

/// The last body that the receiver got.
async fn receiver_body(receiver: &Child) -> Result<Bytes> {
    let mut api = Api::open(receiver.address, "").await?;
    api.exchange(Method::GET, "/last", Bytes::new()).await
}

/// How long single events take.
async fn timed(api: &mut Api, receiver: &Child, subscriptions: usize) -> Result<String> {
    let mut counting = Api::open(receiver.address, "").await?;
    for number in 1..=TIMED {
        let data = json!({ "at": now_micros() });
        let event = json!({ "type": EVENT_TYPE, "data": data }).to_string();
        api.exchange(Method::POST, "/v1/events/publish", event.into())
            .await?;
        while arrived(&mut counting).await? < number * subscriptions {
            tokio::task::yield_now().await;
        }
    }
    let path = "/latencies";
    let taken = counting.exchange(Method::GET, path, Bytes::new()).await?;
    let taken: Value = serde_json::from_slice(&taken)?;
    let (events, p50, p99) = (&taken["events"], &taken["p50Ms"], &taken["p99Ms"]);
    Ok(format!("{events} events, p50 {p50} ms, p99 {p99} ms"))
}

pub(super) async fn subscribe(api: &mut Api, number: usize, receiver: &Child) -> Result<()> {
    let url = format!("http://{}/hook", receiver.address);
    let body = json!({
        "name": format!("bench {number}"),
        "filter": { "types": [EVENT_TYPE] },
        "target": { "kind": "webhook", "url": url },
    });
    let body = body.to_string().into();
    api.exchange(Method::POST, "/v1/subscriptions", body)
        .await
        .map(drop)
}

pub(super) async fn arrived(receiver: &mut Api) -> Result<usize> {
    let text = receiver
        .exchange(Method::GET, "/count", Bytes::new())
        .await?;
    Ok(String::from_utf8_lossy(&text).parse()?)
}

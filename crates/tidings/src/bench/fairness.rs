//! `tidings bench deliver --fairness`: what a quiet tenant feels of a loud one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::api::Api;
use super::child::Child;
use super::deliver::{PATIENCE, arrived, subscribe};
use super::receiver::now_micros;
use super::{EVENT_TYPE, as_float, folder, median, rounded, token_of};
use crate::output::Output;

/// How much louder the loud tenant is.
const LOUDER: u32 = 100;
/// A connection of the loud tenant's publishes so often a second at most.
const PUBLISHES: u32 = 250;
/// Quiet events before any that counts: connections are made, and code is warm.
const WARM_UP: u64 = 20;

const P50: &str = "p50Ms";
const P99: &str = "p99Ms";

const SHOWN: [(&str, &str); 7] = [
    ("quiet tenant", "who"),
    ("rounds", "rounds"),
    ("events", "events"),
    ("p50 ms", P50),
    ("p99 ms", P99),
    ("p99 ratio", "ratio"),
    ("loud deliveries/s", "loudDeliveriesPerSecond"),
];

/// How both tenants publish.
pub(super) struct Fairness {
    /// The quiet tenant's events a second.
    pub(super) rate: u32,
    /// How many events the loud tenant publishes at once.
    pub(super) burst: u32,
    /// How long either part of a round takes.
    pub(super) seconds: u32,
    /// How often both parts are measured.
    pub(super) rounds: u32,
    /// Where the temporary folder is made.
    pub(super) dir: Option<PathBuf>,
}

/// Two tenants of one server, each with a receiver of its own.
struct Scene {
    server: Child,
    quiet: Child,
    loud: Child,
    quiet_token: String,
    loud_token: String,
}

pub(super) async fn run(asked: &Fairness, output: Output) -> Result<()> {
    let (folder, manifests) = folder(asked.dir.as_deref())?;
    let data = folder.path().join("data");
    let server = Child::delivering_gateway(&data, &manifests).await?;
    let scene = Scene {
        quiet: Child::receiver().await?,
        loud: Child::receiver().await?,
        quiet_token: token_of(&data, "quiet")?,
        loud_token: token_of(&data, "loud")?,
        server,
    };
    for (token, receiver) in [
        (&scene.quiet_token, &scene.quiet),
        (&scene.loud_token, &scene.loud),
    ] {
        let mut api = Api::open(scene.server.address, token).await?;
        subscribe(&mut api, 0, receiver).await?;
    }
    scene.timed(asked.rate, WARM_UP).await?;
    let events = u64::from(asked.rate) * u64::from(asked.seconds);
    let (mut alone, mut beside, mut loud_rates) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..asked.rounds {
        alone.push(scene.timed(asked.rate, events).await?);
        let (measured, loud_rate) = scene.beside_the_loud(asked, events).await?;
        beside.push(measured);
        loud_rates.push(loud_rate);
    }
    let ratios = alone.iter().zip(&beside);
    let ratios = ratios.map(|(alone, beside)| figure(beside, P99) / figure(alone, P99).max(0.001));
    let alone_row = row("alone", &alone);
    let mut beside_row = row("beside the loud one", &beside);
    beside_row["ratio"] = rounded(median(ratios.collect()), 2);
    beside_row["loudDeliveriesPerSecond"] = rounded(median(loud_rates), 0);
    output.list(&[alone_row, beside_row], &SHOWN)?;
    scene.server.stop()?;
    scene.quiet.stop()?;
    scene.loud.stop()
}

fn figure(measured: &Value, name: &str) -> f64 {
    measured[name].as_f64().unwrap_or_default()
}

/// The medians of all rounds.
fn row(who: &str, rounds: &[Value]) -> Value {
    let of = |name: &str| median(rounds.iter().map(|round| figure(round, name)).collect());
    json!({
        "who": who, "rounds": rounds.len(), "events": rounds[0]["events"],
        P50: rounded(of(P50), 2), P99: rounded(of(P99), 2),
    })
}

impl Scene {
    /// Publishes so many of the quiet tenant's at a rate; answers how long they took to arrive.
    async fn timed(&self, rate: u32, events: u64) -> Result<Value> {
        let mut api = Api::open(self.server.address, &self.quiet_token).await?;
        let mut receiver = Api::open(self.quiet.address, "").await?;
        let wanted = arrived(&mut receiver).await? + usize::try_from(events)?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..events {
            ticks.tick().await;
            let event = json!({ "type": EVENT_TYPE, "data": { "at": now_micros() } });
            let event = event.to_string().into();
            let path = "/v1/events/publish";
            api.exchange(Method::POST, path, event).await?;
        }
        let begun = Instant::now();
        while arrived(&mut receiver).await? < wanted {
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the quiet tenant's events did not arrive"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let path = "/latencies";
        let taken = receiver.exchange(Method::GET, path, Bytes::new()).await?;
        Ok(serde_json::from_slice(&taken)?)
    }

    /// The same while the loud tenant publishes; and how many a second that got delivered meanwhile.
    async fn beside_the_loud(&self, asked: &Fairness, events: u64) -> Result<(Value, f64)> {
        let mut receiver = Api::open(self.loud.address, "").await?;
        let (before, begun) = (arrived(&mut receiver).await?, Instant::now());
        let (end, ended) = watch::channel(false);
        let quiet = async {
            let measured = self.timed(asked.rate, events).await;
            // Nobody listens any more only if it has failed.
            let _ = end.send(true);
            measured
        };
        let loud = self.publish_loudly(asked.rate * LOUDER, asked.burst, ended);
        let (measured, loud) = tokio::join!(quiet, loud);
        loud?;
        let took = begun.elapsed().as_secs_f64();
        let delivered = arrived(&mut receiver).await? - before;
        Ok((measured?, as_float(delivered as u64) / took))
    }

    /// Evenly, by as many connections as that takes.
    async fn publish_loudly(
        &self,
        rate: u32,
        burst: u32,
        ended: watch::Receiver<bool>,
    ) -> Result<()> {
        let connections = rate.div_ceil(burst).div_ceil(PUBLISHES);
        let between = Duration::from_secs(1) * burst / rate;
        let event = json!({ "type": EVENT_TYPE, "data": { "note": "x".repeat(700) } });
        let (path, body) = if burst == 1 {
            ("/v1/events/publish", event)
        } else {
            let events = vec![event; usize::try_from(burst)?];
            ("/v1/events/publish/batch", json!({ "events": events }))
        };
        let body: Bytes = body.to_string().into();
        let (begin, mut publishing) = (Instant::now(), JoinSet::new());
        for number in 0..connections {
            let mut api = Api::open(self.server.address, &self.loud_token).await?;
            let (body, ended) = (body.clone(), ended.clone());
            let mut ticks =
                tokio::time::interval_at(begin + between * number, between * connections);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            publishing.spawn(async move {
                while !*ended.borrow() {
                    ticks.tick().await;
                    api.exchange(Method::POST, path, body.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = publishing.join_next().await {
            done??;
        }
        Ok(())
    }
}

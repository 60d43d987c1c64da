//! Whether brokers answer. A delivery that failed makes a probe ask them; only while the probe gets no
//! answer are appends refused at once. A single partition without a leader thus holds up nobody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::producer::{Producer as _, ThreadedProducer};

use super::login::Quiet;
use super::{Config, OpenError};
use crate::Health;

/// Between two questions of the probe while brokers are gone.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// How long the probe waits for an answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a failed delivery is told of when no other has succeeded since.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// What the clients share.
#[derive(Debug, Default)]
pub(super) struct State {
    inside: Mutex<Inside>,
    changed: Condvar,
    /// Beside the lock, since every append asks.
    down: AtomicBool,
    /// Beside the lock, since every delivery asks: whether one failed and none succeeded since.
    troubled: AtomicBool,
}

#[derive(Debug, Default)]
struct Inside {
    /// Whether the producer came to its end, and nothing was delivered since.
    broken: bool,
    failed: Option<(Instant, String)>,
    asked: bool,
    stopping: bool,
}

impl State {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no broker answers, as far as is known.
    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// A delivery failed, or a client says that brokers are gone.
    pub(super) fn failed(&self, why: &str) {
        let mut inside = self.inside();
        if inside.failed.is_none() {
            tracing::warn!(why, "Kafka does not take records");
        }
        inside.failed = Some((Instant::now(), why.to_owned()));
        inside.asked = true;
        self.troubled.store(true, Ordering::Relaxed);
        drop(inside);
        self.changed.notify_all();
    }

    /// The producer came to its end: no record is taken before another has its place.
    pub(super) fn broken(&self, why: &str) {
        self.inside().broken = true;
        self.failed(why);
    }

    /// Something else failed: the probe finds out whether brokers answer.
    pub(super) fn doubt(&self) {
        self.inside().asked = true;
        self.changed.notify_all();
    }

    /// A delivery succeeded.
    pub(super) fn succeeded(&self) {
        if self.troubled.load(Ordering::Relaxed) {
            let mut inside = self.inside();
            self.troubled.store(false, Ordering::Relaxed);
            self.down.store(false, Ordering::Relaxed);
            inside.failed = None;
            inside.broken = false;
            tracing::info!("Kafka takes records again");
        }
    }

    pub(super) fn health(&self) -> Health {
        let inside = self.inside();
        match &inside.failed {
            Some((at, why)) if self.is_down() || inside.broken || at.elapsed() < TOLD_FOR => {
                Health::Degraded(format!("Kafka does not take records: {why}"))
            }
            _ => Health::Ready,
        }
    }

    pub(super) fn stop(&self) {
        self.inside().stopping = true;
        self.changed.notify_all();
    }

    /// Starts the probe, which asks once at the beginning too.
    pub(super) fn start_probe(self: &Arc<Self>, config: &Config) -> Result<(), OpenError> {
        let client = config.client(&[]);
        let client = client.create_with_context(Quiet::new(config))?;
        self.inside().asked = true;
        let state = Arc::clone(self);
        std::thread::Builder::new()
            .name("kafka-probe".into())
            .spawn(move || state.probe(&client))?;
        Ok(())
    }

    fn probe(&self, client: &ThreadedProducer<Quiet>) {
        loop {
            let mut inside = self.inside();
            while !inside.asked && !inside.stopping {
                inside = self
                    .changed
                    .wait(inside)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if inside.stopping {
                return;
            }
            inside.asked = false;
            drop(inside);
            match client
                .client()
                .fetch_metadata(Some("tidings.probe"), PROBE_PATIENCE)
            {
                Ok(_) => {
                    if self.down.swap(false, Ordering::Relaxed) {
                        // The next outage is told of too, though nothing was published between.
                        let mut inside = self.inside();
                        if !inside.broken {
                            inside.failed = None;
                        }
                        tracing::info!("Kafka answers again");
                    }
                }
                Err(error) => {
                    self.down.store(true, Ordering::Relaxed);
                    self.failed(&error.to_string());
                    let inside = self.inside();
                    let paused =
                        self.changed
                            .wait_timeout_while(inside, PROBE_INTERVAL, |inside| !inside.stopping);
                    drop(paused);
                }
            }
        }
    }
}

//! The word to stop, which is heard from the moment that the process begins to start: a container's first process does not
//! end by a signal that it does not listen to, and a start may wait for a database, or change its tables.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// Whether the process is asked to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens for SIGTERM and SIGINT from now on. SIGHUP keeps its meaning, which `nohup` takes from it.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (word, told) = watch::channel(false);
        // It ends with the runtime.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            word.send_replace(true);
        });
        Ok(Self(told))
    }

    /// Ready when the process is asked to stop.
    pub(crate) async fn told(&mut self) {
        // Whoever has the word keeps it until it is said.
        let _said = self.0.wait_for(|told| *told).await;
    }

    /// Ready when the process is asked to stop before something has started.
    pub(crate) async fn told_before(&mut self, started: oneshot::Receiver<()>) {
        tokio::select! {
            Ok(()) = started => std::future::pending().await,
            () = self.told() => {}
        }
    }
}

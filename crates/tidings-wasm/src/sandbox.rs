//! What components run in: the engine, its clock of epochs, and what one call may use.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_event::ExtensionId;
use tidings_plugin::Publisher;
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder};

use crate::component::{Component, InvalidComponent};

/// How often it is looked whether a call's time is over.
const TICK: Duration = Duration::from_millis(20);
/// The deepest stack of a call, in bytes.
const MAX_STACK: usize = 512 * 1024;
/// The most bytes that a call hands to the host.
const MAX_HANDED_OUT: usize = 4 * 1024 * 1024;
/// The most elements of a table.
const MAX_TABLE: usize = 100_000;
/// The most instances, memories and tables of a component, which toolchains make a few of.
const MAX_PARTS: usize = 100;

/// What one call of a component may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// So many instructions, nearly.
    pub fuel: u64,
    /// So long, by the clock on the wall.
    pub time: Duration,
    /// A memory of so many bytes.
    pub memory_bytes: usize,
}

impl Default for Limits {
    /// A billion instructions, 5 s, 64 MiB.
    fn default() -> Self {
        Self {
            fuel: 1_000_000_000,
            time: Duration::from_secs(5),
            memory_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The machine cannot run components.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// The engine has no code for it, or the settings do not fit it.
    #[error("components cannot be run here: {0}")]
    Engine(String),
    /// The system has no thread left.
    #[error("the thread that ends calls in time cannot be started: {0}")]
    Thread(String),
}

/// Where components are compiled and run.
pub struct Sandbox {
    engine: Engine,
    limits: Limits,
    /// Its end is the word for the ticking thread.
    ticking: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Sandbox {
    /// With these limits for each call. One thread ticks until the sandbox and all its components are gone.
    pub fn new(limits: Limits) -> Result<Arc<Self>, SandboxError> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .consume_fuel(true)
            .epoch_interruption(true)
            .max_wasm_stack(MAX_STACK);
        let engine = Engine::new(&config);
        let engine = engine.map_err(|error| SandboxError::Engine(format!("{error:#}")))?;
        let (stop, stopped) = channel::<()>();
        let ticked = engine.clone();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                ticked.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name("component-epochs".to_owned());
        let thread = thread.spawn(tick);
        let thread = thread.map_err(|error| SandboxError::Thread(error.to_string()))?;
        Ok(Arc::new(Self {
            engine,
            limits,
            ticking: Some((stop, thread)),
        }))
    }

    /// Compiles a component and asks it what it handles. Takes seconds for a large one, and blocks.
    pub fn compile(
        self: &Arc<Self>,
        extension: ExtensionId,
        bytes: &[u8],
    ) -> Result<Component, InvalidComponent> {
        Component::new(self.clone(), extension, bytes)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A store for one call, with all that the call may use.
    pub(crate) fn store(
        &self,
        extension: &ExtensionId,
        publisher: Option<Arc<dyn Publisher>>,
    ) -> Result<Store<Guest>, wasmtime::Error> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.limits.memory_bytes)
            .table_elements(MAX_TABLE)
            .instances(MAX_PARTS)
            .tables(MAX_PARTS)
            .memories(MAX_PARTS)
            .trap_on_grow_failure(true)
            .build();
        let guest = Guest {
            extension: extension.clone(),
            lines: 0,
            publisher,
            published: 0,
            limits,
        };
        let mut store = Store::new(&self.engine, guest);
        // What comes out of it is copied here: a list may name the same bytes over and over.
        store.set_hostcall_fuel(MAX_HANDED_OUT);
        store.limiter(|guest| &mut guest.limits);
        store.set_fuel(self.limits.fuel)?;
        let ticks = self.limits.time.as_millis().div_ceil(TICK.as_millis());
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX / 2).max(1));
        Ok(store)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.ticking.take() {
            drop(stop);
            // It cannot have panicked: it does nothing but count.
            drop(thread.join());
        }
    }
}

/// What the host knows of one call.
pub(crate) struct Guest {
    pub(crate) extension: ExtensionId,
    /// How many lines it has written.
    pub(crate) lines: u32,
    /// Where it publishes; nowhere before it handles an event.
    pub(crate) publisher: Option<Arc<dyn Publisher>>,
    /// How many events it has published, or tried to.
    pub(crate) published: u32,
    limits: StoreLimits,
}

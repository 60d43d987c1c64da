#![doc = include_str!("../README.md")]

pub mod access;
pub mod api_keys;
mod audit;
mod by_id;
pub mod catalogs;
pub mod chat;
pub mod chronicle;
pub mod clock;
pub mod custom_events;
pub mod damaged;
pub mod dead_letters;
pub mod deliver;
pub mod envelope;
pub mod events;
pub mod extensions;
#[cfg(test)]
mod in_memory;
pub mod limits;
pub mod manifests;
pub mod outbox;
#[cfg(test)]
mod outbox_life;
pub mod parked;
pub mod plugins;
pub mod publish;
pub mod replays;
pub mod replicas;
pub mod rulebook;
pub mod secrets;
mod storing;
pub mod subscription;
pub mod subscriptions;
pub mod supervised;
pub mod workspaces;

use std::sync::Arc;
use std::time::Instant;

use tidings_bus::{Bus, Health};
use tidings_egress::Client;
use tidings_event::ExtensionId;
use tidings_event::event::trace_id_of;
use tidings_plugin::PlatformEventHandler;
use tidings_receipts::Receipts;
use tidings_store::{Store, StoreError};

use access::Access;
use api_keys::ApiKeys;
use catalogs::Catalogs;
use chat::Chat;
use chronicle::Chronicle;
use clock::Clock;
use custom_events::{Emits, Registry};
use dead_letters::DeadLetters;
use deliver::counted::Counted;
use deliver::late_writes::LateWrites;
use deliver::target::Targets;
use deliver::target::in_process::Handlers;
use deliver::target::topic::Topics;
use deliver::target::webhook::Webhooks;
use deliver::{Deliveries, Means, Standstills};
use events::Events;
use extensions::Extensions;
use extensions::letters::WorkspaceLetters;
use limits::Limits;
use manifests::Manifests;
use outbox::Outbox;
use parked::Parked;
use plugins::{InProcess, InvalidPlugin, Plugins};
use publish::command::Command;
use publish::refusal::Refusal;
use publish::{Explanation, Line, Published};
use replays::Replays;
use rulebook::{Route, Rulebook, Shelf};
use secrets::Vault;
use subscriptions::Subscriptions;
use supervised::Restarts;
use workspaces::Workspaces;

/// The house: one handle for each room, and the line.
pub struct Gateway {
    /// Who is calling.
    pub access: Arc<Access>,
    /// Reading back.
    pub events: Events,
    /// What modules declare.
    pub manifests: Arc<Manifests>,
    /// Which topics there are.
    pub catalogs: Arc<Catalogs>,
    /// Tenants, their workspaces and members.
    pub workspaces: Arc<Workspaces>,
    /// What workspaces have installed.
    pub extensions: Arc<Extensions>,
    /// What was posted to the channels of workspaces.
    pub chat: Chat,
    /// The events that tenants define.
    pub custom_events: Arc<Registry>,
    /// Emits of them; [`custom_events::relay`] looks after them and wants to be run.
    pub emits: Arc<Emits>,
    /// Keys for servers.
    pub api_keys: ApiKeys,
    /// Who wants which events.
    pub subscriptions: Arc<Subscriptions>,
    /// Deliveries that were given up.
    pub dead_letters: DeadLetters,
    /// Keys that wait for somebody, and what receivers have missed.
    pub parked: Parked,
    /// What is sent again.
    pub replays: Replays,
    /// The installation's own events on their way to the bus; its relay wants to be run.
    pub outbox: Arc<Outbox>,
    /// Time and ids.
    pub clock: Clock,
    /// What one tenant may ask for at once.
    pub limits: Limits,
    /// How often a loop beside the dispatchers had to be begun again.
    pub restarts: Arc<Restarts>,
    /// Idempotency keys beside a log that does not keep them.
    receipts: Option<Arc<dyn Receipts>>,
    line: Arc<Line>,
    bus: Arc<dyn Bus>,
    store: Store,
    webhooks: Webhooks,
    delivery: deliver::Config,
    standstills: Standstills,
}

/// What a gateway is put together from.
pub struct Parts {
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// Who keeps the idempotency keys, for a bus that does not.
    pub receipts: Option<Arc<dyn Receipts>>,
    /// How many partitions new topics of the bus get.
    pub partitions: u32,
    /// Everything that is not the log.
    pub store: Store,
    /// Who is calling.
    pub access: Arc<Access>,
    /// Where events go; what fits none goes to source A's topic.
    pub routes: Vec<Route>,
    /// What one tenant may ask for at once.
    pub limits: Limits,
    /// The way to receivers. Its limit on bodies is how much is kept of their answers.
    pub egress: Client,
    /// The host that receivers know this installation by.
    pub origin: String,
    /// What secrets are encrypted with in the store.
    pub vault: Vault,
    /// How deliveries are made.
    pub delivery: deliver::Config,
    /// Whether a valid credential of an unknown tenant makes it.
    pub auto_create: bool,
    /// The plugins beside those that are shipped.
    pub plugins: Vec<Arc<dyn PlatformEventHandler>>,
    /// The time.
    pub clock: Clock,
}

/// Whether the parts can do their work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Of the bus.
    pub bus: Health,
    /// Of the store.
    pub store: StoreHealth,
    /// Of the home of idempotency keys beside the log, if there is one: what is wrong with it, if anything.
    pub receipts: Option<Result<(), String>>,
    /// The manifests and catalogues in the store that cannot be read, a sentence for each.
    pub unread: Vec<String>,
}

/// Whether the store can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It can.
    Ready,
    /// It can be read, and takes no writes. The text says why.
    ReadOnly(String),
    /// It cannot. The text says why.
    Gone(String),
}

impl Readiness {
    /// Whether anything useful can be done. Without idempotency keys, reading and administration can.
    pub fn is_ready(&self) -> bool {
        !matches!(self.store, StoreHealth::Gone(_)) && !matches!(self.bus, Health::Poisoned(_))
    }
}

impl Gateway {
    /// Opens every room.
    pub async fn open(parts: Parts) -> Result<Self, Refusal> {
        let Parts {
            bus,
            receipts,
            partitions,
            store,
            access,
            routes,
            limits,
            egress,
            origin,
            vault,
            delivery,
            auto_create,
            plugins,
            clock,
        } = parts;
        let plugins = Plugins::new(chat::shipped(plugins, &store, &clock));
        let plugins = plugins.map_err(|error| Refusal::fault("Taking in the plugins", &error))?;
        let in_process = Arc::new(InProcess::new(plugins, store.clone(), clock.clone()));
        let rulebook = Rulebook::new(routes).with_copies(delivery.topics.clone());
        let shelf = Arc::new(Shelf::new(rulebook));
        let (log, keys, rules) = (bus.clone(), receipts.clone(), shelf.clone());
        let (at, handlers) = (clock.clone(), in_process.clone());
        let line = Arc::new(Line::new(log, keys, rules, at, partitions, handlers));
        let outbox = Arc::new(Outbox::new(store.clone(), line.clone(), clock.clone()));
        let (rules, told) = (shelf.clone(), outbox.clone());
        let manifests = Manifests::open(store.clone(), rules, told, clock.clone()).await?;
        let (kept, rules, told) = (store.clone(), shelf.clone(), outbox.clone());
        let workspaces = Workspaces::open(kept, rules, told, clock.clone(), auto_create).await?;
        let workspaces = workspaces.at_most(limits.workspaces());
        let events = Events::new(bus.clone(), shelf.clone(), store.clone());
        let (log, told) = (bus.clone(), outbox.clone());
        let catalogs = Catalogs::open(store.clone(), shelf, log, told, clock.clone()).await?;
        let api_keys = ApiKeys::new(access.clone(), outbox.clone(), clock.clone());
        let webhooks = Webhooks::new(egress.clone(), &origin);
        let subscriptions = Subscriptions::open(
            store.clone(),
            bus.clone(),
            webhooks.clone(),
            vault,
            outbox.clone(),
            clock.clone(),
            in_process.clone(),
        );
        let subscriptions = subscriptions.await?;
        let subscriptions = Arc::new(subscriptions.at_most(limits.subscriptions()));
        let workspaces = Arc::new(workspaces);
        let (kept, tenants, told) = (store.clone(), workspaces.clone(), outbox.clone());
        let custom_events = Arc::new(Registry::new(kept, tenants, told, clock.clone()));
        let restarts = Arc::new(Restarts::default());
        let emits = Emits::new(custom_events::Means {
            store: store.clone(),
            bus: bus.clone(),
            registry: custom_events.clone(),
            line: line.clone(),
            outbox: outbox.clone(),
            events: events.clone(),
            in_force: subscriptions.in_force(),
            clock: clock.clone(),
            restarts: restarts.clone(),
        });
        let (kept, within, wanted) = (store.clone(), workspaces.clone(), subscriptions.clone());
        let (told, at) = (outbox.clone(), clock.clone());
        let extensions = Extensions::new(kept, within, wanted, told, at, in_process.clone());
        let chat = Chat::new(store.clone(), workspaces.clone());
        let (kept, seen) = (store.clone(), events.clone());
        let dead_letters = DeadLetters::new(kept, seen, in_process.in_force(), clock.clone());
        let (kept, log, wanted) = (store.clone(), bus.clone(), subscriptions.clone());
        let parked = Parked::new(kept, log, wanted, clock.clone());
        let (kept, log, wanted) = (store.clone(), bus.clone(), subscriptions.clone());
        let replays = Replays::new(kept, log, egress, wanted, clock.clone());
        Ok(Self {
            access,
            events,
            manifests: Arc::new(manifests),
            catalogs: Arc::new(catalogs),
            workspaces,
            extensions: Arc::new(extensions),
            chat,
            custom_events,
            emits: Arc::new(emits),
            api_keys,
            subscriptions,
            dead_letters,
            parked,
            replays,
            outbox,
            clock,
            limits,
            restarts,
            receipts,
            line,
            bus,
            store,
            webhooks,
            delivery,
            standstills: Standstills::default(),
        })
    }

    /// Deliveries to the extensions of workspaces that were given up.
    pub fn workspace_letters(&self) -> WorkspaceLetters {
        let (store, workspaces) = (self.store.clone(), self.workspaces.clone());
        WorkspaceLetters::new(
            store,
            workspaces,
            self.dead_letters.clone(),
            self.replays.clone(),
        )
    }

    /// What became of events, and why nothing did.
    pub fn chronicle(&self) -> Chronicle {
        Chronicle::new(
            self.store.clone(),
            self.subscriptions.clone(),
            self.standstills.clone(),
            self.delivery.attempts_retention,
            self.clock.clone(),
        )
    }

    /// Publishes 1 to 1,000 events, and writes the one wide log line of it.
    pub async fn publish(&self, command: Command) -> Result<Vec<Published>, Refusal> {
        let begun = Instant::now();
        let caller = command.caller.clone();
        let trace = command.traceparent.clone();
        let mut outcome = self.line.publish(command).await;
        let tenant = caller.tenant().map_or("", |tenant| tenant.as_str());
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &mut outcome {
            Ok(published) => {
                let first = &published[0];
                let trace_id = trace_id_of(trace.as_deref(), first.event_id);
                // What a disabled bus skipped stands nowhere.
                let stands = !first.skipped;
                if tracing::span_enabled!(target: "tidings::trace", tracing::Level::DEBUG) {
                    let id = tracing::field::display(first.event_id);
                    tracing::Span::current().record("tidings.event_id", id);
                }
                tracing::info!(
                    tenant,
                    principal = caller.receipt_scope(),
                    event_type = first.event_type.as_str(),
                    event_id = %first.event_id,
                    topic = stands.then(|| first.topic.as_str()),
                    partition = stands.then_some(first.partition),
                    offset = stands.then_some(first.offset),
                    duplicate = first.duplicate,
                    skipped = first.skipped.then_some(true),
                    events = published.len(),
                    micros,
                    trace_id = &*trace_id,
                    "published"
                );
            }
            Err(refusal) => {
                let trace = refusal.log_under(trace.as_deref(), &self.clock);
                tracing::info!(
                    tenant,
                    principal = caller.receipt_scope(),
                    code = refusal.code.as_str(),
                    step = refusal.rule.as_str(),
                    detail = refusal.detail,
                    micros,
                    trace_id = %trace.simple(),
                    "refused"
                );
            }
        }
        outcome
    }

    /// The task that delivers, to be run beside the gateway.
    pub fn deliveries(&self) -> Deliveries {
        Deliveries::new(Means {
            bus: self.bus.clone(),
            store: self.store.clone(),
            subscriptions: self.subscriptions.clone(),
            target: Arc::new(self.targets()),
            clock: self.clock.clone(),
            config: self.delivery.clone(),
            counted: self.counted(),
            on_the_way: deliver::on_the_way::Bytes::default(),
            standstills: self.standstills.clone(),
        })
    }

    /// Puts another handler of an extension in force, or takes it away, while events flow: of a component whose file has
    /// changed. Refused where a publisher waits for what would change.
    pub fn exchange_handler(
        &self,
        extension: &ExtensionId,
        handler: Option<Arc<dyn PlatformEventHandler>>,
    ) -> Result<(), InvalidPlugin> {
        let plugins = &self.line.in_process().plugins;
        plugins.exchange(extension, handler)
    }

    fn targets(&self) -> Targets {
        Targets::new(
            self.webhooks.clone(),
            Handlers::new(self.line.clone(), self.line.in_process().clone()),
            Topics::new(self.line.clone(), self.store.clone(), self.clock.clone()),
        )
    }

    /// What became of handlers that ran before an acknowledgement, and is not written down yet: to be ended when nothing is
    /// published any more.
    pub fn late_writes(&self) -> Arc<LateWrites> {
        self.line.in_process().late_writes.clone()
    }

    /// What is counted of deliveries.
    pub fn counted(&self) -> Arc<Counted> {
        self.line.in_process().counted.clone()
    }

    /// Whether a publish would get as far as asking those who keep keys and events. Appends nothing.
    ///
    /// # Errors
    /// What [`publish`](Self::publish) would be refused for until then.
    pub fn check(&self, command: Command) -> Result<(), Refusal> {
        self.line.check(command)
    }

    /// What a publish would do. Appends nothing.
    pub async fn explain(&self, command: Command) -> Explanation {
        self.line.explain(command).await
    }

    /// Whether the parts can do their work.
    pub async fn readiness(&self) -> Readiness {
        let receipts = async {
            let health = self.receipts.as_ref()?.health().await;
            Some(health.map_err(|error| error.to_string()))
        };
        let (store, receipts) = tokio::join!(self.store.takes_writes(), receipts);
        let store = match store {
            Ok(()) => StoreHealth::Ready,
            Err(error @ StoreError::ReadOnly(_)) => StoreHealth::ReadOnly(error.to_string()),
            Err(error) => StoreHealth::Gone(error.to_string()),
        };
        Readiness {
            bus: self.bus.health(),
            store,
            receipts,
            unread: [self.manifests.unread(), self.catalogs.unread()].concat(),
        }
    }
}

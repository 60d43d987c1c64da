//! `tidings serve`: where the parts are put together, started and stopped.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidings_bus::{Bus, embedded};
use tidings_egress::{AllowedTarget, Client, Limits as EgressLimits, Target};
use tidings_event::{ModuleId, TenantId};
use tidings_gateway::access::{Access, AccessConfig, Claims, KeySource};
use tidings_gateway::clock::Clock;
use tidings_gateway::custom_events::relay as relay_emits;
use tidings_gateway::deliver;
use tidings_gateway::replicas::Follower;
use tidings_gateway::secrets::Vault;
use tidings_gateway::supervised::{Stopped, supervise};
use tidings_gateway::{Gateway, Parts};
use tidings_http::{Adopt, House, Limits, Workers};
use tidings_receipts::{InStore, InValkey, Receipts, Terms};
use tidings_store::{Store, StoreError, Versions};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::Plugins;
use crate::components::{self, Components};
use crate::config::{
    self, BusFlags, Config, EgressFlags, Flags, KafkaFlags, ModulesFlags, ServerFlags, given,
};
use crate::data_folder::{self, STORE, STORE_LOCK, keep_private};
use crate::logging;
use crate::manifests;
use crate::open_files;
use crate::output::print_line;
use crate::servable;
use crate::stop::Stop;
use crate::telemetry::{self, Telemetry};
use crate::vault;
use crate::watched::Watching;

/// How long the token of the printed command is valid.
const FIRST_TOKEN_TTL: Duration = Duration::from_hours(24);
/// How often the key set is read again.
const KEY_REFRESH: Duration = Duration::from_mins(5);
/// What fetching the key set may take. Whoever waits for it waits 4 s at most.
const KEY_LIMITS: EgressLimits = EgressLimits {
    connect_timeout: Duration::from_secs(3),
    total_timeout: Duration::from_secs(4),
    body_bytes: 256 * 1024,
};
/// What asking a receiver may take, unless its subscription says less, and how much is kept of its answer.
const RECEIVER_LIMITS: EgressLimits = EgressLimits {
    connect_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_mins(1),
    body_bytes: 16 * 1024,
};
/// How long a start waits for PostgreSQL without a word.
const SAYS_THAT_IT_WAITS: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long handlers of plugins that still run get at the end.
const HANDLERS_LEAVE: Duration = Duration::from_secs(1);
/// How long late writes get at the end, however long the drain took.
const LATE_WRITES_LEAVE: Duration = Duration::from_millis(500);
/// The sample module of a first start.
const DEMO: &str = r#"{
  "id": "demo",
  "version": "1.0.0",
  "events": { "publishes": ["demo.greeting.sent"], "subscribes": [] }
}"#;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data folder
    #[arg(long)]
    data: Option<PathBuf>,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// A folder of module manifests, loaded and watched
    #[arg(long)]
    manifests: Option<String>,
    /// The bus: embedded, kafka or disabled
    #[arg(long, value_name = "KIND", value_parser = ["embedded", "kafka", "disabled"])]
    bus: Option<String>,
    /// The brokers of the Kafka bus, as host:port, separated by commas
    #[arg(long, value_name = "HOST:PORT")]
    kafka_brokers: Option<String>,
    /// A host, address or range that outgoing URLs may reach although it lies inward; repeatable
    #[arg(long, value_name = "HOST|RANGE", value_parser = allowed_target)]
    allow_target: Vec<String>,
    /// A configuration file
    #[arg(long, env = "TIDINGS_CONFIG")]
    config: Option<PathBuf>,
    /// Do not register the sample module on a first start
    #[arg(long)]
    no_demo: bool,
}

/// What the configuration can be told, as it was typed.
fn allowed_target(text: &str) -> Result<String, <AllowedTarget as FromStr>::Err> {
    text.parse::<AllowedTarget>().map(|_| text.to_owned())
}

pub(crate) fn run(arguments: Arguments, plugins: Plugins) -> Result<()> {
    let flags = Flags {
        data: arguments.data,
        server: ServerFlags {
            listen: arguments.listen.map(|listen| listen.to_string()),
        },
        egress: EgressFlags {
            allow_targets: arguments.allow_target,
        },
        bus: BusFlags {
            kind: arguments.bus,
            kafka: KafkaFlags {
                brokers: arguments.kafka_brokers,
            },
        },
        modules: ModulesFlags {
            manifests: arguments.manifests,
            demo: arguments.no_demo.then_some(false),
        },
    };
    let config = config::load(arguments.config.as_deref(), &flags)?;
    servable::check(&config)?;
    let telemetry = Telemetry::new(&config.telemetry)?;
    // Writes what is left when it goes.
    let _logging = logging::begin(&config, telemetry.as_ref())?;
    for unread in config::unread_variables()? {
        tracing::warn!("{unread}");
    }
    if !config.server.listen.ip().is_loopback() && config.server.public_url.is_empty() {
        tracing::warn!(
            "server.public_url is not set: problem types, OpenAPI and WebHook-Request-Origin name the address that is \
             listened on, which others may not reach"
        );
    }
    open_files::allow(config.server.max_connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let workers = Workers::start(available_parallelism().unwrap_or(NonZeroUsize::MIN))?;
    let adopt: Option<Adopt> = telemetry.is_some().then_some(telemetry::adopt);
    let served = runtime.block_on(until_stopped(config, plugins, (adopt, &workers)));
    // A handler that does not return must not keep the process.
    let until = Instant::now() + HANDLERS_LEAVE;
    workers.stop(HANDLERS_LEAVE);
    runtime.shutdown_timeout(until.saturating_duration_since(Instant::now()));
    let left = served?;
    if let Some(telemetry) = telemetry {
        telemetry.shutdown(left);
    }
    Ok(())
}

/// Starts and serves until it is told to stop, be it before it has started. What remains of the drain time comes back.
async fn until_stopped(
    config: Config,
    plugins: Plugins,
    surface: (Option<Adopt>, &Workers),
) -> Result<Duration> {
    let mut stop = Stop::listen()?;
    let drain = config.server.drain;
    let (has_started, started) = oneshot::channel();
    tokio::select! {
        served = serve(config, plugins, surface, (stop.clone(), has_started)) => served,
        () = stop.told_before(started) => {
            tracing::info!("stopped before it served");
            Ok(drain)
        }
    }
}

async fn serve(
    config: Config,
    plugins: Plugins,
    (adopt, workers): (Option<Adopt>, &Workers),
    (mut told, has_started): (Stop, oneshot::Sender<()>),
) -> Result<Duration> {
    let folder = &config.data;
    data_folder::make(folder)
        .with_context(|| format!("the data folder {} cannot be made", folder.display()))?;
    let clock = Clock::system();
    // Before anything is made: a first start that finds the address taken is still to come.
    let socket = bound(config.server.listen)?;
    let own_file_is_new = !folder.join(STORE).exists();
    let routes = config.routes()?;
    let copy_topics = config.copy_topics(&routes)?;
    let mut topics = tidings_gateway::rulebook::topics(&routes);
    topics.extend(copy_topics.iter().cloned());
    let opened = Arc::new(OnceLock::new());
    let bus = config.bus.open(folder, &clock, topics, &opened)?;
    let (store, vault, _alone) = open_store(&config).await?;
    let store = opened.get_or_init(|| store).clone();
    let first_start = match store.replicas() {
        None => own_file_is_new,
        Some(replicas) => replicas.versions().await?.1 == Versions::default(),
    };
    let access = open_access(&config, &store, &clock).await?;
    let receipts = receipts(&config, &store, &*bus)?;
    let (plugins, components) = with_components(&config, plugins).await?;
    let limits = &config.limits;
    let gateway = Gateway::open(Parts {
        bus: bus.clone(),
        receipts,
        partitions: config.bus.partitions,
        store: store.clone(),
        access: access.clone(),
        routes,
        limits: tidings_gateway::limits::Limits::new(
            limits.requests_per_second,
            limits.burst,
            limits.streams_per_tenant,
            limits.subscriptions_per_tenant,
        )
        .with_workspaces(limits.workspaces_per_tenant, limits.members_per_workspace),
        egress: Client::new(config.guard()?, RECEIVER_LIMITS)?,
        origin: origin(&config),
        vault,
        delivery: deliver::Config {
            retry_schedule: config.delivery.retry_schedule.clone(),
            attempts_retention: config.delivery.attempts_retention,
            disable_after: config.delivery.disable_after,
            topics: copy_topics,
            ..deliver::Config::default()
        },
        auto_create: config.tenants.auto_create,
        plugins,
        clock: clock.clone(),
    });
    let gateway = gateway.await.context("the gateway cannot be opened")?;
    let demo = demo(&config, &gateway, first_start).await?;

    let listener = socket.listen(BACKLOG);
    let listener = listener.with_context(|| cannot_listen(config.server.listen))?;
    let address = listener.local_addr()?;
    let public_url = public_url(&config, address);
    let (stop_relay, relaying) = relay(&gateway);
    let (stop_following, following) = follow(&gateway);
    let retention = config.custom_events.emits_retention;
    let (stop_emits, looking_after_emits) = look_after_emits(&gateway, retention);
    let (stop_delivering, delivering) = deliveries(&gateway);
    let late_writes = gateway.late_writes();
    let house = House::new(gateway, &public_url, adopt, config.server.max_bodies_bytes);
    let watching = watched_manifests(&config, &house).await?;
    let changing = components.map(|components| components::watch(house.clone(), components));
    let changing = changing.transpose()?;
    store.started();
    greet(&config, address, &access, &clock, demo);
    let refreshing = tokio::spawn(refresh_keys(access.clone(), clock));

    let limits = connection_limits(&config);
    // From here on it is drained; nobody listens any more where the word has just come.
    let _too_late = has_started.send(());
    let stopping = OnceLock::new();
    let left = || left_of(config.server.drain, &stopping);
    let stop = async {
        told.told().await;
        tracing::info!("stopping: requests in flight get their time");
        stopping.get_or_init(Instant::now);
        // Attempts in flight and requests in flight get the same time.
        drop(stop_delivering);
    };
    tidings_http::serve(listener, house, limits, workers, stop).await;
    refreshing.abort();
    // Cancelled, as it has just been asked to be.
    let _ = refreshing.await;
    for (watcher, task) in [watching, changing].into_iter().flatten() {
        drop(watcher);
        task.await?;
    }
    delivering.await?;
    late_writes.end(left().max(LATE_WRITES_LEAVE)).await;
    drop((stop_relay, stop_following, stop_emits));
    tokio::try_join!(relaying, looking_after_emits, following)?;
    store.close().await;
    if Arc::strong_count(&bus) > 1 {
        tracing::warn!("a request that did not end still holds the log");
    }
    // Dropping it drains what waits, which blocks.
    tokio::task::spawn_blocking(move || drop(bus)).await?;
    tracing::info!("stopped");
    Ok(left())
}

/// What is left of the drain time when the process is being stopped; all of it before.
fn left_of(drain: Duration, stopping: &OnceLock<Instant>) -> Duration {
    let spent = stopping.get().map_or(Duration::ZERO, Instant::elapsed);
    drain.saturating_sub(spent)
}

fn connection_limits(config: &Config) -> Limits {
    Limits {
        connections: config.server.max_connections,
        header_timeout: config.server.header_timeout,
        drain: config.server.drain,
    }
}

/// A socket that has its address, and takes no connection yet.
fn bound(address: SocketAddr) -> Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let bound = socket.and_then(|socket| {
        // A restart must not wait for the connections of the process before.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    });
    bound.with_context(|| cannot_listen(address))
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("cannot listen on {address}")
}

/// The sample module, if it may publish. A first start makes it; an operator may have removed it since.
async fn demo(config: &Config, gateway: &Gateway, first_start: bool) -> Result<Option<ModuleId>> {
    if !config.modules.demo {
        return Ok(None);
    }
    let demo: ModuleId = "demo".parse()?;
    if first_start {
        gateway.manifests.install(&demo, DEMO).await?;
    }
    Ok(gateway.manifests.is_in_force(&demo).then_some(demo))
}

/// Loads and watches the folder of manifests, if one is configured.
async fn watched_manifests(config: &Config, house: &House) -> Result<Option<Watching>> {
    let folder = Path::new(&config.modules.manifests);
    if config.modules.manifests.is_empty() {
        return Ok(None);
    }
    let watching = manifests::follow(house.clone(), folder.to_owned()).await?;
    Ok(Some(watching))
}

/// The plugins of the binary, and the components of the folder that is configured.
async fn with_components(
    config: &Config,
    mut plugins: Plugins,
) -> Result<(Plugins, Option<Components>)> {
    let folder = &config.extensions.components;
    if folder.is_empty() {
        return Ok((plugins, None));
    }
    let (components, handlers) = components::load(Path::new(folder), &plugins).await?;
    plugins.extend(handlers);
    Ok((plugins, Some(components)))
}

fn public_url(config: &Config, address: SocketAddr) -> String {
    match config.server.public_url.as_str() {
        "" => format!("http://{address}"),
        url => url.trim_end_matches('/').to_owned(),
    }
}

/// The host that receivers know this installation by.
fn origin(config: &Config) -> String {
    match config.server.public_url.parse::<Target>() {
        Ok(url) => url.host().to_owned(),
        Err(_) => config.server.listen.ip().to_string(),
    }
}

/// Publishes the installation's own events that wait, until the sender is dropped.
fn relay(gateway: &Gateway) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let outbox = gateway.outbox.clone();
    kept_up("outbox", gateway, move |stopped| {
        let outbox = outbox.clone();
        async move { outbox.relay(stopped).await }
    })
}

/// A loop of its own that is begun again should it panic, until the sender is dropped.
fn kept_up<F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    gateway: &Gateway,
    run: impl Fn(Stopped) -> F + Send + 'static,
) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    // Nothing is ever sent: that the sender is gone is the word.
    let stopped = async { drop(stopped.await) };
    let running = tokio::spawn(supervise(name, gateway.restarts.clone(), stopped, run));
    (stop, running)
}

/// Appends emits that the bus did not take, and finds out what became of the others, until the sender is dropped.
fn look_after_emits(
    gateway: &Gateway,
    retention: Duration,
) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let emits = gateway.emits.clone();
    kept_up("emits", gateway, move |stopped| {
        relay_emits(emits.clone(), retention, stopped)
    })
}

/// Puts in force what other replicas change, until the sender is dropped.
fn follow(gateway: &Gateway) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let follower = Arc::new(Follower::new(gateway));
    kept_up("replicas", gateway, move |stopped| {
        let follower = follower.clone();
        async move { follower.follow(stopped).await }
    })
}

/// Delivers events to those who want them, until the sender is dropped.
fn deliveries(gateway: &Gateway) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let deliveries = gateway.deliveries();
    let (stop, stopped) = oneshot::channel();
    let delivering = tokio::spawn(deliveries.run(async { drop(stopped.await) }));
    (stop, delivering)
}

/// The store, what its secrets are encrypted with, and the lock on the folder of one that has a single process.
async fn open_store(config: &Config) -> Result<(Store, Vault, Option<File>)> {
    let own = config.store.url.is_empty();
    let alone = own.then(|| alone_on(&config.data)).transpose()?;
    let vault = vault::open(config)?;
    let opened = if own {
        let file = config.data.join(STORE);
        let whole = embedded::check_wal(&file).map_err(anyhow::Error::new);
        whole.context("the store cannot be opened")?;
        keep_private(&file)?;
        Store::open(file).await
    } else {
        reached(&config.store.url).await
    };
    Ok((opened.context("the store cannot be opened")?, vault, alone))
}

/// The store on PostgreSQL, once that answers.
async fn reached(url: &str) -> Result<Store, StoreError> {
    let mut connecting = pin!(Store::connect_at_start(url));
    if let Ok(connected) = timeout(SAYS_THAT_IT_WAITS, &mut connecting).await {
        return connected;
    }
    let why = match Store::reach(url).await {
        Ok(()) => "it answers slowly".to_owned(),
        Err(fault) => format!("{:#}", anyhow::Error::new(fault)),
    };
    tracing::warn!(why, "waiting for the PostgreSQL of store.url");
    connecting.await
}

/// Takes the store of a folder for this process, whatever the bus: each keeps in memory what stands in it.
fn alone_on(folder: &Path) -> Result<File> {
    let path = folder.join(STORE_LOCK);
    match embedded::lock(&path) {
        Ok(file) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another process serves on the data folder {}, whose store takes one: give this one a folder of its own, or \
             have both share a PostgreSQL (store.url)",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

/// Where idempotency keys are kept beside the log: where it is configured, or if the log keeps none itself.
fn receipts(config: &Config, store: &Store, bus: &dyn Bus) -> Result<Option<Arc<dyn Receipts>>> {
    let terms = Terms::default();
    if !config.receipts.url.is_empty() {
        let valkey = InValkey::new(&config.receipts.url, terms).context("receipts.url")?;
        return Ok(Some(Arc::new(valkey)));
    }
    if bus.keeps_receipts() {
        return Ok(None);
    }
    Ok(Some(Arc::new(InStore::new(store.receipts(), terms))))
}

/// Whom to trust.
pub(crate) fn access_config(config: &Config) -> Result<AccessConfig> {
    let auth = &config.auth;
    let file = given(&auth.jwks_file).map(|file| KeySource::File(file.into()));
    let keys = match config.jwks_url()? {
        Some(url) => Some(behind(url, config)?),
        None => file,
    };
    Ok(AccessConfig {
        keys,
        shared_secret: given(&auth.shared_secret).map(|secret| Zeroizing::new(secret.into_bytes())),
        issuer: given(&auth.issuer),
        audience: given(&auth.audience),
        api_keys_per_tenant: Some(config.limits.api_keys_per_tenant),
    })
}

async fn open_access(config: &Config, store: &Store, clock: &Clock) -> Result<Arc<Access>> {
    let access = access_config(config)?;
    let access = Access::new(access, store.clone(), &config.data, clock.now_ms()).await;
    Ok(Arc::new(
        access.context("the credentials cannot be set up")?,
    ))
}

/// The key set behind a URL, fetched through the guard.
fn behind(url: Target, config: &Config) -> Result<KeySource> {
    let client = Client::new(config.guard()?, KEY_LIMITS)?;
    Ok(KeySource::Fetch(Arc::new(move || {
        let (client, url) = (client.clone(), url.clone());
        Box::pin(async move {
            let fetched = client.get(&url).await;
            fetched.map_err(|error| format!("{url}: {error}"))
        })
    })))
}

/// Rereads the key set now and then, so that a key which its issuer has withdrawn does not stay in force.
async fn refresh_keys(access: Arc<Access>, clock: Clock) {
    let mut beats = tokio::time::interval(KEY_REFRESH);
    loop {
        beats.tick().await;
        // What fails is logged there, and the keys in force stay.
        let _ = access.refresh_keys(clock.now_ms()).await;
    }
}

/// Says where it listens, and how to publish a first event.
fn greet(
    config: &Config,
    address: SocketAddr,
    access: &Access,
    clock: &Clock,
    module: Option<ModuleId>,
) {
    let greeting = greeting(config, address, access, clock, module);
    // Who reads it may have gone; that is no reason not to serve.
    if let Err(error) = print_line(&greeting) {
        tracing::warn!(%error, "the greeting could not be written");
    }
}

fn greeting(
    config: &Config,
    address: SocketAddr,
    access: &Access,
    clock: &Clock,
    module: Option<ModuleId>,
) -> String {
    let own = format!("http://{address}");
    let url = public_url(config, address);
    let data = config.data.display();
    let begin =
        format!("Tidings listens on {own}\n  data folder  {data}\n  API          {url}/docs\n");
    let Some(key) = access.local_key() else {
        return begin;
    };
    if module.is_none() {
        return format!(
            "{begin}  credentials  tidings token --data {data} --tenant TENANT --module MODULE\n"
        );
    }
    let tenant: TenantId = "acme".parse().expect("a legal id");
    let claims = Claims {
        subject: "demo".to_owned(),
        tenant: Some(tenant),
        module,
        service: None,
        admin: false,
        operator: false,
        issuer: given(&config.auth.issuer),
        audience: given(&config.auth.audience),
    };
    let token = key.mint(&claims, FIRST_TOKEN_TTL, clock.now_ms());
    format!(
        "{begin}\nPublish a first event as module 'demo' of tenant 'acme':\n\n  \
         export TIDINGS_URL={own} TIDINGS_TOKEN={token}\n  \
         curl -X POST $TIDINGS_URL/v1/events/publish -H \"Authorization: Bearer $TIDINGS_TOKEN\" \
         -H 'Content-Type: application/json' -d '{{\"type\":\"demo.greeting.sent\",\"data\":{{\"text\":\"hello\"}}}}'\n\n"
    )
}

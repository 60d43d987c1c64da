//! Source C: handlers in process. Who handles what, and how a handler is run.
//!
//! Cast: [`Plugins`], what this binary was put together with, and their executor; [`InProcess`], what the two lines
//! share of them; [`causing`], by which a handler publishes. Handlers may block, so they run on threads of their own:
//! of each plugin a bounded number at once for either way of being called, so that one which hangs holds up itself alone.

pub(crate) mod causing;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidings_event::{Data, Event, EventType, ExtensionId, WorkspaceId};
use tidings_plugin::{Handler, HandlerError, PlatformEvent, PlatformEventHandler, Publisher};
use tidings_store::Store;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use causing::Causing;

use crate::clock::Clock;
use crate::deliver::counted::Counted;
use crate::deliver::late_writes::LateWrites;
use crate::publish::Line;
use crate::publish::command::WORKSPACE_ATTRIBUTE;
use crate::subscriptions::InForce;
use crate::subscriptions::of_extensions::Owner;

/// So many handlers of a plugin run at once, for either way of being called.
const AT_ONCE: usize = 16;
/// So many wait for one of them to end, at most.
const WAITING: usize = 1_024;

/// When a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// `async = false`: after the append, and before the publish is acknowledged.
    BeforeAcknowledgement,
    /// `async = true`: through the way out.
    Afterwards,
}

/// A plugin that cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlugin {
    /// Its id is none.
    #[error("the plugin's extension {0:?} is no id: {1}")]
    Extension(String, String),
    /// Another one says that it is the same.
    #[error("two plugins are of the extension '{0}'")]
    Twice(ExtensionId),
    /// It would change while the gateway runs what a publisher waits for.
    #[error(
        "of the extension '{0}', what it handles before a publish is acknowledged is not what it was when the \
         gateway started; restart it"
    )]
    InLine(ExtensionId),
}

struct Plugin {
    handler: Arc<dyn PlatformEventHandler>,
    keys: Arc<BTreeMap<EventType, When>>,
    before: Places,
    afterwards: Places,
}

impl Plugin {
    fn new(handler: Arc<dyn PlatformEventHandler>) -> Self {
        let keys = handler.handlers().into_iter().map(|one| {
            let when = if one.is_async {
                When::Afterwards
            } else {
                When::BeforeAcknowledgement
            };
            (one.event_key, when)
        });
        let keys = Arc::new(keys.collect());
        Self {
            handler,
            keys,
            before: Places::new(),
            afterwards: Places::new(),
        }
    }

    /// What it handles before a publish is acknowledged.
    fn in_line(&self) -> impl Iterator<Item = &EventType> {
        let keys = self.keys.iter();
        keys.filter(|(_, when)| **when == When::BeforeAcknowledgement)
            .map(|(key, _)| key)
    }
}

/// What is left of a component that a publisher waits for and that is gone: its events fail.
struct Gone(ExtensionId, Vec<Handler>);

impl PlatformEventHandler for Gone {
    fn extension(&self) -> &str {
        self.0.as_str()
    }

    fn handlers(&self) -> Vec<Handler> {
        self.1.clone()
    }

    fn handle(&self, _: &PlatformEvent) -> Result<(), HandlerError> {
        Err(HandlerError::new("the component is gone from its folder"))
    }
}

/// Places of an executor: those at which a handler runs, and those at which one waits.
struct Places {
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Places {
    fn new() -> Self {
        Self {
            running: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING),
        }
    }
}

/// The plugins of this binary, and the components beside it.
pub struct Plugins {
    by_extension: ArcSwap<BTreeMap<ExtensionId, Arc<Plugin>>>,
    /// What any of them handles before a publish is acknowledged. Subscriptions are read by it, so it stays.
    in_line: BTreeSet<EventType>,
}

/// One call of a handler.
pub(crate) struct Call<'a> {
    pub(crate) extension: &'a ExtensionId,
    pub(crate) when: When,
    pub(crate) event: PlatformEvent,
    /// Set when the call's time is over.
    pub(crate) ended: Arc<AtomicBool>,
    pub(crate) until: Instant,
}

impl Plugins {
    /// Of these, each of an extension of its own.
    pub fn new(plugins: Vec<Arc<dyn PlatformEventHandler>>) -> Result<Self, InvalidPlugin> {
        let (mut by_extension, mut in_line) = (BTreeMap::new(), BTreeSet::new());
        for handler in plugins {
            let id = handler.extension().parse::<ExtensionId>();
            let id = id.map_err(|error| {
                InvalidPlugin::Extension(handler.extension().to_owned(), error.to_string())
            })?;
            let plugin = Arc::new(Plugin::new(handler));
            in_line.extend(plugin.in_line().cloned());
            if by_extension.insert(id.clone(), plugin).is_some() {
                return Err(InvalidPlugin::Twice(id));
            }
        }
        Ok(Self {
            by_extension: ArcSwap::from_pointee(by_extension),
            in_line,
        })
    }

    /// Puts another handler of an extension in the place of the one that is there, if any, or takes that away. Calls that
    /// run go on with the one they began with. What a publisher waits for cannot change so: events between the two
    /// ways would be nobody's.
    pub(crate) fn exchange(
        &self,
        extension: &ExtensionId,
        handler: Option<Arc<dyn PlatformEventHandler>>,
    ) -> Result<(), InvalidPlugin> {
        let known = self.by_extension.load().get(extension).cloned();
        let before = known.iter().flat_map(|plugin| plugin.in_line());
        let before: BTreeSet<EventType> = before.cloned().collect();
        let plugin = match handler {
            Some(handler) => Some(Plugin::new(handler)),
            None if before.is_empty() => None,
            None => {
                let handlers = before.iter().map(|key| Handler {
                    event_key: key.clone(),
                    is_async: false,
                });
                let gone = Gone(extension.clone(), handlers.collect());
                Some(Plugin::new(Arc::new(gone)))
            }
        };
        let plugin = plugin.map(Arc::new);
        let after = plugin.iter().flat_map(|plugin| plugin.in_line());
        if after.cloned().collect::<BTreeSet<_>>() != before {
            return Err(InvalidPlugin::InLine(extension.clone()));
        }
        self.by_extension.rcu(|all| {
            let mut all = BTreeMap::clone(all);
            match &plugin {
                Some(plugin) => all.insert(extension.clone(), plugin.clone()),
                None => all.remove(extension),
            };
            all
        });
        Ok(())
    }

    fn plugin(&self, extension: &ExtensionId) -> Option<Arc<Plugin>> {
        self.by_extension.load().get(extension).cloned()
    }

    /// What the plugin of an extension handles; nothing when there is none.
    pub(crate) fn keys(&self, extension: &ExtensionId) -> Option<Arc<BTreeMap<EventType, When>>> {
        self.plugin(extension).map(|plugin| plugin.keys.clone())
    }

    /// Runs a handler, to its end or that of its time. A sentence says why it failed.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<(), String> {
        let extension = call.extension;
        let Some(plugin) = self.plugin(extension) else {
            return Err(format!("this installation has no plugin '{extension}'"));
        };
        let places = match call.when {
            When::BeforeAcknowledgement => &plugin.before,
            When::Afterwards => &plugin.afterwards,
        };
        let full = |_| format!("{WAITING} events wait for the plugin '{extension}' already");
        let waiting = places.waiting.try_acquire().map_err(full)?;
        let running = places.running.clone().acquire_owned();
        let running = tokio::time::timeout_at(call.until, running).await;
        let place = running.ok().and_then(Result::ok).ok_or_else(|| {
            format!("{AT_ONCE} handlers of the plugin '{extension}' run already, and none has ended in time")
        })?;
        drop(waiting);
        let (plugin, event) = (plugin.handler.clone(), call.event);
        let ends = tokio::task::spawn_blocking(move || {
            let end = catch_unwind(AssertUnwindSafe(|| plugin.handle(&event)));
            // A handler that does not return keeps its place.
            drop(place);
            end
        });
        match tokio::time::timeout_at(call.until, ends).await {
            Ok(Ok(Ok(result))) => result.map_err(|error: HandlerError| error.to_string()),
            Ok(Ok(Err(panic))) => Err(format!("the handler panicked: {}", said(&*panic))),
            Ok(Err(error)) => Err(format!("the handler did not run: {error}")),
            Err(_) => {
                call.ended.store(true, Ordering::Relaxed);
                Err("the handler did not end in time".to_owned())
            }
        }
    }
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it did not say why")
}

/// What both lines share of the plugins.
pub struct InProcess {
    pub(crate) plugins: Plugins,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// What handlers came to is counted with what other deliveries did.
    pub(crate) counted: Arc<Counted>,
    /// What became of handlers that ran before the acknowledgement, and is not written down yet.
    pub(crate) late_writes: Arc<LateWrites>,
    in_force: Arc<InForce>,
}

impl InProcess {
    /// With nothing subscribed yet.
    pub(crate) fn new(plugins: Plugins, store: Store, clock: Clock) -> Self {
        Self {
            plugins,
            store,
            clock,
            counted: Arc::default(),
            late_writes: Arc::default(),
            in_force: Arc::default(),
        }
    }

    /// Has the handler of an extension handle an event, to its end or that of its time. What it causes is published by the
    /// line. A sentence says why it failed.
    pub(crate) async fn handle(
        &self,
        line: &Arc<Line>,
        extension: &ExtensionId,
        when: When,
        event: &Event,
        until: Instant,
    ) -> Result<(), String> {
        let causing = Arc::new(Causing::new(
            line.clone(),
            self.store.clone(),
            self.clock.clone(),
            extension.clone(),
            event.clone(),
        ));
        let ended = causing.ended();
        let call = Call {
            extension,
            when,
            event: platform_event(event, causing)?,
            ended,
            until,
        };
        self.plugins.run(call).await
    }

    /// Who wants what.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.clone()
    }

    /// Whether nobody handles anything before its publish is acknowledged.
    pub(crate) fn runs_nothing_in_line(&self) -> bool {
        self.plugins.in_line.is_empty()
    }

    /// Whether anybody could want an event of this type before its publish is acknowledged.
    pub(crate) fn may_run_in_line(&self, event_type: &EventType) -> bool {
        self.plugins.in_line.contains(event_type)
    }

    /// Whether an extension gets its event before the publish is acknowledged.
    pub(crate) fn runs_in_line(&self, extension: &ExtensionId, owner: Option<&Owner>) -> bool {
        let key = owner.and_then(|owner| owner.event_key.parse().ok());
        let keys = self.plugins.keys(extension);
        let when = keys
            .zip(key)
            .and_then(|(keys, key): (_, EventType)| keys.get(&key).copied());
        when == Some(When::BeforeAcknowledgement)
    }
}

/// An event as a handler gets it; a sentence when it is of no workspace or its data is no JSON.
pub(crate) fn platform_event(
    event: &Event,
    publisher: Arc<dyn Publisher>,
) -> Result<PlatformEvent, String> {
    let workspace = workspace_of(event).ok_or("the event is of no workspace")?;
    let payload = match &event.data {
        Data::Json(json) => json.as_str(),
        Data::None => "null",
        Data::Text(_) | Data::Binary(_) => {
            return Err("the event's data is not JSON, so no handler can take it".to_owned());
        }
    };
    let actor = event.extension("actor").map(ToString::to_string);
    Ok(PlatformEvent {
        event_id: event.event_id,
        event_key: event.event_type.clone(),
        schema_version: event.schema_version.clone(),
        workspace_id: workspace,
        tenant_id: event.tenant.clone(),
        actor: actor.unwrap_or_default(),
        occurred_at_ms: event.received_at_ms,
        payload: payload.into(),
        publisher,
    })
}

/// The workspace that an event is of.
pub(crate) fn workspace_of(event: &Event) -> Option<WorkspaceId> {
    event
        .extension(WORKSPACE_ATTRIBUTE)?
        .to_string()
        .parse()
        .ok()
}

/// The end of a call that begins now.
pub(crate) fn until(limit: Duration) -> Instant {
    Instant::now() + limit
}

#[cfg(test)]
mod tests;

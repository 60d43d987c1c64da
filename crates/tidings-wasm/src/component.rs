//! A component that handles events: compiled once, a new instance for each call.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidings_event::{EventType, ExtensionId};
use tidings_plugin::{Handler, HandlerError, PlatformEvent, PlatformEventHandler, Publisher};
use wasmtime::component::{self, ComponentNamedList, InstancePre, Lift, Linker, Lower};
use wasmtime::{StoreContextMut, Trap};

use crate::MAX_BYTES;
use crate::sandbox::{Guest, Sandbox};

/// What every WebAssembly binary begins with.
const MAGIC: &[u8] = b"\0asm";
/// The most event keys that a component handles.
const MAX_KEYS: usize = 100;
/// The most lines that a call writes to the log.
const MAX_LOG_LINES: u32 = 20;
/// The longest line, in characters.
const MAX_LOG_LINE: usize = 1_000;
/// The most events that a call publishes.
const MAX_PUBLISHED: u32 = 100;
/// What a component may import, beside WASI, of which there is nothing.
const IMPORTS: [&str; 2] = ["log", "publish"];

/// Bytes that are no component of the world `plugin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidComponent {
    /// They are too many.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// They are no component.
    #[error("it cannot be compiled as a component: {0}")]
    NotOne(String),
    /// It wants something that nobody gets.
    #[error("it imports '{0}'; a component gets 'log' and 'publish' and nothing else")]
    Import(String),
    /// Its exports are not those of the world.
    #[error("it is not of the world tidings:plugin/plugin: {0}")]
    World(String),
    /// It did not say what it handles.
    #[error("it does not say what it handles: {0}")]
    Handles(String),
    /// What it handles is no event key, is there twice, or there is too much of it.
    #[error("what it handles is not right: {0}")]
    Keys(String),
}

/// A component of the world `plugin`.
pub struct Component {
    sandbox: Arc<Sandbox>,
    extension: ExtensionId,
    handlers: Vec<Handler>,
    instances: InstancePre<Guest>,
}

impl Component {
    pub(crate) fn new(
        sandbox: Arc<Sandbox>,
        extension: ExtensionId,
        bytes: &[u8],
    ) -> Result<Self, InvalidComponent> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(InvalidComponent::TooLarge);
        }
        if !bytes.starts_with(MAGIC) {
            return Err(InvalidComponent::NotOne(
                "it does not begin as WebAssembly does".into(),
            ));
        }
        let engine = sandbox.engine();
        let compiled = component::Component::from_binary(engine, bytes)
            .map_err(|error| InvalidComponent::NotOne(format!("{error:#}")))?;
        let kind = compiled.component_type();
        let mut imports = kind.imports(engine).map(|(name, _)| name);
        if let Some(name) =
            imports.find(|name| !IMPORTS.contains(name) && !name.starts_with("wasi:"))
        {
            return Err(InvalidComponent::Import(name.to_owned()));
        }
        drop(imports);
        let world = |error: wasmtime::Error| InvalidComponent::World(format!("{error:#}"));
        let mut linker = Linker::new(engine);
        let logged = |mut store: StoreContextMut<'_, Guest>, (line,): (String,)| {
            log(store.data_mut(), &line);
            Ok(())
        };
        linker.root().func_wrap("log", logged).map_err(world)?;
        let published = |mut store: StoreContextMut<'_, Guest>,
                         (key, payload): (String, String)| {
            Ok((publish(store.data_mut(), &key, &payload),))
        };
        let mut root = linker.root();
        root.func_wrap("publish", published).map_err(world)?;
        // Of WASI there is nothing: to call it is a trap.
        let trapping = linker.define_unknown_imports_as_traps(&compiled);
        trapping.map_err(world)?;
        let instances = linker.instantiate_pre(&compiled).map_err(world)?;
        let mut new = Self {
            sandbox,
            extension,
            handlers: Vec::new(),
            instances,
        };
        let handled = new.call::<_, (Vec<(String, bool)>,)>("handles", (), None);
        let (handled,) = handled.map_err(InvalidComponent::Handles)?;
        new.exports_handle()?;
        new.handlers = read(handled)?;
        Ok(new)
    }

    /// Whether `handle` is there and what it should be.
    fn exports_handle(&self) -> Result<(), InvalidComponent> {
        let world = |error: wasmtime::Error| InvalidComponent::World(format!("{error:#}"));
        let mut store = self.sandbox.store(&self.extension, None).map_err(world)?;
        let instance = self.instances.instantiate(&mut store).map_err(world)?;
        let found = instance.get_typed_func::<(&str,), (Result<(), String>,)>(&mut store, "handle");
        found.map(drop).map_err(world)
    }

    /// Calls an export of a new instance, within the limits. A sentence says why it did not end well.
    fn call<Given, Answer>(
        &self,
        name: &str,
        given: Given,
        publisher: Option<Arc<dyn Publisher>>,
    ) -> Result<Answer, String>
    where
        Given: ComponentNamedList + Lower,
        Answer: ComponentNamedList + Lift,
    {
        let failed = |error: wasmtime::Error| said(&error);
        let store = self.sandbox.store(&self.extension, publisher);
        let mut store = store.map_err(failed)?;
        let instance = self.instances.instantiate(&mut store).map_err(failed)?;
        let function = instance.get_typed_func::<Given, Answer>(&mut store, name);
        function
            .and_then(|function| function.call(&mut store, given))
            .map_err(failed)
    }
}

impl PlatformEventHandler for Component {
    fn extension(&self) -> &str {
        self.extension.as_str()
    }

    fn handlers(&self) -> Vec<Handler> {
        self.handlers.clone()
    }

    fn handle(&self, event: &PlatformEvent) -> Result<(), HandlerError> {
        if self
            .handlers
            .iter()
            .all(|one| one.event_key != event.event_key)
        {
            return Err(HandlerError::no_handler(event));
        }
        let text = event.to_json()?.to_string();
        let publisher = Some(event.publisher.clone());
        let answer = self.call::<_, (Result<(), String>,)>("handle", (text.as_str(),), publisher);
        let (handled,) = answer.map_err(HandlerError::new)?;
        handled.map_err(HandlerError::new)
    }
}

fn log(guest: &mut Guest, line: &str) {
    guest.lines += 1;
    if guest.lines <= MAX_LOG_LINES {
        // A value, which the log escapes: so no line of it can be forged.
        let said: String = line.chars().take(MAX_LOG_LINE).collect();
        let extension = guest.extension.as_str();
        tracing::info!(extension, said = said.as_str(), "a component says");
    }
}

fn publish(guest: &mut Guest, event_key: &str, payload: &str) -> Result<String, String> {
    let Some(publisher) = &guest.publisher else {
        return Err("nothing is published before an event is handled".into());
    };
    guest.published += 1;
    if guest.published > MAX_PUBLISHED {
        return Err(format!("a call publishes {MAX_PUBLISHED} events at most"));
    }
    let unread = |error: serde_json::Error| format!("the payload is not JSON: {error}");
    tidings_event::json::check(payload).map_err(unread)?;
    let payload = serde_json::from_str(payload).map_err(unread)?;
    let outcome = publisher.publish(event_key, payload);
    let event_id = outcome.map_err(|error| error.to_string())?;
    Ok(event_id.to_string())
}

fn read(handled: Vec<(String, bool)>) -> Result<Vec<Handler>, InvalidComponent> {
    if handled.is_empty() || handled.len() > MAX_KEYS {
        let sentence = format!("{} event keys, where 1 to {MAX_KEYS} may be", handled.len());
        return Err(InvalidComponent::Keys(sentence));
    }
    let mut keys = BTreeMap::new();
    for (key, is_async) in handled {
        let parsed = key.parse::<EventType>();
        let key = parsed.map_err(|error| InvalidComponent::Keys(error.to_string()))?;
        if keys.insert(key.clone(), is_async).is_some() {
            return Err(InvalidComponent::Keys(format!("'{key}' is there twice")));
        }
    }
    let one = |(event_key, is_async)| Handler {
        event_key,
        is_async,
    };
    Ok(keys.into_iter().map(one).collect())
}

/// What ended a call, as it stands in the attempt.
fn said(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => "the component has used up its fuel".to_owned(),
        Some(Trap::Interrupt) => "the component did not end in time".to_owned(),
        Some(trap) => format!("the component trapped: {trap}"),
        None => format!("the component failed: {}", error.root_cause()),
    }
}

#[cfg(test)]
mod tests;

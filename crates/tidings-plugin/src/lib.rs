#![doc = include_str!("../README.md")]

mod error;
mod event;

use tidings_event::EventType;
pub use tidings_event::{ExtensionId, SchemaVersion, TenantId, WorkspaceId};
pub use tidings_plugin_macros::{event_handler, event_handlers};
pub use uuid::Uuid;

pub use error::HandlerError;
pub use event::{PlatformEvent, Publisher};

/// One event that a plugin handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Which event.
    pub event_key: EventType,
    /// Whether it runs after the publish is acknowledged.
    pub is_async: bool,
}

impl Handler {
    /// Of a key that is known to be one: the attribute has checked it.
    ///
    /// # Panics
    /// When it is none.
    pub fn new(event_key: &str, is_async: bool) -> Self {
        let event_key = event_key.parse().expect("the attribute checks the key");
        Self {
            event_key,
            is_async,
        }
    }
}

/// A plugin: what the extension of one id does with events, in every workspace that has it installed and enabled.
/// `#[event_handlers]` writes it.
///
/// # Contract
/// - [`handle`](Self::handle) may block its thread; it is called from several threads at once.
/// - An event comes at least once: after a failure, a time-out or a crash it comes again under the same id.
/// - What it answers is what becomes of the delivery. A panic is a failure too.
pub trait PlatformEventHandler: Send + Sync + 'static {
    /// The id of the extension.
    fn extension(&self) -> &str;

    /// What it handles: each event key once.
    fn handlers(&self) -> Vec<Handler>;

    /// Handles an event.
    fn handle(&self, event: &PlatformEvent) -> Result<(), HandlerError>;
}

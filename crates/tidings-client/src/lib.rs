#![doc = include_str!("../README.md")]

mod client;
mod custom_events;
mod deliveries;
mod error;
mod event;
mod request;
mod sse;
mod stream;
#[cfg(test)]
mod tests;

pub use client::{Client, Retries};
pub use custom_events::{CustomEventQuery, EmitQuery, Emitted, NewCustomEvent, NewEmit};
pub use deliveries::{DeadLetterFilter, DeadLetterQuery};
pub use error::{Error, Problem};
pub use event::{
    ApiKey, CreatedApiKey, Event, EventQuery, Module, NewApiKey, NewEvent, Page, Readiness, Receipt,
};
pub use stream::{EventStream, StreamQuery, StreamedEvent};

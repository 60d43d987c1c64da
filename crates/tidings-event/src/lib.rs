#![doc = include_str!("../README.md")]

pub mod cloudevents;
pub mod event;
pub mod event_type;
pub mod json;
mod kernel_namespaces;
pub mod names;
mod partitioner;
pub mod problem;
pub mod schema_version;
pub mod topic;

pub use event::{Attribute, COPY_ATTRIBUTE, Data, Event};
pub use event_type::{EventType, InvalidEventType, TypePattern};
pub use kernel_namespaces::owner_of;
pub use names::{CatalogName, ExtensionId, InvalidName, ModuleId, Service, TenantId, WorkspaceId};
pub use partitioner::{partition_of, slot_of};
pub use problem::Code;
pub use schema_version::{InvalidSchemaVersion, SchemaVersion};
pub use topic::{InvalidTopic, Topic};

/// The largest `data` of one event, in bytes as sent (source A: "Payload exceeds 1 MB").
pub const MAX_DATA_BYTES: usize = 1_048_576;

//! The contract of custom events (source D): what a tenant may register, and how it may change.
//!
//! [`Schema`] is a payload schema that holds the caps, compiled and hashed; [`Version`] knows the single-step bumps;
//! [`judge`] puts both together and says whether a version may follow those that stand; [`compare`] names every
//! difference and what it breaks. Nothing here reads a registry, a clock or a network: the caller brings what stands.

mod acceptance;
mod compare;
pub(crate) mod effort;
mod event_name;
mod outline;
pub(crate) mod patterns;
mod payload_samples;
mod refusal;
mod registration;
mod schema;
mod version;
pub(crate) mod vocabulary;

pub mod canonical;

pub use compare::{Class, Difference, compare};
pub use event_name::{CanonicalName, EventName, EventPath, Namespace, RESERVED_NAMESPACES};
pub use outline::{MAX_DEPTH, MAX_PATHS, MAX_PROPERTIES};
pub use payload_samples::counter_example;
pub use refusal::{Code, Refusal};
pub use registration::{Judgement, Proposal, judge};
pub use schema::{Flavour, MAX_PAYLOAD_BYTES, MAX_SCHEMA_BYTES, Schema};
pub use version::{Bump, Version};

//! Source D: the events that tenants define themselves.
//!
//! Cast: the [`Registry`] keeps what is registered and changes it; `verdict` decides, purely, what may be registered,
//! for a registration as for a dry run; [`Emits`] are publishes that are accepted and counted at `admissions` and looked
//! after by `relay`; `in_force` finds what an emit is held to, in memory where it was found before;
//! `lifecycle` tells of every change; [`Plan`] says how much of all this a tenant has.

mod admissions;
mod appended;
mod emit_request;
mod emits;
mod generic;
mod health;
mod in_force;
mod lifecycle;
mod payloads;
mod plan;
mod registering;
mod registry;
mod relay;
mod statuses;
#[cfg(test)]
mod tests;
mod verdict;

/// What the contract of custom events says, as the room's face has it.
pub use tidings_contract::custom::{Bump, Class, Difference, EventPath, Schema, Version};

pub use emit_request::EmitRequest;
pub(crate) use emits::Means;
pub use emits::{Emits, Emitted};
pub use health::Health;
pub use in_force::Registered;
pub use lifecycle::{LifecycleEvent, lifecycle_page};
pub use payloads::Fit;
pub use plan::Plan;
pub use registry::{Diff, Registration, RegistrationPage, RegistrationQuery, Registry};
pub use relay::relay;
pub use statuses::Status;
pub use tidings_store::{EmitQuery, EmitRow, EmitState};
pub use verdict::{Request, Verdict, member};

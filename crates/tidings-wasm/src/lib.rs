#![doc = include_str!("../README.md")]

mod component;
mod sandbox;

pub use component::{Component, InvalidComponent};
pub use sandbox::{Limits, Sandbox, SandboxError};

/// The largest file of a component, in bytes.
pub const MAX_BYTES: u64 = 32 * 1024 * 1024;

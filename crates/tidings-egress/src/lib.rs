#![doc = include_str!("../README.md")]

mod client;
mod guard;
mod target;

pub use client::{Client, EgressError, Limits};
pub use guard::{AllowedTarget, Guard, InvalidAllowedTarget, RefusedAddress};
pub use target::{InvalidTarget, Target};

#![doc = include_str!("../README.md")]

mod client;
mod connecting;
mod error;
mod guard;
mod identity;
mod resolver;
pub mod signing;
mod target;

pub use client::{Answer, Client, Limits, Method, Outgoing};
pub use connecting::timed;
pub use error::EgressError;
pub use guard::{AllowedTarget, Guard, InvalidAllowedTarget, RefusedAddress};
pub use identity::{Identity, InvalidIdentity};
pub use resolver::{Resolution, Resolver, SystemResolver, on_behalf_of};
pub use signing::{InvalidSecret, Secret};
pub use target::{InvalidTarget, Target};

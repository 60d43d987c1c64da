#![doc = include_str!("../README.md")]

mod catalog;
mod diff;
mod reference;
mod schema;

pub use catalog::{Catalog, Channel, Fault, Subject};
pub use diff::{Broken, Change, diff};
pub use schema::{Contract, InvalidContract, Violation};

#![doc = include_str!("../README.md")]

mod catalog;
pub mod custom;
mod diff;
mod documentation;
mod installation;
mod reference;
mod schema;
mod ways;

pub use catalog::{Catalog, Channel, Fault, MAX_BYTES, Subject};
pub use diff::{Broken, Change, agree, diff, name_readers};
pub use documentation::documentation;
pub use installation::{Declared, installation};
pub use schema::{Contract, InvalidContract, Violation};

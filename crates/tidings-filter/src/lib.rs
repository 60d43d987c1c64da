#![doc = include_str!("../README.md")]

pub mod cesql;
mod data;
mod dialect;
mod filter;
mod index;
mod subject;

pub use data::is_pointer;
pub use filter::{Filter, InvalidFilter, Unmet};
pub use index::Index;
pub use subject::Subject;

//! The house: the way in, the way out, and the rooms beside them.

pub mod access;

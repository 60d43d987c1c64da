//! Faults against the real binary: each promise of durability has its file.
//!
//! `TIDINGS_CHAOS_ROUNDS` and `TIDINGS_CHAOS_SEED` lengthen a run and repeat one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod flips;
mod fsync;
mod full;
mod kill;
mod load;
mod power;
mod server;
mod shutdown;

//! The real binary, from the outside: what each operation answers, and what it must never do.

mod batch;
mod harness;
mod order_of_rules;
mod publish;

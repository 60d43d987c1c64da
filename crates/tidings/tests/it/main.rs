//! The real binary, from the outside: what each operation answers, and what it must never do.

mod bad_input;
mod batch;
mod harness;
mod isolation;
mod order_of_rules;
mod publish;

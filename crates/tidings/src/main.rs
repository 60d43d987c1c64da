//! The binary without plugins of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidings::main_with(Vec::new())
}

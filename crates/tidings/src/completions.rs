//! `tidings completions`: what a shell needs to complete our command lines.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::output::print_line;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut script = Vec::new();
    generate(
        arguments.shell,
        &mut crate::Cli::command(),
        "tidings",
        &mut script,
    );
    print_line(&String::from_utf8(script)?)
}

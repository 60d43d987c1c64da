//! The binary: command line, configuration, and where everything is put together.

mod config;
mod manifests;
mod serve;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A multi-tenant event platform in one binary.
#[derive(Parser)]
#[command(name = "tidings", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Arguments),
    /// Print a token of the data folder's own key
    Token(token::Arguments),
    /// Print the configuration in force, and where each value comes from
    Config {
        /// A configuration file
        #[arg(long, env = "TIDINGS_CONFIG")]
        config: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Config { config } => {
            config::describe(config.as_deref(), &config::Flags::default())
                .map(|text| println!("{text}"))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#![doc = include_str!("../README.md")]

mod backup;
mod bench;
mod bus;
mod catalog;
mod completions;
mod components;
mod config;
mod connection;
mod data_folder;
mod dead_letters;
mod doctor;
mod emit;
mod events;
mod explain;
mod failure;
mod input;
mod keys;
mod listen;
mod logging;
mod manifests;
mod modules;
mod open_files;
mod output;
mod paging;
mod publish;
mod replay;
mod schema;
mod servable;
mod serve;
mod signing;
mod stop;
mod subscriptions;
mod tail;
mod telemetry;
mod tenants;
mod token;
mod trace;
mod trigger;
mod vault;
mod watched;
mod written;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tidings_plugin::PlatformEventHandler;

use crate::output::{Format, Output};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A multi-tenant event platform in one binary.
#[derive(Parser)]
#[command(name = "tidings", version, max_term_width = 100, after_help = failure::EXIT_CODES)]
struct Cli {
    /// How results are printed; a table on a terminal and JSON lines in a pipe if not given
    #[arg(short, long, global = true, value_enum)]
    output: Option<Format>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Arguments),
    /// Print a token of the data folder's own key
    Token(token::Arguments),
    /// Publish an event, or many from standard input
    Publish(publish::Arguments),
    /// Print events as they come
    Tail(tail::Arguments),
    /// Read events
    #[command(subcommand)]
    Events(events::Command),
    /// Ask what would become of an event, and why
    Explain(explain::Arguments),
    /// Say what modules may publish
    #[command(subcommand)]
    Modules(modules::Command),
    /// Check, apply and compare catalogues of topics
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Register custom events, and see how their schemas change
    #[command(subcommand)]
    Schema(schema::Command),
    /// Emit a payload of a custom event
    Emit(emit::Emit),
    /// List emits and what became of them
    Emits(emit::Emits),
    /// Show the plan and how much of it is used
    Plan(emit::Plan),
    /// Say which plan and which namespaces tenants have
    #[command(subcommand)]
    Tenants(tenants::Command),
    /// Make and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Say who is sent which events
    #[command(subcommand)]
    Subscriptions(subscriptions::Command),
    /// Look at deliveries that were given up, and send them again
    #[command(subcommand)]
    Dlq(dead_letters::Command),
    /// Send what stands in the log to a subscription again
    #[command(subcommand)]
    Replay(replay::Command),
    /// Send events to your own machine as webhooks, while you develop
    Listen(listen::Arguments),
    /// Publish an example of a type
    Trigger(trigger::Arguments),
    /// Print the headers that sign a webhook
    Sign(signing::Sign),
    /// Say whether the signature of a webhook holds
    Verify(signing::Verify),
    /// Look at a data folder and say what is wrong with it
    Doctor(doctor::Arguments),
    /// Copy a data folder, also while a gateway runs on it
    Backup(backup::Arguments),
    /// Measure this machine beside a bare handler
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print a shell's completion script
    Completions(completions::Arguments),
    /// Print the configuration in force, and where each value comes from
    Config {
        /// A configuration file
        #[arg(long, env = "TIDINGS_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// What plugins there are beside those that are shipped.
pub type Plugins = Vec<Arc<dyn PlatformEventHandler>>;

/// The whole of `tidings`, with these plugins: what a `main` answers. Reads the command line and the environment.
pub fn main_with(plugins: Plugins) -> ExitCode {
    let Cli { output, command } = Cli::parse();
    match run(command, Output::new(output), plugins) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command, output: Output, plugins: Plugins) -> Result<()> {
    match command {
        Command::Serve(arguments) => serve::run(arguments, plugins),
        Command::Token(arguments) => token::run(arguments, output),
        Command::Publish(arguments) => publish::run(&arguments, output),
        Command::Tail(arguments) => tail::run(arguments, output),
        Command::Events(command) => events::run(command, output),
        Command::Explain(arguments) => explain::run(arguments, output),
        Command::Modules(command) => modules::run(command, output),
        Command::Catalog(command) => catalog::run(command, output),
        Command::Schema(command) => schema::run(command, output),
        Command::Emit(arguments) => emit::emit(arguments, output),
        Command::Emits(arguments) => emit::emits(arguments, output),
        Command::Plan(arguments) => emit::plan(&arguments, output),
        Command::Tenants(command) => tenants::run(command, output),
        Command::Keys(command) => keys::run(command, output),
        Command::Subscriptions(command) => subscriptions::run(command, output),
        Command::Dlq(command) => dead_letters::run(command, output),
        Command::Replay(command) => replay::run(command, output),
        Command::Listen(arguments) => listen::run(arguments, output),
        Command::Trigger(arguments) => trigger::run(&arguments, output),
        Command::Sign(arguments) => signing::sign(&arguments, output),
        Command::Verify(arguments) => signing::verify(&arguments, output),
        Command::Doctor(arguments) => doctor::run(&arguments, output),
        Command::Backup(arguments) => backup::run(&arguments, output),
        Command::Bench(command) => bench::run(command, output),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Config { config } => {
            let (file, flags) = (config.as_deref(), config::Flags::default());
            // Shown first, as it says where a value comes from that is refused.
            for described in config::describe(file, &flags)? {
                output.either(&described, &described.to_string())?;
            }
            for unread in config::unread_variables()? {
                output::note(&unread);
            }
            servable::check(&config::load(file, &flags)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    /// What clap checks of a command only when it is asked for, of all of them.
    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}

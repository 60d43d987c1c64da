//! The log: which lines there are, as what, and who writes them.

use std::io::{BufWriter, IsTerminal as _};

use anyhow::{Context as _, Result, bail};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{self, Config, LogFormat};
use crate::telemetry::Telemetry;

/// Which lines are logged.
pub(crate) fn filter(config: &Config) -> Result<EnvFilter> {
    let level = &config.log.level;
    // `EnvFilter` takes any word for the target of lines; this alone would log nothing.
    let is_word = level.chars().all(char::is_alphanumeric) && !level.starts_with("tidings");
    if is_word && level.parse::<LevelFilter>().is_err() {
        bail!(
            "log.level: {level:?} is no level; write off, error, warn, info, debug or trace, or TARGET=LEVEL"
        );
    }
    EnvFilter::try_new(level).context("log.level")
}

/// Sets the log up. A thread writes it, many lines at once: whoever is slow to read it keeps no request waiting, until so many
/// lines wait that memory would be at stake. None is left out.
pub(crate) fn begin(config: &Config, telemetry: Option<&Telemetry>) -> Result<WorkerGuard> {
    let filter = filter(config)?;
    let json = config.log.format == LogFormat::Json;
    let colours = std::io::stderr().is_terminal() && config::colours_wanted();
    let builder = NonBlockingBuilder::default()
        .lossy(false)
        .thread_name("log-writer");
    let (writer, logging) = builder.finish(BufWriter::new(std::io::stderr()));
    let Some(telemetry) = telemetry else {
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer);
        if json {
            lines.json().flatten_event(true).init();
        } else {
            lines.with_ansi(colours).init();
        }
        return Ok(logging);
    };
    // A filter for each: what traces are made of must not depend on what is logged.
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(colours).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(telemetry.layer())
        .init();
    Ok(logging)
}

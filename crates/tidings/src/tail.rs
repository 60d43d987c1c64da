//! `tidings tail`: events as they come, until it is interrupted.

use anyhow::Result;
use serde::Serialize;
use tidings_client::{Event, StreamQuery};

use crate::connection::{Connection, block_on};
use crate::events::LINE;
use crate::output::Output;

/// A lost connection is made anew and goes on after the last event that came.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Only events of this type or pattern, as in crm.* or crm.**
    #[arg(long, value_name = "PATTERN")]
    r#type: Option<String>,
    /// Begin after this cursor (the member 'cursor' of a line) instead of now
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
}

/// An event, and what to go on after.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    event: Event,
    cursor: String,
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let query = StreamQuery {
        event_type: arguments.r#type,
        after: arguments.since,
    };
    block_on(async {
        let mut stream = client.stream(query);
        loop {
            let next = stream.next().await?;
            let line = Line {
                event: next.event,
                cursor: next.cursor,
            };
            output.next(&line, &LINE)?;
        }
    })
}

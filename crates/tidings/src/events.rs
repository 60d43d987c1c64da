//! `tidings events`: the tenant's events, one or a list.

use anyhow::Result;
use tidings_client::EventQuery;

use crate::connection::{Connection, block_on};
use crate::output::{Column, Output};
use crate::paging::Paging;
use crate::trace;

/// How an event is shown among others.
pub(crate) const LINE: [Column; 6] = [
    ("RECEIVED", "receivedAt"),
    ("TYPE", "type"),
    ("EVENT ID", "eventId"),
    ("PARTITION", "partition"),
    ("OFFSET", "offset"),
    ("DATA", "data"),
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show one event
    Get {
        #[command(flatten)]
        connection: Connection,
        /// Its id, as the receipt has it
        id: String,
    },
    /// Show what became of an event: each delivery, each attempt, where the time went, and why nothing has come where it has not
    Trace {
        #[command(flatten)]
        connection: Connection,
        /// Its id, as the receipt has it
        id: String,
    },
    /// List events, newest last
    List(List),
}

#[derive(clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    /// Only this type or pattern, as in crm.* or crm.**
    #[arg(long, value_name = "PATTERN")]
    r#type: Option<String>,
    /// Only this topic
    #[arg(long)]
    topic: Option<String>,
    /// Received at or after this RFC 3339 time
    #[arg(long)]
    since: Option<String>,
    /// Received before this RFC 3339 time
    #[arg(long)]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Get { connection, id } => {
            let client = connection.client()?;
            let event = block_on(async { Ok(client.get_event(&id).await?) })?;
            output.one(&event)
        }
        Command::Trace { connection, id } => {
            let client = connection.client()?;
            let trace = block_on(async { Ok(client.trace_event(&id).await?) })?;
            let told = serde_json::from_str(trace.get())?;
            let text = trace::readable(&told, |good, text| output.verdict(good, text));
            output.either(&trace, &text)
        }
        Command::List(list) => block_on(list.run(output)),
    }
}

impl List {
    async fn run(self, output: Output) -> Result<()> {
        let client = self.connection.client()?;
        let mut query = EventQuery {
            event_type: self.r#type,
            topic: self.topic,
            since: self.since,
            until: self.until,
            limit: self.paging.limit,
            cursor: None,
        };
        let pages = self.paging.list(output, &LINE, async |cursor| {
            query.cursor = cursor;
            client.list_events(&query).await
        });
        pages.await
    }
}

//! `tidings dlq`: deliveries that were given up.

use anyhow::Result;
use serde_json::json;
use tidings_client::DeadLetterQuery;

use crate::connection::{Connection, block_on};
use crate::output::{Column, Output};
use crate::replay;

const SHOWN: [Column; 7] = [
    ("ID", "id"),
    ("CREATED", "createdAt"),
    ("TYPE", "type"),
    ("SUBSCRIPTION", "subscriptionId"),
    ("ATTEMPTS", "attempts"),
    ("STATE", "state"),
    ("LAST ERROR", "lastError"),
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List dead letters, oldest first
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        filters: Filters,
        /// Only those that are open, replaying or closed
        #[arg(long)]
        state: Option<String>,
        /// At most so many, 1 to 1,000
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// Go on where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show a dead letter with its event
    #[command(visible_alias = "show")]
    Get(One),
    /// Send a dead letter's event again, or those of all that the filters fit; success closes it
    #[command(group(clap::ArgGroup::new("which").required(true).args(["id", "all"])))]
    Replay {
        #[command(flatten)]
        connection: Connection,
        /// The dead letter's id, as 'dlq list' has it
        #[arg(conflicts_with_all = ["type", "subscription", "since", "until", "error"])]
        id: Option<String>,
        /// All open ones that the filters fit
        #[arg(long)]
        all: bool,
        /// At most so many a second, with --all
        #[arg(long, requires = "all")]
        rate: Option<u32>,
        /// Do not wait for the end, with --all
        #[arg(long, requires = "all")]
        detach: bool,
        #[command(flatten)]
        filters: Filters,
    },
    /// Remove a dead letter
    Delete(One),
}

#[derive(clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    connection: Connection,
    /// The dead letter's id, as 'dlq list' has it
    id: String,
}

/// Which dead letters.
#[derive(clap::Args)]
pub(crate) struct Filters {
    /// Only of this event type
    #[arg(long)]
    r#type: Option<String>,
    /// Only of this subscription
    #[arg(long, value_name = "ID")]
    subscription: Option<String>,
    /// Given up at or after this RFC 3339 time
    #[arg(long)]
    since: Option<String>,
    /// Given up before this RFC 3339 time
    #[arg(long)]
    until: Option<String>,
    /// Only with this text in the last error
    #[arg(long)]
    error: Option<String>,
}

impl Filters {
    fn query(self) -> DeadLetterQuery {
        DeadLetterQuery {
            event_type: self.r#type,
            subscription: self.subscription,
            since: self.since,
            until: self.until,
            error: self.error,
            ..DeadLetterQuery::default()
        }
    }
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::List {
            connection,
            filters,
            state,
            limit,
            cursor,
        } => {
            let client = connection.client()?;
            let query = DeadLetterQuery {
                state,
                limit,
                cursor,
                ..filters.query()
            };
            let page = block_on(async { Ok(client.list_dead_letters(&query).await?) })?;
            output.list(&page.items, &SHOWN)?;
            if let Some(next) = page.next_cursor {
                eprintln!("there may be more: --cursor {next}");
            }
            Ok(())
        }
        Command::Get(one) => {
            let client = one.connection.client()?;
            let letter = block_on(async { Ok(client.get_dead_letter(&one.id).await?) })?;
            output.one(&letter)
        }
        Command::Replay {
            connection,
            id,
            filters,
            rate,
            detach,
            ..
        } => {
            let client = connection.client()?;
            let query = filters.query();
            let answer = block_on(async {
                if let Some(id) = &id {
                    return Ok(client.replay_dead_letter(id).await?);
                }
                let begun = client.replay_dead_letters(&query, rate).await?;
                if detach {
                    return Ok(begun);
                }
                replay::watched(&client, begun).await
            })?;
            output.one(&answer)
        }
        Command::Delete(one) => {
            let client = one.connection.client()?;
            block_on(async { Ok(client.delete_dead_letter(&one.id).await?) })?;
            let said = json!({ "id": one.id, "deleted": true });
            output.either(&said, &format!("{} is gone", one.id))
        }
    }
}

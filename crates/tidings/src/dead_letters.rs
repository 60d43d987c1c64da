//! `tidings dlq`: deliveries that were given up.

use anyhow::Result;
use serde_json::json;
use tidings_client::{DeadLetterFilter, DeadLetterQuery};

use crate::connection::{Connection, block_on};
use crate::output::{Column, Output, note};
use crate::paging::Paging;
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
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a dead letter with its event
    #[command(visible_alias = "show")]
    Get(One),
    /// Send a dead letter's event again, or those of all that the filters fit; success closes it. With --all the exit code is 1
    /// if any failed, or was not sent since its subscription is gone
    #[command(group(clap::ArgGroup::new("which").required(true).args(["id", "all"])))]
    Replay {
        #[command(flatten)]
        connection: Connection,
        /// The dead letter's id, as 'dlq list' has it
        #[arg(conflicts_with_all = ["type", "subscription", "since", "until", "error", "rate", "detach"])]
        id: Option<String>,
        /// All open ones that the filters fit
        #[arg(long)]
        all: bool,
        /// At most so many a second, with --all
        #[arg(long)]
        rate: Option<u32>,
        /// Do not wait for the end, with --all
        #[arg(long)]
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
    /// Only of this event type, or of those that a pattern stands for, as in crm.** or crm.*.created
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
    fn read(self) -> DeadLetterFilter {
        DeadLetterFilter {
            event_type: self.r#type,
            subscription: self.subscription,
            since: self.since,
            until: self.until,
            error: self.error,
        }
    }
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::List {
            connection,
            filters,
            state,
            paging,
        } => {
            let client = connection.client()?;
            let mut query = DeadLetterQuery {
                state: state.map(|state| state.to_lowercase()),
                limit: paging.limit,
                filter: filters.read(),
                cursor: None,
            };
            block_on(paging.list(output, &SHOWN, async |cursor| {
                query.cursor = cursor;
                client.list_dead_letters(&query).await
            }))
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
            let filter = filters.read();
            match id {
                Some(id) => {
                    let answer = block_on(async { Ok(client.replay_dead_letter(&id).await?) })?;
                    if answer["state"] == "closed" {
                        note(&format!(
                            "dead letter {id} is closed: nothing was sent. A newer one of the same event and \
                             subscription closes it too; 'dlq list --state open' has what can be replayed"
                        ));
                    }
                    output.one(&answer)
                }
                None => block_on(async {
                    let begun = client.replay_dead_letters(&filter, rate).await?;
                    if detach {
                        return output.one(&begun);
                    }
                    replay::told(&replay::watched(&client, begun).await?, output)
                }),
            }
        }
        Command::Delete(one) => {
            let client = one.connection.client()?;
            block_on(async { Ok(client.delete_dead_letter(&one.id).await?) })?;
            let said = json!({ "id": one.id, "deleted": true });
            output.either(&said, &format!("{} is gone", one.id))
        }
    }
}

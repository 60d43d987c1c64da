//! `tidings replay`: history that is sent again to one subscription.

use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tidings_client::Client;

use crate::connection::{Connection, block_on};
use crate::failure::Reported;
use crate::output::{Column, Output, note, progress_bar};
use crate::paging::Paging;
use crate::stop::Stop;

/// How often progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(500);

const SHOWN: [Column; 9] = [
    ("ID", "id"),
    ("CREATED", "createdAt"),
    ("KIND", "kind"),
    ("STATE", "state"),
    ("TOTAL", "total"),
    ("SENT", "sent"),
    ("DELIVERED", "delivered"),
    ("FAILED", "failed"),
    ("SKIPPED", "skipped"),
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Send what stands in the log again, and show progress to the end; the exit code is 1 if any failed
    Start(Start),
    /// List the tenant's replays, newest first
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show how far a replay has come
    Get(One),
    /// Show a replay's progress to its end; the exit code is 1 if any failed or was not sent
    Watch(One),
    /// Stop a replay where it is
    Cancel(One),
    /// Go on with a replay that was cancelled
    Resume(One),
}

#[derive(clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    connection: Connection,
    /// The subscription's id, as 'subscriptions list' has it
    subscription: String,
    /// beginning, or an RFC 3339 time
    #[arg(long)]
    from: String,
    /// What was received before this RFC 3339 time; up to now if not given
    #[arg(long)]
    until: Option<String>,
    /// Only of these types or patterns, separated by commas
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// At most so many a second
    #[arg(long)]
    rate: Option<u32>,
    /// then: what was sent then; now: what meets the filter as it is
    #[arg(long, value_parser = ["then", "now"])]
    routing: Option<String>,
    /// Send here instead, without the subscription's credentials and headers
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

#[derive(clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    connection: Connection,
    /// The replay's id
    id: String,
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    block_on(carry_out(command, output))
}

async fn carry_out(command: Command, output: Output) -> Result<()> {
    let answer = match command {
        Command::Start(start) => {
            let client = start.connection.client()?;
            let plan = json!({
                "from": start.from, "until": start.until, "types": start.types, "rate": start.rate,
                "routing": start.routing, "shadowUrl": start.to, "dryRun": start.dry_run,
            });
            let begun = client.replay_history(&start.subscription, &plan).await?;
            if start.dry_run || start.detach {
                begun
            } else {
                return told(&watched(&client, begun).await?, output);
            }
        }
        Command::List { connection, paging } => {
            let (client, limit) = (connection.client()?, paging.limit);
            let pages = paging.list(output, &SHOWN, async |cursor| {
                client.list_replays(limit, cursor.as_deref()).await
            });
            return pages.await;
        }
        Command::Get(one) => one.connection.client()?.get_replay(&one.id).await?,
        Command::Watch(one) => {
            let client = one.connection.client()?;
            let replay = client.get_replay(&one.id).await?;
            return told(&watched(&client, replay).await?, output);
        }
        Command::Cancel(one) => one.connection.client()?.cancel_replay(&one.id).await?,
        Command::Resume(one) => one.connection.client()?.resume_replay(&one.id).await?,
    };
    output.one(&answer)
}

/// Prints a replay that was watched to its end; one that did not send all of it is a failure.
pub(crate) fn told(replay: &Value, output: Output) -> Result<()> {
    output.one(replay)?;
    if went_well(replay) {
        Ok(())
    } else {
        Err(Reported.into())
    }
}

fn went_well(replay: &Value) -> bool {
    let none = |name: &str| replay[name].as_u64().unwrap_or(0) == 0;
    replay["state"] == "done" && none("failed") && none("skipped")
}

/// Shows progress until a replay has ended; answers it as it is then. Whoever interrupts it is told that the replay goes on.
pub(crate) async fn watched(client: &Client, mut replay: Value) -> Result<Value> {
    let id = replay["id"].as_str().unwrap_or_default().to_owned();
    note(&format!("replay {id}"));
    let bar = progress_bar(
        ProgressBar::new(replay["total"].as_u64().unwrap_or(0)),
        "{bar:30} {pos} of {len}, {rate}, {elapsed}  {msg}",
    );
    let mut stop = Stop::listen()?;
    while matches!(replay["state"].as_str(), Some("planned" | "running")) {
        let next = async {
            tokio::time::sleep(ASK_EVERY).await;
            client.get_replay(&id).await
        };
        replay = tokio::select! {
            next = next => next?,
            () = stop.told() => {
                bar.finish_and_clear();
                note(&format!(
                    "replay {id} goes on: 'tidings replay watch {id}' shows it again, 'tidings replay cancel {id}' stops it"
                ));
                return Err(Reported.into());
            }
        };
        let counted = |name: &str| replay[name].as_u64().unwrap_or(0);
        let (failed, skipped) = (counted("failed"), counted("skipped"));
        bar.set_position(counted("delivered") + failed + skipped);
        bar.set_message(match skipped {
            0 => format!("{failed} failed"),
            _ => format!("{failed} failed, {skipped} not sent"),
        });
    }
    bar.finish_and_clear();
    Ok(replay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_failed_in_part_or_was_stopped_is_a_failure() {
        let of = |state: &str, failed: u64| went_well(&json!({ "state": state, "failed": failed }));
        let skipped = json!({ "state": "done", "failed": 0, "skipped": 1 });
        assert!(!went_well(&skipped));
        assert!(of("done", 0));
        assert!(!of("done", 1));
        assert!(!of("cancelled", 0));
        assert!(!of("failed", 0));
    }
}

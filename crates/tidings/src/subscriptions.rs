//! `tidings subscriptions`: who is sent which of the tenant's events.

use anyhow::Result;
use serde_json::{Value, json};

use crate::connection::{AT_ONCE, Connection, block_on, every_item};
use crate::failure::Reported;
use crate::input;
use crate::output::{Column, Output};

const SHOWN: [Column; 7] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("STATE", "state"),
    ("TYPES", "filter/types"),
    ("URL", "target/url"),
    ("TOPIC", "target/topic"),
    ("REASON", "reason"),
];

const PARKED: [Column; 6] = [
    ("KEY", "key"),
    ("EVENT", "eventId"),
    ("SEQUENCE", "sequence"),
    ("ATTEMPTS", "attempts"),
    ("PARKED AT", "parkedAt"),
    ("BEHIND", "behind"),
];

const CASES: [Column; 6] = [
    ("CASE", "case"),
    ("PASSED", "passed"),
    ("STATUS", "status"),
    ("EXPECTED", "expected"),
    ("SENT", "sent"),
    ("ERROR", "error"),
];

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List all of the tenant's subscriptions
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a subscription
    Get(One),
    /// Make a subscription; the answer has the secret that a webhook's messages are verified with
    Create {
        #[command(flatten)]
        connection: Connection,
        /// A file with the subscription as JSON, also as @FILE, or - for standard input
        file: String,
    },
    /// Change a subscription by a JSON merge patch
    Patch {
        #[command(flatten)]
        one: One,
        /// The patch: @FILE, JSON itself, or - for standard input
        patch: String,
    },
    /// Take a subscription away
    Delete(One),
    /// Stop sending; what matches waits
    Pause(One),
    /// Send again, what has waited first
    Resume(One),
    /// Go on from another place of the log
    Seek {
        #[command(flatten)]
        one: One,
        /// now, beginning, or an RFC 3339 time
        #[arg(long)]
        to: String,
    },
    /// Sign with a new secret, and with the one before for a while
    RotateSecret {
        #[command(flatten)]
        one: One,
        /// How long the secret before stays good, as in 24h, which is the default; 0s ends it at once
        #[arg(long)]
        overlap: Option<String>,
        /// A secret of your own, whsec_… or whsk_…; one is made if not given
        #[arg(long)]
        secret: Option<String>,
    },
    /// Show the secrets in force
    Secret(One),
    /// List the keys of an ordered subscription that are parked
    Parked(One),
    /// Let a parked key go on, its head first
    Release {
        #[command(flatten)]
        one: One,
        /// The key, as 'subscriptions parked' has it
        #[arg(long)]
        key: String,
        /// Make the head a dead letter; what is behind it goes on
        #[arg(long)]
        drop_head: bool,
    },
    /// Send the receiver what it must cope with; exit code 1 when it does not
    Test(One),
}

#[derive(clap::Args)]
pub(crate) struct One {
    #[command(flatten)]
    connection: Connection,
    /// The subscription's id, as 'subscriptions list' has it
    id: String,
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    block_on(carry_out(command, output))
}

async fn carry_out(command: Command, output: Output) -> Result<()> {
    let answer = match command {
        Command::List { connection } => {
            let client = connection.client()?;
            let all = every_item(async |cursor| {
                let page = client.list_subscriptions(Some(AT_ONCE), cursor.as_deref());
                page.await
            });
            return output.list(&all.await?, &SHOWN);
        }
        Command::Test(one) => return test(&one, output).await,
        Command::Parked(one) => return output.list(&parked(&one).await?, &PARKED),
        Command::Release {
            one,
            key,
            drop_head,
        } => {
            let client = one.connection.client()?;
            client.release_parked_key(&one.id, &key, drop_head).await?;
            let said =
                json!({ "id": one.id, "key": key, "released": true, "headDropped": drop_head });
            return output.either(&said, &format!("key {key} goes on"));
        }
        Command::Delete(one) => {
            one.connection
                .client()?
                .delete_subscription(&one.id)
                .await?;
            let said = json!({ "id": one.id, "deleted": true });
            return output.either(&said, &format!("{} is gone", one.id));
        }
        Command::Create { connection, file } => {
            let client = connection.client()?;
            client.create_subscription(&input::document(&file)?).await?
        }
        Command::Patch { one, patch } => {
            let client = one.connection.client()?;
            client
                .patch_subscription(&one.id, &input::data(&patch, "PATCH")?)
                .await?
        }
        Command::Seek { one, to } => {
            let client = one.connection.client()?;
            client.seek_subscription(&one.id, &to).await?
        }
        Command::RotateSecret {
            one,
            overlap,
            secret,
        } => {
            let client = one.connection.client()?;
            let (overlap, secret) = (overlap.as_deref(), secret.as_deref());
            client
                .rotate_subscription_secret(&one.id, overlap, secret)
                .await?
        }
        Command::Get(one) => one.connection.client()?.get_subscription(&one.id).await?,
        Command::Pause(one) => one.connection.client()?.pause_subscription(&one.id).await?,
        Command::Resume(one) => {
            one.connection
                .client()?
                .resume_subscription(&one.id)
                .await?
        }
        Command::Secret(one) => {
            one.connection
                .client()?
                .get_subscription_secret(&one.id)
                .await?
        }
    };
    output.one(&answer)
}

/// All parked keys, page by page.
async fn parked(one: &One) -> Result<Vec<Value>> {
    let client = one.connection.client()?;
    let (mut items, mut cursor) = (Vec::new(), None);
    loop {
        let mut page = client
            .list_parked_keys(&one.id, Some(AT_ONCE), cursor)
            .await?;
        if let Some(keys) = page["items"].as_array_mut() {
            items.append(keys);
        }
        cursor = page["nextCursor"].as_u64();
        if cursor.is_none() {
            return Ok(items);
        }
    }
}

async fn test(one: &One, output: Output) -> Result<()> {
    let report = one.connection.client()?.test_subscription(&one.id).await?;
    let cases = report["cases"].as_array().cloned().unwrap_or_default();
    output.list(&cases, &CASES)?;
    if report["passed"] == true {
        return Ok(());
    }
    Err(Reported.into())
}

//! `tidings keys`: the API keys that servers and tools authenticate with.

use anyhow::Result;
use serde_json::{Value, json};
use tidings_client::NewApiKey;

use crate::connection::{AT_ONCE, Connection, block_on, every_item};
use crate::output::{Format, Output, note};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key; it is shown this once
    Create(Create),
    /// List all of the tenant's keys, ended ones too, without the keys themselves
    List {
        #[command(flatten)]
        connection: Connection,
        /// Whose keys; only for operators
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a key at once
    Revoke {
        #[command(flatten)]
        connection: Connection,
        /// The key's id, as 'keys list' has it
        id: String,
        /// Whose key it is; only for operators
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    connection: Connection,
    /// What to call it
    #[arg(long)]
    name: String,
    /// What it may do, several times: publish:TYPE, publish:PATTERN, events:read,
    /// events:register
    #[arg(long, required = true)]
    scope: Vec<String>,
    /// The module it publishes as, within that module's manifest
    #[arg(long)]
    module: Option<String>,
    /// When it ends by itself: an RFC 3339 time, or a duration from now such as 90d
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<String>,
    /// Whose key it is to be; only for operators
    #[arg(long)]
    tenant: Option<String>,
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Create(create) => {
            let client = create.connection.client()?;
            let created = block_on(async { Ok(client.create_api_key(&create.wanted()).await?) })?;
            output.one(&json!(created))?;
            if output.format == Format::Table {
                note("Keep the key now: it is not shown again.");
            }
            Ok(())
        }
        Command::List { connection, tenant } => {
            let client = connection.client()?;
            let keys = block_on(every_item(async |cursor| {
                let (tenant, cursor) = (tenant.as_deref(), cursor.as_deref());
                client.list_api_keys(tenant, Some(AT_ONCE), cursor).await
            }))?;
            let items: Vec<Value> = keys.iter().map(|key| json!(key)).collect();
            let shown = [
                ("ID", "id"),
                ("NAME", "name"),
                ("MODULE", "module"),
                ("SCOPES", "scopes"),
                ("CREATED", "createdAt"),
                ("EXPIRES", "expiresAt"),
                ("REVOKED", "revokedAt"),
            ];
            output.list(&items, &shown)
        }
        Command::Revoke {
            connection,
            id,
            tenant,
        } => {
            let client = connection.client()?;
            block_on(async { Ok(client.revoke_api_key(&id, tenant.as_deref()).await?) })?;
            output.either(
                &json!({ "id": id, "revoked": true }),
                &format!("{id} is revoked"),
            )
        }
    }
}

impl Create {
    fn wanted(&self) -> NewApiKey {
        NewApiKey {
            name: self.name.clone(),
            module: self.module.clone(),
            scopes: self.scope.clone(),
            expires_at: self.expires.clone(),
            tenant_id: self.tenant.clone(),
        }
    }
}

/// A time as it is, a duration counted from now.
fn expiry(text: &str) -> Result<String, String> {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    let wrong = |_| format!("{text:?} is neither an RFC 3339 time nor a duration such as 90d");
    let duration = crate::config::duration_flag(text).map_err(wrong)?;
    let until = jiff::Timestamp::now().checked_add(duration);
    until
        .map(|time| time.to_string())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_a_time_or_after_a_duration() {
        assert_eq!(
            expiry("2030-01-01T00:00:00Z").unwrap(),
            "2030-01-01T00:00:00Z"
        );
        let later: jiff::Timestamp = expiry("1d").unwrap().parse().unwrap();
        let hours = later.duration_since(jiff::Timestamp::now()).as_hours();
        assert!((23..=24).contains(&hours), "{hours}");
        assert!(expiry("soon").unwrap_err().contains("90d"));
    }
}

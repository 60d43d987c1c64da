//! `tidings tenants`: whom the installation serves, on which plan and under which namespaces.

use anyhow::Result;
use serde_json::Value;
use tidings_client::{Client, Error};

use crate::connection::{Connection, block_on};
use crate::output::Output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Show a tenant: its plan, its slug and its namespaces
    Get {
        #[command(flatten)]
        connection: Connection,
        /// The tenant's id
        tenant: String,
    },
    /// Write a tenant; what is not given stays as it is. Needs an operator's credential
    Put {
        #[command(flatten)]
        connection: Connection,
        /// The tenant's id
        tenant: String,
        /// FREE, BASIC, PRO or ENTERPRISE
        #[arg(long)]
        plan: Option<String>,
        /// What it is called by in the names of its events; made from the id of a new tenant if not given
        #[arg(long)]
        slug: Option<String>,
        /// A namespace that it may register events under, several times; these alone, then
        #[arg(long)]
        namespace: Vec<String>,
    },
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Get { connection, tenant } => {
            let client = connection.client()?;
            output.one(&block_on(async { Ok(client.get_tenant(&tenant).await?) })?)
        }
        Command::Put {
            connection,
            tenant,
            plan,
            slug,
            namespace,
        } => {
            let client = connection.client()?;
            let written = block_on(async {
                let before = known(&client, &tenant).await?;
                let plan = plan.as_deref().or(before["plan"].as_str());
                let plan = plan.unwrap_or("FREE");
                let stay = before["namespaces"].as_array().into_iter().flatten();
                let stay = stay.filter_map(Value::as_str).map(str::to_owned);
                let namespaces = if namespace.is_empty() {
                    stay.collect()
                } else {
                    namespace
                };
                let written = client.put_tenant(&tenant, slug.as_deref(), plan, &namespaces);
                Ok(written.await?)
            })?;
            output.one(&written)
        }
    }
}

/// The tenant as it is; nothing when there is none yet.
async fn known(client: &Client, tenant: &str) -> Result<Value> {
    match client.get_tenant(tenant).await {
        Ok(tenant) => Ok(tenant),
        Err(Error::Refused(problem)) if problem.status == 404 => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

//! `tidings tenants`: whom the installation serves, on which plan and under which namespaces.

use anyhow::Result;

use crate::connection::{AT_ONCE, Connection, block_on, every_item};
use crate::output::Output;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List all tenants. Needs an operator's credential
    List {
        #[command(flatten)]
        connection: Connection,
    },
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
        /// FREE, BASIC, PRO or ENTERPRISE; a new tenant is on FREE
        #[arg(long)]
        plan: Option<String>,
        /// Its own namespace, under which it may always register events; made from the id of a new tenant
        #[arg(long)]
        slug: Option<String>,
        /// A namespace that it may register events under beside its slug, several times; these alone, then
        #[arg(long)]
        namespace: Vec<String>,
    },
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::List { connection } => {
            let client = connection.client()?;
            let tenants = block_on(every_item(async |cursor| {
                client.list_tenants(Some(AT_ONCE), cursor.as_deref()).await
            }))?;
            let shown = [
                ("ID", "id"),
                ("PLAN", "plan"),
                ("SLUG", "slug"),
                ("NAMESPACES", "namespaces"),
                ("CREATED", "createdAt"),
            ];
            output.list(&tenants, &shown)
        }
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
            let plan = plan.map(|plan| plan.to_uppercase());
            let namespaces = (!namespace.is_empty()).then_some(&*namespace);
            let written = block_on(async {
                let written =
                    client.put_tenant(&tenant, slug.as_deref(), plan.as_deref(), namespaces);
                Ok(written.await?)
            })?;
            output.one(&written)
        }
    }
}

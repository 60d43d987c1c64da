//! `tidings schema`: the events that a tenant defines, and how their schemas change.

use anyhow::Result;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::{CustomEventQuery, NewCustomEvent};

use crate::connection::{Connection, block_on, every_item};
use crate::failure::{Reported, Usage};
use crate::input;
use crate::output::{Column, Format, Output, member, plain};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Register a version; a draft unless --publish is given
    Register {
        #[command(flatten)]
        proposal: Proposal,
    },
    /// Ask what registering would say; the exit code is 1 if it would be refused
    DryRun {
        #[command(flatten)]
        proposal: Proposal,
    },
    /// Say what lies between two versions, and what each place breaks
    Diff {
        #[command(flatten)]
        connection: Connection,
        /// The event, NAMESPACE.NAME
        event: String,
        /// The version before
        from: String,
        /// The version after
        to: String,
    },
    /// List what is registered
    List {
        #[command(flatten)]
        connection: Connection,
        /// In this namespace only
        #[arg(long)]
        namespace: Option<String>,
        /// Of this name only
        #[arg(long)]
        name: Option<String>,
        /// With this status only: draft, published, archived or superseded
        #[arg(long)]
        status: Option<String>,
    },
    /// Show an event with all its versions, or one of them
    Get {
        #[command(flatten)]
        connection: Connection,
        /// The event, NAMESPACE.NAME or NAMESPACE.NAME@VERSION
        event: String,
    },
    /// Put a draft in force
    Publish {
        #[command(flatten)]
        connection: Connection,
        /// The version, NAMESPACE.NAME@VERSION
        version: String,
    },
    /// Take a version out of force, for good
    Archive {
        #[command(flatten)]
        connection: Connection,
        /// The version, NAMESPACE.NAME@VERSION
        version: String,
    },
}

#[derive(clap::Args)]
pub(crate) struct Proposal {
    #[command(flatten)]
    connection: Connection,
    /// The version, NAMESPACE.NAME@VERSION
    version: String,
    /// Its schema: JSON, @FILE, or - for standard input
    schema: String,
    /// As a version that is published, in force at once, rather than as a draft
    #[arg(long)]
    publish: bool,
    /// What the event tells of
    #[arg(long)]
    description: Option<String>,
    /// A payload that fits: JSON or @FILE
    #[arg(long, value_name = "DATA")]
    example: Option<String>,
}

const LISTED: [Column; 6] = [
    ("NAMESPACE", "namespace"),
    ("NAME", "name"),
    ("VERSION", "version"),
    ("STATUS", "status"),
    ("BUMP", "semverBump"),
    ("CHANGED", "updatedAt"),
];
const VERSIONS: [Column; 4] = [
    ("VERSION", "version"),
    ("STATUS", "status"),
    ("BUMP", "semverBump"),
    ("HASH", "schemaHash"),
];
const DIFFERENCES: [Column; 3] = [
    ("CLASS", "class"),
    ("POINTER", "pointer"),
    ("CHANGE", "detail"),
];

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Register { proposal } => {
            let (client, new) = (proposal.connection.client()?, proposal.read()?);
            let made = block_on(async { Ok(client.register_custom_event(&new).await?) })?;
            let (bump, status) = (member(&made, "semverBump"), member(&made, "status"));
            let said = format!(
                "{} is registered ({bump}, {status})",
                member(&made, "canonicalName")
            );
            output.either(&made, &said)
        }
        Command::DryRun { proposal } => {
            let (client, new) = (proposal.connection.client()?, proposal.read()?);
            let verdict = block_on(async { Ok(client.dry_run_custom_event(&new).await?) })?;
            told(&verdict, output)
        }
        Command::Diff {
            connection,
            event,
            from,
            to,
        } => {
            let (client, (namespace, name)) = (connection.client()?, parted(&event)?);
            let between = (from.as_str(), to.as_str());
            let found = client.diff_custom_event(namespace, name, between);
            let found = block_on(async { Ok(found.await?) })?;
            compared(&found, output)
        }
        Command::List {
            connection,
            namespace,
            name,
            status,
        } => {
            let query = CustomEventQuery {
                namespace,
                name,
                status: status.map(|status| status.to_lowercase()),
                limit: Some(100),
                cursor: None,
            };
            let client = connection.client()?;
            let items = block_on(every_item(async |cursor| {
                let page = CustomEventQuery {
                    cursor,
                    ..query.clone()
                };
                client.list_custom_events(&page).await
            }))?;
            output.list(&items, &LISTED)
        }
        Command::Get { connection, event } => {
            let client = connection.client()?;
            if event.contains('@') {
                let (namespace, name, version) = versioned(&event)?;
                let found = client.get_custom_event_version(namespace, name, version);
                return output.one(&block_on(async { Ok(found.await?) })?);
            }
            let (namespace, name) = parted(&event)?;
            let found = client.get_custom_event(namespace, name);
            let found = block_on(async { Ok(found.await?) })?;
            if output.format == Format::Table {
                let found: Versions = serde_json::from_str(found.get())?;
                return output.list(&found.versions, &VERSIONS);
            }
            output.one(&found)
        }
        Command::Publish {
            connection,
            version,
        } => moved(&connection, &version, "published", output),
        Command::Archive {
            connection,
            version,
        } => moved(&connection, &version, "archived", output),
    }
}

/// An event's versions, as they were written.
#[derive(Deserialize)]
struct Versions {
    #[serde(default)]
    versions: Vec<Box<RawValue>>,
}

impl Proposal {
    fn read(&self) -> Result<NewCustomEvent> {
        let (namespace, name, version) = versioned(&self.version)?;
        let status = if self.publish { "published" } else { "draft" };
        Ok(NewCustomEvent {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            status: status.to_owned(),
            description: self.description.clone(),
            payload_schema: input::written(&self.schema, "SCHEMA")?,
            payload_example: (self.example.as_deref())
                .map(|example| input::written(example, "--example"))
                .transpose()?,
        })
    }
}

/// The verdict of a dry run; its refusal is the command's.
fn told(verdict: &Value, output: Output) -> Result<()> {
    let valid = verdict["valid"] == true;
    if output.format == Format::Table {
        let what = match (valid, verdict["comparedWith"].as_str()) {
            (true, Some(before)) => {
                format!(
                    "valid: {} after {}",
                    member(verdict, "semverBump"),
                    plain(before)
                )
            }
            (true, None) => format!("valid: {}", member(verdict, "semverBump")),
            (false, _) => "refused".to_owned(),
        };
        let mut lines = vec![output.verdict(valid, &what)];
        for error in listed(verdict, "errors") {
            let place = format!("{}{}", member(&error, "field"), member(&error, "pointer"));
            lines.push(format!(
                "{} {place}: {}",
                member(&error, "code"),
                member(&error, "detail")
            ));
            if let Some(payload) = error.get("counterExample") {
                lines.push(plain(&format!("  accepted before, refused now: {payload}")));
            }
        }
        crate::output::print_line(&lines.join("\n"))?;
    } else {
        output.one(verdict)?;
    }
    if valid {
        return Ok(());
    }
    Err(Reported.into())
}

fn compared(found: &Value, output: Output) -> Result<()> {
    if output.format != Format::Table {
        return output.one(found);
    }
    output.list(&listed(found, "differences"), &DIFFERENCES)?;
    let payload = &found["counterExample"];
    if payload.is_null() {
        return Ok(());
    }
    let (from, to) = (member(found, "from"), member(found, "to"));
    let payload = plain(&payload.to_string());
    crate::output::print_line(&format!("accepted by {from}, refused by {to}: {payload}"))
}

fn moved(connection: &Connection, version: &str, status: &str, output: Output) -> Result<()> {
    let (client, (namespace, name, number)) = (connection.client()?, versioned(version)?);
    let patch = json!({ "status": status });
    let changed = client.patch_custom_event(namespace, name, number, &patch);
    let changed = block_on(async { Ok(changed.await?) })?;
    output.either(&changed, &plain(&format!("{version} is {status}")))
}

fn listed(value: &Value, member: &str) -> Vec<Value> {
    value[member].as_array().cloned().unwrap_or_default()
}

/// `NAMESPACE.NAME`: the first dot parts them.
fn parted(event: &str) -> Result<(&str, &str)> {
    let parts = event.split_once('.');
    Ok(parts.ok_or_else(|| Usage(format!("{event:?} is no event: write NAMESPACE.NAME")))?)
}

fn versioned(text: &str) -> Result<(&str, &str, &str)> {
    let wrong = || {
        Usage(format!(
            "{text:?} is no version: write NAMESPACE.NAME@VERSION"
        ))
    };
    let (event, version) = text.split_once('@').ok_or_else(wrong)?;
    let (namespace, name) = event.split_once('.').ok_or_else(wrong)?;
    Ok((namespace, name, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_in_one_word() {
        let (namespace, name, version) = versioned("lettings.property.favorited@1.0.0").unwrap();
        assert_eq!(
            (namespace, name, version),
            ("lettings", "property.favorited", "1.0.0")
        );
        for bad in ["lettings", "lettings.made", "lettings@1.0.0"] {
            assert!(versioned(bad).unwrap_err().is::<Usage>(), "{bad}");
        }
        assert!(parted("lettings").unwrap_err().is::<Usage>());
    }
}

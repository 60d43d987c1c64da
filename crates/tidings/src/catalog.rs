//! `tidings catalog`: which topics there are, who sends and who receives them, and what their data must be.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidings_client::Error as ClientError;
use tidings_contract::{Broken, Catalog, Change, Fault, diff, documentation, name_readers};
use tidings_event::{CatalogName, EventType, TypePattern};

use crate::connection::{Connection, block_on};
use crate::failure::{Reported, Usage};
use crate::input;
use crate::output::{Column, Format, Output, note, plain, print_line};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Check a catalogue, without a gateway; the exit code is 1 if anything is wrong with it
    Validate {
        /// The file, YAML or JSON, or - for standard input
        file: PathBuf,
    },
    /// Put a catalogue in force; needs an operator's credential
    Apply {
        #[command(flatten)]
        connection: Connection,
        /// The file, YAML or JSON, or - for standard input
        file: PathBuf,
        /// What it is called by, if not by its info.x-tidings-service or its title
        #[arg(long)]
        name: Option<String>,
        /// Let it only document: publishes are not held to it
        #[arg(long)]
        no_enforce: bool,
    },
    /// List the catalogues in force
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Print a catalogue as it was written, or as JSON with -o json
    Get {
        #[command(flatten)]
        connection: Connection,
        /// The catalogue's name
        name: String,
    },
    /// Remove a catalogue: its types are then like any other
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// The catalogue's name
        name: String,
    },
    /// Say what a file would change, and which services each change breaks; the exit code is 1 if any does
    Diff {
        #[command(flatten)]
        connection: Connection,
        /// The file, YAML or JSON, or - for standard input
        file: PathBuf,
        /// The catalogue in force to compare it with, if not that of its own name
        #[arg(long, conflicts_with = "against")]
        name: Option<String>,
        /// Another file to compare it with, instead of what is in force
        #[arg(long, value_name = "FILE")]
        against: Option<PathBuf>,
    },
    /// Write a catalogue down for people, in Markdown
    Docs {
        #[command(flatten)]
        connection: Connection,
        /// A file, or the name of a catalogue in force
        catalog: String,
        /// Where to, if not to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

const LISTED: [Column; 6] = [
    ("NAME", "name"),
    ("TITLE", "title"),
    ("VERSION", "version"),
    ("TOPICS", "topics"),
    ("ENFORCED", "enforce"),
    ("CHANGED", "changedAt"),
];

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Validate { file } => validate(&file, output),
        Command::Apply {
            connection,
            file,
            name,
            no_enforce,
        } => {
            let (text, catalog) = read(&file)?;
            let name = named(name, &catalog)?;
            let client = connection.client()?;
            let answer =
                block_on(async { Ok(client.apply_catalog(&name, &text, !no_enforce).await?) })?;
            let state = match answer.get("changed") {
                Some(Value::Bool(false)) => "was in force already",
                _ => "is in force",
            };
            output.either(&answer, &format!("{name} {state}"))
        }
        Command::List { connection } => {
            let client = connection.client()?;
            let page = block_on(async { Ok(client.list_catalogs().await?) })?;
            output.list(&page.items, &LISTED)
        }
        Command::Get { connection, name } => {
            let text = fetched(&connection, &name)?;
            if output.asked != Some(Format::Json) {
                return print_line(&text);
            }
            let document: Value = serde_saphyr::from_str(&text)
                .with_context(|| format!("{name} is neither YAML nor JSON"))?;
            output.one(&document)
        }
        Command::Delete { connection, name } => {
            let client = connection.client()?;
            block_on(async { Ok(client.delete_catalog(&name).await?) })?;
            let text = format!("{name} is no longer in force");
            output.either(&json!({ "name": name, "deleted": true }), &text)
        }
        Command::Diff {
            connection,
            file,
            name,
            against,
        } => {
            let (_, new) = read(&file)?;
            if let Some(against) = against {
                let changes = diff(&read(&against)?.1, &new);
                return compared(&changes, output);
            }
            let old = in_force(&connection, &named(name, &new)?)?;
            let mut changes = diff(&old, &new);
            if is_breaking(&changes) {
                name_subscribers(&connection, &mut changes)?;
            }
            compared(&changes, output)
        }
        Command::Docs {
            connection,
            catalog,
            out,
        } => {
            let file = Path::new(&catalog);
            let catalog = if file.is_file() {
                read(file)?.1
            } else {
                in_force(&connection, &catalog)?
            };
            let text = documentation(&catalog);
            match out {
                None => print_line(&text),
                Some(out) => std::fs::write(&out, text)
                    .with_context(|| format!("{} cannot be written", out.display())),
            }
        }
    }
}

fn validate(file: &Path, output: Output) -> Result<()> {
    let (text, place) = input::text(file)?;
    let faults = match Catalog::parse(&text) {
        Ok(catalog) => {
            let topics = catalog.channels.len();
            let text = format!("{place}: {topics} topics, nothing is wrong");
            return output.either(&json!({ "valid": true, "topics": topics }), &text);
        }
        Err(faults) => faults,
    };
    let lines: Vec<String> = faults
        .iter()
        .map(|fault| format!("{place}: {fault}"))
        .collect();
    let rendered: Vec<Value> = faults
        .iter()
        .map(|fault| json!({ "path": fault.place, "detail": fault.detail }))
        .collect();
    let value = json!({ "valid": false, "errors": rendered });
    output.either(&value, &plain(&lines.join("\n")))?;
    Err(Reported.into())
}

/// Names the modules too whose manifests subscribe to what is broken. Manifests are shown to operators and to service
/// module-registry alone.
fn name_subscribers(connection: &Connection, changes: &mut [Change]) -> Result<()> {
    let client = connection.client()?;
    let manifests = block_on(async {
        let mut manifests = Vec::new();
        for module in client.list_modules().await?.items {
            manifests.push((module.id.clone(), client.get_manifest(&module.id).await?));
        }
        Ok(manifests)
    });
    let manifests = match manifests {
        Ok(manifests) => manifests,
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(ClientError::Refused(problem)) if problem.status == 403 => {
                note(
                    "Modules that subscribe to what is broken are named to an operator's credential.",
                );
                return Ok(());
            }
            _ => return Err(error),
        },
    };
    name_readers(changes, |event_type| {
        let event_type = event_type.parse::<EventType>();
        let reads = |manifest: &Value| {
            let patterns = manifest["events"]["subscribes"].as_array();
            let patterns = patterns.into_iter().flatten().filter_map(Value::as_str);
            let mut patterns = patterns.filter_map(|it| it.parse::<TypePattern>().ok());
            event_type
                .as_ref()
                .is_ok_and(|it| patterns.any(|pattern| pattern.matches(it)))
        };
        let readers = manifests.iter().filter(|(_, manifest)| reads(manifest));
        readers.map(|(module, _)| module.clone()).collect()
    });
    Ok(())
}

fn is_breaking(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.broken != Broken::Nobody)
}

fn compared(changes: &[Change], output: Output) -> Result<()> {
    let items: Vec<Value> = changes.iter().map(item).collect();
    let columns: [Column; 5] = [
        ("TYPE", "type"),
        ("PATH", "path"),
        ("CHANGE", "detail"),
        ("BREAKS", "breaks"),
        ("SERVICES", "services"),
    ];
    output.list(&items, &columns)?;
    if is_breaking(changes) {
        return Err(Reported.into());
    }
    Ok(())
}

fn item(change: &Change) -> Value {
    json!({
        "type": change.event_type,
        "path": change.path,
        "detail": change.detail,
        "breaks": change.broken.as_str(),
        "services": change.services,
    })
}

fn in_force(connection: &Connection, name: &str) -> Result<Catalog> {
    let text = fetched(connection, name)?;
    Catalog::recorded(&text).map_err(|faults| wrong(name, &faults))
}

fn fetched(connection: &Connection, name: &str) -> Result<String> {
    let client = connection.client()?;
    block_on(async { Ok(client.get_catalog(name).await?) })
}

fn read(file: &Path) -> Result<(String, Catalog)> {
    let (text, place) = input::text(file)?;
    let catalog = Catalog::parse(&text).map_err(|faults| wrong(&place, &faults))?;
    Ok((text, catalog))
}

fn wrong(what: &str, faults: &[Fault]) -> anyhow::Error {
    let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
    anyhow::anyhow!("{what} is not a catalogue:\n  {}", faults.join("\n  "))
}

/// The name given, else that of the service, else one made of the title.
fn named(given: Option<String>, catalog: &Catalog) -> Result<String> {
    let name = given.or_else(|| catalog.service.clone());
    let name = name.unwrap_or_else(|| slug(&catalog.title));
    let parsed: Result<CatalogName, _> = name.parse();
    parsed.map_err(|error| Usage(format!("{error}; give another with --name")))?;
    Ok(name)
}

fn slug(title: &str) -> String {
    let lower = title.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_is_named_by_flag_service_or_title() {
        let check = |given: Option<&str>, service: Option<&str>, expect: Option<&str>| {
            let mut document = json!({
                "asyncapi": "3.0.0", "channels": {},
                "info": { "title": "Orders & Payments!", "version": "1" },
            });
            if let Some(service) = service {
                document["info"]["x-tidings-service"] = service.into();
            }
            let catalog = Catalog::parse(&document.to_string()).unwrap();
            let name = named(given.map(str::to_owned), &catalog);
            assert_eq!(name.as_deref().ok(), expect);
        };
        check(Some("mine"), Some("shop-svc"), Some("mine"));
        check(None, Some("shop-svc"), Some("shop-svc"));
        check(None, None, Some("orders-payments"));
        check(Some("No Name"), None, None);
    }
}

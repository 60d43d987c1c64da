//! `tidings modules`: what modules declare that they publish and subscribe to.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::Client;

use crate::connection::{Connection, block_on};
use crate::failure::Usage;
use crate::input;
use crate::output::{Output, note};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Put manifests in force; needs an operator's credential
    Apply {
        #[command(flatten)]
        connection: Connection,
        /// Manifest files, or - for standard input; each names its module
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the modules that have a manifest
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Show a module's manifest
    Get {
        #[command(flatten)]
        connection: Connection,
        /// The module's id
        module: String,
    },
    /// Remove a module's manifest: it can publish nothing any more
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// The module's id
        module: String,
    },
}

pub(crate) fn run(command: Command, output: Output) -> Result<()> {
    match command {
        Command::Apply { connection, files } => {
            let client = connection.client()?;
            // All are read before the first is applied.
            let manifests: Result<Vec<_>> = files.iter().map(|file| read(file)).collect();
            block_on(apply(&client, manifests?, output))
        }
        Command::List { connection } => {
            let client = connection.client()?;
            let page = block_on(async { Ok(client.list_modules().await?) })?;
            let items: Vec<Value> = page.items.iter().map(|module| json!(module)).collect();
            output.list(&items, &[("MODULE", "id"), ("VERSION", "version")])
        }
        Command::Get { connection, module } => {
            let client = connection.client()?;
            output.one(&block_on(async {
                Ok(client.get_manifest(&module).await?)
            })?)
        }
        Command::Delete { connection, module } => {
            let client = connection.client()?;
            block_on(async { Ok(client.delete_manifest(&module).await?) })?;
            let text = format!("{module} may publish nothing any more");
            output.either(&json!({ "id": module, "deleted": true }), &text)
        }
    }
}

/// A module, and its manifest as the file has it: what is wrong there is the gateway's to refuse.
type Written = (String, Box<RawValue>);

async fn apply(client: &Client, manifests: Vec<Written>, output: Output) -> Result<()> {
    for (module, manifest) in manifests {
        let answer = client.apply_manifest(&module, &manifest).await;
        let answer = answer.inspect_err(|_| note(&format!("tidings: {module} was not applied")))?;
        let unchanged = answer.get("changed") == Some(&Value::Bool(false));
        let text = format!(
            "{module} {}",
            if unchanged {
                "was in force already"
            } else {
                "is in force"
            }
        );
        output.either(&json!({ "id": module, "changed": !unchanged }), &text)?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<Written> {
    let (text, place) = input::text(file)?;
    let wrong = |fault: String| Usage(format!("{place} is not a manifest: {fault}"));
    let read = serde_json::from_str(&text).and_then(|manifest: Box<RawValue>| {
        let members: Value = serde_json::from_str(manifest.get())?;
        Ok((members, manifest))
    });
    let (members, manifest) = read.map_err(|error| wrong(error.to_string()))?;
    match members.get("id").and_then(Value::as_str) {
        Some(id) if !id.is_empty() => Ok((id.to_owned(), manifest)),
        _ => Err(wrong("its member 'id' must name the module".to_owned()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_its_module() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, expect: Option<&str>| {
            let file = folder.path().join("m.json");
            std::fs::write(&file, text).unwrap();
            let read = read(&file);
            assert_eq!(read.as_ref().ok().map(|(id, _)| id.as_str()), expect);
            assert!(read.is_ok() || read.is_err_and(|error| error.is::<Usage>()));
        };
        check(r#"{"id":"crm","version":"1.0.0"}"#, Some("crm"));
        check(r#"{"version":"1.0.0"}"#, None);
        check(r#"{"id":7}"#, None);
        check("crm", None);
    }

    #[test]
    fn a_manifest_is_sent_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.json");
        let text = r#"{ "id": "crm", "version": "1.0.0", "version": "2.0.0", "x": 12345678901234567890123 }"#;
        std::fs::write(&file, format!("{text}\n")).unwrap();
        assert_eq!(read(&file).unwrap().1.get(), text);
    }
}

//! The configuration in force, for a person to look at.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use figment::Figment;
use figment::value::Value;
use serde::Serialize;

use super::Flags;
use super::layers::layers;

/// What the name of a key ends with whose value is not shown.
const SECRET: [&str; 5] = [
    "secret",
    "password",
    "key.pem",
    "secrets.key",
    "oauthbearer.config",
];

/// One key of the configuration.
#[derive(Debug, Serialize)]
pub(crate) struct Described {
    key: String,
    value: serde_json::Value,
    origin: &'static str,
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, origin } = self;
        write!(f, "{key} = {value}  # {origin}")
    }
}

/// The configuration in force, key by key, with where each value comes from. Secrets are not shown.
pub(crate) fn describe(file: Option<&Path>, flags: &Flags) -> Result<Vec<Described>> {
    let figment = layers(file, flags);
    let whole: Value = figment
        .extract()
        .context("the configuration cannot be read")?;
    let mut described = Vec::new();
    let mut todo = vec![(String::new(), whole)];
    while let Some((path, value)) = todo.pop() {
        if let Some(members) = value.as_dict() {
            for (name, member) in members.iter().rev() {
                let name = if name.contains('.') {
                    format!("{name:?}")
                } else {
                    name.clone()
                };
                let inner = if path.is_empty() {
                    name
                } else {
                    format!("{path}.{name}")
                };
                todo.push((inner, member.clone()));
            }
            continue;
        }
        described.push(Described {
            value: shown(&path, &value)?,
            origin: origin(&figment, &value),
            key: path,
        });
    }
    Ok(described)
}

fn shown(path: &str, value: &Value) -> Result<serde_json::Value> {
    let value = serde_json::to_value(value)?;
    // A variable has underscores for the dots of librdkafka's names.
    let named = path.trim_end_matches('"').replace('_', ".");
    let secret = SECRET.iter().any(|ending| named.ends_with(ending));
    Ok(match (path, value.as_str()) {
        _ if secret && value != "" => "(hidden)".into(),
        ("store.url" | "receipts.url", Some(url)) => without_credentials(url).into(),
        (_, Some(url)) if url.contains("://") => without_credentials(url).into(),
        _ => value,
    })
}

fn origin(figment: &Figment, value: &Value) -> &'static str {
    let metadata = figment.get_metadata(value.tag());
    metadata.map_or("defaults", |metadata| match &*metadata.name {
        name if name.contains("TOML source string") => "defaults",
        name if name.contains("TOML") => "file",
        name if name.contains("environment") => "environment",
        _ => "flag",
    })
}

/// A URL without the user and password before its host, and without what its query says, which may hold them too.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return String::new();
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?(hidden)"),
        None => (rest, ""),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://(hidden)@{host}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn lines(file: &Path) -> String {
        let described = describe(Some(file), &Flags::default()).unwrap();
        let lines: Vec<String> = described.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn a_store_elsewhere_is_named_by_its_url_whose_password_is_not_shown() {
        let written = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tidings.toml");
            std::fs::write(&file, text).unwrap();
            let described = lines(&file);
            (load(Some(&file), &Flags::default()), described)
        };
        let (good, described) = written(
            "store.url = 'postgres://me:s3cr@t@db/tidings?password=s3cr@t'\n\
             receipts.url = 'rediss://:s3cr@t@keys:6380/1'",
        );
        assert!(good.is_ok());
        assert!(described.contains("store.url = \"postgres://(hidden)@db/tidings?(hidden)\""));
        assert!(described.contains("receipts.url = \"rediss://(hidden)@keys:6380/1\""));
        assert!(!described.contains("s3cr"), "{described}");
        let (good, described) = written(
            "auth.jwks_url = 'https://u:s3cr@id.example/keys?sig=s3cr'\n\
             telemetry.otlp_endpoint = 'http://u:s3cr@127.0.0.1:4318/x?key=s3cr'\n\
             server.public_url = 'https://events.example'",
        );
        good.unwrap();
        assert!(described.contains("\"https://(hidden)@id.example/keys?(hidden)\""));
        assert!(described.contains("server.public_url = \"https://events.example\""));
        assert!(!described.contains("s3cr"), "{described}");
        for bad in [
            "store.url = 'mysql://a:s3cr@t@b'",
            "receipts.url = 's3cr@t'",
        ] {
            let (refused, described) = written(bad);
            let text = refused.unwrap_err().to_string();
            assert!(
                text.contains("must begin with") && !text.contains("s3cr"),
                "{text}"
            );
            assert!(!described.contains("s3cr"), "{described}");
        }
    }

    #[test]
    fn names_with_dots_are_shown_quoted_and_their_secrets_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidings.toml");
        let text = "bus.kafka.properties.'security.protocol' = 'SASL_SSL'\n\
                    bus.kafka.properties.'sasl.password' = 's3cr3t'\n\
                    bus.kafka.properties.sasl_oauthbearer_config = 's3cr3t'\n\
                    auth.shared_secret = 's3cr3t'\n";
        std::fs::write(&file, text).unwrap();
        let described = lines(&file);
        let line = "bus.kafka.properties.\"security.protocol\" = \"SASL_SSL\"  # file";
        assert!(described.contains(line), "{described}");
        assert!(!described.contains("s3cr3t"), "{described}");
        assert!(
            described.contains("server.drain = \"8s\"  # defaults"),
            "{described}"
        );
    }
}

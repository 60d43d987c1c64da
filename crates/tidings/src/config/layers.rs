//! The layers of the configuration: defaults, file, variables, flags.

use std::path::Path;

use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::{DEFAULTS, Flags};

/// The layers, merged but not yet read.
pub(crate) fn layers(file: Option<&Path>, flags: &Flags) -> Figment {
    let mut figment = Figment::from(Toml::string(DEFAULTS));
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    // The client's own variables share the prefix; those of the configuration name a section.
    let ours = |name: &figment::value::UncasedStr| name == "data" || name.as_str().contains("__");
    let variables = Env::prefixed("TIDINGS_").filter(ours).split("__");
    // The names that every exporter of OpenTelemetry reads; ours go before them.
    let standard = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    let standard = Env::raw().only(&standard).map(|name| {
        let key = name.as_str().to_lowercase();
        key.replace("otel_exporter_", "telemetry.").into()
    });
    figment
        .merge(standard)
        .merge(kafka())
        .merge(variables)
        .merge(Texts)
        .merge(Serialized::defaults(flags))
}

/// Source E's `KAFKA_ENABLED` (which kind of bus `true` and `false` are, [`BusConfig`] knows) and
/// `KAFKA_BROKERS`; ours go before them.
fn kafka() -> Env {
    const NAMES: [&str; 2] = ["KAFKA_ENABLED", "KAFKA_BROKERS"];
    Env::raw().only(&NAMES).map(|name| {
        let key = if name == NAMES[0] {
            "bus.kind"
        } else {
            "bus.kafka.brokers"
        };
        key.into()
    })
}

/// Variables whose values are texts, whatever they look like: a password of digits is no number.
struct Texts;

impl Texts {
    const SECTIONS: [&str; 3] = ["auth.", "bus.kafka.properties.", "secrets."];
}

impl Provider for Texts {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut texts = Dict::new();
        for (name, text) in std::env::vars_os() {
            let (Some(name), Some(text)) = (name.to_str(), text.to_str()) else {
                continue;
            };
            let Some(name) = name.strip_prefix("TIDINGS_") else {
                continue;
            };
            let key = name.to_lowercase().replace("__", ".");
            if Self::SECTIONS
                .iter()
                .any(|section| key.starts_with(section))
            {
                merge(&mut texts, &key, text.to_owned());
            }
        }
        Ok(Profile::Default.collect(texts))
    }
}

fn merge(into: &mut Dict, key: &str, text: String) {
    let Some((section, rest)) = key.split_once('.') else {
        into.insert(key.to_owned(), text.into());
        return;
    };
    let inner = into
        .entry(section.to_owned())
        .or_insert_with(|| Dict::new().into());
    if let Value::Dict(_, inner) = inner {
        merge(inner, rest, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_in_their_sections() {
        let mut texts = Dict::new();
        merge(&mut texts, "auth.audience", "0815".into());
        merge(&mut texts, "auth.issuer", "true".into());
        merge(
            &mut texts,
            "bus.kafka.properties.sasl_password",
            "1e3".into(),
        );
        let read: serde_json::Value = Figment::from(Serialized::defaults(texts))
            .extract()
            .unwrap();
        let expected = serde_json::json!({
            "auth": { "audience": "0815", "issuer": "true" },
            "bus": { "kafka": { "properties": { "sasl_password": "1e3" } } },
        });
        assert_eq!(read, expected);
    }
}

//! The layers of the configuration: defaults, file, variables, flags.

use std::path::Path;

use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Uncased, Value};
use figment::{Error, Figment, Metadata, Profile, Provider};

use super::{DEFAULTS, Flags, variable};

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
    let texts: Vec<Text> = variables.iter().filter_map(Text::of).collect();
    // Source E's variables. Its brokers stand behind ours; its switch, where it is set, decides whatever is configured.
    let brokers = variable("KAFKA_BROKERS").map(|text| Text::at("bus.kafka.brokers", text));
    let switch = variable("KAFKA_ENABLED").map(|text| Text::at("bus.kind", kind_of(&text)));
    let figment = figment.merge(standard);
    let figment = brokers.into_iter().fold(figment, Figment::merge);
    let figment = figment.merge(variables);
    let figment = texts
        .into_iter()
        .chain(switch)
        .fold(figment, Figment::merge);
    figment.merge(Serialized::defaults(flags))
}

/// What is to be said of variables that name a section with one underscore and are not read: each with the one that may be
/// meant.
pub(crate) fn unread_variables() -> anyhow::Result<Vec<String>> {
    let defaults: Value = Figment::from(Toml::string(DEFAULTS)).extract()?;
    let members = defaults.as_dict().into_iter().flatten();
    let sections = members.filter(|(_, value)| value.as_dict().is_some());
    let sections: Vec<String> = sections.map(|(name, _)| name.to_uppercase()).collect();
    let variables = std::env::vars_os();
    let names = variables.filter_map(|(name, _)| name.into_string().ok());
    let unread = names.filter_map(|name| Some((meant(&name, &sections)?, name)));
    let said = unread.map(|(meant, name)| {
        format!("{name} is not read; if the configuration is meant, write {meant}")
    });
    Ok(said.collect())
}

fn meant(name: &str, sections: &[String]) -> Option<String> {
    let own = name.strip_prefix("TIDINGS_")?;
    let is_read = own.contains("__");
    let mut sections = sections.iter().filter(|_| !is_read);
    sections.find_map(|section| {
        let key = own.strip_prefix(section.as_str())?.strip_prefix('_')?;
        Some(format!("TIDINGS_{section}__{key}"))
    })
}

/// The kind of bus that `KAFKA_ENABLED` says: a real Kafka, or events skipped. What it cannot say is refused as it is.
fn kind_of(switch: &str) -> String {
    match switch.trim().to_ascii_lowercase().as_str() {
        "true" => "kafka".to_owned(),
        "false" => "disabled".to_owned(),
        _ => format!("KAFKA_ENABLED={switch}, which is neither true nor false"),
    }
}

/// Where the values of variables are texts, whatever they look like: a password of digits is no number.
const TEXTS: [&str; 3] = ["auth.", "bus.kafka.properties.", "secrets."];

/// One of those variables.
struct Text {
    key: String,
    text: String,
}

impl Text {
    fn of((key, text): (Uncased<'static>, String)) -> Option<Self> {
        let key = key.into_string();
        let is_one = TEXTS.iter().any(|section| key.starts_with(section));
        is_one.then_some(Self { key, text })
    }

    fn at(key: &str, text: String) -> Self {
        let key = key.to_owned();
        Self { key, text }
    }
}

impl Provider for Text {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nested = nest(&self.key, self.text.clone().into());
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_read_whatever_its_case() {
        let kinds = ["true", "TRUE", " False"].map(kind_of);
        assert_eq!(kinds, ["kafka", "kafka", "disabled"]);
        assert!(kind_of("maybe").starts_with("KAFKA_ENABLED=maybe"));
    }

    #[test]
    fn a_variable_with_one_underscore_is_told_of() {
        let sections = ["BUS", "CUSTOM_EVENTS"].map(str::to_owned);
        let meant = |name: &str| meant(name, &sections);
        assert_eq!(
            meant("TIDINGS_BUS_PARTITIONS").as_deref(),
            Some("TIDINGS_BUS__PARTITIONS")
        );
        assert_eq!(
            meant("TIDINGS_CUSTOM_EVENTS_EMITS_RETENTION").as_deref(),
            Some("TIDINGS_CUSTOM_EVENTS__EMITS_RETENTION")
        );
        for read in [
            "TIDINGS_BUS__PARTITIONS",
            "TIDINGS_URL",
            "TIDINGS_SERVICE_HOST",
            "BUS_KIND",
        ] {
            assert_eq!(meant(read), None, "{read}");
        }
    }

    #[test]
    fn texts_stand_in_their_sections() {
        let variables = [
            ("auth.audience", "0815"),
            ("auth.issuer", "true"),
            ("bus.kafka.properties.sasl_password", "1e3"),
            ("server.listen", "1"),
        ];
        let texts = variables.map(|(key, text)| (key.into(), text.to_owned()));
        let texts = texts.into_iter().filter_map(Text::of);
        let read = texts.fold(Figment::new(), Figment::merge);
        let read: serde_json::Value = read.extract().unwrap();
        let expected = serde_json::json!({
            "auth": { "audience": "0815", "issuer": "true" },
            "bus": { "kafka": { "properties": { "sasl_password": "1e3" } } },
        });
        assert_eq!(read, expected);
    }
}

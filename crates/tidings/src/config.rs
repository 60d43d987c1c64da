//! Configuration: one struct, four layers, the later ones winning. The environment is read here and nowhere else.

mod described;
mod layers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize};
use tidings_egress::{AllowedTarget, Guard, Target};
use tidings_event::{Topic, TypePattern};
use tidings_gateway::rulebook::{EnvelopeKind, Route};

use crate::bus::BusConfig;
use crate::failure::Usage;
pub(crate) use described::{describe, without_credentials};
use layers::layers;
pub(crate) use layers::unread_variables;

/// The first layer, which is also the reference page.
const DEFAULTS: &str = include_str!("../tidings.default.toml");

/// Everything that can be configured. Each key is explained in `tidings.default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) data: PathBuf,
    pub(crate) server: Server,
    pub(crate) auth: Auth,
    pub(crate) egress: Egress,
    pub(crate) store: Store,
    pub(crate) receipts: Receipts,
    pub(crate) bus: BusConfig,
    pub(crate) modules: Modules,
    pub(crate) extensions: Extensions,
    pub(crate) tenants: Tenants,
    pub(crate) delivery: Delivery,
    pub(crate) custom_events: CustomEvents,
    pub(crate) secrets: Secrets,
    pub(crate) limits: Limits,
    pub(crate) log: Log,
    pub(crate) telemetry: Telemetry,
    #[serde(default)]
    routes: Vec<RouteConfig>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) listen: SocketAddr,
    pub(crate) public_url: String,
    pub(crate) max_connections: usize,
    pub(crate) max_bodies_bytes: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) header_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    pub(crate) jwks_file: String,
    jwks_url: String,
    pub(crate) shared_secret: String,
    pub(crate) issuer: String,
    pub(crate) audience: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Egress {
    allow_targets: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Receipts {
    pub(crate) url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Modules {
    pub(crate) manifests: String,
    pub(crate) demo: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extensions {
    pub(crate) components: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenants {
    pub(crate) auto_create: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delivery {
    #[serde(deserialize_with = "durations")]
    pub(crate) retry_schedule: Vec<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) attempts_retention: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) disable_after: Duration,
    topics: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CustomEvents {
    #[serde(deserialize_with = "duration")]
    pub(crate) emits_retention: Duration,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Secrets {
    pub(crate) key: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) requests_per_second: u32,
    pub(crate) burst: u32,
    pub(crate) streams_per_tenant: usize,
    pub(crate) subscriptions_per_tenant: usize,
    pub(crate) api_keys_per_tenant: usize,
    pub(crate) workspaces_per_tenant: usize,
    pub(crate) members_per_workspace: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Telemetry {
    pub(crate) otlp_endpoint: String,
    pub(crate) otlp_protocol: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteConfig {
    types: Vec<String>,
    topic: String,
    envelope: EnvelopeKind,
}

/// What flags say, as a layer: only what was given.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Flags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<PathBuf>,
    pub(crate) server: ServerFlags,
    pub(crate) egress: EgressFlags,
    pub(crate) bus: BusFlags,
    pub(crate) modules: ModulesFlags,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct BusFlags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    pub(crate) kafka: KafkaFlags,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct KafkaFlags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) brokers: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ServerFlags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct EgressFlags {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow_targets: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ModulesFlags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) manifests: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) demo: Option<bool>,
}

/// Less would have no room for a batch of 16 MiB beside what is kept for small bodies.
const MIN_BODIES_BYTES: usize = 32 << 20;

/// The configuration of an installation that a command looks at without serving, perhaps in another data folder.
pub(crate) fn beside(file: Option<&Path>, data: Option<&Path>) -> Result<Config> {
    let flags = Flags {
        data: data.map(Path::to_path_buf),
        ..Flags::default()
    };
    load(file, &flags)
}

/// Refuses times of nothing, which would have what is kept gone at once.
fn check_kept(config: &Config) -> Result<()> {
    let kept = [
        ("bus.retention_age", config.bus.retention_age),
        (
            "delivery.attempts_retention",
            Some(config.delivery.attempts_retention),
        ),
        (
            "delivery.disable_after",
            Some(config.delivery.disable_after),
        ),
        (
            "custom_events.emits_retention",
            Some(config.custom_events.emits_retention),
        ),
    ];
    for (key, time) in kept {
        if time == Some(Duration::ZERO) {
            let for_ever = "; leave it empty to keep events for ever";
            let advice = if key == "bus.retention_age" {
                for_ever
            } else {
                ""
            };
            bail!("{key} must be more than 0s{advice}");
        }
    }
    Ok(())
}

/// Reads and checks the configuration.
pub(crate) fn load(file: Option<&Path>, flags: &Flags) -> Result<Config> {
    let config: Config = layers(file, flags)
        .extract()
        .context("the configuration cannot be read")?;
    let auth = &config.auth;
    if !auth.jwks_file.is_empty() && !auth.jwks_url.is_empty() {
        bail!("auth.jwks_file and auth.jwks_url are both set; the keys come from one of them");
    }
    if config.server.max_bodies_bytes < MIN_BODIES_BYTES {
        bail!(
            "server.max_bodies_bytes must be {MIN_BODIES_BYTES} or more, which takes the largest batch"
        );
    }
    if config.server.max_connections == 0 {
        bail!("server.max_connections must be 1 or more");
    }
    if config.data.as_os_str().is_empty() {
        bail!("data must name a folder");
    }
    check_kept(&config)?;
    let public_url = &config.server.public_url;
    of_scheme("server.public_url", public_url, &["http", "https"])?;
    if !public_url.is_empty() {
        public_url.parse::<Target>().context("server.public_url")?;
    }
    config.bus.check()?;
    // The URLs are not quoted: passwords stand in them.
    of_scheme("store.url", &config.store.url, &["postgres", "postgresql"])?;
    of_scheme("receipts.url", &config.receipts.url, &["redis", "rediss"])?;
    Ok(config)
}

fn of_scheme(key: &str, url: &str, schemes: &[&str]) -> Result<()> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !url.is_empty() && !scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
        bail!("{key} must begin with {}://", schemes.join(":// or "));
    }
    Ok(())
}

impl Auth {
    /// Whether tokens of the data folder's own key are accepted: where nobody else's are configured.
    pub(crate) fn trusts_its_own_key(&self) -> bool {
        let keys = [&self.jwks_file, &self.jwks_url, &self.shared_secret];
        keys.iter().all(|key| key.is_empty())
    }
}

impl Config {
    /// Refuses to serve beyond loopback on the data folder's own key.
    pub(crate) fn may_listen(&self) -> Result<()> {
        let listen = self.server.listen;
        if !listen.ip().is_loopback() && self.auth.trusts_its_own_key() {
            bail!(
                "refusing to listen on {listen}: beyond loopback the local signing key is no protection. Configure \
                 auth.jwks_url, auth.jwks_file or auth.shared_secret, or listen on 127.0.0.1"
            );
        }
        Ok(())
    }

    /// Where the identity provider publishes its keys, if configured.
    pub(crate) fn jwks_url(&self) -> Result<Option<Target>> {
        let url = &self.auth.jwks_url;
        let target = (!url.is_empty()).then(|| url.parse()).transpose();
        target.context("auth.jwks_url")
    }

    /// What may be connected to.
    pub(crate) fn guard(&self) -> Result<Guard> {
        let allowed = self.egress.allow_targets.iter().map(|text| text.parse());
        let allowed: Result<Vec<AllowedTarget>, _> = allowed.collect();
        Ok(Guard::new(allowed.context("egress.allow_targets")?))
    }

    /// The topics that take copies. None of them may be one that the gateway itself writes to.
    pub(crate) fn copy_topics(&self, routes: &[Route]) -> Result<BTreeSet<Topic>> {
        let mut own = tidings_gateway::rulebook::topics(routes);
        own.push("platform.custom.events".parse()?);
        let mut topics = BTreeSet::new();
        for name in &self.delivery.topics {
            let topic: Topic = name.parse().context("delivery.topics")?;
            if own.contains(&topic) {
                bail!(
                    "delivery.topics: events are published to '{topic}', so it cannot take copies"
                );
            }
            topics.insert(topic);
        }
        Ok(topics)
    }

    /// The routes, parsed.
    pub(crate) fn routes(&self) -> Result<Vec<Route>> {
        let parse = |(index, route): (usize, &RouteConfig)| {
            let types: Result<Vec<TypePattern>, _> =
                route.types.iter().map(|text| text.parse()).collect();
            let topic: Result<Topic, _> = route.topic.parse();
            Ok(Route {
                types: types.with_context(|| format!("routes[{index}].types"))?,
                topic: topic.with_context(|| format!("routes[{index}].topic"))?,
                envelope: route.envelope,
            })
        };
        self.routes.iter().enumerate().map(parse).collect()
    }
}

/// A text that was configured; an empty one says that none was.
pub(crate) fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Which gateway a client command speaks to, and as whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gateway {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
}

/// What a profile or the flags say of a gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayFlags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

/// The gateway of a client command: flags, then the profile that a flag names, then `TIDINGS_URL` and
/// `TIDINGS_TOKEN`, then the profile that `TIDINGS_PROFILE` names. What is typed wins over what is set.
pub(crate) fn gateway(profile: Option<&str>, flags: &GatewayFlags) -> Result<Gateway> {
    let mut figment = Figment::from(Serialized::default("url", "http://127.0.0.1:8080"));
    let variables = Env::prefixed("TIDINGS_").only(&["url", "token"]);
    match (profile, variable("TIDINGS_PROFILE")) {
        (Some(name), _) => {
            figment = figment.merge(variables);
            figment = figment.merge(Serialized::defaults(self::profile(name)?));
        }
        (None, Some(name)) => {
            figment = figment.merge(Serialized::defaults(self::profile(&name)?));
            figment = figment.merge(variables);
        }
        (None, None) => figment = figment.merge(variables),
    }
    let gateway = figment.merge(Serialized::defaults(flags)).extract();
    gateway.context("the gateway's address and credential cannot be read")
}

/// A profile of `tidings/profiles.toml` in the user's configuration folder.
fn profile(name: &str) -> Result<GatewayFlags> {
    let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(Path::new(&variable("HOME")?).join(".config")));
    let file = folder.map(|folder| folder.join("tidings").join("profiles.toml"));
    let file = file.filter(|file| file.is_file()).ok_or_else(|| {
        Usage(format!(
            "there is no profile {name:?}: write its url and token under [{name}] in \
             ~/.config/tidings/profiles.toml"
        ))
    })?;
    let profiles: BTreeMap<String, GatewayFlags> = Figment::from(Toml::file_exact(&file))
        .extract()
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let known: Vec<&str> = profiles.keys().map(String::as_str).collect();
    let found = profiles.get(name).cloned().ok_or_else(|| {
        let (file, known) = (file.display(), known.join(", "));
        Usage(format!("{file} has no profile {name:?}; it has {known}"))
    });
    Ok(found?)
}

/// Whether `NO_COLOR` is absent or empty, as its convention has it.
pub(crate) fn colours_wanted() -> bool {
    variable("NO_COLOR").is_none()
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(|value| value.to_string_lossy().into_owned())
}

fn parsed(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text
        .parse()
        .map_err(|error| format!("{text:?} is not a duration such as 30s or 7d: {error}"))?;
    let exact = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| {
            format!(
                "{text:?} has years or months, which are not of one length; write days, as in 365d"
            )
        })?;
    Duration::try_from(exact).map_err(|error| error.to_string())
}

pub(crate) fn duration_flag(text: &str) -> Result<Duration, String> {
    parsed(text)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parsed(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

pub(crate) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        Ok(None)
    } else {
        parsed(&text).map(Some).map_err(serde::de::Error::custom)
    }
}

fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let all = texts.iter().map(|text| parsed(text));
    all.collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete_and_flags_win() {
        let flags = Flags {
            data: Some("elsewhere".into()),
            ..Flags::default()
        };
        let config: Config = layers(None, &flags).extract().unwrap();
        assert_eq!(config.data, Path::new("elsewhere"));
        assert_eq!(config.bus.partitions, 12);
        assert_eq!(config.server.drain, Duration::from_secs(8));
    }

    #[test]
    fn beyond_loopback_needs_a_key_of_ones_own() {
        let server = ServerFlags {
            listen: Some("0.0.0.0:1".into()),
        };
        let flags = Flags {
            server,
            ..Flags::default()
        };
        // Whoever does not serve may read it all the same: the keys may be in the environment of the service alone.
        let config = load(None, &flags).unwrap();
        let error = config.may_listen().unwrap_err().to_string();
        assert!(error.contains("auth.jwks_file"), "{error}");
    }

    #[test]
    fn less_than_a_batch_takes_is_no_limit_of_bodies() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidings.toml");
        std::fs::write(&file, "[server]\nmax_bodies_bytes = 1048576\n").unwrap();
        let error = load(Some(&file), &Flags::default()).unwrap_err();
        assert!(
            error.to_string().contains("server.max_bodies_bytes"),
            "{error}"
        );
    }

    #[test]
    fn keys_come_from_one_place_and_targets_are_read() {
        let config = |text: &str| -> Config {
            let figment = layers(None, &Flags::default()).merge(Toml::string(text));
            figment.extract().unwrap()
        };
        let good = config(
            "auth.jwks_url = 'https://id.example/keys'\negress.allow_targets = ['10.0.0.0/8', 'id']",
        );
        assert!(good.jwks_url().unwrap().is_some());
        let inward = [10, 0, 0, 1].into();
        assert!(good.guard().unwrap().admit("any", inward).is_ok());
        let none = config("");
        assert!(none.jwks_url().unwrap().is_none());
        assert!(none.guard().unwrap().admit("any", inward).is_err());
        assert!(config("auth.jwks_url = 'file:///keys'").jwks_url().is_err());
        assert!(
            config("egress.allow_targets = ['http://a']")
                .guard()
                .is_err()
        );
    }
}

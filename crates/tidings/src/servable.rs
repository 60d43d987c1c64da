//! Whether `serve` takes a configuration: asked by it before it starts, and by `config`.

use std::path::Path;

use anyhow::{Context, Result};
use tidings_receipts::InValkey;
use tidings_store::Store;

use crate::config::Config;
use crate::{components, logging, manifests, serve, telemetry, vault};

/// Refuses what would keep the gateway from starting, as far as no server has to be asked. Nothing is made or changed.
pub(crate) fn check(config: &Config) -> Result<()> {
    config.may_listen()?;
    logging::filter(config)?;
    telemetry::exporter(&config.telemetry)?;
    let routes = config.routes()?;
    config.copy_topics(&routes)?;
    config.bus.topics()?;
    config.guard()?;
    let access = serve::access_config(config)?.check();
    access.context("the credentials cannot be set up")?;
    vault::found(config)?;
    if !config.store.url.is_empty() {
        Store::check_url(&config.store.url).context("store.url")?;
    }
    if !config.receipts.url.is_empty() {
        InValkey::check_url(&config.receipts.url).context("receipts.url")?;
    }
    if !config.modules.manifests.is_empty() {
        manifests::found(Path::new(&config.modules.manifests))?;
    }
    if !config.extensions.components.is_empty() {
        components::found(Path::new(&config.extensions.components))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::{Flags, load};

    #[test]
    fn what_serve_would_refuse_is_refused_without_serving() {
        let folder = tempfile::tempdir().unwrap();
        let (file, empty) = (
            folder.path().join("tidings.toml"),
            folder.path().join("data"),
        );
        let check = |text: &str| {
            let text = format!("data = {:?}\n{text}", empty.display().to_string());
            std::fs::write(&file, text).unwrap();
            load(Some(&file), &Flags::default()).and_then(|config| super::check(&config))
        };
        let good = "bus.kafka.topics = ['a.b']\nauth.shared_secret = '0123456789abcdef0123456789abcdef'\n\
                    server.listen = '0.0.0.0:8080'\ntelemetry.otlp_endpoint = 'http://127.0.0.1:4318'\n\
                    store.url = 'postgres://a:b@127.0.0.1/c'\nreceipts.url = 'redis://127.0.0.1'";
        check("").unwrap();
        check("log.level = 'warn,tidings_gateway=debug,tower[span]=info'").unwrap();
        check("server.public_url = 'https://events.example/tidings/'").unwrap();
        check(good).unwrap();
        assert!(!empty.exists(), "nothing is made");
        for (text, named) in [
            ("server.listen = '0.0.0.0:8080'", "refusing to listen"),
            ("auth.shared_secret = 'short'", "shared secret"),
            ("auth.jwks_file = '/does/not/exist'", "/does/not/exist"),
            ("auth.jwks_url = 'ftp://id/keys'", "auth.jwks_url"),
            ("secrets.key = 'AAAA'", "32 bytes in base64"),
            ("log.level = 'tidings=loud'", "log.level"),
            ("log.level = 'nonsense'", "is no level"),
            ("server.max_connections = 0", "server.max_connections"),
            ("bus.retention_age = '0s'", "leave it empty"),
            ("delivery.disable_after = '0s'", "delivery.disable_after"),
            ("delivery.attempts_retention = '0s'", "more than 0s"),
            ("server.public_url = 'ftp://a'", "server.public_url"),
            ("server.public_url = 'a.example'", "server.public_url"),
            ("server.public_url = 'http://'", "server.public_url"),
            ("bus.partitions = 0", "bus.partitions"),
            ("bus.partitions = 1001", "bus.partitions"),
            (
                "egress.allow_targets = ['http://a']",
                "egress.allow_targets",
            ),
            (
                "delivery.topics = ['platform.data.events']",
                "delivery.topics",
            ),
            ("bus.kafka.topics = ['no topic']", "bus.kafka.topics"),
            (
                "telemetry.otlp_endpoint = 'not a url'",
                "telemetry.otlp_endpoint",
            ),
            (
                "telemetry = { otlp_endpoint = 'http://a', otlp_protocol = 'grpc' }",
                "otlp_protocol",
            ),
            ("store.url = 'postgres://a:b@c:port/d'", "store.url"),
            ("receipts.url = 'redis://[bad'", "receipts.url"),
            (
                "[[routes]]\ntypes = ['Bad']\ntopic = 'a'\nenvelope = 'platform'",
                "routes[0].types",
            ),
            ("modules.manifests = '/does/not/exist'", "manifests folder"),
            (
                "extensions.components = '/does/not/exist'",
                "components folder",
            ),
        ] {
            let refused = check(text).expect_err(text);
            let why = format!("{refused:#}");
            assert!(why.contains(named), "{text}: {why}");
        }
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(empty.join("store.db"), "").unwrap();
        let why = check("").unwrap_err().to_string();
        assert!(why.contains("secrets.key is not beside store.db"), "{why}");
    }
}

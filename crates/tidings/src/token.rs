//! `tidings token`: a credential for a newcomer, made with the data folder's own key.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tidings_event::{ModuleId, Service, TenantId};
use tidings_gateway::access::{Claims, LocalKey};
use tidings_gateway::clock::Clock;

use crate::config;
use crate::failure::Usage;
use crate::output::{Format, Output, print_line};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The data folder of the installation; the configuration's if not given
    #[arg(long)]
    data: Option<PathBuf>,
    /// The configuration file that the gateway is started with: a token has the issuer and the audience that it asks for
    #[arg(long, env = "TIDINGS_CONFIG")]
    config: Option<PathBuf>,
    /// The tenant; only an OPERATOR needs none
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Speak as this module
    #[arg(long, group = "principal")]
    module: Option<ModuleId>,
    /// Speak as this kernel service
    #[arg(long, group = "principal")]
    service: Option<Service>,
    /// Speak as this user
    #[arg(long, group = "principal")]
    user: Option<String>,
    /// ADMIN or OPERATOR
    #[arg(long)]
    role: Vec<Role>,
    /// How long it is valid
    #[arg(long, default_value = "1h", value_parser = crate::config::duration_flag)]
    ttl: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
enum Role {
    Admin,
    Operator,
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<()> {
    let operator = arguments.role.contains(&Role::Operator);
    if arguments.tenant.is_none() && !operator {
        let wrong = "name the tenant with --tenant; only --role OPERATOR needs none";
        return Err(Usage(wrong.to_owned()).into());
    }
    if arguments.ttl < Duration::from_secs(1) {
        let wrong = "--ttl must be 1s or more; a shorter token is never valid";
        return Err(Usage(wrong.to_owned()).into());
    }
    let (module, service) = (arguments.module, arguments.service);
    let subject = arguments.user;
    let subject = subject.or_else(|| module.as_ref().map(|module| module.as_str().to_owned()));
    let subject = subject.or_else(|| service.map(|service| service.as_str().to_owned()));
    let config = config::beside(arguments.config.as_deref(), arguments.data.as_deref())?;
    if !config.auth.trusts_its_own_key() {
        bail!(
            "the configuration trusts tokens of another issuer (auth.jwks_url, auth.jwks_file or auth.shared_secret), so \
             the gateway takes none of the data folder's own key; ask that issuer for one"
        );
    }
    let claims = Claims {
        subject: subject.unwrap_or_else(|| if operator { "operator" } else { "user" }.to_owned()),
        tenant: arguments.tenant,
        module,
        service,
        admin: arguments.role.contains(&Role::Admin),
        operator,
        issuer: config::given(&config.auth.issuer),
        audience: config::given(&config.auth.audience),
    };
    claims
        .check()
        .map_err(|error| Usage(format!("the gateway would take no such token: {error}")))?;
    if !config.data.is_dir() {
        bail!(
            "there is no data folder {}; start 'tidings serve' first, or name another with --data",
            config.data.display()
        );
    }
    let key = LocalKey::load_or_create(&config.data)?;
    let token = key.mint(&claims, arguments.ttl, Clock::system().now_ms());
    match output.asked {
        Some(Format::Json | Format::Yaml) => output.one(&json!({ "token": token })),
        Some(Format::Table) | None => print_line(&token),
    }
}

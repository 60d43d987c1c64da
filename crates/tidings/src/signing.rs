//! `tidings sign` and `tidings verify`: the headers of Standard Webhooks, without a gateway.

use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tidings_egress::{Secret, signing};

use crate::failure::{Reported, Usage};
use crate::output::Output;

/// Prints the headers that Tidings would send a body with. Nothing is sent.
#[derive(clap::Args)]
pub(crate) struct Sign {
    /// The secret, whsec_… or whsk_…
    #[arg(long, env = "TIDINGS_WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
    /// What goes into webhook-id
    #[arg(long)]
    id: String,
    /// What goes into webhook-timestamp, in seconds since 1970; now if not given
    #[arg(long)]
    timestamp: Option<i64>,
    /// A file with the body, or - for standard input
    body: String,
}

/// Says whether the signature of a message holds. The exit code is 1 if it does not.
#[derive(clap::Args)]
pub(crate) struct Verify {
    /// What to verify with, whsec_… or whpk_…
    #[arg(long, env = "TIDINGS_WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
    /// The header webhook-id
    #[arg(long)]
    id: String,
    /// The header webhook-timestamp
    #[arg(long)]
    timestamp: i64,
    /// The header webhook-signature
    #[arg(long)]
    signature: String,
    /// How far from now the timestamp may be, as in 5m; not looked at if not given
    #[arg(long, value_parser = crate::config::duration_flag)]
    tolerance: Option<Duration>,
    /// A file with the body exactly as it came, or - for standard input
    body: String,
}

pub(crate) fn sign(arguments: &Sign, output: Output) -> Result<()> {
    let secret: Secret = arguments.secret.parse().map_err(unusable)?;
    let now = || jiff::Timestamp::now().as_second();
    let timestamp = arguments.timestamp.unwrap_or_else(now);
    let signature = secret.sign(&arguments.id, timestamp, &body(&arguments.body)?);
    let headers = json!({
        "webhook-id": arguments.id,
        "webhook-timestamp": timestamp.to_string(),
        "webhook-signature": signature,
    });
    let text = format!(
        "webhook-id: {}\nwebhook-timestamp: {timestamp}\nwebhook-signature: {signature}",
        arguments.id
    );
    output.either(&headers, &text)
}

pub(crate) fn verify(arguments: &Verify, output: Output) -> Result<()> {
    let Verify {
        secret,
        id,
        timestamp,
        signature,
        tolerance,
        body: file,
    } = arguments;
    // Whoever has the secret of a pair may verify with it too.
    let secret = match secret.parse::<Secret>() {
        Ok(secret) => secret.to_verifying_text().to_string(),
        Err(_) => secret.clone(),
    };
    let holds = signing::verify(&secret, id, *timestamp, &body(file)?, signature);
    let holds = holds.map_err(unusable)?;
    let age = jiff::Timestamp::now().as_second().abs_diff(*timestamp);
    let late = tolerance.is_some_and(|tolerance| age > tolerance.as_secs());
    let (valid, reason) = match (holds, late) {
        (true, false) => (true, "the signature holds"),
        (true, true) => (
            false,
            "the signature holds, but its time is too far from now",
        ),
        (false, _) => (
            false,
            "no signature is that of this id, time, body and secret",
        ),
    };
    let said = json!({ "valid": valid, "reason": reason });
    output.either(&said, &output.verdict(valid, reason))?;
    if valid { Ok(()) } else { Err(Reported.into()) }
}

fn unusable(error: signing::InvalidSecret) -> Usage {
    Usage(format!("the secret cannot be used: {error}"))
}

fn body(file: &str) -> Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file).with_context(|| format!("{file} cannot be read"));
    }
    let mut bytes = Vec::new();
    let mut input = std::io::stdin().lock();
    input.read_to_end(&mut bytes).context("standard input")?;
    Ok(bytes)
}

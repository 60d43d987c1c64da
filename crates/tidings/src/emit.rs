//! `tidings emit`, `tidings emits` and `tidings plan`: payloads of custom events, what became of them, and how much of
//! the plan is used.

use anyhow::Result;
use serde_json::{Value, json};
use tidings_client::{EmitQuery, NewEmit};
use uuid::Uuid;

use crate::connection::{Connection, block_on};
use crate::input;
use crate::output::{Column, Output, member, note};
use crate::paging::Paging;

/// Emits a payload, which is held to the schema of the version that is named, or of the latest that is published.
#[derive(clap::Args)]
pub(crate) struct Emit {
    #[command(flatten)]
    connection: Connection,
    /// The event, NAMESPACE.NAME or NAMESPACE.NAME@VERSION; platformxe.generic is always there
    event: String,
    /// The payload: JSON, @FILE, or - for standard input
    payload: String,
    /// Its idempotency key; one is made if there is none
    #[arg(long)]
    key: Option<String>,
    /// The id of the event that caused it
    #[arg(long, value_name = "EVENT_ID")]
    cause: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Emits {
    #[command(flatten)]
    connection: Connection,
    /// Only what has become this: queued, relayed, delivered or failed
    #[arg(long)]
    status: Option<String>,
    /// Only of this event, NAMESPACE.NAME
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(clap::Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    connection: Connection,
    /// Whose; for operators. The credential's own tenant if not given
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
}

const LISTED: [Column; 5] = [
    ("EVENT ID", "eventId"),
    ("EMITTED", "emittedAt"),
    ("NAME", "name"),
    ("STATUS", "deliveryStatus"),
    ("ERROR", "error"),
];

pub(crate) fn emit(arguments: Emit, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let (name, version) = match arguments.event.split_once('@') {
        Some((name, version)) => (name, Some(version.to_owned())),
        None => (&*arguments.event, None),
    };
    let key = arguments.key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let new = NewEmit {
        name: name.to_owned(),
        payload: input::written(&arguments.payload, "PAYLOAD")?,
        version,
        idempotency_key: key,
        causation_id: arguments.cause,
    };
    let emitted = block_on(async { Ok(client.emit(&new).await) })?;
    match emitted {
        Ok(emitted) => {
            let mut value = json!({
                "eventId": emitted.event_id,
                "canonicalName": emitted.canonical_name,
                "status": emitted.status,
                "duplicate": emitted.duplicate,
                "idempotencyKey": new.idempotency_key,
            });
            if emitted.skipped {
                value["skipped"] = true.into();
            }
            output.one(&value)
        }
        Err(error) => {
            if error.is_in_doubt() || error.is_temporary() {
                let key = &new.idempotency_key;
                note(&format!(
                    "tidings: repeat with --key {key}, so that it is emitted once"
                ));
            }
            Err(error.into())
        }
    }
}

pub(crate) fn emits(arguments: Emits, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let mut query = EmitQuery {
        status: arguments.status.map(|status| status.to_uppercase()),
        name: arguments.name,
        limit: arguments.paging.limit,
        cursor: None,
    };
    block_on(arguments.paging.list(output, &LISTED, async |cursor| {
        query.cursor = cursor;
        client.list_emits(&query).await
    }))
}

pub(crate) fn plan(arguments: &Plan, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let health = block_on(async {
        Ok(match &arguments.tenant {
            Some(tenant) => client.custom_events_health_of(tenant).await?,
            None => client.custom_events_health().await?,
        })
    })?;
    output.either(&health, &readable(&health))
}

/// A line for each limit, then the failures.
fn readable(health: &Value) -> String {
    let of = |used: &Value, limit: &Value| match limit.as_u64() {
        Some(limit) => format!("{used} of {limit}"),
        None => format!("{used}, unlimited"),
    };
    let (events, emits) = (&health["registrations"], &health["emits"]);
    let mut lines = vec![
        format!("plan           {}", health["plan"].as_str().unwrap_or("")),
        format!("registrations  {}", of(&events["used"], &events["limit"])),
        format!(
            "emits          {} this month (UTC)",
            of(&emits["thisMonth"], &emits["monthlyLimit"])
        ),
    ];
    let failures = health["recentFailures"].as_array();
    for failure in failures.into_iter().flatten() {
        let text = |name: &str| member(failure, name);
        lines.push(format!(
            "failed         {} {} {}: {}",
            text("emittedAt"),
            text("eventId"),
            text("name"),
            text("error")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_line_by_line() {
        let health = json!({
            "plan": "PRO", "registrations": { "used": 4, "limit": 25 },
            "emits": { "thisMonth": 9, "monthlyLimit": null }, "recentFailures": [],
        });
        let wanted = "plan           PRO\nregistrations  4 of 25\nemits          9, unlimited this month (UTC)";
        assert_eq!(readable(&health), wanted);
    }
}

//! `tidings listen`: the tenant's events as webhooks to a developer's machine. They come over the stream, so that
//! nothing has to reach in, and no subscription is made.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings_client::{Event, StreamQuery};
use tidings_egress::{AllowedTarget, Client, EgressError, Guard, Limits, Outgoing, Secret, Target};
use tidings_event::{EventType, TypePattern};

use crate::connection::{Connection, block_on};
use crate::failure::Usage;
use crate::output::{Column, Output};

const SHOWN: [Column; 6] = [
    ("TIME", "time"),
    ("TYPE", "type"),
    ("EVENT ID", "eventId"),
    ("STATUS", "status"),
    ("LATENCY MS", "latencyMs"),
    ("ERROR", "error"),
];

/// What the gateway adds to an event that is read back.
const ADDED: [&str; 5] = ["eventId", "topic", "partition", "offset", "receivedAt"];

/// What a receiver may take, as a subscription's has it if it does not say.
const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_secs(15),
    body_bytes: 16 * 1024,
};

/// Sends each event once, one after the other, as a subscription with the format cloudevents-structured would, until
/// it is interrupted. Whatever the receiver answers, the next event follows.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// Where to send them
    #[arg(long, value_name = "URL")]
    forward_to: Target,
    /// Only events of these types or patterns, as in crm.*,shop.order.**
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    types: Vec<TypePattern>,
    /// Begin after this cursor instead of now
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// What to sign with, whsec_… or whsk_…; one is made if not given
    #[arg(long, env = "TIDINGS_WEBHOOK_SECRET", hide_env_values = true)]
    secret: Option<String>,
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<()> {
    let gateway = arguments.connection.client()?;
    let secret = secret(arguments.secret.as_deref())?;
    let forward = Forward {
        // The one who types the URL may open whatever it names; it is their own machine that connects.
        client: Client::new(Guard::new(anywhere()), LIMITS)?,
        target: arguments.forward_to,
        secret,
    };
    let verifying = forward.secret.to_verifying_text();
    let begun = json!({ "forwardTo": forward.target.to_string(), "secret": verifying.as_str() });
    let text = format!(
        "Forwarding to {}, to be verified with {}",
        forward.target,
        verifying.as_str()
    );
    output.either(&begun, &text)?;
    let one = match arguments.types.as_slice() {
        [one] => Some(one.as_str().to_owned()),
        _ => None,
    };
    let mut stream = gateway.stream(StreamQuery {
        event_type: one,
        after: arguments.since,
    });
    block_on(async {
        let mut sequence = 0;
        loop {
            let event = stream.next().await?.event;
            if is_wanted(&arguments.types, &event) {
                sequence += 1;
                output.next(&forward.send(event, sequence).await?, &SHOWN)?;
            }
        }
    })
}

struct Forward {
    client: Client,
    target: Target,
    secret: Secret,
}

impl Forward {
    /// Sends an event, and says what came of it.
    async fn send(&self, event: Event, sequence: u64) -> Result<Value> {
        let now = jiff::Timestamp::now();
        let mut said = json!({
            "time": now.to_string(), "type": event.event_type, "eventId": event.event_id,
        });
        let id = format!("{}_listen", event.event_id);
        let body = structured(&event)?;
        let signature = self.secret.sign(&id, now.as_second(), &body);
        let headers = [
            ("content-type", "application/cloudevents+json".to_owned()),
            ("webhook-id", id),
            ("webhook-timestamp", now.as_second().to_string()),
            ("webhook-signature", signature),
            ("tidings-sequence", sequence.to_string()),
        ];
        let begun = Instant::now();
        let outgoing = Outgoing {
            target: &self.target,
            identity: None,
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body,
            timeout: LIMITS.total_timeout,
        };
        let answer: Result<_, EgressError> = self.client.post(outgoing).await;
        said["latencyMs"] = json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        match answer {
            Ok(answer) => said["status"] = json!(answer.status),
            Err(error) => said["error"] = json!(error.to_string()),
        }
        Ok(said)
    }
}

/// The event without what the gateway adds when it is read back, its data as it is written.
fn structured(event: &Event) -> Result<Bytes> {
    let written = serde_json::to_string(event)?;
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(&written)?;
    members.retain(|name, _| !ADDED.contains(&name.as_str()));
    Ok(serde_json::to_vec(&members)?.into())
}

fn is_wanted(types: &[TypePattern], event: &Event) -> bool {
    let wanted = |event_type| types.iter().any(|pattern| pattern.matches(&event_type));
    types.is_empty() || EventType::recorded(&event.event_type).is_ok_and(wanted)
}

fn anywhere() -> Vec<AllowedTarget> {
    let range = |text: &str| text.parse().expect("it is a range");
    vec![range("0.0.0.0/0"), range("::/0")]
}

fn secret(given: Option<&str>) -> Result<Secret> {
    if let Some(text) = given {
        let secret = text.parse();
        return Ok(secret.map_err(|error| Usage(format!("the secret cannot be used: {error}")))?);
    }
    let mut bytes = [0; 32];
    let random = rustls::crypto::ring::default_provider().secure_random;
    let filled = random.fill(&mut bytes);
    filled.map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(Secret::from_random(bytes))
}

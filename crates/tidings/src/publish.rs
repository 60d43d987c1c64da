//! `tidings publish`: one event from the command line, or many from standard input.

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tidings_client::{Client, Error as ClientError, NewEvent, Receipt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::connection::{Connection, block_on};
use crate::failure::{Reported, Usage};
use crate::input;
use crate::output::{Output, plain};

/// Lines that are read ahead of the network.
const READ_AHEAD: usize = 64;
/// Refusals that the summary names one by one; standard error names all.
const MAX_NAMED: usize = 1_000;

/// Without TYPE and DATA, JSON lines {type, data, schemaVersion?, idempotencyKey?} are read from standard
/// input. Each event gets its idempotency key before the first try and keeps it over retries. The exit code
/// is 1 if any was refused; each is named with its line.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// The event's type, as in crm.contact.created
    #[arg(requires = "data")]
    r#type: Option<String>,
    /// Its data: a JSON object, @FILE, or - for standard input
    data: Option<String>,
    /// The version of its schema; the gateway takes 1.0.0 if there is none
    #[arg(long, requires = "type")]
    schema_version: Option<String>,
    /// Its idempotency key; one is made if there is none
    #[arg(long, requires = "type")]
    key: Option<String>,
    /// Events under way at the same time when many are published; 1 keeps their order
    #[arg(long, default_value = "8", conflicts_with = "type")]
    concurrency: NonZeroUsize,
}

pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    if let (Some(event_type), Some(data)) = (&arguments.r#type, &arguments.data) {
        let mut event = NewEvent::written(event_type, input::written(data)?);
        event.schema_version.clone_from(&arguments.schema_version);
        event.idempotency_key.clone_from(&arguments.key);
        return block_on(one(&client, event, output));
    }
    if std::io::stdin().is_terminal() {
        let advice = "give TYPE and DATA, or events as JSON lines on standard input";
        return Err(Usage(advice.to_owned()).into());
    }
    block_on(many(client, arguments.concurrency.get(), output))
}

async fn one(client: &Client, event: NewEvent, output: Output) -> Result<()> {
    let event = keyed(event);
    match client.publish(&event).await {
        Ok(receipt) => output.one(&shown(&receipt)),
        Err(error) => {
            if let (ClientError::Unreachable { .. }, Some(key)) = (&error, &event.idempotency_key) {
                eprintln!(
                    "tidings: it is not known whether it was published; repeat with --key {key}"
                );
            }
            Err(error.into())
        }
    }
}

fn keyed(mut event: NewEvent) -> NewEvent {
    event
        .idempotency_key
        .get_or_insert_with(|| Uuid::now_v7().to_string());
    event
}

/// A receipt as it is printed.
pub(crate) fn shown(receipt: &Receipt) -> Value {
    let mut value = json!({
        "eventId": receipt.event_id,
        "type": receipt.event_type,
        "topic": receipt.topic,
        "partition": receipt.partition,
        "offset": receipt.offset,
        "duplicate": receipt.duplicate,
        "idempotencyKey": receipt.idempotency_key,
    });
    if receipt.skipped {
        value["skipped"] = true.into();
    }
    value
}

/// What became of the lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    published: u64,
    repeats: u64,
    refused: u64,
    named: Vec<Value>,
}

impl Tally {
    fn count(&mut self, line: u64, outcome: &Result<Receipt, Failure>) -> Option<String> {
        match outcome {
            Ok(receipt) if receipt.duplicate => self.repeats += 1,
            Ok(_) => self.published += 1,
            Err(failure) => {
                self.refused += 1;
                let (code, detail) = failure.said();
                if self.named.len() < MAX_NAMED {
                    self.named
                        .push(json!({ "line": line, "code": code, "detail": detail }));
                }
                return Some(match code {
                    Some(code) => format!("line {line}: {} ({code})", plain(&detail)),
                    None => format!("line {line}: {}", plain(&detail)),
                });
            }
        }
        None
    }

    fn say(&self, output: Output) -> Result<()> {
        let text = format!(
            "published {}, repeats {}, refused {}",
            self.published, self.repeats, self.refused
        );
        let mut refusals = self.named.clone();
        refusals.sort_by_key(|refusal| refusal["line"].as_u64());
        let value = json!({
            "published": self.published,
            "repeats": self.repeats,
            "refused": self.refused,
            "refusals": refusals,
        });
        output.either(&value, &output.verdict(self.refused == 0, &text))
    }
}

/// Why a line was not published.
enum Failure {
    Line(String),
    Client(ClientError),
    /// Whether it was published is not known; a repetition needs the key.
    Unknown(ClientError, String),
}

impl Failure {
    fn said(&self) -> (Option<&str>, String) {
        match self {
            Self::Line(fault) => (None, fault.clone()),
            Self::Client(ClientError::Refused(problem)) => {
                (Some(&problem.code), problem.detail.clone())
            }
            Self::Client(error) => (None, error.to_string()),
            Self::Unknown(error, key) => (
                None,
                format!("{error}; not known to be published, its idempotencyKey is {key}"),
            ),
        }
    }

    /// Whether all further lines would meet the same.
    fn is_general(&self) -> bool {
        match self {
            Self::Line(_) => false,
            Self::Client(ClientError::Refused(problem)) => problem.status == 401,
            Self::Client(_) | Self::Unknown(..) => true,
        }
    }
}

async fn many(client: Client, concurrency: usize, output: Output) -> Result<()> {
    let (sender, mut lines) = mpsc::channel(READ_AHEAD);
    // Ends with the input or the receiver; a read that never returns ends with the process.
    thread::Builder::new().name("input".into()).spawn(move || {
        let stdin = std::io::stdin().lock();
        input::lines(stdin, |number, line| {
            sender.blocking_send((number, line)).is_ok()
        });
    })?;
    let bar = progress();
    let mut tally = Tally::default();
    let mut general = None;
    let mut running = JoinSet::new();
    let mut ended = false;
    loop {
        let room = !ended && general.is_none() && running.len() < concurrency;
        let (line, outcome) = tokio::select! {
            next = lines.recv(), if room => {
                match next {
                    Some((line, text)) => { running.spawn(send(client.clone(), line, text)); }
                    None => ended = true,
                }
                continue;
            }
            Some(done) = running.join_next() => done?,
            else => break,
        };
        if let Some(said) = tally.count(line, &outcome) {
            bar.suspend(|| eprintln!("{said}"));
        }
        bar.inc(1);
        if let Err(failure) = outcome
            && failure.is_general()
            && general.is_none()
        {
            general = Some((line, failure));
        }
    }
    bar.finish_and_clear();
    tally.say(output)?;
    match general {
        Some((line, Failure::Client(error) | Failure::Unknown(error, _))) => {
            eprintln!(
                "tidings: stopped at line {line}; lines that are not known to be published are named above"
            );
            Err(error.into())
        }
        _ if tally.refused > 0 => Err(Reported.into()),
        _ => Ok(()),
    }
}

async fn send(
    client: Client,
    line: u64,
    text: Result<String, String>,
) -> (u64, Result<Receipt, Failure>) {
    let event = match text.and_then(|text| input::event(&text)) {
        Ok(event) => keyed(event),
        Err(fault) => return (line, Err(Failure::Line(fault))),
    };
    let outcome =
        client
            .publish(&event)
            .await
            .map_err(|error| match (error, event.idempotency_key) {
                (error @ ClientError::Unreachable { .. }, Some(key)) => {
                    Failure::Unknown(error, key)
                }
                (error, _) => Failure::Client(error),
            });
    (line, outcome)
}

/// On standard error, and only if that is a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} events, {per_sec}, {elapsed}")
    {
        bar.set_style(style);
    }
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(duplicate: bool) -> Receipt {
        Receipt {
            event_id: "e".into(),
            event_type: "a.b".into(),
            topic: Some("t".into()),
            partition: Some(1),
            offset: Some(2),
            duplicate,
            skipped: false,
            idempotency_key: "k".into(),
        }
    }

    #[test]
    fn the_tally_counts_and_names_refused_lines() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(1, &Ok(receipt(false))), None);
        assert_eq!(tally.count(2, &Ok(receipt(true))), None);
        let said = tally.count(7, &Err(Failure::Line("it is not UTF-8".into())));
        assert_eq!(said.as_deref(), Some("line 7: it is not UTF-8"));
        assert_eq!((tally.published, tally.repeats, tally.refused), (1, 1, 1));
        assert_eq!(tally.named[0]["line"], 7);
    }

    #[test]
    fn a_key_is_made_once_and_a_given_one_is_kept() {
        let made = keyed(NewEvent::new("a.b", &json!({})));
        assert!(made.idempotency_key.is_some());
        assert_eq!(keyed(made.clone()).idempotency_key, made.idempotency_key);
        assert_eq!(shown(&receipt(true))["duplicate"], true);
    }

    #[test]
    fn only_what_concerns_every_line_stops_the_rest() {
        assert!(!Failure::Line("x".into()).is_general());
        let unreachable = ClientError::Unreachable {
            url: "u".into(),
            source: "no".into(),
        };
        assert!(Failure::Client(unreachable).is_general());
    }
}

//! `tidings publish`: one event from the command line, or many from standard input.

use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tidings_client::{Client, Error as ClientError, NewEvent, Receipt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::connection::{Connection, block_on};
use crate::failure::{Reported, Usage};
use crate::input;
use crate::output::{Output, note, plain, progress_bar};
use crate::stop::Stop;

/// Lines that are read ahead of the network.
const READ_AHEAD: usize = 64;
/// Refusals that the summary names one by one; standard error names all.
const MAX_NAMED: usize = 1_000;

/// Many events wait so long for an outage to pass, counted from the last of them that was published.
const PATIENCE: Duration = Duration::from_mins(2);
/// The wait after a first refusal that does not say how long; it doubles from then on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// No wait is longer, whatever a refusal says: others may have been published meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Without TYPE and DATA, JSON lines {type, data, schemaVersion?, idempotencyKey?} are read from standard
/// input. Each event gets its idempotency key before the first try and keeps it over retries. While the
/// gateway can take nothing (429, 503, 507) each line waits and is sent again; after 2 minutes without any
/// success all stop. The exit code is 1 if any was refused; each is named with its line. SIGINT and SIGTERM let
/// what was sent be answered and say how far it came.
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
        let mut event = NewEvent::written(event_type, input::written(data, "DATA")?);
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
    let (event, key) = keyed(event);
    match client.publish(&event).await {
        Ok(receipt) => output.one(&shown(&receipt)),
        Err(error) => {
            if error.is_in_doubt() {
                note(&format!(
                    "tidings: it is not known whether it was published; repeat with --key {key}"
                ));
            } else if error.is_temporary() {
                note(&format!(
                    "tidings: repeat with --key {key}, so that it is published once"
                ));
            }
            Err(error.into())
        }
    }
}

/// The event with its key, which is made if it has none.
fn keyed(mut event: NewEvent) -> (NewEvent, String) {
    let key = event.idempotency_key.take();
    let key = key.unwrap_or_else(|| Uuid::now_v7().to_string());
    event.idempotency_key = Some(key.clone());
    (event, key)
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
    /// Checked, and written nowhere: the bus is disabled.
    skipped: u64,
    repeats: u64,
    refused: u64,
    named: Vec<Value>,
}

impl Tally {
    fn count(&mut self, line: u64, outcome: &Result<Receipt, Failure>) -> Option<String> {
        match outcome {
            Ok(receipt) if receipt.duplicate => self.repeats += 1,
            Ok(receipt) if receipt.skipped => self.skipped += 1,
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
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(" skipped {skipped} (the bus is disabled),"),
        };
        let text = format!(
            "published {},{skipped} repeats {}, refused {}",
            self.published, self.repeats, self.refused
        );
        let mut refusals = self.named.clone();
        refusals.sort_by_key(|refusal| refusal["line"].as_u64());
        let value = json!({
            "published": self.published,
            "skipped": self.skipped,
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
    /// With the event's key: where it is not known whether it was published, a repetition needs it.
    Client(ClientError, String),
}

impl Failure {
    fn said(&self) -> (Option<&str>, String) {
        match self {
            Self::Line(fault) => (None, fault.clone()),
            Self::Client(error, key) if error.is_in_doubt() => (
                error.code(),
                format!("{error}; not known to be published, its idempotencyKey is {key}"),
            ),
            Self::Client(ClientError::Refused(problem), _) => {
                (Some(&problem.code), problem.detail.clone())
            }
            Self::Client(error, _) => (None, error.to_string()),
        }
    }

    /// Whether all further lines would meet the same.
    fn is_general(&self) -> bool {
        match self {
            Self::Line(_) => false,
            Self::Client(error @ ClientError::Refused(problem), _) => {
                problem.status == 401 || error.is_temporary()
            }
            Self::Client(..) => true,
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
    let template = "{spinner} {pos} events, {rate}, {elapsed}";
    let bar = progress_bar(ProgressBar::new_spinner(), template);
    let mut tally = Tally::default();
    let mut general = None;
    let mut running = JoinSet::new();
    let (mut ended, mut last) = (false, 0);
    let lately = Lately::default();
    let (mut stop, mut stopped) = (Stop::listen()?, false);
    loop {
        let going_on = !ended && !stopped && general.is_none();
        if !going_on && running.is_empty() {
            break;
        }
        let room = going_on && running.len() < concurrency;
        let (line, outcome) = tokio::select! {
            next = lines.recv(), if room => {
                match next {
                    Some((line, text)) => {
                        last = line;
                        running.spawn(send(client.clone(), lately.clone(), line, text));
                    }
                    None => ended = true,
                }
                continue;
            }
            Some(done) = running.join_next() => done?,
            () = stop.told() => {
                if stopped {
                    break;
                }
                (stop, stopped) = (Stop::listen()?, true);
                bar.suspend(|| note("tidings: stopping once what was sent is answered; asked again, at once"));
                continue;
            }
        };
        if let Some(said) = tally.count(line, &outcome) {
            bar.suspend(|| note(&said));
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
    if stopped {
        let unanswered = match running.len() {
            0 => String::new(),
            count => {
                format!("; of {count} lines before it is not known whether they were published")
            }
        };
        note(&format!(
            "tidings: stopped, and no line after {last} was sent{unanswered}"
        ));
        return Err(Reported.into());
    }
    match general {
        Some((line, Failure::Client(error, _))) => {
            if error.is_temporary() {
                let waited = PATIENCE.as_secs();
                note(&format!(
                    "tidings: nothing could be published for {waited} s"
                ));
            }
            note(&format!(
                "tidings: stopped at line {line}; lines that are not known to be published are named above, and \
                 no line after {last} was sent"
            ));
            Err(error.into())
        }
        _ if tally.refused > 0 => Err(Reported.into()),
        _ => Ok(()),
    }
}

/// When any line was last published.
#[derive(Clone, Default)]
struct Lately(Arc<Mutex<Option<Instant>>>);

impl Lately {
    fn published(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn at(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(
    client: Client,
    lately: Lately,
    line: u64,
    text: Result<String, String>,
) -> (u64, Result<Receipt, Failure>) {
    let (event, key) = match text.and_then(|text| input::event(&text)) {
        Ok(event) => keyed(event),
        Err(fault) => return (line, Err(Failure::Line(fault))),
    };
    let published = patiently(&lately, || client.publish(&event)).await;
    (line, published.map_err(|error| Failure::Client(error, key)))
}

/// Publishes again and again while an outage lasts, up to [`PATIENCE`] after anybody's last success.
async fn patiently<P: Future<Output = Result<Receipt, ClientError>>>(
    lately: &Lately,
    publish: impl Fn() -> P,
) -> Result<Receipt, ClientError> {
    let mut refused_at = None;
    let mut usual = FIRST_WAIT;
    loop {
        let outcome = publish().await;
        match &outcome {
            Ok(_) => lately.published(),
            Err(error) if error.is_temporary() => {
                let since = *refused_at.get_or_insert_with(Instant::now);
                let since = lately.at().map_or(since, |at| at.max(since));
                if since.elapsed() < PATIENCE {
                    let asked = match error {
                        ClientError::Refused(problem) => problem.retry_after,
                        _ => None,
                    };
                    let wait = asked.unwrap_or(usual);
                    usual = (usual * 2).min(LONGEST_WAIT);
                    tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
                    continue;
                }
            }
            Err(_) => {}
        }
        return outcome;
    }
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
        let skipped = Receipt {
            skipped: true,
            ..receipt(false)
        };
        assert_eq!(tally.count(3, &Ok(skipped)), None);
        let said = tally.count(7, &Err(Failure::Line("it is not UTF-8".into())));
        assert_eq!(said.as_deref(), Some("line 7: it is not UTF-8"));
        assert_eq!((tally.published, tally.repeats, tally.refused), (1, 1, 1));
        assert_eq!(tally.skipped, 1);
        assert_eq!(tally.named[0]["line"], 7);
    }

    #[test]
    fn a_key_is_made_once_and_a_given_one_is_kept() {
        let (made, key) = keyed(NewEvent::new("a.b", &json!({})));
        assert_eq!(made.idempotency_key.as_deref(), Some(&*key));
        assert_eq!(keyed(made).1, key);
        assert_eq!(shown(&receipt(true))["duplicate"], true);
    }

    fn refusal(status: u16, retry_after: Option<Duration>) -> ClientError {
        let problem = json!({"type": "t", "code": "c", "status": status});
        let mut problem: tidings_client::Problem = serde_json::from_value(problem).unwrap();
        problem.retry_after = retry_after;
        ClientError::Refused(Box::new(problem))
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_for_and_not_for_ever() {
        let began = Instant::now();
        let tries = std::cell::Cell::new(0_u64);
        let lately = Lately::default();
        let after = |failures: u64, status: u16, asked: Option<u64>| {
            let tries = &tries;
            move || async move {
                tries.set(tries.get() + 1);
                if tries.get() > failures {
                    return Ok(receipt(false));
                }
                Err(refusal(status, asked.map(Duration::from_secs)))
            }
        };
        // As long as was asked for, and no longer than is sensible.
        patiently(&lately, after(3, 503, Some(5))).await.unwrap();
        assert_eq!((tries.get(), began.elapsed().as_secs()), (4, 15));
        tries.set(0);
        patiently(&lately, after(6, 507, None)).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 15 + 1 + 2 + 4 + 8 + 15 + 15);
        // Whoever waited for input has not waited for the gateway.
        tokio::time::sleep(PATIENCE * 2).await;
        tries.set(0);
        patiently(&lately, after(1, 503, None)).await.unwrap();
        let began = Instant::now();
        tries.set(0);
        let given_up = patiently(&lately, after(u64::MAX, 503, Some(3600)));
        assert!(given_up.await.unwrap_err().is_temporary());
        assert_eq!(began.elapsed(), PATIENCE);
        tries.set(0);
        assert!(patiently(&lately, after(1, 422, None)).await.is_err());
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn only_what_concerns_every_line_stops_the_rest() {
        assert!(!Failure::Line("x".into()).is_general());
        let unreachable = ClientError::Unreachable {
            url: "u".into(),
            may_have_arrived: true,
            source: "no".into(),
        };
        let failed = |error| Failure::Client(error, "k-7".into());
        assert!(failed(unreachable).is_general());
        assert!(failed(refusal(503, None)).is_general());
        assert!(!failed(refusal(422, None)).is_general());
        let unknown = failed(refusal(500, None));
        assert!(!unknown.is_general());
        let (code, detail) = unknown.said();
        assert!(code == Some("c") && detail.contains("k-7"), "{detail}");
    }
}

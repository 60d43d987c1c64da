//! `tidings explain`: what would become of an event and why. Nothing is published.

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;
use tidings_client::NewEvent;

use crate::connection::{Connection, block_on};
use crate::failure::Reported;
use crate::input;
use crate::output::{Output, member, plain};

/// The verdict on what is not published.
const REFUSED: &str = "refused";

/// Asks the gateway what would become of an event, and publishes nothing. The exit code is 1 if it would be
/// refused.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
    /// The event's type
    r#type: String,
    /// Its data: a JSON object, @FILE, or - for standard input
    data: String,
    /// The version of its schema
    #[arg(long)]
    schema_version: Option<String>,
    /// Its idempotency key, which is looked up: whether a publish with it would be a repeat, or is refused
    #[arg(long)]
    key: Option<String>,
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let mut event = NewEvent::written(arguments.r#type, input::written(&arguments.data, "DATA")?);
    event.schema_version = arguments.schema_version;
    event.idempotency_key = arguments.key;
    let explained = block_on(async { Ok(client.explain(&event).await?) })?;
    // Not as one value: its envelope may hold numbers that no value of ours does.
    let told: Explained = serde_json::from_str(explained.get())?;
    let text = readable(&told, |good, text| output.verdict(good, text));
    output.either(&explained, &text)?;
    if told.verdict == REFUSED {
        Err(Reported.into())
    } else {
        Ok(())
    }
}

/// What a person is told of an explanation.
#[derive(Deserialize)]
struct Explained {
    verdict: String,
    #[serde(default)]
    steps: Vec<Step>,
    topic: Option<String>,
    partition: Option<u32>,
    #[serde(default)]
    subscriptions: Vec<Judged>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(rename = "step")]
    name: String,
    verdict: String,
    code: Option<String>,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
struct Judged {
    name: String,
    #[serde(default)]
    state: String,
    extension: Option<String>,
    matched: bool,
    reason: Option<Value>,
}

/// A line for each step, then the verdict and where the event would go.
fn readable(explained: &Explained, paint: impl Fn(bool, &str) -> String) -> String {
    let mut lines = Vec::new();
    for step in &explained.steps {
        let good = step.code.is_none() && !matches!(step.verdict.as_str(), "refused" | "failed");
        let mark = paint(good, if good { "✓" } else { "✗" });
        let mut line = format!("{mark} {:<16} {}", plain(&step.name), plain(&step.detail));
        if !good {
            let code = step.code.as_deref().unwrap_or_default();
            line = format!("{line} ({})", plain(code));
        }
        lines.push(line);
    }
    let good = explained.verdict != REFUSED;
    let mut conclusion = paint(good, &plain(&explained.verdict));
    if let Some(topic) = explained.topic.as_deref().filter(|_| good) {
        conclusion = format!("{conclusion} → topic {}", plain(topic));
    }
    if let Some(partition) = explained.partition.filter(|_| good) {
        conclusion = format!("{conclusion}, partition {partition}");
    }
    lines.push(conclusion);
    for subscription in &explained.subscriptions {
        let says = match (subscription.matched, subscription.state.as_str()) {
            (true, "paused") if subscription.extension.is_some() => {
                "gets it only with replayFrom: its extension is not installed or not enabled"
            }
            (true, "paused") => "gets it when it is resumed: it is paused",
            (true, _) => "gets it",
            (false, _) => "does not get it",
        };
        let reason = subscription.reason.as_ref().map(unmet).unwrap_or_default();
        lines.push(format!("  {} {says}{reason}", plain(&subscription.name)));
    }
    lines.join("\n")
}

/// The first clause of a filter that does not hold.
fn unmet(reason: &Value) -> String {
    let [clause, expected, got] = ["clause", "expected", "got"].map(|name| member(reason, name));
    format!(": {clause} is {got}, not {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_step_is_a_line_and_the_verdict_comes_last() {
        let accepted = json!({"verdict": "accepted", "topic": "t", "partition": 3,
            "steps": [{"step": "shape", "verdict": "passed", "detail": "Fine."}],
            "subscriptions": [{"name": "s", "matched": false,
                "reason": {"clause": "types", "expected": "crm.*", "got": "a.b"}},
                {"name": "all", "state": "active", "matched": true},
                {"name": "later", "state": "paused", "matched": true},
                {"name": "crm", "state": "paused", "extension": "crm", "matched": true}]});
        let readable = |explained: Value| {
            let explained = serde_json::from_value(explained).unwrap();
            readable(&explained, |_, text| text.to_owned())
        };
        let text = readable(accepted);
        assert_eq!(
            text,
            "✓ shape            Fine.\naccepted → topic t, partition 3\n\
             \u{20} s does not get it: types is a.b, not crm.*\n  all gets it\n  later gets it when it is resumed: it is paused\n\
             \u{20} crm gets it only with replayFrom: its extension is not installed or not enabled"
        );
        let refused = json!({"verdict": "refused", "steps":
            [{"step": "manifest", "verdict": "refused", "code": "X", "detail": "No."}]});
        let text = readable(refused);
        assert_eq!(text, "✗ manifest         No. (X)\nrefused");
    }
}

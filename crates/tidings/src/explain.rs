//! `tidings explain`: what would become of an event and why. Nothing is published.

use anyhow::Result;
use serde_json::Value;
use tidings_client::NewEvent;

use crate::connection::{Connection, block_on};
use crate::failure::Reported;
use crate::input;
use crate::output::{Output, plain};

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
}

pub(crate) fn run(arguments: Arguments, output: Output) -> Result<()> {
    let client = arguments.connection.client()?;
    let mut event = NewEvent::written(arguments.r#type, input::written(&arguments.data)?);
    event.schema_version = arguments.schema_version;
    let explained = block_on(async { Ok(client.explain(&event).await?) })?;
    let text = readable(&explained, |good, text| output.verdict(good, text));
    output.either(&explained, &text)?;
    if text_of(&explained, "verdict") == "refused" {
        Err(Reported.into())
    } else {
        Ok(())
    }
}

/// A line for each step, then the verdict and where the event would go.
fn readable(explained: &Value, paint: impl Fn(bool, &str) -> String) -> String {
    let none = Vec::new();
    let list = |name: &str| {
        explained
            .get(name)
            .and_then(Value::as_array)
            .unwrap_or(&none)
            .iter()
    };
    let mut lines = Vec::new();
    for step in list("steps") {
        let good = step.get("code").is_none_or(Value::is_null)
            && !matches!(text_of(step, "verdict").as_str(), "refused" | "failed");
        let mark = paint(good, if good { "✓" } else { "✗" });
        let mut line = format!(
            "{mark} {:<16} {}",
            text_of(step, "step"),
            text_of(step, "detail")
        );
        if !good {
            line = format!("{line} ({})", text_of(step, "code"));
        }
        lines.push(line);
    }
    let verdict = text_of(explained, "verdict");
    let mut conclusion = paint(verdict != "refused", &verdict);
    if verdict != "refused" {
        let place = [("topic", " → topic "), ("partition", ", partition ")];
        for (name, before) in place {
            let found = text_of(explained, name);
            if !found.is_empty() {
                conclusion = conclusion + before + &found;
            }
        }
    }
    lines.push(conclusion);
    for subscription in list("subscriptions") {
        let matched = subscription.get("matched") == Some(&Value::Bool(true));
        let says = if matched {
            "gets it"
        } else {
            "does not get it"
        };
        let name = text_of(subscription, "name");
        let reason = subscription.get("reason").map(unmet).unwrap_or_default();
        lines.push(format!("  {name} {says}{reason}"));
    }
    lines.join("\n")
}

/// The first clause of a filter that does not hold.
fn unmet(reason: &Value) -> String {
    let [clause, expected, got] = ["clause", "expected", "got"].map(|name| text_of(reason, name));
    format!(": {clause} is {got}, not {expected}")
}

fn text_of(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => plain(text),
        Some(other) => plain(&other.to_string()),
    }
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
                {"name": "all", "matched": true}]});
        let text = readable(&accepted, |_, text| text.to_owned());
        assert_eq!(
            text,
            "✓ shape            Fine.\naccepted → topic t, partition 3\n\
             \u{20} s does not get it: types is a.b, not crm.*\n  all gets it"
        );
        let refused = json!({"verdict": "refused", "steps":
            [{"step": "manifest", "verdict": "refused", "code": "X", "detail": "No."}]});
        let text = readable(&refused, |_, text| text.to_owned());
        assert_eq!(text, "✗ manifest         No. (X)\nrefused");
    }
}

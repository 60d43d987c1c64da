//! `tidings events trace`: what became of an event, for people.

use serde::Deserialize;
use serde_json::Value;

use crate::output::{member, plain};

/// What a person is told of a trace: not the event's data, which may hold numbers that no value of ours does.
#[derive(Deserialize)]
pub(crate) struct Trace {
    event: Head,
    #[serde(default)]
    deliveries: Vec<Value>,
    #[serde(default, rename = "withoutDelivery")]
    without_delivery: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    r#type: String,
    event_id: String,
    received_at: String,
    topic: String,
    partition: u32,
    offset: u64,
}

/// The event, then for each subscription a line for each attempt, what it waits for, and where the time went; and those that
/// want it and have no delivery, with why.
pub(crate) fn readable(trace: &Trace, paint: impl Fn(bool, &str) -> String) -> String {
    let Trace {
        event,
        deliveries,
        without_delivery,
    } = trace;
    let mut lines = vec![format!(
        "{}  {}  received {}  {} partition {} offset {}",
        plain(&event.r#type),
        plain(&event.event_id),
        plain(&event.received_at),
        plain(&event.topic),
        event.partition,
        event.offset,
    )];
    if deliveries.is_empty() && without_delivery.is_empty() {
        lines.push("no delivery has been tried".to_owned());
    }
    for delivery in deliveries {
        let state = member(delivery, "state");
        lines.push(format!(
            "subscription {}  sequence {}  {}",
            member(delivery, "subscriptionId"),
            member(delivery, "sequence"),
            paint(state == "delivered", &state),
        ));
        for attempt in list(delivery, "attempts") {
            lines.push(line(attempt, &paint));
        }
        if let Some(next) = delivery["nextAttemptAt"].as_str() {
            lines.push(format!("  next attempt at {}", plain(next)));
        }
        if delivery["reason"].is_string() {
            lines.push(reason(delivery));
        }
        lines.extend(ledger(&delivery["ledger"]));
    }
    for without in without_delivery {
        lines.push(format!(
            "subscription {}  {}  {}",
            member(without, "subscriptionId"),
            member(without, "name"),
            paint(false, "no delivery"),
        ));
        lines.push(reason(without));
    }
    lines.join("\n")
}

/// Why nothing has come yet: the word that programs go by, and the sentence.
fn reason(of: &Value) -> String {
    format!("  {}: {}", member(of, "reason"), member(of, "detail"))
}

fn line(attempt: &Value, paint: &impl Fn(bool, &str) -> String) -> String {
    let status = match attempt["status"].as_u64() {
        Some(status) => status.to_string(),
        None => "no answer".to_owned(),
    };
    let error = member(attempt, "error");
    let line = format!(
        "  {} {}  {}  {} ms  {error}",
        member(attempt, "number"),
        member(attempt, "startedAt"),
        paint(error.is_empty(), &status),
        member(attempt, "latencyMs"),
    );
    line.trim_end().to_owned()
}

/// The members of a ledger in which any time went.
fn ledger(ledger: &Value) -> Option<String> {
    let shares = ledger.as_object()?.iter();
    let shares = shares.filter_map(|(name, ms)| {
        let words = match name.as_str() {
            "log" => "in the log",
            "key" => "behind its key",
            "rateLimit" => "for the rate limit",
            "breaker" => "for the breaker",
            "batch" => "for others of its message",
            "connect" => "connecting",
            "backOff" => "between attempts",
            "subscriber" => "at the subscriber",
            other => other,
        };
        ms.as_u64()
            .filter(|ms| *ms > 0)
            .map(|ms| format!("{ms} ms {}", plain(words)))
    });
    let shares: Vec<String> = shares.collect();
    (!shares.is_empty()).then(|| format!("  time: {}", shares.join(", ")))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attempt_is_a_line_and_the_time_is_accounted_for() {
        let mut trace = json!({
            "event": { "type": "a.b", "eventId": "e", "receivedAt": "T0", "topic": "t", "partition": 0, "offset": 7 },
            "deliveries": [{
                "subscriptionId": "s", "sequence": 3, "state": "delivered",
                "attempts": [
                    { "number": 1, "startedAt": "T1", "status": null, "latencyMs": 500, "error": "no\u{1b} answer" },
                    { "number": 2, "startedAt": "T2", "status": 204, "latencyMs": 4, "error": null },
                ],
                "ledger": { "log": 2, "key": 0, "backOff": 5_000, "subscriber": 504 },
            }],
        });
        let words = |good: bool, text: &str| format!("{}{text}", if good { "+" } else { "-" });
        let readable = |trace: &Value| {
            let trace = Trace::deserialize(trace).unwrap();
            readable(&trace, words)
        };
        assert_eq!(
            readable(&trace),
            "a.b  e  received T0  t partition 0 offset 7\n\
             subscription s  sequence 3  +delivered\n\
             \x20 1 T1  -no answer  500 ms  no\u{fffd} answer\n\
             \x20 2 T2  +204  4 ms\n\
             \x20 time: 5000 ms between attempts, 2 ms in the log, 504 ms at the subscriber"
        );
        trace["deliveries"] = json!([{
            "subscriptionId": "s", "sequence": 3, "state": "waiting", "attempts": [], "ledger": {},
            "reason": "paused", "detail": "It is\u{1b} paused.",
        }]);
        trace["withoutDelivery"] = json!([{
            "subscriptionId": "t", "name": "late", "reason": "before-start", "detail": "It begins behind it.",
        }]);
        assert_eq!(
            readable(&trace),
            "a.b  e  received T0  t partition 0 offset 7\n\
             subscription s  sequence 3  -waiting\n\
             \x20 paused: It is\u{fffd} paused.\n\
             subscription t  late  -no delivery\n\
             \x20 before-start: It begins behind it."
        );
        trace["withoutDelivery"] = json!([]);
        trace["deliveries"] = json!([]);
        assert!(readable(&trace).ends_with("no delivery has been tried"));
    }
}

//! Whether a receiver wants to be sent to at all, where a subscription asks it first: the handshake of HTTP 1.1 Web Hooks
//! for Event Delivery, 4.1. Nothing is sent before it has allowed it, nor more often than it allows.

use std::time::Duration;

use serde_json::{Map, Value};
use tidings_egress::Answer;
use tidings_store::SubscriptionRow;

use super::Subscriptions;
use super::stored::Secrets;
use crate::publish::refusal::Refusal;
use crate::subscription::{self, Allowed, Rate, Receiver, Rules, Start, State};

/// What asking may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Subscriptions {
    /// Asks the receiver of a subscription that is about to get something, unless this URL has allowed it before. One
    /// that does not allow it leaves the subscription disabled, with the reason; to resume it asks again.
    pub(super) async fn shake_hands(
        &self,
        row: &mut SubscriptionRow,
        document: &Map<String, Value>,
        secrets: &Secrets,
        start: &mut Start,
    ) -> Result<(), Refusal> {
        let mut whole = Value::Object(document.clone());
        secrets.put(&mut whole);
        let wanted = subscription::parse(whole)?;
        let webhook = wanted.target.webhook().filter(|it| it.handshake);
        let Some(webhook) = webhook else {
            start.allowed = None;
            return Ok(());
        };
        let url = webhook.url.to_string();
        let known = start.allowed.as_ref().is_some_and(|it| it.url == url);
        if known || row.state != State::Active.as_str() {
            return Ok(());
        }
        let per_minute = wanted.delivery.rate.map(|it| 60_000_000 / it.interval_us());
        let when = (self.clock.now_ms(), PATIENCE);
        let asked = self
            .webhooks
            .ask(webhook, (row.id, row.revision), per_minute, when);
        let asked = tidings_egress::on_behalf_of(row.tenant.as_str(), asked);
        let answered = match asked.await {
            Ok(answer) => allowed(&answer, self.webhooks.origin()),
            Err(error) => Err(error.to_string()),
        };
        match answered {
            Ok(per_minute) => start.allowed = Some(Allowed { url, per_minute }),
            Err(reason) => {
                start.allowed = None;
                row.state = State::Disabled.as_str().into();
                row.reason = Some(format!(
                    "the receiver has not allowed deliveries when it was asked with OPTIONS: {reason}"
                ));
            }
        }
        Ok(())
    }
}

/// How often a receiver allows deliveries a minute, if it sets a limit; or why it does not allow them.
fn allowed(answer: &Answer, origin: &str) -> Result<Option<u32>, String> {
    if !(200..300).contains(&answer.status) {
        return Err(format!("it answered with status {}", answer.status));
    }
    let given = answer.header("webhook-allowed-origin").map(str::trim);
    let ours = |given: &str| given == "*" || given.eq_ignore_ascii_case(origin);
    match given {
        None => return Err("its answer has no WebHook-Allowed-Origin".into()),
        Some(given) if ours(given) => {}
        Some(_) => {
            return Err(format!(
                "WebHook-Allowed-Origin is neither '{origin}' nor '*'"
            ));
        }
    }
    match answer.header("webhook-allowed-rate").map(str::trim) {
        None | Some("*") => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(rate) if rate > 0 => Ok(Some(rate)),
            _ => Err("WebHook-Allowed-Rate is neither a number from 1 on nor '*'".into()),
        },
    }
}

/// The rules of a delivery, no faster than the receiver allows.
pub(super) fn capped(target: &Receiver, mut rules: Rules, allowed: Option<&Allowed>) -> Rules {
    let asked = target.webhook().is_some_and(|it| it.handshake);
    let per_minute = allowed.filter(|_| asked).and_then(|it| it.per_minute);
    // The slower is the greater.
    rules.rate = rules.rate.max(per_minute.map(Rate::per_minute));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&str, &str)]) -> Result<Option<u32>, String> {
        let headers = headers.iter().copied();
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = Answer {
            status,
            headers: headers.collect(),
            body: Vec::new(),
            cut: false,
        };
        allowed(&answer, "events.example")
    }

    #[test]
    fn only_a_receiver_that_names_us_or_everybody_allows_deliveries() {
        let (origin, rate) = ("webhook-allowed-origin", "webhook-allowed-rate");
        for (status, headers, expected) in [
            (200, vec![(origin, "*")], Ok(None)),
            (204, vec![(origin, "Events.Example"), (rate, "*")], Ok(None)),
            (200, vec![(origin, "*"), (rate, "120")], Ok(Some(120))),
            (405, vec![(origin, "*")], Err("status 405")),
            (200, vec![], Err("no WebHook-Allowed-Origin")),
            (200, vec![(origin, "other.example")], Err("neither")),
            (200, vec![(origin, "*"), (rate, "0")], Err("Allowed-Rate")),
            (
                200,
                vec![(origin, "*"), (rate, "often")],
                Err("Allowed-Rate"),
            ),
        ] {
            let found = answered(status, &headers);
            match expected {
                Ok(rate) => assert_eq!(found, Ok(rate), "{headers:?}"),
                Err(part) => assert!(found.unwrap_err().contains(part), "{headers:?}"),
            }
        }
    }
}

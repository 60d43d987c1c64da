//! Whether a receiver copes with what will come to it: a few messages of which some must be taken and some must not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tidings_egress::{EgressError, Secret, Target};
use tidings_event::event::rfc3339;
use tidings_event::json::RawJson;
use tidings_event::{Attribute, Data, Event, SchemaVersion};
use tidings_store::SubscriptionRow;
use uuid::Uuid;

use super::{Change, Subscriptions, administered};
use crate::access::Caller;
use crate::audit::Actor;
use crate::deliver::target::webhook::message;
use crate::deliver::target::{Carried, Handover};
use crate::publish::refusal::Refusal;
use crate::secrets::random;
use crate::storing::to_its_end;
use crate::subscription::{Start, State, Subscription, Webhook};

/// Why a subscription is disabled whose receiver has yet to pass.
const UNTESTED: &str = "its receiver has yet to pass the conformance test of this URL";
/// The longest that one case may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How old the timestamp is that must be refused: far beyond the tolerance of Standard Webhooks.
const OLD_MS: i64 = 3_600_000;
/// How large the data is that takes a receiver its time, in bytes.
const LARGE: usize = 262_144;

/// One thing that a receiver must cope with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Valid,
    TamperedBody,
    OldTimestamp,
    WrongKey,
    DuplicateId,
    UnknownField,
    SlowAnswer,
}

impl Case {
    const ALL: [Self; 7] = [
        Self::Valid,
        Self::TamperedBody,
        Self::OldTimestamp,
        Self::WrongKey,
        Self::DuplicateId,
        Self::UnknownField,
        Self::SlowAnswer,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::TamperedBody => "tampered-body",
            Self::OldTimestamp => "old-timestamp",
            Self::WrongKey => "wrong-key",
            Self::DuplicateId => "duplicate-id",
            Self::UnknownField => "unknown-field",
            Self::SlowAnswer => "slow-answer",
        }
    }

    const fn sent(self) -> &'static str {
        match self {
            Self::Valid => "an event, signed as always",
            Self::TamperedBody => "a body that was changed after it was signed",
            Self::OldTimestamp => "a timestamp of an hour ago, rightly signed",
            Self::WrongKey => "a signature by another key",
            Self::DuplicateId => "the first event again, under its webhook-id",
            Self::UnknownField => "an event with an attribute and a member that nobody knows",
            Self::SlowAnswer => "an event of 256 KiB, whose answer may take the whole timeout",
        }
    }

    const fn must_be_taken(self) -> bool {
        !matches!(
            self,
            Self::TamperedBody | Self::OldTimestamp | Self::WrongKey
        )
    }
}

/// How a receiver has answered one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The case's name.
    pub case: &'static str,
    /// What was sent, in words.
    pub sent: &'static str,
    /// What is right, in words.
    pub expected: &'static str,
    /// The status, if it answered.
    pub status: Option<u16>,
    /// Why there is none.
    pub error: Option<String>,
    /// How long it took.
    pub latency_ms: u64,
    /// Whether it is right.
    pub passed: bool,
}

impl Subscriptions {
    /// Sends the receiver of one of the tenant's what it must cope with, and tells how it answered. Passing lets a
    /// subscription begin that waits for it. The events are in no log.
    pub async fn test(self: &Arc<Self>, caller: &Caller, id: Uuid) -> Result<Vec<Tested>, Refusal> {
        let tenant = administered(caller)?;
        let subscription = self.owned(&tenant, id)?;
        let webhook = subscription.target.webhook();
        let webhook = webhook.ok_or_else(|| {
            let detail =
                "Only what is sent to webhooks can be tested; this subscription copies to a topic.";
            Refusal::invalid("target.kind", detail)
        })?;
        let first = self.clock.new_id();
        let mut tested = Vec::new();
        for case in Case::ALL {
            tested.push(self.tried(&subscription, webhook, case, first).await);
        }
        if tested.iter().all(|one| one.passed) {
            let change = Change::Conforms(webhook.url.to_string());
            let (room, actor) = (self.clone(), Actor::Caller(caller.clone()));
            to_its_end(async move { room.make(&tenant, id, &change, &actor).await }).await?;
        }
        Ok(tested)
    }

    async fn tried(
        &self,
        subscription: &Arc<Subscription>,
        webhook: &Webhook,
        case: Case,
        first: Uuid,
    ) -> Tested {
        let now_ms = self.clock.now_ms();
        let event_id = match case {
            Case::Valid | Case::DuplicateId => first,
            _ => self.clock.new_id(),
        };
        let mut subscription = subscription.clone();
        if case == Case::WrongKey {
            let stranger = Arc::new(Secret::from_random(random()));
            Arc::make_mut(&mut subscription).signing = vec![(stranger, None)];
        }
        let timeout = subscription.delivery.timeout.min(PATIENCE);
        let event = Arc::new(Carried::new(event(&subscription, case, event_id, now_ms)));
        let batched = subscription.delivery.batch.is_some();
        let handover = Handover {
            batch: batched.then(|| vec![(event.clone(), 0)]),
            event,
            subscription: subscription.clone(),
            sequence: 0,
            replayed: false,
            replay: None,
            now_ms: match case {
                Case::OldTimestamp => now_ms - OLD_MS,
                _ => now_ms,
            },
        };
        let (headers, mut body) = message(webhook, &handover);
        if case == Case::TamperedBody {
            let text = String::from_utf8_lossy(&body).replace("\"number\":1", "\"number\":2");
            body = Bytes::from(text);
        }
        let begun = Instant::now();
        let answer = self
            .webhooks
            .send(webhook, &handover, headers, body, timeout)
            .await;
        let latency_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let taken = |status: u16| (200..300).contains(&status);
        let (status, error) = match answer {
            Ok(answer) => (Some(answer.status), None),
            Err(error @ EgressError::Refused(_)) => {
                (None, Some(format!("TARGET_NOT_ALLOWED: {error}")))
            }
            Err(error) => (None, Some(error.to_string())),
        };
        let must = case.must_be_taken();
        Tested {
            case: case.name(),
            sent: case.sent(),
            expected: if must {
                "2xx"
            } else {
                "an answer that is not 2xx"
            },
            status,
            error,
            latency_ms,
            passed: status.is_some_and(|status| taken(status) == must),
        }
    }
}

fn event(subscription: &Subscription, case: Case, event_id: Uuid, now_ms: i64) -> Event {
    let mut data = json!({ "test": true, "number": 1 });
    let mut extensions = Vec::new();
    match case {
        Case::UnknownField => {
            data["unknownToAll"] = json!(true);
            extensions.push(("unknowntoall".into(), Attribute::Text("true".into())));
        }
        Case::SlowAnswer => data["padding"] = json!("x".repeat(LARGE)),
        _ => {}
    }
    Event {
        event_id,
        id: event_id.to_string(),
        source: "/tidings".into(),
        event_type: "tidings.subscription.test".parse().expect("a legal type"),
        tenant: subscription.tenant.clone(),
        schema_version: SchemaVersion::default(),
        received_at_ms: now_ms,
        time: rfc3339(now_ms),
        traceparent: None,
        subject: None,
        data_schema: None,
        data_content_type: None,
        extensions,
        data: Data::Json(RawJson::trusted(data.to_string())),
    }
}

/// Keeps a subscription from getting anything whose receiver has to pass first, and lets it begin when it has.
pub(super) fn hold_back(
    row: &mut SubscriptionRow,
    document: &serde_json::Map<String, Value>,
    start: &Start,
) {
    let required = document.get("requireConformance") == Some(&json!(true));
    // A receiver passes under the URL that is asked, which need not be spelled as its owner wrote it.
    let url = document
        .get("target")
        .and_then(|target| target["url"].as_str()?.parse::<Target>().ok())
        .map(|url| url.to_string());
    let waits = required && start.passed_for != url;
    if waits && row.state == State::Active.as_str() {
        row.state = State::Disabled.as_str().into();
        row.reason = Some(UNTESTED.into());
    } else if !waits && row.reason.as_deref() == Some(UNTESTED) {
        // One that its owner has paused since begins when its owner resumes it.
        if row.state == State::Disabled.as_str() {
            row.state = State::Active.as_str().into();
        }
        row.reason = None;
    }
}

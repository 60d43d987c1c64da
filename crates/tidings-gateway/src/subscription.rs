//! A subscription: what its tenant wrote, read and checked (delivery.md, "Webhook subscriptions").

mod batch;
mod receiver;

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_egress::{Secret, Target};
use tidings_event::json::by_name;
use tidings_event::{Data, Event, TenantId, Topic};
use tidings_filter::Filter;
use tidings_store::storable;
use uuid::Uuid;

use crate::publish::refusal::Refusal;
use crate::subscriptions::of_extensions::Owner;
pub use batch::Batch;
use batch::BatchDocument;
use receiver::receiver;
pub(crate) use receiver::{Auth, IN_PROCESS, Mtls, mtls_shown};
pub use receiver::{Format, Receiver, Webhook};

/// The longest name, in characters.
const MAX_NAME: usize = 100;
/// The most attempts of a schedule of one's own.
const MAX_ATTEMPTS: usize = 100;
/// The longest time that a receiver may take.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
/// The fastest rate that may be asked for, a second.
pub(crate) const MAX_PER_SECOND: u32 = 100_000;
/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// The longest that an event of history waits for others to go with.
const BATCH_WAIT_OF_REPLAYS: Duration = Duration::from_millis(500);

/// Whether it gets anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Active,
    /// It keeps its place until it is resumed.
    Paused,
    /// The same, after something happened; the reason is beside it.
    Disabled,
}

impl State {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Active, Self::Paused, Self::Disabled];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

/// A subscription in force.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// What it is called by in URLs.
    pub id: Uuid,
    /// Whose events it is about.
    pub tenant: TenantId,
    /// What its owner calls it.
    pub name: String,
    /// Which events.
    pub filter: Filter,
    /// Where to.
    pub target: Receiver,
    /// How.
    pub delivery: Rules,
    /// Whether it gets anything.
    pub state: State,
    /// Why it is disabled.
    pub reason: Option<String>,
    /// Counts its changes, from 1.
    pub revision: u32,
    /// When it was made, in ms since 1970.
    pub created_at_ms: i64,
    /// When it was last changed.
    pub updated_at_ms: i64,
    /// Where it begins in each topic.
    pub(crate) start: Start,
    /// What its messages are signed with, the newest first, each with the time it ends at.
    pub(crate) signing: Vec<(Arc<Secret>, Option<i64>)>,
    /// As it is shown: filter, target and delivery, without any secret.
    pub document: Arc<Map<String, Value>>,
    /// Whose history it sends again, where it stands for a replay; then `id` is the replay's.
    pub(crate) replay_of: Option<ReplayOf>,
}

/// The subscription that a replay of history is for. It has a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayOf {
    /// The subscription.
    pub(crate) of: Uuid,
    /// Whether it goes to another target, of which nothing may come back to the subscription.
    pub(crate) shadow: bool,
}

impl Subscription {
    /// The id that messages are addressed under.
    pub fn addressed(&self) -> Uuid {
        self.replay_of.map_or(self.id, |replay| replay.of)
    }

    /// The extension that it stands for, if it is not its tenant's own. It is paused where that is not installed or not
    /// enabled.
    pub fn extension(&self) -> Option<&str> {
        let owner = self.start.owner.as_ref();
        owner.map(|owner| owner.extension.as_str())
    }

    /// Whether it goes to another target than the subscription's.
    pub(crate) fn is_shadow(&self) -> bool {
        self.replay_of.is_some_and(|replay| replay.shadow)
    }

    /// The same subscription under a replay's id, through which its history is sent again.
    pub(crate) fn for_replay(
        &self,
        replay: Uuid,
        rate: Option<Rate>,
        shadow: Option<Target>,
    ) -> Self {
        let mut again = self.clone();
        again.id = replay;
        // It has no place in the log.
        again.start = Start::default();
        again.replay_of = Some(ReplayOf {
            of: self.id,
            shadow: shadow.is_some(),
        });
        // Nobody could release a key that is parked there.
        again.delivery.on_exhausted = OnExhausted::Skip;
        if let Some(batch) = &mut again.delivery.batch {
            // What follows is made ready only when what went before is taken.
            batch.max_wait = batch.max_wait.min(BATCH_WAIT_OF_REPLAYS);
        }
        again.delivery.rate = rate.or(self.delivery.rate.filter(|_| shadow.is_none()));
        if let Some(url) = shadow {
            // Headers and credentials are for their own receiver.
            again.target = Receiver::Webhook(Box::new(Webhook {
                url,
                headers: Vec::new(),
                format: self
                    .target
                    .webhook()
                    .map_or_else(Format::default, |it| it.format),
                auth: None,
                mtls: None,
                handshake: false,
            }));
            again.delivery.schedule = Some(Vec::new());
        }
        again
    }
}

/// Where a subscription begins. A new number means that it was moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) number: u32,
    /// Offsets by topic; a topic that is not here did not exist, so all of it is wanted.
    pub(crate) places: std::collections::BTreeMap<String, u64>,
    /// The revision before which it was routed what its owner has skipped by going on from another place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<u32>,
    /// The extension that it stands for, if it is not its tenant's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    /// The URL whose receiver has passed the conformance test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passed_for: Option<String>,
    /// What the receiver has allowed, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allowed: Option<Allowed>,
    /// Since when its state is what it is, in ms since 1970; unknown of what was kept before this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state_since_ms: Option<i64>,
}

impl Start {
    /// The first offset that is wanted of a topic's partition.
    pub(crate) fn place_in(&self, topic: &Topic) -> u64 {
        self.places.get(topic.as_str()).copied().unwrap_or(0)
    }
}

/// A receiver's word that it may be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allowed {
    /// The URL that it was asked at.
    pub(crate) url: String,
    /// How often at most.
    pub(crate) per_minute: Option<u32>,
}

/// What a delivery does when its attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExhausted {
    /// Its key stays closed until somebody releases it.
    Park,
    /// It becomes a dead letter, and its key goes on.
    Skip,
}

/// How deliveries are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// What order is kept by, if it is kept.
    pub key: Option<Key>,
    /// What happens when attempts are used up.
    pub on_exhausted: OnExhausted,
    /// At most so many at once.
    pub max_in_flight: usize,
    /// How often at most.
    pub rate: Option<Rate>,
    /// What one attempt may take.
    pub timeout: Duration,
    /// The waits between attempts, if not the installation's.
    pub schedule: Option<Vec<Duration>>,
    /// No attempt begins later than this after the first.
    pub max_age: Option<Duration>,
    /// When several events go in one message, if they do.
    pub batch: Option<Batch>,
}

/// How often at most; the faster is the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// From one to the next.
    interval_us: i64,
}

impl Rate {
    /// So many a second, of which there is one at least.
    pub fn per_second(number: u32) -> Self {
        Self {
            interval_us: (1_000_000 / i64::from(number.max(1))).max(1),
        }
    }

    /// So many a minute, of which there is one at least.
    pub fn per_minute(number: u32) -> Self {
        Self {
            interval_us: (60_000_000 / i64::from(number.max(1))).max(1),
        }
    }

    /// From one to the next, in microseconds; 1 at least.
    pub fn interval_us(self) -> i64 {
        self.interval_us
    }
}

/// What events are kept in order by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The value of an attribute.
    Attribute(String),
    /// The value at a JSON pointer into the data.
    Pointer(String),
}

impl Key {
    /// The key of an event; none when it has no such value, and then it is not kept in order.
    pub(crate) fn of(&self, event: &Event) -> Option<String> {
        let text = match self {
            Self::Attribute(name) => {
                let subject = tidings_filter::Subject::new(event);
                let value = subject.attribute(name)?;
                value.to_text().into_owned()
            }
            Self::Pointer(pointer) => {
                let Data::Json(json) = &event.data else {
                    return None;
                };
                let data: Value = serde_json::from_slice(json.as_bytes()).ok()?;
                match data.pointer(pointer)? {
                    Value::Null => return None,
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                }
            }
        };
        Some(storable(text))
    }
}

/// The body of `POST /v1/subscriptions`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    name: String,
    #[serde(default)]
    filter: Map<String, Value>,
    target: Value,
    #[serde(default)]
    delivery: DeliveryDocument,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    require_conformance: Option<bool>,
    /// Where a new subscription begins is taken out before.
    #[serde(default)]
    replay_from: Option<Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeliveryDocument {
    #[serde(default)]
    ordered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_exhausted: Option<OnExhausted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_limit: Option<RateDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<RetryDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<BatchDocument>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RateDocument {
    per_second: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_attempts: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backoff: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age: Option<String>,
}

/// What a document says, checked.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) filter: Filter,
    pub(crate) target: Receiver,
    pub(crate) delivery: Rules,
    pub(crate) enabled: Option<bool>,
    /// As it is kept and shown.
    pub(crate) document: Map<String, Value>,
}

/// Reads and checks a document.
pub(crate) fn parse(document: Value) -> Result<Wanted, Refusal> {
    let given: Document = read("", document)?;
    if given.replay_from.is_some() {
        let detail = "'replayFrom' is where a new subscription begins; move this one with seek.";
        return Err(Refusal::invalid("replayFrom", detail));
    }
    let name = given.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > MAX_NAME {
        let detail = format!("'name' must have 1 to {MAX_NAME} characters.");
        return Err(Refusal::invalid("name", detail));
    }
    let filter_document = Value::Object(given.filter);
    let filter = Filter::parse(&filter_document).map_err(|error| {
        let field = match error.path.as_str() {
            "filter" => "filter".to_owned(),
            path => format!("filter.{path}"),
        };
        let detail = format!("'{field}' is not valid: {}.", error.reason);
        Refusal::invalid(field, detail)
    })?;
    let mut shown = Map::new();
    shown.insert("name".into(), name.clone().into());
    shown.insert("filter".into(), filter_document);
    let (target, target_shown) = receiver(given.target)?;
    let mut delivery = rules(&given.delivery)?;
    let batch = given.delivery.batch.as_ref();
    delivery.batch = batch
        .map(|given| batch::batch(given, &target))
        .transpose()?;
    shown.insert("target".into(), target_shown);
    shown.insert("delivery".into(), serde_json::json!(given.delivery));
    if given.require_conformance == Some(true) {
        shown.insert("requireConformance".into(), true.into());
    }
    Ok(Wanted {
        name,
        filter,
        target,
        delivery,
        enabled: given.enabled,
        document: shown,
    })
}

/// Reads a document, or the part of one that stands at a place. A refusal names the member.
fn read<T: DeserializeOwned>(place: &str, document: Value) -> Result<T, Refusal> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    by_name(tracked).map_err(|error: serde_json::Error| {
        let within = track.path().to_string();
        let parts = [place, &within];
        let parts: Vec<&str> = parts
            .into_iter()
            .filter(|it| !matches!(*it, "" | "."))
            .collect();
        Refusal::unread(&parts.join("."), &error)
    })
}

fn rules(given: &DeliveryDocument) -> Result<Rules, Refusal> {
    let key = match (&given.key, given.ordered) {
        (None, false) => None,
        (None, true) => {
            let detail =
                "An ordered delivery needs 'key': an attribute, or a JSON pointer into data.";
            return Err(Refusal::invalid("delivery.key", detail));
        }
        (Some(_), false) => {
            let detail = "'key' is for ordered deliveries; set 'ordered' to true.";
            return Err(Refusal::invalid("delivery.key", detail));
        }
        (Some(text), true) if text.starts_with('/') => Some(Key::Pointer(text.clone())),
        (Some(text), true) => {
            let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            if text.is_empty() || !text.bytes().all(legal) {
                let detail = format!("'{text}' is neither an attribute nor a JSON pointer.");
                return Err(Refusal::invalid("delivery.key", detail));
            }
            Some(Key::Attribute(text.clone()))
        }
    };
    let max_in_flight = given.max_in_flight.unwrap_or(16);
    if !(1..=256).contains(&max_in_flight) {
        let detail = "'maxInFlight' must be 1 to 256.";
        return Err(Refusal::invalid("delivery.maxInFlight", detail));
    }
    let per_second = given.rate_limit.as_ref().map(|rate| rate.per_second);
    if per_second == Some(0) {
        let detail = "'perSecond' must be 1 or more; to get nothing, pause the subscription.";
        return Err(Refusal::invalid("delivery.rateLimit.perSecond", detail));
    }
    let timeout = match given.timeout.as_deref() {
        None => Duration::from_secs(15),
        Some(text) => duration("delivery.timeout", text, MAX_TIMEOUT)?,
    };
    let park = given.ordered.then_some(OnExhausted::Park);
    let on_exhausted = given.on_exhausted.or(park).unwrap_or(OnExhausted::Skip);
    if on_exhausted == OnExhausted::Park && !given.ordered {
        let detail = "'park' is for ordered deliveries; others are skipped with a dead letter.";
        return Err(Refusal::invalid("delivery.onExhausted", detail));
    }
    let (schedule, max_age) = given.retry.as_ref().map_or(Ok((None, None)), retry)?;
    Ok(Rules {
        key,
        on_exhausted,
        max_in_flight,
        rate: per_second.map(Rate::per_second),
        timeout,
        schedule,
        max_age,
        batch: None,
    })
}

type Schedule = Option<Vec<Duration>>;

fn retry(given: &RetryDocument) -> Result<(Schedule, Option<Duration>), Refusal> {
    let max_age = given.max_age.as_deref();
    let max_age = max_age.map(|text| duration("delivery.retry.maxAge", text, MAX_WAIT * 30));
    let max_age = max_age.transpose()?;
    let schedule = match (&given.schedule, given.max_attempts) {
        (Some(_), Some(_)) => {
            let detail = "Give either 'schedule' or 'maxAttempts'.";
            return Err(Refusal::invalid("delivery.retry", detail));
        }
        (_, None) if given.backoff.is_some() => {
            let detail = "'backoff' is the first wait of 'maxAttempts', which is not given.";
            return Err(Refusal::invalid("delivery.retry.backoff", detail));
        }
        (Some(waits), None) if waits.len() < MAX_ATTEMPTS => {
            let waits = waits.iter();
            let waits = waits.map(|text| duration("delivery.retry.schedule", text, MAX_WAIT));
            Some(waits.collect::<Result<_, _>>()?)
        }
        (None, Some(attempts)) if (1..=MAX_ATTEMPTS).contains(&attempts) => {
            let first = given.backoff.as_deref().unwrap_or("5s");
            let first = duration("delivery.retry.backoff", first, MAX_WAIT)?;
            let doubled = |index| first.saturating_mul(1 << u32::min(index, 20)).min(MAX_WAIT);
            let waits = u32::try_from(attempts - 1).unwrap_or(u32::MAX);
            Some((0..waits).map(doubled).collect())
        }
        (None, None) => None,
        _ => {
            let detail = format!("A delivery may have 1 to {MAX_ATTEMPTS} attempts.");
            return Err(Refusal::invalid("delivery.retry", detail));
        }
    };
    Ok((schedule, max_age))
}

/// A duration as it is written, `500ms`, `5s`, `5m`, `2h` or `30d`, in the field of a document.
pub fn duration(field: &str, text: &str, longest: Duration) -> Result<Duration, Refusal> {
    let given = written(text).filter(|given| !given.is_zero() && *given <= longest);
    given.ok_or_else(|| no_duration(field, text, longest))
}

/// The same where none at all is one too, as `0s`.
pub fn duration_or_none(field: &str, text: &str, longest: Duration) -> Result<Duration, Refusal> {
    let given = written(text).filter(|given| *given <= longest);
    given.ok_or_else(|| no_duration(field, text, longest))
}

fn written(text: &str) -> Option<Duration> {
    let split = text.find(|character: char| !character.is_ascii_digit());
    let (digits, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let ms = digits.parse::<u64>().ok()?.checked_mul(unit_ms);
    ms.map(Duration::from_millis)
}

fn no_duration(field: &str, text: &str, longest: Duration) -> Refusal {
    let detail = format!(
        "'{text}' is no duration for '{field}'; write 500ms, 5s, 5m, 2h or 30d, {} at most.",
        told(longest)
    );
    Refusal::invalid(field, detail)
}

/// A bound in the largest unit that has it whole.
fn told(bound: Duration) -> String {
    let seconds = bound.as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let whole = units
        .into_iter()
        .find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    let (number, unit) = whole.map_or((seconds, "second"), |(unit, name)| (seconds / unit, name));
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests;

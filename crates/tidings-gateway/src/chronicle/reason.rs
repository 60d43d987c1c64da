//! Why an event has not come to a subscription that wants it. Pure: what is known goes in, one reason comes out, and it
//! says no more than is known.

use std::fmt::Write as _;
use std::sync::Arc;

use tidings_event::event::rfc3339;
use tidings_store::PendingRow;

use super::kept::{Damage, Tried, last};
use crate::deliver::record::{AttemptDetail, PendingDetail};
use crate::deliver::{Held, Standstill};
use crate::events::Placed;
use crate::subscription::{State, Subscription};

/// Why an event has not come to a subscription, in a word that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The subscription is paused.
    Paused,
    /// The subscription is disabled.
    Disabled,
    /// Its attempts are used up, and its key waits for somebody.
    Parked,
    /// An earlier event of its key goes first.
    BehindKey,
    /// The breaker of the receiver's host is open.
    CircuitOpen,
    /// The rate that the subscription may be sent at.
    RateLimit,
    /// As many events are on their way to the receiver as may be at once.
    InFlight,
    /// An attempt has failed, and the next has its time.
    Retry,
    /// It goes next, or at a time that was set for it.
    Due,
    /// Its replay does not run.
    ReplayStopped,
    /// It was given up.
    GaveUp,
    /// The subscription begins behind the event.
    BeforeStart,
    /// The subscription was told to go on from behind the event.
    Skipped,
    /// Deliveries have not come to the event.
    NotReached,
    /// Deliveries went past the event before the subscription was what it is.
    ChangedSince,
    /// Deliveries went past the event, and nothing is kept of one.
    Passed,
    /// What may have become of it is kept no more.
    Forgotten,
    /// What would say it is damaged in the store.
    Damaged,
    /// The subscription is deleted.
    Deleted,
}

impl Why {
    /// All there are.
    pub const ALL: [Self; 19] = [
        Self::Paused,
        Self::Disabled,
        Self::Parked,
        Self::BehindKey,
        Self::CircuitOpen,
        Self::RateLimit,
        Self::InFlight,
        Self::Retry,
        Self::Due,
        Self::ReplayStopped,
        Self::GaveUp,
        Self::BeforeStart,
        Self::Skipped,
        Self::NotReached,
        Self::ChangedSince,
        Self::Passed,
        Self::Forgotten,
        Self::Damaged,
        Self::Deleted,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Parked => "parked",
            Self::BehindKey => "behind-key",
            Self::CircuitOpen => "circuit-open",
            Self::RateLimit => "rate-limit",
            Self::InFlight => "in-flight",
            Self::Retry => "retry",
            Self::Due => "due",
            Self::ReplayStopped => "replay-stopped",
            Self::GaveUp => "gave-up",
            Self::BeforeStart => "before-start",
            Self::Skipped => "skipped",
            Self::NotReached => "not-reached",
            Self::ChangedSince => "changed-since",
            Self::Passed => "passed",
            Self::Forgotten => "forgotten",
            Self::Damaged => "damaged",
            Self::Deleted => "deleted",
        }
    }
}

/// Why an event has not come to a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// In a word.
    pub why: Why,
    /// In a sentence or two.
    pub detail: String,
}

impl Reason {
    fn new(why: Why, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { why, detail }
    }
}

/// What decides whether a pending delivery goes.
pub(super) enum Within {
    /// Its subscription, whatever its state.
    Force(Arc<Subscription>),
    /// The same, which is active, and the delivery that the others of its key wait for.
    Lane(Arc<Subscription>, PendingRow),
    /// What goes before it in its key cannot be read.
    LaneUnread,
    /// History of a replay that has ended or is cancelled.
    StoppedReplay,
    /// A subscription that is kept and cannot be read.
    Unread,
    /// The subscription is gone.
    Nobody,
}

/// How an event stands to a subscription that nothing is kept of a delivery for.
pub(super) struct Way<'a> {
    pub(super) subscription: &'a Subscription,
    pub(super) placed: &'a Placed,
    /// The next offset of its partition that the subscription gets; `None` where that is damaged.
    pub(super) reached: Option<u64>,
    pub(super) held: Option<Standstill>,
    /// Attempts since then are kept, in ms since 1970.
    pub(super) kept_since_ms: i64,
    pub(super) damage: Damage,
}

impl Way<'_> {
    /// Whether the subscription has still to come to the event, though it was sent before: it was told to go back, and what
    /// ended was routed before that.
    fn leads_there_again(&self, tried: &[Tried<'_>]) -> bool {
        let begins = self.subscription.start.place_in(&self.placed.topic);
        let offset = self.placed.offset;
        let is_ahead = begins <= offset && self.reached.is_some_and(|it| it <= offset);
        let moved = self.subscription.start.skipped.unwrap_or(0);
        let mut own = tried.iter().filter(|it| !it.again);
        // A cursor that others hold up may lie before what was sent.
        is_ahead && own.all(|it| it.detail.revision < moved)
    }
}

/// Why a delivery waits.
pub(super) fn of_pending(
    row: &PendingRow,
    detail: &PendingDetail,
    within: &Within,
    held: Option<Standstill>,
    now_ms: i64,
) -> Reason {
    let subscription = match within {
        Within::Force(subscription) | Within::Lane(subscription, _) => subscription,
        Within::StoppedReplay => {
            let detail =
                "The replay that it is one of does not run; it is sent if that is resumed.";
            return Reason::new(Why::ReplayStopped, detail);
        }
        Within::LaneUnread => {
            let detail = "What goes before it in its key is damaged in the store.";
            return Reason::new(Why::Damaged, detail);
        }
        Within::Unread => {
            let detail = "The subscription cannot be read in the store, and gets nothing.";
            return Reason::new(Why::Damaged, detail);
        }
        Within::Nobody => {
            return Reason::new(Why::Deleted, "The subscription is deleted; it ends.");
        }
    };
    let stands = standing(subscription, "what was being delivered goes on when it is.");
    if row.state == "parked" {
        let since = rfc3339(row.next_at_ms);
        let mut told = format!(
            "Its attempts are used up, and its key has been parked since {since}: it goes on when that is released."
        );
        if let Some(stands) = stands {
            let _ = write!(told, " {}", stands.detail);
        }
        return Reason::new(Why::Parked, told);
    }
    if let Some(stands) = stands {
        return stands;
    }
    if let Within::Lane(_, before) = within {
        return behind(before, now_ms);
    }
    if row.state == "waiting" && now_ms < row.next_at_ms {
        let at = rfc3339(row.next_at_ms);
        return if row.attempts > detail.base {
            let number = row.attempts;
            let told = format!("Attempt {number} has failed; the next is due at {at}.");
            Reason::new(Why::Retry, told)
        } else {
            Reason::new(Why::Due, format!("It is to be sent at {at}."))
        };
    }
    held.map_or_else(
        || Reason::new(Why::Due, "It is due, and goes as soon as it can."),
        holding,
    )
}

/// Why an event has not come to a subscription that nothing of it waits for, by what was tried.
pub(super) fn of_ended(way: &Way<'_>, tried: &[Tried<'_>]) -> Reason {
    let Some(last) = last(tried).filter(|_| !way.leads_there_again(tried)) else {
        return of_none(way);
    };
    if last.row.outcome == "gave-up" {
        return gave_up(last.detail);
    }
    if way.damage > Damage::None {
        return damaged();
    }
    let told = "An attempt has failed, and nothing is kept of what is to follow.";
    Reason::new(Why::Passed, told)
}

fn gave_up(last: &AttemptDetail) -> Reason {
    let error = last.error.as_ref().filter(|it| !it.is_empty());
    let told = error.map_or_else(
        || "It was given up.".to_owned(),
        |error| format!("It was given up: {error}."),
    );
    Reason::new(Why::GaveUp, told)
}

fn damaged() -> Reason {
    let told = "What is kept of a delivery of the event is damaged in the store: whether it was sent is not known.";
    Reason::new(Why::Damaged, told)
}

/// Why there is no delivery at all.
fn of_none(way: &Way<'_>) -> Reason {
    let (subscription, placed) = (way.subscription, way.placed);
    let begins = subscription.start.place_in(&placed.topic);
    let (offset, received) = (placed.offset, placed.event.received_at_ms);
    let forgotten = received < way.kept_since_ms;
    if way.damage == Damage::Here {
        return damaged();
    }
    if offset < begins {
        let again = match subscription.extension() {
            None => "a replay of its history with routing 'now' sends the event.",
            Some(_) => {
                "a 'replayFrom' before it, where its extension is put, has it sent with all that came after it."
            }
        };
        return if subscription.start.number <= 1 {
            let told = format!(
                "The subscription begins at offset {begins} of the partition, behind the event at {offset}; {again}"
            );
            Reason::new(Why::BeforeStart, told)
        } else if forgotten {
            old()
        } else {
            let told = format!(
                "The subscription was told to go on from offset {begins} of the partition, behind the event at {offset}; {again}"
            );
            Reason::new(Why::Skipped, told)
        };
    }
    let Some(reached) = way.reached else {
        let told = "How far its deliveries had come is damaged in the store: whether the event was sent is not known.";
        return Reason::new(Why::Damaged, told);
    };
    if reached <= offset {
        let later = "what comes meanwhile is sent only where it is with a 'replayFrom' before it.";
        return standing(subscription, later)
            .or_else(|| way.held.map(holding))
            .unwrap_or_else(|| {
                let told = format!(
                    "The subscription has come to offset {reached} of the partition, and nothing is written down yet of \
                     the event at {offset}."
                );
                Reason::new(Why::NotReached, told)
            });
    }
    if way.damage > Damage::None {
        return damaged();
    }
    if forgotten {
        return old();
    }
    if subscription.revision > 1 && received < subscription.updated_at_ms {
        let changed = rfc3339(subscription.updated_at_ms);
        let told = format!(
            "Deliveries went past the event and made none; the subscription, whose filter wants it now, was last changed \
             at {changed}."
        );
        return Reason::new(Why::ChangedSince, told);
    }
    let told = "Deliveries have gone past the event, and nothing is kept of one.";
    Reason::new(Why::Passed, told)
}

fn old() -> Reason {
    let told = "No attempts are kept any more of events as old as this (delivery.attempts_retention); an open dead letter of \
                it may be.";
    Reason::new(Why::Forgotten, told)
}

/// That a subscription gets nothing at all now; and where it waits for its extension, what becomes of the event when that is
/// installed and enabled.
fn standing(subscription: &Subscription, then: &str) -> Option<Reason> {
    let why = match subscription.state {
        State::Active => return None,
        State::Paused => Why::Paused,
        State::Disabled => Why::Disabled,
    };
    let (mut told, ends) = match (subscription.extension(), why) {
        // Nobody else can pause it.
        (Some(extension), Why::Paused) => (
            format!("The extension {extension} is not installed or not enabled"),
            then,
        ),
        (Some(_), _) => (
            "The subscription is disabled".to_owned(),
            "nothing is sent until its extension's subscription is put again.",
        ),
        (None, why) => (
            format!("The subscription is {}", why.as_str()),
            "nothing is sent until it is resumed.",
        ),
    };
    if let Some(since) = subscription.start.state_since_ms {
        let _ = write!(told, " since {}", rfc3339(since));
    }
    if let Some(reason) = &subscription.reason {
        let _ = write!(told, " ({reason})");
    }
    let _ = write!(told, ": {ends}");
    Some(Reason::new(why, told))
}

/// What goes before a delivery that waits behind its key.
fn behind(before: &PendingRow, now_ms: i64) -> Reason {
    let number = before.sequence;
    let waits = match before.state.as_str() {
        "parked" => ", which is parked".to_owned(),
        "waiting" if now_ms < before.next_at_ms => {
            format!(", which is tried again at {}", rfc3339(before.next_at_ms))
        }
        _ => String::new(),
    };
    let told = format!("An earlier event of its key goes first: number {number}{waits}.");
    Reason::new(Why::BehindKey, told)
}

fn holding(standstill: Standstill) -> Reason {
    let until = rfc3339(standstill.until_ms);
    match standstill.held {
        Held::InFlight => {
            let told = "As many of the subscription's events are on their way as may be at once (delivery.maxInFlight); what \
                        comes behind them waits until one has ended.";
            Reason::new(Why::InFlight, told)
        }
        Held::Breaker => {
            let told = format!(
                "The circuit breaker of the receiver's host lets nothing of the subscription through before about {until}."
            );
            Reason::new(Why::CircuitOpen, told)
        }
        Held::Unable => {
            let told = format!(
                "The gateway lacks files or memory to send with, which says nothing of the receiver; it is tried again at \
                 about {until}."
            );
            Reason::new(Why::CircuitOpen, told)
        }
        Held::RateLimit | Held::Key | Held::Batch => {
            let told =
                format!("The subscription's rate limit lets nothing through before {until}.");
            Reason::new(Why::RateLimit, told)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stands_in_the_documentation() {
        let page = include_str!("../../../../docs/deliveries.md");
        for why in Why::ALL {
            let word = why.as_str();
            let row = |line: &&str| line.starts_with("| `") && line.contains(&format!("`{word}`"));
            assert!(page.lines().any(|line| row(&line)), "{word}");
        }
    }
}

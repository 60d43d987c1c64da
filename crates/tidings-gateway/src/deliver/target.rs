//! What a delivery is handed over to: a [`webhook`], an [`in_process`] plugin, or another [`topic`]. Workflows and
//! federation are others.

mod answered;
pub(crate) mod batch;
pub mod in_process;
pub(crate) mod oauth2;
#[cfg(test)]
mod suite;
pub mod topic;
pub mod webhook;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidings_event::Event;
use uuid::Uuid;

use crate::subscription::{Receiver, Subscription};

/// An event on its way to any number of subscriptions. What is the same for all of them is made once.
#[derive(Debug)]
pub struct Carried {
    event: Event,
    structured: OnceLock<Bytes>,
    platform: OnceLock<Bytes>,
}

impl Carried {
    /// Of an event.
    pub fn new(event: Event) -> Self {
        Self {
            event,
            structured: OnceLock::new(),
            platform: OnceLock::new(),
        }
    }

    /// Its CloudEvents JSON.
    pub fn structured(&self) -> Bytes {
        let write = || self.event.to_structured().into();
        self.structured.get_or_init(write).clone()
    }

    /// Source C's `PlatformEvent`.
    pub(crate) fn platform(&self) -> Bytes {
        let write = || webhook::platform_event(&self.event).to_string().into();
        self.platform.get_or_init(write).clone()
    }
}

impl Deref for Carried {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// One delivery on its way.
#[derive(Debug, Clone)]
pub struct Handover {
    /// To whom, as the subscription is now.
    pub subscription: Arc<Subscription>,
    /// What.
    pub event: Arc<Carried>,
    /// Its number in the subscription; 0 for what is sent again but was never sent before.
    pub sequence: u64,
    /// Whether it is sent again because somebody asked for it.
    pub replayed: bool,
    /// The plan that it is sent again by, if it is one of many.
    pub replay: Option<Uuid>,
    /// All that go in one message, with their numbers, where the subscription takes batches; the event is the
    /// first of them.
    pub batch: Option<Vec<(Arc<Carried>, u64)>>,
    /// The time, in ms since 1970.
    pub now_ms: i64,
}

/// What a hand-over came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What follows from it.
    pub verdict: Verdict,
    /// The status, where the target has one.
    pub status: Option<u16>,
    /// What went wrong, in a sentence without secrets.
    pub error: Option<String>,
    /// What the target answered: names in lower case, and values.
    pub response_headers: Vec<(String, String)>,
    /// The beginning of what it answered.
    pub response_body: String,
    /// How much of the time went into connecting.
    pub connecting: Duration,
}

impl Outcome {
    /// The target has it, and answered nothing.
    pub fn delivered() -> Self {
        Self {
            verdict: Verdict::Delivered,
            status: None,
            error: None,
            response_headers: Vec::new(),
            response_body: String::new(),
            connecting: Duration::ZERO,
        }
    }

    /// It does not, and answered nothing.
    pub fn failed(sentence: impl Into<String>, unreachable: bool) -> Self {
        Self {
            verdict: Verdict::Failed {
                retry_after: None,
                unreachable,
            },
            error: Some(sentence.into()),
            ..Self::delivered()
        }
    }

    /// A hand-over that failed before the target was asked.
    pub fn unasked(sentence: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Unasked,
            error: Some(sentence.into()),
            ..Self::delivered()
        }
    }

    /// A hand-over that could not be begun for want of something of our own.
    pub fn unable(sentence: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Unable,
            error: Some(sentence.into()),
            ..Self::delivered()
        }
    }
}

/// What follows from a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The target has it.
    Delivered,
    /// It does not; later it may. The target may have said when.
    Failed {
        /// No sooner than this.
        retry_after: Option<Duration>,
        /// Whether the target as such did not work, so that others sent there would fare no better.
        unreachable: bool,
    },
    /// It was not asked, for want of what it is to be shown: that says nothing of it. Later it may be.
    Unasked,
    /// It was not asked, because this process has no files or memory left to do it with. That is no attempt.
    Unable,
    /// The target wants nothing of this subscription any more.
    Gone,
}

/// A kind of target.
///
/// # Contract
/// - A hand-over ends within the subscription's timeout, and a little.
/// - It is made at least once: a target may get the same event again, under the same id.
/// - It never panics and never blocks its thread; what fails is an [`Outcome`].
pub trait Target: Send + Sync + 'static {
    /// Hands an event over.
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome>;
}

/// Routes a delivery to its subscription's kind of target.
pub struct Targets {
    webhooks: webhook::Webhooks,
    plugins: in_process::Handlers,
    topics: topic::Topics,
}

impl Targets {
    /// Of these.
    pub fn new(
        webhooks: webhook::Webhooks,
        plugins: in_process::Handlers,
        topics: topic::Topics,
    ) -> Self {
        Self {
            webhooks,
            plugins,
            topics,
        }
    }
}

impl Target for Targets {
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome> {
        match handover.subscription.target {
            Receiver::Webhook(_) => self.webhooks.hand_over(handover),
            Receiver::InProcess { .. } => self.plugins.hand_over(handover),
            Receiver::Topic { .. } => self.topics.hand_over(handover),
        }
    }
}

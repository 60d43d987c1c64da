//! THE WAY IN: shape → authorise → validate → name → claim → place → append → settle → deliver now.
//!
//! Every publish of every surface is one [`Command`] through [`Line::publish`]. All steps but `claim`,
//! `append` and `settle` are pure functions, over an immutable [`Rulebook`] where they consult anything.
//! Order is held by types: each step takes what only the step before can make. [`Line::explain`] runs the
//! same pure steps with the trail switched on.
//!
//! *Deduplicate* is `claim` and `settle`, around the append. Where the bus keeps receipts itself
//! ([`tidings_bus::Bus::keeps_receipts`]) it decides key, event and counter in one atomic append, and both
//! are skipped. *Deliver now* runs the handlers in process that a publisher waits for (source C, `async = false`), if
//! there are any; whatever becomes of them, the publish stands.

mod append;
pub(crate) mod authorise;
pub(crate) mod claim;
pub mod command;
pub(crate) mod copy;
#[cfg(test)]
mod in_time;
pub(crate) mod name;
pub(crate) mod place;
pub mod refusal;
pub(crate) mod validate;

use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{AppendError, Bus, Known, Receipt, Record, Stored, partition_of};
use tidings_event::{Code, Event, EventType, Topic};
use tidings_receipts::{Hold, Receipts, Release, Wanted};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::clock::Clock;
use crate::deliver::now::{deliver_now, wanted_now};
use crate::envelope;
use crate::events::unreadable;
use crate::plugins::InProcess;
use crate::rulebook::{Rulebook, Shelf};
use crate::storing::to_its_end;
use append::{Unpublished, append};
use authorise::{authorise, shape};
use claim::{Claimed, claim};
use command::Command;
use copy::{Copy, copied};
use name::{Named, name};
use place::{Placed, place};
use refusal::{Fault, Refusal, Rule};
use validate::validate;

/// An answer within 2 s was promised, whatever of those that the line waits for is gone.
const ANSWER: Duration = Duration::from_millis(1_900);

/// The answer to one event that was published, now or by an earlier request with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Ours.
    pub event_id: Uuid,
    /// The producer's.
    pub id: String,
    /// The producer's.
    pub source: String,
    /// What happened.
    pub event_type: EventType,
    /// Where it stands.
    pub topic: Topic,
    /// Where it stands.
    pub partition: u32,
    /// Where it stands.
    pub offset: u64,
    /// Whether its key was known, so that nothing was appended.
    pub duplicate: bool,
    /// Whether it was not kept anywhere, because the bus is disabled (source E). It then stands nowhere.
    pub skipped: bool,
    /// The idempotency key in force, given or made; a CloudEvent has none.
    pub idempotency_key: Option<String>,
}

/// One rule's verdict in an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which rule.
    pub rule: Rule,
    /// What it refused, or `None` when it let the event pass.
    pub refused: Option<Code>,
    /// Why.
    pub detail: String,
    /// Where it refused, and for what.
    pub errors: Vec<Fault>,
}

/// What each rule decided, written down only when somebody asks.
#[derive(Debug)]
pub struct Trail(Option<Vec<Step>>);

impl Trail {
    /// Writes nothing down and costs nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Writes every verdict down.
    pub fn on() -> Self {
        Self(Some(Vec::new()))
    }

    fn pass(&mut self, rule: Rule, detail: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.0 {
            steps.push(Step {
                rule,
                refused: None,
                detail: detail(),
                errors: Vec::new(),
            });
        }
    }
}

/// What would happen to a publish, and why.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Each rule that was asked, in order; the last one refused, if any did.
    pub steps: Vec<Step>,
    /// Where the event would go, if accepted.
    pub outcome: Result<Destination, Refusal>,
}

impl Explanation {
    /// Of what is refused before the line is asked.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let nothing = Self {
            steps: Vec::new(),
            outcome: Err(refusal.clone()),
        };
        nothing.but(refusal)
    }

    /// The same, refused before it would be appended.
    pub(crate) fn but(mut self, refusal: Refusal) -> Self {
        let stands = |step: &Step| step.rule != Rule::Append && step.rule != refusal.rule;
        self.steps.retain(stands);
        self.steps.push(Step {
            rule: refusal.rule,
            refused: Some(refusal.code),
            detail: refusal.detail.clone(),
            errors: refusal.errors.clone(),
        });
        Self {
            outcome: Err(refusal),
            ..self
        }
    }

    /// The same, of an event whose key was used for it before.
    pub(crate) fn repeated(mut self, detail: &str) -> Self {
        for step in &mut self.steps {
            match step.rule {
                Rule::Idempotency => detail.clone_into(&mut step.detail),
                Rule::Append => "Nothing: it was appended before.".clone_into(&mut step.detail),
                _ => {}
            }
        }
        self
    }
}

/// What the rules decided on one event, before anybody is asked.
pub(crate) struct Judgement {
    steps: Vec<Step>,
    placed: Result<Placed, Refusal>,
}

/// Where an event would go.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The topic.
    pub topic: Topic,
    /// Its partition's number.
    pub partition: u32,
    /// The envelope, byte by byte.
    pub envelope: bytes::Bytes,
    /// The event, as whoever it is delivered to would read it there.
    pub event: Event,
}

/// The line: what its steps consult and append to.
pub struct Line {
    bus: Arc<dyn Bus>,
    receipts: Option<Arc<dyn Receipts>>,
    shelf: Arc<Shelf>,
    clock: Clock,
    partitions: u32,
    in_process: Arc<InProcess>,
}

impl Line {
    /// A line over a bus whose new topics get so many partitions. `receipts` keeps idempotency keys for a
    /// bus that does not.
    pub fn new(
        bus: Arc<dyn Bus>,
        receipts: Option<Arc<dyn Receipts>>,
        shelf: Arc<Shelf>,
        clock: Clock,
        partitions: u32,
        in_process: Arc<InProcess>,
    ) -> Self {
        assert!(
            bus.keeps_receipts() || receipts.is_some(),
            "somebody keeps the idempotency keys"
        );
        let receipts = receipts.filter(|_| !bus.keeps_receipts());
        Self {
            bus,
            receipts,
            shelf,
            clock,
            partitions,
            in_process,
        }
    }

    pub(crate) fn in_process(&self) -> &Arc<InProcess> {
        &self.in_process
    }

    /// Publishes 1 to 1,000 events: all of them, or none.
    pub async fn publish(self: &Arc<Self>, command: Command) -> Result<Vec<Published>, Refusal> {
        let named = self.name(command)?;
        self.go_on(named).await
    }

    /// The line as far as it is pure. An emit is accepted and counted between this and [`go_on`](Self::go_on).
    pub(crate) fn name(&self, command: Command) -> Result<Named, Refusal> {
        self.prepare(command, &mut Trail::off())
    }

    /// Appends an event of the log once more, in another topic. The same copy again is a duplicate of the first.
    pub(crate) async fn copy(self: &Arc<Self>, copy: Copy<'_>) -> Result<Published, Refusal> {
        let kept = self.go_on(copied(copy, self.clock.new_id())).await?;
        let one = kept.into_iter().next();
        Ok(one.expect("each event has its outcome"))
    }

    /// Whether copies may go to a topic.
    pub(crate) fn takes_copies(&self, topic: &Topic) -> bool {
        self.shelf.rulebook().takes_copies(topic)
    }

    /// The steps that wait for anybody: all events are appended, or none.
    pub(crate) async fn go_on(self: &Arc<Self>, named: Named) -> Result<Vec<Published>, Refusal> {
        let Some(receipts) = self.receipts.clone() else {
            let placed = self.place(Claimed::unasked(named), &mut Trail::off());
            let now = wanted_now(&self.in_process, &placed.records);
            if now.is_empty() {
                let published = append(&*self.bus, placed, None);
                let published = published.instrument(appending()).await;
                return published.map_err(Unpublished::refusal);
            }
            let (line, span) = (Arc::clone(self), appending());
            // What is appended is handled, even when the caller stops waiting. Boxed here and below: otherwise each
            // publish on the embedded log would carry room for it.
            let handled = to_its_end(async move {
                let published = append(&*line.bus, placed, None).instrument(span).await;
                let published = published.map_err(Unpublished::refusal)?;
                deliver_now(&line, now, &published).await;
                Ok(published)
            });
            return Box::pin(handled).await;
        };
        let (line, span) = (Arc::clone(self), appending());
        // A key that is claimed must be settled or released, even when the caller stops waiting.
        let deadline = Instant::now() + ANSWER;
        let settled = to_its_end(async move {
            let claimed = timeout_at(deadline, claim(&*receipts, named)).await;
            // What was reserved is free when its lease ends.
            let claimed = claimed.unwrap_or_else(|_| Err(claim::too_late()))?;
            let mut placed = line.place(claimed, &mut Trail::off());
            let holds = std::mem::take(&mut placed.holds);
            let now = wanted_now(&line.in_process, &placed.records);
            let published = append(&*line.bus, placed, Some(deadline));
            let published = published.instrument(span).await;
            settle(&*receipts, holds, &published, deadline).await;
            let published = published.map_err(Unpublished::refusal)?;
            deliver_now(&line, now, &published).await;
            Ok(published)
        });
        Box::pin(settled).await
    }

    /// Whether [`publish`](Self::publish) would get as far as asking anybody. Pure.
    pub(crate) fn check(&self, command: Command) -> Result<(), Refusal> {
        self.name(command).map(drop)
    }

    /// What [`publish`](Self::publish) would do with one event. Appends nothing, and reserves no key.
    pub async fn explain(&self, command: Command) -> Explanation {
        let judgement = self.judge(command);
        let record = judgement.placed.as_ref().ok().map(|it| &it.records[0]);
        let wanted = record.and_then(|record| {
            Some(Wanted {
                tenant: record.tenant.clone(),
                once: record.once.clone()?,
                event_id: record.event_id,
            })
        });
        let explanation = self.explained(judgement).await;
        let Some(wanted) = wanted.filter(|_| explanation.outcome.is_ok()) else {
            return explanation;
        };
        match self.known(wanted).await {
            Ok(None) => explanation,
            Ok(Some(Known::Used(_))) => explanation.repeated(
                "The key was used for this body within 24 h: the first receipt is answered again.",
            ),
            Ok(Some(Known::Reused)) => explanation.but(claim::key_reused(vec![0], true)),
            Err(refusal) => explanation.but(refusal),
        }
    }

    async fn known(&self, wanted: Wanted) -> Result<Option<Known>, Refusal> {
        if let Some(receipts) = &self.receipts {
            let known = receipts.look_up(wanted).await;
            return known.map_err(|error| claim::refused(&error));
        }
        let known = self.bus.known(wanted.tenant, wanted.once).await;
        known.map_err(unreadable)
    }

    /// What the rules decide on one event. Pure.
    pub(crate) fn judge(&self, command: Command) -> Judgement {
        let mut trail = Trail::on();
        let named = self.prepare(command, &mut trail);
        let placed = named.map(|named| self.place(Claimed::unasked(named), &mut trail));
        Judgement {
            steps: trail.0.unwrap_or_default(),
            placed,
        }
    }

    /// Where it would go besides.
    pub(crate) async fn explained(&self, judgement: Judgement) -> Explanation {
        let Judgement { mut steps, placed } = judgement;
        if placed.is_ok() && self.bus.is_disabled() {
            steps.push(Step {
                rule: Rule::Append,
                refused: None,
                detail: "The bus is disabled: the event would be skipped, and stand nowhere."
                    .to_owned(),
                errors: Vec::new(),
            });
        }
        let outcome = match placed {
            Ok(placed) => self.destination(&placed.records[0]).await,
            Err(refusal) => Err(refusal),
        };
        let explanation = Explanation { steps, outcome };
        match explanation.outcome.clone() {
            Ok(_) => explanation,
            Err(refusal) => explanation.but(refusal),
        }
    }

    /// A topic keeps the partitions it was made with, whatever new ones get.
    async fn destination(&self, record: &Record) -> Result<Destination, Refusal> {
        let topics = self.bus.topics().await;
        let topics = topics.map_err(unreadable)?;
        let known = topics.iter().find(|(topic, _)| *topic == record.topic);
        let partitions = known.map_or(self.partitions, |(_, partitions)| *partitions);
        let partition = partition_of(record.key.as_bytes(), partitions);
        let stored = Stored {
            topic: record.topic.clone(),
            partition,
            offset: 0,
            key: record.key.clone(),
            tenant: record.tenant.clone(),
            event_id: record.event_id,
            timestamp_ms: record.timestamp_ms,
            headers: record.headers.clone(),
            value: record.value.clone(),
        };
        let event = envelope::read(&stored);
        Ok(Destination {
            topic: stored.topic,
            partition,
            envelope: stored.value,
            event: event.map_err(|error| Refusal::fault("Reading an envelope", &error))?,
        })
    }

    /// The pure part of the line before a key is claimed.
    fn prepare(&self, command: Command, trail: &mut Trail) -> Result<Named, Refusal> {
        let rulebook: &Rulebook = &self.shelf.rulebook();
        let shaped = shape(command, trail);
        let authorised = authorise(shaped, rulebook, trail)?;
        let valid = validate(authorised, rulebook, trail)?;
        Ok(name(valid, &|| self.clock.new_id()))
    }

    fn place(&self, claimed: Claimed, trail: &mut Trail) -> Placed {
        place(claimed, &self.shelf.rulebook(), trail)
    }
}

/// The append in the trace of its request.
fn appending() -> tracing::Span {
    tracing::debug_span!(target: "tidings::trace", "append")
}

/// Tells those who keep the keys what became of them: the last step where keys are claimed.
async fn settle(
    receipts: &dyn Receipts,
    holds: Vec<Hold>,
    published: &Result<Vec<Published>, Unpublished>,
    deadline: Instant,
) {
    let told = match published {
        Ok(published) => {
            let fresh = published.iter().filter(|one| !one.duplicate);
            let settled = holds.into_iter().zip(fresh.map(Published::receipt));
            receipts.settle(settled.collect())
        }
        Err(Unpublished {
            error: AppendError::Unknown(_),
            ..
        }) => receipts.release(holds, Release::Unknown),
        Err(_) => receipts.release(holds, Release::NothingAppended),
    };
    // What is appended is durable and acknowledged all the same. A repeat of the key within its lease
    // waits; after it, it appends again under the same event id.
    match timeout_at(deadline, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "idempotency keys could not be settled"),
        Err(_) => tracing::error!("idempotency keys could not be settled in time"),
    }
}

impl Published {
    fn receipt(&self) -> Receipt {
        Receipt {
            event_id: self.event_id,
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::access::on_behalf_of;
    use crate::clock::Clock;
    use crate::in_memory;
    use crate::publish::command::Command;

    /// Hundreds wait for one commit at a time: what they hold should stay in the processor's caches until then.
    #[tokio::test]
    async fn what_a_publish_holds_while_it_waits_is_small() {
        let gateway = in_memory::gateway(&Clock::manual(0)).await;
        let caller = on_behalf_of(tidings_event::Service::Audit, "acme".parse().unwrap());
        let admitted = gateway.workspaces.admit(&caller);
        assert!(
            size_of_val(&admitted) <= 1_024,
            "{}",
            size_of_val(&admitted)
        );
        let command = Command {
            caller: caller.clone(),
            drafts: Vec::new(),
            traceparent: None,
            alone: true,
        };
        let published = gateway.publish(command);
        assert!(
            size_of_val(&published) <= 1_024,
            "{}",
            size_of_val(&published)
        );
    }
}

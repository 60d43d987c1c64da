//! What a caller did or met instead of success, without HTTP and without any library's types.

use std::time::Duration;

use tidings_event::Code;
use tidings_event::event::trace_id;
use uuid::Uuid;

use crate::clock::Clock;

/// The rules in the order in which they are asked (publish.md, "Rules, in this order").
///
/// With several faults in one request the smallest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Who is calling.
    Authentication,
    /// How much the tenant asks of the gateway.
    RateLimit,
    /// How large the body is.
    BodyLimits,
    /// What the body looks like, and the form of the event type.
    Shape,
    /// Kernel namespaces belong to one service each.
    KernelNamespace,
    /// What the caller has declared or been granted.
    Manifest,
    /// The form of `schemaVersion`.
    SchemaVersion,
    /// How large `data` is.
    DataSize,
    /// What the contract of the type says.
    Contract,
    /// The form of the idempotency key, and what it was used for before.
    Idempotency,
    /// How many emits of the month the plan has left.
    Quota,
    /// The bus.
    Append,
}

impl Rule {
    /// The name of the step in an explanation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::RateLimit => "rate-limit",
            Self::BodyLimits => "body-limits",
            Self::Shape => "shape",
            Self::KernelNamespace => "kernel-namespace",
            Self::Manifest => "manifest",
            Self::SchemaVersion => "schema-version",
            Self::DataSize => "data-size",
            Self::Contract => "contract",
            Self::Idempotency => "idempotency",
            Self::Quota => "quota",
            Self::Append => "append",
        }
    }
}

/// One of the things that are wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In a batch, which event it is.
    pub index: Option<usize>,
    /// What kind.
    pub code: Code,
    /// What is wrong, as a sentence.
    pub detail: String,
    /// The place in the data or the document, as a JSON Pointer (RFC 6901).
    pub path: Option<String>,
    /// What belongs there.
    pub expected: Option<String>,
    /// What is there instead; never the value itself.
    pub got: Option<String>,
    /// A payload that was accepted before and would be refused now (source D).
    pub counter_example: Option<Box<serde_json::Value>>,
}

impl Fault {
    /// At a place.
    pub fn at(code: Code, path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            index: None,
            code,
            detail: detail.into(),
            path: Some(path.into()),
            expected: None,
            got: None,
            counter_example: None,
        }
    }

    /// Of a refused event of a batch; where it stands within the event is that of its first fault.
    fn of_event(index: usize, refusal: &Refusal) -> Self {
        let first = refusal.errors.first();
        Self {
            index: Some(index),
            code: refusal.code,
            detail: refusal.detail.clone(),
            path: first.and_then(|fault| fault.path.clone()),
            expected: first.and_then(|fault| fault.expected.clone()),
            got: first.and_then(|fault| fault.got.clone()),
            counter_example: None,
        }
    }
}

/// A refusal: one code, one sentence that says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// The rule that decided.
    pub rule: Rule,
    /// The sentence.
    pub detail: String,
    /// The field that is wrong.
    pub field: Option<Box<str>>,
    /// The limit that was passed, with what was sent.
    pub limit: Option<Box<(u64, u64)>>,
    /// When a retry may be worth it.
    pub retry_after: Option<Duration>,
    /// Each thing that is wrong: of a batch, an entry for each event; of data or a document, each place.
    pub errors: Vec<Fault>,
    /// The trace that the log tells of it under, once it does; the caller is told the same.
    pub logged: Option<Uuid>,
    /// What was or may have been accepted all the same.
    pub accepted: Option<Box<Accepted>>,
}

/// Events that stand in the log, or may, although their request is not answered with success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// In the order of the request.
    pub events: Vec<AcceptedEvent>,
}

/// One of them, to ask after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// Under which it stands, if it does.
    pub event_id: Uuid,
    /// The key in force, given or made: a repeat of it answers what became of the event.
    pub idempotency_key: String,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(code: Code, rule: Rule, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            code,
            rule,
            detail,
            field: None,
            limit: None,
            retry_after: None,
            errors: Vec::new(),
            logged: None,
            accepted: None,
        }
    }

    /// Is in the log now, under the trace of its request; one without gets a new trace.
    pub(crate) fn log_under(&mut self, traceparent: Option<&str>, clock: &Clock) -> Uuid {
        let given = traceparent.and_then(|it| Uuid::try_parse(trace_id(it)).ok());
        *self.logged.insert(given.unwrap_or_else(|| clock.new_id()))
    }

    /// The body does not have the right shape.
    pub fn shape(code: Code, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(code, Rule::Shape, detail).field(field)
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into().into_boxed_str());
        self
    }

    /// Says which limit was passed, and by what.
    #[must_use]
    pub fn limit(mut self, limit: usize, actual: usize) -> Self {
        self.limit = Some(Box::new((limit as u64, actual as u64)));
        self
    }

    /// Says when a retry may be worth it.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says what was or may have been accepted all the same.
    #[must_use]
    pub(crate) fn accepted(mut self, events: Vec<AcceptedEvent>) -> Self {
        self.accepted = (!events.is_empty()).then(|| Box::new(Accepted { events }));
        self
    }

    /// One refusal for a batch: that of the earliest rule broken, listing all.
    ///
    /// `None` when no event was refused.
    pub fn of_batch(refusals: Vec<(usize, Self)>, alone: bool) -> Option<Self> {
        let errors: Vec<_> = refusals
            .iter()
            .map(|(index, refusal)| Fault::of_event(*index, refusal))
            .collect();
        let (index, mut first) = refusals
            .into_iter()
            .min_by_key(|(index, it)| (it.rule, *index))?;
        if !alone {
            first.detail = format!("Event {index}: {}", first.detail);
            first.errors = errors;
        }
        Some(first)
    }

    /// There is no such thing, or it is not the caller's: both are said alike.
    pub fn not_found(what: &str) -> Self {
        Self::new(
            Code::NotFound,
            Rule::Append,
            format!("There is no such {what} for this credential."),
        )
    }

    /// The caller is known, but may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, Rule::Manifest, detail)
    }

    /// A parameter or document is not valid.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::shape(Code::InvalidRequest, field, detail)
    }

    /// A document that cannot be read, by what the reader says of the member at a place: `.` is the whole. A member that is
    /// missing is named itself.
    pub fn unread(place: &str, error: &dyn std::error::Error) -> Self {
        let text = error.to_string();
        let missing = text.strip_prefix("missing field `");
        let missing = missing.and_then(|rest| rest.split_once('`'));
        let parts = [place, missing.map_or("", |(name, _)| name)];
        let parts: Vec<&str> = parts
            .into_iter()
            .filter(|it| !matches!(*it, "" | "."))
            .collect();
        let field = parts.join(".");
        match (field.as_str(), missing) {
            ("", _) => Self::invalid("body", format!("{text}.")),
            (_, Some(_)) => {
                let detail = format!("The field '{field}' is missing.");
                Self::invalid(field, detail)
            }
            (_, None) => {
                let detail = format!("'{field}': {text}.");
                Self::invalid(field, detail)
            }
        }
    }

    /// Something of ours failed. The cause goes to the log, not to the caller.
    pub fn fault(what: &'static str, cause: &dyn std::error::Error) -> Self {
        tracing::error!(cause = %cause, "{what} failed");
        Self::new(
            Code::Internal,
            Rule::Append,
            format!("{what} failed on our side; the log knows why."),
        )
    }
}

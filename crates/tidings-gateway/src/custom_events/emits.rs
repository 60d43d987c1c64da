//! Emitting: a publish that is held to what its tenant has registered, and to its plan.
//!
//! An emit goes the one way in. Before it, the version that it is held to is found; halfway, between the line's pure part
//! and the append, it is accepted: its row is written and counted. What tells of it (source D's lifecycle) stands in the
//! same append. The row is what makes it certain: whatever the bus would not take, the [relay](super::relay) appends later.

mod refused;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tidings_bus::Bus;
use tidings_contract::custom::{EventPath, Version};
use tidings_event::event::trace_id_of;
use tidings_event::{Code, Service, TenantId};
use tidings_store::{Admission, Admitted, EmitNote, EmitPlace, EmitRow, EmitState, Store};
use uuid::Uuid;

use super::admissions::Admissions;
use super::appended::{UNTIL_RELAYED, command, draft, draft_again, told};
use super::emit_request::{fingerprint, measure, shape};
use super::lifecycle::clipped;
use super::registry::aside;
use super::relay::LONGEST_HELD_MS;
use super::{EmitRequest, LifecycleEvent, Registered, Registry};
use crate::access::{Caller, on_behalf_of};
use crate::clock::Clock;
use crate::events::Events;
use crate::outbox::Outbox;
use crate::publish::authorise::may_emit;
use crate::publish::command::{Cause, Command};
use crate::publish::name::Named;
use crate::publish::refusal::{AcceptedEvent, Refusal, Rule};
use crate::publish::{Explanation, Line, Published};
use crate::storing::{store_fault, to_its_end};
use crate::subscriptions::InForce;
use crate::supervised::Restarts;

/// When the relay looks at an emit that nobody has noted anything of: by then its append has ended one way or the other.
const LEFT_ALONE_MS: i64 = 10_000;
/// When a failed one is tried again the first time.
pub(super) const FIRST_AGAIN_MS: i64 = 1_000;
/// So many tenants are remembered to have been told of their generic event; then it is looked up again.
const MOST_SEEDED: usize = 100_000;

/// An emit that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// Its event.
    pub event_id: Uuid,
    /// `TENANT_CUSTOM:…`, with the version that it was held to.
    pub canonical_name: String,
    /// The key in force, given or made.
    pub idempotency_key: String,
    /// Whether an earlier emit had the key, so that nothing was emitted now.
    pub repeated: bool,
    /// Whether it was not kept anywhere, because the bus is disabled (source E).
    pub skipped: bool,
}

/// The room.
pub struct Emits {
    pub(super) store: Store,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) registry: Arc<Registry>,
    pub(super) line: Arc<Line>,
    pub(super) outbox: Arc<Outbox>,
    events: Events,
    pub(super) in_force: Arc<InForce>,
    pub(super) clock: Clock,
    admissions: Admissions,
    seeded: Mutex<HashSet<TenantId>>,
}

/// What the room is made of.
pub(crate) struct Means {
    pub(crate) store: Store,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) line: Arc<Line>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) events: Events,
    pub(crate) in_force: Arc<InForce>,
    pub(crate) clock: Clock,
    pub(crate) restarts: Arc<Restarts>,
}

impl Emits {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            admissions: Admissions::new(means.store.clone(), means.restarts),
            store: means.store,
            bus: means.bus,
            registry: means.registry,
            line: means.line,
            outbox: means.outbox,
            events: means.events,
            in_force: means.in_force,
            clock: means.clock,
            seeded: Mutex::default(),
        }
    }

    /// Emits a payload. Accepted, it is on the bus, or will be without anybody asking again; where the bus did not take
    /// it at once the answer is 502 `bus_relay_failed`, and a repeat of the key answers what became of it.
    pub async fn emit(
        self: &Arc<Self>,
        caller: &Caller,
        request: EmitRequest,
    ) -> Result<Emitted, Refusal> {
        let begun = Instant::now();
        let name = clipped(&request.name);
        let trace = request.traceparent.clone();
        let mut emitted = self.emit_or_repeat(caller, request).await;
        let tenant = caller.tenant().map_or("", TenantId::as_str);
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &mut emitted {
            Ok(emitted) => tracing::info!(
                tenant,
                principal = caller.receipt_scope(),
                event_type = emitted.canonical_name,
                event_id = %emitted.event_id,
                duplicate = emitted.repeated,
                micros,
                trace_id = &*trace_id_of(trace.as_deref(), emitted.event_id),
                "emitted"
            ),
            Err(refusal) => {
                let trace = refusal.log_under(trace.as_deref(), &self.clock);
                tracing::info!(
                    tenant,
                    principal = caller.receipt_scope(),
                    name,
                    code = refusal.code.as_str(),
                    step = refusal.rule.as_str(),
                    detail = refusal.detail,
                    micros,
                    trace_id = %trace.simple(),
                    "refused"
                );
            }
        }
        emitted
    }

    async fn emit_or_repeat(
        self: &Arc<Self>,
        caller: &Caller,
        request: EmitRequest,
    ) -> Result<Emitted, Refusal> {
        let (path, version) = shape(&request)?;
        let tenant = may_emit(caller, &path, None)?;
        let emitted = match measure(&request) {
            Ok(()) => {
                let accepted = self.accept_or_repeat(caller, &tenant, (&path, version), &request);
                accepted.await
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &emitted
            && let Err(error) = self.tell_refused(&tenant, (&path, &request), refusal).await
        {
            // What it is refused for is the answer, whether or not it can be told.
            tracing::warn!(detail = error.detail, "a refused emit is not told of");
        }
        emitted
    }

    async fn accept_or_repeat(
        self: &Arc<Self>,
        caller: &Caller,
        tenant: &TenantId,
        named: (&EventPath, Option<Version>),
        request: &EmitRequest,
    ) -> Result<Emitted, Refusal> {
        let refusal = match self.judged(caller, tenant, named, request).await {
            Ok((row, named)) => return self.accept(row, named, request).await,
            Err(refusal) => refusal,
        };
        // A repeat of a key is answered before anything is asked of it. Where nothing speaks against it, accepting it
        // finds that out.
        match self.before(tenant, request).await? {
            Some(row) => self.again(request, row).await,
            None => Err(refusal),
        }
    }

    /// The emit that had the key of this one.
    async fn before(
        &self,
        tenant: &TenantId,
        request: &EmitRequest,
    ) -> Result<Option<EmitRow>, Refusal> {
        let Some(key) = &request.idempotency_key else {
            return Ok(None);
        };
        let row = self.store.emits().of_key(tenant, key).await;
        row.map_err(store_fault)
    }

    /// The row that an emit would have, and its event as far as the line is pure.
    async fn judged(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        (path, version): (&EventPath, Option<Version>),
        request: &EmitRequest,
    ) -> Result<(EmitRow, Named), Refusal> {
        let (row, registered) = self.found(caller, tenant, (path, version), request).await?;
        let wanted = self.is_wanted(&row);
        let draft = draft(&row, Some(&registered), request.content());
        let command = command(caller.clone(), &row, draft, wanted);
        let named = if registered
            .schema
            .may_take_long(request.payload.as_str().len())
        {
            let line = self.line.clone();
            aside("Holding a payload to its schema", move || {
                line.name(command)
            })
            .await?
        } else {
            self.line.name(command)?
        };
        if *path == EventPath::generic() {
            self.seed(tenant).await?;
        }
        Ok((row, named))
    }

    async fn accept(
        self: &Arc<Self>,
        mut row: EmitRow,
        named: Named,
        request: &EmitRequest,
    ) -> Result<Emitted, Refusal> {
        if self.bus.is_disabled() {
            // No row, no key, and nothing of the month's limit: what was never kept must not answer for a later emit.
            self.line.go_on(named).await?;
            return Ok(Emitted {
                skipped: true,
                ..emitted(&row, false)
            });
        }
        let (room, request) = (self.clone(), request.clone());
        let limit = self.registry.plan(&row.tenant).monthly_emits();
        // Accepted, it is appended, even when the caller stops waiting.
        to_its_end(async move {
            // What is noted later has no payload.
            let payload = row.payload.take();
            let admission = Admission {
                month: month(row.created_at_ms),
                row: EmitRow {
                    payload,
                    ..row.clone()
                },
                limit,
            };
            match room.admissions.admit(admission).await? {
                Admitted::New => {}
                Admitted::Known(before) => return room.again(&request, *before).await,
                Admitted::OverLimit => return Err(over_limit(limit.unwrap_or(0))),
            }
            let published = room.line.go_on(named).await;
            room.noted(&row, &published, false)
        })
        .await
    }

    /// What an emit is held to, and the row that it would have.
    async fn found(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        (path, version): (&EventPath, Option<Version>),
        request: &EmitRequest,
    ) -> Result<(EmitRow, Arc<Registered>), Refusal> {
        let registered = match self.registry.try_find(tenant, path, version) {
            Some(found) => found?,
            None => self.registry.find(tenant, path, version).await?,
        };
        let cause = self.cause(tenant, request.causation_id).await?;
        let row = self.row(caller, tenant, &registered, cause, request);
        Ok((row, registered))
    }

    /// What an emit would come to. Nothing is emitted, counted or told.
    pub async fn explain(&self, caller: &Caller, request: EmitRequest) -> Explanation {
        let explained = self.explained(caller, &request).await;
        explained.unwrap_or_else(Explanation::refused)
    }

    async fn explained(
        &self,
        caller: &Caller,
        request: &EmitRequest,
    ) -> Result<Explanation, Refusal> {
        let (path, version) = shape(request)?;
        let tenant = may_emit(caller, &path, None)?;
        measure(request)?;
        let (row, registered) = self
            .found(caller, &tenant, (&path, version), request)
            .await?;
        let draft = draft(&row, Some(&registered), request.content());
        let command = Command::one(caller.clone(), draft, None);
        let line = self.line.clone();
        let judged = aside("Explaining an emit", move || Ok(line.judge(command))).await?;
        let explanation = self.line.explained(judged).await;
        if explanation.outcome.is_ok()
            && let Some(before) = self.before(&tenant, request).await?
        {
            return Ok(match same(request, &before) {
                Ok(()) => explanation.repeated(
                    "The key was used for this emit: the first result is answered again.",
                ),
                Err(refusal) => explanation.but(refusal),
            });
        }
        let limit = self.registry.plan(&tenant).monthly_emits();
        let used = self
            .store
            .emits()
            .usage(&tenant, &month(row.created_at_ms))
            .await;
        let used = used.map_err(store_fault)?;
        Ok(match limit.filter(|limit| used >= *limit) {
            Some(limit) if explanation.outcome.is_ok() => explanation.but(over_limit(limit)),
            _ => explanation,
        })
    }

    /// Answers a repeat of a key with the emit that had it first. One that is not on the bus is appended now.
    async fn again(&self, request: &EmitRequest, row: EmitRow) -> Result<Emitted, Refusal> {
        same(request, &row)?;
        if !matches!(row.state, EmitState::Queued | EmitState::Failed) {
            return Ok(emitted(&row, true));
        }
        self.append(row).await
    }

    /// Appends an emit that was accepted before.
    async fn append(&self, row: EmitRow) -> Result<Emitted, Refusal> {
        let published = self.appended(&row).await;
        self.noted(&row, &published, true)
    }

    pub(super) async fn appended(&self, row: &EmitRow) -> Result<Vec<Published>, Refusal> {
        let caller = on_behalf_of(Service::Tidings, row.tenant.clone());
        let command = command(caller, row, draft_again(row)?, self.is_wanted(row));
        self.line.publish(command).await
    }

    /// Notes what has become of an append, soon, and answers it.
    fn noted(
        &self,
        row: &EmitRow,
        published: &Result<Vec<Published>, Refusal>,
        repeated: bool,
    ) -> Result<Emitted, Refusal> {
        self.admissions.note(self.note_of(row, published));
        if published.is_ok() {
            return Ok(emitted(row, repeated));
        }
        let detail = "The emit is accepted, and the bus did not take it yet; it will be appended as soon as that is \
             possible. A repeat of the idempotency key answers what became of it.";
        let refusal = Refusal::new(Code::BusRelayFailed, Rule::Append, detail);
        Err(refusal.accepted(vec![AcceptedEvent {
            event_id: row.event_id,
            idempotency_key: row.idempotency_key.clone(),
        }]))
    }

    /// What is to be noted of an append.
    pub(super) fn note_of(
        &self,
        row: &EmitRow,
        published: &Result<Vec<Published>, Refusal>,
    ) -> EmitNote {
        let now = self.clock.now_ms();
        match published {
            Ok(published) => {
                let stands = published.get(1).filter(|event| !event.skipped);
                let delivered = published.len() > UNTIL_RELAYED;
                EmitNote {
                    event_id: row.event_id,
                    state: if delivered {
                        EmitState::Delivered
                    } else {
                        EmitState::Relayed
                    },
                    error: None,
                    place: stands.map(|event| EmitPlace {
                        partition: event.partition,
                        offset: event.offset,
                    }),
                    next_at_ms: (!delivered).then_some(now + FIRST_AGAIN_MS),
                }
            }
            Err(refusal) => {
                tracing::warn!(
                    event_id = %row.event_id, code = refusal.code.as_str(), detail = refusal.detail,
                    "an emit is not on the bus yet"
                );
                let age = now - row.created_at_ms;
                // What is not the bus's failing does not change by waiting.
                let again = refusal.code.status() >= 500;
                EmitNote {
                    event_id: row.event_id,
                    state: EmitState::Failed,
                    error: Some(refusal.detail.clone()),
                    place: None,
                    next_at_ms: again.then_some(now + age.clamp(FIRST_AGAIN_MS, LONGEST_HELD_MS)),
                }
            }
        }
    }

    /// Whether any subscription of the tenant names or covers its type.
    fn is_wanted(&self, row: &EmitRow) -> bool {
        !self
            .in_force
            .wanting(&row.tenant, &row.event_type)
            .is_empty()
    }

    fn row(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        registered: &Registered,
        cause: Option<Cause>,
        request: &EmitRequest,
    ) -> EmitRow {
        let event_id = self.clock.new_id();
        let key = request.idempotency_key.clone();
        let now = self.clock.now_ms();
        EmitRow {
            event_id,
            tenant: tenant.clone(),
            idempotency_key: key.unwrap_or_else(|| event_id.to_string()),
            fingerprint: fingerprint(request).0,
            event_type: registered.event_type.clone(),
            name: registered.name.path.to_string(),
            source: format!("/{}", caller.receipt_scope().replacen(':', "/", 1)),
            cause: cause.map(|cause| cause.event_id),
            depth: cause.map_or(0, |cause| cause.depth.unsigned_abs()),
            traceparent: request.traceparent.clone(),
            created_at_ms: now,
            payload: Some(request.payload.as_str().to_owned()),
            state: EmitState::Queued,
            error: None,
            place: None,
            next_at_ms: Some(now + LEFT_ALONE_MS),
        }
    }

    /// What caused an emit, and how deep that makes it. An event that nobody has, or that cannot be looked up while the
    /// bus is away, is believed.
    async fn cause(&self, tenant: &TenantId, id: Option<Uuid>) -> Result<Option<Cause>, Refusal> {
        let Some(event_id) = id else {
            return Ok(None);
        };
        if let Some(depth) = self.depth_of(tenant, event_id).await? {
            return Ok(Some(Cause { event_id, depth }));
        }
        // Whoever may emit need not be one who may read.
        let reader = on_behalf_of(Service::Tidings, tenant.clone());
        let found = match self.events.get(&reader, event_id).await {
            Ok(found) => found.event,
            Err(refusal) => {
                if refusal.code != Code::NotFound {
                    tracing::warn!(
                        detail = refusal.detail,
                        "the cause of an emit is not looked up"
                    );
                }
                return Ok(Some(Cause { event_id, depth: 1 }));
            }
        };
        if found.event_type.is_lifecycle() {
            // Whoever emits because of what was told of an emit is one more in its chain.
            let told: Option<Value> = serde_json::from_slice(found.data.as_bytes()).ok();
            let of = told
                .as_ref()
                .and_then(|told| told["eventId"].as_str()?.parse().ok());
            if let Some(of) = of
                && let Some(depth) = self.depth_of(tenant, of).await?
            {
                return Ok(Some(Cause { event_id, depth }));
            }
        }
        Ok(Some(Cause::however_deep(&found)))
    }

    /// How deep an emit is that the tenant's emit with this event has caused.
    async fn depth_of(&self, tenant: &TenantId, event_id: Uuid) -> Result<Option<i32>, Refusal> {
        let row = self.store.emits().of_event(tenant, event_id).await;
        let row = row.map_err(store_fault)?;
        Ok(row.map(|row| i32::try_from(row.depth + 1).unwrap_or(i32::MAX)))
    }

    async fn seed(&self, tenant: &TenantId) -> Result<(), Refusal> {
        let seeded = || self.seeded.lock().unwrap_or_else(PoisonError::into_inner);
        if seeded().contains(tenant) {
            return Ok(());
        }
        self.registry.seed(tenant).await?;
        let mut seeded = seeded();
        if seeded.len() >= MOST_SEEDED {
            seeded.clear();
        }
        seeded.insert(tenant.clone());
        Ok(())
    }

    /// Tells what has become of an emit; once, however often it is found out.
    pub(super) async fn tell(&self, row: &EmitRow, event: LifecycleEvent) -> Result<(), Refusal> {
        let draft = told(row, event);
        let caller = on_behalf_of(Service::Tidings, row.tenant.clone());
        let command = Command::one(caller, draft, row.traceparent.clone());
        self.line.publish(command).await.map(drop)
    }
}

/// The calendar month of a time (UTC), `2026-11`.
pub(super) fn month(at_ms: i64) -> String {
    tidings_event::event::rfc3339(at_ms)
        .chars()
        .take(7)
        .collect()
}

/// Whether an emit is the one that had its key first.
fn same(request: &EmitRequest, before: &EmitRow) -> Result<(), Refusal> {
    if before.fingerprint == fingerprint(request).0 {
        return Ok(());
    }
    let detail = "The idempotency key was used for another emit; a new emit needs a new key.";
    let reused = Refusal::new(Code::IdempotencyKeyReused, Rule::Idempotency, detail);
    Err(reused.field("idempotencyKey"))
}

fn over_limit(limit: u64) -> Refusal {
    let detail = format!(
        "The plan has {limit} emits in a calendar month (UTC), and all of them are used; the next begins at 00:00 UTC \
         on its first."
    );
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Refusal::new(Code::MonthlyEmitQuotaExceeded, Rule::Quota, detail).limit(limit, limit)
}

fn emitted(row: &EmitRow, repeated: bool) -> Emitted {
    Emitted {
        event_id: row.event_id,
        canonical_name: row.event_type.to_string(),
        idempotency_key: row.idempotency_key.clone(),
        repeated,
        skipped: false,
    }
}

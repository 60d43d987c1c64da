//! Who wants which events: made and changed by their tenant, kept in the store, and in force here.
//!
//! Cast: the room [`Subscriptions`], through which tenants change them; [`InForce`], what the dispatcher
//! matches events against, changed by difference since there may be a million.

pub mod conformance;
mod handshake;
mod in_force;
mod merge_patch;
pub(crate) mod of_extensions;
pub(crate) mod share;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidings_bus::{Bus, Partition, partition_of};
use tidings_egress::Secret;
use tidings_event::{Code, Event, Service, TenantId, WorkspaceId};
use tidings_filter::{Subject, Unmet};
use tidings_store::{OutboxRow, Store, SubscriptionRow};
use uuid::Uuid;

use crate::access::{Caller, Principal};
use crate::audit::{self, Actor};
use crate::clock::Clock;
use crate::deliver::target::webhook::Webhooks;
use crate::events::{reads, unreadable};
use crate::outbox::Outbox;
use crate::plugins::{InProcess, workspace_of};
use crate::publish::refusal::{Refusal, Rule};
use crate::secrets::{Vault, random};
use crate::storing::{contended, store_fault, to_its_end};
use crate::subscription::{Start, State, Subscription};

pub(crate) use in_force::Changes;
pub use in_force::InForce;
use share::Shares;
use stored::{Secrets, SigningSecret, split, stored};

/// How many rows are read at once.
const PAGE: u32 = 1_000;
/// How often a change is tried again that another overtook.
const TRIES: usize = 5;

/// Where a new subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the next event.
    Now,
    /// With the oldest event that the log holds.
    Beginning,
    /// With what was received at or after, in ms since 1970.
    Time(i64),
}

/// What a receiver verifies with, and when that ends, in ms since 1970.
pub type VerifyingSecret = (zeroize::Zeroizing<String>, Option<i64>);

/// What the receiver of a subscription verifies with at a time, newest first.
pub(crate) fn verifying(subscription: &Subscription, now_ms: i64) -> Vec<VerifyingSecret> {
    let signing = subscription.signing.iter();
    signing
        .filter(|(_, ends)| ends.is_none_or(|ends| ends > now_ms))
        .map(|(secret, ends)| (secret.to_verifying_text(), *ends))
        .collect()
}

/// A subscription, and the first clause of its filter that an event does not meet.
pub type Judged = (Arc<Subscription>, Result<(), Unmet>);

/// What a change does to a subscription.
#[derive(Debug, Clone)]
pub enum Change {
    /// A JSON merge patch (RFC 7396) of the document; a target, or its credential, of another kind stands for the one before.
    Patch(Value),
    /// Nothing is sent until it is resumed.
    Pause,
    /// What has waited flows, and what comes after.
    Resume,
    /// It goes on from another place, and what waits of before ends.
    Seek(From),
    /// The same, but what waits of before to be tried again still is.
    GoOn(From),
    /// Something happened, so that nothing is sent until its owner resumes it.
    Disable(String),
    /// The receiver of this URL has passed the conformance test.
    Conforms(String),
    /// A new signing secret; those before stay good for so long.
    Rotate {
        /// The new one.
        secret: Option<String>,
        /// How long the others stay good.
        overlap: Duration,
    },
}

/// The room.
pub struct Subscriptions {
    store: Store,
    bus: Arc<dyn Bus>,
    webhooks: Webhooks,
    vault: Vault,
    outbox: Arc<Outbox>,
    clock: Clock,
    in_force: Arc<InForce>,
    in_process: Arc<InProcess>,
    shares: Shares,
}

impl Subscriptions {
    /// Over the store, with what it holds in force.
    pub async fn open(
        store: Store,
        bus: Arc<dyn Bus>,
        webhooks: Webhooks,
        vault: Vault,
        outbox: Arc<Outbox>,
        clock: Clock,
        in_process: Arc<InProcess>,
    ) -> Result<Self, Refusal> {
        let room = Self {
            store,
            bus,
            webhooks,
            vault,
            outbox,
            clock,
            in_force: in_process.in_force(),
            in_process,
            shares: Shares::new(usize::MAX),
        };
        room.follow(&mut (-1, None)).await?;
        if room.in_force.has_only_unreadable() {
            let detail = "No subscription can be read. If 'secrets.key' was changed, bring the one before back.";
            return Err(Refusal::new(Code::Internal, Rule::Append, detail));
        }
        Ok(room)
    }

    /// A tenant may have so many of its own, and as many of its workspaces' extensions.
    pub(crate) fn at_most(self, of_tenant: usize) -> Self {
        Self {
            shares: Shares::new(of_tenant),
            ..self
        }
    }

    /// What the dispatcher matches against.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.clone()
    }

    /// Puts in force what has changed in the store since a place, which moves on. One that cannot be read is passed over:
    /// the others are not to wait for it.
    pub(crate) async fn follow(&self, from: &mut (i64, Option<Uuid>)) -> Result<(), Refusal> {
        loop {
            let room = self.store.subscriptions();
            let rows = room.changed_after(from.0, from.1, PAGE).await;
            let rows = rows.map_err(store_fault)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            *from = (last.change, Some(last.id));
            for row in rows {
                let id = row.id;
                if row.state == "deleted" {
                    self.in_force.put(id, None);
                    continue;
                }
                match self.read(row) {
                    Ok(subscription) => self.in_force.put(id, Some(subscription)),
                    Err(refusal) => {
                        tracing::error!(subscription = %id, detail = refusal.detail, "a subscription cannot be read, and gets nothing");
                        self.in_force.put_unreadable(id);
                    }
                }
            }
        }
    }

    /// Makes a subscription. Answers it with the secret that its messages are signed with.
    pub async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        document: Value,
        from: From,
    ) -> Result<(Arc<Subscription>, Option<zeroize::Zeroizing<String>>), Refusal> {
        let tenant = administered(caller)?;
        let wanted = self.usable(document)?;
        of_extensions::only_theirs(&wanted, None)?;
        let id = self.clock.new_id();
        let taken = self.room_for(&tenant, false, &[id])?;
        let state = match wanted.enabled {
            Some(false) => State::Disabled,
            _ => State::Active,
        };
        let mut secrets = Secrets::default();
        secrets.take(&wanted.target);
        let mut start = Start {
            number: 1,
            places: self.places(&tenant, from).await?,
            ..Start::default()
        };
        let now = self.clock.now_ms();
        start.state_since_ms = Some(now);
        let mut row = SubscriptionRow {
            id,
            tenant,
            document: String::new(),
            secrets: self.close(id, &secrets),
            state: state.as_str().into(),
            reason: None,
            revision: 1,
            created_at_ms: now,
            updated_at_ms: now,
            change: 0,
        };
        conformance::hold_back(&mut row, &wanted.document, &start);
        self.shake_hands(&mut row, &wanted.document, &secrets, &mut start)
            .await?;
        row.document = stored(wanted.document, &start);
        let actor = Actor::Caller(caller.clone());
        let room = self.clone();
        let made = to_its_end(async move {
            let _taken = taken;
            room.keep(row, &actor, "subscription.created").await
        });
        let made = made.await?.ok_or_else(|| {
            Refusal::new(
                Code::Internal,
                Rule::Append,
                "The new id was taken; try again.",
            )
        })?;
        let secret = made.signing.first();
        let secret = secret.map(|(secret, _)| secret.to_verifying_text());
        Ok((made, secret))
    }

    /// So many of the tenant's subscriptions after an id, oldest first; and where the next page begins, if there are more.
    pub fn page(
        &self,
        caller: &Caller,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<(Vec<Arc<Subscription>>, Option<Uuid>), Refusal> {
        let mut page = self.list(caller)?;
        page.retain(|it| after.is_none_or(|after| it.id > after));
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|last| last.id);
        Ok((page, next))
    }

    /// The tenant's subscriptions, oldest first.
    pub fn list(&self, caller: &Caller) -> Result<Vec<Arc<Subscription>>, Refusal> {
        let mut all = self.in_force.of(&reader(caller)?);
        all.retain(|it| it.start.owner.is_none());
        Ok(all)
    }

    /// One of the tenant's.
    pub fn get(&self, caller: &Caller, id: Uuid) -> Result<Arc<Subscription>, Refusal> {
        self.owned(&reader(caller)?, id)
    }

    /// For each of the tenant's, and of the extensions of the event's workspace, whether an event of its meets the filter, or
    /// the first clause that it does not.
    pub fn judge(&self, caller: &Caller, event: &Event) -> Result<Vec<Judged>, Refusal> {
        let (subject, workspace) = (Subject::new(event), workspace_of(event));
        let mut all = self.in_force.of(&reader(caller)?);
        let within = workspace.as_ref().map(WorkspaceId::as_str);
        all.retain(|it| {
            let owner = it.start.owner.as_ref();
            owner.is_none_or(|owner| Some(owner.workspace.as_str()) == within)
        });
        Ok(all
            .into_iter()
            .map(|subscription| {
                let verdict = subscription.filter.judge(&subject);
                (subscription, verdict)
            })
            .collect())
    }

    /// What its receiver verifies messages with, newest first.
    pub fn secrets(&self, caller: &Caller, id: Uuid) -> Result<Vec<VerifyingSecret>, Refusal> {
        let subscription = self.owned(&administered(caller)?, id)?;
        Ok(verifying(&subscription, self.clock.now_ms()))
    }

    /// Changes one of the tenant's.
    pub async fn change(
        self: &Arc<Self>,
        caller: &Caller,
        id: Uuid,
        change: Change,
    ) -> Result<Arc<Subscription>, Refusal> {
        let tenant = administered(caller)?;
        self.not_an_extensions(id)?;
        let (room, actor) = (self.clone(), Actor::Caller(caller.clone()));
        to_its_end(async move { room.make(&tenant, id, &change, &actor).await }).await
    }

    /// Takes one of the tenant's away. What it was to get, it does not get.
    pub async fn delete(self: &Arc<Self>, caller: &Caller, id: Uuid) -> Result<(), Refusal> {
        let tenant = administered(caller)?;
        self.not_an_extensions(id)?;
        let (room, actor) = (self.clone(), Actor::Caller(caller.clone()));
        to_its_end(async move { room.remove(&tenant, id, &actor).await }).await
    }

    /// Disables a subscription for what the dispatcher has met with a revision of it, and says so by an event. One that
    /// has changed since, is disabled already or is deleted stays as it is: what was met says nothing about it.
    pub(crate) async fn disable(
        &self,
        tenant: &TenantId,
        id: Uuid,
        revision: u32,
        reason: &str,
    ) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let row = self.store.subscriptions().get(tenant, id).await;
            let Some(row) = row.map_err(store_fault)? else {
                return Ok(());
            };
            if row.revision != revision || row.state == State::Disabled.as_str() {
                return Ok(());
            }
            let next = self
                .changed(row, &Change::Disable(reason.to_owned()))
                .await?;
            let kept = self.keep(next, &Actor::Installation, "subscription.disabled");
            if kept.await?.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn make(
        &self,
        tenant: &TenantId,
        id: Uuid,
        change: &Change,
        actor: &Actor,
    ) -> Result<Arc<Subscription>, Refusal> {
        for _ in 0..TRIES {
            let row = self.row(tenant, id).await?;
            let next = self.changed(row, change).await?;
            let action = match change {
                Change::Patch(_) | Change::Seek(_) | Change::GoOn(_) | Change::Conforms(_) => {
                    "subscription.updated"
                }
                Change::Pause => "subscription.paused",
                Change::Resume => "subscription.resumed",
                Change::Disable(_) => "subscription.disabled",
                Change::Rotate { .. } => "subscription.rotated",
            };
            if let Some(made) = self.keep(next, actor, action).await? {
                return Ok(made);
            }
        }
        Err(contended("The subscription"))
    }

    async fn remove(&self, tenant: &TenantId, id: Uuid, actor: &Actor) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let mut row = self.row(tenant, id).await?;
            row.state = "deleted".into();
            row.secrets = String::new();
            // What is left is the word that it is gone: its headers and filter are nobody's business any more.
            row.document = "{}".into();
            row.revision += 1;
            row.updated_at_ms = self.clock.now_ms();
            let events = self.told(&row, actor, "subscription.deleted")?;
            let kept = self.store.subscriptions().put(&row, &events).await;
            if kept.map_err(store_fault)? {
                self.in_force.put(id, None);
                self.outbox.deliver().await;
                return Ok(());
            }
        }
        Err(contended("The subscription"))
    }

    async fn changed(
        &self,
        mut row: SubscriptionRow,
        change: &Change,
    ) -> Result<SubscriptionRow, Refusal> {
        let now = self.clock.now_ms();
        let mut secrets = self.open_secrets(&row)?;
        let (mut document, mut start) = split(&row)?;
        let state_before = row.state.clone();
        match change {
            Change::Patch(patch) => {
                let mut whole = Value::Object(document);
                secrets.put(&mut whole);
                merge_patch::make_way(&mut whole, patch);
                merge_patch::apply(&mut whole, patch);
                let wanted = self.usable(whole)?;
                of_extensions::only_theirs(&wanted, start.owner.as_ref())?;
                match wanted.enabled {
                    // From now on it is its owner who keeps it so, and nothing that happened to it.
                    Some(false) => {
                        (row.state, row.reason) = (State::Disabled.as_str().into(), None);
                    }
                    Some(true) => (row.state, row.reason) = (State::Active.as_str().into(), None),
                    None => {}
                }
                secrets.take(&wanted.target);
                document = wanted.document;
            }
            Change::Pause => (row.state, row.reason) = (State::Paused.as_str().into(), None),
            Change::Resume => (row.state, row.reason) = (State::Active.as_str().into(), None),
            Change::Disable(reason) => {
                row.state = State::Disabled.as_str().into();
                row.reason = Some(reason.clone());
            }
            Change::Seek(from) | Change::GoOn(from) => {
                let ends = matches!(change, Change::Seek(_));
                start = Start {
                    number: start.number + 1,
                    places: self.places(&row.tenant, *from).await?,
                    skipped: if ends {
                        Some(row.revision + 1)
                    } else {
                        start.skipped
                    },
                    ..start
                };
            }
            Change::Conforms(url) => start.passed_for = Some(url.clone()),
            Change::Rotate { secret, overlap } => {
                let new = match secret {
                    None => Secret::from_random(random()),
                    Some(text) => text.parse().map_err(|error| {
                        Refusal::invalid("secret", format!("The secret is not valid: {error}."))
                    })?,
                };
                secrets.rotate(new.to_text(), *overlap, now);
            }
        }
        conformance::hold_back(&mut row, &document, &start);
        self.shake_hands(&mut row, &document, &secrets, &mut start)
            .await?;
        if row.state != state_before {
            start.state_since_ms = Some(now);
        }
        row.document = stored(document, &start);
        row.secrets = self.close(row.id, &secrets);
        row.revision += 1;
        row.updated_at_ms = now;
        Ok(row)
    }

    /// Writes a row with the events that tell of it and puts it in force. `None` when another change came first.
    async fn keep(
        &self,
        row: SubscriptionRow,
        actor: &Actor,
        action: &str,
    ) -> Result<Option<Arc<Subscription>>, Refusal> {
        let events = self.told(&row, actor, action)?;
        let kept = self.store.subscriptions().put(&row, &events).await;
        if !kept.map_err(store_fault)? {
            return Ok(None);
        }
        let id = row.id;
        let subscription = self.read(row)?;
        let shown = Arc::new(subscription.clone());
        self.in_force.put(id, Some(subscription));
        self.outbox.deliver().await;
        Ok(Some(shown))
    }

    /// `audit.subscription.…`, and `tidings.subscription.disabled` where the installation did it.
    fn told(
        &self,
        row: &SubscriptionRow,
        actor: &Actor,
        action: &str,
    ) -> Result<Vec<OutboxRow>, Refusal> {
        let target = json!({ "kind": "subscription", "id": row.id, "revision": row.revision });
        let mut rows = vec![audit::row(
            &self.outbox,
            row.tenant.clone(),
            action,
            actor,
            &target,
        )];
        if action == "subscription.disabled" {
            let data = json!({ "subscriptionId": row.id, "reason": row.reason });
            let event_type = "tidings.subscription.disabled";
            rows.push(
                self.outbox
                    .row(Service::Tidings, row.tenant.clone(), event_type, &data),
            );
        }
        for row in &rows {
            self.outbox.check(row)?;
        }
        Ok(rows)
    }

    /// The offsets in each topic's partition of the tenant that a beginning stands for.
    pub(crate) async fn places(
        &self,
        tenant: &TenantId,
        from: From,
    ) -> Result<std::collections::BTreeMap<String, u64>, Refusal> {
        let mut places = std::collections::BTreeMap::new();
        for (topic, partitions) in self.bus.topics().await.map_err(unreadable)? {
            let number = partition_of(tenant.as_str().as_bytes(), partitions);
            let name = topic.as_str().to_owned();
            let partition = Partition { topic, number };
            let place = match from {
                From::Now => self.bus.bounds(partition).await.map(|bounds| bounds.end),
                From::Beginning => self.bus.bounds(partition).await.map(|bounds| bounds.start),
                From::Time(ms) => self.bus.offset_at(partition, ms).await,
            };
            places.insert(name, place.map_err(unreadable)?);
        }
        Ok(places)
    }

    async fn row(&self, tenant: &TenantId, id: Uuid) -> Result<SubscriptionRow, Refusal> {
        let row = self.store.subscriptions().get(tenant, id).await;
        row.map_err(store_fault)?
            .ok_or_else(|| Refusal::not_found("subscription"))
    }

    fn owned(&self, tenant: &TenantId, id: Uuid) -> Result<Arc<Subscription>, Refusal> {
        let known = self.in_force.get(id).filter(|it| it.tenant == *tenant);
        let known = known.filter(|it| it.start.owner.is_none());
        known.ok_or_else(|| Refusal::not_found("subscription"))
    }

    fn not_an_extensions(&self, id: Uuid) -> Result<(), Refusal> {
        let known = self.in_force.get(id);
        let stands_for_one = known.is_some_and(|it| it.start.owner.is_some());
        (!stands_for_one)
            .then_some(())
            .ok_or_else(|| Refusal::not_found("subscription"))
    }
}

/// Whether the caller may change its tenant's subscriptions: modules, services, and users with the role ADMIN. Only they see
/// the values of a target's headers, which may be keys.
pub fn may_change(caller: &Caller) -> bool {
    match caller.principal() {
        Principal::Module(_) | Principal::Service(_) => true,
        Principal::User(_) => caller.is_admin(),
        Principal::ApiKey { .. } | Principal::Operator(_) | Principal::Extension { .. } => false,
    }
}

/// The tenant that the caller may change subscriptions of: a module's and a service's own, a user's with the
/// role ADMIN.
pub(crate) fn administered(caller: &Caller) -> Result<TenantId, Refusal> {
    if !may_change(caller) {
        return Err(Refusal::forbidden(format!(
            "{} may not change subscriptions; use the token of a module or of a user with role ADMIN.",
            caller.describe()
        )));
    }
    reader(caller)
}

/// The tenant whose subscriptions, and what becomes of events there, the caller may see: who may read its events.
pub(crate) fn reader(caller: &Caller) -> Result<TenantId, Refusal> {
    reads(caller)?;
    caller.tenant_with("subscriptions")
}

#[cfg(test)]
mod tests;

//! Subscriptions that stand for an extension's (source C): the same rows, delivered in the same way, but
//! changed with their extension alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidings_event::{Code, ExtensionId, TenantId};
use tidings_filter::Filter;
use tidings_store::{OutboxRow, SubscriptionRow};
use uuid::Uuid;

use super::stored::stored;
use super::{Change, From, Secrets, SigningSecret, Subscriptions, VerifyingSecret, verifying};
use crate::access::Caller;
use crate::audit::Actor;
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::Workspace;
use crate::storing::store_fault;
use crate::subscription::{IN_PROCESS, Receiver, Start, State, Subscription, Wanted};

/// Whom a subscription stands for: an extension that is to get an event (source C).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    pub(crate) workspace: String,
    pub(crate) extension: String,
    pub(crate) event_key: String,
}

/// Refuses a target in process to anybody but an extension.
pub(super) fn only_theirs(wanted: &Wanted, owner: Option<&Owner>) -> Result<(), Refusal> {
    if owner.is_some() || !matches!(wanted.target, Receiver::InProcess { .. }) {
        return Ok(());
    }
    let detail = format!(
        "The target kind '{IN_PROCESS}' is for extensions of workspaces; use webhook or topic."
    );
    Err(Refusal::invalid("target.kind", detail))
}

/// What the dispatcher is to give a handler that runs before a publish is acknowledged: nothing from the log, where
/// no event is `replayed`. What is replayed comes from the store, and is not asked again whether it is wanted.
pub(super) fn only_replayed(owner: Option<&Owner>) -> Result<Filter, Refusal> {
    let types: Vec<_> = owner.iter().map(|owner| &owner.event_key).collect();
    Filter::parse(&json!({ "types": types, "dialects": [{ "exact": { "replayed": "true" } }] }))
        .map_err(|error| Refusal::fault("Reading a filter", &error))
}

/// What an extension's subscription is made of.
pub(crate) struct OfExtension {
    /// What it is to be called by, which nothing was before.
    pub(crate) id: Uuid,
    /// The extension's others.
    pub(crate) siblings: Vec<Uuid>,
    /// Whose it is.
    pub(crate) owner: Owner,
    /// The workspace's tenant.
    pub(crate) tenant: TenantId,
    /// As a tenant would write it.
    pub(crate) document: Value,
    /// Whether the extension is to get anything now.
    pub(crate) active: bool,
    /// Where it begins.
    pub(crate) from: From,
}

/// One that is not kept yet.
pub(crate) struct Unkept {
    /// As it is to be kept.
    pub(crate) row: SubscriptionRow,
    /// What tells of it.
    pub(crate) events: Vec<OutboxRow>,
    /// As it is to be in force.
    pub(crate) subscription: Subscription,
}

impl Subscriptions {
    /// Whether such a document would do; the target's URL above all.
    pub(crate) fn check(&self, document: Value) -> Result<(), Refusal> {
        self.checked(document).map(drop)
    }

    /// The tenant's of this id, as the store has it now; none if it is deleted or was never made.
    pub(crate) async fn kept(
        &self,
        tenant: &TenantId,
        id: Option<Uuid>,
    ) -> Result<Option<Arc<Subscription>>, Refusal> {
        let Some(id) = id else {
            return Ok(None);
        };
        let row = self.store.subscriptions().get(tenant, id).await;
        let row = row.map_err(store_fault)?;
        row.map(|row| self.read(row).map(Arc::new)).transpose()
    }

    /// The ids of those in force that stand for an extension.
    pub(crate) fn of_extension(&self, workspace: &Workspace, extension: &ExtensionId) -> Vec<Uuid> {
        let mut all = self.in_force.of(&workspace.tenant);
        all.retain(|it| {
            it.start.owner.as_ref().is_some_and(|owner| {
                owner.workspace == workspace.id.as_str() && owner.extension == extension.as_str()
            })
        });
        all.into_iter().map(|it| it.id).collect()
    }

    /// Makes one, for which room has been taken.
    pub(crate) async fn create_of(
        self: &Arc<Self>,
        caller: &Caller,
        new: OfExtension,
    ) -> Result<Arc<Subscription>, Refusal> {
        let row = self.row_of(new).await?;
        let made = self
            .keep(row, &Actor::Caller(caller.clone()), "subscription.created")
            .await?;
        made.ok_or_else(|| {
            let detail = "The new id was taken; try again.";
            Refusal::new(Code::Internal, Rule::Append, detail)
        })
    }

    /// What one is made of that is kept together with more than itself.
    pub(crate) async fn unkept(
        &self,
        caller: &Caller,
        new: OfExtension,
    ) -> Result<Unkept, Refusal> {
        let row = self.row_of(new).await?;
        let actor = Actor::Caller(caller.clone());
        Ok(Unkept {
            events: self.told(&row, &actor, "subscription.created")?,
            subscription: self.read(row.clone())?,
            row,
        })
    }

    /// Puts in force what has been kept.
    pub(crate) fn begin(&self, subscription: Subscription) {
        self.in_force.put(subscription.id, Some(subscription));
    }

    /// The row of a new one. Those of one extension share their secret, so that it keeps one.
    async fn row_of(&self, new: OfExtension) -> Result<SubscriptionRow, Refusal> {
        let wanted = self.checked(new.document)?;
        let mut signing = Vec::new();
        for sibling in new.siblings {
            if let Some(sibling) = self.kept(&new.tenant, Some(sibling)).await? {
                // One that was rotated away may still be what the receiver knows.
                let shared = sibling.signing.iter().map(|(secret, ends)| SigningSecret {
                    secret: secret.to_text(),
                    ends_at_ms: *ends,
                });
                signing.extend(shared);
                break;
            }
        }
        if signing.is_empty() {
            signing.push(SigningSecret::random());
        }
        let secrets = Secrets {
            signing,
            auth: None,
            mtls: None,
        };
        let now = self.clock.now_ms();
        let start = Start {
            number: 1,
            places: self.places(&new.tenant, new.from).await?,
            owner: Some(new.owner),
            state_since_ms: Some(now),
            ..Start::default()
        };
        let state = if new.active {
            State::Active
        } else {
            State::Paused
        };
        let id = new.id;
        Ok(SubscriptionRow {
            id,
            tenant: new.tenant,
            document: stored(wanted.document, &start),
            secrets: self.close(id, &secrets),
            state: state.as_str().into(),
            reason: None,
            revision: 1,
            created_at_ms: now,
            updated_at_ms: now,
            change: 0,
        })
    }

    /// Brings one to where its extension is now: its URL if it has one, and whether it gets anything. One that begins to again
    /// goes on from `from`, or with the next event and what was being delivered before; one that its receiver had disabled,
    /// from where that was.
    pub(crate) async fn arrange(
        &self,
        caller: &Caller,
        subscription: &Subscription,
        url: Option<&str>,
        active: bool,
        from: Option<From>,
    ) -> Result<(), Refusal> {
        let (tenant, id) = (&subscription.tenant, subscription.id);
        let actor = Actor::Caller(caller.clone());
        let mut changes = Vec::new();
        if let Some(url) = url.filter(|url| subscription.document["target"]["url"] != *url) {
            changes.push(Change::Patch(json!({ "target": { "url": url } })));
        }
        match (subscription.state, active, from) {
            (_, true, Some(from)) => changes.push(Change::Seek(from)),
            (State::Paused, true, None) => changes.push(Change::GoOn(From::Now)),
            (State::Active | State::Disabled, true, None) | (_, false, _) => {}
        }
        match (subscription.state == State::Active, active) {
            (false, true) => changes.push(Change::Resume),
            (true, false) => changes.push(Change::Pause),
            (true, true) | (false, false) => {}
        }
        for change in changes {
            self.make(tenant, id, &change, &actor).await?;
        }
        Ok(())
    }

    /// Signs what one gets with another secret; what is verified with then. Nothing happens when it is gone.
    pub(crate) async fn rotate_of(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        id: Uuid,
        change: &Change,
    ) -> Result<Option<Vec<VerifyingSecret>>, Refusal> {
        let actor = Actor::Caller(caller.clone());
        match self.make(tenant, id, change, &actor).await {
            Ok(rotated) => Ok(Some(verifying(&rotated, self.clock.now_ms()))),
            Err(refusal) if refusal.code == Code::NotFound => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// One of any tenant's, if it is in force.
    pub(crate) fn standing(&self, id: Uuid) -> Option<Arc<Subscription>> {
        self.in_force.get(id)
    }

    /// Takes one away. Nothing happens when it is gone.
    pub(crate) async fn delete_of(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        id: Uuid,
    ) -> Result<(), Refusal> {
        let actor = Actor::Caller(caller.clone());
        match self.remove(tenant, id, &actor).await {
            Err(refusal) if refusal.code == Code::NotFound => Ok(()),
            removed => removed,
        }
    }
}

//! How a registration is made and moved on: decided on what stands, written with all that tells of it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tidings_contract::custom::Version;
use tidings_event::{Code, TenantId};
use tidings_store::{CustomEventChange, CustomEventRow, OutboxRow};

use super::Status;
use super::lifecycle::{self, LifecycleEvent};
use super::registry::{Registration, Registry, absent, aside};
use super::verdict::{
    Request, Standing, Verdict, alone_in_force, behind_the_latest, status_of, verdict, version_of,
};
use crate::clock::has_passed;
use crate::publish::refusal::{Refusal, Rule};
use crate::storing::{contended, store_fault};
use crate::workspaces::Tenant;

/// For how long a change is decided again when other replicas keep changing the tenant's registrations in between. Not
/// so many times: of two replicas one may be the slower each time, for as long as the other has changes waiting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Within this time a tenant is told once that its month is used up, by one replica.
const TOLD_IN: Duration = Duration::from_mins(1);
/// Within this time so many of a tenant's other refusals are told of, of each kind.
const REFUSALS_TOLD: u32 = 60;

impl Registry {
    pub(super) async fn write(
        &self,
        tenant: &TenantId,
        request: Arc<Request>,
    ) -> Result<Registration, Refusal> {
        let _turn = self.turn(tenant).lock().await;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let (verdict, standing) = self.decided(tenant, &request).await?;
            if let Some(refusal) = verdict.refusal() {
                if self.may_tell(tenant, LifecycleEvent::ValidationFailed) {
                    let told = self.refused(tenant, &request, &verdict, &standing);
                    match self.store.outbox().add(&told).await {
                        Ok(()) => self.outbox.leave(),
                        // What it is refused for is the answer, whether or not it can be told.
                        Err(error) => {
                            tracing::warn!(%error, "a refused registration is not told of");
                        }
                    }
                }
                return Err(refusal);
            }
            let row = self.new_row(tenant, &request, &verdict)?;
            let mut superseded = Vec::new();
            let mut told = vec![
                (LifecycleEvent::Requested, lifecycle::requested(&request)),
                (
                    LifecycleEvent::Validated,
                    lifecycle::validated(&request, &verdict),
                ),
                (LifecycleEvent::Persisted, lifecycle::persisted(&row)),
            ];
            if request.status == Status::Published {
                told.extend(lifecycle::published(&row));
                told.extend(self.supersede(&row, &standing.rows, &mut superseded));
            }
            let change = CustomEventChange {
                revision: standing.revision,
                added: Some(row.clone()),
                changed: superseded,
                events: self.events(tenant, standing.revision, told),
            };
            if self.changed(tenant, &change).await? {
                return Ok(Registration::of(row));
            }
        }
        Err(contended("What the organisation has registered"))
    }

    pub(super) async fn move_on(
        &self,
        tenant: &TenantId,
        (namespace, name, version): (&str, &str, &str),
        description: Option<String>,
        status: Option<Status>,
    ) -> Result<Registration, Refusal> {
        let _turn = self.turn(tenant).lock().await;
        let wanted = Version::parse(version).ok();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let room = self.store.custom_events();
            let revision = room.revision(tenant).await.map_err(store_fault)?;
            let rows = self.rows(tenant, namespace, name).await?;
            let row = rows.iter().find(|row| Some(version_of(row)) == wanted);
            let row = row.ok_or_else(|| absent(namespace, name, Some(version)))?;
            let alone = alone_in_force(self.plan(tenant), &rows);
            let mut after = row.clone();
            if let Some(given) = &description {
                after.description = Some(given.clone()).filter(|text| !text.is_empty());
            }
            let current = status_of(row).ok_or_else(|| absent(namespace, name, Some(version)))?;
            let next = status.filter(|next| *next != current);
            if let Some(next) = next {
                self.may_move(tenant, row, &rows, (current, next))?;
                next.as_str().clone_into(&mut after.status);
            }
            if after == *row {
                return Ok(Registration::beside(after, alone));
            }
            after.updated_at_ms = self.clock.now_ms();
            let mut told = Vec::new();
            let mut changed = vec![after.clone()];
            if next == Some(Status::Published) {
                told.extend(lifecycle::published(&after));
                told.extend(self.supersede(&after, &rows, &mut changed));
            } else if next == Some(Status::Archived) {
                let data = lifecycle::invalidated(&after, None);
                told.push((LifecycleEvent::Invalidated, data));
                if alone == wanted {
                    // Of a plan with more versions: none of them takes its place.
                    told.extend(self.supersede(&after, &rows, &mut changed));
                }
            }
            let change = CustomEventChange {
                revision,
                added: None,
                changed,
                events: self.events(tenant, revision, told),
            };
            if self.changed(tenant, &change).await? {
                return Ok(Registration::beside(after, alone));
            }
        }
        Err(contended("What the organisation has registered"))
    }

    fn may_move(
        &self,
        tenant: &TenantId,
        row: &CustomEventRow,
        rows: &[CustomEventRow],
        (current, next): (Status, Status),
    ) -> Result<(), Refusal> {
        if !current.leads_to(next) {
            let detail = format!(
                "The version is {}; it goes from draft to published to archived, and not to {}.",
                current.as_str(),
                next.as_str()
            );
            return Err(Refusal::invalid("status", detail));
        }
        let plan = self.plan(tenant);
        if next != Status::Published {
            return Ok(());
        }
        if !plan.has_own_events() {
            let detail = format!(
                "The plan {} has no events of its own; BASIC has.",
                plan.as_str()
            );
            return Err(Refusal::new(
                Code::PlanUpgradeRequired,
                Rule::Contract,
                detail,
            ));
        }
        match behind_the_latest(version_of(row), plan, rows) {
            None => Ok(()),
            Some(fault) => Err(Refusal::new(fault.code, Rule::Contract, fault.detail)),
        }
    }

    /// Reads what a request is held against, and decides.
    pub(super) async fn decided(
        &self,
        tenant: &TenantId,
        request: &Arc<Request>,
    ) -> Result<(Verdict, Standing), Refusal> {
        let room = self.store.custom_events();
        let known = self.workspaces.known(tenant);
        // The revision first: what is read after it is never older.
        let revision = room.revision(tenant).await.map_err(store_fault)?;
        let rows = room.versions(tenant, &request.namespace, &request.name);
        let standing = Standing {
            revision,
            plan: self.plan(tenant),
            namespaces: known
                .map_or_else(Vec::new, |tenant: Arc<Tenant>| tenant.namespaces.clone()),
            events: room.count(tenant).await.map_err(store_fault)?,
            rows: rows.await.map_err(store_fault)?,
        };
        let request = request.clone();
        aside("Judging a registration", move || {
            verdict(&request, &standing).map(|verdict| (verdict, standing))
        })
        .await
    }

    fn new_row(
        &self,
        tenant: &TenantId,
        request: &Request,
        verdict: &Verdict,
    ) -> Result<CustomEventRow, Refusal> {
        let (Some((path, version)), Some(schema), Some(bump)) =
            (&verdict.called, &verdict.schema, verdict.bump)
        else {
            return Err(Refusal::fault("Registering", &Incomplete));
        };
        let now = self.clock.now_ms();
        Ok(CustomEventRow {
            tenant: tenant.clone(),
            namespace: path.namespace.to_string(),
            name: path.name.to_string(),
            version: [version.major, version.minor, version.patch],
            status: request.status.as_str().to_owned(),
            description: request.description.clone(),
            payload_schema: request.schema.to_string(),
            payload_example: request.example.as_deref().map(str::to_owned),
            schema_hash: schema.hash().to_owned(),
            schema_flavour: schema.flavour().as_str().to_owned(),
            semver_bump: bump.as_str().to_owned(),
            created_at_ms: now,
            updated_at_ms: now,
        })
    }

    /// Adds the versions that one takes out of force to what is changed, and says what tells of them.
    fn supersede(
        &self,
        by: &CustomEventRow,
        rows: &[CustomEventRow],
        changed: &mut Vec<CustomEventRow>,
    ) -> Vec<(LifecycleEvent, serde_json::Value)> {
        let gone = self.superseded_of(by, rows);
        let told = gone
            .iter()
            .map(|old| {
                let data = lifecycle::invalidated(old, Some(by));
                (LifecycleEvent::Invalidated, data)
            })
            .collect();
        changed.extend(gone);
        told
    }

    /// They, as they are then.
    fn superseded_of(&self, by: &CustomEventRow, rows: &[CustomEventRow]) -> Vec<CustomEventRow> {
        if self.plan(&by.tenant).keeps_versions() {
            return Vec::new();
        }
        let others = rows.iter().filter(|row| row.version != by.version);
        let published = others.filter(|row| status_of(row) == Some(Status::Published));
        let gone = published.map(|row| CustomEventRow {
            status: Status::Superseded.as_str().to_owned(),
            updated_at_ms: by.updated_at_ms,
            ..row.clone()
        });
        gone.collect()
    }

    /// Whether one more such event may be told of a tenant: refusals cost nothing, and must not fill its log.
    pub(super) fn may_tell(&self, tenant: &TenantId, event: LifecycleEvent) -> bool {
        let most = match event {
            LifecycleEvent::QuotaExceeded => 1,
            _ => REFUSALS_TOLD,
        };
        let now = self.clock.now_ms();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, (since, _)| !has_passed(TOLD_IN, *since, now));
        let (_, count) = told.entry((tenant.clone(), event)).or_insert((now, 0));
        *count += 1;
        *count <= most
    }

    /// What tells of a refused registration, in source D's order.
    fn refused(
        &self,
        tenant: &TenantId,
        request: &Request,
        verdict: &Verdict,
        standing: &Standing,
    ) -> Vec<OutboxRow> {
        // A plan may also have room for an event, and not keep the version that is asked for.
        let no_room = |code: Code| match code {
            Code::RegistrationQuotaExceeded => true,
            Code::PlanUpgradeRequired => !standing.plan.has_own_events(),
            _ => false,
        };
        let mut told = vec![(LifecycleEvent::Requested, lifecycle::requested(request))];
        if verdict.faults.iter().all(|fault| no_room(fault.code)) {
            let validated = lifecycle::validated(request, verdict);
            told.push((LifecycleEvent::Validated, validated));
            let data = lifecycle::no_room(request, standing.plan, standing.events);
            told.push((LifecycleEvent::QuotaExceeded, data));
        } else {
            let data = lifecycle::validation_failed(request, verdict);
            told.push((LifecycleEvent::ValidationFailed, data));
        }
        let told = told.into_iter();
        told.map(|(event, data)| event.row(&self.outbox, tenant, &data))
            .collect()
    }

    /// The events of a change; before the first one stands that the tenant has the generic event.
    fn events(
        &self,
        tenant: &TenantId,
        revision: i64,
        told: Vec<(LifecycleEvent, serde_json::Value)>,
    ) -> Vec<OutboxRow> {
        let told = told.into_iter();
        let told = told.map(|(event, data)| event.row(&self.outbox, tenant, &data));
        self.seeding(tenant, revision)
            .into_iter()
            .chain(told)
            .collect()
    }

    pub(super) fn seeding(&self, tenant: &TenantId, revision: i64) -> Option<OutboxRow> {
        let data = lifecycle::generic_seeded(&self.generic(tenant));
        let first = revision == 0;
        first.then(|| LifecycleEvent::GenericSeeded.row(&self.outbox, tenant, &data))
    }

    async fn changed(
        &self,
        tenant: &TenantId,
        change: &CustomEventChange,
    ) -> Result<bool, Refusal> {
        let done = self.store.custom_events().change(tenant, change).await;
        // Also after a failure, which may have come after the commit.
        self.in_force.changed(tenant);
        self.outbox.leave();
        done.map_err(store_fault)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("nothing speaks against it, and yet a part of it is missing")]
struct Incomplete;

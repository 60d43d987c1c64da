//! What tenants ask to be sent again: history to one subscription, or dead letters by a filter. Each is a plan that is
//! kept, and carried out by the dispatcher at its rate; it survives a restart, and can be cancelled and resumed.
//!
//! Cast: the room [`Replays`]; the [`Plan`]; [`history`], which reads the log for both the plan and its execution.

pub mod history;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_bus::Bus;
use tidings_egress::Client;
use tidings_event::{Code, TenantId};
pub use tidings_store::ReplayRow;
use tidings_store::{DeadLetterQuery, ReplayStep, Store};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::access::Caller;
use crate::clock::Clock;
use crate::damaged::sound;
use crate::publish::refusal::{Refusal, Rule};
use crate::storing::store_fault;
use crate::subscriptions::{Subscriptions, administered, reader};
use history::{History, Log, Place, Wanted};

/// The most that run for one tenant at once.
const MOST_AT_ONCE: usize = 16;
/// The most records of the log that a plan looks at within its request; the total of a longer one is not known.
const MOST_SCANNED: u64 = 500_000;
/// The most dead letters that a plan counts; the total of a larger one is not known.
const MOST_LETTERS_COUNTED: u32 = 100_000;
/// So many plans are counted at once: each reads the log for as long as its request lasts.
const SURVEYS_AT_ONCE: usize = 2;
/// When to come back for a plan that finds others being counted.
const NEXT_SURVEY: Duration = Duration::from_secs(5);
/// The highest rate, per second.
pub const MAX_RATE: u32 = 10_000;

/// What is to be sent again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Plan {
    /// What stands in the log, to one subscription.
    History(History),
    /// Deliveries that were given up.
    DeadLetters(DeadLetters),
}

/// By what it is decided whether an event of history is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// It was sent then, as the attempts that are kept tell.
    #[default]
    Then,
    /// It meets the filter as it is now.
    Now,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// Of these subscriptions; empty for all.
    pub subscriptions: Vec<Uuid>,
    /// Of this type, or of those that a pattern stands for.
    pub event_type: Option<String>,
    /// Given up at or after, in ms since 1970.
    pub since_ms: Option<i64>,
    /// Given up before, in ms since 1970.
    pub until_ms: Option<i64>,
    /// The last error contains this text.
    pub error: Option<String>,
    /// At most so many a second.
    pub rate: Option<u32>,
}

impl DeadLetters {
    /// The open ones after an id.
    pub(crate) fn query(&self, after: Option<Uuid>, limit: u32) -> DeadLetterQuery {
        DeadLetterQuery {
            subscriptions: self.subscriptions.clone(),
            event_type: self.event_type.clone(),
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            error: self.error.clone(),
            state: Some("open"),
            after,
            limit,
        }
    }
}

impl Plan {
    /// As it is kept.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|error| Refusal::fault("Reading a replay", &error))
    }

    /// At most so many a second.
    pub fn rate(&self) -> Option<u32> {
        match self {
            Self::History(history) => history.rate,
            Self::DeadLetters(letters) => letters.rate,
        }
    }
}

/// What a plan would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many events would be sent.
    pub count: u64,
    /// The bytes of their data.
    pub bytes: u64,
    /// Whether all were counted; if not, there are more.
    pub complete: bool,
    /// Those that today's filter wants and that were not sent then: how many, and the first of them.
    pub added: (u64, Vec<Uuid>),
    /// Those that were sent then and that today's filter does not want.
    pub dropped: (u64, Vec<Uuid>),
}

/// How many of what differs are named.
const NAMED: usize = 10;

/// The room.
#[derive(Clone)]
pub struct Replays {
    store: Store,
    bus: Arc<dyn Bus>,
    egress: Client,
    subscriptions: Arc<Subscriptions>,
    clock: Clock,
    surveys: Arc<Semaphore>,
    most_scanned: u64,
}

impl Replays {
    pub(crate) fn new(
        store: Store,
        bus: Arc<dyn Bus>,
        egress: Client,
        subscriptions: Arc<Subscriptions>,
        clock: Clock,
    ) -> Self {
        Self {
            store,
            bus,
            egress,
            subscriptions,
            clock,
            surveys: Arc::new(Semaphore::new(SURVEYS_AT_ONCE)),
            most_scanned: MOST_SCANNED,
        }
    }

    /// What a replay of history would send. Nothing is sent and nothing kept.
    pub async fn survey(
        &self,
        caller: &Caller,
        subscription: Uuid,
        wanted: Wanted,
    ) -> Result<Survey, Refusal> {
        administered(caller)?;
        let history = self.planned(caller, subscription, wanted).await?;
        self.counted(caller, subscription, &history).await
    }

    /// Begins to send history again to one of the tenant's subscriptions.
    pub async fn of_history(
        &self,
        caller: &Caller,
        subscription: Uuid,
        wanted: Wanted,
    ) -> Result<ReplayRow, Refusal> {
        let tenant = administered(caller)?;
        let history = self.planned(caller, subscription, wanted).await?;
        let survey = self.counted(caller, subscription, &history).await?;
        let total = survey.complete.then_some(survey.count);
        let plan = Plan::History(history);
        self.keep(tenant, Some(subscription), &plan, total).await
    }

    /// Begins to send all open dead letters again that these are.
    pub async fn of_dead_letters(
        &self,
        caller: &Caller,
        letters: DeadLetters,
    ) -> Result<ReplayRow, Refusal> {
        self.of_letters(administered(caller)?, letters).await
    }

    pub(crate) async fn of_letters(
        &self,
        tenant: TenantId,
        mut letters: DeadLetters,
    ) -> Result<ReplayRow, Refusal> {
        checked_rate(letters.rate)?;
        // What is given up from now on is not part of it: it would follow what it has itself sent in vain.
        let begun = self.clock.now_ms() + 1;
        letters.until_ms = Some(letters.until_ms.map_or(begun, |until| until.min(begun)));
        let query = letters.query(None, MOST_LETTERS_COUNTED);
        let total = self.store.dead_letters().count(&tenant, &query).await;
        let total = total.map_err(store_fault)?;
        let total = Some(total).filter(|total| *total < u64::from(MOST_LETTERS_COUNTED));
        self.keep(tenant, None, &Plan::DeadLetters(letters), total)
            .await
    }

    /// One of the tenant's.
    pub async fn get(&self, caller: &Caller, id: Uuid) -> Result<ReplayRow, Refusal> {
        let found = self.store.replays().get(&reader(caller)?, id).await;
        found
            .map_err(store_fault)?
            .ok_or_else(|| Refusal::not_found("replay"))
    }

    /// The tenant's before an id, newest first.
    pub async fn list(
        &self,
        caller: &Caller,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<ReplayRow>, Refusal> {
        let tenant = reader(caller)?;
        sound(self.store.replays().list(&tenant, before, limit).await)
    }

    /// Stops one where it is. What is on its way arrives. One that has ended stays as it is.
    pub async fn cancel(&self, caller: &Caller, id: Uuid) -> Result<ReplayRow, Refusal> {
        self.go(&administered(caller)?, id, "cancelled").await
    }

    /// Goes on with one that was cancelled, where it was.
    pub async fn resume(&self, caller: &Caller, id: Uuid) -> Result<ReplayRow, Refusal> {
        let tenant = administered(caller)?;
        let row = self.get(caller, id).await?;
        if row.state != "cancelled" {
            return Ok(row);
        }
        if let Some(of) = row.subscription {
            self.subscriptions.get(caller, of)?;
        }
        let mut step = ReplayStep::new(id, self.clock.now_ms());
        step.state = Some("planned");
        let rows = self.store.replays();
        let planned = rows.plan_again(&tenant, &step, MOST_AT_ONCE).await;
        if !planned.map_err(store_fault)? {
            return Err(too_many());
        }
        self.get(caller, id).await
    }

    async fn go(
        &self,
        tenant: &TenantId,
        id: Uuid,
        state: &'static str,
    ) -> Result<ReplayRow, Refusal> {
        let mut step = ReplayStep::new(id, self.clock.now_ms());
        step.state = Some(state);
        let row = self.store.replays().step(tenant, &step).await;
        row.map_err(store_fault)?
            .ok_or_else(|| Refusal::not_found("replay"))
    }

    async fn keep(
        &self,
        tenant: TenantId,
        subscription: Option<Uuid>,
        plan: &Plan,
        total: Option<u64>,
    ) -> Result<ReplayRow, Refusal> {
        let row = ReplayRow {
            id: self.clock.new_id(),
            tenant,
            subscription,
            plan: serde_json::to_string(plan).expect("plain members become JSON"),
            state: "planned".into(),
            place: Place::default().write(),
            total,
            sent: 0,
            delivered: 0,
            failed: 0,
            created_at_ms: self.clock.now_ms(),
            started_at_ms: None,
            ended_at_ms: None,
        };
        let kept = self.store.replays().insert(&row, MOST_AT_ONCE).await;
        if kept.map_err(store_fault)? {
            return Ok(row);
        }
        Err(too_many())
    }

    /// A plan with the stretches of the log that it is about, which grow no more.
    async fn planned(
        &self,
        caller: &Caller,
        subscription: Uuid,
        wanted: Wanted,
    ) -> Result<History, Refusal> {
        let subscription = self.subscriptions.get(caller, subscription)?;
        checked_rate(wanted.rate)?;
        if let Some(url) = &wanted.shadow {
            if subscription.signing.is_empty() {
                let detail = "A shadow gets what is signed with the subscription's secret, and this one has none, \
                     since it sends to a topic; 'rotate-secret' makes one.";
                return Err(Refusal::invalid("shadowUrl", detail));
            }
            self.egress.admit(url).map_err(|error| {
                let detail = format!("The shadow target cannot be used: {error}.");
                Refusal::new(Code::TargetNotAllowed, Rule::Shape, detail).field("shadowUrl")
            })?;
        }
        let room = &self.subscriptions;
        let from = room.places(&subscription.tenant, wanted.from).await?;
        let until = match wanted.until_ms.filter(|until| *until < self.clock.now_ms()) {
            Some(until) => crate::subscriptions::From::Time(until),
            None => crate::subscriptions::From::Now,
        };
        let ends = room.places(&subscription.tenant, until).await?;
        let stretches = ends.into_iter().map(|(topic, end)| {
            let from = from.get(&topic).copied().unwrap_or(0);
            (topic, (from, end))
        });
        Ok(History {
            stretches: stretches.filter(|(_, (from, end))| from < end).collect(),
            types: wanted.types,
            rate: wanted.rate,
            routing: wanted.routing,
            shadow: wanted.shadow,
        })
    }

    async fn counted(
        &self,
        caller: &Caller,
        subscription: Uuid,
        history: &History,
    ) -> Result<Survey, Refusal> {
        let subscription = self.subscriptions.get(caller, subscription)?;
        let Ok(_alone) = self.surveys.try_acquire() else {
            let detail = "Other replays are being planned; try again when they are.";
            let refusal = Refusal::new(Code::RateLimited, Rule::Shape, detail);
            return Err(refusal.retry_after(NEXT_SURVEY));
        };
        let log = Log {
            bus: &*self.bus,
            store: &self.store,
        };
        let (mut survey, mut place) = (Survey::default(), Place::default());
        while !place.exhausted && history.scanned(&place) < self.most_scanned {
            let page = log
                .page(&subscription, history, &mut place, history::PAGE)
                .await?;
            for found in page {
                let differs = match (found.number.is_some(), found.matches) {
                    (false, true) => Some(&mut survey.added),
                    (true, false) => Some(&mut survey.dropped),
                    _ => None,
                };
                if let Some((count, named)) = differs {
                    *count += 1;
                    if named.len() < NAMED {
                        named.push(found.event.event_id);
                    }
                }
                let sent = match history.routing {
                    Routing::Then => found.number.is_some(),
                    Routing::Now => found.matches,
                };
                if sent {
                    survey.count += 1;
                    survey.bytes += found.event.data.len() as u64;
                }
            }
        }
        survey.complete = place.exhausted;
        Ok(survey)
    }
}

fn too_many() -> Refusal {
    let detail =
        format!("{MOST_AT_ONCE} replays of this tenant run already; wait for one or cancel it.");
    let refusal = Refusal::new(Code::RateLimited, Rule::Shape, detail);
    refusal.retry_after(Duration::from_mins(1))
}

fn checked_rate(rate: Option<u32>) -> Result<(), Refusal> {
    if rate.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
        let detail = format!("'rate' must be 1 to {MAX_RATE} a second.");
        return Err(Refusal::invalid("rate", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use serde_json::json;
    use tidings_event::Service;

    use super::*;
    use crate::access::{on_behalf_of, user};
    use crate::in_memory;
    use crate::publish::command::Command;
    use crate::subscriptions::From;

    const NOW: i64 = 1_700_000_000_000;

    fn admin() -> Caller {
        user("acme", "ada", true)
    }

    #[tokio::test]
    async fn letters_that_are_made_after_a_replay_has_begun_are_not_of_it() {
        let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
        for (asked, until) in [
            (None, NOW + 1),
            (Some(NOW + 99), NOW + 1),
            (Some(NOW - 9), NOW - 9),
        ] {
            let letters = DeadLetters {
                until_ms: asked,
                ..DeadLetters::default()
            };
            let row = gateway.replays.of_dead_letters(&admin(), letters).await;
            let Plan::DeadLetters(kept) = Plan::read(&row.unwrap().plan).unwrap() else {
                panic!("it is about dead letters");
            };
            assert_eq!(kept.until_ms, Some(until));
        }
    }

    #[tokio::test]
    async fn no_more_run_at_once_whoever_asks_at_the_same_time_or_goes_on_with_one() {
        let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
        let (room, owner) = (&gateway.replays, admin());
        let one = || room.of_dead_letters(&owner, DeadLetters::default());
        let asked = join_all((0..20).map(|_| one())).await;
        let made: Vec<Uuid> = asked.iter().flatten().map(|row| row.id).collect();
        assert_eq!(made.len(), MOST_AT_ONCE);
        room.cancel(&owner, made[0]).await.unwrap();
        let another = one().await.unwrap();
        let refusal = room.resume(&owner, made[0]).await.unwrap_err();
        assert_eq!(refusal.code, Code::RateLimited);
        room.cancel(&owner, another.id).await.unwrap();
        let resumed = room.resume(&owner, made[0]).await.unwrap();
        assert_eq!(resumed.state, "planned");
    }

    #[tokio::test]
    async fn a_plan_looks_at_so_much_of_the_log_and_so_many_are_made_at_once() {
        let gateway = in_memory::gateway(&Clock::manual(NOW)).await;
        let document = json!({
            "name": "all", "target": { "kind": "webhook", "url": "http://127.0.0.1:9" },
        });
        let owner = admin();
        let made = gateway.subscriptions.create(&owner, document, From::Now);
        let (subscription, _) = made.await.unwrap();
        let caller = on_behalf_of(Service::Audit, "acme".parse().unwrap());
        for n in 0..600 {
            let draft = in_memory::draft(&json!({ "n": n }).to_string());
            let command = Command::one(caller.clone(), draft, None);
            gateway.publish(command).await.unwrap();
        }
        let surveyed = async |replays: &Replays| {
            let wanted = Wanted {
                from: From::Beginning,
                until_ms: None,
                types: vec!["audit.test.*".parse().unwrap()],
                rate: None,
                routing: Routing::Now,
                shadow: None,
            };
            replays.survey(&admin(), subscription.id, wanted).await
        };
        let mut replays = gateway.replays.clone();
        let whole = surveyed(&replays).await.unwrap();
        assert_eq!((whole.count, whole.complete), (600, true));
        replays.most_scanned = 100;
        let part = surveyed(&replays).await.unwrap();
        assert!(part.count < 600 && !part.complete, "{part:?}");

        let taken = replays.surveys.clone().try_acquire_many_owned(2).unwrap();
        let refusal = surveyed(&gateway.replays).await.unwrap_err();
        assert_eq!(refusal.code, Code::RateLimited);
        assert_eq!(refusal.retry_after, Some(NEXT_SURVEY));
        drop(taken);
        surveyed(&gateway.replays).await.unwrap();
    }
}

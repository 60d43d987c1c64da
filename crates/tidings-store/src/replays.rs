//! What tenants have asked to be sent again, and how far that has come. What a plan says is the gateway's.

use sqlx::{Connection, QueryBuilder};
use tidings_event::TenantId;
use uuid::Uuid;

use crate::deliveries::number;
use crate::found::{Found, page, placed};
use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, whole};

/// A replay as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRow {
    /// What it is called by in URLs, and what its deliveries carry.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: TenantId,
    /// The one subscription that it sends to, if it is one.
    pub subscription: Option<Uuid>,
    /// What is to be sent. JSON of the gateway; it never changes.
    pub plan: String,
    /// `planned`, `running`, `cancelled` or `done`.
    pub state: String,
    /// How far it has come. JSON of the gateway.
    pub place: String,
    /// How many there are to send, where that was counted.
    pub total: Option<u64>,
    /// How many were given to the way out.
    pub sent: u64,
    /// How many of those were taken.
    pub delivered: u64,
    /// How many of those were given up.
    pub failed: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it began.
    pub started_at_ms: Option<i64>,
    /// When it was done or cancelled.
    pub ended_at_ms: Option<i64>,
}

/// What has happened to a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStep {
    /// Which.
    pub id: Uuid,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// How far it has come, if it came further.
    pub place: Option<String>,
    /// So many more.
    pub sent: u64,
    /// So many more.
    pub delivered: u64,
    /// So many more.
    pub failed: u64,
    /// Where it is to go from where it is: a replay that has ended does not begin to run, and only a cancelled one
    /// is planned again. What does not follow is passed over.
    pub state: Option<&'static str>,
}

impl ReplayStep {
    /// Nothing yet.
    pub fn new(id: Uuid, at_ms: i64) -> Self {
        Self {
            id,
            at_ms,
            place: None,
            sent: 0,
            delivered: 0,
            failed: 0,
            state: None,
        }
    }

    /// The row after it.
    pub(crate) fn applied(&self, mut row: ReplayRow) -> ReplayRow {
        row.sent += self.sent;
        row.delivered += self.delivered;
        row.failed += self.failed;
        if let Some(place) = &self.place {
            row.place.clone_from(place);
        }
        let follows = |state: &str| match state {
            "running" => row.state == "planned",
            "planned" => row.state == "cancelled",
            _ => matches!(row.state.as_str(), "planned" | "running"),
        };
        let Some(state) = self.state.filter(|state| follows(state)) else {
            return row;
        };
        match state {
            "running" => {
                row.started_at_ms.get_or_insert(self.at_ms);
            }
            "planned" => row.ended_at_ms = None,
            _ => {
                row.started_at_ms.get_or_insert(self.at_ms);
                row.ended_at_ms = Some(self.at_ms);
            }
        }
        row.state = state.to_owned();
        row
    }
}

/// So many are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 32;

/// The methods on replays.
#[derive(Debug, Clone, Copy)]
pub struct Replays<'a> {
    connections: &'a Connections,
}

/// Comes first, so that the row is locked, and SQLite's writer taken, before it is read.
pub(crate) const LOCK: &str = "UPDATE replays SET state = state WHERE id = $1";

pub(crate) const UPDATE: &str = "UPDATE replays SET state = $2, place = $3, sent = $4, delivered = $5, failed = $6, \
     started_at_ms = $7, ended_at_ms = $8, crc = $9 WHERE id = $1";

/// Takes a step within a transaction, of whichever database it is. Yields the row after it, if there is one.
macro_rules! step {
    ($transaction:expr, $step:expr) => {{
        let id = $step.id.to_string();
        sqlx::query($crate::replays::LOCK)
            .bind(id.as_str())
            .execute(&mut *$transaction)
            .await?;
        let found = sqlx::query("SELECT * FROM replays WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&mut *$transaction)
            .await?;
        let found = found
            .as_ref()
            .map(<$crate::ReplayRow as $crate::seal::Sealed>::from_row);
        match found {
            Some(Ok(row)) => {
                let row = $step.applied(row);
                sqlx::query($crate::replays::UPDATE)
                    .bind(id)
                    .bind(row.state.as_str())
                    .bind(row.place.as_str())
                    .bind($crate::deliveries::number(row.sent))
                    .bind($crate::deliveries::number(row.delivered))
                    .bind($crate::deliveries::number(row.failed))
                    .bind(row.started_at_ms)
                    .bind(row.ended_at_ms)
                    .bind($crate::seal::Sealed::seal(&row))
                    .execute(&mut *$transaction)
                    .await?;
                Some(Ok(row))
            }
            other => other,
        }
    }};
}

pub(crate) use step;

/// How many of a tenant's have not ended, within a transaction. Who asks this for the same tenant comes after it.
macro_rules! unended {
    ($transaction:expr, $tenant:expr) => {{
        sqlx::query("UPDATE tenants SET crc = crc WHERE id = $1")
            .bind($tenant.as_str())
            .execute(&mut *$transaction)
            .await?;
        let counted = sqlx::query(
            "SELECT COUNT(*) AS unended FROM replays WHERE tenant = $1 AND state IN ('planned', 'running')",
        )
        .bind($tenant.as_str())
        .fetch_one(&mut *$transaction)
        .await?;
        usize::try_from(counted.integer("unended")?).unwrap_or(usize::MAX)
    }};
}

const INSERT: &str = "INSERT INTO replays (id, tenant, subscription, plan, state, place, total, sent, delivered, \
     failed, created_at_ms, started_at_ms, ended_at_ms, crc) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";

impl<'a> Replays<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps a new one, unless so many of its tenant have not ended. Answers whether it did.
    pub async fn insert(&self, row: &ReplayRow, most: usize) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "keep a replay", connection => {
            let mut transaction = connection.begin().await?;
            if unended!(transaction, row.tenant) >= most {
                return Ok(false);
            }
            sqlx::query(INSERT)
                .bind(row.id.to_string())
                .bind(row.tenant.as_str())
                .bind(row.subscription.map(|id| id.to_string()))
                .bind(row.plan.as_str())
                .bind(row.state.as_str())
                .bind(row.place.as_str())
                .bind(row.total.map(number))
                .bind(number(row.sent))
                .bind(number(row.delivered))
                .bind(number(row.failed))
                .bind(row.created_at_ms)
                .bind(row.started_at_ms)
                .bind(row.ended_at_ms)
                .bind(row.seal())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await.map(|()| true)
        })
    }

    /// Takes the step that plans a cancelled one of the tenant's again, unless so many of its have not ended. Answers
    /// whether it did.
    pub async fn plan_again(
        &self,
        tenant: &TenantId,
        step: &ReplayStep,
        most: usize,
    ) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "plan a replay again", connection => {
            let mut transaction = connection.begin().await?;
            if unended!(transaction, tenant) >= most {
                return Ok(Ok(false));
            }
            let row = step!(transaction, step);
            transaction.commit().await.map(|()| row.transpose().map(|_| true))
        })?
    }

    /// The tenant's replay of this id.
    pub async fn get(&self, tenant: &TenantId, id: Uuid) -> Result<Option<ReplayRow>, StoreError> {
        on_either!(self.connections, "read a replay", connection => {
            sqlx::query("SELECT * FROM replays WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(ReplayRow::from_row))
        })?
        .transpose()
    }

    /// The tenant's replays before an id, newest first.
    pub async fn list(
        &self,
        tenant: &TenantId,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Found<ReplayRow>, StoreError> {
        let query = "SELECT * FROM replays WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3";
        let before = before.unwrap_or(Uuid::max()).to_string();
        page(before, limit, async |before: String, limit| {
            on_either!(self.connections, "list replays", connection => {
                let rows = sqlx::query(query)
                    .bind(tenant.as_str())
                    .bind(before.as_str())
                    .bind(i64::from(limit))
                    .fetch_all(connection)
                    .await?;
                placed(&rows, |row| row.text("id"))
            })
        })
        .await
    }

    /// Everybody's that have not ended. The installation delivers for all tenants; nothing of this is shown to any.
    pub async fn running(&self) -> Result<Found<ReplayRow>, StoreError> {
        let query = "SELECT * FROM replays WHERE state IN ('planned', 'running') ORDER BY id";
        on_either!(self.connections, "read what is replayed", connection => {
            sqlx::query(query)
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(ReplayRow::from_row).collect())
        })
    }

    /// Takes a step with the tenant's replay. Answers the row after it; `None` when there is none.
    pub async fn step(
        &self,
        tenant: &TenantId,
        step: &ReplayStep,
    ) -> Result<Option<ReplayRow>, StoreError> {
        if self.get(tenant, step.id).await?.is_none() {
            return Ok(None);
        }
        writing_on_either!(self.connections, "change a replay", connection => {
            let mut transaction = connection.begin().await?;
            let row = step!(transaction, step);
            transaction.commit().await.map(|()| row)
        })?
        .transpose()
    }

    /// The numbers that events have in a subscription, of those that it was sent.
    pub async fn numbers(
        &self,
        subscription: Uuid,
        events: &[Uuid],
    ) -> Result<Vec<(Uuid, u64)>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let doing = "read what a subscription was sent";
        let rows: Vec<(String, i64)> = on_either!(self.connections, doing, connection => {
            let mut builder = QueryBuilder::new(
                "SELECT event_id, MIN(sequence) AS sequence FROM delivery_attempts WHERE subscription = ",
            );
            builder.push_bind(subscription.to_string()).push(" AND event_id IN (");
            let mut listed = builder.separated(", ");
            for id in events {
                listed.push_bind(id.to_string());
            }
            builder.push(") GROUP BY event_id");
            builder.build().fetch_all(connection).await.and_then(|rows| {
                rows.iter().map(|row| Ok((row.text("event_id")?, row.integer("sequence")?))).collect()
            })
        })?;
        let corrupt = |row: &str, column, fault: String| StoreError::Corrupt {
            row: row.to_owned(),
            column,
            fault,
        };
        let known = rows.into_iter().map(|(id, sequence)| {
            let event = Uuid::parse_str(&id)
                .map_err(|fault| corrupt(&id, "event_id", fault.to_string()))?;
            let sequence = u64::try_from(sequence)
                .map_err(|fault| corrupt(&id, "sequence", fault.to_string()))?;
            Ok((event, sequence))
        });
        known.collect()
    }

    /// Forgets those that ended before a time, with what they had pending: some at once, so that nobody else's writing
    /// waits for long.
    pub async fn forget(&self, before_ms: i64) -> Result<u64, StoreError> {
        let query = "DELETE FROM replays WHERE ended_at_ms < $1 AND id IN \
             (SELECT id FROM replays WHERE ended_at_ms < $1 LIMIT $2) RETURNING id";
        let mut forgotten = 0;
        loop {
            let removed = writing_on_either!(self.connections, "forget old replays", connection => {
                let mut transaction = connection.begin().await?;
                let gone = sqlx::query(query)
                    .bind(before_ms)
                    .bind(FORGOTTEN_AT_ONCE)
                    .fetch_all(&mut *transaction)
                    .await?;
                for row in &gone {
                    // One has not more of them than are made ready ahead, and most have none.
                    sqlx::query("DELETE FROM pending_deliveries WHERE subscription = $1")
                        .bind(row.text("id")?)
                        .execute(&mut *transaction)
                        .await?;
                }
                transaction.commit().await.map(|()| gone.len())
            })?;
            forgotten += removed as u64;
            if removed < usize::try_from(FORGOTTEN_AT_ONCE).unwrap_or(usize::MAX) {
                return Ok(forgotten);
            }
        }
    }
}

impl Sealed for ReplayRow {
    const TABLE: &'static str = "replays";
    const ALL: &'static str = "SELECT * FROM replays";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.id.as_bytes());
        let seal = seal.text(self.tenant.as_str());
        let seal = seal.maybe(self.subscription, |seal, id| seal.bytes(id.as_bytes()));
        let seal = seal.text(&self.plan).text(&self.state).text(&self.place);
        let seal = seal.maybe(self.total.map(number), Seal::number);
        let seal = seal.number(number(self.sent));
        let seal = seal
            .number(number(self.delivered))
            .number(number(self.failed));
        let seal = seal.number(self.created_at_ms);
        let seal = seal.maybe(self.started_at_ms, Seal::number);
        seal.maybe(self.ended_at_ms, Seal::number).finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a replay");
        let id = row.text("id").map_err(unread())?;
        let subscription = row.optional_text("subscription").map_err(unread())?;
        let total = row.optional_integer("total").map_err(unread())?;
        Ok(Self {
            id: parsed(row, &id, "id")?,
            tenant: parsed(row, &id, "tenant")?,
            subscription: match subscription {
                None => None,
                Some(_) => Some(parsed(row, &id, "subscription")?),
            },
            plan: row.text("plan").map_err(unread())?,
            state: row.text("state").map_err(unread())?,
            place: row.text("place").map_err(unread())?,
            total: match total {
                None => None,
                Some(_) => Some(whole(row, &id, "total")?),
            },
            sent: whole(row, &id, "sent")?,
            delivered: whole(row, &id, "delivered")?,
            failed: whole(row, &id, "failed")?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            started_at_ms: row.optional_integer("started_at_ms").map_err(unread())?,
            ended_at_ms: row.optional_integer("ended_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::suite::on_each_database;
    use crate::{Flush, PendingRow};

    fn row(number: u128, tenant: &str) -> ReplayRow {
        ReplayRow {
            id: Uuid::from_u128(number),
            tenant: tenant.parse().unwrap(),
            subscription: Some(Uuid::from_u128(9)),
            plan: "{}".into(),
            state: "planned".into(),
            place: "{}".into(),
            total: Some(10),
            sent: 0,
            delivered: 0,
            failed: 0,
            created_at_ms: 1,
            started_at_ms: None,
            ended_at_ms: None,
        }
    }

    #[tokio::test]
    async fn no_more_than_so_many_of_a_tenant_are_kept_at_once() {
        on_each_database(async |store| {
            let tenant = crate::TenantRow {
                id: "acme".parse().unwrap(),
                slug: "acme".into(),
                plan: "FREE".into(),
                namespaces: "[]".into(),
                created_at_ms: 1,
                updated_at_ms: 1,
            };
            store.workspaces().add_tenant(&tenant).await.unwrap();
            let room = store.replays();
            let rows: Vec<_> = (1..=8).map(|number| row(number, "acme")).collect();
            let kept = join_all(rows.iter().map(|row| room.insert(row, 3))).await;
            assert_eq!(
                kept.into_iter()
                    .filter_map(Result::ok)
                    .filter(|it| *it)
                    .count(),
                3
            );
            assert!(room.insert(&row(9, "globex"), 3).await.unwrap());
        })
        .await;
    }

    #[tokio::test]
    async fn a_tenant_sees_its_own_and_steps_follow_each_other() {
        on_each_database(async |store| {
            let room = store.replays();
            let (acme, globex) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            for row in [row(1, "acme"), row(2, "acme"), row(3, "globex")] {
                assert!(room.insert(&row, 9).await.unwrap());
            }
            let ids = |rows: Vec<ReplayRow>| -> Vec<u128> {
                rows.iter().map(|row| row.id.as_u128()).collect()
            };
            assert_eq!(ids(room.list(&acme, None, 9).await.unwrap().rows), [2, 1]);
            let before = Some(Uuid::from_u128(2));
            assert_eq!(ids(room.list(&acme, before, 9).await.unwrap().rows), [1]);
            assert_eq!(ids(room.running().await.unwrap().rows), [1, 2, 3]);
            let id = Uuid::from_u128(1);
            assert_eq!(room.get(&globex, id).await.unwrap(), None);

            let to = |state, at_ms| ReplayStep {
                state: Some(state),
                ..ReplayStep::new(id, at_ms)
            };
            assert_eq!(room.step(&globex, &to("cancelled", 2)).await.unwrap(), None);
            let mut flush = Flush::default();
            flush.replays.push(ReplayStep {
                place: Some("there".into()),
                sent: 3,
                delivered: 2,
                failed: 1,
                ..to("running", 5)
            });
            store.deliveries().flush(&flush).await.unwrap();
            let run = room.get(&acme, id).await.unwrap().unwrap();
            assert_eq!((run.sent, run.delivered, run.failed), (3, 2, 1));
            assert_eq!(
                (run.state.as_str(), run.place.as_str()),
                ("running", "there")
            );
            assert_eq!((run.started_at_ms, run.ended_at_ms), (Some(5), None));

            let mut states = Vec::new();
            for state in ["planned", "cancelled", "running", "done", "planned", "done"] {
                let row = room.step(&acme, &to(state, 7)).await.unwrap().unwrap();
                states.push(row.state);
            }
            assert_eq!(
                states,
                [
                    "running",
                    "cancelled",
                    "cancelled",
                    "cancelled",
                    "planned",
                    "done"
                ]
            );
            assert_eq!(room.forget(7).await.unwrap(), 0);
            assert_eq!(room.forget(8).await.unwrap(), 1);
            assert_eq!(room.get(&acme, id).await.unwrap(), None);
        })
        .await;
    }

    #[tokio::test]
    async fn old_ones_are_forgotten_with_what_they_had_pending_however_many_they_are() {
        on_each_database(async |store| {
            let (rows, room) = (store.replays(), store.deliveries());
            let pending = |id: u128| PendingRow {
                subscription: Uuid::from_u128(id),
                sequence: 1,
                tenant: "acme".parse().unwrap(),
                event_id: Uuid::from_u128(1),
                lane: None,
                attempts: 0,
                state: "waiting".into(),
                next_at_ms: 1,
                detail: "{}".into(),
            };
            for id in 1..=70 {
                let ended = ReplayRow {
                    state: "cancelled".into(),
                    ended_at_ms: (id < 70).then_some(5),
                    ..row(id, "acme")
                };
                assert!(rows.insert(&ended, 99).await.unwrap());
            }
            let flush = Flush {
                pending: [1, 69, 70].map(pending).to_vec(),
                ..Flush::default()
            };
            room.flush(&flush).await.unwrap();
            assert_eq!(rows.forget(5).await.unwrap(), 0);
            assert_eq!(rows.forget(6).await.unwrap(), 69);
            let left = rows.list(&"acme".parse().unwrap(), None, 99).await.unwrap();
            let left: Vec<u128> = left.rows.iter().map(|it| it.id.as_u128()).collect();
            assert_eq!(left, [70]);
            for (id, kept) in [(1, 0), (69, 0), (70, 1)] {
                let of_it = room.pending_of(Uuid::from_u128(id), None, 0, 9).await;
                assert_eq!(of_it.unwrap().rows.len(), kept);
            }
        })
        .await;
    }
}

//! Deliveries that were given up (source C, `dead_letter_event`).

mod summaries;
pub(crate) mod types;

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use sqlx::QueryBuilder;
use tidings_event::{EventType, TenantId};
use uuid::Uuid;

use crate::deliveries::Reopened;
use crate::found::{Found, page};
use crate::pool::{Columns, Connections, forget, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, recorded, whole};
use types::Types;

/// Adds the condition that a column holds one of some values, each made of one in the list.
macro_rules! among {
    ($builder:ident, $condition:expr, $values:expr, $value:expr) => {
        $builder.push($condition);
        let mut listed = $builder.separated(", ");
        for one in $values {
            listed.push_bind($value(*one));
        }
        $builder.push(")");
    };
}

/// Writes whole rows of dead letters; those there already get new attempts, error and state.
macro_rules! put {
    ($transaction:expr, $rows:expr) => {
        let mut builder = QueryBuilder::new(
            "INSERT INTO dead_letter_event (id, tenant, subscription, sequence, event_id, event_type, \
             event, attempts, last_error, created_at_ms, state, crc) ",
        );
        builder.push_values($rows, |mut values, row| {
            values
                .push_bind(row.id.to_string())
                .push_bind(row.tenant.as_str())
                .push_bind(row.subscription.to_string())
                .push_bind($crate::deliveries::number(row.sequence))
                .push_bind(row.event_id.to_string())
                .push_bind(row.event_type.as_str())
                .push_bind(row.event.as_str())
                .push_bind(i64::from(row.attempts))
                .push_bind(row.last_error.as_str())
                .push_bind(row.created_at_ms)
                .push_bind(row.state.as_str())
                .push_bind(row.seal());
        });
        builder.push(
            " ON CONFLICT (id) DO UPDATE SET attempts = excluded.attempts, \
             last_error = excluded.last_error, state = excluded.state, crc = excluded.crc",
        );
        builder.build().execute(&mut *$transaction).await?;
    };
}

/// Writes the dead letters that a flush has made, and what became of earlier ones.
macro_rules! dead_letters {
    ($transaction:expr, $flush:expr) => {
        for rows in $crate::pool::pieces(&$flush.dead) {
            // One delivery has one open letter: the newest. It may be written a second time, when it was not known
            // whether it was the first.
            let of: Vec<_> = rows.iter().map(|row| (row.subscription, row.sequence, row.event_id)).collect();
            let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
            let mut builder = QueryBuilder::new(
                "UPDATE dead_letter_event SET state = 'closed' WHERE state <> 'closed'",
            );
            let text = |id: Uuid| id.to_string();
            $crate::dead_letters::among!(builder, " AND id NOT IN (", &ids, text);
            builder.push(" AND (");
            let mut of_one = builder.separated(" OR ");
            for (subscription, sequence, event) in of {
                of_one.push("(subscription = ");
                of_one.push_bind_unseparated(subscription.to_string());
                of_one.push_unseparated(" AND sequence = ");
                of_one.push_bind_unseparated($crate::deliveries::number(sequence));
                // What runs before the acknowledgement is numbered by its offset, which is one of each topic.
                of_one.push_unseparated(" AND event_id = ");
                of_one.push_bind_unseparated(event.to_string());
                of_one.push_unseparated(")");
            }
            builder.push(")");
            builder.build().execute(&mut *$transaction).await?;
            $crate::dead_letters::put!($transaction, rows);
        }
        for (state, ids) in $crate::dead_letters::by_state(&$flush.dead_states) {
            for ids in $crate::pool::pieces(&ids) {
                let text = |id: Uuid| id.to_string();
                let mut builder = QueryBuilder::new("UPDATE dead_letter_event SET state = ");
                builder.push_bind(state);
                $crate::dead_letters::among!(builder, " WHERE id IN (", ids, text);
                builder.build().execute(&mut *$transaction).await?;
                if state == "closed" {
                    // An emit that counts as given up has got through after all, perhaps: it is looked at again.
                    let mut builder = QueryBuilder::new(
                        "UPDATE custom_event_emits SET next_at_ms = 0 WHERE state = 'undelivered' \
                         AND event_id IN (SELECT event_id FROM dead_letter_event",
                    );
                    $crate::dead_letters::among!(builder, " WHERE id IN (", ids, text);
                    builder.push(")");
                    builder.build().execute(&mut *$transaction).await?;
                }
            }
        }
        for rows in $crate::pool::pieces(&$flush.reopened) {
            let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
            let text = |id: Uuid| id.to_string();
            let mut builder = QueryBuilder::new("SELECT * FROM dead_letter_event");
            $crate::dead_letters::among!(builder, " WHERE id IN (", &ids, text);
            let found = builder.build().fetch_all(&mut *$transaction).await?;
            // A damaged one is reported to whoever reads it; it stays as it is.
            let found = found.iter().filter_map(|row| $crate::DeadLetterRow::from_row(row).ok());
            let changed: Vec<_> = found
                .filter_map(|row| rows.iter().find(|it| it.id == row.id).map(|it| it.applied(row)))
                .collect();
            if !changed.is_empty() {
                $crate::dead_letters::put!($transaction, &changed);
            }
        }
    };
}

pub(crate) use {among, dead_letters, put};

pub use summaries::DeadLetterSummary;
pub use types::wrong_types;

/// The letters by the state that they get, the last word on each.
pub(crate) fn by_state(states: &[(Uuid, &'static str)]) -> BTreeMap<&'static str, Vec<Uuid>> {
    let last: BTreeMap<Uuid, &'static str> = states.iter().copied().collect();
    let mut found: BTreeMap<&'static str, Vec<Uuid>> = BTreeMap::new();
    for (id, state) in last {
        found.entry(state).or_default().push(id);
    }
    found
}

impl Reopened {
    pub(crate) fn applied(&self, row: DeadLetterRow) -> DeadLetterRow {
        DeadLetterRow {
            attempts: self.attempts,
            last_error: self.last_error.clone(),
            state: "open".into(),
            ..row
        }
    }
}

/// A dead letter as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// What it is called by in URLs.
    pub id: Uuid,
    /// Whose event it is.
    pub tenant: TenantId,
    /// Who did not get it.
    pub subscription: Uuid,
    /// Its number there.
    pub sequence: u64,
    /// Which event.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: EventType,
    /// The event whole, as CloudEvents JSON.
    pub event: String,
    /// How often it was tried.
    pub attempts: u32,
    /// What the last try came to.
    pub last_error: String,
    /// When it was given up, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// `open`, `replaying` or `closed`.
    pub state: String,
}

/// Which dead letters are wanted.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    /// Of these subscriptions; empty for all.
    pub subscriptions: Vec<Uuid>,
    /// Of this type, or of those that a pattern stands for; see [`wrong_types`].
    pub event_type: Option<String>,
    /// Given up at or after, in ms since 1970.
    pub since_ms: Option<i64>,
    /// Given up before, in ms since 1970.
    pub until_ms: Option<i64>,
    /// The last error contains this text, in whatever case.
    pub error: Option<String>,
    /// In this state.
    pub state: Option<&'static str>,
    /// After this id.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
}

/// The methods on dead letters.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetters<'a> {
    connections: &'a Connections,
}

/// Adds the conditions of a query behind `WHERE tenant = …`.
macro_rules! conditions {
    ($builder:ident, $query:expr) => {
        if !$query.subscriptions.is_empty() {
            $builder.push(" AND subscription IN (");
            let mut listed = $builder.separated(", ");
            for id in &$query.subscriptions {
                listed.push_bind(id.to_string());
            }
            $builder.push(")");
        }
        match $query.event_type.as_deref().map(Types::of) {
            None => {}
            Some(Types::One(event_type)) => {
                $builder.push(" AND event_type = ").push_bind(event_type);
            }
            Some(Types::Like { like, dots }) => {
                $builder.push(" AND event_type LIKE ").push_bind(like);
                $builder.push(" ESCAPE '\\'");
                if let Some(dots) = dots {
                    $builder
                        .push(" AND event_type NOT LIKE 'TENANT_CUSTOM:%'")
                        .push(" AND length(event_type) - length(replace(event_type, '.', '')) = ")
                        .push_bind(dots);
                }
            }
        }
        if let Some(since) = $query.since_ms {
            $builder.push(" AND created_at_ms >= ").push_bind(since);
        }
        if let Some(until) = $query.until_ms {
            $builder.push(" AND created_at_ms < ").push_bind(until);
        }
        if let Some(error) = &$query.error {
            let text = $crate::pool::storable(error)
                .replace('\\', "\\\\")
                .replace('%', "\\%")
                .replace('_', "\\_");
            $builder
                .push(" AND lower(last_error) LIKE lower(")
                .push_bind(format!("%{text}%"));
            $builder.push(") ESCAPE '\\'");
        }
        if let Some(state) = $query.state {
            $builder.push(" AND state = ").push_bind(state);
        }
    };
}

use conditions;

impl<'a> DeadLetters<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// The tenant's dead letters that a query asks for, oldest first.
    pub async fn list(
        &self,
        tenant: &TenantId,
        query: &DeadLetterQuery,
    ) -> Result<Found<DeadLetterRow>, StoreError> {
        self.found(tenant, query).await
    }

    /// What is wanted of them. The rows are read whole, for their checksums cover the events too, and let go one by one.
    async fn found<T: From<DeadLetterRow>>(
        &self,
        tenant: &TenantId,
        query: &DeadLetterQuery,
    ) -> Result<Found<T>, StoreError> {
        let after = query.after.map(|id| id.to_string());
        page(after, query.limit, async |after: Option<String>, limit| {
            on_either!(self.connections, "list dead letters", connection => {
                let mut builder = QueryBuilder::new("SELECT * FROM dead_letter_event WHERE tenant = ");
                builder.push_bind(tenant.as_str());
                conditions!(builder, query);
                if let Some(after) = after.as_deref() {
                    builder.push(" AND id > ").push_bind(after);
                }
                builder.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
                let mut rows = builder.build().fetch(connection);
                let mut found = Vec::new();
                while let Some(row) = rows.try_next().await? {
                    found.push((Some(row.text("id")?), DeadLetterRow::from_row(&row).map(T::from)));
                }
                Ok(found)
            })
        })
        .await
    }

    /// The tenant's dead letter of this id.
    pub async fn get(
        &self,
        tenant: &TenantId,
        id: Uuid,
    ) -> Result<Option<DeadLetterRow>, StoreError> {
        on_either!(self.connections, "read a dead letter", connection => {
            sqlx::query("SELECT * FROM dead_letter_event WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(DeadLetterRow::from_row))
        })?
        .transpose()
    }

    /// Forgets closed ones that were given up before a time, with their events. Open ones stay: only their tenant removes
    /// them.
    pub async fn forget(&self, before_ms: i64) -> Result<u64, StoreError> {
        let query = "DELETE FROM dead_letter_event WHERE id IN (SELECT id FROM dead_letter_event \
             WHERE state = 'closed' AND created_at_ms < $1 LIMIT $2)";
        forget(
            self.connections,
            "forget closed dead letters",
            query,
            before_ms,
        )
        .await
    }

    /// Removes the tenant's dead letter. False when there is none.
    pub async fn delete(&self, tenant: &TenantId, id: Uuid) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "remove a dead letter", connection => {
            sqlx::query("DELETE FROM dead_letter_event WHERE tenant = $1 AND id = $2")
                .bind(tenant.as_str())
                .bind(id.to_string())
                .execute(connection)
                .await
                .map(|done| done.rows_affected() == 1)
        })
    }
}

impl Sealed for DeadLetterRow {
    const TABLE: &'static str = "dead_letter_event";
    const ALL: &'static str = "SELECT * FROM dead_letter_event";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.id.as_bytes());
        let seal = seal.text(self.tenant.as_str());
        let seal = seal.bytes(self.subscription.as_bytes());
        let seal = seal.bytes(&self.sequence.to_le_bytes());
        let seal = seal.bytes(self.event_id.as_bytes());
        let seal = seal.text(self.event_type.as_str()).text(&self.event);
        let seal = seal.number(i64::from(self.attempts)).text(&self.last_error);
        // The state changes in place and is one of three words.
        seal.number(self.created_at_ms).finish()
    }

    fn name(&self) -> String {
        self.id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a dead letter");
        let id = row.text("id").map_err(unread())?;
        Ok(Self {
            id: parsed(row, &id, "id")?,
            tenant: parsed(row, &id, "tenant")?,
            subscription: parsed(row, &id, "subscription")?,
            sequence: whole(row, &id, "sequence")?,
            event_id: parsed(row, &id, "event_id")?,
            event_type: recorded(row, &id)?,
            event: row.text("event").map_err(unread())?,
            attempts: whole(row, &id, "attempts")?,
            last_error: row.text("last_error").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            state: row.text("state").map_err(unread())?,
        })
    }
}

//! Emits of custom events (source D): what was accepted, how many of it in a month, and what became of each.
//!
//! A row is written before its event is appended, in one transaction with the count of its tenant's month; so the limit of a
//! plan holds exactly, and what the bus would not take is appended later.

mod rows;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use sqlx::{Connection, QueryBuilder};
use tidings_event::{EventType, TenantId};
use uuid::Uuid;

use crate::StoreError;
use crate::causes::CauseRow;
use crate::deliveries::number;
use crate::pool::{Columns, Connections, forget, on_either, pieces, storable, writing_on_either};
use crate::seal::Sealed;
pub(crate) use rows::UsageRow;

/// What has become of an emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmitState {
    /// Accepted, and not known to be on the bus.
    Queued,
    /// Accepted, and the bus would not take it; it is tried again.
    Failed,
    /// On the bus.
    Relayed,
    /// Every delivery that it matched has succeeded.
    Delivered,
    /// A delivery that it matched was given up.
    Undelivered,
}

/// Where the event of an emit stands in the topic of custom events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmitPlace {
    /// The partition's number.
    pub partition: u32,
    /// The offset there.
    pub offset: u64,
}

/// An emit as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmitRow {
    /// Its event, a UUID of version 7 of the time when it was accepted.
    pub event_id: Uuid,
    /// Whose.
    pub tenant: TenantId,
    /// Given or made; unique in the tenant.
    pub idempotency_key: String,
    /// Of name, version and payload: what a repeat of the key must have too.
    pub fingerprint: u128,
    /// The canonical name.
    pub event_type: EventType,
    /// Namespace and name.
    pub name: String,
    /// The `source` of its event.
    pub source: String,
    /// The event that caused it.
    pub cause: Option<Uuid>,
    /// How many causes are behind it.
    pub depth: u32,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// When it was accepted, in milliseconds since 1970.
    pub created_at_ms: i64,
    /// JSON; `None` when the event is on the bus.
    pub payload: Option<String>,
    /// What has become of it.
    pub state: EmitState,
    /// Why it failed.
    pub error: Option<String>,
    /// Where its event stands.
    pub place: Option<EmitPlace>,
    /// When it is to be looked at again, in milliseconds since 1970.
    pub next_at_ms: Option<i64>,
}

/// What has become of an emit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmitNote {
    /// Its event.
    pub event_id: Uuid,
    /// What has become of it. Its payload goes when it is on the bus.
    pub state: EmitState,
    /// Why it failed.
    pub error: Option<String>,
    /// Where its event stands.
    pub place: Option<EmitPlace>,
    /// When it is to be looked at again, in milliseconds since 1970.
    pub next_at_ms: Option<i64>,
}

/// An emit that wants to be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// As it would be kept.
    pub row: EmitRow,
    /// The month it counts in, `2026-11`.
    pub month: String,
    /// How many of that month the tenant's plan allows.
    pub limit: Option<u64>,
}

/// What became of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// It is kept and counted.
    New,
    /// The tenant has used its key before, for this one.
    Known(Box<EmitRow>),
    /// The month's limit is reached. Nothing is kept.
    OverLimit,
}

/// Which emits to list.
#[derive(Debug, Clone, Default)]
pub struct EmitQuery {
    /// In one of these states; empty: any.
    pub states: Vec<EmitState>,
    /// Of this namespace and name.
    pub name: Option<String>,
    /// Behind this one.
    pub after: Option<Uuid>,
    /// The newest first; else the oldest.
    pub newest_first: bool,
    /// At most so many.
    pub limit: u32,
}

/// The methods on emits.
#[derive(Debug, Clone, Copy)]
pub struct Emits<'a> {
    connections: &'a Connections,
}

/// The rows that have one of these keys.
macro_rules! known {
    ($transaction:expr, $admissions:expr) => {{
        let mut known: HashMap<(TenantId, String), EmitRow> = HashMap::new();
        // A key that was made here is nobody else's.
        let given = |it: &&Admission| it.row.idempotency_key != it.row.event_id.to_string();
        let given: Vec<&Admission> = $admissions.iter().filter(given).collect();
        for admissions in pieces(&given) {
            let mut builder = QueryBuilder::new(
                "SELECT * FROM custom_event_emits WHERE (tenant, idempotency_key) IN (",
            );
            // SQLite wants the word before a list of pairs, and PostgreSQL takes it.
            builder.push("VALUES ");
            let mut first = true;
            for it in admissions {
                builder.push(if first { "(" } else { ", (" });
                first = false;
                builder.push_bind(it.row.tenant.as_str()).push(", ");
                builder.push_bind(it.row.idempotency_key.as_str()).push(")");
            }
            builder.push(")");
            for row in builder.build().fetch_all(&mut *$transaction).await? {
                match EmitRow::from_row(&row) {
                    Ok(row) => {
                        known.insert((row.tenant.clone(), row.idempotency_key.clone()), row);
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        known
    }};
}

/// What a month's row says, and whether it was counted anew: of one that is damaged nobody could emit any more, and the emits
/// themselves are there.
macro_rules! counted {
    ($connection:expr, $row:expr) => {
        match UsageRow::from_row($row) {
            Ok(row) => Ok((row, false)),
            Err(error) => match rows::of_damaged($row) {
                None => Err(error),
                Some((tenant, month, (first, last))) => {
                    let query = "SELECT count(*) FROM custom_event_emits \
                         WHERE tenant = $1 AND event_id >= $2 AND event_id < $3";
                    let emits: i64 = sqlx::query_scalar(query)
                        .bind(tenant.as_str())
                        .bind(first.to_string())
                        .bind(last.to_string())
                        .fetch_one(&mut *$connection)
                        .await?;
                    tracing::error!(%error, %tenant, month, emits, "a month's emits are counted anew");
                    let emits = emits.unsigned_abs();
                    Ok((UsageRow { tenant, month, emits }, true))
                }
            },
        }
    };
}

/// What was counted, each row locked until the transaction ends.
macro_rules! usages {
    ($transaction:expr, $admissions:expr) => {{
        let mut usages: BTreeMap<(&TenantId, &str), (u64, bool)> = BTreeMap::new();
        for it in $admissions {
            usages.insert((&it.row.tenant, it.month.as_str()), (0, false));
        }
        // In the order of their keys, so that no two transactions wait for each other.
        let keys: Vec<(&TenantId, &str)> = usages.keys().copied().collect();
        for keys in pieces(&keys) {
            let mut builder =
                QueryBuilder::new("INSERT INTO custom_event_usage (tenant, month, emits, crc) ");
            builder.push_values(keys, |mut values, (tenant, month)| {
                let new = UsageRow {
                    tenant: (*tenant).clone(),
                    month: (*month).to_owned(),
                    emits: 0,
                };
                values
                    .push_bind(tenant.as_str())
                    .push_bind(*month)
                    .push_bind(0_i64)
                    .push_bind(new.seal());
            });
            builder.push(
                " ON CONFLICT (tenant, month) DO UPDATE SET emits = custom_event_usage.emits \
                 RETURNING *",
            );
            for row in builder.build().fetch_all(&mut *$transaction).await? {
                let (row, anew) = match counted!($transaction, &row) {
                    Ok(counted) => counted,
                    Err(error) => return Ok(Err(error)),
                };
                let of_row = usages
                    .iter_mut()
                    .find(|((tenant, month), _)| **tenant == row.tenant && *month == row.month);
                if let Some((_, usage)) = of_row {
                    *usage = (row.emits, anew);
                }
            }
        }
        usages
    }};
}

macro_rules! insert {
    ($transaction:expr, $rows:expr) => {
        for rows in pieces(&$rows) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO custom_event_emits (event_id, tenant, idempotency_key, fingerprint, \
                 event_type, name, source, cause, depth, traceparent, created_at_ms, payload, state, \
                 error, partition, position, next_at_ms, crc) ",
            );
            builder.push_values(rows, |mut values, row: &&EmitRow| {
                values
                    .push_bind(row.event_id.to_string())
                    .push_bind(row.tenant.as_str())
                    .push_bind(row.idempotency_key.as_str())
                    .push_bind(format!("{:032x}", row.fingerprint))
                    .push_bind(row.event_type.as_str())
                    .push_bind(row.name.as_str())
                    .push_bind(row.source.as_str())
                    .push_bind(row.cause.map(|cause| cause.to_string()))
                    .push_bind(i64::from(row.depth))
                    .push_bind(row.traceparent.as_deref())
                    .push_bind(row.created_at_ms)
                    .push_bind(row.payload.as_deref())
                    .push_bind(row.state.as_str())
                    .push_bind(row.error.as_deref())
                    .push_bind(row.place.map(|place| i64::from(place.partition)))
                    .push_bind(row.place.map(|place| number(place.offset)))
                    .push_bind(row.next_at_ms)
                    .push_bind(row.seal());
            });
            builder.build().execute(&mut *$transaction).await?;
        }
    };
}

/// Writes that events were caused.
macro_rules! causes {
    ($transaction:expr, $rows:expr) => {
        let caused = |row: &&&EmitRow| row.cause.is_some();
        let caused: Vec<&EmitRow> = $rows.iter().filter(caused).copied().collect();
        for rows in pieces(&caused) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO event_causes (cause, event_id, tenant, created_at_ms, crc) ",
            );
            builder.push_values(rows, |mut values, row: &&EmitRow| {
                let cause = CauseRow {
                    cause: row.cause.unwrap_or_default(),
                    event_id: row.event_id,
                    tenant: row.tenant.clone(),
                    created_at_ms: row.created_at_ms,
                };
                values
                    .push_bind(cause.cause.to_string())
                    .push_bind(cause.event_id.to_string())
                    .push_bind(row.tenant.as_str())
                    .push_bind(cause.created_at_ms)
                    .push_bind(cause.seal());
            });
            builder.push(" ON CONFLICT (cause, event_id) DO NOTHING");
            builder.build().execute(&mut *$transaction).await?;
        }
    };
}

/// Writes what has become of rows, unless more is known of them by now.
macro_rules! note {
    ($transaction:expr, $notes:expr) => {
        for notes in pieces(&in_order($notes)) {
            let mut builder = QueryBuilder::new(
                "WITH noted (event_id, state, error, partition, position, next_at_ms) AS (",
            );
            builder.push_values(notes, |mut values, note: &&EmitNote| {
                values
                    .push_bind(note.event_id.to_string())
                    .push_bind(note.state.as_str())
                    .push_bind(note.error.as_deref())
                    .push_bind(note.place.map(|place| i64::from(place.partition)))
                    .push_bind(note.place.map(|place| number(place.offset)))
                    .push_bind(note.next_at_ms);
            });
            builder.push(
                ") UPDATE custom_event_emits SET state = noted.state, error = noted.error, \
                 payload = CASE WHEN noted.state IN ('queued', 'failed') \
                 THEN custom_event_emits.payload END, \
                 partition = noted.partition, position = noted.position, \
                 next_at_ms = noted.next_at_ms FROM noted \
                 WHERE custom_event_emits.event_id = noted.event_id \
                 AND (custom_event_emits.state IN ('queued', 'failed') \
                 OR (custom_event_emits.state = 'relayed' AND noted.state NOT IN ('queued', 'failed')) \
                 OR (custom_event_emits.state = 'undelivered' \
                 AND noted.state IN ('delivered', 'undelivered')))",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
    };
}

/// Each emit once, the last that was noted of it, in the order of their rows: so no two transactions wait for each other.
fn in_order(notes: &[EmitNote]) -> Vec<&EmitNote> {
    let last: BTreeMap<Uuid, &EmitNote> = notes.iter().map(|note| (note.event_id, note)).collect();
    last.into_values().collect()
}

/// Decides who is new, who is known and for whom there is no room, in their order.
fn decide<'a>(
    admissions: &'a [Admission],
    known: &HashMap<(TenantId, String), EmitRow>,
    usages: &mut BTreeMap<(&'a TenantId, &'a str), (u64, bool)>,
) -> (Vec<Admitted>, Vec<&'a EmitRow>) {
    let mut new: Vec<&EmitRow> = Vec::new();
    let mut earlier: HashMap<(&TenantId, &str), usize> = HashMap::new();
    let mut admitted = Vec::with_capacity(admissions.len());
    for it in admissions {
        let key = (&it.row.tenant, it.row.idempotency_key.as_str());
        let before = known.get(&(key.0.clone(), key.1.to_owned()));
        let before = before.or_else(|| earlier.get(&key).map(|index| new[*index]));
        if let Some(row) = before {
            admitted.push(Admitted::Known(Box::new(row.clone())));
            continue;
        }
        let usage = usages.entry((&it.row.tenant, it.month.as_str()));
        let (emits, changed) = usage.or_default();
        if it.limit.is_some_and(|limit| *emits >= limit) {
            admitted.push(Admitted::OverLimit);
            continue;
        }
        (*emits, *changed) = (*emits + 1, true);
        earlier.insert(key, new.len());
        new.push(&it.row);
        admitted.push(Admitted::New);
    }
    (admitted, new)
}

impl<'a> Emits<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Accepts emits, up to the limits of their months, and notes what has become of earlier ones; all of it or
    /// nothing. One answer for each admission, in order. Replicas may do this at once. A damaged row fails whatever is
    /// decided on it; that of a month's count is counted anew and mended.
    pub async fn admit(
        &self,
        admissions: &[Admission],
        noted: &[EmitNote],
    ) -> Result<Vec<Admitted>, StoreError> {
        writing_on_either!(self.connections, "accept emits", connection => {
            let mut transaction = connection.begin().await?;
            // First of all the counters: of two replicas the second waits here, and then sees the first one's rows.
            let mut usages = usages!(transaction, admissions);
            let known = known!(transaction, admissions);
            let (admitted, new) = decide(admissions, &known, &mut usages);
            insert!(transaction, new);
            causes!(transaction, new);
            note!(transaction, noted);
            for ((tenant, month), (emits, _)) in usages.into_iter().filter(|(_, (_, changed))| *changed) {
                let row = UsageRow { tenant: tenant.clone(), month: month.to_owned(), emits };
                sqlx::query("UPDATE custom_event_usage SET emits = $3, crc = $4 WHERE tenant = $1 AND month = $2")
                    .bind(tenant.as_str())
                    .bind(month)
                    .bind(number(emits))
                    .bind(row.seal())
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await.map(|()| Ok(admitted))
        })?
    }

    /// The tenant's emit of this key.
    pub async fn of_key(
        &self,
        tenant: &TenantId,
        key: &str,
    ) -> Result<Option<EmitRow>, StoreError> {
        let query = "SELECT * FROM custom_event_emits WHERE tenant = $1 AND idempotency_key = $2";
        on_either!(self.connections, "read an emit", connection => {
            sqlx::query(query)
                .bind(tenant.as_str())
                .bind(key)
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(EmitRow::from_row))
        })?
        .transpose()
    }

    /// The tenant's emits that a query asks for.
    pub async fn list(
        &self,
        tenant: &TenantId,
        query: &EmitQuery,
    ) -> Result<Vec<EmitRow>, StoreError> {
        on_either!(self.connections, "list emits", connection => {
            let mut builder = QueryBuilder::new("SELECT * FROM custom_event_emits WHERE tenant = ");
            builder.push_bind(tenant.as_str());
            if !query.states.is_empty() {
                // Words of our own, and as they stand in an index.
                let states: Vec<_> = query.states.iter().map(|it| format!("'{}'", it.as_str())).collect();
                builder.push(format!(" AND state IN ({})", states.join(", ")));
            }
            if let Some(name) = &query.name {
                builder.push(" AND name = ").push_bind(storable(name));
            }
            let (behind, order) = if query.newest_first { (" < ", " DESC") } else { (" > ", "") };
            if let Some(after) = query.after {
                builder.push(" AND event_id").push(behind).push_bind(after.to_string());
            }
            builder.push(" ORDER BY event_id").push(order);
            builder.push(" LIMIT ").push_bind(i64::from(query.limit));
            builder
                .build()
                .fetch_all(connection)
                .await
                .map(|rows| rows.iter().map(EmitRow::from_row).collect())
        })?
    }

    /// The tenant's emit with this event.
    pub async fn of_event(
        &self,
        tenant: &TenantId,
        event_id: Uuid,
    ) -> Result<Option<EmitRow>, StoreError> {
        let query = "SELECT * FROM custom_event_emits WHERE event_id = $1 AND tenant = $2";
        on_either!(self.connections, "read an emit", connection => {
            sqlx::query(query)
                .bind(event_id.to_string())
                .bind(tenant.as_str())
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(EmitRow::from_row))
        })?
        .transpose()
    }

    /// Emits of any tenant that are to be looked at by now, so many of each of the states at most, the longest due first;
    /// of one that is damaged, what is wrong with it. A page of damaged ones keeps nobody waiting who
    /// [puts them off](Self::put_off).
    pub async fn due(
        &self,
        states: &[EmitState],
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<(String, Result<EmitRow, StoreError>)>, StoreError> {
        on_either!(self.connections, "read what emits are due", connection => {
            let query = "SELECT * FROM custom_event_emits WHERE state = $1 AND next_at_ms <= $2 \
                 ORDER BY next_at_ms LIMIT $3";
            let mut due = Vec::new();
            for state in states {
                let rows = sqlx::query(query)
                    .bind(state.as_str())
                    .bind(now_ms)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *connection)
                    .await?;
                for row in &rows {
                    due.push((row.text("event_id")?, EmitRow::from_row(row)));
                }
            }
            Ok(due)
        })
    }

    /// Looks at an emit again at a time, whatever its row says.
    pub async fn put_off(&self, event_id: &str, next_at_ms: i64) -> Result<(), StoreError> {
        let query = "UPDATE custom_event_emits SET next_at_ms = $2 WHERE event_id = $1";
        writing_on_either!(self.connections, "put an emit off", connection => {
            sqlx::query(query)
                .bind(event_id)
                .bind(next_at_ms)
                .execute(connection)
                .await
                .map(drop)
        })
    }

    /// How many emits of a tenant were accepted in a month, `2026-11`.
    pub async fn usage(&self, tenant: &TenantId, month: &str) -> Result<u64, StoreError> {
        on_either!(self.connections, "read how many emits there were", connection => {
            let query = "SELECT * FROM custom_event_usage WHERE tenant = $1 AND month = $2";
            let found = sqlx::query(query).bind(tenant.as_str()).bind(month);
            match found.fetch_optional(&mut *connection).await? {
                None => Ok(Ok(0)),
                Some(row) => Ok(counted!(connection, &row).map(|(row, _)| row.emits)),
            }
        })?
    }

    /// Removes emits that were accepted before a time and are on the bus, or never will be; answers how many. With them go
    /// the counters of the months before `month`, `2026-11`.
    pub async fn forget(&self, before_ms: i64, month: &str) -> Result<u64, StoreError> {
        let first = rows::first_at(before_ms);
        let query = "DELETE FROM custom_event_usage WHERE (tenant, month) IN (\
             SELECT tenant, month FROM custom_event_usage WHERE month < $1 LIMIT $2)";
        forget(self.connections, "remove old counts of emits", query, month).await?;
        let query = "DELETE FROM custom_event_emits WHERE event_id IN (\
             SELECT event_id FROM custom_event_emits WHERE event_id < $1 \
             AND (next_at_ms IS NULL OR state = 'relayed') LIMIT $2)";
        let first = first.to_string();
        forget(self.connections, "remove old emits", query, &*first).await
    }
}

//! What a dispatcher writes down at once, whole or in pieces.

use std::collections::BTreeMap;

use sqlx::{Connection, QueryBuilder};
use uuid::Uuid;

use super::{AttemptRow, CursorRow, Deliveries, PendingRow, ProgressRow, Share, number, slot};
use crate::StoreError;
use crate::dead_letters::{DeadLetterRow, among, dead_letters};
use crate::pool::{Connections, pieces, writing_on_either};
use crate::replays::ReplayStep;
use crate::seal::Sealed as _;

/// A dead letter that was sent again in vain: it is open again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reopened {
    /// Which.
    pub id: Uuid,
    /// How often its event was tried in all.
    pub attempts: u32,
    /// What the last try came to.
    pub last_error: String,
}

/// What has happened since the last one. Written whole or not at all.
#[derive(Debug, Clone, Default)]
pub struct Flush {
    /// Attempts that ended.
    pub attempts: Vec<AttemptRow>,
    /// Deliveries that have to be tried (again).
    pub pending: Vec<PendingRow>,
    /// Pending deliveries that are none any more.
    pub settled: Vec<(Uuid, u64)>,
    /// Deliveries that were given up.
    pub dead: Vec<DeadLetterRow>,
    /// Dead letters that get another state: `open`, `replaying` or `closed`.
    pub dead_states: Vec<(Uuid, &'static str)>,
    /// Dead letters that were sent again in vain.
    pub reopened: Vec<Reopened>,
    /// Subscriptions that came further.
    pub progress: Vec<ProgressRow>,
    /// Partitions that came further.
    pub cursors: Vec<CursorRow>,
    /// Subscriptions that are deleted: nothing of them is pending, and they have no place.
    pub forgotten: Vec<Uuid>,
    /// Replays that came further.
    pub replays: Vec<ReplayStep>,
}

impl Flush {
    /// What is to be written of a replay.
    pub fn replay(&mut self, id: Uuid, at_ms: i64) -> &mut ReplayStep {
        let known = self.replays.iter().position(|step| step.id == id);
        let index = known.unwrap_or_else(|| {
            self.replays.push(ReplayStep::new(id, at_ms));
            self.replays.len() - 1
        });
        &mut self.replays[index]
    }

    /// The numbers of a subscription's deliveries that are settled with it.
    pub fn settled_of(&self, subscription: Uuid) -> impl Iterator<Item = u64> {
        let of_it = self
            .settled
            .iter()
            .filter(move |(id, _)| *id == subscription);
        of_it.map(|(_, sequence)| *sequence)
    }

    /// The same in parts, in the order in which they may be written.
    fn pieces(&self, rows: usize) -> Vec<Self> {
        let none = Self::default;
        let pending = self.pending.chunks(rows).map(|rows| Self {
            pending: rows.to_vec(),
            ..none()
        });
        let dead = self.dead.chunks(rows).map(|rows| Self {
            dead: rows.to_vec(),
            ..none()
        });
        let reopened = self.reopened.chunks(rows).map(|rows| Self {
            reopened: rows.to_vec(),
            ..none()
        });
        let states = self.dead_states.chunks(rows).map(|rows| Self {
            dead_states: rows.to_vec(),
            ..none()
        });
        let attempts = self.attempts.chunks(rows).map(|rows| Self {
            attempts: rows.to_vec(),
            ..none()
        });
        let settled = self.settled.chunks(rows).map(|rows| Self {
            settled: rows.to_vec(),
            ..none()
        });
        // A place of one's own and the cursor that has passed it go together.
        let places = Self {
            progress: self.progress.clone(),
            cursors: self.cursors.clone(),
            forgotten: self.forgotten.clone(),
            replays: self.replays.clone(),
            ..none()
        };
        let rows = pending.chain(dead).chain(reopened).chain(states);
        let rows = rows.chain(attempts).chain(settled).chain([places]);
        rows.filter(|piece| !piece.is_empty()).collect()
    }

    /// One that holds rows of one kind, in two; nothing if it is a single row, or may not be parted.
    fn halves(&self) -> Option<(Self, Self)> {
        let most = [
            self.pending.len(),
            self.dead.len(),
            self.reopened.len(),
            self.dead_states.len(),
            self.attempts.len(),
            self.settled.len(),
        ];
        let most = most.into_iter().max().filter(|most| *most > 1)?;
        let mut halves = self.pieces(most.div_ceil(2)).into_iter();
        halves.next().zip(halves.next())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.pending.is_empty()
            && self.settled.is_empty()
            && self.dead.is_empty()
            && self.dead_states.is_empty()
            && self.reopened.is_empty()
            && self.progress.is_empty()
            && self.cursors.is_empty()
            && self.forgotten.is_empty()
            && self.replays.is_empty()
    }
}

/// The numbers by subscription, each once.
fn by_subscription(settled: &[(Uuid, u64)]) -> BTreeMap<Uuid, Vec<u64>> {
    let mut found: BTreeMap<Uuid, Vec<u64>> = BTreeMap::new();
    for (subscription, sequence) in settled {
        found.entry(*subscription).or_default().push(*sequence);
    }
    found
}

/// Writes a flush with the connection of either database.
macro_rules! write_flush {
    ($transaction:expr, $flush:expr) => {
        for rows in pieces(&$flush.attempts) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO delivery_attempts (subscription, sequence, number, tenant, event_id, \
                 started_at_ms, outcome, detail, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(i64::from(row.number))
                    .push_bind(row.tenant.as_str())
                    .push_bind(row.event_id.to_string())
                    .push_bind(row.started_at_ms)
                    .push_bind(row.outcome.as_str())
                    .push_bind(row.detail.as_str())
                    .push_bind(row.seal());
            });
            // After a crash an attempt may be made again under the same number; and what runs before the acknowledgement
            // is numbered by its offset, which is one of each topic. The row is the last one's, whole.
            builder.push(
                " ON CONFLICT (subscription, sequence, number) DO UPDATE SET \
                 tenant = excluded.tenant, event_id = excluded.event_id, started_at_ms = excluded.started_at_ms, outcome = excluded.outcome, \
                 detail = excluded.detail, crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for rows in pieces(&$flush.pending) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO pending_deliveries (subscription, sequence, tenant, slot, event_id, lane, \
                 attempts, state, next_at_ms, detail, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(number(row.sequence))
                    .push_bind(row.tenant.as_str())
                    .push_bind(slot(&row.tenant))
                    .push_bind(row.event_id.to_string())
                    .push_bind(row.lane.as_deref())
                    .push_bind(i64::from(row.attempts))
                    .push_bind(row.state.as_str())
                    .push_bind(row.next_at_ms)
                    .push_bind(row.detail.as_str())
                    .push_bind(row.seal());
            });
            builder.push(
                " ON CONFLICT (subscription, sequence) DO UPDATE SET tenant = excluded.tenant, \
                 slot = excluded.slot, event_id = excluded.event_id, lane = excluded.lane, \
                 attempts = excluded.attempts, state = excluded.state, \
                 next_at_ms = excluded.next_at_ms, detail = excluded.detail, crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for (subscription, sequences) in by_subscription(&$flush.settled) {
            for sequences in pieces(&sequences) {
                let mut builder =
                    QueryBuilder::new("DELETE FROM pending_deliveries WHERE subscription = ");
                builder.push_bind(subscription.to_string());
                among!(builder, " AND sequence IN (", sequences, number);
                builder.build().execute(&mut *$transaction).await?;
            }
        }
        dead_letters!($transaction, $flush);
        for rows in pieces(&$flush.progress) {
            let mut builder = QueryBuilder::new(
                "INSERT INTO delivery_progress (subscription, tenant, slot, sequence, places, crc) ",
            );
            builder.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.subscription.to_string())
                    .push_bind(row.tenant.as_str())
                    .push_bind(slot(&row.tenant))
                    .push_bind(number(row.sequence))
                    .push_bind(row.places.as_str())
                    .push_bind(row.seal());
            });
            builder.push(
                " ON CONFLICT (subscription) DO UPDATE SET tenant = excluded.tenant, \
                 slot = excluded.slot, sequence = excluded.sequence, places = excluded.places, \
                 crc = excluded.crc",
            );
            builder.build().execute(&mut *$transaction).await?;
        }
        for row in &$flush.cursors {
            let query = "INSERT INTO delivery_cursors (share, topic, partition, next_offset, crc) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (share, topic, partition) \
                 DO UPDATE SET next_offset = excluded.next_offset, crc = excluded.crc";
            sqlx::query(query)
                .bind(row.share.as_str())
                .bind(row.topic.as_str())
                .bind(i64::from(row.partition))
                .bind(number(row.next_offset))
                .bind(row.seal())
                .execute(&mut *$transaction)
                .await?;
        }
        for subscription in &$flush.forgotten {
            for query in [
                "DELETE FROM pending_deliveries WHERE subscription = $1",
                "DELETE FROM delivery_progress WHERE subscription = $1",
            ] {
                sqlx::query(query)
                    .bind(subscription.to_string())
                    .execute(&mut *$transaction)
                    .await?;
            }
        }
        for step in &$flush.replays {
            // A damaged one is reported to whoever reads it; deliveries go on.
            let _ = crate::replays::step!($transaction, step);
        }
    };
}

/// That somebody has taken up a share of the deliveries, until the next one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    share: Share,
    taken: i64,
}

impl Deliveries<'_> {
    /// Takes up a share. Who had it before can write nothing more for it: what is being written is written, or is not,
    /// before this is answered.
    pub async fn take(&self, share: Share) -> Result<Tenure, StoreError> {
        let query = "INSERT INTO delivery_shares (share, taken) VALUES ($1, 1) \
             ON CONFLICT (share) DO UPDATE SET taken = delivery_shares.taken + 1 RETURNING taken";
        let taken = writing_on_either!(self.connections, "take up a share of the deliveries", connection => {
            sqlx::query_scalar(query)
                .bind(share.to_string())
                .fetch_one(connection)
                .await
        })?;
        Ok(Tenure { share, taken })
    }

    /// Writes what has happened.
    pub async fn flush(&self, flush: &Flush) -> Result<(), StoreError> {
        writing_on_either!(self.connections, "write deliveries", connection => {
            let mut transaction = connection.begin().await?;
            write_flush!(transaction, flush);
            transaction.commit().await
        })
    }

    /// Writes what has happened in a share, as long as it is whose that is: [`StoreError::Taken`] if it is not, and then
    /// nothing is written.
    pub async fn flush_within(&self, tenure: &Tenure, flush: &Flush) -> Result<(), StoreError> {
        // Who takes it up on PostgreSQL waits for this; SQLite has one writer.
        let taken = match self.connections {
            Connections::Sqlite(_) => "SELECT taken FROM delivery_shares WHERE share = $1",
            Connections::Postgres(_) => {
                "SELECT taken FROM delivery_shares WHERE share = $1 FOR SHARE"
            }
        };
        let share = tenure.share.to_string();
        let written = writing_on_either!(self.connections, "write deliveries", connection => {
            let mut transaction = connection.begin().await?;
            write_flush!(transaction, flush);
            let taken: Option<i64> = sqlx::query_scalar(taken)
                .bind(share.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
            if taken == Some(tenure.taken) {
                transaction.commit().await.map(|()| true)
            } else {
                transaction.rollback().await.map(|()| false)
            }
        })?;
        if written {
            return Ok(());
        }
        Err(StoreError::Taken(share))
    }

    /// The same in pieces of at most so many rows, each whole: for a flush that was refused or took too
    /// long. After a crash between two pieces no delivery is lost, and none is numbered anew: what is still to be
    /// delivered is written before what tells of attempts, and the cursors last.
    ///
    /// A row that the database will never take is left out, so that it does not keep others from being written. Those are
    /// what is answered, each with the reason. Any other failure ends it; it may be called again with the same.
    pub async fn flush_in_pieces(
        &self,
        tenure: &Tenure,
        flush: &Flush,
        rows: usize,
    ) -> Result<Vec<(Flush, StoreError)>, StoreError> {
        let mut refused = Vec::new();
        let mut left = flush.pieces(rows.max(1));
        left.reverse();
        while let Some(piece) = left.pop() {
            match self.flush_within(tenure, &piece).await {
                Ok(()) => {}
                Err(error) if error.is_refused() => match piece.halves() {
                    Some((first, second)) => left.extend([second, first]),
                    None => refused.push((piece, error)),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Writes what becomes of a parked delivery, a subscription's of a number, as long as it stands parked. Answers whether
    /// it did: of those who come at the same time, one writes.
    pub async fn flush_of_parked(
        &self,
        (subscription, sequence): (Uuid, u64),
        flush: &Flush,
    ) -> Result<bool, StoreError> {
        let lock = "UPDATE pending_deliveries SET state = state \
             WHERE subscription = $1 AND sequence = $2 AND state = 'parked'";
        writing_on_either!(self.connections, "change a parked key", connection => {
            let mut transaction = connection.begin().await?;
            let parked = sqlx::query(lock)
                .bind(subscription.to_string())
                .bind(number(sequence))
                .execute(&mut *transaction)
                .await?;
            let stands = parked.rows_affected() == 1;
            if stands {
                write_flush!(transaction, flush);
            }
            transaction.commit().await.map(|()| stands)
        })
    }
}

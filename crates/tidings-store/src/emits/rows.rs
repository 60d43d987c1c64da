//! How the rows of emits are read, and what their checksums cover.

use std::fmt;
use std::str::FromStr;

use tidings_event::TenantId;
use tidings_event::event::rfc3339;
use uuid::Uuid;

use super::{EmitPlace, EmitRow, EmitState};
use crate::deliveries::number;
use crate::pool::Columns;
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, recorded, whole};

impl EmitState {
    /// As it stands in the row.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Failed => "failed",
            Self::Relayed => "relayed",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
        }
    }
}

/// A text that is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoState;

impl fmt::Display for NoState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no state of an emit")
    }
}

impl FromStr for EmitState {
    type Err = NoState;

    fn from_str(text: &str) -> Result<Self, NoState> {
        let states = [
            Self::Queued,
            Self::Failed,
            Self::Relayed,
            Self::Delivered,
            Self::Undelivered,
        ];
        let mut states = states.into_iter();
        states.find(|state| state.as_str() == text).ok_or(NoState)
    }
}

/// How many emits of a tenant were accepted in a month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageRow {
    pub(crate) tenant: TenantId,
    pub(crate) month: String,
    pub(crate) emits: u64,
}

impl Sealed for UsageRow {
    const TABLE: &'static str = "custom_event_usage";
    const ALL: &'static str = "SELECT * FROM custom_event_usage";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(self.tenant.as_str());
        seal.text(&self.month).number(number(self.emits)).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.tenant, self.month)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a month's emits";
        Ok(Self {
            tenant: parsed(row, name, "tenant")?,
            month: row.text("month").map_err(attempting("read a month"))?,
            emits: whole(row, name, "emits")?,
        })
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Of a century from 1970 on.
const DAYS: i64 = 36_525;

/// Whose a damaged count is, of which month, and between which ids its emits stand; `None` when that cannot be told either.
pub(super) fn of_damaged(row: &impl Columns) -> Option<(TenantId, String, (Uuid, Uuid))> {
    let tenant = row.text("tenant").ok()?.parse().ok()?;
    let month = row.text("month").ok()?;
    // Day by day: that takes a moment, once.
    let is_in = |at_ms: &i64| rfc3339(*at_ms).starts_with(&month);
    let mut days = (0..DAYS).map(|day| day * DAY_MS);
    let begins = days.find(is_in)?;
    let ends = days.find(|at_ms| !is_in(at_ms))?;
    Some((tenant, month, (first_at(begins), first_at(ends))))
}

/// The first id of a time: an event's id begins with it, so that rows stand in the order of both.
pub(super) fn first_at(at_ms: i64) -> Uuid {
    Uuid::from_u128(u128::from(at_ms.max(0).unsigned_abs()) << 80)
}

impl Sealed for EmitRow {
    const TABLE: &'static str = "custom_event_emits";
    const ALL: &'static str = "SELECT * FROM custom_event_emits";

    /// Of what never changes. The payload has a fingerprint of its own, and what becomes of an emit is noted in place.
    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.event_id.as_bytes());
        let seal = seal.text(self.tenant.as_str()).text(&self.idempotency_key);
        let seal = seal.bytes(&self.fingerprint.to_le_bytes());
        let seal = seal.text(self.event_type.as_str()).text(&self.name);
        let seal = seal.text(&self.source);
        let seal = seal.maybe(
            self.cause.as_ref().map(|it| &it.as_bytes()[..]),
            Seal::bytes,
        );
        let seal = seal.number(i64::from(self.depth));
        let seal = seal.maybe(self.traceparent.as_deref(), Seal::text);
        seal.number(self.created_at_ms).finish()
    }

    fn name(&self) -> String {
        self.event_id.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read an emit");
        let id = row.text("event_id").map_err(unread())?;
        let fault = |column: &'static str, fault: String| StoreError::Corrupt {
            row: id.clone(),
            column,
            fault,
        };
        let fingerprint = row.text("fingerprint").map_err(unread())?;
        let fingerprint = u128::from_str_radix(&fingerprint, 16);
        let cause = row.optional_text("cause").map_err(unread())?;
        let cause = cause.map(|cause| cause.parse()).transpose();
        let partition = row.optional_integer("partition").map_err(unread())?;
        let position = row.optional_integer("position").map_err(unread())?;
        let place = partition.zip(position).map(|(partition, offset)| {
            Ok::<_, std::num::TryFromIntError>(EmitPlace {
                partition: partition.try_into()?,
                offset: offset.try_into()?,
            })
        });
        Ok(Self {
            event_id: parsed(row, &id, "event_id")?,
            tenant: parsed(row, &id, "tenant")?,
            idempotency_key: row.text("idempotency_key").map_err(unread())?,
            fingerprint: fingerprint.map_err(|error| fault("fingerprint", error.to_string()))?,
            event_type: recorded(row, &id)?,
            name: row.text("name").map_err(unread())?,
            source: row.text("source").map_err(unread())?,
            cause: cause.map_err(|error: uuid::Error| fault("cause", error.to_string()))?,
            depth: whole(row, &id, "depth")?,
            traceparent: row.optional_text("traceparent").map_err(unread())?,
            created_at_ms: row.integer("created_at_ms").map_err(unread())?,
            payload: row.optional_text("payload").map_err(unread())?,
            state: parsed(row, &id, "state")?,
            error: row.optional_text("error").map_err(unread())?,
            place: place
                .transpose()
                .map_err(|error| fault("position", error.to_string()))?,
            next_at_ms: row.optional_integer("next_at_ms").map_err(unread())?,
        })
    }
}

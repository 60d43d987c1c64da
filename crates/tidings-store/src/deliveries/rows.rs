//! How the rows of deliveries are read, and what their checksums cover.

use super::{AttemptRow, CursorRow, PendingRow, ProgressRow, number};
use crate::pool::Columns;
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed, whole};

impl Sealed for CursorRow {
    const TABLE: &'static str = "delivery_cursors";
    const ALL: &'static str = "SELECT * FROM delivery_cursors";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.share);
        let seal = seal
            .text(self.topic.as_str())
            .number(i64::from(self.partition));
        seal.number(number(self.next_offset)).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.share, self.topic, self.partition)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a cursor";
        Ok(Self {
            share: row.text("share").map_err(attempting("read a cursor"))?,
            topic: parsed(row, name, "topic")?,
            partition: whole(row, name, "partition")?,
            next_offset: whole(row, name, "next_offset")?,
        })
    }
}

impl Sealed for ProgressRow {
    const TABLE: &'static str = "delivery_progress";
    const ALL: &'static str = "SELECT * FROM delivery_progress";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        let seal = seal.text(self.tenant.as_str());
        seal.number(number(self.sequence))
            .text(&self.places)
            .finish()
    }

    fn name(&self) -> String {
        self.subscription.to_string()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a subscription's progress";
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            tenant: parsed(row, name, "tenant")?,
            sequence: whole(row, name, "sequence")?,
            places: row.text("places").map_err(attempting("read progress"))?,
        })
    }
}

impl Sealed for PendingRow {
    const TABLE: &'static str = "pending_deliveries";
    const ALL: &'static str = "SELECT * FROM pending_deliveries";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        let seal = seal
            .number(number(self.sequence))
            .text(self.tenant.as_str());
        let seal = seal.bytes(self.event_id.as_bytes());
        let seal = seal.maybe(self.lane.as_deref(), Seal::text);
        let seal = seal.number(i64::from(self.attempts)).text(&self.state);
        seal.number(self.next_at_ms).text(&self.detail).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.subscription, self.sequence)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of a pending delivery";
        let unread = || attempting("read a pending delivery");
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            sequence: whole(row, name, "sequence")?,
            tenant: parsed(row, name, "tenant")?,
            event_id: parsed(row, name, "event_id")?,
            lane: row.optional_text("lane").map_err(unread())?,
            attempts: whole(row, name, "attempts")?,
            state: row.text("state").map_err(unread())?,
            next_at_ms: row.integer("next_at_ms").map_err(unread())?,
            detail: row.text("detail").map_err(unread())?,
        })
    }
}

impl Sealed for AttemptRow {
    const TABLE: &'static str = "delivery_attempts";
    const ALL: &'static str = "SELECT * FROM delivery_attempts";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).bytes(self.subscription.as_bytes());
        let seal = seal
            .number(number(self.sequence))
            .number(i64::from(self.number));
        let seal = seal
            .text(self.tenant.as_str())
            .bytes(self.event_id.as_bytes());
        let seal = seal.number(self.started_at_ms).text(&self.outcome);
        seal.text(&self.detail).finish()
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.subscription, self.sequence, self.number)
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let name = "of an attempt";
        let unread = || attempting("read an attempt");
        Ok(Self {
            subscription: parsed(row, name, "subscription")?,
            sequence: whole(row, name, "sequence")?,
            number: whole(row, name, "number")?,
            tenant: parsed(row, name, "tenant")?,
            event_id: parsed(row, name, "event_id")?,
            started_at_ms: row.integer("started_at_ms").map_err(unread())?,
            outcome: row.text("outcome").map_err(unread())?,
            detail: row.text("detail").map_err(unread())?,
        })
    }
}

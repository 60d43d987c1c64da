//! Keys in Valkey or Redis: one string for each, changed by one Lua script for each step.

mod line;

use tidings_bus::{Pending, Receipt};
use tidings_event::TenantId;
use tidings_event::json::Fingerprint;
use uuid::Uuid;

use crate::claiming::{self, Answer, Ask, Home};
use crate::{Claim, Hold, Receipts, ReceiptsError, Release, Terms, Wanted, Who};
use line::{Call, Line, Script};

/// Receipts in Valkey or Redis.
#[derive(Debug)]
pub struct InValkey {
    terms: Terms,
    line: Line,
}

impl InValkey {
    /// By a URL such as `redis://user:password@host:6379/0`, or `rediss://` for TLS (cargo feature `tls`).
    /// Does not connect yet: the first question does.
    pub fn new(url: &str, terms: Terms) -> Result<Self, ReceiptsError> {
        Ok(Self {
            terms,
            line: Line::new(url)?,
        })
    }

    /// Forgets everything on the server's database, whoever wrote it. For tests.
    pub async fn flush(&self) -> Result<(), ReceiptsError> {
        self.line.command("FLUSHDB").await.map(drop)
    }
}

/// A tenant holds no brace, and a principal is as long as is said: no two keys are spelled alike. What a
/// script touches has one hash tag, as a cluster demands.
fn key_of(who: &Who) -> String {
    let (tenant, principal) = (&who.tenant, &who.principal);
    format!(
        "tidings:once:{{{tenant}}}:{}:{principal}:{}",
        principal.len(),
        who.key
    )
}

fn counter_of(tenant: &TenantId) -> String {
    format!("tidings:completed:{{{tenant}}}")
}

/// The value of a completed key, as `claim.lua` describes it.
fn completed(fingerprint: Fingerprint, receipt: &Receipt) -> Vec<u8> {
    let place = format!(
        "{}:{}:{}",
        receipt.partition,
        receipt.offset,
        receipt.topic.as_str()
    );
    let mut value = vec![b'C'];
    value.extend_from_slice(&fingerprint.0.to_be_bytes());
    value.extend_from_slice(receipt.event_id.as_bytes());
    value.extend_from_slice(place.as_bytes());
    value
}

fn answer(value: &[u8]) -> Result<Answer, ReceiptsError> {
    let unreadable = || ReceiptsError::Unreadable(String::from_utf8_lossy(value).into_owned());
    let read = || match value.split_first()? {
        (b'X', []) => Some(Answer::Reused),
        (b'W', []) => Some(Answer::Busy),
        (b'H', [inherited, event_id @ ..]) => Some(Answer::Held {
            event_id: Uuid::from_slice(event_id).ok()?,
            inherited: *inherited == b'1',
        }),
        (b'C', rest) => {
            let (_fingerprint, rest) = rest.split_at_checked(16)?;
            let (event_id, place) = rest.split_at_checked(16)?;
            let mut parts = std::str::from_utf8(place).ok()?.splitn(3, ':');
            Some(Answer::Completed(Receipt {
                event_id: Uuid::from_slice(event_id).ok()?,
                partition: parts.next()?.parse().ok()?,
                offset: parts.next()?.parse().ok()?,
                topic: parts.next()?.parse().ok()?,
            }))
        }
        _ => None,
    };
    read().ok_or_else(unreadable)
}

impl Home for InValkey {
    fn terms(&self) -> Terms {
        self.terms
    }

    async fn ask(&self, asks: &[Ask]) -> Result<Vec<Answer>, ReceiptsError> {
        let calls = asks.iter().map(|ask| Call {
            keys: vec![key_of(&ask.who)],
            arguments: vec![
                ask.fingerprint.0.to_be_bytes().to_vec(),
                ask.token.as_bytes().to_vec(),
                ask.event_id.as_bytes().to_vec(),
                self.terms.lease.as_millis().to_string().into_bytes(),
                self.terms.time_to_live.as_millis().to_string().into_bytes(),
            ],
        });
        let values = self.line.run(Script::Claim, calls.collect()).await?;
        values.iter().map(|value| answer(value)).collect()
    }

    async fn withdraw(&self, holds: &[(Hold, bool)]) -> Result<(), ReceiptsError> {
        let calls = holds.iter().map(|(hold, keep)| Call {
            keys: vec![key_of(&hold.who)],
            arguments: vec![
                hold.token.as_bytes().to_vec(),
                if *keep { b"1" } else { b"0" }.to_vec(),
            ],
        });
        let calls = calls.collect();
        self.line.run(Script::Release, calls).await.map(drop)
    }
}

impl Receipts for InValkey {
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
        Box::pin(claiming::claim(self, wanted))
    }

    fn settle(&self, settled: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async move {
            let calls = settled.iter().map(|(hold, receipt)| Call {
                keys: vec![key_of(&hold.who), counter_of(&hold.who.tenant)],
                arguments: vec![
                    hold.token.as_bytes().to_vec(),
                    completed(hold.fingerprint, receipt),
                    self.terms.time_to_live.as_millis().to_string().into_bytes(),
                ],
            });
            let calls = calls.collect();
            self.line.run(Script::Settle, calls).await.map(drop)
        })
    }

    fn release(
        &self,
        holds: Vec<Hold>,
        outcome: Release,
    ) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async move { self.withdraw(&claiming::withdrawn(holds, outcome)).await })
    }

    fn count(&self, tenant: TenantId) -> Pending<'_, Result<u64, ReceiptsError>> {
        Box::pin(async move {
            let value = self.line.get(&counter_of(&tenant)).await?;
            let text = String::from_utf8_lossy(&value);
            if text.is_empty() {
                return Ok(0);
            }
            text.parse()
                .map_err(|_| ReceiptsError::Unreadable(text.into_owned()))
        })
    }

    fn health(&self) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async { self.line.command("PING").await.map(drop) })
    }
}

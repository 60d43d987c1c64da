//! Keys in Valkey or Redis: one string for each, changed by one Lua script for each step over all keys of a tenant
//! that are asked for at once, by one publish or by several.

mod line;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::{Known, Pending, Receipt};
use tidings_event::TenantId;
use uuid::Uuid;

use crate::claiming::{self, Answer, Ask, Home};
use crate::gathered::{Gathered, Rows};
use crate::{Claim, Hold, Receipts, ReceiptsError, Release, Terms, Wanted, Who};
use line::{Call, Line, Script};

/// Scripts of one kind that are under way: the server runs one at a time, and the next is on its way meanwhile.
const AT_ONCE: usize = 2;

/// Receipts in Valkey or Redis.
#[derive(Debug)]
pub struct InValkey {
    terms: Terms,
    line: Arc<Line>,
    claiming: Gathered<Ask, Answer>,
    settling: Gathered<(Hold, Receipt), ()>,
}

impl InValkey {
    /// Whether [`new`](Self::new) can make sense of a URL. Asks no server.
    pub fn check_url(url: &str) -> Result<(), ReceiptsError> {
        Line::new(url).map(drop)
    }

    /// By a URL such as `redis://user:password@host:6379/0`, or `rediss://` for TLS (cargo feature `tls`).
    /// Does not connect yet: the first question does. Needs a runtime.
    pub fn new(url: &str, terms: Terms) -> Result<Self, ReceiptsError> {
        let line = Arc::new(Line::new(url)?);
        let (of_claims, of_settles) = (Arc::clone(&line), Arc::clone(&line));
        Ok(Self {
            terms,
            line,
            // Of an abandoned claim nobody would use the hold; what was appended is completed in any case.
            claiming: Gathered::new(AT_ONCE, true, move |asks| {
                Box::pin(claim(Arc::clone(&of_claims), terms, asks))
            }),
            settling: Gathered::new(AT_ONCE, false, move |settled| {
                Box::pin(settle(Arc::clone(&of_settles), terms, settled))
            }),
        })
    }

    /// By which policy the server evicts keys when its memory is full; `None` if it refuses to write then, as it should.
    /// An error also when the server does not let us ask.
    pub async fn evicting(&self) -> Result<Option<String>, ReceiptsError> {
        self.line.evicting().await
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

/// The token, and the value of a completed key, as `claim.lua` describes it.
fn completed(hold: &Hold, receipt: &Receipt) -> Vec<u8> {
    let place = format!(
        "{}:{}:{}",
        receipt.partition,
        receipt.offset,
        receipt.topic.as_str()
    );
    let (token, fingerprint) = (hold.token.as_bytes(), hold.fingerprint.0.to_be_bytes());
    let event_id = receipt.event_id.as_bytes();
    [&token[..], b"C", &fingerprint, event_id, place.as_bytes()].concat()
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

/// The rows of each tenant: a script may touch keys of one hash tag.
fn by_tenant<'a>(whos: impl Iterator<Item = &'a Arc<Who>>) -> Vec<Vec<usize>> {
    let mut tenants: BTreeMap<&TenantId, Vec<usize>> = BTreeMap::new();
    for (row, who) in whos.enumerate() {
        tenants.entry(&who.tenant).or_default().push(row);
    }
    tenants.into_values().collect()
}

async fn claim(
    line: Arc<Line>,
    terms: Terms,
    asks: Rows<Ask>,
) -> Result<Vec<Answer>, ReceiptsError> {
    let tenants = by_tenant(asks.iter().map(|ask| &ask.who));
    let calls = tenants.iter().map(|rows| {
        let mut arguments = vec![in_ms(terms.lease), in_ms(terms.time_to_live)];
        arguments.extend(rows.iter().map(|row| {
            let ask = &asks[*row];
            let (fingerprint, event_id) = (ask.fingerprint.0.to_be_bytes(), ask.event_id);
            [&fingerprint[..], ask.token.as_bytes(), event_id.as_bytes()].concat()
        }));
        let keys = rows.iter().map(|row| key_of(&asks[*row].who)).collect();
        Call { keys, arguments }
    });
    let calls: Vec<Call> = calls.collect();
    let returned = line.run(Script::Claim, &calls).await?;
    let mut answers: Vec<Option<Answer>> = Vec::new();
    answers.resize_with(asks.len(), || None);
    for (rows, values) in tenants.into_iter().zip(returned) {
        for (row, value) in rows.into_iter().zip(values) {
            answers[row] = Some(answer(&value)?);
        }
    }
    let all: Option<Vec<Answer>> = answers.into_iter().collect();
    all.ok_or_else(|| ReceiptsError::Unreadable("fewer answers than keys".into()))
}

async fn settle(
    line: Arc<Line>,
    terms: Terms,
    settled: Rows<(Hold, Receipt)>,
) -> Result<Vec<()>, ReceiptsError> {
    let tenants = by_tenant(settled.iter().map(|(hold, _)| &hold.who));
    let calls = tenants.iter().map(|rows| {
        let holds = rows.iter().map(|row| &settled[*row]);
        let mut keys = vec![counter_of(&settled[rows[0]].0.who.tenant)];
        keys.extend(holds.clone().map(|(hold, _)| key_of(&hold.who)));
        let mut arguments = vec![in_ms(terms.time_to_live)];
        arguments.extend(holds.map(|(hold, receipt)| completed(hold, receipt)));
        Call { keys, arguments }
    });
    let calls: Vec<Call> = calls.collect();
    line.run(Script::Settle, &calls).await?;
    Ok(vec![(); settled.len()])
}

fn in_ms(duration: Duration) -> Vec<u8> {
    duration.as_millis().to_string().into_bytes()
}

impl Home for InValkey {
    fn terms(&self) -> Terms {
        self.terms
    }

    async fn ask(&self, asks: &[Ask]) -> Result<Vec<Answer>, ReceiptsError> {
        self.claiming.run(asks.to_vec()).await
    }

    async fn withdraw(&self, holds: &[(Hold, bool)]) -> Result<(), ReceiptsError> {
        let tenants = by_tenant(holds.iter().map(|(hold, _)| &hold.who));
        let calls = tenants.iter().map(|rows| {
            let holds = rows.iter().map(|row| &holds[*row]);
            let keys = holds.clone().map(|(hold, _)| key_of(&hold.who)).collect();
            let arguments = holds.map(|(hold, keep)| {
                let keep: &[u8] = if *keep { b"1" } else { b"0" };
                [&hold.token.as_bytes()[..], keep].concat()
            });
            let arguments = arguments.collect();
            Call { keys, arguments }
        });
        let calls: Vec<Call> = calls.collect();
        self.line.run(Script::Release, &calls).await.map(drop)
    }
}

impl Receipts for InValkey {
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
        Box::pin(claiming::claim(self, wanted))
    }

    fn look_up(&self, wanted: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>> {
        Box::pin(async move {
            let who = Who::of(&wanted);
            let call = Call {
                keys: vec![key_of(&who)],
                arguments: vec![wanted.once.fingerprint.0.to_be_bytes().to_vec()],
            };
            let values = self.line.run(Script::LookUp, &[call]).await?;
            match values.concat().first().map(Vec::as_slice) {
                Some(b"F") => Ok(None),
                Some(b"W") => Err(ReceiptsError::Busy {
                    retry_after: self.terms.lease,
                }),
                Some(value) => match answer(value)? {
                    Answer::Completed(receipt) => Ok(Some(Known::Used(receipt))),
                    _ => Ok(Some(Known::Reused)),
                },
                None => Err(ReceiptsError::Unreadable("no answer to a key".into())),
            }
        })
    }

    fn settle(&self, settled: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async move { self.settling.run(settled).await.map(drop) })
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

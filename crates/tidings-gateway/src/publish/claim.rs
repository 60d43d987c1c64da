//! Deduplicate: which of the events are new, and which repeat an earlier publish.
//!
//! On a bus that keeps receipts itself nothing is asked here: it decides key and event in one step. On
//! Kafka a key is claimed before the event is appended and settled after it; see [`tidings_receipts`].

use std::collections::HashMap;
use std::time::Duration;

use tidings_bus::Receipt;
use tidings_event::{Code, TenantId, Topic};
use tidings_receipts::{Claim, Hold, Receipts, ReceiptsError, Release, Wanted};

use super::name::{Named, NamedDraft};
use super::refusal::{Refusal, Rule};
use crate::access::Caller;

/// What an event is to the log.
pub(super) enum Standing {
    /// To be appended; its key is held, where keys are claimed.
    Fresh(Option<Hold>),
    /// Appended before.
    Repeat(Receipt),
    /// The same as an earlier one of this batch.
    SameAs(usize),
}

/// Events of which it is known whether they are new.
pub(crate) struct Claimed {
    pub(super) entries: Vec<(NamedDraft, Standing)>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
    pub(super) into: Option<Topic>,
}

impl Claimed {
    /// Nothing was claimed: the bus decides, or nothing is going to be appended.
    pub(super) fn unasked(named: Named) -> Self {
        Self::of(named, std::iter::repeat_with(|| Standing::Fresh(None)))
    }

    fn of(named: Named, standings: impl IntoIterator<Item = Standing>) -> Self {
        Self {
            entries: named.entries.into_iter().zip(standings).collect(),
            caller: named.caller,
            tenant: named.tenant,
            traceparent: named.traceparent,
            alone: named.alone,
            into: named.into,
        }
    }
}

/// Claims the key of each event. One that was used for another body refuses the whole batch.
pub(crate) async fn claim(receipts: &dyn Receipts, mut named: Named) -> Result<Claimed, Refusal> {
    let (wanted, same_as) = wanted(&named);
    let claims = receipts
        .claim(wanted)
        .await
        .map_err(|error| refused(&error))?;
    let mut claims = claims.into_iter();
    let mut standings = Vec::with_capacity(named.entries.len());
    let mut reused = Vec::new();
    for (index, entry) in named.entries.iter_mut().enumerate() {
        standings.push(match same_as[index] {
            Some(first) => {
                if first.differs {
                    reused.push(index);
                }
                Standing::SameAs(first.index)
            }
            None => match claims.next() {
                Some(Claim::Fresh(hold)) => {
                    entry.event_id = hold.event_id();
                    Standing::Fresh(Some(hold))
                }
                Some(Claim::Replayed(receipt)) => Standing::Repeat(receipt),
                Some(Claim::Reused) => {
                    reused.push(index);
                    Standing::Fresh(None)
                }
                // What is held of the others ends with its lease.
                None => return Err(Refusal::fault("Claiming an idempotency key", &Unanswered)),
            },
        });
    }
    if !reused.is_empty() {
        let holds = standings.into_iter().filter_map(|standing| match standing {
            Standing::Fresh(hold) => hold,
            Standing::Repeat(_) | Standing::SameAs(_) => None,
        });
        let released = receipts.release(holds.collect(), Release::NothingAppended);
        if let Err(error) = released.await {
            tracing::warn!(%error, "keys of a refused batch stay held until their lease is over");
        }
        return Err(key_reused(reused, named.alone));
    }
    Ok(Claimed::of(named, standings))
}

#[derive(Debug, thiserror::Error)]
#[error("whoever keeps the keys has not answered for each")]
struct Unanswered;

/// An earlier event of the batch with the same key.
#[derive(Clone, Copy)]
struct Earlier {
    index: usize,
    differs: bool,
}

/// Each key once, and which events share the key of an earlier one.
fn wanted(named: &Named) -> (Vec<Wanted>, Vec<Option<Earlier>>) {
    let mut seen: HashMap<(&str, &str), usize> = HashMap::with_capacity(named.entries.len());
    let mut wanted = Vec::with_capacity(named.entries.len());
    let mut same_as = Vec::with_capacity(named.entries.len());
    for (index, entry) in named.entries.iter().enumerate() {
        let key = (entry.once.principal.as_str(), entry.once.key.as_str());
        if let Some(&first) = seen.get(&key) {
            let differs = named.entries[first].once.fingerprint != entry.once.fingerprint;
            same_as.push(Some(Earlier {
                index: first,
                differs,
            }));
            continue;
        }
        seen.insert(key, index);
        same_as.push(None);
        wanted.push(Wanted {
            tenant: named.tenant.clone(),
            once: entry.once.clone(),
            event_id: entry.event_id,
        });
    }
    (wanted, same_as)
}

/// These events' keys were used for other bodies.
pub(super) fn key_reused(indexes: Vec<usize>, alone: bool) -> Refusal {
    let detail =
        "The idempotency key was used within 24 h for another body; a new event needs a new key.";
    let reused = || {
        Refusal::new(Code::IdempotencyKeyReused, Rule::Idempotency, detail).field("idempotencyKey")
    };
    let all = indexes.into_iter().map(|index| (index, reused())).collect();
    Refusal::of_batch(all, alone).unwrap_or_else(reused)
}

/// Whoever keeps the keys did not answer in time.
pub(super) fn too_late() -> Refusal {
    refused(&ReceiptsError::Unavailable {
        retry_after: Duration::from_secs(1),
    })
}

pub(super) fn refused(error: &ReceiptsError) -> Refusal {
    tracing::warn!(%error, "an idempotency key could not be claimed");
    let (code, detail) = match error {
        // No part is gone: whoever holds it, or its lease, comes to an end soon.
        ReceiptsError::Busy { .. } => (
            Code::IdempotencyKeyInUse,
            "Another publish with this idempotency key has not come to its end; nothing was published by this one. \
             Retry with the same key.",
        ),
        _ => (
            Code::BrokerUnavailable,
            "Idempotency keys cannot be checked now; nothing was published. Retry with the same key.",
        ),
    };
    let retry_after = match error {
        ReceiptsError::Unavailable { retry_after } => *retry_after,
        // A lease may be longer, but most are given back before.
        _ => Duration::from_secs(1),
    };
    Refusal::new(code, Rule::Idempotency, detail).retry_after(retry_after)
}

#[cfg(test)]
mod tests {
    use tidings_bus::{Known, Pending};

    use super::*;
    use crate::access::on_behalf_of;
    use crate::clock::Clock;
    use crate::in_memory;
    use crate::publish::command::Command;

    /// A home of keys that answers for none of them.
    struct Short;

    impl Receipts for Short {
        fn claim(&self, _: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn look_up(&self, _: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>> {
            Box::pin(async { Ok(None) })
        }

        fn settle(&self, _: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>> {
            Box::pin(async { Ok(()) })
        }

        fn release(&self, _: Vec<Hold>, _: Release) -> Pending<'_, Result<(), ReceiptsError>> {
            Box::pin(async { Ok(()) })
        }

        fn count(&self, _: TenantId) -> Pending<'_, Result<u64, ReceiptsError>> {
            Box::pin(async { Ok(0) })
        }

        fn health(&self) -> Pending<'_, Result<(), ReceiptsError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn a_key_that_is_not_answered_for_is_our_fault_and_no_other_body() {
        let gateway = in_memory::gateway(&Clock::manual(0)).await;
        let caller = on_behalf_of(tidings_event::Service::Audit, "acme".parse().unwrap());
        let command = Command::one(caller, in_memory::draft("{}"), None);
        let named = gateway.line.name(command).unwrap();
        let refused = claim(&Short, named).await.err().unwrap();
        assert_eq!(refused.code, Code::Internal);
    }
}

//! Deduplicate: which of the events are new, and which repeat an earlier publish.
//!
//! On a bus that keeps receipts itself nothing is asked here: it decides key and event in one step. On
//! Kafka a key is claimed before the event is appended and settled after it; see [`tidings_receipts`].

use std::collections::HashMap;

use tidings_bus::Receipt;
use tidings_event::{Code, TenantId};
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
pub struct Claimed {
    pub(super) entries: Vec<(NamedDraft, Standing)>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
}

impl Claimed {
    /// Nothing was claimed: the bus decides, or nothing is going to be appended.
    pub(super) fn unasked(named: Named) -> Self {
        let fresh = |_: &NamedDraft| Standing::Fresh(None);
        Self::of(named, fresh)
    }

    fn of(named: Named, mut standing: impl FnMut(&NamedDraft) -> Standing) -> Self {
        let entries = named.entries.into_iter().map(|entry| {
            let standing = standing(&entry);
            (entry, standing)
        });
        Self {
            entries: entries.collect(),
            caller: named.caller,
            tenant: named.tenant,
            traceparent: named.traceparent,
            alone: named.alone,
        }
    }
}

/// Claims the key of each event. One that was used for another body refuses the whole batch.
pub async fn claim(receipts: &dyn Receipts, mut named: Named) -> Result<Claimed, Refusal> {
    let (wanted, same_as) = wanted(&named);
    let claims = receipts
        .claim(wanted)
        .await
        .map_err(|error| refused(&error))?;
    let mut claims = claims.into_iter();
    let mut found: Vec<Option<Standing>> = Vec::with_capacity(named.entries.len());
    let (mut holds, mut reused) = (Vec::new(), Vec::new());
    for (index, entry) in named.entries.iter_mut().enumerate() {
        if let Some(first) = same_as[index] {
            if first.differs {
                reused.push(index);
            }
            found.push(Some(Standing::SameAs(first.index)));
            continue;
        }
        match claims.next() {
            Some(Claim::Fresh(hold)) => {
                entry.event_id = hold.event_id();
                found.push(None);
                holds.push(hold);
            }
            Some(Claim::Replayed(receipt)) => found.push(Some(Standing::Repeat(receipt))),
            Some(Claim::Reused) | None => {
                reused.push(index);
                found.push(None);
            }
        }
    }
    if !reused.is_empty() {
        if let Err(error) = receipts.release(holds, Release::NothingAppended).await {
            tracing::warn!(%error, "keys of a refused batch stay held until their lease is over");
        }
        return Err(key_reused(reused, named.alone));
    }
    let (mut holds, mut standings) = (holds.into_iter(), found.into_iter());
    Ok(Claimed::of(named, |_| {
        let standing = standings.next().flatten();
        standing.unwrap_or_else(|| Standing::Fresh(holds.next()))
    }))
}

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

fn refused(error: &ReceiptsError) -> Refusal {
    tracing::warn!(%error, "an idempotency key could not be claimed");
    let refusal = Refusal::new(
        Code::BrokerUnavailable,
        Rule::Idempotency,
        "Idempotency keys cannot be checked now; nothing was published. Retry with the same key.",
    );
    match error {
        ReceiptsError::Unavailable { retry_after } => refusal.retry_after(*retry_after),
        _ => refusal.retry_after(std::time::Duration::from_secs(1)),
    }
}

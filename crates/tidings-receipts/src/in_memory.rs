//! Keys in memory, of one process: for tests, and the model that the other homes are held against.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidings_bus::{Known, Pending, Receipt};
use tidings_event::TenantId;
use tidings_event::json::Fingerprint;
use tokio::time::Instant;
use uuid::Uuid;

use crate::claiming::{self, Answer, Ask, Home};
use crate::{Claim, Hold, Receipts, ReceiptsError, Release, Terms, Wanted, Who};

/// Receipts in memory.
#[derive(Debug)]
pub struct InMemory {
    terms: Terms,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    keys: HashMap<Arc<Who>, Entry>,
    counts: HashMap<TenantId, u64>,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    state: State,
    expires: Instant,
}

#[derive(Debug)]
enum State {
    Reserved {
        token: Uuid,
        event_id: Uuid,
        inherited: bool,
        lease_ends: Instant,
    },
    Completed(Receipt),
}

impl InMemory {
    /// Empty.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            kept: Mutex::default(),
        }
    }

    /// Forgets every key, as a flushed server does.
    pub fn flush(&self) {
        self.with(|kept| kept.keys.clear());
    }

    fn with<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn live(&mut self, who: &Who, now: Instant) -> Option<&mut Entry> {
        self.keys.get_mut(who).filter(|entry| entry.expires > now)
    }

    fn ask(&mut self, ask: &Ask, terms: Terms, now: Instant) -> Answer {
        let (event_id, inherited) = match self.live(&ask.who, now) {
            None => (ask.event_id, false),
            Some(entry) if entry.fingerprint != ask.fingerprint => return Answer::Reused,
            Some(entry) => match &entry.state {
                State::Completed(receipt) => return Answer::Completed(receipt.clone()),
                State::Reserved {
                    token,
                    event_id,
                    inherited,
                    ..
                } if *token == ask.token => (*event_id, *inherited),
                State::Reserved { lease_ends, .. } if *lease_ends > now => return Answer::Busy,
                State::Reserved { event_id, .. } => (*event_id, true),
            },
        };
        let state = State::Reserved {
            token: ask.token,
            event_id,
            inherited,
            lease_ends: now + terms.lease,
        };
        let entry = Entry {
            fingerprint: ask.fingerprint,
            state,
            expires: now + terms.time_to_live,
        };
        self.keys.insert(ask.who.clone(), entry);
        Answer::Held {
            event_id,
            inherited,
        }
    }

    fn look_up(&mut self, wanted: &Wanted, now: Instant) -> Result<Option<Known>, ReceiptsError> {
        let Some(entry) = self.live(&Who::of(wanted), now) else {
            return Ok(None);
        };
        if entry.fingerprint != wanted.once.fingerprint {
            return Ok(Some(Known::Reused));
        }
        match &entry.state {
            State::Completed(receipt) => Ok(Some(Known::Used(receipt.clone()))),
            State::Reserved { lease_ends, .. } if *lease_ends > now => {
                let retry_after = *lease_ends - now;
                Err(ReceiptsError::Busy { retry_after })
            }
            State::Reserved { .. } => Ok(None),
        }
    }

    fn settle(&mut self, hold: Hold, receipt: Receipt, terms: Terms, now: Instant) {
        let expires = match self.live(&hold.who, now) {
            None => now + terms.time_to_live,
            Some(entry) => match entry.state {
                State::Reserved { token, .. } if token == hold.token => entry.expires,
                _ => return,
            },
        };
        *self.counts.entry(hold.who.tenant.clone()).or_default() += 1;
        let entry = Entry {
            fingerprint: hold.fingerprint,
            state: State::Completed(receipt),
            expires,
        };
        self.keys.insert(hold.who, entry);
    }

    fn withdraw(&mut self, hold: &Hold, keep: bool, now: Instant) {
        let Some(entry) = self.live(&hold.who, now) else {
            return;
        };
        match &mut entry.state {
            State::Reserved {
                token, lease_ends, ..
            } if *token == hold.token => *lease_ends = now,
            _ => return,
        }
        if !keep {
            self.keys.remove(&hold.who);
        }
    }
}

impl Home for InMemory {
    fn terms(&self) -> Terms {
        self.terms
    }

    async fn ask(&self, asks: &[Ask]) -> Result<Vec<Answer>, ReceiptsError> {
        let (terms, now) = (self.terms, Instant::now());
        Ok(self.with(|kept| asks.iter().map(|ask| kept.ask(ask, terms, now)).collect()))
    }

    async fn withdraw(&self, holds: &[(Hold, bool)]) -> Result<(), ReceiptsError> {
        let now = Instant::now();
        self.with(|kept| {
            for (hold, keep) in holds {
                kept.withdraw(hold, *keep, now);
            }
        });
        Ok(())
    }
}

impl Receipts for InMemory {
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
        Box::pin(claiming::claim(self, wanted))
    }

    fn look_up(&self, wanted: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>> {
        Box::pin(async move { self.with(|kept| kept.look_up(&wanted, Instant::now())) })
    }

    fn settle(&self, settled: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async move {
            let (terms, now) = (self.terms, Instant::now());
            self.with(|kept| {
                for (hold, receipt) in settled {
                    kept.settle(hold, receipt, terms, now);
                }
            });
            Ok(())
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
            Ok(self.with(|kept| kept.counts.get(&tenant).copied().unwrap_or_default()))
        })
    }

    fn health(&self) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async { Ok(()) })
    }
}

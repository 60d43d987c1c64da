//! Keys in the store, for an installation without Valkey: in PostgreSQL, or of one process in SQLite.

use std::borrow::Cow;
use std::time::Duration;

use tidings_bus::{Known, Pending, Receipt};
use tidings_event::TenantId;
use tidings_store::StoreError;
use tidings_store::receipts::{Completion, Place, ReceiptKey, Reservation, Reserved};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::claiming::{self, Answer, Ask, Home};
use crate::gathered::{Gathered, Rows};
use crate::{Claim, Hold, RETRY_AFTER, Receipts, ReceiptsError, Release, Terms, Wanted, Who};

/// How often expired keys are deleted.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// Receipts in the store.
#[derive(Debug)]
pub struct InStore {
    terms: Terms,
    rows: tidings_store::Receipts,
    claiming: Gathered<Ask, Answer>,
    settling: Gathered<(Hold, Receipt), ()>,
    sweeping: JoinHandle<()>,
}

impl InStore {
    /// Over the store's rows, deleting expired ones now and then until it is dropped. Needs a runtime.
    pub fn new(rows: tidings_store::Receipts, terms: Terms) -> Self {
        let (of_claims, of_settles) = (rows.clone(), rows.clone());
        Self {
            terms,
            // Of an abandoned claim nobody would use the hold; what was appended is completed in any case.
            claiming: Gathered::new(rows.at_once(), true, move |asks| {
                Box::pin(claim(of_claims.clone(), terms, asks))
            }),
            settling: Gathered::new(rows.at_once(), false, move |settled| {
                Box::pin(settle(of_settles.clone(), terms, settled))
            }),
            sweeping: tokio::spawn(sweep(rows.clone())),
            rows,
        }
    }
}

impl Drop for InStore {
    fn drop(&mut self) {
        // Cut off anywhere it loses nothing: the next replica deletes what is left.
        self.sweeping.abort();
    }
}

async fn sweep(rows: tidings_store::Receipts) {
    let mut beats = tokio::time::interval(SWEEP_EVERY);
    loop {
        beats.tick().await;
        loop {
            match rows.sweep().await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "expired idempotency keys stay for now");
                    break;
                }
            }
        }
    }
}

fn failed(error: StoreError) -> ReceiptsError {
    if matches!(
        error,
        StoreError::Corrupt { .. } | StoreError::Damaged { .. }
    ) {
        return ReceiptsError::Unreadable(error.to_string());
    }
    tracing::warn!(%error, "idempotency keys cannot be asked for");
    ReceiptsError::Unavailable {
        retry_after: RETRY_AFTER,
    }
}

fn key(who: &Who) -> ReceiptKey {
    ReceiptKey {
        key: storable(&who.key).into_owned(),
        tenant: who.tenant.clone(),
        principal: storable(&who.principal).into_owned(),
    }
}

/// PostgreSQL's texts cannot hold a zero byte; a principal is whatever its issuer called it. Unlike where texts are kept for
/// people, no two become one: it would be another's key.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\\']) {
        Cow::Owned(text.replace('\\', "\\\\").replace('\0', "\\0"))
    } else {
        Cow::Borrowed(text)
    }
}

fn receipt(place: Place) -> Result<Receipt, ReceiptsError> {
    let topic = place.topic.parse();
    Ok(Receipt {
        event_id: place.event_id,
        topic: topic.map_err(|error| ReceiptsError::Unreadable(format!("{error}")))?,
        partition: place.partition,
        offset: place.offset,
    })
}

fn place(receipt: &Receipt) -> Place {
    Place {
        event_id: receipt.event_id,
        topic: receipt.topic.as_str().to_owned(),
        partition: receipt.partition,
        offset: receipt.offset,
    }
}

fn of_hold<'a>(hold: &Hold, key: &'a ReceiptKey) -> Reservation<'a> {
    Reservation {
        key,
        fingerprint: hold.fingerprint.0,
        event_id: hold.event_id,
        token: hold.token,
    }
}

async fn claim(
    rows: tidings_store::Receipts,
    terms: Terms,
    asks: Rows<Ask>,
) -> Result<Vec<Answer>, ReceiptsError> {
    let keys: Vec<ReceiptKey> = asks.iter().map(|ask| key(&ask.who)).collect();
    let wanted = asks.iter().zip(&keys).map(|(ask, key)| Reservation {
        key,
        fingerprint: ask.fingerprint.0,
        event_id: ask.event_id,
        token: ask.token,
    });
    let wanted: Vec<_> = wanted.collect();
    let reserved = rows.claim(&wanted, terms.lease, terms.time_to_live).await;
    let answers = reserved.map_err(failed)?.into_iter().map(|reserved| {
        Ok(match reserved {
            Reserved::Held {
                event_id,
                inherited,
            } => Answer::Held {
                event_id,
                inherited,
            },
            Reserved::Completed(place) => Answer::Completed(receipt(place)?),
            Reserved::Reused => Answer::Reused,
            Reserved::Busy => Answer::Busy,
        })
    });
    answers.collect()
}

async fn settle(
    rows: tidings_store::Receipts,
    terms: Terms,
    settled: Rows<(Hold, Receipt)>,
) -> Result<Vec<()>, ReceiptsError> {
    let named = settled
        .iter()
        .map(|(hold, receipt)| (key(&hold.who), place(receipt)));
    let named: Vec<_> = named.collect();
    let completed = settled.iter().zip(&named);
    let completed = completed.map(|((hold, _), (key, place))| Completion {
        reservation: of_hold(hold, key),
        place,
    });
    let completed: Vec<_> = completed.collect();
    let done = rows.settle(&completed, terms.time_to_live).await;
    done.map_err(failed)?;
    Ok(vec![(); settled.len()])
}

impl Home for InStore {
    fn terms(&self) -> Terms {
        self.terms
    }

    async fn ask(&self, asks: &[Ask]) -> Result<Vec<Answer>, ReceiptsError> {
        self.claiming.run(asks.to_vec()).await
    }

    async fn withdraw(&self, holds: &[(Hold, bool)]) -> Result<(), ReceiptsError> {
        let keys: Vec<ReceiptKey> = holds.iter().map(|(hold, _)| key(&hold.who)).collect();
        let rows = holds.iter().zip(&keys);
        let rows: Vec<_> = rows
            .map(|((hold, keep), key)| (of_hold(hold, key), *keep))
            .collect();
        self.rows.release(&rows).await.map_err(failed)
    }
}

impl Receipts for InStore {
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
        Box::pin(claiming::claim(self, wanted))
    }

    fn look_up(&self, wanted: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>> {
        Box::pin(async move {
            let reservation = Reservation {
                key: &key(&Who::of(&wanted)),
                fingerprint: wanted.once.fingerprint.0,
                event_id: wanted.event_id,
                // Nobody's.
                token: Uuid::nil(),
            };
            match self.rows.look_up(&reservation).await.map_err(failed)? {
                Reserved::Held { .. } => Ok(None),
                Reserved::Completed(place) => Ok(Some(Known::Used(receipt(place)?))),
                Reserved::Reused => Ok(Some(Known::Reused)),
                Reserved::Busy => Err(ReceiptsError::Busy {
                    retry_after: self.terms.lease,
                }),
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
        Box::pin(async move { self.rows.count(&tenant).await.map_err(failed) })
    }

    fn health(&self) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async { self.rows.health().await.map_err(failed) })
    }
}

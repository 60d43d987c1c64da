//! The contract of [`Receipts`], as a suite that every home runs.
//!
//! Keys and tenants are new in every run: another program may use the home meanwhile. Only the flush is
//! given in, as it spares nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidings_bus::{Known, Once, Receipt};
use tidings_event::TenantId;
use tidings_event::json::Fingerprint;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Claim, Hold, Receipts, ReceiptsError, Release, Terms, Wanted};

/// A lease that a test can wait for, and that none outlives by accident.
const SHORT_LEASE: Duration = Duration::from_millis(700);

/// Runs every case on homes that `make` gives: a new one on each call, or another door to the same.
///
/// # Panics
/// When the home breaks its contract.
pub async fn suite(make: impl AsyncFn(Terms) -> Arc<dyn Receipts>) {
    let usual = make(Terms::default()).await;
    a_claimed_key_is_settled_and_replayed(&*usual).await;
    another_body_is_refused(&*usual).await;
    looking_up_reserves_nothing(&*usual).await;
    what_appended_nothing_leaves_the_key_free(&*usual).await;
    an_unknown_outcome_keeps_the_event_id(&*usual).await;
    keys_are_scoped_by_tenant_and_principal(&*usual).await;
    a_batch_answers_in_order_and_refuses_a_key_twice(&*usual).await;
    a_settle_counts_once(&*usual).await;
    batches_that_want_each_others_keys_both_end(usual.clone()).await;
    a_key_that_stays_held_is_refused_in_time(&*usual).await;
    one_key_has_one_holder_at_a_time(usual).await;
    let short = make(Terms {
        lease: SHORT_LEASE,
        ..Terms::default()
    })
    .await;
    a_crash_after_the_claim_passes_the_event_id_on(&*short).await;
    whoever_outlives_its_lease_changes_nothing(&*short).await;
    a_holder_that_stays_makes_others_busy(short.clone()).await;
    concurrent_crashes_leave_one_event_id(short).await;
    let fleeting = Terms {
        lease: SHORT_LEASE,
        time_to_live: Duration::from_millis(1500),
    };
    a_key_is_forgotten_in_time(&*make(fleeting).await).await;
}

/// A server that lost its data between claim and settle: what was appended is completed all the same.
///
/// # Panics
/// When the home breaks its contract.
pub async fn flushed(receipts: &dyn Receipts, flush: impl AsyncFnOnce()) {
    let (one, two) = (wanted("crm", "body"), wanted("crm", "body"));
    let (kept, lost) = (fresh(receipts, &one).await, fresh(receipts, &two).await);
    flush().await;
    let again = fresh(
        receipts,
        &Wanted {
            event_id: Uuid::now_v7(),
            ..two.clone()
        },
    )
    .await;
    assert_ne!(again.event_id(), two.event_id, "nothing is left to inherit");
    settle(receipts, kept, 4).await;
    assert_eq!(
        claim(receipts, &one).await,
        Claim::Replayed(receipt(one.event_id, 4))
    );
    // The key was taken by another meanwhile, whose receipt it will be.
    settle(receipts, lost, 5).await;
    let second = again.event_id();
    settle(receipts, again, 6).await;
    assert_eq!(
        claim(receipts, &two).await,
        Claim::Replayed(receipt(second, 6))
    );
}

fn tenant() -> TenantId {
    let name = format!("t-{}", Uuid::now_v7().simple());
    name.parse().expect("a legal tenant")
}

/// A key that no run before has used.
fn wanted(principal: &str, body: &str) -> Wanted {
    Wanted {
        tenant: tenant(),
        once: Once {
            principal: principal.into(),
            key: Uuid::now_v7().to_string(),
            fingerprint: Fingerprint::of_bytes(body.as_bytes()),
        },
        event_id: Uuid::now_v7(),
    }
}

/// The same key again, for another event.
fn again(wanted: &Wanted) -> Wanted {
    Wanted {
        event_id: Uuid::now_v7(),
        ..wanted.clone()
    }
}

fn receipt(event_id: Uuid, offset: u64) -> Receipt {
    Receipt {
        event_id,
        topic: "conformance.receipts".parse().expect("a legal topic"),
        partition: 11,
        offset,
    }
}

async fn claim(receipts: &dyn Receipts, wanted: &Wanted) -> Claim {
    let claims = receipts.claim(vec![wanted.clone()]).await;
    claims
        .expect("the claim succeeds")
        .pop()
        .expect("one claim")
}

async fn fresh(receipts: &dyn Receipts, wanted: &Wanted) -> Hold {
    hold(claim(receipts, wanted).await)
}

fn hold(claim: Claim) -> Hold {
    match claim {
        Claim::Fresh(hold) => hold,
        other => panic!("{other:?} where a fresh claim was expected"),
    }
}

async fn settle(receipts: &dyn Receipts, hold: Hold, offset: u64) {
    let receipt = receipt(hold.event_id(), offset);
    receipts
        .settle(vec![(hold, receipt)])
        .await
        .expect("the settle succeeds");
}

async fn release(receipts: &dyn Receipts, hold: Hold, outcome: Release) {
    receipts
        .release(vec![hold], outcome)
        .await
        .expect("the release succeeds");
}

async fn a_claimed_key_is_settled_and_replayed(receipts: &dyn Receipts) {
    receipts.health().await.expect("the home answers");
    let first = wanted("crm", "body");
    let hold = fresh(receipts, &first).await;
    assert_eq!(hold.event_id(), first.event_id);
    settle(receipts, hold, u64::from(u32::MAX) + 7).await;
    let replayed = Claim::Replayed(receipt(first.event_id, u64::from(u32::MAX) + 7));
    assert_eq!(claim(receipts, &again(&first)).await, replayed);
    assert_eq!(claim(receipts, &again(&first)).await, replayed);
}

async fn another_body_is_refused(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let mut other = again(&first);
    other.once.fingerprint = Fingerprint::of_bytes(b"another body");
    let hold = fresh(receipts, &first).await;
    assert_eq!(
        claim(receipts, &other).await,
        Claim::Reused,
        "while it is reserved"
    );
    settle(receipts, hold, 0).await;
    assert_eq!(
        claim(receipts, &other).await,
        Claim::Reused,
        "when it is completed"
    );
}

async fn what_appended_nothing_leaves_the_key_free(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    release(
        receipts,
        fresh(receipts, &first).await,
        Release::NothingAppended,
    )
    .await;
    let mut other = again(&first);
    other.once.fingerprint = Fingerprint::of_bytes(b"another body");
    let hold = fresh(receipts, &other).await;
    assert_eq!(hold.event_id(), other.event_id);
    settle(receipts, hold, 1).await;
    assert_eq!(
        claim(receipts, &other).await,
        Claim::Replayed(receipt(other.event_id, 1))
    );
}

async fn an_unknown_outcome_keeps_the_event_id(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let begun = Instant::now();
    release(receipts, fresh(receipts, &first).await, Release::Unknown).await;
    let second = fresh(receipts, &again(&first)).await;
    assert!(
        begun.elapsed() < Terms::default().lease,
        "the lease ended at once"
    );
    assert_eq!(second.event_id(), first.event_id);
    // This one knows that it appended nothing itself; of the one before nobody knows.
    release(receipts, second, Release::NothingAppended).await;
    let third = fresh(receipts, &again(&first)).await;
    assert_eq!(third.event_id(), first.event_id);
    settle(receipts, third, 3).await;
    assert_eq!(
        claim(receipts, &again(&first)).await,
        Claim::Replayed(receipt(first.event_id, 3))
    );
}

async fn keys_are_scoped_by_tenant_and_principal(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let with = |tenant: &TenantId, principal: &str, key: &str| {
        let mut other = again(&first);
        other.tenant = tenant.clone();
        (other.once.principal, other.once.key) = (principal.into(), key.into());
        other
    };
    let (own, key) = (&first.tenant, first.once.key.as_str());
    // Spelled one after the other, some of these are the same text.
    let all = [
        with(own, "crm", key),
        with(&tenant(), "crm", key),
        with(own, "crm:", key),
        with(own, "crm", &format!(":{key}")),
        with(own, "cr", &format!("m{key}")),
        with(own, "crm}:{", key),
        with(own, "crm\0", key),
        with(own, "crm\\0", key),
        with(own, "", key),
    ];
    let claims = receipts
        .claim(all.to_vec())
        .await
        .expect("the claim succeeds");
    let holds: Vec<Hold> = claims.into_iter().map(hold).collect();
    for (hold, wanted) in holds.iter().zip(&all) {
        assert_eq!(hold.event_id(), wanted.event_id);
    }
    receipts
        .release(holds, Release::NothingAppended)
        .await
        .expect("the release succeeds");
}

async fn a_batch_answers_in_order_and_refuses_a_key_twice(receipts: &dyn Receipts) {
    let batch: Vec<Wanted> = (0..100).map(|_| wanted("crm", "body")).rev().collect();
    settle(receipts, fresh(receipts, &batch[7]).await, 7).await;
    let mut other = again(&batch[9]);
    other.once.fingerprint = Fingerprint::of_bytes(b"another body");
    settle(receipts, fresh(receipts, &other).await, 9).await;
    let mut twice = batch.clone();
    twice.push(again(&batch[3]));
    let refused = receipts.claim(twice).await;
    assert_eq!(refused, Err(ReceiptsError::Twice(100)));

    let claims = receipts
        .claim(batch.clone())
        .await
        .expect("the claim succeeds");
    let mut holds = Vec::new();
    for (index, (claim, wanted)) in claims.into_iter().zip(&batch).enumerate() {
        match (index, claim) {
            (7, claim) => assert_eq!(claim, Claim::Replayed(receipt(wanted.event_id, 7))),
            (9, claim) => assert_eq!(claim, Claim::Reused),
            (_, claim) => holds.push((hold(claim), wanted.event_id)),
        }
    }
    assert_eq!(holds.len(), 98);
    assert!(
        holds
            .iter()
            .all(|(hold, event_id)| hold.event_id() == *event_id)
    );
    let settled = holds
        .into_iter()
        .map(|(hold, event_id)| (hold, receipt(event_id, 1)))
        .collect();
    receipts.settle(settled).await.expect("the settle succeeds");
    let claims = receipts.claim(batch.iter().map(again).collect()).await;
    let claims = claims.expect("the claim succeeds");
    let replayed = claims
        .iter()
        .filter(|claim| matches!(claim, Claim::Replayed(_)));
    assert_eq!(replayed.count(), 99);
    assert_eq!(receipts.claim(Vec::new()).await, Ok(Vec::new()));
}

async fn looking_up_reserves_nothing(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let other = Wanted {
        once: Once {
            fingerprint: Fingerprint::of_bytes(b"another"),
            ..first.once.clone()
        },
        ..first.clone()
    };
    let look_up = async |wanted: &Wanted| receipts.look_up(again(wanted)).await;
    assert_eq!(look_up(&first).await, Ok(None));
    let held = fresh(receipts, &first).await;
    assert_eq!(held.event_id(), first.event_id, "nothing was reserved");
    let busy = look_up(&first).await;
    assert!(
        matches!(busy, Err(ReceiptsError::Busy { .. })),
        "{busy:?} while another holds it"
    );
    assert_eq!(look_up(&other).await, Ok(Some(Known::Reused)));
    release(receipts, held, Release::Unknown).await;
    assert_eq!(look_up(&first).await, Ok(None), "a claim would inherit it");
    settle(receipts, fresh(receipts, &first).await, 7).await;
    let used = Known::Used(receipt(first.event_id, 7));
    assert_eq!(look_up(&first).await, Ok(Some(used)));
    assert_eq!(look_up(&other).await, Ok(Some(Known::Reused)));
}

async fn a_settle_counts_once(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let count = async || {
        receipts
            .count(first.tenant.clone())
            .await
            .expect("it counts")
    };
    assert_eq!(count().await, 0);
    release(
        receipts,
        fresh(receipts, &first).await,
        Release::NothingAppended,
    )
    .await;
    assert_eq!(count().await, 0);
    settle(receipts, fresh(receipts, &first).await, 0).await;
    assert_eq!(count().await, 1);
    assert!(matches!(claim(receipts, &first).await, Claim::Replayed(_)));
    assert_eq!(count().await, 1);
}

async fn batches_that_want_each_others_keys_both_end(receipts: Arc<dyn Receipts>) {
    let keys: Vec<Wanted> = (0..12).map(|_| wanted("crm", "body")).collect();
    let begun = Instant::now();
    let mut publishes = JoinSet::new();
    for publisher in 0..8 {
        let (receipts, mut batch) = (receipts.clone(), keys.iter().map(again).collect::<Vec<_>>());
        batch.rotate_left(publisher);
        if publisher % 2 == 0 {
            batch.reverse();
        }
        publishes.spawn(async move {
            let claims = receipts.claim(batch).await.expect("the claim succeeds");
            let fresh = claims.into_iter().filter_map(|claim| match claim {
                Claim::Fresh(hold) => Some((receipt(hold.event_id(), 1), hold)),
                _ => None,
            });
            let settled: Vec<_> = fresh.map(|(receipt, hold)| (hold, receipt)).collect();
            let appended = settled.len();
            receipts.settle(settled).await.expect("the settle succeeds");
            appended
        });
    }
    let appended: usize = publishes.join_all().await.iter().sum();
    assert_eq!(appended, keys.len(), "each key was appended once");
    assert!(
        begun.elapsed() < Terms::default().lease,
        "nobody had to wait for a lease"
    );
}

/// 64 publishes with one key, some of which fail: one holder at a time, one event in the end.
async fn one_key_has_one_holder_at_a_time(receipts: Arc<dyn Receipts>) {
    let first = wanted("crm", "body");
    let (holders, failures) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut publishes = JoinSet::new();
    for _ in 0..64 {
        let (receipts, wanted) = (receipts.clone(), again(&first));
        let (holders, failures) = (holders.clone(), failures.clone());
        publishes.spawn(async move {
            match claim(&*receipts, &wanted).await {
                Claim::Replayed(receipt) => (receipt.event_id, false),
                Claim::Reused => panic!("the body is the same"),
                Claim::Fresh(hold) => {
                    assert_eq!(
                        holders.fetch_add(1, Ordering::SeqCst),
                        0,
                        "one holder at a time"
                    );
                    tokio::task::yield_now().await;
                    let event_id = hold.event_id();
                    let fails = failures.fetch_add(1, Ordering::SeqCst) < 3;
                    holders.fetch_sub(1, Ordering::SeqCst);
                    if fails {
                        release(&*receipts, hold, Release::Unknown).await;
                    } else {
                        settle(&*receipts, hold, 1).await;
                    }
                    (event_id, !fails)
                }
            }
        });
    }
    let outcomes = publishes.join_all().await;
    let events: HashSet<Uuid> = outcomes.iter().map(|(event_id, _)| *event_id).collect();
    assert_eq!(events.len(), 1, "one event id");
    assert_eq!(outcomes.iter().filter(|(_, settled)| *settled).count(), 1);
    assert_eq!(receipts.count(first.tenant).await, Ok(1));
}

/// The crash points: after the claim and after the append; the second cannot be told from the first.
async fn a_crash_after_the_claim_passes_the_event_id_on(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    drop(fresh(receipts, &first).await);
    let begun = Instant::now();
    let second = fresh(receipts, &again(&first)).await;
    assert!(begun.elapsed() > SHORT_LEASE / 2, "it waited for the lease");
    assert_eq!(second.event_id(), first.event_id);
    drop(second);
    let third = fresh(receipts, &again(&first)).await;
    assert_eq!(third.event_id(), first.event_id);
    settle(receipts, third, 2).await;
    assert_eq!(
        claim(receipts, &again(&first)).await,
        Claim::Replayed(receipt(first.event_id, 2))
    );
}

async fn whoever_outlives_its_lease_changes_nothing(receipts: &dyn Receipts) {
    let (first, other) = (wanted("crm", "body"), wanted("crm", "body"));
    let (late, gone) = (fresh(receipts, &first).await, fresh(receipts, &other).await);
    let taken = fresh(receipts, &again(&first)).await;
    let kept = fresh(receipts, &again(&other)).await;
    settle(receipts, late, 8).await;
    release(receipts, gone, Release::NothingAppended).await;
    assert_eq!(receipts.count(first.tenant.clone()).await, Ok(0));
    settle(receipts, taken, 9).await;
    settle(receipts, kept, 10).await;
    assert_eq!(
        claim(receipts, &first).await,
        Claim::Replayed(receipt(first.event_id, 9))
    );
    assert_eq!(
        claim(receipts, &other).await,
        Claim::Replayed(receipt(other.event_id, 10))
    );
    assert_eq!(receipts.count(first.tenant).await, Ok(1));

    // Nobody took it over: late, but still in time.
    let slow = wanted("crm", "body");
    let hold = fresh(receipts, &slow).await;
    tokio::time::sleep(SHORT_LEASE + Duration::from_millis(50)).await;
    settle(receipts, hold, 3).await;
    assert_eq!(
        claim(receipts, &slow).await,
        Claim::Replayed(receipt(slow.event_id, 3))
    );
}

async fn a_key_that_stays_held_is_refused_in_time(receipts: &dyn Receipts) {
    let first = wanted("crm", "body");
    let _held = fresh(receipts, &first).await;
    let begun = Instant::now();
    let refused = receipts.claim(vec![again(&first)]).await;
    assert!(
        matches!(refused, Err(ReceiptsError::Busy { .. })),
        "{refused:?}"
    );
    // 2 s are promised; a busy machine adds to them, and what hangs takes longer by far.
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

async fn a_holder_that_stays_makes_others_busy(receipts: Arc<dyn Receipts>) {
    let first = wanted("crm", "body");
    let staying = {
        let (receipts, first) = (receipts.clone(), first.clone());
        // As a chain of slow publishes does: each lease is followed by another.
        tokio::spawn(async move {
            loop {
                match receipts.claim(vec![again(&first)]).await {
                    Ok(claims) => drop(claims),
                    Err(error) => assert!(matches!(error, ReceiptsError::Busy { .. }), "{error}"),
                }
            }
        })
    };
    let mut waiting = JoinSet::new();
    for _ in 0..8 {
        let (receipts, wanted) = (receipts.clone(), again(&first));
        waiting.spawn(async move {
            let begun = Instant::now();
            let busy = matches!(
                receipts.claim(vec![wanted]).await,
                Err(ReceiptsError::Busy { .. })
            );
            (busy, begun.elapsed())
        });
    }
    let waited = waiting.join_all().await;
    staying.abort();
    assert!(waited.iter().any(|(busy, _)| *busy), "{waited:?}");
    let bound = SHORT_LEASE * 2 + Duration::from_secs(2);
    assert!(
        waited.iter().all(|(_, waited)| *waited < bound),
        "{waited:?}"
    );
}

async fn concurrent_crashes_leave_one_event_id(receipts: Arc<dyn Receipts>) {
    let first = wanted("crm", "body");
    drop(fresh(&*receipts, &first).await);
    let mut publishes = JoinSet::new();
    for _ in 0..16 {
        let (receipts, wanted) = (receipts.clone(), again(&first));
        publishes.spawn(async move {
            match claim(&*receipts, &wanted).await {
                Claim::Fresh(hold) => {
                    let event_id = hold.event_id();
                    settle(&*receipts, hold, 1).await;
                    event_id
                }
                Claim::Replayed(receipt) => receipt.event_id,
                Claim::Reused => panic!("the body is the same"),
            }
        });
    }
    let events: HashSet<Uuid> = publishes.join_all().await.into_iter().collect();
    assert_eq!(events, HashSet::from([first.event_id]));
}

async fn a_key_is_forgotten_in_time(receipts: &dyn Receipts) {
    let (settled, reserved) = (wanted("crm", "body"), wanted("crm", "body"));
    settle(receipts, fresh(receipts, &settled).await, 1).await;
    drop(fresh(receipts, &reserved).await);
    assert!(matches!(
        claim(receipts, &settled).await,
        Claim::Replayed(_)
    ));
    tokio::time::sleep(Duration::from_millis(1600)).await;
    for before in [settled, reserved] {
        let mut other = again(&before);
        other.once.fingerprint = Fingerprint::of_bytes(b"another body");
        let hold = fresh(receipts, &other).await;
        assert_eq!(hold.event_id(), other.event_id, "nothing is left of it");
        release(receipts, hold, Release::NothingAppended).await;
    }
}

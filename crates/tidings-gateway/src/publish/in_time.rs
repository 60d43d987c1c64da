//! The promise of an answer within 2 s, where each step takes as long as it may, and what that answer says.

use tidings_bus::{Known, Pending};
use tidings_event::TenantId;
use tidings_receipts::{Claim, InMemory, ReceiptsError, Terms, Wanted};
use tokio::time::sleep;

use super::*;
use crate::access::on_behalf_of;
use crate::in_memory::{self, Troubled};
use crate::{Gateway, Parts};

/// A home of keys that takes as long for each question as a caller can wait.
struct Slow;

const SLOW: Duration = Duration::from_millis(1_500);

async fn slow() -> Result<(), ReceiptsError> {
    sleep(SLOW).await;
    Ok(())
}

impl Receipts for Slow {
    fn claim(&self, wanted: Vec<Wanted>) -> Pending<'_, Result<Vec<Claim>, ReceiptsError>> {
        Box::pin(async move {
            sleep(SLOW).await;
            InMemory::new(Terms::default()).claim(wanted).await
        })
    }

    fn look_up(&self, _: Wanted) -> Pending<'_, Result<Option<Known>, ReceiptsError>> {
        Box::pin(async { slow().await.map(|()| None) })
    }

    fn settle(&self, _: Vec<(Hold, Receipt)>) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(slow())
    }

    fn release(&self, _: Vec<Hold>, _: Release) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(slow())
    }

    fn count(&self, _: TenantId) -> Pending<'_, Result<u64, ReceiptsError>> {
        Box::pin(async { Ok(0) })
    }

    fn health(&self) -> Pending<'_, Result<(), ReceiptsError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A gateway with this home of keys on a bus that does not answer.
async fn without_an_answer(receipts: Arc<dyn Receipts>) -> (Arc<Troubled>, Gateway) {
    let parts = in_memory::parts(&Clock::manual(0)).await;
    let bus = Arc::new(Troubled::new(parts.bus.clone()));
    bus.hangs(true);
    let parts = Parts {
        bus: bus.clone(),
        receipts: Some(receipts),
        ..parts
    };
    (bus, Gateway::open(parts).await.unwrap())
}

#[tokio::test]
async fn an_answer_comes_within_2_s_however_slow_each_step_is() {
    let (_bus, gateway) = without_an_answer(Arc::new(Slow)).await;
    let caller = on_behalf_of(tidings_event::Service::Audit, "acme".parse().unwrap());
    tokio::time::pause();
    let begun = Instant::now();
    let refused = gateway
        .publish(Command::one(caller, in_memory::draft("{}"), None))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::BrokerUnavailable);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn what_may_have_been_published_is_named_with_the_key_to_ask_again_under() {
    let receipts = InMemory::new(Terms::default());
    let (bus, gateway) = without_an_answer(Arc::new(receipts)).await;
    let of = |keys: &[Option<&str>]| {
        let drafts = keys.iter().map(|key| {
            let mut draft = in_memory::draft("{}");
            draft.idempotency_key = key.map(str::to_owned);
            Ok(draft)
        });
        let caller = on_behalf_of(tidings_event::Service::Audit, "acme".parse().unwrap());
        Command {
            drafts: drafts.collect(),
            alone: keys.len() == 1,
            ..Command::one(caller, in_memory::draft("{}"), None)
        }
    };
    tokio::time::pause();
    let refused = gateway.publish(of(&[None, Some("k"), None])).await;
    let asked = refused
        .unwrap_err()
        .accepted
        .expect("what may stand")
        .events;
    let keys: Vec<_> = asked.iter().map(|it| it.idempotency_key.as_str()).collect();
    assert_eq!(keys[1], "k");
    assert_eq!(keys[0], asked[0].event_id.to_string());

    bus.hangs(false);
    let again: Vec<_> = keys.iter().copied().map(Some).collect();
    let published = gateway.publish(of(&again)).await.unwrap();
    let published = published.iter().map(|it| it.event_id);
    assert!(published.eq(asked.iter().map(|it| it.event_id)));

    // What was certainly not appended is nothing to ask after.
    bus.is_away(true);
    let refused = gateway.publish(of(&[None])).await.unwrap_err();
    assert_eq!(refused.accepted, None);
}

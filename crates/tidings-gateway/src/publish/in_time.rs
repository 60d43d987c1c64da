//! The promise of an answer within 2 s, where each step takes as long as it may.

use tidings_bus::Pending;
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

#[tokio::test]
async fn an_answer_comes_within_2_s_however_slow_each_step_is() {
    let clock = Clock::manual(0);
    let parts = in_memory::parts(&clock).await;
    let bus = Arc::new(Troubled::new(parts.bus.clone()));
    bus.hangs();
    let parts = Parts {
        bus,
        receipts: Some(Arc::new(Slow)),
        ..parts
    };
    let gateway = Gateway::open(parts).await.unwrap();
    let caller = on_behalf_of(tidings_event::Service::Audit, "acme".parse().unwrap());
    tokio::time::pause();
    let begun = Instant::now();
    let refused = gateway
        .publish(Command::one(caller, in_memory::draft("{}"), None))
        .await;
    assert_eq!(refused.unwrap_err().code, Code::BrokerUnavailable);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

//! What every room does with the store: it carries a change through, and says what a failure means to whoever asked.

use std::time::Duration;

use tidings_event::Code;
use tidings_store::StoreError;

use crate::publish::refusal::{Refusal, Rule};

/// Runs a change to its end even when its caller stops waiting: store and rulebook must agree.
pub(crate) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|error| Err(Refusal::fault("The change", &error)))
}

/// What a failure of the store means to whoever asked.
pub(crate) fn store_fault(error: StoreError) -> Refusal {
    if error.is_full() {
        return Refusal::new(
            Code::StorageFull,
            Rule::Append,
            "The store has no room left; nothing was changed.",
        );
    }
    if error.is_unavailable() {
        tracing::warn!(%error, "the store is not available");
        return store_late();
    }
    Refusal::fault("The store", &error)
}

/// Others change the same thing again and again, so that each change decided here came too late. `what` begins a sentence:
/// "The tenant".
pub(crate) fn contended(what: &str) -> Refusal {
    let detail = format!("{what} is being changed elsewhere all the time; try again.");
    Refusal::new(Code::RateLimited, Rule::RateLimit, detail).retry_after(Duration::from_secs(1))
}

/// The store does not answer in time.
pub(crate) fn store_late() -> Refusal {
    Refusal::new(
        Code::BrokerUnavailable,
        Rule::Append,
        "The store cannot be reached now; try again.",
    )
    .retry_after(Duration::from_secs(1))
}

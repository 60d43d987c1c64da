//! Damaged rows of the store: told of, and passed over where others are not to wait for them.

use tidings_store::{Found, StoreError};

use crate::publish::refusal::Refusal;
use crate::storing::store_fault;

/// When something damaged is looked at again: a backup may have been brought back.
pub(crate) const DAMAGED_AGAIN_MS: i64 = 60 * 60 * 1_000;

/// The sound rows of what was read for somebody who asked. What is wrong with the others stands in the log.
pub(crate) fn sound<T>(found: Result<Found<T>, StoreError>) -> Result<Vec<T>, Refusal> {
    let found = found.map_err(store_fault)?;
    for error in &found.damaged {
        tracing::error!(%error, "a damaged row is passed over");
    }
    Ok(found.rows)
}

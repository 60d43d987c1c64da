//! Damaged rows of the store, and documents in it that this version cannot read: told of, and passed over where others are
//! not to wait for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidings_store::{Found, Store, StoreError};

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

/// The documents of one kind that stand in the store and cannot be read, each by what it is called by, with why.
#[derive(Debug)]
pub(crate) struct Unread {
    what: &'static str,
    known: Mutex<BTreeMap<String, String>>,
}

impl Unread {
    /// None yet of a kind: "catalogue".
    pub(crate) fn of(what: &'static str) -> Self {
        let known = Mutex::default();
        Self { what, known }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of now. What is new among them is told of in the log.
    pub(crate) fn renew(&self, unread: BTreeMap<String, String>) {
        let mut known = self.known();
        for (name, why) in unread
            .iter()
            .filter(|(name, why)| known.get(*name) != Some(why))
        {
            tracing::error!(
                what = self.what,
                name,
                why,
                "a document in the store cannot be read; the others are in force"
            );
        }
        *known = unread;
    }

    /// Whether the one of this name is among them.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.known().contains_key(name)
    }

    /// A sentence for each: "catalogue shop: ...".
    pub(crate) fn sentences(&self) -> Vec<String> {
        let known = self.known();
        let each = known
            .iter()
            .map(|(name, why)| sentence(self.what, name, why));
        each.collect()
    }
}

fn sentence(what: &str, name: &str, why: &str) -> String {
    format!("{what} {name}: {why}")
}

/// The damaged rows of documents, each by its name, with why.
pub(crate) fn damaged(errors: &[StoreError]) -> BTreeMap<String, String> {
    let each = errors.iter().map(|error| {
        let name = error.row().unwrap_or_default().to_owned();
        (name, error.to_string())
    });
    each.collect()
}

/// The manifests and catalogues of a store that this version cannot read, a sentence for each. Damaged rows are not looked at
/// again: the store itself finds them.
pub async fn unread_documents(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut sentences = Vec::new();
    for row in store.manifests().list().await?.rows {
        if let Err(refusal) = crate::manifests::recorded(&row) {
            let name = row.module_id.as_str();
            sentences.push(sentence("manifest", name, &refusal.detail));
        }
    }
    for row in store.catalogs().list().await?.rows {
        if let Err(why) = crate::catalogs::recorded(&row.document).await {
            sentences.push(sentence("catalogue", row.name.as_str(), &why));
        }
    }
    Ok(sentences)
}

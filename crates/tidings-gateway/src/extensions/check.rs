//! What an extension must be before it is written.

use tidings_event::EventType;
use tidings_store::ExtensionRow;

use super::{EXTERNAL, Extensions, IN_PROCESS, document, events_url};
use crate::publish::refusal::Refusal;

impl Extensions {
    /// Whether this binary has the plugin of an extension that is to get anything.
    fn has_plugin(&self, row: &ExtensionRow) -> Result<(), Refusal> {
        let gets = row.installed && row.enabled;
        if !gets || self.in_process.plugins.keys(&row.id).is_some() {
            return Ok(());
        }
        let detail = format!(
            "This installation has no plugin '{}', so the extension would get nothing; run a binary that has it, or add its component.",
            row.id
        );
        Err(Refusal::invalid("extensionId", detail))
    }

    /// Whether the plugin of an extension, if it is one in process, handles an event.
    pub(super) fn handled(
        &self,
        extension: &ExtensionRow,
        event_key: &EventType,
    ) -> Result<(), Refusal> {
        if extension.kind != IN_PROCESS {
            return Ok(());
        }
        let keys = self.in_process.plugins.keys(&extension.id);
        if keys
            .as_ref()
            .is_some_and(|keys| keys.contains_key(event_key))
        {
            return Ok(());
        }
        let handled = keys.iter().flat_map(|keys| keys.keys());
        let handled: Vec<_> = handled.map(EventType::as_str).collect();
        let detail = format!(
            "The plugin '{}' has no handler for '{event_key}'; it has: {}.",
            extension.id,
            handled.join(", ")
        );
        Err(Refusal::invalid("eventKey", detail))
    }

    pub(super) fn check(&self, row: &ExtensionRow) -> Result<(), Refusal> {
        match (row.kind.as_str(), events_url(row)) {
            (IN_PROCESS, None) => self.has_plugin(row),
            (IN_PROCESS, Some(_)) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "An extension in process has no 'serviceBaseUrl'.",
            )),
            (EXTERNAL, None) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "An external service needs a 'serviceBaseUrl'; its events go to /events under it.",
            )),
            (EXTERNAL, Some(url)) if url.contains(['?', '#']) => Err(Refusal::invalid(
                "serviceBaseUrl",
                "'serviceBaseUrl' has neither a query nor a fragment.",
            )),
            (EXTERNAL, Some(_)) => {
                let checked = self.subscriptions.check(document(row, "a.b"));
                checked.map_err(|refusal| refusal.field("serviceBaseUrl"))
            }
            _ => Err(Refusal::invalid(
                "kind",
                format!("'kind' must be {EXTERNAL} or {IN_PROCESS}."),
            )),
        }
    }
}

//! A new secret for an extension: one for all that it gets.

use std::sync::Arc;
use std::time::Duration;

use tidings_egress::Secret;
use tidings_event::{Code, ExtensionId};

use super::{EXTERNAL, Extensions};
use crate::access::Caller;
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::Workspace;
use crate::secrets::random;
use crate::storing::to_its_end;
use crate::subscription::Subscription;
use crate::subscriptions::{Change, VerifyingSecret};

impl Extensions {
    /// Signs whatever an external service gets with a new secret, and with the one before until `overlap` ends; what it
    /// verifies with then, newest first. One that ended half-way is finished by the next.
    pub async fn rotate(
        self: &Arc<Self>,
        caller: &Caller,
        workspace: &str,
        id: &ExtensionId,
        secret: Option<String>,
        overlap: Duration,
    ) -> Result<Vec<VerifyingSecret>, Refusal> {
        let workspace = self.workspaces.administered(caller, workspace)?;
        let (room, caller, id) = (self.clone(), caller.clone(), id.clone());
        to_its_end(async move {
            let rotated = Box::pin(room.rotate_all(&caller, &workspace, &id, secret, overlap));
            room.turns.alone(&workspace, &id, rotated).await
        })
        .await
    }

    async fn rotate_all(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        id: &ExtensionId,
        secret: Option<String>,
        overlap: Duration,
    ) -> Result<Vec<VerifyingSecret>, Refusal> {
        let refused = |detail| Refusal::new(Code::InvalidRequest, Rule::Shape, detail);
        if self.one(workspace, id).await?.kind != EXTERNAL {
            return Err(refused("Only an EXTERNAL_SERVICE has a secret."));
        }
        // All are read before any changes: one that cannot be read refuses the whole.
        let mut all = Vec::new();
        for row in self.all(workspace, id).await? {
            let kept = self.subscriptions.kept(&workspace.tenant, row.subscription);
            all.extend(kept.await?);
        }
        let Some(first) = all.first() else {
            let detail = "The extension has no secret yet; its first subscription makes one.";
            return Err(refused(detail));
        };
        // They are changed in this order, so where they differ the first has what the others were to get. Another new one
        // would take from it the one that the receiver knows.
        let ahead = newest(first);
        let unfinished = all.iter().any(|it| newest(it) != ahead);
        let secret = secret.or(ahead.filter(|_| unfinished));
        let change = Change::Rotate {
            secret: Some(
                secret.unwrap_or_else(|| Secret::from_random(random()).to_text().to_string()),
            ),
            overlap,
        };
        let mut secrets = Vec::new();
        for one in &all {
            let rotated = self
                .subscriptions
                .rotate_of(caller, &workspace.tenant, one.id, &change)
                .await?;
            secrets = rotated.unwrap_or(secrets);
        }
        Ok(secrets)
    }
}

fn newest(subscription: &Subscription) -> Option<String> {
    let newest = subscription.signing.first();
    newest.map(|(secret, _)| secret.to_text().to_string())
}

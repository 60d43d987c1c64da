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
use crate::subscriptions::{Change, VerifyingSecret};

impl Extensions {
    /// Signs whatever an external service gets with a new secret, and with the one before until `overlap` ends; what it
    /// verifies with then, newest first. Where a crash or a refusal ends it half-way, to rotate again makes all one again.
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
            let secret =
                secret.unwrap_or_else(|| Secret::from_random(random()).to_text().to_string());
            let change = Change::Rotate {
                secret: Some(secret),
                overlap,
            };
            let rotated = Box::pin(room.rotate_all(&caller, &workspace, &id, &change));
            room.turns.alone(&workspace, &id, rotated).await
        })
        .await
    }

    async fn rotate_all(
        &self,
        caller: &Caller,
        workspace: &Workspace,
        id: &ExtensionId,
        change: &Change,
    ) -> Result<Vec<VerifyingSecret>, Refusal> {
        let refused = |detail| Refusal::new(Code::InvalidRequest, Rule::Shape, detail);
        if self.one(workspace, id).await?.kind != EXTERNAL {
            return Err(refused("Only an EXTERNAL_SERVICE has a secret."));
        }
        let mut secrets = None;
        for row in self.all(workspace, id).await? {
            if let Some(subscription) = row.subscription {
                let rotated = self
                    .subscriptions
                    .rotate_of(caller, &workspace.tenant, subscription, change)
                    .await?;
                secrets = rotated.or(secrets);
            }
        }
        let none = "The extension has no secret yet; its first subscription makes one.";
        secrets.ok_or_else(|| refused(none))
    }
}

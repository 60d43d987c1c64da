//! A plugin in this process: its handler of the event is called, on a thread where it may block.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Handover, Outcome, Target};
use crate::plugins::causing::Causing;
use crate::plugins::{Call, InProcess, When, platform_event, until};
use crate::publish::Line;
use crate::subscription::Receiver;

/// Calls handlers.
pub struct Handlers {
    line: Arc<Line>,
    in_process: Arc<InProcess>,
}

impl Handlers {
    /// Of these plugins; what they cause is published by the line.
    pub(crate) fn new(line: Arc<Line>, in_process: Arc<InProcess>) -> Self {
        Self { line, in_process }
    }
}

impl Target for Handlers {
    fn hand_over(&self, handover: Handover) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let subscription = &handover.subscription;
            let Receiver::InProcess { extension, .. } = &subscription.target else {
                return Outcome::failed("the subscription is of no plugin", false);
            };
            let means = &self.in_process;
            let causing = Arc::new(Causing::new(
                self.line.clone(),
                means.store.clone(),
                means.clock.clone(),
                extension.clone(),
                (**handover.event).clone(),
            ));
            let ended = causing.ended();
            let event = match platform_event(&handover.event, causing) {
                Ok(event) => event,
                Err(sentence) => return Outcome::failed(sentence, false),
            };
            let call = Call {
                extension,
                when: When::Afterwards,
                event,
                ended,
                until: until(subscription.delivery.timeout),
            };
            match means.plugins.run(call).await {
                Ok(()) => Outcome::delivered(),
                Err(sentence) => Outcome::failed(sentence, false),
            }
        })
    }
}

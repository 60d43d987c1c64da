//! A plugin in this process: its handler of the event is called, on a thread where it may block.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Handover, Outcome, Target};
use crate::plugins::{InProcess, When, until};
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
            let (when, until) = (When::Afterwards, until(subscription.delivery.timeout));
            let handled =
                self.in_process
                    .handle(&self.line, extension, when, &handover.event, until);
            match handled.await {
                Ok(()) => Outcome::delivered(),
                Err(sentence) => Outcome::failed(sentence, false),
            }
        })
    }
}

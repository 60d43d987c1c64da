//! What a hand-over says of the host that it went to.

use super::Dispatcher;
use super::attempt::Ended;
use super::schedule::FORGOTTEN_AFTER;
use super::target::Verdict;
use crate::clock::has_passed;

impl Dispatcher {
    pub(super) fn note_host(&mut self, ended: &Ended, now: i64) {
        if has_passed(FORGOTTEN_AFTER, self.breakers_looked_at_ms, now) {
            self.breakers_looked_at_ms = now;
            self.breakers.retain(|_, breaker| !breaker.is_old(now));
        }
        let place = (ended.tenant.clone(), ended.host.clone());
        if ended.made.outcome.verdict == Verdict::Unable {
            self.part.counted().unable();
            if self.breakers.entry(place).or_default().hold(now) {
                tracing::warn!(
                    tenant = ended.tenant.as_str(),
                    host = ended.host,
                    error = ended.made.outcome.error.as_deref(),
                    "nothing can be sent for want of something of our own; it is tried again"
                );
            }
            return;
        }
        let unreachable = matches!(
            ended.made.outcome.verdict,
            Verdict::Failed {
                unreachable: true,
                ..
            }
        );
        if unreachable {
            if self.breakers.entry(place).or_default().failed(now) {
                tracing::warn!(
                    tenant = ended.tenant.as_str(),
                    host = ended.host,
                    "the breaker opens"
                );
            }
        } else if let Some(breaker) = self.breakers.get_mut(&place) {
            if ended.made.outcome.verdict == Verdict::Unasked {
                breaker.was_not_asked();
                return;
            }
            breaker.succeeded();
            if breaker.is_idle() {
                self.breakers.remove(&place);
            }
        }
    }
}

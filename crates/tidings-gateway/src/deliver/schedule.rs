//! When something may be sent: the waits between attempts, the rate of a subscription, the breaker of a host, and
//! whose turn it is. Pure: told the time, never asking.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use super::queue::Held;
use crate::clock::has_passed;
use crate::subscription::Rate;

/// Failures in a row that open a breaker.
const FAILURES: u32 = 10;
/// How long it stays open the first time; doubled at each failed trial.
const OPEN: Duration = Duration::from_secs(5);
/// It never stays open longer than this.
const LONGEST_OPEN: Duration = Duration::from_mins(5);
/// So long nothing is sent to a host for want of something of our own.
pub(super) const HELD: Duration = Duration::from_secs(1);

/// So long after its last failure a host has nothing against it any more: twice as long as any breaker stays open.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// Milliseconds, for sums with times.
pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whether a time, in ms since 1970, is still to come that was at most so far ahead when it was set. One that is further
/// ahead was set before the clock was set back, and counts as come.
pub(super) fn is_to_come(at_ms: i64, at_most: Duration, now_ms: i64) -> bool {
    now_ms < at_ms && at_ms.saturating_sub(now_ms) <= ms(at_most)
}

/// The wait before the next attempt after so many, or `None` when they are used up. `jitter` is 0 to 1.
///
/// A tenth of the wait at most is added, so that deliveries that failed together do not come back together.
pub(super) fn next_wait(schedule: &[Duration], attempts: u32, jitter: f64) -> Option<Duration> {
    let made = usize::try_from(attempts).unwrap_or(usize::MAX);
    let wait = *schedule.get(made.checked_sub(1)?)?;
    Some(wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0))
}

/// A rate, kept by the time that the next may go (GCRA, with a burst of one second).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    earliest_us: i64,
}

impl Pace {
    /// Whether there is one to take; if not, when there will be, in ms since 1970.
    pub(super) fn ready(self, rate: Rate, now_ms: i64) -> Result<(), i64> {
        let burst = burst_us(rate);
        let earliest = self.earliest_us(rate, now_ms);
        if earliest - now_ms.saturating_mul(1_000) > burst {
            return Err((earliest - burst + 999) / 1_000);
        }
        Ok(())
    }

    /// Takes one.
    pub(super) fn take(&mut self, rate: Rate, now_ms: i64) {
        self.earliest_us = self.earliest_us(rate, now_ms) + rate.interval_us();
    }

    /// The time of the next as it is kept, or now: what is further ahead than a burst and one more was kept before the clock
    /// was set back, or at a slower rate.
    fn earliest_us(self, rate: Rate, now_ms: i64) -> i64 {
        let now = now_ms.saturating_mul(1_000);
        let ahead = self.earliest_us.saturating_sub(now);
        let most = burst_us(rate) + rate.interval_us();
        if (0..=most).contains(&ahead) {
            self.earliest_us
        } else {
            now
        }
    }
}

/// How far ahead of its rate one may be, in µs.
fn burst_us(rate: Rate) -> i64 {
    (1_000_000 - rate.interval_us()).max(0)
}

/// Whether a host is worth trying: closed until it fails often in a row, then open, then one trial. It is open for a moment,
/// too, where we ourselves lack what it takes to ask: that says nothing of the host, so one trial that fails opens nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaker {
    failures: u32,
    open_until_ms: Option<i64>,
    opened: u32,
    trying: bool,
    /// When it last failed, or could not be asked.
    failed_at_ms: i64,
}

impl Breaker {
    /// Whether one may go; if not, when to ask again, in ms since 1970.
    pub(super) fn admit(&mut self, now_ms: i64) -> Result<(), i64> {
        match self.open_until_ms {
            None => Ok(()),
            Some(until) if is_to_come(until, LONGEST_OPEN, now_ms) => Err(until),
            // The trial's outcome decides for the others.
            Some(_) if self.trying => Err(now_ms + ms(OPEN)),
            Some(_) => {
                self.trying = true;
                Ok(())
            }
        }
    }

    /// The host has answered something that is not its failing.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The one that was to go did not reach the host: another may try.
    pub(super) fn was_not_asked(&mut self) {
        self.trying = false;
    }

    /// Nothing can be sent for want of something of our own: for a moment nothing goes. True where something might have gone.
    pub(super) fn hold(&mut self, now_ms: i64) -> bool {
        self.trying = false;
        self.failed_at_ms = now_ms;
        let was_open = self.open_until_ms;
        self.open_until_ms = was_open.max(Some(now_ms + ms(HELD)));
        was_open.is_none()
    }

    /// What it is for that it lets nothing through.
    pub(super) fn holds_for(&self) -> Held {
        if self.opened > 0 {
            Held::Breaker
        } else {
            Held::Unable
        }
    }

    /// Whether nothing has failed there for so long that it says nothing any more, and nobody is trying.
    pub(super) fn is_old(&self, now_ms: i64) -> bool {
        !self.trying && has_passed(FORGOTTEN_AFTER, self.failed_at_ms, now_ms)
    }

    /// The host has failed. True when that opened the breaker.
    pub(super) fn failed(&mut self, now_ms: i64) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failed_at_ms = now_ms;
        let has_opened = self.opened > 0;
        let trial = std::mem::take(&mut self.trying) && has_opened;
        let opens = trial || (!has_opened && self.failures >= FAILURES);
        if !opens && !has_opened {
            // It could be asked: nothing of our own is lacking any more.
            self.open_until_ms = None;
        }
        if opens {
            let open = OPEN
                .saturating_mul(1 << self.opened.min(10))
                .min(LONGEST_OPEN);
            self.opened += 1;
            self.open_until_ms = Some(now_ms + ms(open));
        }
        opens && !trial
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self) -> bool {
        self.failures == 0 && self.open_until_ms.is_none()
    }
}

/// Whose turn it is: owners take turns, and within an owner its members do, so that one who has much to do
/// does not keep another waiting.
#[derive(Debug)]
pub(super) struct Turns<O, M> {
    owners: VecDeque<O>,
    members: HashMap<O, VecDeque<M>>,
}

impl<O, M> Default for Turns<O, M> {
    fn default() -> Self {
        Self {
            owners: VecDeque::new(),
            members: HashMap::new(),
        }
    }
}

impl<O: Clone + Eq + Hash, M: Eq> Turns<O, M> {
    /// Puts a member at the end of its owner's line. The caller sees to it that none stands there twice.
    pub(super) fn push(&mut self, owner: &O, member: M) {
        let line = self.members.entry(owner.clone()).or_default();
        if line.is_empty() {
            self.owners.push_back(owner.clone());
        }
        line.push_back(member);
    }

    /// Whether nobody stands in line.
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The next whose turn it is, of owners that may have one.
    pub(super) fn pop(&mut self, may: impl Fn(&O) -> bool) -> Option<M> {
        for _ in 0..self.owners.len() {
            let owner = self.owners.pop_front()?;
            if !may(&owner) {
                self.owners.push_back(owner);
                continue;
            }
            let line = self.members.get_mut(&owner)?;
            let member = line.pop_front();
            if line.is_empty() {
                self.members.remove(&owner);
            } else {
                self.owners.push_back(owner);
            }
            return member;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn waits_follow_the_schedule_with_a_tenth_of_jitter_at_most() {
        let schedule = [5, 300].map(Duration::from_secs);
        assert_eq!(next_wait(&schedule, 1, 0.0), Some(Duration::from_secs(5)));
        assert_eq!(
            next_wait(&schedule, 1, 1.0),
            Some(Duration::from_millis(5_500))
        );
        assert_eq!(next_wait(&schedule, 2, 0.0), Some(Duration::from_mins(5)));
        assert_eq!(next_wait(&schedule, 3, 0.0), None);
        assert_eq!(next_wait(&schedule, 0, 0.0), None);
    }

    #[test]
    fn a_pace_lets_through_its_rate_and_no_more() {
        let rate = Rate::per_second(50);
        let (mut pace, mut sent, mut now) = (Pace::default(), 0, 1_000_000);
        while now < 1_010_000 {
            match pace.ready(rate, now) {
                Ok(()) => {
                    pace.take(rate, now);
                    sent += 1;
                }
                Err(again) => {
                    assert!(again > now);
                    now = again;
                }
            }
        }
        // 10 s of 50 a second, and the burst of the first.
        assert!((500..=550).contains(&sent), "{sent}");
    }

    #[test]
    fn a_rate_below_one_a_second_has_no_burst() {
        let (rate, mut pace) = (Rate::per_minute(6), Pace::default());
        for now in [1_000, 11_000] {
            assert_eq!(pace.ready(rate, now), Ok(()));
            pace.take(rate, now);
            assert_eq!(pace.ready(rate, now), Err(now + 10_000));
            assert_eq!(pace.ready(rate, now + 9_999), Err(now + 10_000));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let clock = Clock::manual(1_700_000_000_000);
        let (second, begun) = (Duration::from_secs(1), clock.now_ms());
        let (rate, mut pace, mut breaker) = (Rate::per_minute(6), Pace::default(), open_at(begun));
        pace.take(rate, begun);
        for (at, passed) in [(begun, false), (begun + 999, false), (begun + 1_000, true)] {
            clock.set(at);
            assert_eq!(has_passed(second, begun, clock.now_ms()), passed);
            assert_eq!(is_to_come(begun + 1_000, second, clock.now_ms()), !passed);
        }
        clock.set(begun - 3_600_000);
        let now = clock.now_ms();
        assert!(has_passed(second, begun, now));
        assert!(!is_to_come(begun + 1_000, second, now));
        assert_eq!(pace.ready(rate, now), Ok(()));
        pace.take(rate, now);
        assert_eq!(pace.ready(rate, now), Err(now + 10_000));
        assert_eq!(breaker.admit(now), Ok(()));
        assert!(open_at(begun).is_old(now));
    }

    fn open_at(now: i64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_closes_after_a_good_trial() {
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(0));
        }
        breaker.succeeded();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(0));
        }
        assert!(breaker.failed(0));
        assert_eq!(breaker.admit(1), Err(5_000));
        assert_eq!(breaker.admit(5_000), Ok(()));
        assert!(breaker.admit(5_000).is_err(), "one trial at a time");
        breaker.was_not_asked();
        assert_eq!(breaker.admit(5_000), Ok(()), "another tries");
        assert!(!breaker.failed(5_000));
        let old = 5_000 + ms(FORGOTTEN_AFTER);
        assert!(!breaker.is_old(old - 1));
        assert!(breaker.is_old(old));
        assert_eq!(breaker.admit(14_999), Err(15_000), "twice as long");
        assert_eq!(breaker.admit(15_000), Ok(()));
        breaker.succeeded();
        assert!(breaker.is_idle());
    }

    #[test]
    fn what_we_lack_ourselves_counts_against_no_host() {
        let mut breaker = Breaker::default();
        assert!(breaker.hold(0));
        assert!(!breaker.hold(1), "it is told of once");
        let until = 1 + ms(HELD);
        assert_eq!(breaker.admit(until - 1), Err(until));
        assert_eq!(breaker.admit(until), Ok(()));
        assert!(breaker.admit(until).is_err(), "one trial at a time");
        assert!(!breaker.failed(until));
        assert_eq!(breaker.admit(until), Ok(()), "one failure opens nothing");
        for _ in 2..FAILURES {
            assert!(!breaker.failed(until));
        }
        assert!(breaker.failed(until));
        assert!(!breaker.hold(until));
        assert_eq!(breaker.admit(until), Err(until + ms(OPEN)));
        let last = until + ms(OPEN);
        assert!(!breaker.hold(last));
        assert_eq!(breaker.admit(last), Err(last + ms(HELD)));
        breaker.succeeded();
        assert!(breaker.is_idle());
    }

    #[test]
    fn who_has_much_to_do_does_not_keep_others_waiting() {
        let mut turns = Turns::default();
        for member in 0..5 {
            turns.push(&"loud", ("loud", member));
        }
        turns.push(&"quiet", ("quiet", 0));
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(|_| true)).collect();
        assert_eq!(order[..3], [("loud", 0), ("quiet", 0), ("loud", 1)]);
        assert_eq!(order.len(), 6);
        turns.push(&"loud", ("loud", 0));
        assert_eq!(turns.pop(|owner| *owner != "loud"), None);
        assert_eq!(turns.pop(|_| true), Some(("loud", 0)));
    }
}

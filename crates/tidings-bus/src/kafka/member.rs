//! A place in a consumer group that shares a topic's partitions out, without reading any: who has a partition looks
//! after the tenants whose keys fall on it, in all topics.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, TopicPartitionList};
use tidings_event::Topic;
use tokio::runtime::Handle;

use super::login::{Logins, Said};
use super::topics::Topics;
use super::{Config, login};
use crate::group::{Desk, Membership};

/// A member that says nothing for so long is dead: its partitions go to others (Kafka's own lower limit).
const DEAD_AFTER: &str = "6000";
/// How often a member says that it lives, and hears that partitions are to change hands.
const HEARTBEAT: &str = "1000";
/// How often the thread looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);
/// How long partitions that go to another may be worked on: longer than deliveries drain for.
const LET_GO: Duration = Duration::from_secs(8);
/// How long a member may take to join again, letting go included.
const JOINS_WITHIN: &str = "10000";
/// The wait before the topic is asked for again, and the first before the client tries to join again.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest wait before the client tries to join again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Hears from the group which partitions come and go.
struct Listener {
    desk: Arc<Desk>,
    of: u32,
    logins: Option<Arc<dyn Logins>>,
    said: Said,
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.said.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(&error, reason);
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        login::shown(self.logins.as_ref())
    }
}

impl ConsumerContext for Listener {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let partitions = numbers(list);
            if !self.desk.take_back(&partitions, LET_GO) {
                tracing::warn!(
                    ?partitions,
                    "partitions go to another before they are let go"
                );
            }
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // What is in them is read elsewhere.
                if let Err(error) = consumer.pause(list) {
                    tracing::warn!(%error, "assigned partitions are read needlessly");
                }
                // Those that were given before stay, and are not among them.
                let mut partitions = numbers(list);
                let is_nothing_new = partitions.is_empty();
                // No tenant is on those that do not count.
                partitions.retain(|number| *number < self.of);
                if partitions.is_empty() && !is_nothing_new {
                    tracing::warn!(
                        "the group gave only partitions that do not count; others deliver"
                    );
                }
                self.desk.give(partitions, self.of);
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "partitions are not shared out"),
        }
    }
}

fn numbers(list: &TopicPartitionList) -> BTreeSet<u32> {
    let elements = list.elements();
    let numbers = elements
        .iter()
        .filter_map(|it| u32::try_from(it.partition()).ok());
    numbers.collect()
}

/// The thread that keeps the place; its drop ends it and leaves the group.
struct Member {
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Ends the wait of the thread, if it waits.
    fn wake(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.as_ref() {
            thread.thread().unpark();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wake();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a consumer group's member panicked");
        }
    }
}

/// Makes what a member reads with, however often that has to be tried: without it nothing would be delivered here for as
/// long as the process lives. None when it is to end before.
fn until_made<T>(
    make: impl Fn() -> Result<T, KafkaError>,
    ended: impl Fn() -> bool,
    wait: impl Fn(Duration),
) -> Option<T> {
    let mut again = AGAIN;
    while !ended() {
        match make() {
            Ok(done) => return Some(done),
            Err(error) => {
                tracing::error!(%error, ?again, "the Kafka client refuses to join a consumer group; nothing is delivered here");
            }
        }
        wait(again);
        again = (2 * again).min(LONGEST_WAIT);
    }
    None
}

/// Joins a group. The topic is made if it does not exist; until it does, nothing is shared out.
///
/// # Panics
/// Outside a runtime.
pub(super) fn join(config: &Config, topics: Arc<Topics>, group: &str, topic: &Topic) -> Membership {
    let desk = Arc::new(Desk::default());
    let stopping = Arc::new(AtomicBool::new(false));
    let mut client = config.client(&[
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "latest"),
        ("partition.assignment.strategy", "cooperative-sticky"),
        ("session.timeout.ms", DEAD_AFTER),
        ("heartbeat.interval.ms", HEARTBEAT),
        // The group waits for a member that died while it joined for as long as this.
        ("max.poll.interval.ms", JOINS_WITHIN),
        ("fetch.message.max.bytes", "16384"),
        ("queued.min.messages", "1"),
    ]);
    client.set("group.id", format!("{}{group}", config.topic_prefix));
    let (handle, topic, logins) = (Handle::current(), topic.clone(), config.logins.clone());
    let (at, stop) = (Arc::clone(&desk), Arc::clone(&stopping));
    let run = move || {
        let ended = || stop.load(Ordering::Relaxed);
        let of = loop {
            match handle.block_on(topics.ensure(&topic)) {
                Ok(of) => break of,
                Err(error) => {
                    tracing::debug!(%error, %topic, "the topic to share out is not there yet");
                }
            }
            if ended() {
                return;
            }
            std::thread::park_timeout(AGAIN);
        };
        let name = topics.name(&topic).into_owned();
        let subscribed = || {
            let consumer: BaseConsumer<Listener> = client.create_with_context(Listener {
                desk: Arc::clone(&at),
                of,
                logins: logins.clone(),
                said: Said::default(),
            })?;
            consumer.subscribe(&[&name]).map(|()| consumer)
        };
        let Some(consumer) = until_made(subscribed, ended, std::thread::park_timeout) else {
            return;
        };
        while !ended() {
            if let Some(Err(error)) = consumer.poll(POLL) {
                tracing::debug!(%error, "as a member of a consumer group");
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("kafka-member".into())
        .spawn(run);
    let thread = thread.map_err(|error| tracing::error!(%error, "a thread could not be started"));
    let member = Member {
        stopping,
        thread: Mutex::new(thread.ok()),
    };
    Membership::new(desk, member)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Tries with so many failures, or until it is to end; answers the waits in ms too.
    fn tried(failures: usize, ends_after: usize) -> (Option<()>, Vec<u128>) {
        let waits = RefCell::new(Vec::new());
        let make = || {
            if waits.borrow().len() < failures {
                return Err(KafkaError::ClientCreation("no".to_owned()));
            }
            Ok(())
        };
        let ended = || waits.borrow().len() == ends_after;
        let wait = |time: Duration| waits.borrow_mut().push(time.as_millis());
        let found = until_made(make, ended, wait);
        (found, waits.into_inner())
    }

    #[test]
    fn a_client_that_is_refused_tries_again_until_it_is_not_or_is_to_end() {
        let all = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        assert_eq!(tried(0, 9), (Some(()), Vec::new()));
        assert_eq!(tried(8, 9), (Some(()), all.to_vec()));
        assert_eq!(tried(9, 2), (None, all[..2].to_vec()));
    }
}

//! THE WAY OUT: read → match → schedule → hand over → record → retry or dead-letter.
//!
//! Cast: the [`Dispatcher`], one task that owns all that is in motion; a [`queue`](self::queue) for each
//! subscription that has something to get; the [targets](target) that things are handed over to, each hand-over a task
//! of its own; one flush at a time on its way to the store.
//!
//! The steps are methods of the dispatcher, each in the file of its name, and [`Dispatcher::turn`] calls them in
//! their order. What is written down is written in batches: the first attempt that succeeds costs its row and the
//! cursor that moves. Only what fails, or waits behind what failed, has a row of its own that is worked off
//! later. After a crash reading goes back to the cursor, and rows of attempts say what need not be sent again.
//!
//! Not needed for correctness: anything in memory. It is bounded, too: by queue, by tenant and altogether.

mod attempt;
mod backlog;
mod begin;
mod behind;
pub mod counted;
mod damaged;
mod disable;
mod flush;
mod gather;
mod hosts;
mod lanes;
pub mod late_writes;
mod leave;
mod load;
pub(crate) mod now;
pub(crate) mod on_the_way;
mod queue;
mod read;
pub mod record;
mod replay;
mod retention;
mod retry;
mod schedule;
mod share;
mod skip;
mod standing;
mod stream;
pub mod target;
mod waiting;

pub(crate) use queue::{Held, Places, read_to};
pub(crate) use retry::{detail_of, let_go};
pub use share::Deliveries;
pub(crate) use standing::{Standstill, Standstills, accounted};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::unsync::Cache;
use tidings_bus::{Bus, Partition};
use tidings_event::{TenantId, Topic};
use tidings_store::{Flush, Share, Store, Tenure};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use crate::by_id::{IdMap, IdSet};
use crate::clock::Clock;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::State;
use crate::subscriptions::{Changes, InForce, Subscriptions};
use attempt::Ended;
use counted::{Counted, Motion, Part};
use on_the_way::OnTheWay;
use queue::{Numbers, Queue, StreamId};
use schedule::{Breaker, Turns, ms};
use stream::{BySize, RECENT, RECENT_BYTES, Recent, Stream};
use target::{Carried, Target};
use waiting::Waiting;

/// The longest that anything stays unlooked at: what other replicas and rooms leave in the store.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long what has happened may stay unwritten.
const FLUSH_AFTER: Duration = Duration::from_millis(50);
/// The wait after the bus or the store failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// How deliveries are made, unless a subscription says otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    /// The waits between attempts (`delivery.retry_schedule`).
    pub retry_schedule: Vec<Duration>,
    /// How long attempts are kept (`delivery.attempts_retention`).
    pub attempts_retention: Duration,
    /// A subscription to which nothing got through for so long is disabled (`delivery.disable_after`).
    pub disable_after: Duration,
    /// How long attempts that are on their way get at shutdown.
    pub drain: Duration,
    /// The topics that subscriptions may have events copied to (`delivery.topics`).
    pub topics: BTreeSet<Topic>,
}

impl Default for Config {
    fn default() -> Self {
        let minutes = Duration::from_mins;
        Self {
            retry_schedule: vec![
                Duration::from_secs(5),
                minutes(5),
                minutes(30),
                minutes(2 * 60),
                minutes(5 * 60),
                minutes(10 * 60),
                minutes(10 * 60),
            ],
            attempts_retention: Duration::from_hours(30 * 24),
            disable_after: Duration::from_hours(5 * 24),
            drain: Duration::from_secs(5),
            topics: BTreeSet::new(),
        }
    }
}

/// What the dispatcher works with.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) store: Store,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) counted: Arc<Counted>,
    pub(crate) on_the_way: on_the_way::Bytes,
    pub(crate) standstills: Standstills,
}

/// Of what the store does not know any more how far it had come.
#[derive(Default)]
struct Lost {
    /// The names of the cursors that are damaged.
    cursors: HashSet<String>,
    /// The subscriptions whose progress is damaged.
    subscriptions: IdSet<Uuid>,
}

/// All that is in motion of one share of the tenants.
struct Dispatcher {
    share: Share,
    tenure: Tenure,
    /// Whether another has the share by now.
    is_taken: bool,
    bus: Arc<dyn Bus>,
    store: Store,
    subscriptions: Arc<Subscriptions>,
    in_force: Arc<InForce>,
    changes: Changes,
    target: Arc<dyn Target>,
    clock: Clock,
    config: Config,
    part: Part,

    streams: Vec<Stream>,
    stream_ids: HashMap<Partition, StreamId>,
    lost: Lost,
    queues: IdMap<Uuid, Queue>,
    /// Progress of subscriptions that have no queue yet.
    saved: IdMap<Uuid, (Numbers, Places)>,
    saved_lanes: IdMap<Uuid, Vec<String>>,
    /// Queues with places of their own.
    behind: BTreeSet<Uuid>,
    /// Those of them that have room, by whose turn it is to read on.
    catching_up: Turns<TenantId, Uuid>,
    turns: Turns<TenantId, Uuid>,
    on_the_way: OnTheWay,
    breakers: HashMap<(TenantId, String), Breaker>,
    /// When those of hosts that nothing is sent to any more were last forgotten.
    breakers_looked_at_ms: i64,
    /// When to look at a queue again that could not go on.
    wakes: BTreeSet<(i64, Uuid)>,
    /// What is sent again.
    replays: replay::Replaying,
    skipping: skip::Skipping,
    in_flight: JoinSet<Ended>,
    /// Subscriptions that are being disabled.
    disabling: IdMap<Uuid, JoinHandle<()>>,
    /// Events that were read once more, for deliveries that wait.
    again: Cache<(TenantId, Uuid), Arc<Carried>, BySize>,
    /// Pending deliveries in memory.
    at_hand: IdSet<(Uuid, u64)>,
    /// What is to be written next.
    flush: Flush,
    /// Queues whose progress is to be written next.
    moved: IdSet<Uuid>,
    /// Queues that have given out numbers which the cursor has not passed.
    unsettled: IdSet<Uuid>,
    /// Lanes whose next is to be looked for when what is to be written is written.
    lanes_to_advance: HashSet<(Uuid, String)>,
    writing: Option<JoinHandle<flush::Written>>,
    /// What is being written, to be written again should it fail.
    being_written: Arc<Flush>,
    /// How often that has failed.
    failed_writes: u32,
    flushed_at_ms: i64,
    /// Subscriptions with pending deliveries.
    waiting: Waiting,
    /// Subscriptions with due rows whose queue was full; they are woken when it drains.
    full: IdSet<Uuid>,
    /// How far it has looked for what others have left in the store.
    looked_up_to: Option<Uuid>,
    looked_at_ms: i64,
    forgot_at_ms: i64,
    forgetting: Option<JoinHandle<()>>,
    /// When was last looked at what does not keep up, in ms since 1970.
    behind_looked_at_ms: i64,
    /// What is damaged and was told of.
    told: damaged::Told,
    /// Who was said to stand still.
    announced: standing::Announced,
    read_to_end: bool,
    /// When the last turn began, in ms since 1970.
    turned_at_ms: i64,
    /// The stream that is read first in the next turn.
    reads_from: StreamId,
    /// Says that something was appended.
    tail: watch::Receiver<u64>,
    /// Whether the subscriptions in force have changed since partitions were chosen by them.
    choose_streams: bool,
    /// The subscriptions that recent events were kept for, by their version.
    recent_for: u64,
}

impl Dispatcher {
    /// Goes on where the store says that it had come to.
    async fn open(means: Means, share: Share) -> Result<Self, Refusal> {
        // Before anything is read: what whoever had it before writes later would be missing from that.
        let tenure = means.store.deliveries().take(share).await;
        let tenure = tenure.map_err(store_fault)?;
        let in_force = means.subscriptions.in_force();
        let changes = in_force.follow();
        let now = means.clock.now_ms();
        let mut tail = means.bus.tail();
        tail.mark_changed();
        let mut dispatcher = Self {
            share,
            tenure,
            is_taken: false,
            bus: means.bus,
            store: means.store,
            subscriptions: means.subscriptions,
            in_force,
            changes,
            target: means.target,
            clock: means.clock,
            config: means.config,
            part: Part::new(means.counted),
            streams: Vec::new(),
            stream_ids: HashMap::new(),
            lost: Lost::default(),
            queues: IdMap::default(),
            saved: IdMap::default(),
            saved_lanes: IdMap::default(),
            behind: BTreeSet::new(),
            catching_up: Turns::default(),
            turns: Turns::default(),
            on_the_way: OnTheWay::new(means.on_the_way),
            breakers: HashMap::new(),
            breakers_looked_at_ms: 0,
            wakes: BTreeSet::new(),
            replays: replay::Replaying::default(),
            skipping: skip::Skipping::default(),
            in_flight: JoinSet::new(),
            disabling: IdMap::default(),
            again: Cache::with_weighter(RECENT, RECENT_BYTES as u64, BySize),
            at_hand: IdSet::default(),
            flush: Flush::default(),
            moved: IdSet::default(),
            unsettled: IdSet::default(),
            lanes_to_advance: HashSet::new(),
            writing: None,
            being_written: Arc::default(),
            failed_writes: 0,
            flushed_at_ms: now,
            waiting: Waiting::default(),
            full: IdSet::default(),
            looked_up_to: None,
            looked_at_ms: now,
            forgot_at_ms: 0,
            forgetting: None,
            behind_looked_at_ms: 0,
            told: damaged::Told::default(),
            announced: standing::Announced::to(means.standstills),
            read_to_end: false,
            reads_from: 0,
            tail,
            turned_at_ms: now,
            choose_streams: true,
            recent_for: 0,
        };
        dispatcher.load().await?;
        Ok(dispatcher)
    }

    async fn work(&mut self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        while !self.is_taken {
            if let Err(refusal) = self.turn().await {
                tracing::warn!(
                    code = refusal.code.as_str(),
                    detail = refusal.detail,
                    "deliveries pause"
                );
                tokio::select! {
                    () = &mut stopped => break,
                    () = tokio::time::sleep(AFTER_FAILURE) => continue,
                }
            }
            let wait = if self.read_to_end {
                self.wait()
            } else {
                Duration::ZERO
            };
            let followed = self.changes.clone();
            // Seen by the reading, not here.
            let mut tail = self.tail.clone();
            tokio::select! {
                () = &mut stopped => break,
                changed = tail.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(ended) = self.in_flight.join_next() => self.ended(ended),
                written = async { self.writing.as_mut().expect("asked only while writing").await }, if self.writing.is_some() => {
                    self.written(written);
                }
                () = followed.made() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Everything that can be done now, once.
    async fn turn(&mut self) -> Result<(), Refusal> {
        while let Some(ended) = self.in_flight.try_join_next() {
            self.ended(ended);
        }
        self.take_changes();
        self.follow_clock();
        if self.is_held_up() {
            // Nothing more is begun that could not be written down either.
            self.read_to_end = true;
            return Ok(());
        }
        self.read().await?;
        self.catch_up().await;
        self.replay().await?;
        self.end_skipped().await?;
        self.due().await?;
        self.advance_lanes().await?;
        self.start();
        self.write();
        self.tell();
        self.tell_behind().await;
        self.forget_old();
        Ok(())
    }

    /// Looks at all that waits for a time when the clock was set back: nobody knows when that time would be.
    fn follow_clock(&mut self) {
        let now = self.clock.now_ms();
        if now < std::mem::replace(&mut self.turned_at_ms, now) {
            for (_, id) in std::mem::take(&mut self.wakes) {
                self.line_up(id);
            }
            self.waiting.wake_all(now);
        }
    }

    fn tell(&mut self) {
        self.part.tell(Motion {
            in_flight: self.in_flight.len() as u64,
            at_hand: self.at_hand.len() as u64,
            unsettled: self.part.unsettled,
            shares: 1,
        });
    }

    /// How long nothing will happen by itself.
    fn wait(&self) -> Duration {
        let now = self.clock.now_ms();
        let flush = (self.writing.is_none() && self.has_news())
            .then(|| self.flushed_at_ms + ms(FLUSH_AFTER));
        let wake = self.wakes.first().map(|(at, _)| *at);
        let due = self.waiting.first();
        let due = due.filter(|_| self.at_hand.len() < retry::MOST_AT_HAND);
        let first = [flush, wake, due].into_iter().flatten().min();
        let wait = first.map_or(LOOK_AGAIN, |at| {
            Duration::from_millis(u64::try_from(at - now).unwrap_or_default())
        });
        wait.clamp(Duration::from_millis(1), LOOK_AGAIN)
    }

    /// The queue of a subscription.
    fn queue(&mut self, subscription: &Arc<crate::subscription::Subscription>) -> &mut Queue {
        let id = subscription.id;
        if !self.queues.contains_key(&id) {
            let (numbers, places) = self.saved.remove(&id).unwrap_or_default();
            let mut queue = Queue::new(subscription.clone(), numbers);
            let is_lost = self.lost.subscriptions.contains(&id);
            queue.lost = is_lost.then(BTreeMap::new);
            queue.failing_since_ms = places.failing_since_ms;
            if is_lost {
                // Nobody knows its places.
            } else if places.start == subscription.start.number {
                for (topic, number, offset) in places.at {
                    if let Ok(topic) = topic.parse() {
                        let stream = self.stream(Partition { topic, number });
                        queue.places.insert(stream, offset);
                    }
                }
                for (stream, place) in self.ahead(subscription, &self.partitions()) {
                    queue.places.entry(stream).or_insert(place);
                }
            } else {
                queue.places = self.places_of(subscription);
            }
            for lane in self.saved_lanes.remove(&id).unwrap_or_default() {
                queue.lanes.entry(lane).or_default().blocked = true;
            }
            if !queue.places.is_empty() {
                self.behind.insert(id);
            }
            self.queues.insert(id, queue);
            self.moved.insert(id);
        }
        self.queues
            .get_mut(&id)
            .expect("it was put there if it was not there")
    }

    /// The number of a partition.
    fn stream(&mut self, partition: Partition) -> StreamId {
        if let Some(id) = self.stream_ids.get(&partition) {
            return *id;
        }
        let id = self.streams.len();
        self.stream_ids.insert(partition.clone(), id);
        // A topic that was not listed when the cursors were read.
        let lost = !self.lost.cursors.is_empty() && {
            let (topic, number) = (&partition.topic, partition.number);
            let cursor = format!("{}/{topic}/{number}", self.share);
            self.lost.cursors.contains(&cursor)
        };
        self.streams.push(Stream {
            partition,
            head: 0,
            saved: None,
            sound_at_ms: None,
            outstanding: BTreeMap::new(),
            wanted: false,
            lost,
            more: true,
            again_at_ms: 0,
            recent: Recent::default(),
        });
        self.choose_streams = true;
        id
    }

    /// Takes note of subscriptions that were changed or deleted.
    fn take_changes(&mut self) {
        let mut changed = self.changes.take();
        changed.retain(|id| match self.in_force.get(*id) {
            Some(subscription) => self.share.holds(&subscription.tenant),
            None => self.queues.contains_key(id) || self.saved.contains_key(id),
        });
        if !changed.is_empty() {
            self.choose_streams = true;
        }
        let now = self.clock.now_ms();
        for id in changed {
            match self.in_force.get(id) {
                None => self.forget(id),
                Some(subscription) => {
                    let start = subscription.start.number;
                    let moved = self.queues.get(&id).is_some_and(|it| it.start != start);
                    // Nothing was at hand of it since a start: it begins where it is told to.
                    let saved = self.saved.get(&id);
                    let begins = saved.is_some_and(|(_, places)| places.start != start);
                    self.announced.goes_on(id);
                    let queue = self.queue(&subscription);
                    let before = std::mem::replace(&mut queue.subscription, subscription.clone());
                    queue.standing.because(None, now);
                    let resumes = before.state != State::Active && queue.is_active();
                    // Noted as soon as it stands: when it is resumed another process may look after it.
                    if !queue.is_active()
                        || resumes
                        || before.document.get("target") != subscription.document.get("target")
                    {
                        // What was is no reason to give up what is.
                        queue.failing_since_ms = None;
                    }
                    self.moved.insert(id);
                    if moved {
                        self.restart(id);
                    }
                    if moved || begins {
                        self.skip(id);
                    }
                    if subscription.state == State::Active {
                        self.waiting.wake(id, now);
                    } else {
                        self.stand_aside(id);
                        self.put_back(id);
                    }
                    self.line_up(id);
                }
            }
        }
    }

    /// A queue that gets nothing for a while goes on from its own place, so that it holds up nobody's cursor.
    fn stand_aside(&mut self, id: Uuid) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        let detached = queue.detach();
        if !detached.is_empty() {
            self.moved.insert(id);
        }
        for (stream, offset) in detached {
            self.settle_shared(stream, offset);
        }
    }

    /// Pending deliveries at hand of a queue that gets nothing go back to the store, where they still stand.
    fn put_back(&mut self, id: Uuid) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for delivery in queue.put_back() {
            self.waiting.sooner(id, delivery.at_hand_ms);
            self.at_hand.remove(&(id, delivery.sequence));
            if let Some(lane) = delivery.lane {
                self.lanes_to_advance.insert((id, lane));
            }
        }
    }

    /// Begins a queue anew where its subscription says.
    fn restart(&mut self, id: Uuid) {
        let queue = self.queues.get(&id).filter(|it| it.lost.is_none());
        let Some(subscription) = queue.map(|it| it.subscription.clone()) else {
            return;
        };
        let places = self.places_of(&subscription);
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        for delivery in queue.restart(subscription.start.number, places) {
            self.tick_off(id, delivery.origin);
        }
        self.behind.insert(id);
        self.moved.insert(id);
    }

    /// A deleted subscription gets nothing more.
    fn forget(&mut self, id: Uuid) {
        self.saved.remove(&id);
        self.saved_lanes.remove(&id);
        self.behind.remove(&id);
        self.moved.remove(&id);
        self.at_hand.retain(|(subscription, _)| *subscription != id);
        self.waiting.remove(id);
        self.full.remove(&id);
        self.announced.goes_on(id);
        if let Some(mut queue) = self.queues.remove(&id) {
            for (stream, offset) in queue.lost.take().unwrap_or_default() {
                self.settle_shared(stream, offset);
            }
            for delivery in queue.backlog.clear() {
                self.tick_off(id, delivery.origin);
            }
        }
        self.replays.forget(id);
    }
}

#[cfg(test)]
mod tests;

//! Reading back: one event, a list, a stream. A caller sees its own tenant's events only.

mod cursor;
mod gathered;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::Stream;
use tidings_bus::{Bus, Partition, Read, ReadError, Stored, partition_of};
use tidings_event::{Code, Event, TenantId, Topic, TypePattern};
use tidings_store::Store;
use uuid::Uuid;

pub use self::cursor::Cursor;
use self::gathered::{Gathered, MAX_HELD_BYTES, Stretch, size};
use crate::access::{Caller, Principal, Scope};
use crate::audit;
use crate::envelope;
use crate::publish::command::WORKSPACE_ATTRIBUTE;
use crate::publish::refusal::{Refusal, Rule};
use crate::rulebook::{Route, Shelf};
use crate::storing::store_fault;

/// The most events that a page holds.
pub const MAX_PAGE: usize = 1_000;
/// The most records of a topic that one page looks at, so that it costs the same however rare its matches are.
const MAX_SCAN: usize = 10_000;
/// So many records are read at once where not every one is wanted.
const AT_ONCE: usize = 500;

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The event.
    pub event: Event,
    /// Its topic.
    pub topic: Topic,
    /// Its partition's number.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of these types.
    pub types: Option<TypePattern>,
    /// In this topic.
    pub topic: Option<Topic>,
    /// Received at or after, in ms since 1970.
    pub since_ms: Option<i64>,
    /// Received before, in ms since 1970.
    pub until_ms: Option<i64>,
    /// At most so many, 1 to [`MAX_PAGE`].
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
}

/// A stretch of a tenant's events, oldest first.
#[derive(Debug, Clone)]
pub struct List {
    /// The events.
    pub items: Vec<Placed>,
    /// Where to go on; `None` when the end of the log was reached.
    pub next: Option<Cursor>,
}

/// An event of a stream, with the place behind it.
pub type Streamed = Result<(Cursor, Placed), Refusal>;

/// The room.
#[derive(Clone)]
pub struct Events {
    bus: Arc<dyn Bus>,
    shelf: Arc<Shelf>,
    store: Store,
}

impl Events {
    /// Over a bus; the rulebook on the shelf says who is in which workspace, the store where an emit stands.
    pub fn new(bus: Arc<dyn Bus>, shelf: Arc<Shelf>, store: Store) -> Self {
        Self { bus, shelf, store }
    }

    /// Whether the caller may see an event of its tenant: a user without the role ADMIN sees of the events of
    /// workspaces those of its own.
    pub(crate) fn open_to(&self, caller: &Caller, event: &Event) -> bool {
        if all_open_to(caller) {
            return true;
        }
        let workspace = match event.extension(WORKSPACE_ATTRIBUTE) {
            Some(workspace) => workspace.to_string(),
            None if audit::is_of(event) => match audit::workspace_of(event) {
                Some(workspace) => workspace,
                None => return false,
            },
            None => return true,
        };
        let rulebook = self.shelf.rulebook();
        rulebook.workspace_of(caller, &workspace).is_ok()
    }

    /// One event of the caller's tenant. A foreign or unknown id is not found, alike.
    pub async fn get(&self, caller: &Caller, event_id: Uuid) -> Result<Placed, Refusal> {
        let tenant = reader(caller)?;
        let found = self.bus.find(tenant.clone(), event_id).await;
        let found = match found {
            Ok(Some(found)) => Some(found),
            Ok(None) => self.emitted(&tenant, event_id).await?,
            // A search that gives up has not come to where a late emit stands.
            Err(error) => {
                let emitted = self.emitted(&tenant, event_id).await?;
                Some(emitted.ok_or_else(|| unreadable(error))?)
            }
        };
        let found = found.map(placed).transpose()?;
        found
            .filter(|found| self.open_to(caller, &found.event))
            .ok_or_else(|| Refusal::not_found("event"))
    }

    /// An emit where its row says that it stands: what the bus took long after it was accepted is far from where a search
    /// by the time in its id looks.
    async fn emitted(&self, tenant: &TenantId, event_id: Uuid) -> Result<Option<Stored>, Refusal> {
        let row = self.store.emits().of_event(tenant, event_id).await;
        let Some(place) = row.map_err(store_fault)?.and_then(|row| row.place) else {
            return Ok(None);
        };
        let partition = Partition {
            topic: Route::custom_events().topic,
            number: place.partition,
        };
        let read = Read {
            from: place.offset,
            tenant: Some(tenant.clone()),
            limit: 1,
            scan: 1,
        };
        let page = self.bus.read(partition, read).await.map_err(unreadable)?;
        let mut records = page.records.into_iter();
        Ok(records.find(|stored| stored.event_id == event_id))
    }

    /// A page of the caller's tenant's events, oldest first.
    pub async fn list(&self, caller: &Caller, query: &Query) -> Result<List, Refusal> {
        let tenant = reader(caller)?;
        let mut cursor = query.cursor.clone().unwrap_or_default();
        let mut page = PageOf::default();
        loop {
            self.read_on(caller, &tenant, query, &mut cursor, &mut page)
                .await?;
            if !page.more || page.is_full(query) || page.looked_at >= MAX_SCAN {
                break;
            }
        }
        Ok(List {
            items: page.items,
            next: page.more.then_some(cursor),
        })
    }

    /// The caller's tenant's events as they come, from a cursor or from now on, and where that is: who goes on from there
    /// misses nothing, even if no event has come yet.
    pub async fn stream(
        &self,
        caller: &Caller,
        types: Option<TypePattern>,
        after: Option<Cursor>,
    ) -> Result<(Cursor, impl Stream<Item = Streamed> + use<>), Refusal> {
        let tenant = reader(caller)?;
        let cursor = match after {
            Some(cursor) => cursor,
            None => self.end(&tenant).await?,
        };
        let start = cursor.clone();
        let query = Query {
            types,
            limit: 100,
            ..Query::default()
        };
        let tail = self.bus.tail_of(&tenant);
        let state = (
            self.clone(),
            caller.clone(),
            tenant,
            query,
            cursor,
            tail,
            Vec::new().into_iter(),
        );
        let events = futures_util::stream::unfold(
            state,
            async |(room, caller, tenant, query, mut cursor, mut tail, mut ready)| {
                loop {
                    if let Some((cursor_after, event)) = ready.next() {
                        let item = Ok((cursor_after, event));
                        let state = (room, caller, tenant, query, cursor, tail, ready);
                        return Some((item, state));
                    }
                    tail.mark_unchanged();
                    let before = cursor.clone();
                    let mut page = PageOf::default();
                    let read = room.read_on(&caller, &tenant, &query, &mut cursor, &mut page);
                    if let Err(refusal) = read.await {
                        let state = (room, caller, tenant, query, cursor, tail, ready);
                        return Some((Err(refusal), state));
                    }
                    if page.items.is_empty() && !page.more {
                        // The bus is gone when its tail is: the stream ends.
                        tail.changed().await.ok()?;
                    }
                    ready = with_cursors(before, page.items).into_iter();
                }
            },
        );
        Ok((start, events))
    }

    /// The cursor behind everything there is.
    async fn end(&self, tenant: &TenantId) -> Result<Cursor, Refusal> {
        let mut cursor = Cursor::default();
        for partition in self.partitions(tenant, None).await? {
            let bounds = self.bus.bounds(partition.clone()).await;
            cursor.set(&partition.topic, bounds.map_err(unreadable)?.end);
        }
        Ok(cursor)
    }

    /// A tenant's one partition in each topic: its id is the key of all its events.
    async fn partitions(
        &self,
        tenant: &TenantId,
        only: Option<&Topic>,
    ) -> Result<Vec<Partition>, Refusal> {
        let topics = self.bus.topics().await.map_err(unreadable)?;
        let wanted = topics
            .into_iter()
            .filter(|(topic, _)| only.is_none_or(|only| only == topic));
        let key = tenant.as_str().as_bytes();
        Ok(wanted
            .map(|(topic, count)| Partition {
                number: partition_of(key, count),
                topic,
            })
            .collect())
    }

    /// Reads on from a cursor, which moves, and puts what is wanted on a page that may hold some already.
    async fn read_on(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        query: &Query,
        cursor: &mut Cursor,
        page: &mut PageOf,
    ) -> Result<(), Refusal> {
        let mut gathered = Gathered::until(query.until_ms);
        let room = query.limit - page.items.len();
        let at_once = if query.types.is_some() || !all_open_to(caller) {
            room.max(AT_ONCE)
        } else {
            room
        };
        let mut looked_at = 0;
        for partition in self.partitions(tenant, query.topic.as_ref()).await? {
            let topic = partition.topic.clone();
            let from = self.begin(partition.clone(), query, cursor).await?;
            let read = Read {
                from,
                tenant: Some(tenant.clone()),
                limit: at_once + 1,
                scan: MAX_SCAN,
            };
            let read = self.bus.read(partition, read).await.map_err(unreadable)?;
            looked_at = looked_at.max(read.next.saturating_sub(from));
            gathered.add(topic, Stretch::new(read.next, read.more), read.records);
        }
        let (found, mut stretches) = gathered.in_order();
        for record in found {
            if page.is_full(query) {
                stretches.leave(&record, true);
                continue;
            }
            let size = size(&record);
            if !page.has_room_for(size) {
                page.out_of_room = true;
                stretches.leave(&record, true);
                continue;
            }
            let item = placed(record)?;
            if wanted(&item.event, query) && self.open_to(caller, &item.event) {
                page.items.push(item);
                page.bytes += size;
            }
        }
        page.more = stretches.more();
        stretches.move_on(cursor);
        page.looked_at += usize::try_from(looked_at).unwrap_or(usize::MAX);
        Ok(())
    }

    /// Where a page begins in one topic.
    async fn begin(
        &self,
        partition: Partition,
        query: &Query,
        cursor: &Cursor,
    ) -> Result<u64, Refusal> {
        let from = match (cursor.offset(&partition.topic), query.since_ms) {
            (Some(offset), _) => Ok(offset),
            (None, Some(since)) => self.bus.offset_at(partition, since).await,
            (None, None) => Ok(0),
        };
        from.map_err(unreadable)
    }
}

#[derive(Default)]
struct PageOf {
    items: Vec<Placed>,
    /// How large they are in the log.
    bytes: usize,
    /// Whether one was left because it would have been too large with it.
    out_of_room: bool,
    more: bool,
    /// How far it went in the topic where it went farthest.
    looked_at: usize,
}

impl PageOf {
    fn is_full(&self, query: &Query) -> bool {
        self.out_of_room || self.items.len() == query.limit
    }

    /// Whether it may hold another of this size. There is room for one, however large.
    fn has_room_for(&self, size: usize) -> bool {
        self.items.is_empty() || self.bytes + size <= MAX_HELD_BYTES
    }
}

fn wanted(event: &Event, query: &Query) -> bool {
    query
        .types
        .as_ref()
        .is_none_or(|pattern| pattern.matches(&event.event_type))
        && query
            .since_ms
            .is_none_or(|since| event.received_at_ms >= since)
}

/// Each event with the cursor behind it.
fn with_cursors(mut cursor: Cursor, items: Vec<Placed>) -> Vec<(Cursor, Placed)> {
    let mut step = |item: Placed| {
        cursor.set(&item.topic, item.offset + 1);
        (cursor.clone(), item)
    };
    items.into_iter().map(&mut step).collect()
}

/// Whether the caller may see the events of every workspace of its tenant.
pub(crate) fn all_open_to(caller: &Caller) -> bool {
    caller.is_admin() || !matches!(caller.principal(), Principal::User(_))
}

/// Whether the caller may read its tenant's events and what becomes of them: of API keys those with the scope `events:read`.
pub fn may_read(caller: &Caller) -> bool {
    match caller.principal() {
        Principal::ApiKey { scopes, .. } => scopes.contains(&Scope::ReadEvents),
        _ => true,
    }
}

/// Refuses a caller that [`may_read`] speaks against.
pub(crate) fn reads(caller: &Caller) -> Result<(), Refusal> {
    if may_read(caller) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!(
        "{} may not read events; it lacks the scope events:read.",
        caller.describe()
    )))
}

/// The tenant whose events the caller may read.
pub(crate) fn reader(caller: &Caller) -> Result<TenantId, Refusal> {
    reads(caller)?;
    caller.tenant_with("events")
}

fn placed(record: Stored) -> Result<Placed, Refusal> {
    let event =
        envelope::read(&record).map_err(|error| Refusal::fault("Reading an event", &error))?;
    Ok(Placed {
        event,
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
    })
}

pub(crate) fn unreadable(error: ReadError) -> Refusal {
    match error {
        ReadError::Corrupt(_) | ReadError::Damaged { .. } => {
            Refusal::fault("Reading the log", &error)
        }
        ReadError::Unavailable(_) => {
            tracing::warn!(%error, "the log could not be read");
            Refusal::new(
                Code::BrokerUnavailable,
                Rule::Append,
                "The bus cannot be read now; retry shortly.",
            )
            .retry_after(std::time::Duration::from_secs(1))
        }
    }
}

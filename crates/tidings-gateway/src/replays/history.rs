//! What a subscription's history is: stretches of the log, read page by page, each event with what was done with it
//! then and what would be done with it now.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tidings_bus::{Bus, Partition, Read, ReadError, partition_of};
use tidings_egress::Target;
use tidings_event::{Event, TypePattern};
use tidings_filter::Subject;
use tidings_store::Store;
use uuid::Uuid;

use super::Routing;
use crate::envelope::readable;
use crate::events::unreadable;
use crate::publish::refusal::Refusal;
use crate::storing::store_fault;
use crate::subscription::Subscription;
use crate::subscriptions::From;

/// The most events of one page.
pub(crate) const PAGE: usize = 500;
/// The most records that one page looks at.
const SCAN: usize = 5_000;

/// What a tenant asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// From here on.
    pub from: From,
    /// What was received before, in ms since 1970; up to now if absent.
    pub until_ms: Option<i64>,
    /// Only of these types; empty for all.
    pub types: Vec<TypePattern>,
    /// At most so many a second, 1 to [`MAX_RATE`](super::MAX_RATE).
    pub rate: Option<u32>,
    /// By what it is decided which.
    pub routing: Routing,
    /// To this URL instead of the subscription's.
    pub shadow: Option<Target>,
}

/// What of the log is sent again, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// By topic: the first offset, and the first beyond.
    pub stretches: BTreeMap<String, (u64, u64)>,
    /// Only of these types; empty for all.
    #[serde(with = "texts")]
    pub types: Vec<TypePattern>,
    /// At most so many a second.
    pub rate: Option<u32>,
    /// By what it is decided which.
    pub routing: Routing,
    /// To this URL instead of the subscription's.
    #[serde(with = "text")]
    pub shadow: Option<Target>,
}

impl History {
    /// How much of its stretches lies before a place, in offsets: what of it was looked at, or is gone.
    pub(super) fn scanned(&self, place: &Place) -> u64 {
        let stretches = self.stretches.iter();
        let passed = stretches.filter_map(|(topic, (from, end))| {
            let next = place.next.get(topic)?;
            Some(next.min(end).saturating_sub(*from))
        });
        passed.sum()
    }
}

/// How far a replay has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Place {
    /// By topic, the next offset; where there is none, the stretch's first.
    pub next: BTreeMap<String, u64>,
    /// Of dead letters, the last.
    pub after: Option<Uuid>,
    /// Whether there is nothing more.
    pub exhausted: bool,
    /// Why it was cancelled, if nobody asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Dead letters that were not sent: the subscription that each was for was gone.
    pub skipped: u64,
    /// Those that had been made ready when it went, and were given up.
    pub abandoned: u64,
}

impl Place {
    /// As it is kept.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|error| Refusal::fault("Reading a replay", &error))
    }

    pub(crate) fn write(&self) -> String {
        serde_json::to_string(self).expect("plain members become JSON")
    }

    /// Why dead letters were left out, if any were.
    pub fn left_out(&self) -> Option<String> {
        let counts = [(self.skipped, "not sent"), (self.abandoned, "given up")];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        let some: Vec<String> = some
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let why = "there is no subscription any more to send to; these dead letters were left open";
        (!some.is_empty()).then(|| format!("{}: {why}", some.join(" and ")))
    }
}

/// An event of history.
pub(crate) struct Found {
    pub(crate) event: Event,
    /// The number it has in the subscription, if it was sent then.
    pub(crate) number: Option<u64>,
    /// Whether it meets the filter as it is now.
    pub(crate) matches: bool,
}

/// Where history is read.
pub(crate) struct Log<'a> {
    pub(crate) bus: &'a dyn Bus,
    pub(crate) store: &'a Store,
}

impl Log<'_> {
    /// The next page, topic by topic, each in the order of the log. The place moves behind it.
    pub(crate) async fn page(
        &self,
        subscription: &Subscription,
        history: &History,
        place: &mut Place,
        limit: usize,
    ) -> Result<Vec<Found>, Refusal> {
        let next = |topic: &str, from: u64| place.next.get(topic).copied().unwrap_or(from);
        let mut stretches = history.stretches.iter();
        let stretch = stretches.find(|(topic, (from, end))| next(topic, *from) < *end);
        let Some((name, (from, end))) = stretch else {
            place.exhausted = true;
            return Ok(Vec::new());
        };
        let from = next(name, *from);
        let topics = self.bus.topics().await.map_err(unreadable)?;
        let topic = topics
            .into_iter()
            .find(|(topic, _)| topic.as_str() == *name);
        let Some((topic, partitions)) = topic else {
            place.next.insert(name.clone(), *end);
            return Ok(Vec::new());
        };
        let number = partition_of(subscription.tenant.as_str().as_bytes(), partitions);
        let read = Read {
            from,
            tenant: Some(subscription.tenant.clone()),
            limit: limit.min(PAGE),
            scan: SCAN,
        };
        let page = self.bus.read(Partition { topic, number }, read).await;
        let page = match page {
            Err(error @ ReadError::Damaged { offset, .. }) => {
                tracing::error!(%error, "a record is not sent again");
                place.next.insert(name.clone(), offset + 1);
                return Ok(Vec::new());
            }
            page => page.map_err(unreadable)?,
        };
        // Retention may have taken what was there.
        let reached = if page.next > from { page.next } else { *end };
        place.next.insert(name.clone(), reached);
        let mut events = Vec::new();
        for record in page.records.iter().filter(|record| record.offset < *end) {
            let Some(event) = readable(record) else {
                continue;
            };
            let types = &history.types;
            if types.is_empty() || types.iter().any(|wanted| wanted.matches(&event.event_type)) {
                events.push(event);
            }
        }
        self.judged(subscription, events).await
    }

    async fn judged(
        &self,
        subscription: &Subscription,
        events: Vec<Event>,
    ) -> Result<Vec<Found>, Refusal> {
        let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
        let room = self.store.replays();
        let sent = room.numbers(subscription.addressed(), &ids).await;
        let sent: HashMap<Uuid, u64> = sent.map_err(store_fault)?.into_iter().collect();
        let found = events.into_iter().map(|event| Found {
            number: sent.get(&event.event_id).copied(),
            matches: subscription.filter.matches(&Subject::new(&event)),
            event,
        });
        Ok(found.collect())
    }
}

/// Patterns as texts.
mod texts {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tidings_event::TypePattern;

    pub(super) fn serialize<S: Serializer>(
        types: &[TypePattern],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(types.iter().map(TypePattern::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TypePattern>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let types = texts
            .iter()
            .map(|text| text.parse().map_err(D::Error::custom));
        types.collect()
    }
}

/// A URL as text.
mod text {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};
    use tidings_egress::Target;

    #[expect(clippy::ref_option, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(
        url: &Option<Target>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        url.as_ref().map(Target::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Target>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let url = text.map(|text| text.parse().map_err(D::Error::custom));
        url.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_said_with_how_many_and_is_kept() {
        let of = |skipped, abandoned| Place {
            skipped,
            abandoned,
            ..Place::default()
        };
        assert_eq!(of(0, 0).left_out(), None);
        let begins = |place: Place, with: &str| {
            let kept = Place::read(&place.write()).unwrap();
            assert_eq!(kept, place);
            let said = kept.left_out().unwrap();
            assert!(said.starts_with(with), "{said}");
        };
        begins(of(3, 0), "3 not sent: there is no subscription");
        begins(of(0, 1), "1 given up: there");
        begins(of(3, 1), "3 not sent and 1 given up: there");
        // As it was kept before this was counted.
        let before = Place::read(r#"{"next":{},"after":null,"exhausted":true}"#);
        assert_eq!(before.unwrap().left_out(), None);
    }
}

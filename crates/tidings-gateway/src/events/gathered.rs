//! What a page is made of: stretches of all topics, put together without ever holding more than so many bytes.

use std::collections::BTreeMap;

use tidings_bus::Stored;
use tidings_event::Topic;

use super::Cursor;

/// So many bytes of records are held, however many topics there are, beside what the bus reads of one topic at a time
/// (16 MiB too). The newest are left for the next page, which holds no more than this altogether.
pub(super) const MAX_HELD_BYTES: usize = 16 << 20;

/// The order of a page: by time, and within a topic by offset.
type Place = (i64, Topic, u64);

/// Records with the times they are ordered by, and how far they go in each topic.
pub(super) struct Gathered {
    found: Vec<(i64, Stored)>,
    bytes: usize,
    until_ms: Option<i64>,
    /// The earliest that was left for the next page: nothing that comes behind it belongs to this one.
    end: Option<Place>,
    stretches: Stretches,
}

impl Gathered {
    /// Nothing yet, of what was received before a time.
    pub(super) fn until(until_ms: Option<i64>) -> Self {
        Self {
            found: Vec::new(),
            bytes: 0,
            until_ms,
            end: None,
            stretches: Stretches::default(),
        }
    }

    /// With the records of another topic.
    pub(super) fn add(&mut self, topic: Topic, stretch: Stretch, records: Vec<Stored>) {
        self.stretches.0.insert(topic, stretch);
        // Times of neighbours may be swapped; the order of offsets must not be, or a cursor would lie.
        let mut latest = i64::MIN;
        for record in records {
            latest = latest.max(record.timestamp_ms);
            if self.until_ms.is_some_and(|until| latest >= until) {
                self.stretches.leave(&record, false);
            } else {
                self.bytes += size(&record);
                self.found.push((latest, record));
            }
        }
        if self.bytes > MAX_HELD_BYTES || self.end.is_some() {
            self.leave_the_newest();
        }
    }

    fn leave_the_newest(&mut self) {
        self.sort();
        let mut bytes = 0;
        let fit = self.found.iter().take_while(|one| {
            let fits = bytes + size(&one.1) <= MAX_HELD_BYTES || bytes == 0;
            let comes = fits && self.end.as_ref().is_none_or(|end| place(one) < *end);
            bytes += if comes { size(&one.1) } else { 0 };
            comes
        });
        let fit = fit.count();
        for (index, one) in self.found.drain(fit..).enumerate() {
            if index == 0 {
                self.end = Some(place(&one));
            }
            self.stretches.leave(&one.1, true);
        }
        self.bytes = bytes;
    }

    fn sort(&mut self) {
        self.found.sort_by(|(at, one), (when, other)| {
            (at, &one.topic, one.offset).cmp(&(when, &other.topic, other.offset))
        });
    }

    /// The records, oldest first, and how far they go.
    pub(super) fn in_order(mut self) -> (impl Iterator<Item = Stored>, Stretches) {
        self.sort();
        let found = self.found.into_iter().map(|(_, record)| record);
        (found, self.stretches)
    }
}

fn place((at, record): &(i64, Stored)) -> Place {
    (*at, record.topic.clone(), record.offset)
}

/// How large it is in the log, in bytes.
pub(super) fn size(record: &Stored) -> usize {
    record.value.len() + record.headers.as_text().len() + record.key.len()
}

/// How far a page came in each topic.
#[derive(Default)]
pub(super) struct Stretches(BTreeMap<Topic, Stretch>);

impl Stretches {
    /// Leaves a record for later; `more` says whether the next page would take it.
    pub(super) fn leave(&mut self, record: &Stored, more: bool) {
        let stretch = self.0.get_mut(&record.topic);
        stretch
            .expect("each record is of a stretch")
            .leave(record.offset, more);
    }

    /// Whether the next page would find more.
    pub(super) fn more(&self) -> bool {
        self.0.values().any(|stretch| stretch.more)
    }

    /// Moves a cursor to where the next page goes on.
    pub(super) fn move_on(self, cursor: &mut Cursor) {
        for (topic, stretch) in self.0 {
            cursor.set(&topic, stretch.next);
        }
    }
}

/// How far a page came in one topic.
pub(super) struct Stretch {
    /// Where the next page goes on.
    next: u64,
    /// Whether it would find more.
    more: bool,
    left: bool,
}

impl Stretch {
    /// As far as it was read.
    pub(super) fn new(next: u64, more: bool) -> Self {
        let left = false;
        Self { next, more, left }
    }

    /// The first record not taken is where the next page begins.
    fn leave(&mut self, offset: u64, more: bool) {
        if !self.left || offset < self.next {
            *self = Self {
                next: offset,
                more,
                left: true,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidings_bus::Headers;
    use uuid::Uuid;

    use super::*;

    const MB: usize = 1 << 20;

    fn topic(number: usize) -> Topic {
        format!("topic.n{number:03}").parse().unwrap()
    }

    fn record(topic: &Topic, offset: u64, timestamp_ms: i64) -> Stored {
        Stored {
            topic: topic.clone(),
            partition: 0,
            offset,
            key: "acme".into(),
            tenant: "acme".parse().unwrap(),
            event_id: Uuid::now_v7(),
            timestamp_ms,
            headers: Headers::default(),
            value: Bytes::from(vec![b'x'; MB]),
        }
    }

    #[test]
    fn pages_over_many_topics_hold_so_much_and_lose_nothing() {
        // Five records of 1 MiB in each of 20 topics, whose times are interleaved.
        let (topics, each) = (20_usize, 5_u64);
        let time = |number: usize, offset: u64| {
            i64::try_from(offset).unwrap() * 7 + i64::try_from(number % 7).unwrap()
        };
        let mut cursor = Cursor::default();
        let mut seen: Vec<(i64, String, u64)> = Vec::new();
        loop {
            let mut gathered = Gathered::until(None);
            for topic in (0..topics).map(topic).enumerate() {
                let (number, topic) = topic;
                let from = cursor.offset(&topic).unwrap_or_default();
                let records = (from..each).map(|it| record(&topic, it, time(number, it)));
                gathered.add(topic.clone(), Stretch::new(each, false), records.collect());
                let held: usize = gathered.found.iter().map(|(_, it)| it.value.len()).sum();
                assert!(held <= MAX_HELD_BYTES, "{held}");
            }
            let (found, stretches) = gathered.in_order();
            let before = seen.len();
            seen.extend(found.map(|it| (it.timestamp_ms, it.topic.to_string(), it.offset)));
            assert!(seen.len() > before);
            let more = stretches.more();
            stretches.move_on(&mut cursor);
            if !more {
                break;
            }
        }
        assert_eq!(seen.len(), 100);
        assert!(seen.is_sorted(), "{seen:?}");
        seen.dedup();
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn what_is_left_first_is_where_the_next_page_begins() {
        let name = topic(0);
        let mut gathered = Gathered::until(Some(30));
        let records = (0..40).map(|offset| record(&name, offset, i64::try_from(offset).unwrap()));
        gathered.add(name.clone(), Stretch::new(40, false), records.collect());
        let (found, mut stretches) = gathered.in_order();
        let found: Vec<Stored> = found.collect();
        let end = found.last().unwrap().offset + 1;
        assert!((10..=16).contains(&end), "{end}");
        assert!(stretches.more());
        stretches.leave(&found[5], true);
        let mut cursor = Cursor::default();
        stretches.move_on(&mut cursor);
        assert_eq!(cursor.offset(&name), Some(5));
    }
}

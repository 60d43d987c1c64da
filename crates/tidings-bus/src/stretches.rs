//! Stretches of a log that cannot be read: thousands of records beside each other are one thing to tell of.

use std::collections::BTreeMap;

/// So many stretches are remembered; then all are forgotten, and told of again when they are met again.
const MOST: usize = 1_000;

/// What a record that cannot be read is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The first of a stretch: to be told of.
    Beginning,
    /// It stands right beside one that was met before: to be told of at the stretch's end.
    Within,
    /// It was met before.
    Again,
}

/// What has been met of partitions, each called by a `K`.
#[derive(Debug)]
pub struct Stretches<K> {
    /// By partition and first offset.
    known: BTreeMap<(K, u64), Stretch>,
    /// How many stretches are longer than was told of.
    open: usize,
}

#[derive(Debug)]
struct Stretch {
    last: u64,
    open: bool,
}

impl<K> Default for Stretches<K> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            open: 0,
        }
    }
}

impl<K: Ord + Clone> Stretches<K> {
    /// Whether the end of any stretch is to be told of.
    pub fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Takes in a record that cannot be read.
    pub fn meet(&mut self, partition: &K, offset: u64) -> Met {
        let ends_before = match self.before(partition, offset) {
            Some((_, stretch)) if stretch.last >= offset => return Met::Again,
            Some((first, stretch)) => (stretch.last + 1 == offset).then_some(first),
            None => None,
        };
        // Readers begin anywhere: what was met first may stand behind.
        let behind = (partition.clone(), offset.saturating_add(1));
        let beside = [
            ends_before.and_then(|first| self.known.remove(&(partition.clone(), first))),
            self.known.remove(&behind),
        ];
        let joins = beside.iter().flatten().count();
        self.open -= beside.iter().flatten().filter(|it| it.open).count();
        if joins == 0 && self.known.len() >= MOST {
            *self = Self::default();
        }
        let [_, behind] = beside;
        let stretch = Stretch {
            last: behind.map_or(offset, |it| it.last),
            open: joins > 0,
        };
        self.open += usize::from(stretch.open);
        let first = ends_before.unwrap_or(offset);
        self.known.insert((partition.clone(), first), stretch);
        if joins > 0 {
            Met::Within
        } else {
            Met::Beginning
        }
    }

    /// Takes in that the log can be read at an offset. The first and the last offset of the stretch before it, if it has
    /// several records and this is not known yet. Between them may be offsets without a record.
    pub fn end(&mut self, partition: &K, offset: u64) -> Option<(u64, u64)> {
        let before = offset.checked_sub(1).filter(|_| self.is_open())?;
        let (first, stretch) = self.before(partition, before)?;
        if stretch.last > before || !std::mem::take(&mut stretch.open) {
            return None;
        }
        let last = stretch.last;
        self.open -= 1;
        Some((first, last))
    }

    /// The last stretch of a partition that begins at an offset or before.
    fn before(&mut self, partition: &K, offset: u64) -> Option<(u64, &mut Stretch)> {
        let until = ..=(partition.clone(), offset);
        let ((of, first), stretch) = self.known.range_mut(until).next_back()?;
        (of == partition).then_some((*first, stretch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_told_of_where_it_begins_and_once_with_its_bounds() {
        let mut stretches = Stretches::default();
        let met: Vec<Met> = (10..5_010).map(|at| stretches.meet(&"a", at)).collect();
        assert_eq!(met[0], Met::Beginning);
        assert!(met[1..].iter().all(|it| *it == Met::Within));
        assert_eq!(stretches.end(&"b", 5_010), None);
        assert_eq!(stretches.end(&"a", 5_009), None, "it goes on");
        assert_eq!(stretches.end(&"a", 5_010), Some((10, 5_009)));
        assert_eq!(stretches.end(&"a", 5_010), None);
        // Whoever comes later meets nothing new.
        assert_eq!(stretches.meet(&"a", 10), Met::Again);
        assert_eq!(stretches.meet(&"a", 5_009), Met::Again);
        assert!(!stretches.is_open());
        // One that grows is told of again, whole.
        assert_eq!(stretches.meet(&"a", 5_010), Met::Within);
        assert_eq!(stretches.end(&"a", 5_011), Some((10, 5_010)));
    }

    #[test]
    fn a_stretch_that_is_met_from_its_middle_has_its_own_bounds() {
        let mut stretches = Stretches::default();
        let met = [12, 13, 10, 11, 12].map(|at| stretches.meet(&0, at));
        let [beginning, within] = [Met::Beginning, Met::Within];
        assert_eq!(met, [beginning, within, beginning, within, Met::Again]);
        assert_eq!(stretches.end(&0, 14), Some((10, 13)));
        assert!(!stretches.is_open());
        assert_eq!([9, 8].map(|at| stretches.meet(&0, at)), [within, within]);
        assert_eq!(stretches.end(&0, 14), Some((8, 13)));
    }

    #[test]
    fn a_stretch_ends_before_an_offset_that_no_record_has() {
        let mut stretches = Stretches::default();
        for offset in 10..20 {
            stretches.meet(&0, offset);
        }
        assert_eq!(stretches.end(&0, 21), Some((10, 19)));
        assert!(!stretches.is_open());
    }

    #[test]
    fn one_record_has_no_bounds_to_tell_of() {
        let mut stretches = Stretches::default();
        for (partition, offset) in [(1, 0), (1, 5), (2, 1), (2, 6)] {
            assert_eq!(stretches.meet(&partition, offset), Met::Beginning);
            assert_eq!(stretches.end(&partition, offset + 1), None);
        }
        assert_eq!(stretches.end(&1, 0), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut stretches = Stretches::default();
        for offset in (0..10 * MOST as u64).map(|it| it * 2) {
            assert_eq!(stretches.meet(&0, offset), Met::Beginning);
            assert!(stretches.known.len() <= MOST);
        }
    }
}

//! Stretches of a log that cannot be read: thousands of records beside each other are one thing to tell of.

use std::collections::BTreeMap;

/// So many stretches are remembered; then all are forgotten, and told of again when they are met again.
const MOST: usize = 1_000;

/// What a record that cannot be read is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The first of a stretch: to be told of.
    Beginning,
    /// It stands right behind one that was met before: to be told of at the stretch's end.
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
        if let Some((_, stretch)) = self.before(partition, offset) {
            if stretch.last >= offset {
                return Met::Again;
            }
            if stretch.last + 1 == offset {
                stretch.last = offset;
                let opened = !std::mem::replace(&mut stretch.open, true);
                self.open += usize::from(opened);
                return Met::Within;
            }
        }
        if self.known.len() >= MOST {
            *self = Self::default();
        }
        let alone = Stretch {
            last: offset,
            open: false,
        };
        self.known.insert((partition.clone(), offset), alone);
        Met::Beginning
    }

    /// Takes in that the log can be read from an offset on. The first and the last offset of the stretch that ends right
    /// before it, if it has several records and this is not known yet.
    pub fn end(&mut self, partition: &K, offset: u64) -> Option<(u64, u64)> {
        let last = offset.checked_sub(1).filter(|_| self.is_open())?;
        let (first, stretch) = self.before(partition, last)?;
        if stretch.last != last || !std::mem::take(&mut stretch.open) {
            return None;
        }
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

//! Maps by ids that Tidings gives out itself: nobody can choose them so that they meet in one place of a map, so a quick hash
//! will do, of which a delivery takes some forty.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

/// A map by an id, or by something with an id in it.
pub(crate) type IdMap<K, V> = HashMap<K, V, RandomState>;

/// A set of them.
pub(crate) type IdSet<K> = HashSet<K, RandomState>;

//! Which filters may want an event of a type: a tree of segments for each tenant, so that the cost of asking
//! does not grow with the filters of other tenants or of other types.

use std::collections::HashMap;

use tidings_event::{EventType, TenantId, TypePattern};

/// Filters by tenant and type pattern. `K` names a filter.
#[derive(Debug, Clone)]
pub struct Index<K> {
    tenants: HashMap<TenantId, Node<K>>,
}

#[derive(Debug, Clone)]
struct Node<K> {
    children: HashMap<Box<str>, Node<K>>,
    /// Patterns that end here.
    here: Vec<K>,
    /// Patterns that go on with `**`.
    rest: Vec<K>,
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self {
            children: HashMap::new(),
            here: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self {
            tenants: HashMap::new(),
        }
    }
}

impl<K: Clone + Ord> Index<K> {
    /// Adds a filter under its patterns. No pattern stands for every type.
    pub fn insert(&mut self, tenant: &TenantId, patterns: &[TypePattern], key: &K) {
        let root = self.tenants.entry(tenant.clone()).or_default();
        if patterns.is_empty() {
            root.rest.push(key.clone());
        }
        for pattern in patterns {
            let mut node = &mut *root;
            let mut whole = true;
            for segment in pattern.segments() {
                if segment == "**" {
                    whole = false;
                    break;
                }
                node = node.children.entry(segment.into()).or_default();
            }
            if whole {
                &mut node.here
            } else {
                &mut node.rest
            }
            .push(key.clone());
        }
    }

    /// Takes a filter out again, from under the patterns it was added with.
    pub fn remove(&mut self, tenant: &TenantId, patterns: &[TypePattern], key: &K) {
        let Some(root) = self.tenants.get_mut(tenant) else {
            return;
        };
        if patterns.is_empty() {
            root.rest.retain(|other| other != key);
        }
        for pattern in patterns {
            let segments: Vec<&str> = pattern.segments().collect();
            root.take(&segments, key);
        }
        if root.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    /// The tenants that have filters.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.tenants.keys()
    }

    /// Every filter of the tenant one of whose patterns fits the type, each once, in the order of the keys.
    pub fn wanting(&self, tenant: &TenantId, event_type: &EventType) -> Vec<K> {
        let mut found = Vec::new();
        if let Some(root) = self.tenants.get(tenant) {
            let segments: Vec<&str> = event_type.segments().collect();
            root.gather(&segments, &mut found);
            found.sort_unstable();
            found.dedup();
        }
        found
    }
}

impl<K: Clone + Ord> Node<K> {
    fn gather(&self, segments: &[&str], into: &mut Vec<K>) {
        into.extend_from_slice(&self.rest);
        let Some((segment, rest)) = segments.split_first() else {
            return;
        };
        for child in [segment, "*"] {
            match self.children.get(child) {
                None => {}
                Some(child) if rest.is_empty() => into.extend_from_slice(&child.here),
                Some(child) => child.gather(rest, into),
            }
        }
    }

    fn take(&mut self, segments: &[&str], key: &K) {
        let Some((segment, rest)) = segments.split_first() else {
            return;
        };
        if *segment == "**" {
            self.rest.retain(|other| other != key);
            return;
        }
        let Some(child) = self.children.get_mut(*segment) else {
            return;
        };
        if rest.is_empty() {
            child.here.retain(|other| other != key);
        } else {
            child.take(rest, key);
        }
        if child.is_empty() {
            self.children.remove(*segment);
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns() -> impl Strategy<Value = Vec<TypePattern>> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("*")];
        let pattern = (prop::collection::vec(segment, 1..4), any::<bool>());
        let pattern = pattern.prop_map(|(mut segments, open)| {
            if open {
                segments.push("**");
            }
            segments.join(".").parse().unwrap()
        });
        let whole = prop_oneof![Just("CUSTOM_EVENT_A"), Just("TENANT_CUSTOM:x:a.b@1.0.0")];
        let whole = whole.prop_map(|name| name.parse().unwrap());
        prop::collection::vec(prop_oneof![4 => pattern, 1 => whole], 0..3)
    }

    fn event_type() -> impl Strategy<Value = EventType> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("c")];
        let segments = prop::collection::vec(segment, 2..5);
        let dotted = segments.prop_map(|segments| segments.join("."));
        let whole = prop_oneof![Just("CUSTOM_EVENT_A"), Just("TENANT_CUSTOM:x:a.b@1.0.0")];
        let text = prop_oneof![4 => dotted, 1 => whole.prop_map(str::to_owned)];
        text.prop_map(|text| EventType::recorded(&text).unwrap())
    }

    proptest! {
        #[test]
        fn the_index_finds_what_asking_each_filter_finds(
            filters in prop::collection::vec(patterns(), 0..8),
            removed in prop::collection::vec(any::<bool>(), 8),
            asked in event_type(),
        ) {
            let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
            let mut index = Index::default();
            for (key, patterns) in filters.iter().enumerate() {
                index.insert(&acme, patterns, &key);
            }
            for (key, patterns) in filters.iter().enumerate().filter(|(key, _)| removed[*key]) {
                index.remove(&acme, patterns, &key);
            }
            let wants = |patterns: &Vec<TypePattern>| {
                patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&asked))
            };
            let expected: Vec<usize> = (0..filters.len())
                .filter(|key| !removed[*key] && wants(&filters[*key]))
                .collect();
            prop_assert_eq!(index.wanting(&acme, &asked), expected);
            prop_assert!(index.wanting(&globex, &asked).is_empty());
            if (0..filters.len()).all(|key| removed[key]) {
                prop_assert!(index.tenants.is_empty());
            }
        }
    }
}

//! How a validator goes through a schema: from place to place, by what each contains and refers to.

use std::collections::HashMap;

use serde_json::Value;

use crate::custom::vocabulary::{IN_PLACE, asserts, subschemas};
use crate::reference::pointer_of;

/// What is found on the way through places that lead to others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// The most ways there are from one place to those that it leads to in the end, itself among them.
    pub(crate) count: usize,
    /// The most places that follow one another.
    pub(crate) chain: usize,
    /// Each place that leads to one on the way to it, with that one. Such a step is left out of what is counted.
    pub(crate) back: Vec<(usize, usize)>,
}

/// Goes from these places to those that each leads to, children first.
pub(crate) fn ways(edges: &[Vec<usize>], from: impl IntoIterator<Item = usize>) -> Ways {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        Open,
        Done { count: usize, chain: usize },
    }
    let mut seen = vec![Seen::Not; edges.len()];
    let mut found = Ways::default();
    for start in from {
        if seen[start] != Seen::Not {
            continue;
        }
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.pop() {
            seen[at] = Seen::Open;
            if let Some(&below) = edges[at].get(next) {
                stack.push((at, next + 1));
                match seen[below] {
                    Seen::Open => found.back.push((at, below)),
                    Seen::Not => stack.push((below, 0)),
                    Seen::Done { .. } => {}
                }
                continue;
            }
            let (mut count, mut chain) = (1_usize, 1);
            for below in &edges[at] {
                if let Seen::Done {
                    count: more,
                    chain: longer,
                } = seen[*below]
                {
                    count = count.saturating_add(more);
                    chain = chain.max(longer + 1);
                }
            }
            seen[at] = Seen::Done { count, chain };
            found.count = found.count.max(count);
            found.chain = found.chain.max(chain);
        }
    }
    found
}

/// The places of a schema at which a validator may come by, and where each leads.
#[derive(Debug, Default)]
pub(crate) struct Places<'d> {
    schemas: Vec<&'d Value>,
    all: Vec<Vec<usize>>,
    in_place: Vec<Vec<usize>>,
    /// By what they were first referred to, if they were.
    names: Vec<Option<String>>,
}

impl<'d> Places<'d> {
    pub(crate) fn of(document: &'d Value) -> Self {
        let mut places = Self::default();
        let mut known: HashMap<*const Value, usize> = HashMap::new();
        let mut schemas = vec![document];
        known.insert(document, 0);
        let mut at = 0;
        while let Some(&schema) = schemas.get(at) {
            places.names.resize(schemas.len(), None);
            let (mut all, mut in_place) = (Vec::new(), Vec::new());
            let mut leads = |below: &'d Value, same_value| {
                let index = *known.entry(std::ptr::from_ref(below)).or_insert_with(|| {
                    schemas.push(below);
                    schemas.len() - 1
                });
                all.push(index);
                if same_value {
                    in_place.push(index);
                }
                index
            };
            if let Value::Object(members) = schema {
                for (place, part) in subschemas(members) {
                    let keyword = place.split('/').nth(1).unwrap_or_default();
                    if asserts(keyword) {
                        leads(part, IN_PLACE.contains(&keyword));
                    }
                }
                let target = members.get("$ref").and_then(Value::as_str);
                let target = target.and_then(pointer_of);
                let named = target.and_then(|pointer| Some((document.pointer(&pointer)?, pointer)));
                if let Some((part, pointer)) = named {
                    let index = leads(part, true);
                    places.names.resize(schemas.len(), None);
                    places.names[index].get_or_insert(pointer);
                }
            }
            places.all.push(all);
            places.in_place.push(in_place);
            at += 1;
        }
        places.schemas = schemas;
        places
    }

    /// All ways through the schema.
    pub(crate) fn ways(&self) -> Ways {
        ways(&self.all, [0])
    }

    /// The ways that one value goes, without those of its members and items.
    pub(crate) fn ways_in_place(&self) -> Ways {
        ways(&self.in_place, 0..self.in_place.len())
    }

    /// The schema at a place.
    pub(crate) fn schema(&self, place: usize) -> &'d Value {
        self.schemas[place]
    }

    /// What refers to a place calls it so.
    pub(crate) fn name(&self, place: usize) -> Option<&str> {
        self.names[place].as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ways_multiply_and_a_step_back_is_told_and_left_out() {
        let doubled = [vec![1, 1], vec![2, 2], vec![]];
        let found = ways(&doubled, [0]);
        assert_eq!((found.count, found.chain, found.back), (7, 3, vec![]));
        let ring = [vec![1], vec![0]];
        let found = ways(&ring, [0]);
        assert_eq!((found.count, found.chain, found.back), (2, 2, vec![(1, 0)]));
    }

    #[test]
    fn recursion_through_a_member_is_no_step_back_in_place() {
        let tree = json!({ "$ref": "#/$defs/node", "$defs": { "node": {
            "properties": { "left": { "$ref": "#/$defs/node" }, "right": { "$ref": "#/$defs/node" } },
        } } });
        let places = Places::of(&tree);
        assert_eq!(places.ways_in_place().back, []);
        assert!(!places.ways().back.is_empty());
        let ring = json!({ "$ref": "#/$defs/a", "$defs": {
            "a": { "allOf": [{ "$ref": "#/$defs/b" }] }, "b": { "$ref": "#/$defs/a" },
        } });
        let places = Places::of(&ring);
        let (_, back) = places.ways_in_place().back[0];
        assert_eq!(places.name(back), Some("/$defs/a"));
    }
}

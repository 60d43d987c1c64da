//! What arrays are held to: sizes, items by position, and items that must be among them.

use serde_json::Value;

use super::numbers::Side;
use super::objects::is_plain;
use super::{ANYTHING, Judge, NOTHING, Place};

impl<'s> Judge<'s> {
    pub(super) fn arrays(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        self.size(old, new, "minItems", Side::Least);
        self.size(old, new, "maxItems", Side::Most);
        if new.get("uniqueItems") == Some(&Value::Bool(true)) {
            let most = most_items(old);
            let promised = |old: &Place<'_>| old.get("uniqueItems") == Some(&Value::Bool(true));
            if !old.iter().any(promised) && most.is_none_or(|most| most > 1) {
                self.gap(new, "/uniqueItems", "items must be distinct now");
            }
        }
        self.items(old, new);
        self.contained(old, new);
    }

    /// Position by position, as far as any schema names positions, and then all the rest.
    fn items(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let prefix = |place: &Place<'s>| place.parts("prefixItems");
        let longest = old
            .iter()
            .chain([new])
            .map(|place| prefix(place).len())
            .max()
            .unwrap_or(0);
        let most = most_items(old);
        let reached = |position: usize| most.is_none_or(|most| most > position as u64);
        for position in (0..longest).filter(|position| reached(*position)) {
            let Some(asked) = prefix(new).into_iter().nth(position).or_else(|| rest(new)) else {
                continue;
            };
            let promised: Vec<Place<'s>> = old
                .iter()
                .filter_map(|old| prefix(old).into_iter().nth(position).or_else(|| rest(old)))
                .collect();
            self.item(&promised, &asked, new);
        }
        if let Some(asked) = rest(new) {
            if reached(longest) {
                let promised: Vec<Place<'s>> = old.iter().filter_map(rest).collect();
                self.item(&promised, &asked, new);
            }
            return;
        }
        // What is left over begins where the new schema's own list ends, however long the old one's is.
        let left_over = new.get("unevaluatedItems");
        if reached(prefix(new).len()) && left_over.is_some_and(|rest| rest != &ANYTHING) {
            self.gap(
                new,
                "/unevaluatedItems",
                "which items are left over cannot be compared",
            );
        }
    }

    fn item(&mut self, promised: &[Place<'s>], asked: &Place<'s>, new: &Place<'s>) {
        if promised.is_empty() {
            return self.covers(&[new.instead(&ANYTHING)], asked);
        }
        self.covers(promised, asked);
    }

    fn contained(&mut self, old: &[Place<'s>], new: &Place<'s>) {
        let Some(asked) = new.part("contains") else {
            return;
        };
        let least = new
            .get("minContains")
            .and_then(Value::as_f64)
            .unwrap_or(1.0);
        let most = new.get("maxContains").and_then(Value::as_f64);
        if least <= 0.0 && most.is_none() {
            return;
        }
        let shown = old.iter().any(|old| {
            let Some(promised) = old.part("contains") else {
                return false;
            };
            let its_least = old
                .get("minContains")
                .and_then(Value::as_f64)
                .unwrap_or(1.0);
            let its_most = old.get("maxContains").and_then(Value::as_f64);
            let few = most.is_none_or(|most| its_most.is_some_and(|its| its <= most));
            // Fewer may count only where the same items do; more may where there is no upper bound.
            let same = self.same(&promised, &asked);
            let one = std::slice::from_ref(&promised);
            let wider = most.is_none() && (same || self.silently(one, &asked));
            its_least >= least && few && (same || wider)
        });
        if !shown {
            self.gap(
                new,
                "/contains",
                "which items an array must contain is asked for anew",
            );
        }
    }
}

/// The most items that these schemas let an array have.
fn most_items(schemas: &[Place<'_>]) -> Option<u64> {
    let most = |place: &Place<'_>| {
        let most = place.get("maxItems").and_then(Value::as_u64);
        let closed = rest(place).is_some_and(|rest| rest.schema == &NOTHING);
        let listed = closed.then(|| place.parts("prefixItems").len() as u64);
        most.into_iter().chain(listed).min()
    };
    schemas.iter().filter_map(most).min()
}

/// What the items after the listed ones are held to.
fn rest<'s>(place: &Place<'s>) -> Option<Place<'s>> {
    let plain = is_plain(place) && place.get("contains").is_none();
    place
        .part("items")
        .or_else(|| place.part("unevaluatedItems").filter(|_| plain))
}
